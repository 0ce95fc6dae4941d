"""What keeps the balancers from having certificates issued, refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _acme_problems

SETTINGS: dict[str, Any] = {
    "acme_terms_accepted": True,
    "acme_mail": "hostmaster@example.com",
    "acme_url": "https://acme-v02.api.letsencrypt.org/directory",
    "acme_renew_days": 30,
    "acme_takeover_days": 5,
    "acme_address": "192.0.2.1",
    "acme_balancers": [{"name": name, "address": f"192.0.2.{n}"} for n, name in enumerate(("lb1", "lb2"), 1)],
    "tls_alarm_days": 14,
}


def acme_problems(settings: dict[str, Any], names: list[str]) -> list[str]:
    return list(_acme_problems.problems(settings, names))


@pytest.mark.parametrize("name", ["www.example.com", "example.com.", "bücher.example", "a-1.example.com"])
def test_good_settings(name: str) -> None:
    assert acme_problems(SETTINGS, [name]) == []
    assert acme_problems(SETTINGS | {"acme_url": "https://acme.internal:14000/dir"}, [name]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acme_terms_accepted": False}, "lb_nginx_acme_terms_accepted must be true"),
        ({"acme_mail": ""}, "lb_nginx_acme_mail is empty"),
        ({"acme_mail": "nobody"}, "lb_nginx_acme_mail is no mail address: 'nobody'"),
        ({"acme_mail": 'a"$(id)@example.com'}, "lb_nginx_acme_mail is no mail address"),
        ({"acme_url": "http://acme.example/dir"}, "lb_nginx_acme_url is no https:// address"),
        ({"acme_url": 'https://a/$(id)"'}, "lb_nginx_acme_url is no https:// address"),
        ({"acme_address": "192.0.2.9"}, "lb_nginx_acme_balancers lacks lb_nginx_acme_address '192.0.2.9'"),
        ({"acme_balancers": []}, "lb_nginx_acme_address '192.0.2.1': it lists nobody"),
        ({"acme_balancers": SETTINGS["acme_balancers"] * 2, "acme_renew_days": 60}, "has an address twice"),
        ({"acme_takeover_days": 0}, "lb_nginx_acme_takeover_days must be above 0"),
        ({"acme_takeover_days": 16}, "lb_nginx_tls_alarm_days 14 would alarm before the last balancer renews, 14 days"),
    ],
)
def test_a_problem_names_the_variable(change: dict[str, Any], message: str) -> None:
    (problem,) = acme_problems(SETTINGS | change, ["www.example.com"])
    assert message in problem


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("*.example.com", "is a wildcard, which an authority certifies by DNS only"),
        ("192.0.2.1", "is an address, not a name"),
        ("localhost", "has no domain"),
        ("a_b.example.com", "is no host name"),
        ("a..example.com", "has no domain"),
    ],
)
def test_names_that_no_web_server_can_prove(name: str, reason: str) -> None:
    (problem,) = acme_problems(SETTINGS, ["www.example.com", name])
    assert problem.startswith(f"lb_nginx_server_names: {name} {reason}")

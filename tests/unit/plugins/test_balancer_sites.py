"""The sites of a balancer: completed from the role's inputs, and refused by name when they cannot work."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _balancer_sites
from hypothesis import given
from hypothesis import strategies as st

SITE: dict[str, Any] = {
    "name": "site",
    "server_names": ["www.example.com"],
    "methods": ["GET"],
    "backends": [{"name": "app1", "address": "192.0.2.1", "port": 8000}],
    "locations": [],
    "probe_path": "/-/health",
    "security_headers": {},
    "cache_key": "$scheme://$host$request_uri",
    "cache_methods": ["GET"],
    "maintenance_page_file": "",
    "tls_certificate_file": "a.crt",
    "tls_key_file": "a.key",
    "tls_chain_required": True,
}


def balancer_problems(
    sites: list[dict[str, Any]], several: bool = True, texts: dict[str, str] | None = None
) -> list[str]:
    """texts: the files that are there; without them the certificates are not the user's."""
    pairs = {
        site["name"]: tuple((texts or {}).get(site[f"tls_{key}_file"], "") for key in ("certificate", "key"))
        for site in sites
    }
    return _balancer_sites.problems(sites, several, texts or {}, None if texts is None else pairs)


def test_without_entries_the_inputs_are_the_site() -> None:
    assert _balancer_sites.sites(SITE, []) == [SITE]


def test_an_entry_takes_what_it_leaves_out_from_the_inputs() -> None:
    shop, blog = _balancer_sites.sites(SITE, [{"name": "shop"}, {"name": "blog", "methods": ["GET", "POST"]}])
    assert shop == {**SITE, "name": "shop"}
    assert (blog["name"], blog["methods"], blog["probe_path"]) == ("blog", ["GET", "POST"], "/-/health")


def test_a_text_is_read_as_the_boolean_that_it_means() -> None:
    entry = {"cache_enabled": "no", "locations": [{"path": "/a/", "websocket": "true", "streaming": "off"}]}
    (site,) = _balancer_sites.sites({**SITE, "tls_chain_required": "yes"}, [entry])
    assert (site["cache_enabled"], site["tls_chain_required"]) == (False, True)
    assert site["locations"] == [{"path": "/a/", "websocket": True, "streaming": False}]


def test_a_good_site_has_no_problem() -> None:
    assert balancer_problems([SITE], several=False) == []


APP = SITE["backends"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Shop"}, "name: 'Shop' is not made of"),
        ({"server_names": []}, "lb_nginx_server_names is empty"),
        ({"methods": []}, "lb_nginx_methods is empty"),
        ({"backends": []}, "lb_nginx_backends is empty"),
        ({"backends": [APP, APP]}, "lb_nginx_backends: two servers have the name app1"),
        ({"backends": [APP | {"name": "a; evil"}]}, "the name 'a; evil' is not made of"),
        ({"backends": [APP | {"address": "app1.internal"}]}, "the address of app1 is no IPv4 or IPv6 address"),
        ({"backends": [APP | {"port": 80000}]}, "the port of app1 is not between 1 and 65535: 80000"),
        ({"probe_path": "health"}, "lb_nginx_probe_path: 'health' is no path"),
        ({"locations": [{"path": "ws/"}]}, "lb_nginx_locations: 'ws/' is no path"),
        ({"locations": [{"path": "/a/ {"}]}, "lb_nginx_locations: '/a/ {' is no path"),
        ({"locations": [{"path": "/a/"}, {"path": "/a/"}]}, "lb_nginx_locations: /a/ stands more than once"),
        ({"locations": [{"path": "/"}]}, "lb_nginx_locations: what holds for / is an input of the site"),
        ({"security_headers": {"X-A": "a\r\nX-B: b"}}, "lb_nginx_security_headers: X-A has a line break"),
        ({"security_headers": {"X-A": "\0"}}, "lb_nginx_security_headers: X-A has a line break"),
        ({"security_headers": {"X A": "a"}}, "lb_nginx_security_headers: 'X A' is no name of a header"),
        ({"cache_key": "$request_uri"}, "lb_nginx_cache_key lacks $webstack_host"),
        ({"cache_key": "$hostname$request_uri"}, "lb_nginx_cache_key lacks $webstack_host"),
        ({"cache_methods": ["POST"]}, "cache_methods has POST, so cache_key needs $request_body"),
        ({"maintenance_page_file": "no.html"}, "lb_nginx_maintenance_page_file names no file on the controller"),
    ],
)
def test_a_problem_names_the_input(change: dict[str, Any], message: str) -> None:
    (problem,) = balancer_problems([SITE | change], several=False)
    assert message in problem
    assert problem.startswith("lb_nginx_")


def test_a_problem_names_the_entry() -> None:
    sites = [
        SITE,
        SITE | {"name": "shop"},
        SITE | {"name": "shop", "server_names": ["shop.example.com"], "methods": []},
    ]
    assert balancer_problems(sites) == [
        "lb_nginx_sites: two sites have the name shop",
        "lb_nginx_sites[shop].server_names: www.example.com belongs to site, too",
        "lb_nginx_sites[shop].methods is empty",
    ]


def test_missing_certificates_are_named() -> None:
    assert balancer_problems([SITE], False, {"a.crt": ""}) == [
        "lb_nginx_tls_key_file names no file on the controller: 'a.key'"
    ]


def test_certificates_are_looked_at() -> None:
    (problem,) = balancer_problems([SITE], False, {"a.crt": "no certificate", "a.key": "no key"})
    assert "lb_nginx_tls_" in problem


@pytest.mark.parametrize(
    "value", ['geolocation=(self "https://a.example")', "script-src 'nonce-a'; report-uri /r", "a\tb", "", "0"]
)
def test_a_header_may_hold_what_headers_hold(value: str) -> None:
    assert balancer_problems([SITE | {"security_headers": {"X-A": value, "X_B": value}}], several=False) == []


@given(st.text())
def test_a_quoted_text_ends_where_it_ends_and_names_no_variable(text: str) -> None:
    quoted = _balancer_sites.nginx_text(text)
    inside = re.sub(r"\\(.)", lambda match: match[1], quoted[1:-1], flags=re.DOTALL)
    assert re.fullmatch(r'"(?:[^"\\]|\\.)*"', quoted, re.DOTALL)
    assert inside.replace(_balancer_sites.DOLLAR, "$") == text
    assert "$" not in inside.replace(_balancer_sites.DOLLAR, "")


SIZES = st.integers(1, 10**12)


@given(SIZES, st.sampled_from(["", "k", "M", "g"]), st.integers(0, 10**21))
def test_a_size_pattern_matches_what_is_larger(size: int, unit: str, number: int) -> None:
    limit = size * {"": 1, "k": 1 << 10, "M": 1 << 20, "g": 1 << 30}[unit]
    pattern = re.compile(_balancer_sites.longer_than(f"{size}{unit}"))
    for candidate in (number, limit - 1, limit, limit + 1, limit * 10, limit // 10):
        assert bool(pattern.search(str(candidate))) == (candidate > limit)


def test_a_size_of_nothing_is_no_limit_and_no_size_is_refused() -> None:
    assert not re.search(_balancer_sites.longer_than(0), "1000000000000")
    for size in ("32 MB", "-1", "", "1t"):
        with pytest.raises(ValueError, match="is no size in nginx's notation"):
            _balancer_sites.longer_than(size)

"""The sites of a balancer: completed from the role's inputs, and refused by name when they cannot work."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.filter.balancer import balancer_problems
from ansible_collections.webstack.ha.plugins.module_utils import _balancer_sites

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


def test_without_entries_the_inputs_are_the_site() -> None:
    assert _balancer_sites.sites(SITE, []) == [SITE]


def test_an_entry_takes_what_it_leaves_out_from_the_inputs() -> None:
    shop, blog = _balancer_sites.sites(SITE, [{"name": "shop"}, {"name": "blog", "methods": ["GET", "POST"]}])
    assert shop == {**SITE, "name": "shop"}
    assert (blog["name"], blog["methods"], blog["probe_path"]) == ("blog", ["GET", "POST"], "/-/health")


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
        ({"security_headers": {"X-A": 'say "hi"'}}, "lb_nginx_security_headers: X-A has a character"),
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
    assert balancer_problems([SITE], False, ["a.crt"], []) == [
        "lb_nginx_tls_key_file names no file on the controller: 'a.key'"
    ]


def test_certificates_are_looked_at() -> None:
    (problem,) = balancer_problems([SITE], False, ["a.crt", "a.key"], ["no certificate"], ["no key"])
    assert "lb_nginx_tls_" in problem


def test_files_take_a_name_each() -> None:
    assert _balancer_sites.named_files(["a", "b"], ["1\n", "2"], "/x/%s.key", mode="0600") == [
        {"dest": "/x/a.key", "content": "1\n", "mode": "0600"},
        {"dest": "/x/b.key", "content": "2\n", "mode": "0600"},
    ]
    assert _balancer_sites.named_files(["a"], ["p.html"], "/x/%s.html", key="src") == [
        {"dest": "/x/a.html", "src": "p.html"}
    ]

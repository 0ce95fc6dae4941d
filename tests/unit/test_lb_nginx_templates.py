"""One value, several dialects: names and addresses as nginx, the probes and the health listener want them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rendering import render


def balancer(**variables: Any) -> Any:
    inputs = {"lb_nginx_backends": [], **variables}
    return json.loads(render("lb_nginx", "balancer.json.j2", inputs))


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["www.shop.test", "*.shop.test"], "www.shop.test"),
        (["*.shop.test"], "www.shop.test"),
        ([".shop.test"], "www.shop.test"),
    ],
)
def test_probes_ask_with_a_name_that_a_host_header_can_hold(names: list[str], host: str) -> None:
    assert balancer(lb_nginx_server_names=names)["sites"][0]["health_host"] == host


@pytest.mark.parametrize(("address", "written"), [("127.0.0.1", "127.0.0.1:8089"), ("::1", "[::1]:8089")])
def test_the_health_listener_takes_either_kind_of_address(address: str, written: str) -> None:
    inputs = {"lb_nginx_health_address": address, "lb_nginx_server_names": ["a.test"], "__lb_nginx_generation": "x"}
    assert balancer(**inputs)["local"] == written
    assert f"listen {written};" in render("lb_nginx", "health.conf.j2", inputs)

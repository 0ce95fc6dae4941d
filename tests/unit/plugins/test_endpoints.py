"""webstack.ha.endpoints."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.filter.endpoints import FilterModule

endpoints = FilterModule().filters()["endpoints"]

HOSTVARS: dict[str, dict[str, Any]] = {
    "was1": {"webstack_address": "192.0.2.21"},
    "was2": {"webstack_address": "2001:DB8::2"},
    "bare": {},
    "empty": {"webstack_address": " "},
    "wrong": {"webstack_address": "192.0.2.300"},
    "masked": {"webstack_address": "192.0.2.21/24"},
}


def test_order_is_kept_and_addresses_are_normal() -> None:
    assert endpoints(["was2", "was1"], HOSTVARS, "8000") == [
        {"name": "was2", "address": "2001:db8::2", "port": 8000},
        {"name": "was1", "address": "192.0.2.21", "port": 8000},
    ]


def test_no_hosts_give_no_endpoints() -> None:
    assert endpoints([], HOSTVARS, 80) == []


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("bare", "webstack_address of host bare is not set"),
        ("empty", "webstack_address of host empty is not set"),
        ("wrong", "webstack_address of host wrong is no IP address: '192.0.2.300'"),
        ("masked", "webstack_address of host masked is no IP address"),
        ("other", "host other is not in the inventory"),
    ],
)
def test_errors_name_host_and_variable(host: str, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        endpoints(["was1", host], HOSTVARS, 80)


@pytest.mark.parametrize("port", [0, 65536, "http", None, True])
def test_a_port_is_a_port(port: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="is no port"):
        endpoints(["was1"], HOSTVARS, port)


def test_a_single_name_is_no_list() -> None:
    with pytest.raises(AnsibleFilterError, match="expected a list of hosts, got str"):
        endpoints("was1", HOSTVARS, 80)

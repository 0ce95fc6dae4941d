"""The rules of the roles: what they say of settings that cannot work."""

from __future__ import annotations

from typing import Any

import pytest
import rendering
from ansible_collections.webstack.ha.plugins.module_utils.rules import vip_failover
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem, collect, said

PAIR = [{"name": "lb1", "address": "192.0.2.11"}, {"name": "lb2", "address": "192.0.2.12"}]

#: Role -> inputs with which it has nothing to refuse.
GOOD: dict[str, dict[str, Any]] = {
    "vip_failover": {
        "vip_failover_addresses": ["192.0.2.100/24"],
        "vip_failover_address": "192.0.2.11",
        "vip_failover_peers": PAIR,
    },
    "backup_slave": {"backup_slave_password": "p" * 20, "backup_slave_nodes": []},
    "shared_media": {"shared_media_peers": [{"name": "host1", "address": "192.0.2.21"}], "shared_media_device_ids": {}},
    "was_django": {
        "was_django_source": {"type": "directory", "path": "../shop"},
        "was_django_settings_module": "shop.settings",
        "was_django_secret_key": "k" * 40,
        "was_django_allowed_hosts": ["www.example.com"],
        "was_django_database_host": "192.0.2.101",
        "was_django_database_password": "p" * 20,
    },
}

#: Role, what is changed, and the words of the refusal.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("vip_failover", {"vip_failover_addresses": []}, "vip_failover_addresses is empty"),
    ("vip_failover", {"vip_failover_addresses": ["192.0.2.100"]}, "vip_failover_addresses needs address/prefix"),
    ("vip_failover", {"vip_failover_addresses": "192.0.2.100/24"}, "vip_failover_addresses: must be a list"),
    ("vip_failover", {"vip_failover_addresses": None}, "vip_failover_addresses: has no value"),
    ("vip_failover", {"vip_failover_peers": []}, "vip_failover_peers names no other balancer"),
    ("vip_failover", {"vip_failover_check_url": "https://x/"}, "vip_failover_check_url is no http:// URL"),
    ("vip_failover", {"vip_failover_router_id": "300"}, "vip_failover_router_id is not within 1-255"),
    ("vip_failover", {"vip_failover_advert_interval_seconds": 60}, "is not within 0.01-40"),
    ("vip_failover", {"vip_failover_drain_seconds": -1}, "vip_failover_drain_seconds is negative"),
    ("vip_failover", {"vip_failover_check_fall": 0}, "vip_failover_check_fall is not positive"),
    ("vip_failover", {"vip_failover_engine": "hook"}, "vip_failover_hook_command is empty"),
    ("vip_failover", {"vip_failover_engine": "magic"}, "vip_failover_engine: must be one of"),
    (
        "vip_failover",
        {"vip_failover_engine": "classic", "vip_failover_addresses": ["2001:db8::1/64"]},
        "the classic engine moves IPv4 addresses only",
    ),
    (
        "vip_failover",
        {"vip_failover_classic_scheduler": "cron", "vip_failover_classic_interval_seconds": 90},
        "vip_failover_classic_interval_seconds has to be a multiple of 60",
    ),
    ("vip_failover", {"vip_failover_active_active": "yes"}, "needs two balancers and two addresses of one family"),
    (
        "vip_failover",
        {
            "vip_failover_active_active": True,
            "vip_failover_router_id": 255,
            "vip_failover_addresses": ["192.0.2.100/24", "192.0.2.101/24"],
        },
        "vip_failover_router_id: active-active takes 2 ids, which end above 255",
    ),
    ("was_django", {"was_django_name": "My Shop"}, "was_django_name must be a short name"),
    ("was_django", {"was_django_settings_module": "shop/settings"}, "must be the name of a module"),
    ("was_django", {"was_django_secret_key": "short"}, "was_django_secret_key must have at least 32 characters"),
    ("was_django", {"was_django_database_host": ""}, "was_django_database_host is not set (needed by"),
    ("was_django", {"was_django_database_password": ""}, "was_django_database_password is not set (needed by"),
    ("was_django", {"was_django_allowed_hosts": []}, "was_django_allowed_hosts is empty"),
    ("was_django", {"was_django_health_path": "/up?x"}, "was_django_health_path must begin with /"),
    ("was_django", {"was_django_static_url": "static"}, "was_django_static_url must begin and end with /"),
    ("was_django", {"was_django_media_url": "media"}, "was_django_media_url must begin and end with /"),
    ("was_django", {"was_django_media_root": "/srv/webstack/site/releases/x"}, "outside of the releases"),
    ("was_django", {"was_django_keep_releases": 0}, "was_django_keep_releases must be 1 or more, not 0"),
    ("was_django", {"was_django_threads": "0"}, "was_django_threads must be 1 or more, not 0"),
    ("was_django", {"was_django_port": 70000}, "was_django_port must be 1 to 65535, got 70000"),
    ("shared_media", {"shared_media_directory": "/media"}, "shared_media_directory must be an absolute path below"),
    ("shared_media", {"shared_media_node_name": "other"}, "shared_media_peers must list other"),
    (
        "shared_media",
        {"shared_media_engine": "rsync"},
        "shared_media_password is required by shared_media_engine rsync",
    ),
    ("shared_media", {"shared_media_rsync_interval_seconds": 0}, "must be 1 or more, not 0"),
    ("backup_slave", {"backup_slave_environment": {"A": True}}, "backup_slave_environment.A is true"),
    ("backup_slave", {"backup_slave_retention": {"daily": -1}}, "backup_slave_retention.daily is negative"),
    ("backup_slave", {"backup_slave_parallel": 0}, "backup_slave_parallel must be 1 or more, not 0"),
    ("backup_slave", {"backup_slave_password": ""}, "backup_slave_password: is empty"),
]


@pytest.mark.parametrize("role", sorted(GOOD))
def test_good_inputs_pass(role: str) -> None:
    assert rendering.problems(role, GOOD[role]) == []


@pytest.mark.parametrize(("role", "change", "words"), CASES)
def test_a_bad_input_is_refused_by_name(role: str, change: dict[str, Any], words: str) -> None:
    (found,) = rendering.problems(role, GOOD[role] | change)
    assert words in found


def test_an_engine_that_does_nothing_refuses_nothing() -> None:
    assert rendering.problems("vip_failover", {"vip_failover_engine": "none"}) == []


def test_all_that_is_wrong_is_said_though_some_of_it_is_of_the_wrong_type() -> None:
    change = {"was_django_port": "eighty", "was_django_static_url": "static", "was_django_threads": 0}
    found = rendering.problems("was_django", GOOD["was_django"] | change)
    assert [text.split()[0].rstrip(":") for text in found] == [
        "was_django_port",
        "was_django_threads",
        "was_django_static_url",
    ]


@pytest.mark.parametrize(
    ("settings", "interface", "words"),
    [
        ({"vip_failover_interface": "eth9"}, "", "vip_failover_interface eth9 is no interface of this host"),
        ({}, "", "no interface carries vip_failover_address 192.0.2.11"),
        ({"vip_failover_addresses": ["198.51.100.1/24"]}, "eth0", "is outside of the networks of eth0"),
    ],
)
def test_what_a_host_cannot_carry_is_refused(settings: dict[str, Any], interface: str, words: str) -> None:
    good = {**GOOD["vip_failover"], "vip_failover_interface": "", "vip_failover_engine": "keepalived"}
    seen = {"interface": interface, "networks": ["192.0.2.11/24"]}
    (found,) = vip_failover.host_problems(good | settings, seen)
    assert words in found.text
    assert vip_failover.host_problems(good, {**seen, "interface": "eth0"}) == []
    if interface:
        assert vip_failover.host_problems({**good, **settings, "vip_failover_engine": "hook"}, seen) == []
    assert vip_failover.host_problems({**good, **settings, "vip_failover_engine": "none"}, seen) == []


def test_a_report_has_the_variable_once() -> None:
    assert said("a_b is empty") == Problem("a_b", "a_b is empty")
    assert said("a_b is empty").message == "is empty"
    assert said("a_b: x is no name").message == "x is no name"
    assert said("a_b.KEY has no value").message == "KEY has no value"
    assert said("a_b and a_c must be 1").message == "a_b and a_c must be 1"


def test_a_rule_ends_where_a_setting_is_missing_and_no_other_one_does() -> None:
    assert collect({"b": 1}, lambda s: [s["a"]], lambda s: [f"b is {s['b']}"]) == [Problem("b", "b is 1")]
    with pytest.raises(KeyError):
        collect({"b": {}}, lambda s: [s["b"]["key"]])

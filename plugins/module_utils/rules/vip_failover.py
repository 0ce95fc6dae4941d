# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role vip_failover."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _settings, _virtual_addresses
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import (
    Problem,
    Settings,
    collect,
    said,
    within,
)

_CHECK_URL = re.compile(r"http://[^/:\s]+(:[0-9]+)?(/\S*)?")


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Return what cannot work. Without an engine nothing is used, so nothing is wrong."""
    if settings.get("vip_failover_engine") == "none":
        return []
    return collect(settings, _addresses, _check, _vrrp, _numbers, _active_active, _hook, _classic, _cron, _environment)


def host_problems(settings: Mapping[str, Any], seen: Mapping[str, Any]) -> list[Problem]:
    """Return what this host cannot carry. seen: its interface, empty for none, and the networks that it is in."""
    engine = settings["vip_failover_engine"]
    if engine == "none":
        return []
    if not seen["interface"]:
        wanted = settings["vip_failover_interface"]
        address = settings["vip_failover_address"]
        return [
            Problem("vip_failover_interface", f"vip_failover_interface {wanted} is no interface of this host")
            if wanted
            else Problem(
                "vip_failover_address",
                f"no interface carries vip_failover_address {address}; correct it or name vip_failover_interface",
            )
        ]
    if engine == "hook":
        return []  # the cloud may route any address to any host
    found = _virtual_addresses.network_problems(settings["vip_failover_addresses"], seen["networks"], seen["interface"])
    return [said(text) for text in found]


def _addresses(settings: Settings) -> Iterator[str]:
    yield from _virtual_addresses.address_problems(
        settings["vip_failover_addresses"],
        settings["vip_failover_address"],
        [peer["address"] for peer in settings["vip_failover_peers"]],
        settings["vip_failover_allow_single"],
    )


def _check(settings: Settings) -> Iterator[str]:
    if not _CHECK_URL.fullmatch(settings["vip_failover_check_url"]):
        yield "vip_failover_check_url is no http:// URL with a host name or an IPv4 address"


def _vrrp(settings: Settings) -> Iterator[str]:
    router_id = settings["vip_failover_router_id"]
    yield from within(settings, "vip_failover_router_id", 1, 255)
    count = _instances(settings)
    if router_id < 256 <= router_id + count - 1:
        yield f"vip_failover_router_id: active-active takes {count} ids, which end above 255"


def _numbers(settings: Settings) -> Iterator[str]:
    for name, lowest, highest in (
        ("vip_failover_advert_interval_seconds", 0.01, 40),
        ("vip_failover_down_timer_adverts", 1, 100),
        ("vip_failover_agent_port", 1, 65535),
    ):
        if name in settings:
            yield from within(settings, name, lowest, highest)
    for name in (
        "vip_failover_drain_seconds",
        "vip_failover_preempt_delay_seconds",
        "vip_failover_garp_refresh_seconds",
        "vip_failover_hook_refresh_seconds",
    ):
        if name in settings and settings[name] < 0:
            yield f"{name} is negative"
    for name in (
        "vip_failover_check_interval_seconds",
        "vip_failover_check_fall",
        "vip_failover_check_rise",
        "vip_failover_doctor_interval_seconds",
        "vip_failover_hook_timeout_seconds",
        "vip_failover_classic_interval_seconds",
    ):
        if name in settings and not settings[name] > 0:
            yield f"{name} is not positive"


def _active_active(settings: Settings) -> Iterator[str]:
    if not settings["vip_failover_active_active"]:
        return
    if settings["vip_failover_engine"] != "keepalived":
        yield "vip_failover_active_active needs the keepalived engine"
    if _instances(settings) < 2:
        yield "vip_failover_active_active needs two balancers and two addresses of one family"


def _instances(settings: Settings) -> int:
    """Return how many VRRP instances there are: with active-active one a balancer, but none without an address."""
    if not settings["vip_failover_active_active"] or settings["vip_failover_engine"] != "keepalived":
        return 1
    others = {peer["address"] for peer in settings["vip_failover_peers"]} - {settings["vip_failover_address"]}
    addresses = settings["vip_failover_addresses"]
    return min(len(others) + 1, max(sum(sign in address for address in addresses) for sign in (":", ".")))


def _hook(settings: Settings) -> Iterator[str]:
    if settings["vip_failover_engine"] == "hook" and not settings["vip_failover_hook_command"]:
        yield "vip_failover_hook_command is empty, and the hook engine moves addresses by nothing else"


def _classic(settings: Settings) -> Iterator[str]:
    if settings["vip_failover_engine"] != "classic":
        return
    if any(":" in address for address in settings["vip_failover_addresses"]):
        yield "vip_failover_addresses: the classic engine moves IPv4 addresses only"


def _cron(settings: Settings) -> Iterator[str]:
    seconds = settings["vip_failover_classic_interval_seconds"]
    if settings["vip_failover_classic_scheduler"] == "cron" and seconds not in range(60, 3600, 60):
        yield "vip_failover_classic_interval_seconds has to be a multiple of 60 below 3600 with cron"


def _environment(settings: Settings) -> Iterator[str]:
    name = "vip_failover_hook_environment"
    yield from _settings.problems(settings[name], name, "environment")

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role quorum."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import (
    Problem,
    Settings,
    at_least,
    collect,
    within,
)

#: In a file that systemd reads, and in etcd's list of members, which has commas and equal signs.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,50}[A-Za-z0-9])?")
_DIRECTORY = re.compile(r"/[\w.@+-]+(/[\w.@+-]+)+")


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Return what cannot work."""
    return collect(settings, _members, _entries, _ports, _times, _amounts, _directories)


def _members(settings: Settings) -> Iterator[str]:
    own, members = settings["quorum_node_name"], settings["quorum_members"]
    names = [member["name"] for member in members]
    if names.count(own) != 1 or len(set(names)) < len(names):
        yield (
            f"quorum_members must list {own} (quorum_node_name) once and no name twice; it has "
            f"{', '.join(names) or 'nothing'}"
        )
    if len(names) % 2 == 0:
        yield f"quorum_members has {len(names)}: an odd number is needed, a tie decides nothing"
    elif len(names) > 7:
        yield f"quorum_members has {len(names)}: more than 7 only make every change slow"


def _entries(settings: Settings) -> Iterator[str]:
    addresses = set()
    for member in settings["quorum_members"]:
        if not _NAME.fullmatch(member["name"]):
            yield (
                f"quorum_members: the name {member['name']!r} must be of at most 52 letters, digits, dots, hyphens and "
                "underscores"
            )
        try:
            address = ipaddress.ip_address(member["address"])
        except ValueError:
            yield f"quorum_members: {member['name']} has no IP address, but {member['address']!r}"
            continue
        if address in addresses:
            yield f"quorum_members: two have the address {address}"
        addresses.add(address)
        if not 1 <= member["port"] <= 65535:
            yield f"quorum_members: {member['name']} has no port from 1 to 65535, but {member['port']}"


def _ports(settings: Settings) -> Iterator[str]:
    yield from within(settings, "quorum_peer_port", 1, 65535)
    yield from within(settings, "quorum_metrics_port", 0, 65535)
    peer, metrics = settings["quorum_peer_port"], settings["quorum_metrics_port"]
    clients = {member["port"] for member in settings["quorum_members"]}
    if peer in clients:
        yield f"quorum_peer_port is {peer}, which is a member's port for clients, too"
    if metrics and metrics in {peer, *clients}:
        yield f"quorum_metrics_port is {metrics}, which is another port of a member, too"


def _times(settings: Settings) -> Iterator[str]:
    yield from within(settings, "quorum_heartbeat_milliseconds", 10, 1000)
    beat, election = settings["quorum_heartbeat_milliseconds"], settings["quorum_election_milliseconds"]
    if not beat * 5 <= election <= 50000:
        yield (
            f"quorum_election_milliseconds must be five times quorum_heartbeat_milliseconds or more, 50000 at most; it "
            f"is {election}, and the other is {beat}"
        )
    seconds = settings["quorum_answer_seconds"]
    if not seconds * 1000 >= election * 3:
        yield (
            f"quorum_answer_seconds must be three times quorum_election_milliseconds or more, for an election to end; "
            f"it is {seconds:g}"
        )


def _amounts(settings: Settings) -> Iterator[str]:
    yield from within(settings, "quorum_quota_mebibytes", 16, 8192)
    yield from at_least(settings, 1, "quorum_history_hours", "quorum_snapshot_keep")
    yield from at_least(settings, 0, "quorum_snapshot_hours")


def _directories(settings: Settings) -> Iterator[str]:
    for name in ("quorum_data_directory", "quorum_snapshot_directory"):
        if not _DIRECTORY.fullmatch(settings[name]):
            yield (
                f"{name} must be an absolute path below a top directory, without spaces and a slash at its end; it "
                f"is {settings[name]}"
            )
    data, snapshots = f"{settings['quorum_data_directory']}/", f"{settings['quorum_snapshot_directory']}/"
    if data.startswith(snapshots) or snapshots.startswith(data):
        yield "quorum_snapshot_directory must lie outside of quorum_data_directory, and the other way round"

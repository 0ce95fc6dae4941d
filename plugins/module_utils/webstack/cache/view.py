# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks sentinels and servers about a shard."""

from __future__ import annotations

import pathlib
from typing import Any

from ..core.resp import Access, Denied, Refusal, Unreachable, ask, pairs
from .site import Site


class View:
    """What the sentinels say about one shard. The one with the newest decision counts."""

    def __init__(self, site: Site, name: str) -> None:
        self.master: dict[str, Any] | None = None
        self.witness: dict[str, Any] | None = None
        self.denied = 0
        self.answers = 0
        epoch = -1
        for sentinel in site.sentinels:
            try:
                found = pairs(ask(sentinel, site.access, "SENTINEL", "MASTER", name))
                self.answers += 1
                if int(found["config-epoch"]) > epoch:
                    epoch = int(found["config-epoch"])
                    self.master = {"address": found["ip"], "port": int(found["port"])}
                    self.witness = sentinel
            except Denied:
                self.denied += 1
            except (Unreachable, Refusal, KeyError, ValueError):
                continue  # it is down, or does not know the shard yet
        self.epoch = epoch

    def is_master(self, node: dict[str, Any]) -> bool:
        return self.master is not None and same(self.master, node)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["address"], int(one["port"])) == (other["address"], int(other["port"]))


def role_of(node: dict[str, Any], access: Access) -> dict[str, Any]:
    """Return the role: master with its number of online replicas, or replica with its master and the link's state."""
    reply = ask(node, access, "ROLE")
    if reply[0] == "master":
        return {"role": "master", "replicas": [{"address": item[0], "port": int(item[1])} for item in reply[2]]}
    return {"role": "slave", "master": {"address": reply[1], "port": int(reply[2])}, "link": reply[3]}


def serves(node: dict[str, Any], name: str, access: Access) -> bool:
    """Say whether this shard runs there. While servers move, another shard may still have the port."""
    return pathlib.PurePath(pairs(ask(node, access, "CONFIG", "GET", "dir"))["dir"]).name == name


def has_data(node: dict[str, Any], name: str, access: Access) -> bool:
    try:
        return serves(node, name, access) and int(ask(node, access, "DBSIZE")) > 0
    except (Unreachable, Denied, Refusal):
        return False


def listed(nodes: list[dict[str, Any]], wanted: dict[str, Any]) -> bool:
    return any(same(wanted, node) for node in nodes)

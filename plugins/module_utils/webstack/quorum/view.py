# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the members say of themselves and of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..core.errors import Problem
from .config import Settings
from .gateway import Endpoint, Gateway

SECONDS = 2.0


@dataclass(frozen=True)
class Listed:
    """An entry in the list of members that the store itself keeps."""

    id: str
    name: str
    peer_url: str
    #: Where it answers clients; it says so when it has started for the first time.
    client_url: str

    @property
    def started(self) -> bool:
        return bool(self.client_url)


@dataclass(frozen=True)
class Heard:
    """What one member answered, or why there is no answer."""

    endpoint: Endpoint
    problem: str = ""
    id: str = ""
    cluster: str = ""
    leader: str = ""
    version: str = ""
    size: int = 0
    used: int = 0
    listed: Sequence[Listed] = ()
    alarms: Sequence[str] = ()

    @property
    def answers(self) -> bool:
        return not self.problem

    @property
    def works(self) -> bool:
        """It knows a leader."""
        return self.answers and self.leader not in ("", "0")


def hear(settings: Settings, endpoint: Endpoint, seconds: float = SECONDS) -> Heard:
    """Ask one member. Nothing here needs the others, so that it also answers without a leader."""
    gateway = Gateway([endpoint], settings.tls, seconds)
    try:
        status = gateway.call("maintenance/status", {}).said
        listed = gateway.call("cluster/member/list", {"linearizable": False}).said
        return heard(endpoint, status, listed)
    except Problem as problem:
        said = str(problem)
        return Heard(endpoint, said.rpartition(f"{endpoint} ")[2])
    finally:
        gateway.close()


def heard(endpoint: Endpoint, status: Mapping[str, Any], listed: Mapping[str, Any]) -> Heard:
    header = status.get("header") or {}
    if "cluster_id" not in header or not listed.get("members"):
        return Heard(endpoint, "answers in a way that is not known")
    alarms = [str(text) for text in status.get("errors") or () if "alarm" in str(text)]
    return Heard(
        endpoint,
        "",
        str(header.get("member_id", "")),
        str(header["cluster_id"]),
        str(status.get("leader", "")),
        str(status.get("version", "")),
        int(status.get("dbSize", 0)),
        int(status.get("dbSizeInUse", 0)),
        [entry(one) for one in listed["members"]],
        alarms,
    )


def entry(raw: Mapping[str, Any]) -> Listed:
    urls = raw.get("peerURLs") or [""]
    clients = raw.get("clientURLs") or [""]
    return Listed(str(raw.get("ID", "")), str(raw.get("name", "")), str(urls[0]), str(clients[0]))


def look(settings: Settings, endpoints: Sequence[Endpoint] | None = None) -> list[Heard]:
    """Ask all members at the same time."""
    asked = settings.endpoints if endpoints is None else endpoints
    if not asked:
        return []
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda one: hear(settings, one), asked))

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a host without data becomes a member. No I/O.

A store is formed only when every member has said, in this very run, that it has no data, or that it began to form with
the others and never got through. Who cannot be asked may have some: then nothing is formed. A host that lost its data
joins as somebody new: as the old member it would have forgotten what it voted for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import Problem
from .view import Heard, Listed

NEW, EXISTING = "new", "existing"


@dataclass(frozen=True)
class Plan:
    """Which entries go, whether ours is added, and as what the member starts."""

    state: str
    remove: tuple[Listed, ...] = ()
    add: bool = False


def plan(
    name: str, peers: Mapping[str, str], seen: Sequence[Heard], empty: Collection[str], strangers: Collection[str] = ()
) -> Plan:
    """Say how `name` begins. `seen` are the other members, `empty` those that said that they have no data or never got
    through forming, `strangers` the URLs of listed members that the inventory does not name and that answer.
    """
    working = [one for one in seen if one.works]
    if working:
        if len({one.cluster for one in working}) > 1:
            raise Problem(f"there is more than one store: {_named(working)} do not belong together; end all but one")
        return _join(name, peers, working[0].listed, strangers)
    if lost := [one for one in seen if one.answers]:
        raise Problem(
            f"the quorum has no leader: too few members run. With data: {_named(lost)}. Start the others, or restore "
            'a snapshot (README of the role quorum, "When too many are lost")'
        )
    if unknown := [peer for peer in peers if peer not in {name, *empty}]:
        raise Problem(
            f"nobody answers for the quorum, and {', '.join(unknown)} may have data: a new one is formed only when "
            "this run has seen that no member has any. Start them, or include them in the run"
        )
    return Plan(NEW)


def _join(name: str, peers: Mapping[str, str], listed: Sequence[Listed], strangers: Collection[str]) -> Plan:
    own = [entry for entry in listed if entry.peer_url == peers[name]]
    others = [entry for entry in listed if entry.peer_url not in peers.values()]
    if alive := [entry for entry in others if entry.peer_url in strangers]:
        raise Problem(
            f"{', '.join(entry.name for entry in alive)} is a member that quorum_members does not name, and it "
            "answers: stop it there first (systemctl disable --now webstack-quorum)"
        )
    if own and not own[0].started:
        return Plan(EXISTING, tuple(others))
    return Plan(EXISTING, (*others, *own), add=True)


def fits(name: str, said: str, working: Sequence[Heard]) -> None:
    """Refuse an etcd that is older than all others: they speak as the oldest of them does, and never go back."""
    own, theirs = _version(said), sorted(filter(None, (_version(one.version) for one in working)))
    if own and theirs and own[:2] < theirs[0][:2]:
        mine, oldest = (".".join(map(str, version)) for version in (own, theirs[0]))
        raise Problem(
            f"{name} has etcd {mine} and the members that work ({_named(working)}) have {oldest} or newer: it cannot "
            "join them. Take a host with Debian 13"
        )


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def cluster(name: str, peers: Mapping[str, str], listed: Sequence[Listed] = ()) -> str:
    """Return the members as etcd wants them said: the listed ones, or all of the inventory for a new store."""
    names = {url: peer for peer, url in peers.items()}
    if not listed:
        return ",".join(f"{peer}={url}" for peer, url in peers.items())
    words = [(names.get(entry.peer_url) or entry.name or f"unnamed-{entry.id}", entry.peer_url) for entry in listed]
    if name not in [word for word, _ in words]:
        raise Problem(f"{name} is not in the list of members that it was added to; try again")
    return ",".join(f"{word}={url}" for word, url in words)


def _named(seen: Sequence[Heard]) -> str:
    return ", ".join(one.endpoint.name for one in seen)

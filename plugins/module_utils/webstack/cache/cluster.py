# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The engine `redis_cluster`: makes one Redis Cluster of all servers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from ..core.errors import Problem
from ..core.resp import Access, Denied, Refusal, Unreachable, ask
from .site import Site
from .view import role_of

SLOTS = 16384


class Member:
    """A server of a Redis Cluster, and how it sees itself and the others."""

    def __init__(self, node: dict[str, Any], access: Access) -> None:
        self.node = node
        self.id: str = ask(node, access, "CLUSTER", "MYID")
        # id, address:port@bus..., flags, master, ..., slots
        self.lines = [line.split() for line in ask(node, access, "CLUSTER", "NODES").splitlines()]

    @property
    def own(self) -> list[str]:
        return next(words for words in self.lines if "myself" in words[2].split(","))

    @property
    def is_master(self) -> bool:
        return "master" in self.own[2].split(",")

    @property
    def slots(self) -> set[int]:
        found: set[int] = set()
        for part in self.own[8:]:
            if not part.startswith("["):  # a slot on its way to another server
                first, _dash, last = part.partition("-")
                found.update(range(int(first), int(last or first) + 1))
        return found

    def knows(self, other: Member) -> bool:
        return any(words[0] == other.id and words[7] == "connected" for words in self.lines)

    def ghosts(self, living: set[str]) -> list[str]:
        """Return the ids that are marked as failed and that no living server has."""
        return [words[0] for words in self.lines if words[0] not in living and "fail" in words[2].split(",")]


def cluster_members(site: Site) -> dict[tuple[str, str], Member]:
    """Return all servers by shard and host. All must answer: the cluster is made of all servers or not at all."""
    return {
        (name, node["name"]): Member(node, site.access)
        for name, shard in site.shards.items()
        for node in shard["nodes"]
    }


def ranges(slots: Iterable[int]) -> list[str]:
    """Return the first and last number of each run, in one list, as CLUSTER ADDSLOTSRANGE takes them."""
    found: list[list[int]] = []
    for slot in sorted(slots):
        if found and found[-1][1] == slot - 1:
            found[-1][1] = slot
        else:
            found.append([slot, slot])
    return [str(bound) for run in found for bound in run]


def cluster_plan(site: Site, members: dict[tuple[str, str], Member]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the next commands for making the cluster, each with the server that gets it; none when all is well.

    A server that holds slots leads its shard, whatever the order of the inventory. So a fail-over is never undone.
    """
    everybody = list(members.values())
    living = {member.id for member in everybody}
    plan: list[tuple[dict[str, Any], list[str]]] = []
    first = next((member for member in everybody if member.slots), everybody[0])
    for member in everybody:
        plan += [(member.node, ["CLUSTER", "FORGET", ghost]) for ghost in member.ghosts(living)]
        if not first.knows(member):
            plan.append((first.node, ["CLUSTER", "MEET", member.node["address"], str(member.node["port"])]))
    if plan or not all(one.knows(other) for one in everybody for other in everybody):
        return plan
    free = set(range(SLOTS)) - {slot for member in everybody for slot in member.slots}
    empty: list[Member] = []
    for name, shard in site.shards.items():
        own = [members[name, node["name"]] for node in shard["nodes"]]
        leader = next((member for member in own if member.slots), None)
        if leader is None:
            leader = next((member for member in own if member.is_master), own[0])
            empty.append(leader)
        for member in own:
            if member is not leader and (not member.is_master or not member.slots) and member.own[3] != leader.id:
                plan.append((member.node, ["CLUSTER", "REPLICATE", leader.id]))
    # Slots without a server go to the servers that have none. If every server has slots, they go to all.
    takers = empty or [member for member in everybody if member.slots]
    share = -(-len(free) // len(takers))
    waiting = sorted(free)
    for number, member in enumerate(takers):
        part = waiting[number * share : (number + 1) * share]
        if part:
            plan.insert(number, (member.node, ["CLUSTER", "ADDSLOTSRANGE", *ranges(part)]))
    return plan


def form(site: Site) -> int:
    """Make one cluster of the servers. A second run changes nothing."""
    deadline = time.monotonic() + 60
    changed = False
    said: Exception | str = "the servers do not know each other"
    while time.monotonic() < deadline:
        try:
            members = cluster_members(site)
            plan = cluster_plan(site, members)
            for node, words in plan:
                ask(node, site.access, *words)
                print(f"{node['address']}:{node['port']}: {' '.join(words[:3])}")
                changed = True
            views = {ask(member.node, site.access, "CLUSTER", "INFO").splitlines()[0] for member in members.values()}
            if (
                not plan
                and views == {"cluster_state:ok"}
                and all(one.knows(other) for one in members.values() for other in members.values())
            ):
                print("changed" if changed else "unchanged")
                return 0
        except (Unreachable, Denied, Refusal) as error:
            said = error
        time.sleep(0.3)
    raise Problem(f"the cluster is not complete after 60 s: {said}")


def inspect_cluster(site: Site) -> tuple[dict[str, Any], list[str]]:
    """Return the roles of this host's servers in the cluster, and what is wrong with them."""
    roles: dict[str, Any] = {}
    problems: list[str] = []
    for name in site.mine:
        node = site.own(name)
        assert node is not None
        try:
            roles[name] = role_of(node, site.access)["role"]
            state = ask(node, site.access, "CLUSTER", "INFO").splitlines()[0]
            if state != "cluster_state:ok":
                problems.append(f"shard {name} on {site.me}: {state}")
        except (Unreachable, Denied, Refusal) as error:
            problems.append(f"shard {name} on {site.me}: no answer at {node['address']}:{node['port']} ({error})")
    return roles, problems

"""The same two hosts with seconds: how long writes stand still after a fault that stays.

Agents look each `tick` and whenever the store's value changes; acts and the network take their time; a lease ends
`lease` seconds after its last renewal. Clients write every 50 ms to whoever has the address, and where two have it,
to the worse one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.arbiter import (
    LIMITS,
    Do,
    Member,
    Own,
    Swap,
    Wish,
)
from failover_world import Decide, Host, Violation, World, fill, freeze, power, restart_agent

STEP = 0.05
#: What an act takes on a host, at the worst that was measured there; a seed is much longer and is meant to be avoided.
COSTS = {Do.START: 3.0, Do.START_AS_REPLICA: 3.0, Do.SEED: 30.0, Do.OPEN: 0.1, Do.CLOSE: 0.1, Do.STOP_RECEIVING: 0.05}


class Clock(World):
    def __init__(self, decide: Decide, seed: int) -> None:
        super().__init__(decide)
        self.source = random.Random(seed)
        self.now = 0.0
        self.next = {h.name: self.source.uniform(0, LIMITS.tick) for h in (self.a, self.b)}
        self.busy = dict.fromkeys("ab", 0.0)
        self.heard = dict.fromkeys("ab", 0.0)
        self.answered = dict.fromkeys("ab", 0.0)
        self.read_at = dict.fromkeys("ab", 0.0)
        self.unreachable: set[str] = set()
        self.acks: list[float] = []
        self.idle = False

    def age(self, h: Host) -> float:
        return self.now - self.read_at[h.name]

    def look(self, h: Host) -> Own:
        own = super().look(h)
        return own._replace(
            silent=self.now - self.heard[h.name], stalled=self.now - self.answered[h.name], clock=self.now
        )

    def arrives(self, swap: Swap, sender: str, told: Member | None) -> bool:
        done = super().arrives(swap, sender, told)
        if done:
            self.soon()
        return done

    def soon(self) -> None:
        """What watches the store is told."""
        for name in "ab":
            self.next[name] = min(self.next[name], max(self.now + 0.02, self.busy[name]))

    def act(self, h: Host, action: Any, how: int) -> bool:
        done = super().act(h, action, how)
        if done:
            self.busy[h.name] = self.now + (COSTS.get(action, 0.01) if isinstance(action, Do) else 0.01)
            if action is Do.RECEIVE or action is Do.LINK:
                self.heard[h.name] = self.now
            if action is Do.SEMI_SYNC_ON:
                self.answered[h.name] = self.now
        return done

    def agent(self, h: Host) -> None:
        if h.down or h.frozen or self.now < self.next[h.name]:
            return
        if not h.cut and not h.queue:
            self.read_at[h.name] = self.now
        if h.queue:
            self.step(h, 0x30, False)
        else:
            self.step(h, 0x30, False)
            self.step(h, 0x30, False)
        self.next[h.name] = max(
            self.busy[h.name], self.now + (0.0 if h.queue else LIMITS.hurry if h.view.wish else LIMITS.tick)
        )

    def servers(self) -> None:
        for h in (self.a, self.b):
            o = h.other
            if self.connected(h) and self.now >= self.busy[h.name]:
                self.heard[h.name] = self.now
                for _ in range(20):
                    before = o.acked
                    self.replicate(h, 3)
                    if o.acked > before:
                        self.acks.append(self.now)
                if not h.broken and not h.full:
                    self.answered[o.name] = self.now
            self.apply(h, 1)

    def client(self) -> None:
        reached = [
            h for h in (self.a, self.b) if h.address and not h.down and not h.frozen and h.name not in self.unreachable
        ]
        if len(reached) == 2 or (reached and self.now >= self.busy[reached[0].name]):
            h = min(reached, key=lambda one: (not one.semi and one.opened and one.up, one.opened))
            place = self.place
            self.write(h)
            if self.place > place:
                self.acks.append(self.now)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = round(self.now + STEP, 3)
            for h in (self.a, self.b):
                if self.reports[h.name] is not None and self.age(h) > LIMITS.lease:
                    self.reports[h.name] = None
                    self.soon()
                self.agent(h)
            self.servers()
            if not self.idle:
                self.client()
            self.check()


def gaps(world: Clock, since: float) -> list[float]:
    """How long nothing was acknowledged, each time that it was longer than what a client notices."""
    times = [since, *(time for time in world.acks if time > since), world.now]
    return [round(b - a, 2) for a, b in pairwise(times) if b - a > 0.3]


def cut_host(world: Clock, h: Host) -> None:
    """From the store, from the other one and from clients."""
    cut_hosts(world, h)
    world.unreachable.add(h.name)


def cut_hosts(world: Clock, h: Host) -> None:
    h.cut = world.cut = True


def cut_and_kill(world: Clock, h: Host) -> None:
    cut_hosts(world, h)
    kill_server(world, h)


def cut_link(world: Clock, h: Host) -> None:
    world.cut = True


def cut_quorum(world: Clock, h: Host) -> None:
    world.a.cut = world.b.cut = True


def cut_store(world: Clock, h: Host) -> None:
    h.cut = True


def kill_server(world: Clock, h: Host) -> None:
    h.server_dies()
    world.soon()


def kill_host(world: Clock, h: Host) -> None:
    power(world, h, 0)


def freeze_host(world: Clock, h: Host) -> None:
    freeze(world, h, 0)


def thaw(world: Clock, h: Host) -> None:
    freeze(world, h, 0)
    world.pass_time(3.0 + world.source.random())
    freeze(world, h, 0)


def full_disk(world: Clock, h: Host) -> None:
    fill(world, h, 0)


def agent_gone(world: Clock, h: Host) -> None:
    restart_agent(world, h, 0)


def stopped_applier_and_kill(world: Clock, h: Host) -> None:
    h.other.applying = False
    power(world, h, 0)


def switchover(world: Clock, h: Host) -> None:
    world.wish = Wish(world.state.turn, h.other.name)
    world.soon()


def maintenance(world: Clock, h: Host) -> None:
    world.maintenance = (h.name,)
    world.soon()
    world.pass_time(2.0)
    power(world, h, 0)


class Fault(NamedTuple):
    happens: Callable[[Clock, Host], None]
    host: str
    worst: float
    """Seconds without an acknowledgement."""
    times: int = 1
    """How often writes may stand still."""
    whole: float = 0.0
    """Within so many seconds both are whole again by themselves; 0 where the fault stays."""
    moves: bool = False
    """Whether the other one writes afterwards; else the role stays where it was."""


FAULTS = {
    "the writer's server is killed": Fault(kill_server, "a", 3.0, whole=15.0, moves=True),
    "the writer's host is killed": Fault(kill_host, "a", 4.0, moves=True),
    "the writer's host is frozen": Fault(freeze_host, "a", 4.0, moves=True),
    "the writer's host is frozen and thaws": Fault(thaw, "a", 4.0, whole=15.0, moves=True),
    "the writer is cut from everybody": Fault(cut_host, "a", 4.0, moves=True),
    "the writer is cut from everybody but clients": Fault(cut_hosts, "a", 4.0, moves=True),
    "the writer is cut from the others and its server is killed": Fault(cut_and_kill, "a", 4.0, moves=True),
    "the link between the two is cut": Fault(cut_link, "a", 2.0),
    "the replica's server is killed": Fault(kill_server, "b", 1.5, whole=15.0),
    "the replica's host is killed": Fault(kill_host, "b", 1.5),
    "the replica's host is frozen": Fault(freeze_host, "b", 1.5),
    "the replica is cut from everybody": Fault(cut_host, "b", 1.5),
    "nobody reaches the store": Fault(cut_quorum, "a", 0.0, times=0),
    "the writer does not reach the store": Fault(cut_store, "a", 0.0, times=0),
    "the replica does not reach the store": Fault(cut_store, "b", 0.0, times=0),
    "the writer's agent starts anew": Fault(agent_gone, "a", 0.0, times=0),
    "the writer's disk is full": Fault(full_disk, "a", 10.0, moves=True),
    "the applier had stopped when the writer's host is killed": Fault(stopped_applier_and_kill, "a", 4.0, moves=True),
    "the other one is asked for": Fault(switchover, "a", 0.5, whole=15.0, moves=True),
    "the replica goes into maintenance, then off": Fault(maintenance, "b", 0.0, times=0),
}


def outage(fault: Fault, decide: Decide, seed: int) -> tuple[list[float], bool, Clock]:
    """The times for which writes stood still, and whether the pair was whole at the end."""
    world = Clock(decide, seed)
    world.pass_time(2.0 + world.source.random())
    since = world.now
    fault.happens(world, world.hosts[fault.host])
    world.pass_time(max(12.0, fault.whole) - (world.now - since))
    found = gaps(world, since)
    world.idle = True
    world.pass_time(1.0)
    return found, world.whole(), world


def misses(fault: Fault, decide: Decide, seed: int) -> str:
    """How a fault misses its bar, empty when it keeps it."""
    found, whole, world = outage(fault, decide, seed)
    if len(found) > fault.times or max(found, default=0.0) > fault.worst:
        return f"writes stood still for {found} s, at most {fault.times} times {fault.worst} s may be"
    if (world.state.writer == "b") != fault.moves:
        return f"{world.state.writer} is the writer"
    if fault.whole and not whole:
        return f"is not whole after {fault.whole} s"
    return ""


def two_faults(decide: Decide, seed: int) -> str:
    """Any two within ten seconds, then all is well: never two that acknowledge, nothing lost, whole again."""
    world = Clock(decide, seed)
    names = sorted(FAULTS)
    try:
        world.pass_time(1.0 + world.source.random())
        for _ in range(2):
            FAULTS[world.source.choice(names)].happens(world, world.hosts[world.source.choice("ab")])
            world.pass_time(world.source.uniform(0.0, 10.0))
        world.heal()
        world.unreachable = set()
        world.idle = True
        world.pass_time(20.0)
        if not world.whole():
            world.pass_time(60.0)
    except Violation as found:
        return str(found)
    if world.whole():
        return ""
    return f"is not whole: {world.state}, {[world.look(h) for h in (world.a, world.b)]}"

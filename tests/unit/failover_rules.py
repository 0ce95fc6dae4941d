"""The rules of `failover.decide`: the line that carries each, what stands there without it, what happens then.

A story is a schedule that violates something without the rule, found by the simulation and shortened; a fault is one
of failover_timing.FAULTS, which misses its bar without the rule.
"""

from __future__ import annotations

import pathlib
import types
from typing import NamedTuple

from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure import failover
from failover_world import Decide


class Without(NamedTuple):
    rule: str
    line: str
    instead: str
    seen: str
    story: str = ""
    recover: bool = False
    """Everything works again at the end of the story, and the pair has to be whole."""
    fault: str = ""


RULES = [
    Without(
        "a writer starts with its whole binary log, never as a replica",
        "(*_without_address(own), Do.START))\n    if own.epoch != state.epoch:\n        if state.opener",
        "(*_without_address(own), Do.START_AS_REPLICA))\n    if own.epoch != state.epoch:\n        if state.opener",
        "lacks acknowledged row",
        story="write a 119, calm a, kill a 9, run a 28",
    ),
    Without(
        "data of another epoch is never opened",
        "    if own.epoch != state.epoch:\n        if state.opener",
        "    if False:\n        if state.opener",
        "lacks acknowledged row",
        story="run a, run b, power b, run a, wipe a, power a, run a, run a, run a, run a, write a",
    ),
    Without(
        "who opened an epoch and crashed stamps its data later",
        "if state.opener == own.name and own.epoch == state.epoch - 1:",
        "if False:",
        "stuck",
        story="run a, run b, restart b, power a, expire a, force b 1, step b, step b, step b, restart_agent b",
        recover=True,
    ),
    Without(
        "the writer settles a swap of unknown outcome",
        "    if _unsettled(own, view):\n        return _settle(view, state)\n    return _serve(",
        "    return _serve(",
        "lacks acknowledged row",
        story="run a, run b, ask b 1, run a, run a 1, ask b, run a, write a, replicate b 3, deliver b",
    ),
    Without(
        "the replica settles a swap of unknown outcome",
        "    if _unsettled(own, view):\n        return _settle(view, state)\n    refused",
        "    refused",
        "lacks acknowledged row",
        story="run a, run b, freeze a, expire a, run b, run b 1, "
        "freeze a, step a, run b, write a, replicate b 3, deliver b",
    ),
    Without(
        "a hand-over waits until the other one has applied everything",
        "if peer.applied < own.applied:",
        "if False:",
        "lacks acknowledged row",
        story="run a 23, write b 43, step b 72, force b 71, replicate b 93, run a 86, run a 100",
    ),
    Without(
        "a hand-over is for the turn that it was asked in",
        "wish.to == to and wish.turn == state.turn",
        "wish.to == to",
        "nobody asked",
        story="force b 89, calm a 74, step a 116, force a 97, calm b 73, run a 102, run b 93",
    ),
    Without(
        "a writer of a pair opens with semi-sync",
        "(Do.SEMI_SYNC_ON, Do.OPEN))",
        "(Do.OPEN,))",
        "lacks acknowledged row",
        story="kill a 55, run a 35, run b 118, run a 17, write a 10",
    ),
    Without(
        "a writer goes on alone only when the store has agreed",
        "(Swap(view.revision, alone), Do.SEMI_SYNC_OFF))",
        "(Do.SEMI_SYNC_OFF,))",
        "lacks acknowledged row",
        story="write b 123, order b 79, run a 43, run a 118",
    ),
    Without(
        "a writer that nobody acknowledges goes on alone",
        'if _stalled(own, limits):\n        return f"',
        'if False:\n        return f"',
        "stood still",
        fault="the link between the two is cut",
    ),
    Without(
        "a broken replica is let go, so that it can be seeded",
        "if state.replica and view.peer is not None and view.peer.broken:",
        "if False:",
        "stuck",
        story="write a 98, stop_applying b 53",
        recover=True,
    ),
    Without(
        "semi-sync is on before the other one is counted on",
        '    if not own.semi_sync:\n        return Decision("protects"',
        '    if False:\n        return Decision("protects"',
        "lacks acknowledged row",
        story="calm a 67, hiccup a 41, calm a 109, write a 69, run a 93",
    ),
    Without(
        "a position was noted for this life of the replica",
        "if own.mark is None or own.mark[0] != peer.life:",
        "if own.mark is None:",
        "lacks acknowledged row",
        story="run a, run b, part a, run a, part a, run b, run a, run a, "
        "run a, run a, write a, replicate b 3, restart b, run b, run b, run a",
    ),
    Without(
        "the other one is counted on when it holds what was noted",
        "if peer.received < own.mark[1]:",
        "if False:",
        "lacks acknowledged row",
        story="run b 32, run a 55, hiccup a 33, run a 39, run a 103, write a 70, run a 66, hiccup a 116, run a 72",
        recover=True,
    ),
    Without(
        "the store counts on one life of the replica",
        "return state.replica == own.name and state.life == own.life",
        "return state.replica == own.name",
        "lacks acknowledged row",
        story="write a 30, replicate b 42, power b 5, power b 77, run b 17, run b 70, run b 34",
    ),
    Without(
        "nobody promotes whom the store does not count on",
        '    if not _counted(own, state):\n        return f"',
        '    if False:\n        return f"',
        "two can acknowledge",
        story="run b 45, kill b, run a 111, run a 61, run b 13, expire a 94, run b 78",
    ),
    Without(
        "whoever finds another one named the writer closes",
        "    if own.open:\n        # What",
        "    if False:\n        # What",
        "two can acknowledge",
        story="run b 99, freeze a 49, run b 53, run b 93",
        recover=True,
    ),
    Without(
        "a closed server gives the address up",
        '    if own.address:\n        return Decision("deposed"',
        '    if False:\n        return Decision("deposed"',
        "stuck",
        story="run a, run b, cut_off a, part a, expire a, restart a, run b, run b",
        recover=True,
    ),
    Without(
        "data of another epoch is never linked",
        "    if own.epoch != state.epoch:\n        return _seed",
        "    if False:\n        return _seed",
        "stuck",
        story="wipe a 88",
        recover=True,
    ),
    Without(
        "a promotion stops receiving first",
        "    if own.receiving:\n        return Decision(rule",
        "    if False:\n        return Decision(rule",
        "lacks acknowledged row",
        story="run b 32, part b 9, step b 63, step b 59, step b 32, part a 119, write b 125, replicate b 121",
    ),
    Without(
        "a promotion applies everything first",
        "    if own.applied < own.received:\n        return _apply_first(own)\n    turn",
        "    turn",
        "lacks acknowledged row",
        story="write b 23, run b 58, replicate b 15, wipe a 56, run b 114, run b 54",
    ),
    Without(
        "a replica whose applier has failed does not promote itself",
        "    if own.broken:\n        return own.broken\n",
        "",
        "wrong rows",
        story="write b 8, wipe a 112",
        recover=True,
    ),
    Without(
        "a replica that cannot write does not promote itself",
        '    if not own.fit:\n        return "its',
        '    if False:\n        return "its',
        "cannot write",
        story="fill b 108, run b 110, kill a 105, run b 47",
    ),
    Without(
        "nobody promotes itself during its maintenance",
        '    if own.name in view.maintenance:\n        return "it is',
        '    if False:\n        return "it is',
        "during its maintenance",
        story="run b 10, kill a 59, order b 87, run b 104",
    ),
    Without(
        "nobody promotes itself during a pause",
        '    if view.paused:\n        return "fail',
        '    if False:\n        return "fail',
        "during a pause",
        story="order a 40, power a 17, run b 58, run b 73",
    ),
    Without(
        "nobody promotes itself in mode assisted",
        "if not own.automatic:",
        "if False:",
        "the mode is assisted",
        story="order b 57, kill a 52, run b 34, run b 85",
    ),
    Without(
        "force opens a new epoch",
        "State(state.epoch + 1, own.name, turn=turn, opener=own.name",
        "State(state.epoch, own.name, turn=turn, opener=own.name",
        "lacks acknowledged row",
        story="write a, replicate b 1, run b, run a, kill a, kill b, run b, force b 1, step a, run b",
    ),
    Without(
        "force over a writer that may be alone needs the word that it is off",
        "if not state.replica and not wish.peer_is_off:",
        "if False:",
        "two can acknowledge",
        story="hiccup a 67, run a 28, run a 104, force b 79, run b 107, expire a 125, part b 27, run b 72, run b 48",
    ),
    Without(
        "a server links only when the writer has all of its rows",
        "        if own.contained:\n",
        "        if True:\n",
        "stuck",
        story="write a 68, fill b 88, run b 97, fill a 98, fill b 46, run a 4, run b 104, run b 58",
        recover=True,
    ),
    Without(
        "a server that the store counts on keeps rows that the writer lacks",
        '        if counted:\n            return Decision("diverged"',
        '        if False:\n            return Decision("diverged"',
        "kills its server",
        story="run a, run b, ask b 1, run a, run a, wipe b, order a, power b, run b, run b, run a, run a",
    ),
    Without(
        "a replica that is counted on is not seeded",
        '        if counted:\n            return Decision("broken"',
        '        if False:\n            return Decision("broken"',
        "throws its rows away",
        story="stop_applying b 37, run b 121, calm a 83",
    ),
    Without(
        "a broken replica is seeded",
        "    if own.broken:\n        if counted",
        "    if False:\n        if counted",
        "stuck",
        story="write b 115, stop_applying b 113",
        recover=True,
    ),
    Without(
        "rows that nobody acknowledged are cut off before a seed",
        "if not own.truncated:",
        "if False:",
        "is not whole",
        fault="the writer's server is killed",
    ),
    Without(
        "a link that was stopped is started",
        '    if not own.receiving:\n        return Decision("receives"',
        '    if False:\n        return Decision("receives"',
        "stuck",
        story="kill a 91, run b 112",
        recover=True,
    ),
    Without(
        "a stopped applier is started",
        '    if not own.applying:\n        return Decision("applies"',
        '    if False:\n        return Decision("applies"',
        "stuck",
        story="write b 99, stop_applying b 14",
        recover=True,
    ),
    Without(
        "a replica turns its half of the writer's semi-sync off",
        "(Do.SEMI_SYNC_OFF, Do.LINK))",
        "(Do.LINK,))",
        "stuck",
        story="run b 127, run a 84, force b 57, run a 125, run a 115",
        recover=True,
    ),
    Without(
        "a seed is behind a swap",
        "(Swap(view.revision, state), Do.SEED))",
        "(Do.SEED,))",
        "throws its rows away",
        story="stop_applying b 93, run b 58, run a 91, run a 17, "
        "deliver b 90, run b 30, step b 60, stop_applying b 113, run a 91",
        recover=True,
    ),
    Without(
        "a writer without its address takes it",
        "if not own.address and view.age <= limits.fresh:",
        "if False:",
        "stuck",
        story="run a, cut_off a, part a, run a",
        recover=True,
    ),
    Without(
        "a writer that was cut off gives the address up",
        "if own.open and _stalled(own, limits) and view.age > limits.withdraw:",
        "if False:",
        "stood still",
        fault="the writer is cut from everybody but clients",
    ),
    Without(
        "a replica in maintenance is not counted on",
        "if _follows(own, peer, state, limits) and own.followed and own.peer not in view.maintenance:",
        "if _follows(own, peer, state, limits) and own.followed:",
        "stood still",
        fault="the replica goes into maintenance, then off",
    ),
    Without(
        "a replica is not counted on before it follows",
        "if _follows(own, peer, state, limits) and own.followed and own.peer not in view.maintenance:",
        "if own.followed and own.peer not in view.maintenance:",
        "throws its rows away",
        story="run a 116, run b 7, restore a 80, run a 19, run a 113, run a 78, run a 70, run a 18, run a 91, run b 5",
    ),
    Without(
        "a writer says goodbye before maintenance of the replica",
        'if own.peer in view.maintenance:\n        return f"{own.peer} is',
        'if False:\n        return f"{own.peer} is',
        "stood still",
        fault="the replica goes into maintenance, then off",
    ),
    Without(
        "without the store a writer opens only when the other one receives",
        "if view.age > limits.fresh and not own.followed:",
        "if False:",
        "stood still",
        fault="the writer is cut from the others and its server is killed",
    ),
    Without(
        "a replica that hears the writer leaves it alone",
        "if peer is not None or own.silent < limits.silent:",
        "if peer is not None:",
        "stood still",
        fault="the writer does not reach the store",
    ),
    Without(
        "a writer that reaches the store is left alone",
        "if peer is not None or own.silent < limits.silent:",
        "if own.silent < limits.silent:",
        "is the writer",
        fault="the other one is asked for",
    ),
    Without(
        "a writer that says that it cannot write is replaced at once",
        "if peer is not None and not (peer.fit and peer.epoch == state.epoch):",
        "if False:",
        "stuck",
        story="wipe a 102, wipe a 8",
        recover=True,
    ),
    Without(
        "the other one shows that it moves before semi-sync goes on",
        "if peer.received < own.mark[1]:",
        "if own.semi_sync and peer.received < own.mark[1]:",
        "stood still",
        fault="the replica's host is frozen",
    ),
    Without(
        "a server that is down starts",
        "Swap(view.revision, state), Do.START_AS_REPLICA)",
        "Swap(view.revision, state))",
        "stuck",
        story="run b 99, freeze a 49, run b 53, run b 93",
        recover=True,
    ),
    Without(
        "a former writer starts as a replica",
        "Swap(view.revision, state), Do.START_AS_REPLICA)",
        "Swap(view.revision, state), Do.START)",
        "is not whole",
        fault="the writer's server is killed",
    ),
    Without(
        "what nobody may write to has no address",
        "return (Do.WITHDRAW,) if own.address else ()",
        "return ()",
        "stood still",
        fault="the writer's server is killed",
    ),
    Without(
        "a former writer starts as a replica behind a swap",
        "Swap(view.revision, state), Do.START_AS_REPLICA)",
        "Do.START_AS_REPLICA)",
        "lacks acknowledged row",
        story="write b 57, ask b 107, calm b 17, calm a 89, kill b 3, step a 27, run b 98, kill a 35, ask a 55,"
        " run b 4, run a 37",
    ),
]


def without(rule: Without) -> Decide:
    """`decide` as it is without the rule."""
    source = pathlib.Path(str(failover.__file__)).read_text(encoding="utf-8")
    if source.count(rule.line) != 1:
        raise ValueError(f"{rule.rule}: its line stands {source.count(rule.line)} times in failover.py")
    module = types.ModuleType(failover.__name__)
    module.__package__ = failover.__package__
    exec(compile(source.replace(rule.line, rule.instead), rule.rule, "exec"), module.__dict__)
    decide: Decide = module.decide
    return decide

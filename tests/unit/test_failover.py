"""The decision of fail-over, act by act; test_failover_simulation.py plays it against faults."""

from __future__ import annotations

import itertools
import json

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure import arbiter
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.arbiter import (
    LIMITS,
    UNREAD,
    Decision,
    Do,
    Member,
    Own,
    State,
    Swap,
    View,
    Wish,
)
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.failover import decide

PAIR = State(3, "db1", "db2", "x2", 7)
WRITER = Own(
    "db1", "db2", True, 90000.0, True, True, "x1", 3, True, True, True, True, 0.0, "", False, 99.0, 50, 50, True, 0.0,
    "", False, None, None, None,
)  # fmt: skip
REPLICA = Own(
    "db2", "db1", True, 90000.0, True, True, "x2", 3, False, False, False, False, 99.0, "db1", True, 0.0, 50, 50, True,
    0.0, "", True, None, None, None,
)  # fmt: skip
MEMBER = {"db1": arbiter.report(WRITER), "db2": arbiter.report(REPLICA)}


def writer(
    own: Own = WRITER, state: State | None = PAIR, peer: Member | None = MEMBER["db2"], **view: object
) -> Decision:
    return decide(own, View(0.1, 20, state, peer)._replace(**view))  # type: ignore[arg-type]


def replica(
    own: Own = REPLICA, state: State | None = PAIR, peer: Member | None = MEMBER["db1"], **view: object
) -> Decision:
    return decide(own, View(0.1, 20, state, peer)._replace(**view))  # type: ignore[arg-type]


LOST = REPLICA._replace(silent=5.0)


def test_a_healthy_pair_is_left_alone() -> None:
    assert writer() == ("writes", "with db2", ())
    assert replica() == ("follows", "follows db1", ())


def test_a_lost_writer_is_replaced_in_two_acts() -> None:
    first = replica(LOST, peer=None)
    assert (first.rule, first.actions) == ("promotes", (Do.STOP_RECEIVING,))
    second = replica(LOST._replace(receiving=False), peer=None)
    alone = State(3, "db2", "", "", 8, "", 90000.0)
    assert second.actions == (Swap(20, alone), Do.SEMI_SYNC_OFF, Do.OPEN)
    assert second.why == "db1 is silent and its lease has ended"


def test_what_was_received_is_applied_before_a_promotion_by_a_stopped_applier_too() -> None:
    behind = LOST._replace(receiving=False, applied=40)
    assert replica(behind, peer=None) == ("applies", "applies rows 41 to 50 first", ())
    assert replica(behind._replace(applying=False), peer=None).actions == (Do.APPLY,)


@pytest.mark.parametrize(
    ("own", "view", "why"),
    [
        ({"life": "x3"}, {}, "db1 may have acknowledged rows that are not here"),
        ({"broken": "error 1062"}, {}, "error 1062"),
        ({"fit": False}, {}, "its disk is full or hangs"),
        ({}, {"maintenance": ("db2",)}, "it is in maintenance"),
        ({}, {"paused": True}, "fail-over is paused"),
        ({"automatic": False}, {}, "the mode is assisted: 'webstack db promote'"),
        ({}, {"state": PAIR._replace(moved=88000.0)}, "the last fail-over is less than 60 minutes ago"),
    ],
)
def test_a_promotion_that_is_refused_says_why(own: dict[str, object], view: dict[str, object], why: str) -> None:
    seen = replica(LOST._replace(**own), peer=None, **view)  # type: ignore[arg-type]
    assert why in seen.why
    assert not {Do.OPEN, Do.STOP_RECEIVING} & set(seen.actions)


@pytest.mark.parametrize(
    "view", [{"paused": True}, {"state": PAIR._replace(moved=88000.0)}], ids=["pause", "soon after another"]
)
def test_a_person_may_promote_where_a_program_may_not(view: dict[str, object]) -> None:
    wish = Wish(7, "db2")
    assert replica(LOST, peer=None, wish=wish, **view).rule == "promotes"
    assert replica(LOST._replace(automatic=False), peer=None, wish=wish, **view).rule == "promotes"
    assert replica(LOST, peer=None, wish=Wish(6, "db2"), **view).rule != "promotes", "a wish of an earlier turn"


def test_force_says_what_it_goes_past_and_opens_an_epoch() -> None:
    gone = LOST._replace(life="x3", receiving=False)
    forced = replica(gone, peer=None, wish=Wish(7, "db2", True))
    assert forced.actions == (
        Swap(20, State(4, "db2", "", "", 8, "db2", 0.0)), Do.NEW_EPOCH, Do.SEMI_SYNC_OFF, Do.OPEN,
    )  # fmt: skip
    alone = PAIR._replace(replica="", life="")
    refused = replica(gone, alone, None, wish=Wish(7, "db2", True))
    assert "power it off and say so with --peer-is-off" in refused.why
    assert replica(gone, alone, None, wish=Wish(7, "db2", True, True)).rule == "promotes_by_force"
    lives = replica(gone._replace(silent=0.0), alone, wish=Wish(7, "db2", True, True))
    assert lives.rule != "promotes_by_force", "the writer lives"
    broken = replica(gone._replace(broken="drift in shop.orders"), alone, None, wish=Wish(7, "db2", True, True))
    assert "drift in shop.orders" in broken.why


def test_semi_sync_that_somebody_turned_off_is_turned_on() -> None:
    assert writer(WRITER._replace(semi_sync=False)).actions == (Do.SEMI_SYNC_ON,)


def test_a_replica_that_is_not_connected_is_not_counted_on_whatever_it_last_said() -> None:
    alone = PAIR._replace(replica="", life="")
    assert writer(WRITER._replace(semi_sync=False), alone).rule == "protects"
    assert writer(WRITER._replace(semi_sync=False, followed=False), alone).rule == "alone"


def test_a_writer_that_cannot_write_is_fenced_also_when_it_is_alone() -> None:
    full = WRITER._replace(fit=False)
    assert writer(full).actions == (Do.FENCE,)
    assert writer(full, PAIR._replace(replica="", life=""), None).actions == (Do.FENCE,)
    closed = full._replace(open=False, address=False)
    assert writer(closed, peer=None).actions == ()
    assert writer(closed).actions == ()
    moved = State(3, "db2", "db1", "x1", 8)
    assert writer(closed, wish=Wish(7, "db2")).actions == (Swap(20, moved),)


def test_nothing_is_done_by_a_store_that_never_answered_or_holds_nothing() -> None:
    for own in (WRITER, REPLICA):
        assert decide(own, View(9.0, UNREAD, None, None)) == ("unread", "the store has not answered yet", ())
        assert decide(own, View(0.1, 5, None, None)).rule == "no_value"
    down = REPLICA._replace(up=False)
    assert decide(down, View(9.0, UNREAD, None, None)).actions == (Do.START,)
    stranger = writer(state=State(3, "db9"))
    assert (stranger.rule, stranger.actions) == ("stranger", ())


def test_it_answers_whatever_it_sees() -> None:
    """Every combination of what is yes or no, for both, alone and in a pair: a word, a reason, known acts."""
    flags = ("up", "fit", "open", "semi_sync", "receiving", "truncated", "address")
    states = [PAIR, PAIR._replace(replica="", life=""), State(4, "db1"), State(4, "db2", opener="db2"), None]
    for own, state, peer in itertools.product((WRITER, REPLICA), states, (None, *MEMBER.values())):
        for values in itertools.product((True, False), repeat=len(flags)):
            for more in ({}, {"broken": "x"}, {"contained": True, "source": ""}, {"pending": 20}, {"stalled": 9.0}):
                seen = own._replace(**dict(zip(flags, values, strict=True)), **more)  # type: ignore[arg-type]
                decision = decide(seen, View(0.1, 20, state, peer))
                assert decision.rule
                assert decision.why
                assert all(isinstance(act, Do | Swap | arbiter.Note) for act in decision.actions)


# --- the value --------------------------------------------------------------------------------------


def test_the_value_is_read_as_it_was_written() -> None:
    for state in (PAIR, State(1, "db1"), State(4, "db2", opener="db2", moved=1.5)):
        assert arbiter.decode(arbiter.encode(state, "db1 0a")) == state


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "has format 2, this program reads 1"),
        ({"epoch": "3"}, "has a wrong epoch: '3'"),
        ({"turn": True}, "has a wrong turn: True"),
        ({"writer": ""}, "contradicts itself"),
        ({"replica": "db1"}, "contradicts itself"),
        ({"life": ""}, "contradicts itself"),
        ({"more": 1}, "lacks or does not know: more"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        arbiter.decode(json.dumps({**json.loads(arbiter.encode(PAIR, "db1 0a")), **change}))
    for text in ("", "[]", "{", "3"):
        with pytest.raises(ValueError, match="value in the store"):
            arbiter.decode(text)


def test_a_lease_outlives_what_is_tried_with_it() -> None:
    """A writer goes on alone before its replica counts it as lost, and gives up its address when that one may act."""
    assert LIMITS.tick < LIMITS.degrade < LIMITS.silent < LIMITS.lease
    assert LIMITS.withdraw <= LIMITS.lease

"""The agent of a database host: in which order it reads, looks and acts, and what it does when one of these fails."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from agent_host import ALONE, BOTH, FOLLOWS, LOST, MEMBER, UNDER_IT, WRITER, Host, SaysNo
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import acts, agent, board
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.arbiter import (
    LIMITS,
    Decision,
    Do,
    Note,
    State,
    Swap,
    Wish,
)
from ansible_collections.webstack.ha.plugins.module_utils.webstack.quorum.gateway import Refused, Unknown
from ansible_collections.webstack.ha.plugins.module_utils.webstack.quorum.store import Gone

SILENCE = Unknown("no member answers")


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def decides(host: Host, *acts: Any, rule: str = "x") -> None:
    """Have the agent decide for these acts at each look."""
    host.patch.setattr(agent, "decide", lambda *_: Decision(rule, "because", acts))


def ready(host: Host, state: State = ALONE) -> agent.Agent:
    """Return an agent that has read the store and looked once."""
    host.store.state = state
    one = host.agent()
    with host.patch.context() as patch:
        patch.setattr(agent, "decide", lambda *_: Decision("quiet", "a test"))
        one.tick()
    one.pending = None
    host.did.clear()
    return one


def said(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((host.home / "run/agent.json").read_text())
    return found


# --- reading ----------------------------------------------------------------------------------------


def test_it_reads_before_it_looks(host: Host) -> None:
    """What stands in the store when it looks may be newer than what it knows, never the other way round."""
    host.store.state = ALONE
    one = host.agent()
    order: list[str] = []
    host.store.before = lambda: order.append("read")
    look = one.observer.own
    host.patch.setattr(one.observer, "own", lambda session: order.append("look") or look(session))
    one.tick()
    assert order[:2] == ["read", "look"]


def test_the_first_revision_read_after_a_start_is_pending(host: Host) -> None:
    """A swap of the agent before may still be on its way."""
    host.store.state = ALONE
    one = host.agent()
    revision = host.store.held["database/state"].revision
    one.read()
    assert one.pending == revision
    host.store.state = BOTH
    one.read()
    assert one.pending == revision


def test_a_store_without_a_value_is_not_an_unread_one(host: Host) -> None:
    host.server.away = False
    one = host.agent()
    one.tick()
    assert (one.reading.revision, said(host)["rule"]) == (0, "no_value")


def test_what_cannot_be_read_stays_what_it_was_and_grows_old(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    one = ready(host)
    before = one.reading
    host.store.fails["all"] = SILENCE
    host.now += 7
    one.read()
    one.read()
    assert one.reading is before
    assert one.view().age == 7
    assert capsys.readouterr().err.count("the quorum: no member answers") == 1


def test_a_value_that_nobody_understands_is_an_unanswered_question(host: Host) -> None:
    one = ready(host)
    host.store.write("database/state", '{"format": 2}')
    one.read()
    assert one.reading.state == ALONE
    assert "run the role mysql_replication on both database hosts" in one.news.problem


@pytest.mark.parametrize("text", ["{}", "[]", "no", '{"turn": 1, "to": "db2"}'])
def test_a_wish_that_cannot_be_read_is_said(host: Host, text: str) -> None:
    host.store.write("database/wish", text)
    with pytest.raises(Problem, match="database/wish in the store cannot be read"):
        board.Board("db1", 1, host.store).read()  # type: ignore[arg-type]


def test_a_lease_that_has_ended_is_replaced(host: Host) -> None:
    one = ready(host)
    lease = one.board.lease
    host.store.leases.clear()
    host.did.clear()
    one.read()
    assert host.did == ["store read"], "a lease that was just renewed is not renewed again"
    host.now += board.KEEP_SECONDS
    one.read()
    assert one.board.lease not in (0, lease)
    assert host.did == ["store read", "store keep", "store grant", "store read"]


def test_what_it_says_goes_out_when_it_matters_and_else_now_and_then(host: Host) -> None:
    one = ready(host)
    one.board.publish(MEMBER)
    host.did.clear()
    one.board.publish(MEMBER._replace(received=7, applied=7))
    assert host.did == [], "how far it has come is no news"
    one.board.publish(MEMBER._replace(received=8), hurry=True)
    one.board.publish(MEMBER._replace(received=8, fit=False))
    assert host.did == ["store put"] * 2
    host.now += board.SAY_SECONDS
    one.board.publish(MEMBER._replace(received=8, fit=False))
    assert host.did == ["store put"] * 3
    assert board.SAY_SECONDS + 2 * LIMITS.tick < LIMITS.lease, "one that is well never counts as silent"


# --- for people -------------------------------------------------------------------------------------


def test_a_change_of_the_writer_is_written_down_when_nothing_is_left_to_do(host: Host) -> None:
    """Never on the way to an open writer: it would cost the time of a question."""
    one = ready(host, BOTH)
    assert one.swap(Swap(one.reading.revision, State(1, "db2", "db1", "life", 1)), MEMBER, "asked for")
    one.acted = (Do.OPEN,)
    one.read()
    assert "database/last" not in host.store.held
    one.acted = ()
    host.store.fails["put"] = SILENCE
    one.read()
    assert "database/last" not in host.store.held
    del host.store.fails["put"]
    one.read()
    one.read()
    told = json.loads(host.store.held["database/last"].text or "")
    assert told == {"at": 1e9, "from": "db1", "to": "db2", "why": "asked for"}
    host.now += 2
    one.tick()
    assert said(host)["last"] == told


def test_a_writer_that_goes_on_alone_has_not_changed(host: Host) -> None:
    one = ready(host, BOTH)
    assert one.swap(Swap(one.reading.revision, ALONE), MEMBER, "db2 is silent")
    one.read()
    assert "database/last" not in host.store.held


@pytest.mark.parametrize("text", ["", "no", "[]", '{"at": "x"}', '{"at": 1}'])
def test_what_was_written_for_people_stops_nothing(host: Host, text: str) -> None:
    one = ready(host)
    host.store.write("database/last", text)
    host.now += 2
    one.tick()
    assert said(host)["last"] is None


def test_the_writer_counts_what_nobody_else_has(host: Host) -> None:
    host.store.state = ALONE
    host.opens()
    host.server.logged = "0-1-20"
    one = host.agent()
    one.tick()
    assert said(host)["alone"] == {"since": 1e9, "turn": 0, "from": 20, "transactions": 0}
    host.server.logged = "0-1-27"
    host.now += 2
    one.tick()
    assert said(host)["alone"]["transactions"] == 7
    again = host.agent()
    again.tick()
    assert said(host)["alone"]["transactions"] == 7, "a new agent begins to count anew"
    host.store.state = BOTH
    host.now += 2
    again.tick()
    assert said(host)["alone"] is None


def test_the_other_host_knows_since_when_and_not_how_many(host: Host) -> None:
    host.store.state = UNDER_IT
    one = host.agent()
    one.tick()
    assert said(host)["alone"] == {"since": 1e9, "turn": 0, "from": None, "transactions": None}


# --- who is silent ----------------------------------------------------------------------------------


def heard(host: Host) -> agent.Agent:
    """Return an agent that has just heard of the other one."""
    one = ready(host)
    host.store.reports(FOLLOWS)
    one.read()
    assert one.view().peer == FOLLOWS
    return one


def test_a_report_that_is_not_renewed_makes_the_other_one_silent(host: Host) -> None:
    one = heard(host)
    while host.now < 1000 + LIMITS.lease:
        host.now += 0.2
        one.read()
    host.now += 0.2
    one.read()
    assert one.reading.reports["db2"] == FOLLOWS
    assert one.view().peer is None
    host.store.reports(FOLLOWS)
    one.read()
    assert one.view().peer == FOLLOWS


def test_silence_of_the_store_makes_nobody_silent(host: Host) -> None:
    one = heard(host)
    host.store.fails["all"] = SILENCE
    host.now += 60
    one.read()
    assert one.view().peer == FOLLOWS
    # It answers again; the other one could not say anything meanwhile, either.
    host.store.fails.clear()
    one.read()
    assert one.view().peer == FOLLOWS
    for _ in range(5):
        host.now += 0.2
        one.read()
    assert one.view().peer is None


# --- looking ----------------------------------------------------------------------------------------


def test_a_server_that_takes_no_session_is_down(host: Host) -> None:
    one = ready(host)
    one.session = None
    host.server.away = True
    own = one.look()
    assert (own.up, own.fit, own.open) == (False, False, False)
    assert one.observer.seen == {}
    assert one.news.problem == "the server: ERROR 2002"


def test_a_lost_session_is_replaced_once(host: Host) -> None:
    one = ready(host)
    before = host.server.sessions
    first, host.server.answer = host.server.answer, lambda _: (_ for _ in ()).throw(LOST)  # type: ignore[method-assign]

    def connect(options: Any, limit: float) -> Any:
        host.server.answer = first  # type: ignore[method-assign]
        return again(options, limit)

    again = host.connect
    host.patch.setattr("ansible_collections.webstack.ha.plugins.module_utils.webstack.core.mariadb._connect", connect)
    assert one.look().up
    assert host.server.sessions == before + 1
    assert one.news.problem == ""


def test_a_second_lost_session_is_a_server_that_is_down(host: Host) -> None:
    one = ready(host)
    host.server.fails["@@version"] = LOST
    before = host.server.sessions
    assert not one.look().up
    assert host.server.sessions == before + 1


def test_a_look_that_took_long_is_not_begun_again(host: Host) -> None:
    one = ready(host)
    before = host.server.sessions

    def hangs(_statement: str) -> list[Any]:
        host.now += 3
        raise LOST

    host.server.answer = hangs  # type: ignore[method-assign]
    assert not one.look().up
    assert host.server.sessions == before


@pytest.mark.parametrize("words", ["@@version", "GLOBAL_STATUS", "webstack_epoch", "PROCESSLIST", "SHOW ALL"])
def test_any_other_error_of_a_look_decides_nothing(host: Host, words: str) -> None:
    one = ready(host)
    host.server.fails[words] = SaysNo(1142, "SELECT command denied")
    decides(host, Do.FENCE)
    assert one.tick() == LIMITS.tick
    assert host.acted() == [act for act in host.acted() if act.startswith("! ")]
    assert "ERROR 1142" in one.news.problem
    assert host.store.report("db2") is None


# --- acting -----------------------------------------------------------------------------------------


def test_a_list_ends_at_the_first_act_that_fails(host: Host) -> None:
    one = ready(host)
    host.server.fails["master_enabled = OFF"] = SaysNo(1205, "Lock wait timeout")
    decides(host, Do.SEMI_SYNC_OFF, Do.OPEN)
    one.tick()
    assert host.acted() == ["! SET GLOBAL rpl_semi_sync_master_enabled = OFF"]
    assert host.server.read_only
    assert one.news.problem == "semi_sync_off: ERROR 1205: Lock wait timeout"


def test_a_session_that_ends_is_not_replaced_within_a_list(host: Host) -> None:
    """What is true for one run of the server is not for the next: that one has semi-sync off."""
    one = ready(host)
    decides(host, Do.SEMI_SYNC_ON, Do.OPEN)
    host.server.fails["SET GLOBAL rpl_semi_sync_master_wait"] = LOST
    before = host.server.sessions
    one.step()
    assert host.server.read_only
    assert host.server.sessions == before
    assert one.session is not None
    assert one.session.ended
    with pytest.raises(acts.Ended, match="has ended"):
        one.session.rows("SELECT 1")
    host.server.fails.clear()
    decides(host)
    one.step()
    assert host.server.sessions == before + 1


def test_acts_in_the_server_need_a_session(host: Host) -> None:
    with pytest.raises(acts.Ended, match="does not answer"):
        host.agent().acts.do(Do.OPEN, None)
    assert host.acted() == []


def test_every_act_can_be_done(host: Host) -> None:
    """No act is unknown to the agent: each fails for a reason of its own, or is done."""
    one = ready(host)
    for act in Do:
        with host.patch.context() as patch:
            name = {Do.APPLY: "start"}.get(act, act.name.lower())
            # A seed goes on for hours, beside the agent.
            place = one.seeder if act is Do.SEED else acts.Acts
            patch.setattr(place, "begin" if act is Do.SEED else name, lambda *_: None)
            assert one.carry_out(act, None, "")


def test_while_another_command_works_nothing_is_decided(host: Host) -> None:
    one = ready(host)
    decides(host, Do.FENCE)
    with lock.hold("db", "a restart", 1):
        one.tick()
    assert host.acted() == []
    assert said(host)["rule"] == "busy"
    assert "a restart" in said(host)["why"]


def test_nothing_is_started_before_the_store_has_answered_but_for_a_while(host: Host) -> None:
    host.store.fails["all"] = SILENCE
    host.server.away = True
    host.unit = "inactive"
    one = host.agent()
    one.tick()
    assert [act for act in host.acted() if act.startswith("systemctl")] == []
    host.now += agent.BOOT_SECONDS
    one.tick()
    assert "systemctl start mariadb.service [MYSQLD_OPTS=]" in host.acted()


def test_a_closed_server_is_fenced_and_an_open_one_keeps_its_events(host: Host) -> None:
    one = ready(host)
    decides(host)
    one.tick()
    assert host.acted() == []
    host.server.fenced = "0"
    one.tick()
    assert host.acted() == ["SET GLOBAL tx_read_only = ON"]


def test_the_noted_position_is_forgotten_with_semi_sync(host: Host) -> None:
    one = ready(host)
    for act in (Do.SEMI_SYNC_ON, Do.SEMI_SYNC_OFF):
        assert one.carry_out(Note("theirs", 5), None, "")
        assert one.mark == ("theirs", 5)
        assert one.look().mark == ("theirs", 5)
        assert one.carry_out(act, None, "")
        assert one.mark is None


def test_a_note_stays_when_semi_sync_cannot_be_changed(host: Host) -> None:
    one = ready(host)
    one.carry_out(Note("theirs", 5), None, "")
    host.server.fails["master_enabled"] = SaysNo(1205, "wait")
    assert not one.carry_out(Do.SEMI_SYNC_ON, None, "")
    assert one.mark == ("theirs", 5)


# --- the swap ---------------------------------------------------------------------------------------


def swapped(host: Host, state: State = BOTH) -> tuple[agent.Agent, bool]:
    """Let the agent swap, and return whether its list goes on."""
    one = ready(host)
    decides(host, Swap(one.reading.revision, state), Do.SEMI_SYNC_OFF)
    one.tick()
    return one, "SET GLOBAL rpl_semi_sync_master_enabled = OFF" in host.acted()


def test_a_swap_goes_with_the_report_of_the_look_that_led_to_it(host: Host) -> None:
    host.server.gtid = "0-1-7"
    one, went_on = swapped(host)
    assert went_on
    value, report = (host.store.held[f"database/{key}"] for key in ("state", "members/db1"))
    assert host.store.state == BOTH
    assert value.revision == report.revision
    assert report.lease == one.board.lease
    own = host.store.report("db1")
    assert own is not None
    assert own.applied == 7


def test_what_was_written_is_what_was_read_last(host: Host) -> None:
    one, _ = swapped(host)
    assert (one.reading.state, one.reading.revision) == (BOTH, host.store.held["database/state"].revision)
    assert one.pending is None


def test_a_success_forgets_what_was_pending(host: Host) -> None:
    one = ready(host)
    one.pending = one.reading.revision
    assert one.look().pending == one.reading.revision
    assert one.swap(Swap(one.reading.revision, ALONE), MEMBER, "why")
    assert one.pending is None


@pytest.mark.parametrize("arrives", [True, False])
def test_a_swap_of_unknown_outcome_is_pending(host: Host, arrives: bool) -> None:
    host.store.loses = arrives
    if not arrives:
        host.store.fails["swap"] = SILENCE
    one = ready(host)
    revision = one.reading.revision
    decides(host, Swap(revision, BOTH), Do.SEMI_SYNC_OFF)
    one.tick()
    assert one.pending == revision
    assert one.reading.state == ALONE
    assert host.acted() == ["store swap"]


@pytest.mark.parametrize("no", ["another", "gone", "refused"])
def test_a_definite_no_is_not_pending_and_ends_the_list(host: Host, no: str) -> None:
    one = ready(host)
    decides(host, Swap(one.reading.revision, BOTH), Do.SEMI_SYNC_OFF)
    if no == "another":
        host.patch.setattr(one.board, "publish", lambda *_: setattr(host.store, "state", UNDER_IT))
    else:
        host.store.fails["swap"] = Gone("it has ended") if no == "gone" else Refused("no", 3)
    one.tick()
    assert one.pending is None
    assert one.reading.state == ALONE
    # A lease that has ended is replaced, once.
    assert host.acted() == ["store swap"] * (2 if no == "gone" else 1)
    assert (one.board.lease == 0) is (no == "gone")


def test_a_swap_after_a_look_that_outlasted_the_lease_goes_on_a_new_one(host: Host) -> None:
    """Else its report of the look would not go with it, and a server that hangs would never be started anew."""
    one = ready(host)
    host.now += 1
    host.store.fails["put"] = Gone("it has ended")
    decides(host, Swap(one.reading.revision, BOTH))
    one.tick()
    assert host.acted() == ["store swap"]
    assert host.did.index("store grant", host.did.index("store put")) < host.did.index("store swap")
    assert host.store.state == BOTH
    assert host.store.report("db1") is not None
    assert one.pending is None


def test_a_new_epoch_is_that_of_the_swap_before_it(host: Host) -> None:
    one = ready(host)
    decides(host, Swap(one.reading.revision, State(4, "db1", opener="db1")), Do.NEW_EPOCH)
    one.tick()
    assert "REPLACE INTO mysql.webstack_epoch VALUES (1, 4)" in host.did


# --- the address ------------------------------------------------------------------------------------


def test_the_address_lingers_after_a_planned_move(host: Host) -> None:
    host.takes()
    one = ready(host)
    assert one.swap(Swap(one.reading.revision, State(1, "db2", "db1", "life", 1)), MEMBER, "why")
    one.acts.withdraw()
    assert host.carries()
    # The decision takes it for gone.
    assert not one.look().address
    one.acts.let_go()
    assert host.carries()
    host.now += acts.LINGER_SECONDS
    one.tick()
    assert not host.carries()


def test_the_address_does_not_linger_after_anything_else(host: Host) -> None:
    """A swap that changes nothing, on the host of a former writer, hands nothing over."""
    host.takes()
    one = ready(host, UNDER_IT)
    assert one.swap(Swap(one.reading.revision, UNDER_IT), MEMBER, "why")
    one.acts.withdraw()
    assert not host.carries()


def test_a_fence_drops_the_address_at_once(host: Host) -> None:
    host.takes()
    one = ready(host)
    one.acts.handed_over()
    one.acts.fence()
    assert host.did == [f"ip address del {WRITER} dev eth0", "kill"]


# --- a whole life -----------------------------------------------------------------------------------


def test_the_writer_alone_opens_and_serves(host: Host) -> None:
    host.store.state = ALONE
    one = host.agent()
    for _ in range(4):
        one.tick()
    assert not host.server.read_only
    assert host.carries()
    assert said(host)["rule"] == "writes"
    assert host.store.state == ALONE


def test_a_writer_that_is_asked_for_the_other_one_hands_over(host: Host) -> None:
    host.opens()
    host.server.gtid, host.server.logged, host.server.semi_sync, host.server.timeout = "0-1-5", "0-1-5", "1", "86400000"
    host.server.dumps = ["192.0.2.42:4711"]
    host.store.state = BOTH
    host.store.reports(FOLLOWS)
    one = host.agent()
    one.tick()
    host.store.wish(Wish(0, "db2"))
    for _ in range(3):
        host.store.reports(FOLLOWS)
        assert one.tick() <= LIMITS.hurry or one.reading.wish is None
    assert host.server.read_only
    assert host.store.state.writer == "db2"
    assert host.store.state.replica == "db1"


def test_the_pauses_between_two_looks(host: Host) -> None:
    one = ready(host)
    assert one.tick() == agent.AFTER_ACTS
    decides(host)
    assert one.tick() == LIMITS.tick
    host.store.wish(Wish(0, "db2"))
    assert one.tick() == LIMITS.hurry


def test_what_people_see(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    one = ready(host)
    capsys.readouterr()
    decides(host, rule="quiet")
    one.tick()
    one.tick()
    assert capsys.readouterr().err == ""
    host.now += 2
    one.tick()
    seen = said(host)
    assert (seen["rule"], seen["why"], seen["problem"]) == ("quiet", "because", "")
    assert seen["state"] == ALONE._asdict()
    assert seen["own"]["name"] == "db1"
    (host.home / "run/agent.json").unlink()
    (host.home / "run").rename(host.home / "no")
    host.now += 2
    one.news.note(Decision("y", "no room for this"), None, one.reading, "")

"""What people ask the agents for: what each command refuses before anything is asked, and what ends when it is over."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from agent_host import ALONE, BOTH, FOLLOWS, UNDER_IT, Host
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import FAILED, GOOD
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import ask, cli, writer
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.arbiter import State
from ansible_collections.webstack.ha.plugins.module_utils.webstack.quorum.gateway import Unknown
from documents import document

SILENCE = Unknown("no member answers")


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    one = Host(tmp_path, monkeypatch)
    monkeypatch.setattr(ask, "time", SimpleNamespace(monotonic=lambda: one.now, sleep=one.sleep))
    one.store.state = BOTH
    one.store.reports(FOLLOWS)
    return one


def asks(host: Host, *words: str) -> int:
    host.did.clear()
    return cli.main(list(words))


def changed(host: Host) -> list[str]:
    """What a command did besides reading the store."""
    return [act for act in host.did if act != "store read"]


def later(host: Host, seconds: float, change: Callable[[], None]) -> None:
    """Have the agents do their part so many seconds after the first time that somebody reads."""
    begin = host.now + seconds
    done: list[bool] = []

    def before() -> None:
        if host.now >= begin and not done:
            done.append(True)
            change()

    host.store.before = before


def to_db2(host: Host) -> None:
    host.store.state = State(1, "db2", "db1", "l", 1)


# --- whoever asks where nobody decides, or nothing is known -----------------------------------------

COMMANDS = [["switchover"], ["maintenance", "on"], ["maintenance", "off"], ["pause", "on"], ["enroll"], ["promote"]]


@pytest.mark.parametrize("words", COMMANDS[:-1], ids=" ".join)
def test_where_no_quorum_decides(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    host = Host(tmp_path, monkeypatch, "manual")
    assert asks(host, *words) == FAILED
    assert "no quorum decides here (mysql_replication_mode: manual)" in capsys.readouterr().err
    assert host.did == []


@pytest.mark.parametrize(
    "words", [["switchover"], ["maintenance", "on"], ["maintenance", "off"], ["promote"]], ids=" ".join
)
def test_before_there_is_a_value(host: Host, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    del host.store.held["database/state"]
    assert asks(host, *words) == FAILED
    assert "holds no value for the database yet: run the role mysql_replication" in capsys.readouterr().err
    assert changed(host) == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_silent_store_is_an_error(host: Host, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    host.store.fails["all"] = SILENCE
    assert asks(host, *words) == FAILED
    assert "no member answers" in capsys.readouterr().err
    assert [act for act in host.acted() if not act.startswith("store ")] == []


def test_close_is_refused_where_agents_decide(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """The agent would open it again at its next look."""
    assert asks(host, "close") == FAILED
    assert "the quorum decides who writes: 'webstack db switchover', or 'maintenance on'" in capsys.readouterr().err
    assert host.did == []


def test_a_person_may_close_where_none_decide(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch, "manual")
    closed: list[object] = []
    monkeypatch.setattr(writer, "close_for_writes", closed.append)
    assert asks(host, "close") == GOOD
    assert len(closed) == 1


# --- a planned move ---------------------------------------------------------------------------------


def maintained(host: Host) -> None:
    host.store.write("database/maintenance/db2", "db2")


def no_report(host: Host) -> None:
    del host.store.held["database/members/db2"]


def member(**changes: Any) -> Callable[[Host], None]:
    return lambda host: host.store.reports(FOLLOWS._replace(**changes))


def alone(host: Host) -> None:
    host.store.state = ALONE


def suspended(host: Host) -> None:
    host.store.write("database/suspended", "db1")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (maintained, "db2 cannot take over now: it is in maintenance ('webstack db maintenance off' there)"),
        (no_report, "its agent does not report (systemctl status webstack-db there)"),
        (member(broken="error 1062: Duplicate entry"), "error 1062: Duplicate entry"),
        (alone, "it does not hold every row of db1"),
        (member(life="another"), "it does not hold every row of db1"),
        (member(fit=False), "it cannot write: full or hanging disk"),
        (member(source=""), "its replication is stopped"),
        (member(applying=False), "its replication is stopped"),
        (member(lag=7.0), "it is 7 s behind"),
        (suspended, "the agents are suspended, on db1"),
    ],
)
def test_a_move_is_refused_before_anything_is_asked(
    host: Host, capsys: pytest.CaptureFixture[str], change: Callable[[Host], None], why: str
) -> None:
    change(host)
    assert asks(host, "switchover") == FAILED
    assert why in capsys.readouterr().err
    assert changed(host) == []


def test_a_move_to_a_stranger_is_refused(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert asks(host, "switchover", "--to", "db3") == FAILED
    assert "'db3' is none of this site's database hosts" in capsys.readouterr().err
    assert changed(host) == []


def test_a_move_to_the_writer_is_done_already(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert asks(host, "switchover", "--to", "db1") == GOOD
    assert "db1 is the writer already" in capsys.readouterr().out
    assert changed(host) == []


def test_a_move_waits_until_it_has_come(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    def moves() -> None:
        assert json.loads(str(host.store.held["database/wish"].text)) == {
            **{"turn": 0, "to": "db2", "force": False, "peer_is_off": False}
        }
        to_db2(host)

    later(host, 1, moves)
    assert asks(host, "switchover") == GOOD
    assert "db2 is the writer after 1" in capsys.readouterr().out
    assert "database/wish" not in host.store.held


def test_a_pause_does_not_stop_a_planned_move(host: Host) -> None:
    host.store.write("database/paused", "db1")
    later(host, 1, lambda: to_db2(host))
    assert asks(host, "switchover") == GOOD


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (no_report, ": its agent does not report. The wish is withdrawn"),
        (member(broken="error 1062: x"), ": error 1062: x. The wish is withdrawn"),
        (lambda _: None, "; 'webstack db status' on db2 says why. The wish is withdrawn"),
    ],
)
def test_a_wish_is_withdrawn_when_the_time_is_over(
    host: Host, capsys: pytest.CaptureFixture[str], change: Callable[[Host], None], why: str
) -> None:
    later(host, 1, lambda: change(host))
    assert asks(host, "switchover", "--wait", "5") == FAILED
    assert f"db2 has not become the writer within 5 s{why}" in capsys.readouterr().err
    assert "database/wish" not in host.store.held
    assert host.did[-1] == "store revoke"


def test_a_wish_does_not_outlive_its_command(host: Host) -> None:
    """Its lease is renewed for as long as somebody waits, and ended also when that breaks off."""
    later(host, 1, lambda: host.store.fails.update(keep=SILENCE))
    assert asks(host, "switchover") == FAILED
    assert "database/wish" not in host.store.held
    assert host.did.count("store keep") > 2


# --- promote ----------------------------------------------------------------------------------------


def test_promote_asks_for_this_host(host: Host) -> None:
    host.store.state = UNDER_IT
    wishes: list[Any] = []

    def promoted() -> None:
        wishes.append(json.loads(str(host.store.held["database/wish"].text)))
        host.store.state = State(2, "db1", turn=1)

    later(host, 1, promoted)
    assert asks(host, "promote", "--force", "--peer-is-off") == GOOD
    assert wishes == [{"turn": 0, "to": "db1", "force": True, "peer_is_off": True}]


def test_promote_says_what_the_agent_here_thinks(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.store.state = UNDER_IT
    (host.home / "run/agent.json").write_text(json.dumps({"why": "db2 may be writing alone"}))
    assert asks(host, "promote", "--wait", "2") == FAILED
    assert "within 2 s: db2 may be writing alone. The wish is withdrawn" in capsys.readouterr().err


def test_promote_leaves_the_writer_alone(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    suspended(host)
    assert asks(host, "promote") == GOOD
    assert "this server is the writer already" in capsys.readouterr().out
    assert changed(host) == []


def test_promote_is_refused_while_nobody_would_do_it(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.store.state = UNDER_IT
    suspended(host)
    assert asks(host, "promote") == FAILED
    assert "the agents are suspended" in capsys.readouterr().err
    assert changed(host) == []


# --- pause and maintenance --------------------------------------------------------------------------


def test_a_pause_lasts_until_it_ends(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert asks(host, "pause", "on") == GOOD
    assert host.store.held["database/paused"].lease == 0
    assert "fail-over is paused" in capsys.readouterr().out
    assert asks(host, "pause", "off") == GOOD
    assert "database/paused" not in host.store.held


MARK = "database/maintenance/db1"


@pytest.mark.parametrize("then", [State(1, "db2", turn=1), UNDER_IT])
def test_maintenance_waits_until_the_host_may_go_off(
    host: Host, capsys: pytest.CaptureFixture[str], then: State
) -> None:
    later(host, 2, lambda: setattr(host.store, "state", then))
    assert asks(host, "maintenance", "on") == GOOD
    assert "db1 may go off" in capsys.readouterr().out
    assert MARK in host.store.held
    assert asks(host, "maintenance", "off") == GOOD
    assert MARK not in host.store.held


@pytest.mark.parametrize(
    ("state", "role"), [(BOTH, "the writer"), (ALONE, "the writer"), (State(1, "db2", "db1", "l"), "counted on")]
)
def test_maintenance_is_taken_back_when_it_does_not_come(
    host: Host, capsys: pytest.CaptureFixture[str], state: State, role: str
) -> None:
    host.store.state = state
    assert asks(host, "maintenance", "on", "--wait", "3") == FAILED
    assert f"db1 is still {role} after 3 s; maintenance is taken back" in capsys.readouterr().err
    assert MARK not in host.store.held


def test_maintenance_is_taken_back_when_the_store_falls_silent(host: Host) -> None:
    later(host, 1, lambda: host.store.held.pop("database/state") and None)
    assert asks(host, "maintenance", "on") == FAILED
    assert MARK not in host.store.held


def test_maintenance_is_refused_while_nobody_would_move(host: Host) -> None:
    suspended(host)
    assert asks(host, "maintenance", "on") == FAILED
    assert changed(host) == []
    assert asks(host, "maintenance", "off") == GOOD


# --- out of the way for a restart -------------------------------------------------------------------


def test_a_host_is_out_of_the_way_for_a_restart(host: Host) -> None:
    host.store.state = UNDER_IT
    with ask.set_aside(host.config) as aside:
        assert aside
        assert MARK in host.store.held
    assert MARK not in host.store.held


def test_what_fails_meanwhile_leaves_no_maintenance(host: Host) -> None:
    host.store.state = UNDER_IT
    with pytest.raises(KeyError), ask.set_aside(host.config):
        raise KeyError
    assert MARK not in host.store.held


def test_somebodys_own_maintenance_stays(host: Host) -> None:
    host.store.state = UNDER_IT
    host.store.write(MARK, "db1")
    with ask.set_aside(host.config) as aside:
        assert aside
    assert MARK in host.store.held


def test_a_restart_goes_on_where_nobody_can_take_over(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.store.state = ALONE
    with ask.set_aside(host.config, 2) as aside:
        assert not aside
    assert "maintenance is taken back; goes on all the same, and writes stand still" in capsys.readouterr().out
    assert MARK not in host.store.held


def test_a_restart_where_a_person_decides(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch, "manual")
    with ask.set_aside(host.config) as aside:
        assert not aside
    assert host.did == []


# --- the first value --------------------------------------------------------------------------------


def test_the_primary_is_the_first_writer(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    del host.store.held["database/state"]
    host.opens()
    assert asks(host, "enroll") == GOOD
    assert document(capsys.readouterr().out)["changed"] is True
    assert host.store.state == ALONE
    # The data says its epoch before the store does.
    assert host.did.index("REPLACE INTO mysql.webstack_epoch VALUES (1, 1)") < host.did.index("store swap")
    assert asks(host, "enroll") == GOOD
    assert document(capsys.readouterr().out)["changed"] is False
    assert changed(host) == []


@pytest.mark.parametrize("linked", [True, False])
def test_nobody_but_the_primary_is_the_first_writer(
    host: Host, capsys: pytest.CaptureFixture[str], linked: bool
) -> None:
    del host.store.held["database/state"]
    host.server.read_only = not linked
    if linked:
        host.server.links()
    assert asks(host, "enroll") == FAILED
    assert "this server is not the primary: only the primary is the first writer" in capsys.readouterr().err
    assert changed(host) == []


def test_two_do_not_enroll_at_once(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    del host.store.held["database/state"]
    host.opens()
    host.patch.setattr(ask, "write_epoch", lambda *_: setattr(host.store, "state", UNDER_IT))
    assert asks(host, "enroll") == FAILED
    assert "another host wrote its value at this moment: run the role again" in capsys.readouterr().err
    assert host.store.state == UNDER_IT


# --- what the agent said ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", "{"])
def test_an_agent_that_has_said_nothing(host: Host, text: str | None) -> None:
    if text is not None:
        (host.home / "run/agent.json").write_text(text)
    assert ask.said() == {}


# --- a person decides again -------------------------------------------------------------------------


def test_who_decides_by_hand_takes_the_pair_out_of_the_quorum(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "is_known", lambda: True)
    ask.retire(host.config)
    assert host.did == ["store remove"]
    assert host.store.under("database/state") == []


def test_a_pair_that_is_written_down_anew_keeps_the_epoch_of_its_data(host: Host) -> None:
    host.store.remove("database/state")
    host.opens()
    host.server.epoch = "7"
    assert asks(host, "enroll") == GOOD
    assert host.store.state == State(7, "db1")
    assert not [act for act in host.did if "gtid_seq_no" in act]


def test_without_a_quorum_nothing_is_taken_out_of_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "is_known", lambda: False)
    ask.retire(host.config)
    assert host.did == []

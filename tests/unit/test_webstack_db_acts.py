"""What the agent of a database host sees of its server, and what each of its acts does and refuses."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from agent_host import LOST, OTHER, WRITER, Heart, Host, SaysNo
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import mariadb, wait
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done, TooSlow
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import acts, apart, heart, observe, server, start
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.arbiter import LIMITS, Do, Own

# The fakes of a host take the places of these.
KILL, PACKAGES_CHANGE, HEART = start.kill, start.packages_change, heart.Heart
Sees = Callable[[], Own]


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


@pytest.fixture
def eyes(host: Host) -> observe.Observer:
    one = observe.Observer(host.config, Heart())  # type: ignore[arg-type]
    one.is_writer = True
    return one


@pytest.fixture
def session(host: Host) -> acts.Pinned:
    return acts.Pinned({"unix_socket": "s"}, 3, 1)


@pytest.fixture
def does(host: Host, eyes: observe.Observer, session: acts.Pinned) -> acts.Acts:
    eyes.own(session)
    return acts.Acts(host.config, eyes)


@pytest.fixture
def sees(eyes: observe.Observer, session: acts.Pinned) -> Sees:
    return lambda: eyes.own(session)


# --- semi-sync --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        (("1", "86400000", "1"), True),
        (("1", "10000", "1"), False),
        (("1", "86400000", "0"), False),
        (("0", "86400000", "1"), False),
    ],
)
def test_semi_sync_is_on_only_if_a_commit_waits_for_a_decision(
    host: Host, sees: Sees, settings: tuple[str, str, str], counts: bool
) -> None:
    host.server.semi_sync, host.server.timeout, host.server.alone = settings
    assert sees().semi_sync is counts


def test_semi_sync_goes_on_so_that_it_counts(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    host.server.alone = "1"
    does.do(Do.SEMI_SYNC_ON, session)
    assert does.observer.own(session).semi_sync
    # With its limits first: from its first moment on it waits.
    assert host.did[-1] == "SET GLOBAL rpl_semi_sync_master_enabled = ON"
    does.do(Do.SEMI_SYNC_OFF, session)
    assert not does.observer.own(session).semi_sync


def test_a_server_that_says_nothing_of_its_semi_sync_decides_nothing(
    host: Host, eyes: observe.Observer, session: acts.Pinned
) -> None:
    del host.server.status["get_ack"]
    with pytest.raises(Problem, match="says nothing about its semi-sync: get_ack"):
        eyes.own(session)


def test_an_acknowledgement_is_missed_from_the_moment_it_is_due(
    host: Host, eyes: observe.Observer, session: acts.Pinned, does: acts.Acts
) -> None:
    assert eyes.own(session).stalled == 0
    host.server.status["wait_sessions"] = "2"
    host.now += 3
    assert eyes.own(session).stalled == 3
    host.server.status["get_ack"] = "2"
    assert eyes.own(session).stalled == 0
    host.server.status.update(wait_sessions="0", clients="0")
    host.now += 1
    assert eyes.own(session).stalled == 1
    does.semi_sync_on(session)
    assert eyes.own(session).stalled == 0


# --- life -------------------------------------------------------------------------------------------


def test_the_life_changes_with_the_process(host: Host, session: acts.Pinned) -> None:
    first = observe.life_of(session)
    assert observe.life_of(session) == first
    with subprocess.Popen(["sleep", "60"]) as other:
        (host.home / "pid").write_text(str(other.pid))
        second = observe.life_of(session)
        other.kill()
    assert second != first
    # It has ended: nobody knows what answers there.
    with pytest.raises(mariadb.ServerGone, match="the server's process"):
        observe.life_of(session)


def test_truncated_is_said_of_that_life_only(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    assert not eyes.own(session).truncated
    (host.home / "run/truncated").write_text(observe.life_of(session))
    assert eyes.own(session).truncated
    (host.home / "run/truncated").write_text("0-1-1")
    assert not eyes.own(session).truncated


# --- the link ---------------------------------------------------------------------------------------

STOPPED = {"Slave_IO_Running": "No", "Slave_SQL_Running": "No"}


@pytest.mark.parametrize(
    ("link", "gtid", "lag"),
    [
        ({"Gtid_IO_Pos": "0-2-9", "Seconds_Behind_Master": "7"}, "0-2-8", 7),
        ({"Gtid_IO_Pos": "0-2-9", "Seconds_Behind_Master": "7"}, "0-2-9", 0),
        ({"Gtid_IO_Pos": "0-2-9", "Seconds_Behind_Master": None, **STOPPED}, "0-2-9", observe.FAR),
        ({"Gtid_IO_Pos": "0-2-9", "Seconds_Behind_Master": None, "Slave_SQL_Running": "No"}, "0-2-8", observe.FAR),
        (
            {"Gtid_IO_Pos": "0-2-9", "Seconds_Behind_Master": None, "Slave_IO_Running": "Connecting"},
            "0-2-9",
            observe.FAR,
        ),
    ],
)
def test_the_lag(host: Host, sees: Sees, link: dict[str, Any], gtid: str, lag: float) -> None:
    host.server.links(**link)
    host.server.gtid = gtid
    assert sees().lag == lag


def test_without_a_link_nobody_knows_the_lag(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    own = eyes.own(session)
    assert (own.lag, own.source, own.receiving, own.applying) == (observe.FAR, "", False, False)


SQL_STOPPED = {"Slave_SQL_Running": "No", "Last_SQL_Error": "Duplicate entry"}
IO_STOPPED = {"Slave_IO_Running": "No", "Last_IO_Error": "it says"}


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ({}, ""),
        ({"Slave_SQL_Running": "No"}, ""),
        ({**SQL_STOPPED, "Last_SQL_Errno": "1062"}, "error 1062: Duplicate entry"),
        ({**SQL_STOPPED, "Last_SQL_Errno": "1032"}, "error 1032: Duplicate entry"),
        *(({**SQL_STOPPED, "Last_SQL_Errno": number}, "") for number in ("1205", "1213", "1927", "2006", "2013")),
        ({"Last_SQL_Errno": "1062"}, ""),
        *(({**IO_STOPPED, "Last_IO_Errno": n}, f"error {n}: it says") for n in ("1236", "1945", "1950")),
        ({**IO_STOPPED, "Last_IO_Errno": "2003"}, ""),
        ({**IO_STOPPED, "Last_IO_Errno": "1045"}, ""),
        ({"Slave_IO_Running": "Connecting", "Last_IO_Errno": "1236"}, ""),
    ],
)
def test_what_can_only_be_seeded(
    host: Host, eyes: observe.Observer, session: acts.Pinned, link: dict[str, Any], why: str
) -> None:
    host.server.links(**link)
    assert eyes.own(session).broken == why


@pytest.mark.parametrize(("logged", "why"), [("0-1-6", "was written to: 0-1-6"), ("0-1-5", ""), ("0-2-6", "")])
def test_rows_that_a_replica_wrote_itself(
    host: Host, eyes: observe.Observer, session: acts.Pinned, logged: str, why: str
) -> None:
    host.server.links()
    host.server.applied, host.server.logged = "0-2-5", logged
    assert eyes.own(session).broken == why


@pytest.mark.parametrize(
    ("source", "name"),
    [(OTHER, "db2"), ("db2", "db2"), ("192.0.2.99", "192.0.2.99")],
    ids=["address", "name", "stranger"],
)
def test_whom_the_link_names(host: Host, eyes: observe.Observer, session: acts.Pinned, source: str, name: str) -> None:
    host.server.links(Master_Host=source)
    own = eyes.own(session)
    assert (own.source, own.receiving, own.applying) == (name, True, True)
    host.server.links(Master_Host=source, **STOPPED)
    own = eyes.own(session)
    assert (own.source, own.receiving, own.applying) == (name, False, False)


def test_what_was_received_is_never_less_than_what_was_applied(
    host: Host, eyes: observe.Observer, session: acts.Pinned
) -> None:
    host.server.links(Gtid_IO_Pos="0-2-7,1-2-3")
    host.server.gtid, host.server.logged, host.server.applied = "0-2-5", "0-1-6", "0-2-6"
    own = eyes.own(session)
    assert (own.received, own.applied) == (10, 6)
    host.server.links(Gtid_IO_Pos="")
    assert eyes.own(session).received == 6


def test_the_link_is_silent_until_it_brings_something(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    host.server.links()
    assert eyes.own(session).silent > 1e8
    eyes.linked()
    host.now += 2
    assert eyes.own(session).silent == 2
    host.server.links(Slave_received_heartbeats="1")
    assert eyes.own(session).silent == 0
    host.now += 2
    assert eyes.own(session).silent == 2
    # What came before the connection was lost is no news.
    host.server.links(Slave_received_heartbeats="2", Slave_IO_Running="Connecting")
    assert eyes.own(session).silent == 2


def test_who_follows_is_known_by_its_address(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    for hosts, follows in (([], False), (["192.0.2.99:1"], False), ([f"{OTHER}:4711"], True), ([f"[{OTHER}]:1"], True)):
        host.server.dumps = hosts
        assert eyes.own(session).followed is follows


# --- what the other server has ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "has"),
    [
        ("0-1-5", "0-1-5", True),
        ("0-1-5", "0-1-5,0-2-9", True),
        ("0-1-5", "0-1-4,0-2-9", False),
        ("0-1-5", "0-2-9", False),
        ("0-1-5,1-1-2", "0-1-5", False),
        ("", "", True),
    ],
)
def test_whether_the_other_server_has_our_last_row(host: Host, sees: Sees, mine: str, theirs: str, has: bool) -> None:
    host.other.away = False
    host.server.logged, host.other.logged_state = mine, theirs
    assert sees().contained is has


def test_nobody_knows_when_it_does_not_answer(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    assert eyes.own(session).contained is None
    host.other.away = False
    host.other.fails["@@version"] = SaysNo(1227, "Access denied")
    assert eyes.own(session).contained is None


def test_a_writer_and_a_linked_replica_ask_nobody(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    host.other.away = False
    host.server.links()
    assert eyes.own(session).contained is None
    host.server.link, host.server.read_only = None, False
    assert eyes.own(session).contained is None
    assert host.other.sessions == 0


# --- fit --------------------------------------------------------------------------------------------


def test_a_full_disk_cannot_write(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    assert eyes.own(session).fit
    host.patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    assert not eyes.own(session).fit
    host.patch.undo()


def test_a_data_directory_that_is_gone_cannot_write(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    (host.home / "data").rmdir()
    assert not eyes.own(session).fit


def test_a_commit_that_hangs_cannot_write_unless_it_waits_for_the_other_one(
    host: Host, eyes: observe.Observer, session: acts.Pinned
) -> None:
    eyes.heart.ago = observe.HUNG_SECONDS  # type: ignore[attr-defined]
    assert eyes.own(session).fit
    host.server.read_only = False
    assert not eyes.own(session).fit
    host.server.status["wait_sessions"] = "1"
    assert eyes.own(session).fit


def test_an_epoch_is_none_where_there_is_no_table(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    assert eyes.own(session).epoch == 1
    host.server.fails["webstack_epoch"] = SaysNo(1146, "Table doesn't exist")
    assert eyes.own(session).epoch == 0
    host.server.fails["webstack_epoch"] = SaysNo(1030, "Got error 5")
    with pytest.raises(mariadb.SqlError, match="ERROR 1030"):
        eyes.own(session)


def test_without_a_writer_address_an_open_server_has_what_it_would_give_up(
    host: Host, eyes: observe.Observer, session: acts.Pinned
) -> None:
    host.config.writer_address = ""
    assert not eyes.own(session).address
    host.server.read_only = False
    assert eyes.own(session).address
    assert not eyes.without_server().address


def test_the_heart_beats_on_an_open_writer_only(host: Host, eyes: observe.Observer, session: acts.Pinned) -> None:
    eyes.own(session)
    host.server.read_only = False
    eyes.own(session)
    eyes.is_writer = False
    eyes.own(session)
    eyes.without_server()
    assert eyes.heart.beats == [False, True, False, False]  # type: ignore[attr-defined]


def test_a_heart_waits_while_closed_and_goes_on_after_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    turns: list[object] = []
    sleeps = iter([None, None, Stop()])

    def sleep(_seconds: float) -> None:
        turns.append(sum("REPLACE" in act for act in host.did))
        if error := next(sleeps):
            raise error
        one.beat(True)
        host.server.fails = {"REPLACE": SaysNo(1290, "read-only")} if len(turns) == 2 else {}

    monkeypatch.setattr(heart.threading, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(heart, "time", SimpleNamespace(monotonic=lambda: host.now, sleep=sleep))
    one = HEART(host.config)
    with pytest.raises(Stop):
        one.run()
    assert turns == [0, 1, 2]
    host.now += 3
    assert one.since() == 3
    assert "init_command" not in one.session.options


# --- the start --------------------------------------------------------------------------------------


def test_the_server_starts_only_with_its_permit(host: Host, does: acts.Acts) -> None:
    host.unit = "inactive"
    does.do(Do.START, None)
    assert host.did == ["systemctl start mariadb.service [MYSQLD_OPTS=]"]
    assert not (host.home / "run/start.env").exists()


def test_only_a_replica_starts_with_what_nobody_acknowledged_cut_off(
    host: Host, does: acts.Acts, session: acts.Pinned
) -> None:
    host.unit = "failed"
    does.do(Do.START_AS_REPLICA, None)
    assert host.did == ["systemctl start mariadb.service [MYSQLD_OPTS=--init-rpl-role=SLAVE]"]
    assert not (host.home / "run/start.env").exists()
    assert does.observer.own(session).truncated


def test_the_permit_goes_when_the_start_fails(host: Host) -> None:
    with pytest.raises(KeyError), start.permit(as_replica=True):
        assert (host.home / "run/start.env").read_text() == "MYSQLD_OPTS=--init-rpl-role=SLAVE\n"
        raise KeyError
    assert not (host.home / "run/start.env").exists()


@pytest.mark.parametrize("word", ["stop", "reload", "reset-failed"])
def test_no_permit_for_anything_else(host: Host, word: str) -> None:
    server.systemctl(word, "mariadb.service")
    assert host.did == [f"systemctl {word} mariadb.service [refused]"]


def dpkg_works(host: Host) -> None:
    host.dpkg = True


def disk_is_full(host: Host) -> None:
    host.patch.setattr(acts, "has_room", lambda _: False)


def unit(state: str) -> Any:
    def change(host: Host) -> None:
        host.unit = state

    return change


@pytest.mark.parametrize("act", [Do.START, Do.START_AS_REPLICA])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (dpkg_works, "packages are being changed on this host"),
        (disk_is_full, "is full: the server is started when there is room"),
        (unit("activating"), "the server is starting or stopping"),
        (unit("deactivating"), "the server is starting or stopping"),
        (unit("reloading"), "the server is starting or stopping"),
        (unit("active"), "the server runs and does not answer"),
    ],
)
def test_a_start_is_refused(host: Host, does: acts.Acts, act: Do, change: Any, why: str) -> None:
    if change is not dpkg_works:
        host.unit = "active"
    change(host)
    with pytest.raises(Problem, match=why):
        does.do(act, None)
    assert host.did == []


def test_a_server_that_hangs_is_started_anew(host: Host, does: acts.Acts) -> None:
    def refused() -> None:
        with pytest.raises(Problem, match="does not answer"):
            does.start()

    refused()
    host.now += acts.HUNG_SECONDS
    refused()
    # It answered between: its time begins anew.
    does.answers()
    host.now += 0.1
    refused()
    assert host.did == []
    host.now += acts.HUNG_SECONDS + 0.1
    does.start()
    assert host.did == ["kill", "systemctl start mariadb.service [MYSQLD_OPTS=]"]


@pytest.mark.parametrize("locked", [True, False])
def test_dpkg_is_at_work_while_it_holds_its_lock(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    path = tmp_path / "lock"
    path.touch()
    real = os.open
    monkeypatch.setattr(start.os, "open", lambda _, flags: real(path, flags))
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    command = ["python3", "-c", script, str(path)] if locked else ["sh", "-c", "echo 1; read x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert PACKAGES_CHANGE() is locked
        other.communicate(b"\n", timeout=10)
    assert not PACKAGES_CHANGE()
    path.unlink()
    assert not PACKAGES_CHANGE()


# --- the end ----------------------------------------------------------------------------------------


@pytest.fixture
def process(host: Host) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as one:
        host.pid = one.pid
        yield one
        one.kill()


def test_a_kill_is_no_polite_stop(host: Host, process: subprocess.Popen[bytes]) -> None:
    host.unit = "failed"
    KILL()
    assert process.wait(10) == -signal.SIGKILL
    assert host.did == ["systemctl reset-failed mariadb.service"]


def test_a_process_that_does_not_end_is_said(host: Host, process: subprocess.Popen[bytes]) -> None:
    host.patch.setattr(wait, "turned", lambda condition, *_: condition())
    with pytest.raises(Problem, match="killed and has not ended within 10 s: does its disk hang"):
        KILL()
    assert host.did == []


@pytest.mark.parametrize("gone", [True, False])
def test_a_server_that_is_gone_already_is_no_error(host: Host, process: subprocess.Popen[bytes], gone: bool) -> None:
    process.kill()
    process.wait()
    host.pid, host.unit = process.pid if gone else 0, "inactive"
    KILL()
    assert host.did == ["systemctl reset-failed mariadb.service"]


# --- closing ----------------------------------------------------------------------------------------


def test_a_server_closes_and_keeps_its_address(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    host.opens()
    host.server.scheduler, host.server.clients = "ON", ["7"]
    does.observer.own(session)
    does.do(Do.CLOSE, session)
    closing = [act for act in host.did if "tx_read" not in act]
    assert closing == [
        "SET GLOBAL event_scheduler = OFF",
        "SET SESSION max_statement_time = 1",
        "SET GLOBAL read_only = ON",
        "SET SESSION max_statement_time = 0",
        "KILL CONNECTION 7",
    ]
    assert host.carries()


def test_a_statement_that_keeps_it_from_closing_is_ended(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    host.opens()
    does.observer.own(session)
    host.server.clients = ["7", "8"]
    host.server.fails["SET GLOBAL read_only"] = SaysNo(1969, "max_statement_time exceeded")
    end = host.server.keep

    def ends(statement: str) -> None:
        if statement == "KILL CONNECTION 8":
            host.server.fails.clear()
        end(statement)

    host.server.keep = ends  # type: ignore[method-assign]
    does.close(session)
    assert host.server.read_only
    assert host.server.statement_time == "0"
    assert host.did[host.did.index("SET SESSION max_statement_time = 1") + 1 :] == [
        "! SET GLOBAL read_only = ON",
        "KILL CONNECTION 7",
        "KILL CONNECTION 8",
        "SET GLOBAL read_only = ON",
        "SET SESSION max_statement_time = 0",
    ]


def test_a_close_that_fails_resets_its_limit_all_the_same(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    host.opens()
    does.observer.own(session)
    host.server.fails["SET GLOBAL read_only"] = SaysNo(1969, "max_statement_time exceeded")
    with pytest.raises(mariadb.SqlError, match="ERROR 1969"):
        does.close(session)
    assert host.server.statement_time == "0"
    assert not host.server.read_only


def test_a_close_whose_session_ends_is_a_problem(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    host.opens()
    does.observer.own(session)
    host.server.fails["SET GLOBAL read_only"] = LOST
    with pytest.raises(Problem):
        does.close(session)
    assert host.server.sessions == 1


# --- opening ----------------------------------------------------------------------------------------


def test_a_server_opens_without_its_link_and_takes_the_address_last(
    host: Host, does: acts.Acts, session: acts.Pinned
) -> None:
    host.server.links()
    does.observer.own(session)
    does.do(Do.OPEN, session)
    assert host.did[:4] == [
        "STOP ALL SLAVES",
        "RESET SLAVE ALL",
        "SET GLOBAL read_only = OFF",
        f"ip address add {WRITER} dev eth0",
    ]
    assert (host.home / "state/primary").exists()
    assert does.observer.has_address()


@pytest.mark.parametrize("words", ["STOP ALL SLAVES", "RESET SLAVE ALL", "read_only = OFF"])
def test_a_server_that_does_not_open_takes_no_address(
    host: Host, does: acts.Acts, session: acts.Pinned, words: str
) -> None:
    host.server.links()
    does.observer.own(session)
    host.server.fails[words] = SaysNo(1198, "no")
    with pytest.raises(Problem, match="ERROR 1198"):
        does.open(session)
    assert host.server.read_only
    assert not host.carries()
    assert not (host.home / "state/primary").exists()


def test_an_open_server_only_takes_its_address(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    host.server.read_only = False
    (host.home / "run/opened").write_text(str(os.getpid()))
    does.observer.own(session)
    does.open(session)
    assert "SET GLOBAL read_only = OFF" not in host.did
    assert host.carries()


# --- the fence of a closed server -------------------------------------------------------------------


def test_a_replica_is_not_fenced(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    host.server.links()
    host.server.fenced = "1"
    does.observer.own(session)
    does.stay_closed(session)
    assert host.did == ["SET GLOBAL tx_read_only = OFF"]


# --- acts of the link -------------------------------------------------------------------------------


def test_a_link_begins_where_its_own_rows_end(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    host.server.applied, host.server.logged = "0-2-5,1-2-3", "0-1-7"
    (host.home / "state").mkdir()
    (host.home / "state/primary").write_text("{}")
    does.do(Do.LINK, session)
    assert any("gtid_slave_pos = '0-1-7,1-2-3'" in act for act in host.did)
    assert any(f"MASTER_HOST = '{OTHER}'" in act for act in host.did)
    assert not (host.home / "state/primary").exists()
    assert does.observer.own(session).silent == 0


@pytest.mark.parametrize(
    ("positions", "found"),
    [
        ([], ""),
        ([None, ""], ""),
        (["0-1-5", "0-2-9"], "0-2-9"),
        (["0-1-10", "0-2-9"], "0-1-10"),
        (["0-1-5,1-1-1", "0-1-5,2-2-2"], "0-1-5,1-1-1,2-2-2"),
        (["0-1-5,\n1-1-3", "1-2-2"], "0-1-5,1-1-3"),
    ],
)
def test_the_newest_of_each_domain(positions: list[str | None], found: str) -> None:
    assert acts.newest(*positions) == found


def test_small_acts_of_the_link(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    does.do(Do.RECEIVE, session)
    assert does.observer.own(session).silent == 0
    does.do(Do.APPLY, session)
    assert host.did == ["START SLAVE IO_THREAD", "START SLAVE SQL_THREAD"]


# --- apart ------------------------------------------------------------------------------------------

ROUTE = f"unreachable {OTHER}/32 proto 77"
AWAY, BACK = f"ip -4 route add {ROUTE}", f"ip -4 route del {ROUTE}"


def test_a_silent_link_is_stopped_without_a_way_to_the_other_host(
    host: Host, does: acts.Acts, session: acts.Pinned
) -> None:
    does.do(Do.STOP_RECEIVING, session)
    assert host.did == [AWAY, f"ss --kill --tcp dst {OTHER} dport = 3306", "STOP SLAVE IO_THREAD", BACK]


def test_a_link_that_speaks_is_stopped_as_it_is(host: Host, does: acts.Acts, session: acts.Pinned) -> None:
    does.observer.linked()
    host.now += LIMITS.silent / 2
    does.do(Do.STOP_RECEIVING, session)
    assert host.did == ["STOP SLAVE IO_THREAD"]


@pytest.mark.parametrize("error", [Problem("no"), KeyError("no"), SystemExit(0)])
def test_the_way_comes_back_whatever_happens(host: Host, error: BaseException) -> None:
    assert host.config.peer is not None
    with pytest.raises(type(error)), apart.apart(host.config.peer):
        assert host.did[0] == AWAY
        raise error
    assert host.did[-1] == BACK


@pytest.mark.parametrize("program", ["ip -4 route add", "ss"])
@pytest.mark.parametrize("error", [TooSlow("too slow"), Problem("cannot be started")])
def test_without_the_means_it_only_takes_longer(host: Host, program: str, error: Problem) -> None:
    def command(*words: str, **options: Any) -> Done:
        done = host.command(*words, **options)
        if " ".join(words).startswith(program):
            raise error
        return done

    host.patch.setattr(apart, "run", command)
    assert host.config.peer is not None
    with apart.apart(host.config.peer):
        host.did.append("stops")
    assert host.did[-2:] == ["stops", BACK]


def test_an_address_of_version_6(host: Host) -> None:
    apart.together(type(host.config.node)("db2", "2001:db8::2", 3306))
    assert host.did == ["ip -6 route del unreachable 2001:db8::2/128 proto 77"]


# --- the epoch --------------------------------------------------------------------------------------


def test_the_numbers_of_an_epoch_lie_beyond_all_of_an_earlier_one(
    host: Host, does: acts.Acts, session: acts.Pinned
) -> None:
    numbers = []
    for epoch in (2, 3):
        host.did.clear()
        does.epoch = epoch
        does.do(Do.NEW_EPOCH, session)
        assert [act for act in host.did if "sql_log_bin" in act] == [host.did[0], host.did[-1]]
        assert host.did[-1] == "SET SESSION sql_log_bin = 0"
        assert f"REPLACE INTO mysql.webstack_epoch VALUES (1, {epoch})" in host.did
        numbers.append(next(int(act.rpartition(" ")[2]) for act in host.did if "gtid_seq_no" in act))
    # 400 rows a second, for seventy years.
    assert numbers[1] - numbers[0] == acts.EPOCH_STEP > 400 * 3600 * 24 * 365 * 70
    host.did.clear()
    acts.write_epoch(session, 1)
    assert "SET SESSION gtid_seq_no = 0" in host.did


def test_an_epoch_that_cannot_be_written_leaves_the_session_as_it_was(
    host: Host, does: acts.Acts, session: acts.Pinned
) -> None:
    host.server.fails["REPLACE INTO"] = SaysNo(1290, "read-only")
    with pytest.raises(mariadb.SqlError):
        does.new_epoch(session)
    assert host.did[-1] == "SET SESSION sql_log_bin = 0"

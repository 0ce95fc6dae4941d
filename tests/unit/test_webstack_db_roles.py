"""Who may accept writes, by webstack db: what each command refuses, and that nothing has changed when it does.

Both servers are fakes that keep what they are told; addresses, markers and units are those of a directory.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import files, lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import writer
from documents import document
from host_programs import Tier

db = Tier("db")

WRITER = "192.0.2.40/24"
OWN, OTHER = "192.0.2.41", "192.0.2.42"


class Server:
    """A MariaDB server behind a session. What changes it is written down in `did`, in order with all other acts."""

    def __init__(self, did: list[str], name: str = "") -> None:
        self.did, self.name = did, name
        self.away = False
        self.denied = ""
        self.read_only = True
        self.gtid = "0-1-5"
        self.fenced = self.semi_sync = False
        self.timeout = "1000"
        self.scheduler = "OFF"
        self.source: str | None = None
        self.sql = "Yes"
        self.sql_error = "0"
        self.applied = "0"
        self.clients = "0"
        self.privileged: list[str] = []
        self.pid_file = ""
        self.refuses: dict[str, str] = {}

    def link(self) -> list[dict[str, str | None]]:
        if self.source is None:
            return []
        return [
            {
                **{"Last_IO_Errno": "0", "Last_IO_Error": "", "Last_SQL_Errno": self.sql_error},
                **{"Last_SQL_Error": "Duplicate entry", "Seconds_Behind_Master": "0", "Slave_IO_Running": "Yes"},
                **{"Slave_SQL_Running": self.sql, "Master_Host": self.source, "Master_SSL_Allowed": "Yes"},
                **{"Master_SSL_Verify_Server_Cert": "Yes", "Using_Gtid": "Slave_Pos", "Gtid_IO_Pos": "0-1-9"},
            }
        ]

    def rows(self, statement: str, _seconds: float | None = None) -> list[dict[str, Any]]:
        if self.away:
            raise db.ServerGone("ERROR 2002")
        if self.denied:
            raise db.SqlError(self.denied)
        for words, error in self.refuses.items():
            if words in statement:
                raise db.SqlError(error)
        if not statement.startswith(("SELECT", "SHOW")):
            self.did.append(f"{self.name}{statement}")
            self.keep(statement)
            return []
        answers: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "@@version": lambda: [
                {
                    **{"version": "11.8", "server_id": "1", "read_only": str(int(self.read_only)), "gtid": self.gtid},
                    **{
                        "gtid_binlog_pos": "",
                        "applied": "",
                        "gtid_binlog_state": "",
                        "semi_sync": str(int(self.semi_sync)),
                        "semi_sync_timeout": self.timeout,
                    },
                    **{"event_scheduler": self.scheduler, "fenced": str(int(self.fenced))},
                }
            ],
            "SHOW ALL SLAVES": self.link,
            "MASTER_GTID_WAIT": lambda: [{"done": self.applied}],
            "@@pid_file": lambda: [{"path": self.pid_file}],
            "@@GLOBAL.tx_read_only": lambda: [{"fenced": str(int(self.fenced))}],
            "Rpl_semi_sync_master_clients": lambda: [{"Value": self.clients}],
            "global_priv": lambda: [{"id": each, "user": "admin"} for each in self.privileged],
        }
        return next((answer() for words, answer in answers.items() if words in statement), [])

    def keep(self, statement: str) -> None:
        on = statement.endswith(("= ON", "= 1"))
        if "GLOBAL read_only" in statement:
            self.read_only = on
        elif "tx_read_only" in statement:
            self.fenced = on
        elif "event_scheduler" in statement:
            self.scheduler = "ON" if on else "OFF"
        elif statement == "RESET SLAVE ALL":
            self.source = None

    def run(self, *statements: str, seconds: float | None = None) -> None:
        for statement in statements:
            self.rows(statement, seconds)

    def close(self) -> None:
        pass


class Host:
    """db1 with its server, seen by the program; the other one is db2."""

    def __init__(self, home: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        self.server, self.peer = Server(self.did), Server(self.did, "db2: ")
        self.server.pid_file = str(home / "pid")
        (home / "pid").write_text("100")
        self.addresses = {"eth0": [f"{OWN}/24"]}
        raw: dict[str, Any] = {"name": "db1", "writer_address": WRITER, "datadir": str(home / "data"), "socket": "s"}
        raw |= {"tls": {"ca": "ca", "cert": "cert", "key": "key"}, "user": "replica", "password": "p"}
        raw |= {"seed_port": 4444, "seed_compression": 1, "semi_sync_timeout": 1000}
        raw["nodes"] = [{"name": "db1", "address": OWN, "port": 3306}, {"name": "db2", "address": OTHER, "port": 3306}]
        (home / "data").mkdir()
        (home / "db.json").write_text(json.dumps(raw))
        for name, value in {
            "CONFIG": home / "db.json",
            "MARKER": home / "state/primary",
            "RUN": home / "run",
            "STARTED": home / "run/started.json",
            "OPENED": home / "run/opened",
            "EVENTS": home / "run/events.json",
            "local_session": lambda *_: self.server,
            "peer_session": lambda *_: self.peer,
            "_opened": set(),
            "_unwritten": {},
            "interfaces": lambda: self.addresses,
            "wanted_options": lambda: dict(self.options),
            "upgrading": lambda: self.upgrading,
            "pipeline": lambda *_: self.did.append("pipeline"),
            "systemctl": lambda *words: self.did.append(" ".join(words)),
        }.items():
            patch.setattr(db, name, value)
        patch.setattr(lock, "FOLDER", home / "locks")
        patch.setattr(db, "run", self.command)
        patch.setattr(subprocess, "Popen", lambda command, **_options: self.command(*command))
        self.options: dict[str, str] = {}
        self.upgrading = False
        (home / "run").mkdir()
        self.config = db.Config()
        self.was = db.marker()

    def command(self, *command: str, **_options: Any) -> Any:
        self.did.append(" ".join(command))
        if command[:3] == ("ip", "address", "add"):
            self.addresses["eth0"].append(command[3])
        elif command[:3] == ("ip", "address", "del"):
            self.addresses["eth0"].remove(command[3])
        return Done(command, 0, "", "")

    def marked(self, paired: bool) -> None:
        db.set_marker({"paired": paired})
        self.was = db.marker()

    def opened(self) -> None:
        """This very process of the server has accepted writes."""
        db.note_opened(self.server)

    def carries(self) -> bool:
        return WRITER in self.addresses["eth0"]

    def refuses(self, words: str, act: Callable[[], Any]) -> None:
        before = {path: path.read_text() for path in db.RUN.iterdir() if path.name != "lock"}
        with pytest.raises(Problem, match=words):
            act()
        assert self.did == []
        assert db.marker() == self.was
        assert {path: path.read_text() for path in db.RUN.iterdir() if path.name != "lock"} == before

    def promote(self, force: bool = False) -> None:
        writer.promote(self.config, force, 1)

    def own(self) -> dict[str, Any]:
        return dict(db.look(self.server))

    def at(self, words: str) -> int:
        return next(number for number, act in enumerate(self.did) if words in act)


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


# --- why a server may not open ----------------------------------------------------------------------


def away(host: Host) -> None:
    host.peer.away = True


def denied(host: Host) -> None:
    host.peer.denied = "ERROR 1227 Access denied"


def writes(host: Host) -> None:
    host.peer.read_only = False


def from_nobody(_host: Host) -> None:
    pass


def from_a_stranger(host: Host) -> None:
    host.peer.source = "192.0.2.99"


def ahead(host: Host) -> None:
    host.peer.source, host.peer.gtid = OWN, "0-1-6"


def ahead_in_another_domain(host: Host) -> None:
    host.peer.source, host.peer.gtid = OWN, "0-1-5,\n7-2-1"


REASONS = [
    (away, r"db2 does not answer \(ERROR 2002\)"),
    (denied, r"db2 does not answer \(ERROR 1227"),
    (writes, "db2 accepts writes"),
    (from_nobody, "db2 replicates from nobody"),
    (from_a_stranger, r"db2 replicates from 192\.0\.2\.99, not from this server"),
    (ahead, r"db2 has transactions that this server lacks \(0-1-6 against 0-1-5\)"),
    (ahead_in_another_domain, "db2 has transactions that this server lacks"),
]
each_reason = pytest.mark.parametrize(("other_is", "words"), REASONS)


@each_reason
def test_promote_refuses_for_each_reason(host: Host, other_is: Callable[[Host], None], words: str) -> None:
    other_is(host)
    host.refuses(rf"(?s){words}.*\. 'promote --force' goes on", host.promote)
    assert host.server.read_only


@each_reason
def test_watch_leaves_a_former_primary_closed_for_each_reason(
    host: Host, other_is: Callable[[Host], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other_is(host)
    host.marked(True)
    host.addresses["eth0"].append(WRITER)
    host.server.privileged = ["7"]
    watcher = db.Watcher(host.config)
    watcher.step()
    watcher.step()
    assert host.did == [
        f"ip address del {WRITER} dev eth0",
        "SET GLOBAL tx_read_only = ON",
        "KILL CONNECTION 7",
    ]
    assert host.server.read_only and not host.carries()
    assert db.marker() == {"paired": True}
    said = capsys.readouterr().err
    assert said.count("was the primary, stays read-only: ") == 1


@pytest.mark.parametrize("other_is", [away, denied, from_nobody, from_a_stranger, ahead])
def test_a_primary_that_was_always_alone_waits_for_nobody(host: Host, other_is: Callable[[Host], None]) -> None:
    other_is(host)
    assert db.why_not_open(host.config, host.own(), False) == ""


@pytest.mark.parametrize("paired", [True, False])
def test_two_never_write(host: Host, paired: bool) -> None:
    writes(host)
    assert db.why_not_open(host.config, host.own(), paired) == "db2 accepts writes"


@pytest.mark.parametrize("source", [OWN, "db1"])
@pytest.mark.parametrize("position", ["", "0-1-4", "0-1-5"])
def test_a_replica_of_this_server_that_has_no_more_lets_it_open(host: Host, source: str, position: str) -> None:
    host.peer.source, host.peer.gtid = source, position
    assert db.why_not_open(host.config, host.own(), True) == ""


def test_without_another_host_there_is_nobody_to_ask(host: Host) -> None:
    host.config.peer = None
    assert db.why_not_open(host.config, host.own(), True) == ""


# --- promote ----------------------------------------------------------------------------------------


def test_promote_refuses_a_replica(host: Host) -> None:
    host.server.source = OTHER
    host.refuses(rf"this server replicates from {OTHER}\. If that one is lost for good", host.promote)


def test_promote_refuses_when_its_own_server_is_away(host: Host) -> None:
    host.server.away = True
    for force in (False, True):
        host.refuses("ERROR 2002", lambda force=force: host.promote(force))


@pytest.mark.parametrize("force", [False, True])
def test_promote_leaves_a_primary_alone(host: Host, force: bool) -> None:
    host.server.read_only = False
    host.promote(force)
    assert host.did == []
    assert db.marker() is None


def test_promote_opens_marked_first_and_takes_the_address_last(host: Host) -> None:
    host.peer.source = OWN
    marks: list[Any] = []
    keep = host.server.keep

    def note(statement: str) -> None:
        marks.append(db.marker())
        keep(statement)

    host.server.keep = note  # type: ignore[method-assign]
    host.server.fenced = True
    host.promote()
    # A loss of power at any step comes back as a primary that asks first.
    assert marks and set(map(str, marks)) == {"{'paired': True}"}
    assert host.at("rpl_semi_sync_master_enabled = ON") < host.at("GLOBAL read_only = OFF") < host.at("ip address add")
    assert host.at("tx_read_only = OFF") < host.at("GLOBAL read_only = OFF")
    assert not host.server.read_only and host.carries()
    assert db.was_opened(host.server)


@pytest.mark.parametrize("source", [None, OTHER])
def test_force_refuses_while_the_other_one_writes(host: Host, source: str | None) -> None:
    host.server.source = source
    writes(host)
    host.refuses("db2 answers and accepts writes: make it read-only first", lambda: host.promote(True))


def test_force_refuses_when_the_other_one_cannot_be_judged(host: Host) -> None:
    host.server.source = OTHER
    denied(host)
    host.refuses("ERROR 1227", lambda: host.promote(True))


def test_force_refuses_before_it_stops_anything_when_received_transactions_cannot_be_applied(host: Host) -> None:
    host.server.source = OTHER
    away(host)
    host.server.sql, host.server.sql_error = "No", "1062"
    host.refuses("received transactions cannot be applied: Duplicate entry", lambda: host.promote(True))


@pytest.mark.parametrize("answer", ["-1", None])
def test_force_keeps_the_link_while_received_transactions_are_not_applied(host: Host, answer: Any) -> None:
    host.server.source, host.server.applied = OTHER, answer
    away(host)
    with pytest.raises(Problem, match=r"up to 0-1-9 are not applied after 1 s; try again"):
        host.promote(True)
    assert host.did == ["STOP SLAVE IO_THREAD", "START SLAVE SQL_THREAD"]
    assert host.server.read_only and host.server.source == OTHER
    assert db.marker() is None and not host.carries()


@pytest.mark.parametrize("other_is", [away, from_nobody, from_a_stranger, ahead])
def test_force_says_the_risk_applies_what_came_and_opens(
    host: Host, other_is: Callable[[Host], None], capsys: pytest.CaptureFixture[str]
) -> None:
    host.server.source = OTHER
    other_is(host)
    host.promote(True)
    assert host.did[:4] == ["STOP SLAVE IO_THREAD", "START SLAVE SQL_THREAD", "STOP ALL SLAVES", "RESET SLAVE ALL"]
    assert not host.server.read_only and host.carries()
    assert not [act for act in host.did if act.startswith("db2: ")]
    # Nobody has a copy of what is written from here on.
    assert db.marker() == {"paired": False}
    assert "RISK: transactions that only db2 has are lost" in capsys.readouterr().err


# --- bootstrap and close ----------------------------------------------------------------------------


def test_bootstrap_refuses_a_replica_and_a_second_writer(host: Host) -> None:
    host.server.source = OTHER
    host.refuses(f"this server replicates from {OTHER}", lambda: db.bootstrap(host.config))
    host.server.source = None
    writes(host)
    host.refuses("db2 accepts writes", lambda: db.bootstrap(host.config))


@each_reason
def test_bootstrap_is_no_way_around_what_promote_refuses(
    host: Host, other_is: Callable[[Host], None], words: str
) -> None:
    other_is(host)
    host.marked(True)
    host.refuses(words, lambda: db.bootstrap(host.config))


def test_bootstrap_opens_the_first_of_a_site(host: Host) -> None:
    away(host)
    db.bootstrap(host.config)
    assert db.marker() == {"paired": False}
    assert not host.server.read_only and host.carries()


def test_bootstrap_of_a_pair_stays_a_pair(host: Host) -> None:
    host.peer.source = OWN
    host.marked(True)
    db.bootstrap(host.config)
    assert db.marker() == {"paired": True}


def test_close_refuses_a_replica(host: Host) -> None:
    host.server.source = OTHER
    host.refuses(rf"replicates from {OTHER}: it is closed", lambda: db.close_for_writes(host.config))


def test_close_ends_events_then_writes_then_gives_the_address_up(host: Host) -> None:
    host.server.read_only, host.server.scheduler, host.server.privileged = False, "ON", ["9"]
    host.marked(True)
    host.opened()
    host.addresses["eth0"].append(WRITER)
    db.close_for_writes(host.config)
    assert host.at("event_scheduler = OFF") < host.at("read_only = ON") < host.at("ip address del")
    assert host.did.index("KILL CONNECTION 9", host.at("read_only = ON")) > 0
    assert db.marker() == {"paired": True}
    # And the watcher leaves it closed, however good the other one looks.
    host.peer.source = OWN
    host.did.clear()
    db.Watcher(host.config).step()
    assert host.did == ["KILL CONNECTION 9"]
    assert host.server.read_only


# --- watch ------------------------------------------------------------------------------------------


def test_watch_gives_the_address_up_when_the_server_is_away(host: Host) -> None:
    host.addresses["eth0"].append(WRITER)
    host.server.away = True
    host.marked(True)
    db.Watcher(host.config).step()
    assert host.did == [f"ip address del {WRITER} dev eth0"]
    assert db.marker() == {"paired": True}


def test_watch_waits_on_a_server_that_never_had_a_role(host: Host) -> None:
    db.Watcher(host.config).step()
    assert host.did == []
    assert db.marker() is None and host.server.read_only


def test_watch_forgets_that_a_replica_was_primary(host: Host) -> None:
    host.marked(True)
    host.addresses["eth0"].append(WRITER)
    host.server.source, host.server.semi_sync, host.server.scheduler = OTHER, True, "ON"
    db.Watcher(host.config).step()
    assert db.marker() is None and not host.carries()
    assert host.server.read_only
    assert "SET GLOBAL rpl_semi_sync_master_enabled = OFF" in host.did
    assert "SET GLOBAL event_scheduler = OFF" in host.did
    assert not [act for act in host.did if "SLAVE" in act]


def test_watch_does_not_fence_while_debian_upgrades_the_tables(host: Host) -> None:
    host.marked(True)
    away(host)
    host.upgrading = True
    db.Watcher(host.config).step()
    assert host.did == []


@pytest.mark.parametrize(("sql", "starts"), [("Yes", True), ("No", False)])
def test_watch_lifts_the_fence_of_a_replica_and_starts_no_link_that_nobody_started(
    host: Host, sql: str, starts: bool
) -> None:
    host.server.source, host.server.fenced, host.server.sql = OTHER, True, sql
    db.Watcher(host.config).step()
    links = ["STOP ALL SLAVES", "START ALL SLAVES"] if starts else []
    assert host.did == ["SET GLOBAL tx_read_only = OFF", *links]


def test_watch_reopens_a_primary_after_a_restart(host: Host) -> None:
    host.marked(True)
    host.peer.source = OWN
    host.options = {"event_scheduler": "ON"}
    db.Watcher(host.config).step()
    assert not host.server.read_only and host.carries()
    assert host.server.scheduler == "ON"
    assert db.marker() == {"paired": True}
    host.did.clear()
    host.server.semi_sync = True
    db.Watcher(host.config).step()
    assert host.did == []
    # What agents of a quorum left behind would make every commit wait for a replica that is lost.
    host.server.timeout = "86400000"
    db.Watcher(host.config).step()
    assert any("rpl_semi_sync_master_timeout = 1000" in act for act in host.did)


@pytest.mark.parametrize(("clients", "before", "paired"), [("0", None, False), ("1", None, True), ("0", True, True)])
def test_watch_remembers_that_somebody_has_a_copy(host: Host, clients: str, before: Any, paired: bool) -> None:
    if before:
        host.marked(True)
    host.server.read_only, host.server.clients = False, clients
    db.Watcher(host.config).step()
    assert db.marker() == {"paired": paired}
    assert host.carries()


# --- no room on the disk ----------------------------------------------------------------------------


def full(patch: pytest.MonkeyPatch) -> None:
    """Nothing can be written or removed, as on a disk that is full or has become read-only."""

    def refuse(path: Any, *_words: Any) -> None:
        raise Problem(f"{path} cannot be written: No space left on device")

    patch.setattr(files, "write", refuse)
    patch.setattr(files, "remove", refuse)
    patch.setattr(db, "write", refuse)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        yield patch


def test_watch_serves_a_primary_on_a_full_disk_and_says_so_once(
    host: Host, no_room: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.marked(False)
    host.server.read_only, host.server.fenced, host.server.clients = False, True, "1"
    host.options = {"event_scheduler": "ON"}
    watcher = db.Watcher(host.config)
    full(no_room)
    watcher.step()
    assert host.carries()
    assert "SET GLOBAL rpl_semi_sync_master_enabled = ON" in host.did
    assert not host.server.fenced and host.server.scheduler == "ON"
    host.did.clear()
    host.server.semi_sync, host.server.scheduler = True, "OFF"
    for _ in range(3):
        watcher.step()
    # What was set by hand on the running server stays.
    assert host.did == []
    said = capsys.readouterr().err
    for path in (db.MARKER, db.OPENED, db.EVENTS):
        assert said.count(f"{path} cannot be written: No space left on device") == 1
    no_room.undo()
    watcher.step()
    assert db.marker() == {"paired": True}
    assert db.OPENED.read_text() == "100"
    assert db.known_events() == {"process": "100", "open": True, "scheduler": "OFF"}


def test_watch_closes_a_former_primary_on_a_full_disk(host: Host, no_room: pytest.MonkeyPatch) -> None:
    host.marked(True)
    writes(host)
    host.addresses["eth0"].append(WRITER)
    host.server.scheduler, host.server.privileged = "ON", ["7"]
    full(no_room)
    db.Watcher(host.config).step()
    assert not host.carries()
    assert host.server.scheduler == "OFF" and host.server.fenced
    assert "KILL CONNECTION 7" in host.did


def test_watch_looks_after_a_replica_on_a_full_disk(
    host: Host, no_room: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.marked(True)
    host.server.source, host.server.fenced, host.server.semi_sync = OTHER, True, True
    host.addresses["eth0"].append(WRITER)
    full(no_room)
    db.Watcher(host.config).step()
    assert "SET GLOBAL rpl_semi_sync_master_enabled = OFF" in host.did
    assert not host.carries() and not host.server.fenced
    assert f"{db.MARKER} cannot be written" in capsys.readouterr().err


def test_a_primary_that_was_closed_by_hand_on_a_full_disk_stays_closed(host: Host, no_room: pytest.MonkeyPatch) -> None:
    host.marked(True)
    host.peer.source = OWN
    host.server.read_only = False
    watcher = db.Watcher(host.config)
    full(no_room)
    watcher.step()
    db.close_for_writes(host.config)
    assert host.server.read_only and not host.carries()
    watcher.step()
    assert host.server.read_only


def test_the_service_goes_on_where_nothing_can_be_written(
    host: Host, no_room: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []
    monkeypatch.setattr(db, "Version", lambda _: SimpleNamespace(changed=lambda: len(steps) == 3))
    monkeypatch.setattr(db, "signal", SimpleNamespace(signal=lambda *_: None, SIGTERM=15))
    monkeypatch.setattr(db, "time", SimpleNamespace(sleep=steps.append, monotonic=time.monotonic))
    host.marked(False)
    host.server.read_only, host.server.clients = False, "1"
    full(no_room)
    db.Watcher(host.config).run()
    assert steps == [1, 1, 1]
    assert host.carries()


@pytest.mark.parametrize("source", [None, OTHER])
def test_force_refuses_before_the_link_goes_where_the_marker_cannot_be_written(
    host: Host, no_room: pytest.MonkeyPatch, source: str | None
) -> None:
    host.server.source = source
    away(host)
    full(no_room)
    with pytest.raises(Problem, match="cannot be written: No space left"):
        host.promote(True)
    assert host.server.read_only
    assert [act for act in host.did if "RESET" in act or "ALL SLAVES" in act or "read_only" in act] == []


# --- links, seeds, settings -------------------------------------------------------------------------


@pytest.mark.parametrize("source", [None, "192.0.2.99"])
def test_relink_refuses_what_is_no_replica_of_the_other(host: Host, source: str | None) -> None:
    host.server.source = source
    host.refuses("does not replicate from the other one", lambda: db.relink(host.config, 1))


@pytest.mark.parametrize(("source", "read_only"), [(OTHER, True), (None, True), (OTHER, False)])
def test_send_refuses_what_is_not_the_writing_primary(host: Host, source: str | None, read_only: bool) -> None:
    host.server.source, host.server.read_only = source, read_only
    host.refuses("not the writing primary", lambda: db.send(host.config, "db2", 60))


def test_send_refuses_strangers_and_links_out_of_the_data(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.server.read_only = False
    host.refuses("'db7' is none of this site's database hosts", lambda: db.send(host.config, "db7", 60))
    monkeypatch.setattr(db, "led_astray", lambda *_: "ibdata9")
    host.refuses("ibdata9 leads to a file that is not the server's", lambda: db.send(host.config, "db2", 60))


def test_send_and_receive_refuse_this_host_itself(host: Host) -> None:
    host.server.read_only = False
    host.refuses("db1 is this host", lambda: db.send(host.config, "db1", 60))
    host.server.source, host.server.read_only = OTHER, True
    host.refuses("db1 is this host", lambda: db.receive_begin(host.config, "db1", True, 0, 60))


def test_send_marks_the_pair_before_the_first_byte(host: Host) -> None:
    host.server.read_only = False
    db.send(host.config, "db2", 60)
    assert host.did == ["pipeline"]
    assert db.marker() == {"paired": True}


def test_settings_that_one_refuses_leave_none_changed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"restart": [], "set": {"max_connections": "5", "sql_mode": "'x'"}, "tls": False}
    monkeypatch.setattr(db, "pending", lambda *_: changes)
    monkeypatch.setattr(db, "complaints", lambda _said: [])
    host.server.refuses = {"SET GLOBAL sql_mode": "ERROR 1231 (42000) at line 1: wrong"}
    with pytest.raises(Problem, match="the server refuses sql_mode = 'x'"):
        db.check_settings(host.config)
    assert host.did[-1] == "SET GLOBAL max_connections = @was_max_connections"


@pytest.mark.parametrize("record", [None, "torn"])
def test_apply_leaves_a_server_alone_whose_start_was_not_recorded(host: Host, record: str | None) -> None:
    if record is not None:
        db.STARTED.write_text(record)
    db.apply_settings(host.config, 1)
    assert host.did == []


# --- status -----------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    state: dict[str, Any] = {"problem": "", "free_bytes": {}}
    monkeypatch.setattr(db, "disk_state", lambda *_: state)
    return state


@pytest.mark.parametrize(
    ("source", "read_only", "marked", "role"),
    [
        (OTHER, True, True, "replica"),
        (None, False, False, "primary"),
        (None, True, True, "primary"),
        (None, True, False, "none"),
    ],
)
@pytest.mark.usefixtures("disk")
def test_status_names_the_role(host: Host, source: str | None, read_only: bool, marked: bool, role: str) -> None:
    host.server.source, host.server.read_only = source, read_only
    if marked:
        host.marked(True)
    state = db.status(host.config, False)
    assert (state["role"], state["running"], state["peer"]["reachable"]) == (role, True, True)
    assert host.did == []


@pytest.mark.usefixtures("disk")
def test_a_server_that_goes_while_it_is_asked_does_not_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an answer would pass for a whole one, and a play would miss what is not in it."""
    monkeypatch.setattr(db, "unit_states", lambda *units: {unit: {} for unit in units})

    def goes(_session: object) -> list[str]:
        raise db.ServerGone("ERROR 2013")

    monkeypatch.setattr(db, "user_schemas", goes)
    state = db.status(host.config, True)
    assert (state["running"], state["error"]) == (False, "ERROR 2013")


@pytest.mark.usefixtures("disk")
def test_status_says_who_does_not_answer(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.server.away = host.peer.away = True
    (host.config.datadir / "shop").mkdir()
    state = db.status(host.config, False)
    assert (state["running"], state["role"], state["schemas"]) == (False, "none", ["shop"])
    assert state["error"] == "ERROR 2002"
    db.print_status(state)
    assert capsys.readouterr().out.count("no answer (ERROR 2002)") == 2
    assert host.did == []


def ends(*arguments: str) -> Any:
    return db.main(arguments)


@pytest.mark.usefixtures("host")
def test_status_ends_with_2_for_a_disk_that_refuses(disk: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert ends("status") == 0
    capsys.readouterr()
    disk["problem"] = "No space left on device"
    assert ends("status", "--json") == 2
    said = document(capsys.readouterr().out)
    (problem,) = [problem for problem in said["problems"] if problem["what"] == "disk"]
    assert problem["text"] == "cannot write: No space left on device"
    assert said["server_version"] != said["version"]


def test_a_refusal_is_one_line_and_code_1(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.server.source = OTHER
    assert ends("promote") == 1
    assert capsys.readouterr().err.startswith("webstack db promote: this server replicates from")
    db.CONFIG.unlink()
    assert ends("promote", "--force") == 1
    assert "db.json is missing: the role mysql_replication writes it" in capsys.readouterr().err
    assert host.did == []

"""The pure parts of the command webstack backup, and what it does with a restic and a server that are fakes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.backup import (
    cli,
    forward,
    full,
    prove,
    repository,
    server,
    summary,
    trial,
)
from ansible_collections.webstack.ha.plugins.module_utils.webstack.backup.notes import Notes
from ansible_collections.webstack.ha.plugins.module_utils.webstack.backup.tools import Damage, Interrupted, Tools
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.config import Settings
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Busy, Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.mariadb import ServerGone, SqlError
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done
from host_programs import Tier
from hypothesis import given
from hypothesis import strategies as st

backup = Tier("backup")
db = Tier("db")


# --- summary line -----------------------------------------------------------------------------------


def test_summary_is_the_documented_line() -> None:
    line = backup.summary("ok", {"kind": "daily", "host": "db2", "bytes": 1, "gtid": "0-1-5"})
    assert line == "webstack-backup: ok kind=daily host=db2 bytes=1 gtid=0-1-5"


@given(st.text(), st.text())
def test_summary_is_always_one_line(first: str, second: str) -> None:
    line = backup.summary("FAILED", {"a": first, "reason": second})
    assert len(line.splitlines()) == 1
    assert line.count('"') % 2 == 0


# --- what the server says ---------------------------------------------------------------------------


def source(**changes: str | None) -> dict[str, str | None]:
    row: dict[str, str | None] = {"Master_Host": "192.0.2.1", "Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes"}
    return {**row, "Seconds_Behind_Master": "0", "Last_IO_Error": "", "Last_SQL_Error": "", **changes}


def test_replica_state() -> None:
    assert backup.replica_state([]) is None
    assert backup.replica_state([source(Master_Host="")]) is None
    assert backup.replica_state([source()]) == {
        "io": True,
        "sql": True,
        "lag_seconds": 0,
        "error": "",
        "source": "192.0.2.1",
    }
    two = backup.replica_state(
        [source(), source(Slave_SQL_Running="No", Last_SQL_Error="1062", Seconds_Behind_Master="7")]
    )
    assert (two["io"], two["sql"], two["lag_seconds"], two["error"]) == (True, False, 7, "1062")
    assert backup.replica_state([source(Seconds_Behind_Master=None)])["lag_seconds"] is None


class Said:
    """A session with a server that gives one answer after the other. What changes it is written down."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.did: list[str] = []
        self.closed = False

    def rows(self, statement: str, _seconds: float | None = None) -> list[dict[str, Any]]:
        answer = self.answers.pop(0)
        if isinstance(answer, Problem):
            raise answer
        if not statement.startswith(("SELECT", "SHOW", "CHECKSUM")):
            self.did.append(statement)
        return list(answer)

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.rows(statement)

    def close(self) -> None:
        self.closed = True


class Asked(server.Server):
    """A server that is asked by a session which gives answers that are known."""

    said: Said

    def session(self, seconds: float = 60) -> Any:
        return self.said

    def datadir(self) -> pathlib.Path:
        return pathlib.Path("/d")


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    monkeypatch.setattr(db, "MARKER", tmp_path / "primary")
    asked = Asked(Tools(Settings({"timeout_seconds": 60}, "config.json")))
    yield asked
    assert asked.said.closed


def variables(read_only: bool = True, **changes: str | None) -> dict[str, str | None]:
    return {
        **{"gtid": "0-1-5", "version": "11.8.6-MariaDB", "datadir": "/d/", "log_bin": "", "relay_log": ""},
        **{"read_only": str(int(read_only)), "followers": "0"},
        **changes,
    }


@pytest.mark.parametrize(
    ("links", "read_only", "marked", "role"),
    [
        ([], False, False, "primary"),
        ([], True, False, "none"),
        # Started a moment ago, and not opened yet.
        ([], True, True, "primary"),
        ([source()], True, False, "replica"),
        ([source(Slave_IO_Running="No", Slave_SQL_Running="No")], True, False, "replica"),
        ([source()], False, False, "replica"),
        # Promoted by hand, with the old link left behind: `webstack db` gives it the address of no primary.
        ([source(Slave_IO_Running="No", Slave_SQL_Running="No")], False, False, "replica"),
    ],
)
def test_a_server_is_what_webstack_db_says_that_it_is(
    links: list[dict[str, str]], read_only: bool, marked: bool, role: str, host: Asked
) -> None:
    if marked:
        db.MARKER.write_text('{"paired": true}')
    host.said = Said([variables(read_only)], links)
    seen = host.look()
    assert (seen["role"], seen["read_only"], seen["running"], seen["error"]) == (role, read_only, True, "")


def test_a_server_that_does_not_answer_has_no_role(host: Asked) -> None:
    host.said = Said(ServerGone("no socket"))
    seen = host.look()
    assert (seen["role"], seen["running"], seen["error"], seen["datadir"]) == ("none", False, "no socket", "/d")


@pytest.mark.parametrize("problem", [SqlError("ERROR 1146: no table"), Problem("python3-pymysql is not installed")])
def test_what_could_not_be_asked_is_no_server_that_is_gone(host: Asked, problem: Problem) -> None:
    host.said = Said([variables()], problem)
    with pytest.raises(type(problem), match=str(problem)):
        host.look()
    host.said = Said(problem)
    with pytest.raises(type(problem), match=str(problem)):
        host.replication("stop")


@pytest.mark.parametrize(
    ("wish", "answers", "said", "did"),
    [
        ("stop", [[source()], []], "stop", ["STOP ALL SLAVES"]),
        ("start", [[source()], []], "start", ["START ALL SLAVES"]),
        ("stop", [[]], "none", []),
        ("start", [ServerGone("no socket")], "none", []),
    ],
)
def test_replication_is_held_and_resumed_where_there_is_any(
    host: Asked, wish: str, answers: list[Any], said: str, did: list[str]
) -> None:
    host.said = Said(*answers)
    assert host.replication(wish) == {"replication": said}
    assert host.said.did == did


def test_replication_that_does_not_stop_is_no_replication_that_is_held(host: Asked) -> None:
    host.said = Said([source()], ServerGone("no answer within 60 s"))
    with pytest.raises(Problem, match="no answer within 60 s"):
        host.replication("stop")


def test_a_fingerprint_has_every_table_and_the_position_around_it(host: Asked) -> None:
    names = [
        {"place": "site", "name": f"n`{number}", "kind": "BASE TABLE", "engine": "InnoDB"} for number in range(100)
    ]
    names.insert(7, {"place": "site", "name": "fleeting", "kind": "BASE TABLE", "engine": "MEMORY"})
    names.insert(9, {"place": "site", "name": "numbers", "kind": "SEQUENCE", "engine": "InnoDB"})
    names.insert(8, {"place": "site", "name": "ledger", "kind": "SYSTEM VERSIONED", "engine": "InnoDB"})
    names.append({"place": "site", "name": "n`100", "kind": "SYSTEM VERSIONED", "engine": "InnoDB"})
    host.said = Said(
        [{"gtid": "0-1-5"}],
        names,
        [{"place": "site", "name": "ledger"}],
        [{"Table": "x", "Checksum": str(number)} for number in range(100)],
        [{"n": "2"}] * 100,
        # A view's table that is gone has none.
        [{"Table": "x", "Checksum": None}],
        [{"n": "1"}],
        [{"next_not_cached_value": "1001", "increment": "1"}],
        [{"gtid": None}],
    )
    found = host.fingerprint()
    assert (found["before"], found["after"], found["rows"], len(found["tables"])) == ("0-1-5", "", 201, 102)
    assert found["tables"]["`site`.`numbers`"] == "next_not_cached_value=1001 increment=1"
    assert found["left_out"] == ["`site`.`fleeting`: engine MEMORY", "`site`.`ledger`: its history is by transaction"]
    assert (found["tables"]["`site`.`n``7`"], found["tables"]["`site`.`n``100`"]) == ("7", None)


# --- the restored server becomes the writer ----------------------------------------------------------


def restored(host: Asked, home: pathlib.Path, patch: pytest.MonkeyPatch, *answers: Any, roled: bool = True) -> Any:
    """A server on the data of a backup at 0-1-5; the command of the role is a fake that is written down, too."""
    (home / "webstack-backup.json").write_text('{"gtid": "0-1-5"}')
    patch.setattr(backup, "ROLE_SETTINGS", home / "db.json")
    if roled:
        (home / "db.json").touch()
    host.said = Said(*answers)

    def promote(*command: str, seconds: float) -> Done:
        assert seconds
        host.said.did.append(pathlib.Path(command[0]).name + " " + " ".join(command[1:]))
        return Done(command, 0 if "refused" not in os.listdir(home) else 1, "", "webstack db restored: no\n")

    patch.setattr(host.tools, "run", promote)
    return backup.take_over(host)


@pytest.mark.parametrize("stands", ["0-1-5", ""])
@pytest.mark.parametrize("roled", [True, False])
def test_a_restored_server_knows_its_position_before_it_is_the_writer(
    host: Asked, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, stands: str, roled: bool
) -> None:
    sets = [] if stands else ["SET GLOBAL gtid_slave_pos = '0-1-5'"]
    answers = [[{"datadir": f"{tmp_path}/", "gtid": stands}], [], []]
    assert restored(host, tmp_path, monkeypatch, *answers, roled=roled) == {"gtid": "0-1-5"}
    # Of a role that looks after it, or nobody's.
    assert host.said.did == [*sets, "webstack db restored" if roled else "SET GLOBAL read_only = 0"]


@pytest.mark.parametrize(
    "answers", [[ServerGone("no socket")], [[{"datadir": "/none", "gtid": ""}]], [[{"datadir": "", "gtid": ""}]]]
)
def test_a_server_that_does_not_know_its_position_is_not_opened(
    host: Asked, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, answers: list[Any]
) -> None:
    with pytest.raises(Problem, match=r"no socket|has no GTID position"):
        restored(host, tmp_path, monkeypatch, *answers)
    assert host.said.did == []


def test_a_position_that_the_server_refuses_opens_nothing(
    host: Asked, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = SqlError("ERROR 1198: This operation cannot be performed as you have a running slave")
    with pytest.raises(SqlError):
        restored(host, tmp_path, monkeypatch, [{"datadir": str(tmp_path), "gtid": ""}], refused)
    assert host.said.did == []


def test_a_promotion_that_is_refused_is_said(
    host: Asked, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "refused").touch()
    with pytest.raises(Problem, match=r"webstack db restored: .*no"):
        restored(host, tmp_path, monkeypatch, [{"datadir": str(tmp_path), "gtid": "0-1-5"}])


def test_refusal() -> None:
    fine = {"io": True, "sql": True, "lag_seconds": 5, "error": ""}
    assert backup.refusal(fine, 5) is None
    assert "lags 5 s, the limit is 4 s" in backup.refusal(fine, 4)
    assert "sql thread stopped): 1062" in backup.refusal({**fine, "sql": False, "error": "1062"}, 9)
    assert "its lag" in backup.refusal({**fine, "lag_seconds": None}, 9)


# --- snapshots --------------------------------------------------------------------------------------


def snapshot(number: int, *tags: str, time: str = "2026-01-02T03:04:05.123456789+01:00") -> dict[str, Any]:
    identity = f"{number:08x}"
    return {"id": identity * 8, "short_id": identity, "time": time, "hostname": "db2", "tags": list(tags)}


def test_snapshots_are_those_of_the_site_in_order() -> None:
    late = snapshot(
        1, "shop", "kind=daily", "gtid=0-1-5+1-2-7", "bytes=9", "server=11.8.6", time="2026-01-02T05:00:00Z"
    )
    early = snapshot(2, "shop", "kind=hourly")
    foreign = [snapshot(3, "other"), {**snapshot(4), "tags": None}]
    found = backup.parse_snapshots(json.dumps([late, *foreign, early]), "shop")
    assert [one["id"] for one in found] == ["00000002", "00000001"]
    assert found[0]["time"] == "2026-01-02T02:04:05.123Z"
    assert found[1] == {
        "id": "00000001",
        "time": "2026-01-02T05:00:00.000Z",
        "host": "db2",
        "kind": "daily",
        "gtid": "0-1-5,1-2-7",
        "bytes": 9,
        "server": "11.8.6",
    }
    assert backup.parse_snapshots("null", "shop") == []


def test_choose() -> None:
    some = [{"id": "aaaa1111"}, {"id": "aaaa2222"}]
    assert backup.choose(some, "latest")["id"] == "aaaa2222"
    assert backup.choose(some, "aaaa1111")["id"] == "aaaa1111"
    assert backup.choose(some, "aaaa1111" + "0" * 56)["id"] == "aaaa1111"
    for wanted, text in (("aaaa", "ambiguous"), ("bbbb", "not in the repository"), ("--x", "not a snapshot id")):
        with pytest.raises(Problem, match=text):
            backup.choose(some, wanted)
    with pytest.raises(Problem, match="no backup of this site"):
        backup.choose([], "latest")


@given(st.dictionaries(st.sampled_from(["hourly", "daily", "weekly", "monthly"]), st.integers(0, 50)))
def test_retention_always_keeps_the_newest(numbers: dict[str, int]) -> None:
    words = backup.retention_arguments(numbers)
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs.pop("--keep-last") == "1"
    assert pairs == {f"--keep-{word}": str(number) for word, number in numbers.items() if number}


def test_surplus() -> None:
    names = ["d-20260103", "d-20260101", "d-20260102"]
    assert backup.surplus(names, 0) == []
    assert backup.surplus(names, 2) == ["d-20260101"]
    assert backup.surplus(names, 9) == []


def test_positions(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mariadb_backup_binlog_info").write_text("binlog.000002\t339\t0-1-5\n")
    assert db.position(tmp_path) == ("binlog.000002", "339", "0-1-5")
    # Each domain of the history after the first begins a line.
    (tmp_path / "mariadb_backup_binlog_info").write_text("binlog.000002\t339\t0-1-5,\n1-2-7\n")
    assert db.position(tmp_path) == ("binlog.000002", "339", "0-1-5,1-2-7")
    (tmp_path / "mariadb_backup_binlog_info").write_text("")
    assert db.position(tmp_path).gtid == ""
    # A replica that writes no binary log.
    (tmp_path / "xtrabackup_slave_info").write_text(
        "SET GLOBAL gtid_slave_pos = '0-1-5,\n1-2-7';\nCHANGE MASTER TO x;\n"
    )
    assert db.position(tmp_path).gtid == "0-1-5,1-2-7"
    (tmp_path / "xtrabackup_slave_info").write_text("CHANGE MASTER TO MASTER_LOG_FILE='x'")
    assert db.position(tmp_path).gtid == ""


def test_new_snapshot() -> None:
    summary = json.dumps({"message_type": "summary", "snapshot_id": "cc9cb05ca0755e45"})
    assert backup.new_snapshot('{"message_type":"status"}\n' + summary + "\n") == "cc9cb05c"
    assert backup.new_snapshot("Fatal: something\n") is None


def test_last_message_says_what_failed() -> None:
    log = "[00] 2026-01-02 03:04:05 Connecting\n[00] FATAL ERROR: 2026-01-02 no space left on device\n[00] done\n"
    assert "no space left" in backup.last_message(log)
    assert backup.last_message("") == "no output"


def test_versions_of_restic() -> None:
    assert backup.restic_version("restic 0.18.0 compiled with go1.24") == (0, 18)
    assert backup.restic_version("who knows") == (0, 0)


def test_metrics() -> None:
    success = {"finished": 12, "bytes": 34, "seconds": 5.6}
    text = backup.render({"daily": {"ok": False, "success": success}, "hourly": {"ok": True}})
    assert 'webstack_backup_last_success_timestamp_seconds{kind="daily"} 12\n' in text
    assert 'webstack_backup_last_run_ok{kind="daily"} 0\n' in text
    assert 'webstack_backup_last_run_ok{kind="hourly"} 1\n' in text
    assert 'last_success_bytes{kind="hourly"}' not in text


def test_room(tmp_path: pathlib.Path) -> None:
    backup.need_room(tmp_path / "not/yet/there", 1, 1.2)
    with pytest.raises(Problem, match="bytes free and"):
        backup.need_room(tmp_path, 1 << 60, 1.2)


def test_sizes_leave_the_logs_out(tmp_path: pathlib.Path) -> None:
    for name in ("ibdata1", "binlog.000001", "binlog_of_a_table.ibd"):
        (tmp_path / name).write_bytes(b"x" * 8192)
    whole = db.size_of(str(tmp_path))
    without = db.size_of(str(tmp_path), [str(tmp_path / "binlog") + "."])
    assert without * 3 == whole * 2


# --- runs, with fakes in the place of server and restic ---------------------------------------------


class FakeTools(Tools):
    """Runs nothing; the answers of the tools that are asked beside restic and the server."""

    answer = Done([], 0, "restic 0.18.0", "")

    def run(self, *command: str, **_options: Any) -> Done:
        return self.answer


class FakeServer(server.Server):
    def __init__(self, tools: Tools, home: pathlib.Path) -> None:
        super().__init__(tools)
        self.home = home
        self.what: dict[str, Any] = {
            "role": "replica",
            "running": True,
            "read_only": True,
            "replica": {"io": True, "sql": True, "lag_seconds": 0, "error": ""},
            "datadir": str(home),
            "log_bin": "",
            "relay_log": "",
            "version": "11.8.6-MariaDB x",
            "followers": 0,
        }

    def look(self) -> dict[str, Any]:
        return self.what

    doubt = ""

    def doubtful(self) -> str:
        return self.doubt


class FakeRepository(repository.Repository):
    def __init__(self, tools: Tools, fails: str, code: int) -> None:
        super().__init__(tools)
        self.fails, self.code = fails, code
        self.kept: dict[str, list[str]] = {"old00000": []}
        self.calls: list[str] = []
        self.noted = ""
        self.full = self.left = 0

    def restic(self, *arguments: str, **_options: Any) -> Done:
        self.calls.append(arguments[0])
        failed = self.fails == arguments[0]
        if arguments[0] == "backup" and (not failed or self.code == 3):
            kind = "room" if "shop.room" in arguments else "note"
            name = f"{kind}{len(self.kept):04}" if "--stdin" in arguments else "new00000"
            self.kept[name] = [after for word, after in itertools.pairwise(arguments) if word == "--tag"]
        if failed:
            return Done(arguments, self.code, "", "Fatal: fake")
        # Full as long as there is as much as that, of backups and of what a failed run has left.
        if (
            arguments[0] == "backup"
            and "--stdin" not in arguments
            and self.full
            and self.left + len(self.kept) > self.full
        ):
            self.left += 1
            del self.kept["new00000"]
            return Done(arguments, 1, "", "Fatal: unable to save snapshot: write /r/data: no space left on device")
        if arguments[0] == "prune" or "--prune" in arguments:
            self.left = 0
        output = ""
        wanted = {after for word, after in itertools.pairwise(arguments) if word == "--tag"}
        have = [
            {"id": name, "short_id": name, "time": "2026-01-02T03:04:05Z", "hostname": "db2", "tags": tags}
            for name, tags in self.kept.items()
            if wanted & set(tags)
        ]
        if arguments[0] == "snapshots":
            output = json.dumps(have)
        elif arguments[0] == "dump":
            output = self.noted
        elif "--stdin" in arguments and "shop.room" not in arguments:
            self.noted = _options["text"]
        elif "--dry-run" in arguments:
            last = int(arguments[arguments.index("--keep-last") + 1])
            output = json.dumps([{"keep": have[-last:], "remove": have[:-last]}] if have else None)
        elif arguments[0] == "forget" and "--keep-last" not in arguments:
            for name in [word for word in arguments if word in self.kept]:
                del self.kept[name]
        if arguments[0] == "backup" and "--stdin" not in arguments:
            output = json.dumps({"message_type": "summary", "snapshot_id": "new00000"})
        return Done(arguments, 0, output, "")


class Fake:
    """Answers like the programs; `fails` names the subcommand of restic that does not work."""

    def __init__(self, home: pathlib.Path, fails: str = "", code: int = 1) -> None:
        self.values: dict[str, Any] = {
            "site": "shop",
            "repository": "r",
            "staging_directory": str(home / "staging"),
            "lag_limit_seconds": 10,
            "free_disk_factor": 1.0,
            "allow_primary": False,
            "parallel": 1,
            "retention": {"hourly": 1},
            "retention_enabled": True,
            "socket": "s",
            "textfile_directory": "",
        }
        self.config = Settings(self.values, "config.json")
        self.tools = FakeTools(self.config)
        self.server = FakeServer(self.tools, home)
        self.repository = FakeRepository(self.tools, fails, code)

    @property
    def what(self) -> dict[str, Any]:
        return self.server.what

    def run(self, kind: str, *, require: bool = False, allow_primary: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = backup.take(
            self.server, self.repository, kind, require=require, allow_primary=allow_primary
        )
        return found


@pytest.fixture(autouse=True)
def copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(_server: Any, _seen: Any, directory: pathlib.Path) -> None:
        (directory / "mariadb_backup_binlog_info").write_text("binlog.000001\t4\t0-1-5\n")

    monkeypatch.setattr(backup, "copy_server", copy)


def test_a_good_run_applies_the_retention_last(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    fields = fake.run("daily")
    assert list(fields) == ["kind", "host", "snapshot", "bytes", "seconds", "gtid"]
    # What there is, what is over; then what a failed run has left.
    assert fake.repository.calls == ["cat", "unlock", "backup", "check", "snapshots", "forget", "prune"]
    assert {"shop", "kind=daily", "gtid=0-1-5"} <= set(fake.repository.kept["new00000"])
    assert not (tmp_path / "staging/data").exists()


def test_a_full_repository_gets_room_by_the_retention(tmp_path: pathlib.Path) -> None:
    """One that is full would stay full: nothing was removed but after a good run."""
    fake = Fake(tmp_path)
    fake.repository.kept = {name: ["shop"] for name in ("older000", "pinned00", "newest00")}
    notes = Notes()
    notes.pin("pinned00", "", "db2")
    fake.repository.keep_notes(notes, fake.repository.snapshots())
    fake.repository.full = 4
    assert fake.run("daily")["room"] == "made"
    assert set(fake.repository.kept) == {"pinned00", "new00000", "note0003"}
    assert fake.repository.left == 0
    assert "room" not in fake.run("daily")


def test_what_a_failed_run_left_is_room_too(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    fake.values["retention_enabled"] = False
    fake.repository.full, fake.repository.left = 2, 1
    assert fake.run("daily")["room"] == "made"
    assert set(fake.repository.kept) == {"old00000", "new00000"}


@pytest.mark.parametrize(
    ("retention", "said"),
    [
        (True, "the retention keeps all that is left: restic backup failed with 1: .*no space left on device"),
        (False, "the retention is off"),
    ],
)
def test_a_repository_that_stays_full_says_so(tmp_path: pathlib.Path, retention: bool, said: str) -> None:
    fake = Fake(tmp_path)
    fake.values["retention_enabled"] = retention
    fake.repository.kept = {"newest00": ["shop"]}
    fake.repository.full = 1
    with pytest.raises(Problem, match=f"the repository is full, and {said}"):
        fake.run("daily")
    assert list(fake.repository.kept) == ["newest00"]
    stand_in = 1 if retention else 0
    assert fake.repository.calls.count("backup") == 2 + stand_in, "once more, and no third time"


@pytest.mark.parametrize(("free", "ended"), [(63, True), (65, False)])
def test_a_restic_that_only_waits_on_a_full_disk_is_ended(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, free: int, ended: bool
) -> None:
    """restic 0.14 may wait for itself for ever there. Elsewhere it may wait for a network, for longer."""
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free << 10, f_frsize=1 << 10))
    monkeypatch.setattr(full, "CROWDED_SECONDS", 1.0)
    with full.ended_when_idle(tmp_path, step=0.2) as waited:
        done = subprocess.run(["sleep", "3"], check=False)
    assert (done.returncode == -signal.SIGKILL) == bool(waited) == ended


def test_a_program_that_only_waits_is_ended_and_one_at_work_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "IDLE_SECONDS", 1.0)
    with full.ended_when_idle(None, step=0.2) as waited:
        assert subprocess.run(["sleep", "60"], check=False).returncode == -signal.SIGKILL
        busy = "import time\nwhile time.process_time() < 3: pass"
        assert subprocess.run([sys.executable, "-c", busy], check=False).returncode == 0
    assert len(waited) == 1


@pytest.mark.parametrize(
    ("restic", "said"),
    [
        (["sleep", "60"], r"the repository is full, .*: it hung, and was ended after \d s without work"),
        # The kernel kills, too, when memory is short.
        (["sh", "-c", "echo Killed >&2; kill -9 $$"], "restic backup failed with -9: Killed"),
    ],
)
def test_why_a_restic_was_killed_is_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, restic: list[str], said: str
) -> None:
    fake = Fake(tmp_path)
    fake.values |= {"repository": str(tmp_path), "free_disk_factor": 0}
    free = 63 if "sleep" in restic else 65
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free << 10, f_frsize=1 << 10))
    monkeypatch.setattr(full, "CROWDED_SECONDS", 1.0)
    monkeypatch.setattr(repository, "ended_when_idle", functools.partial(full.ended_when_idle, step=0.2))
    answer = fake.repository.restic

    def program(*arguments: str, **options: Any) -> Done:
        if arguments[0] != "backup" or "--stdin" in arguments:
            return answer(*arguments, **options)
        done = subprocess.run(restic, capture_output=True, text=True, check=False)
        return Done(arguments, done.returncode, done.stdout, done.stderr)

    monkeypatch.setattr(fake.repository, "restic", program)
    with pytest.raises(Problem, match=said):
        fake.run("daily")


@pytest.mark.parametrize(("free", "calls"), [(63, 2), (65, 1)])
def test_a_restic_that_panics_on_a_full_disk_is_understood(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, free: int, calls: int
) -> None:
    fake = Fake(tmp_path, "backup", 2)
    fake.values |= {"repository": f"local:{tmp_path}", "free_disk_factor": 0}
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free << 10, f_frsize=1 << 10))
    with pytest.raises(Problem, match="the repository is full" if calls == 2 else "restic backup failed with 2"):
        fake.run("daily")
    assert fake.repository.calls.count("backup") == calls, "the stand-in for the coming one failed, too"


@pytest.mark.parametrize("fails", ["prune", "snapshots", "forget"])
def test_room_that_cannot_be_made_is_said(tmp_path: pathlib.Path, fails: str) -> None:
    fake = Fake(tmp_path, fails)
    fake.repository.kept = {name: ["shop"] for name in ("older000", "newest00")}
    fake.repository.full = 2
    with pytest.raises(Problem, match=r"the repository is full \(.*\), and no room can be made: "):
        fake.run("daily")
    assert "newest00" in fake.repository.kept
    fake.repository.fails = ""
    assert "room" not in str(fake.repository.snapshots())


@pytest.mark.parametrize(("fails", "code"), [("cat", 1), ("backup", 1), ("backup", 3), ("check", 1)])
def test_a_failed_run_leaves_no_snapshot_and_forgets_no_old_one(tmp_path: pathlib.Path, fails: str, code: int) -> None:
    fake = Fake(tmp_path, fails, code)
    for _ in range(3):
        with pytest.raises(Problem):
            fake.run("daily")
    assert list(fake.repository.kept) == ["old00000"]
    assert not (tmp_path / "staging/data").exists()


def test_a_replica_with_wrong_rows_is_not_backed_up(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    fake.server.doubt = "rows of shop.orders differ from the writer's"
    with pytest.raises(Problem, match=r"rows of shop\.orders differ from the writer's: a backup would keep that"):
        fake.run("daily")
    assert fake.repository.calls == []


@pytest.mark.parametrize(
    ("out", "doubt"),
    [
        ({"drift": {"tables": []}, "astray": ""}, ""),
        ({"drift": {"tables": []}, "astray": "was written to: 0-2-9"}, "this replica was written to: 0-2-9"),
        ({"drift": {"tables": [{"title": "a.b"}]}, "astray": ""}, "rows of a.b differ from the writer's"),
    ],
)
def test_what_makes_a_copy_doubtful(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, out: dict[str, Any], doubt: str
) -> None:
    fake = Fake(tmp_path)
    real = server.Server(fake.tools)
    monkeypatch.setattr(server, "ROLE_SETTINGS", tmp_path / "absent")
    assert real.doubtful() == "", "another role than ours decides there"
    (tmp_path / "db.json").touch()
    monkeypatch.setattr(server, "ROLE_SETTINGS", tmp_path / "db.json")
    monkeypatch.setattr(fake.tools, "answer", Done([], 0, json.dumps(out), ""))
    assert real.doubtful() == doubt
    monkeypatch.setattr(fake.tools, "answer", Done([], 1, "", "no answer"))
    with pytest.raises(Problem, match="webstack db status: no answer"):
        real.doubtful()


def test_a_backup_stays_good_when_the_retention_fails(tmp_path: pathlib.Path) -> None:
    fields = Fake(tmp_path, "forget").run("daily")
    assert fields["retention"] == "failed"


def test_a_missing_repository_is_never_replaced_by_an_empty_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path)
    monkeypatch.setattr(fake.repository, "opens", lambda: False)
    with pytest.raises(Problem, match="repository is missing"):
        fake.run("daily")
    assert fake.repository.calls == []


@pytest.mark.parametrize(
    ("configured", "followers", "wanted", "outcome"),
    [
        (False, 0, False, backup.Skipped),
        (True, 1, False, backup.Skipped),
        (True, 0, False, None),
        (False, 1, True, None),
    ],
)
def test_who_backs_up_a_primary(
    tmp_path: pathlib.Path, configured: bool, followers: int, wanted: bool, outcome: type[Exception] | None
) -> None:
    fake = Fake(tmp_path)
    fake.values["allow_primary"] = configured
    fake.what.update(role="primary", replica=None, followers=followers, read_only=False)
    if outcome is None:
        backup.may_back_up(fake.config, fake.what, require=True, allow_primary=wanted)
    else:
        with pytest.raises(outcome):
            backup.may_back_up(fake.config, fake.what, require=False, allow_primary=wanted)
        with pytest.raises(Problem, match="is the primary"):
            backup.may_back_up(fake.config, fake.what, require=True, allow_primary=wanted)


def test_neither_primary_nor_replica_is_a_failure(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    for change in ({"role": "none"}, {"running": False, "error": "no socket"}):
        with pytest.raises(Problem):
            backup.may_back_up(fake.config, {**fake.what, **change}, require=False, allow_primary=True)


def test_restore_overwrites_nothing(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").touch()
    with pytest.raises(Problem, match="nothing is overwritten"):
        backup.restore(fake.server, fake.repository, "latest", tmp_path / "data")
    with pytest.raises(Problem, match="absolute"):
        backup.restore(fake.server, fake.repository, "latest", pathlib.Path("data"))


def test_the_lock_names_its_holder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "LOCK", tmp_path / "backup.lock")
    with backup.alone("run --kind daily", 0):
        holder = (
            rf"another run holds the lock \S+backup.lock: 'run --kind daily' \(process {os.getpid()}, since 20\d\d-"
        )
        with pytest.raises(Busy, match=holder), backup.alone("run --kind hourly", 0):
            pass
    with backup.alone("run --kind hourly", 0):
        pass


# --- exchange of data directories -------------------------------------------------------------------


class Host(FakeServer):
    def __init__(self, home: pathlib.Path) -> None:
        super().__init__(Fake(home).tools, home)

    def datadir(self) -> pathlib.Path:
        return self.home / "mysql"

    def option(self, name: str, default: str) -> str:
        return str(self.home / "logs/binlog")


@pytest.fixture
def swapping(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "FOLDER", tmp_path / "run")
    for name, path in {"JOURNAL": "state/swap.json", "MOUNTS": "mounts", "FSTAB": "fstab"}.items():
        monkeypatch.setattr(db, name, tmp_path / path)
    monkeypatch.setattr(db, "MARKER", tmp_path / "primary")
    (tmp_path / "mounts").write_text("1 1 0:1 / / rw - ext4 x rw\n")


@pytest.mark.parametrize("mount", [False, True])
def test_data_of_a_marked_primary_is_exchanged_and_comes_back(
    tmp_path: pathlib.Path, swapping: None, mount: bool
) -> None:
    host = Host(tmp_path)
    for name in ("mysql/site", "logs"):
        (tmp_path / name).mkdir(parents=True)
    if mount:
        (tmp_path / "mounts").write_text(f"1 1 0:1 / {tmp_path}/mysql rw - ext4 x rw\n")
    (tmp_path / "primary").write_text("paired")
    new = pathlib.Path(backup.where_data_goes(tmp_path / "mysql")["copies"] + "restore-1")
    assert new.parent == (tmp_path / "mysql/.webstack" if mount else tmp_path)
    (new / "shop").mkdir(parents=True)
    (new / "mariadb_backup_checkpoints").write_text("backup_type = log-applied\n")
    (tmp_path / "mysql/ibdata1").write_text("old")
    old = pathlib.Path(backup.replace_data(host, new, 0)["old"])
    assert not new.exists()
    # Closed until take-over: nobody writes before the position is set.
    assert not (tmp_path / "primary").exists()
    assert (tmp_path / "mysql/shop").is_dir()
    # take-over makes it the primary, and fails after that.
    (tmp_path / "primary").write_text("alone")
    failed = pathlib.Path(backup.undo_replace(host, old)["old"])
    assert (tmp_path / "primary").read_text() == "paired"
    assert (tmp_path / "mysql/ibdata1").read_text() == "old"
    assert not old.exists()
    assert (failed / "shop").is_dir()
    assert sorted(path.name for path in host.earlier(new)) == [failed.name]


def test_a_restore_that_was_cut_off_is_undone_by_the_next(
    tmp_path: pathlib.Path, swapping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash() -> None:
        raise Crash

    host = Host(tmp_path)
    for name in ("mysql", "new", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "mysql/ibdata1").write_text("old")
    (tmp_path / "new/mariadb_backup_checkpoints").write_text("backup_type = log-applied\n")
    with monkeypatch.context() as patch:
        patch.setattr(db, "_forget", crash)
        patch.setattr(backup, "stamp", lambda: "20200101T000000Z")
        with pytest.raises(Crash):
            backup.replace_data(host, tmp_path / "new", 0)
    assert not (tmp_path / "mysql/ibdata1").exists()
    old = pathlib.Path(backup.replace_data(host, tmp_path / "new", 0)["old"])
    assert (old / "ibdata1").read_text() == "old"
    assert [path.name for path in tmp_path.glob("mysql.before-restore-*")] == [old.name]


@pytest.mark.parametrize("keep", [0, 1])
def test_replaced_data_is_kept_to_a_number(tmp_path: pathlib.Path, swapping: None, keep: int) -> None:
    host = Host(tmp_path)
    earlier = tmp_path / "mysql.before-restore-20200101T000000Z"
    seeded = tmp_path / "mysql.20200101-000000"
    for path in (earlier, seeded, tmp_path / "mysql", tmp_path / "new", tmp_path / "logs"):
        path.mkdir()
    (tmp_path / "new/mariadb_backup_checkpoints").write_text("backup_type = log-applied\n")
    backup.replace_data(host, tmp_path / "new", keep)
    assert earlier.exists() == (keep == 0)
    assert seeded.exists()
    assert len(list(tmp_path.glob("mysql.before-restore-*"))) == 2 - keep


def test_what_cannot_be_exchanged_is_said_before_the_restore(tmp_path: pathlib.Path, swapping: None) -> None:
    (tmp_path / "mysql").symlink_to(tmp_path / "gone")
    answer = backup.where_data_goes(tmp_path / "mysql")
    assert answer["copies"] == ""
    assert "is a link to" in answer["datadir_problem"]
    with pytest.raises(Problem, match="is a link to"):
        backup.replace_data(Host(tmp_path), tmp_path / "new", 0)


def test_an_old_directory_of_elsewhere_does_not_come_back(tmp_path: pathlib.Path, swapping: None) -> None:
    (tmp_path / "mysql").mkdir()
    for path in (tmp_path / "gone", tmp_path / "mysql"):
        with pytest.raises(Problem, match="is not an earlier data directory in"):
            backup.undo_replace(Host(tmp_path), path / "x")


def test_room_that_is_missing_names_the_copies_that_take_it(tmp_path: pathlib.Path, swapping: None) -> None:
    for name in ("mysql", "mysql.before-restore-20200101T000000Z"):
        (tmp_path / name).mkdir()
    host = Host(tmp_path)
    target = tmp_path / "mysql.restore-1"
    with pytest.raises(Problem, match=r"nobody may need any more: .*mysql.before-restore-20200101T000000Z"):
        backup.need_room(target, 1 << 60, 1.2, host.earlier(target))
    assert host.earlier(tmp_path / "elsewhere/scratch") == []


def test_data_is_exchanged_and_comes_back(tmp_path: pathlib.Path, swapping: None) -> None:
    host = Host(tmp_path)
    for name in ("mysql/site", "logs", "mysql.restore"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mysql/debian-11.8.flag").touch()
    (tmp_path / "mysql/mariadb_upgrade_info").write_text("11.8.6-MariaDB")
    (tmp_path / "logs/binlog.000001").write_text("old")
    new = tmp_path / "mysql.restore"
    (new / "mariadb_backup_info").write_text("tool_name = x\nserver_version = 11.8.6-MariaDB-0+deb13u1-log\n")
    with pytest.raises(Problem, match="not a prepared data directory"):
        backup.replace_data(host, new, 0)
    (new / "mariadb_backup_checkpoints").write_text("backup_type = log-applied\nfrom_lsn = 0\n")

    answer = backup.replace_data(host, new, 0)
    old = pathlib.Path(answer["old"])
    assert (old / "site").is_dir()
    assert (old / "binary-logs/binlog.000001").read_text() == "old"
    assert sorted(os.listdir(tmp_path / "mysql")) == [
        # Until take-over.
        ".webstack-unplaced",
        "debian-11.8.flag",
        "mariadb_backup_checkpoints",
        "mariadb_backup_info",
        "mariadb_upgrade_info",
    ]

    (tmp_path / "logs/binlog.000001").write_text("new")
    backup.undo_replace(host, old)
    assert (tmp_path / "mysql/site").is_dir()
    assert (tmp_path / "logs/binlog.000001").read_text() == "old"
    assert not (tmp_path / "mysql/binary-logs").exists()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((0, '{"disk": {"problem": "", "free_bytes": {}}}', ""), ""),
        ((2, '{"disk": {"problem": "No space left", "free_bytes": {}}}', ""), "No space left"),
        # What could not be seen is not taken for a good disk.
        ((1, "", "webstack db: broken"), None),
        ((0, "no JSON", ""), None),
        ((0, "{}", ""), None),
    ],
)
def test_the_disk_is_as_the_owner_of_the_role_sees_it(
    answer: tuple[int, str, str], problem: str | None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path)
    monkeypatch.setattr(backup, "ROLE_SETTINGS", tmp_path / "absent")
    assert fake.server.disk()["problem"] is None
    (tmp_path / "db.json").touch()
    monkeypatch.setattr(backup, "ROLE_SETTINGS", tmp_path / "db.json")
    monkeypatch.setattr(fake.tools, "answer", Done([], *answer))
    seen = fake.server.disk()
    assert seen["problem"] == problem
    assert bool(seen.get("error")) == (problem is None)


# --- data on its way to another host -----------------------------------------------------------------


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def packed(home: pathlib.Path) -> bytes:
    (home / "from").mkdir()
    (home / "from/ibdata1").write_text("new")
    tar = subprocess.run(["tar", "-C", home / "from", "-cf", "-", "."], capture_output=True, check=True).stdout
    zstd = subprocess.run(["zstd", "-qc"], input=tar, capture_output=True, check=True).stdout
    return len(zstd).to_bytes(4, "big") + zstd


def test_a_stream_counts_when_it_has_come_to_its_end(
    tmp_path: pathlib.Path, line: tuple[socket.socket, socket.socket]
) -> None:
    data = packed(tmp_path)
    (tmp_path / "to").mkdir()
    line[1].sendall(data + bytes(4))
    assert backup.unpack(line[0], tmp_path / "to", 30) == len(data) - 4
    assert (tmp_path / "to/ibdata1").read_text() == "new"
    line[1].sendall(data)
    line[1].close()
    with pytest.raises(Problem, match="broke off before the end"):
        backup.unpack(line[0], tmp_path / "to", 30)


@pytest.mark.parametrize("hangs", ["tar", "zstd"])
def test_a_program_that_hangs_ends_with_the_transfer(
    hangs: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, line: tuple[socket.socket, socket.socket]
) -> None:
    data = packed(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / hangs).write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    (tmp_path / "bin" / hangs).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    line[1].sendall(data + bytes(4))
    started = time.monotonic()
    with pytest.raises(Problem, match=r"^tar: no end within 0\.5 s"):
        backup.unpack(line[0], tmp_path, 0.5)
    assert time.monotonic() - started < 10
    assert not pathlib.Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """Settings and state of a host on which nothing runs. A command takes its time limit with it when it ends."""
    for name in ("LOCK", "STATE"):
        monkeypatch.setattr(backup, name, tmp_path / f"{name.lower()}.lock")
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli.os, "umask", lambda _: 0)
    values = {**Fake(tmp_path).values, "timeout_seconds": 60, "textfile_directory": str(tmp_path / "metrics")}
    (tmp_path / "config.json").write_text(json.dumps(values))
    yield tmp_path
    assert signal.alarm(0) == 0


def command(home: pathlib.Path, *words: str) -> int:
    return cli.main(["--config", str(home / "config.json"), *words])


def test_a_missing_setting_is_named_in_the_one_line(home: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads((home / "config.json").read_text())
    del values["timeout_seconds"]
    (home / "config.json").write_text(json.dumps(values))
    assert command(home, "run") == 1
    said = capsys.readouterr().out
    assert said.startswith("webstack-backup: FAILED kind=daily host=")
    assert "config.json has no 'timeout_seconds': run the role that writes it again" in said
    assert len(said.splitlines()) == 1
    (home / "config.json").unlink()
    assert command(home, "init") == 1
    assert "config.json is missing: the role backup_slave writes it" in capsys.readouterr().out


def test_a_run_that_finds_another_one_is_busy_and_no_failure(
    home: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with backup.alone("restore", 0):
        assert command(home, "run", "--kind", "hourly") == 75
    said = capsys.readouterr().out
    assert said.startswith("webstack-backup: FAILED kind=hourly host=")
    assert "another run holds the lock" in said
    assert "'restore' (process" in said
    assert backup.known() == {}


def test_a_step_that_finds_another_one_at_the_data_is_busy(
    home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def recover() -> str:
        raise Busy("busy: an exchange of the data directory is under way (process 7)")

    monkeypatch.setattr(cli.data, "recover", recover)
    assert command(home, "recover") == 75
    assert "an exchange of the data directory is under way (process 7)" in capsys.readouterr().err


@pytest.mark.parametrize("good", [True, False])
def test_a_run_leaves_a_line_a_state_and_metrics(
    good: bool, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(*_words: Any, **_options: Any) -> dict[str, Any]:
        if not good:
            raise Problem("no room")
        return {"kind": "daily", "bytes": 34, "seconds": 5.6}

    monkeypatch.setattr(cli.take, "take", take)
    assert command(home, "run") == (0 if good else 1)
    line = "webstack-backup: ok kind=daily bytes=34 seconds=5.6" if good else "webstack-backup: FAILED kind=daily host="
    assert capsys.readouterr().out.startswith(line)
    assert backup.known()["daily"]["ok"] is good
    assert (
        f'webstack_backup_last_run_ok{{kind="daily"}} {int(good)}\n'
        in (home / "metrics/webstack_backup.prom").read_text()
    )
    modes = {path.name: path.stat().st_mode & 0o777 for path in (home / "metrics", *(home / "metrics").iterdir())}
    assert modes == {"metrics": 0o755, "webstack_backup.prom": 0o644}


def test_a_primary_is_skipped_in_one_line(
    home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    primary = {"running": True, "role": "primary", "read_only": True, "followers": 1}
    monkeypatch.setattr(server.Server, "look", lambda _: primary)
    assert command(home, "run") == 0
    assert capsys.readouterr().out == "webstack-backup: skipped: this server is the primary\n"


@pytest.mark.parametrize(("configured", "wanted"), [(True, False), (False, True)])
def test_a_former_primary_that_is_closed_is_not_backed_up(
    tmp_path: pathlib.Path, configured: bool, wanted: bool
) -> None:
    """Another one may have taken its place: what it has would be the newest backup, and is old."""
    fake = Fake(tmp_path)
    fake.values["allow_primary"] = configured
    fake.what.update(role="primary", replica=None, read_only=True)
    with pytest.raises(Problem, match="accepts no writes"):
        fake.run("daily", allow_primary=wanted)


def test_what_a_backup_notes_about_itself_is_read_with_care(tmp_path: pathlib.Path) -> None:
    note = tmp_path / "webstack-backup.json"
    for text in (None, "torn", "[]", '{"gtid": "0-1-5; DROP"}', "{}"):
        if text is not None:
            note.write_text(text)
        with pytest.raises(Problem, match="has no GTID position"):
            backup.position_in(note)
    note.write_text('{"gtid": "0-1-5,1-2-7"}')
    assert backup.position_in(note) == "0-1-5,1-2-7"


# --- what is known about single backups ---------------------------------------------------------------


def backups(*names: str) -> list[dict[str, Any]]:
    return [{"id": name} for name in names]


def test_notes_are_read_as_they_were_written() -> None:
    notes = Notes()
    notes.pin("a", "before the move", "db2")
    notes.proven("b", True, "db2", seconds=3)
    assert Notes.decode(notes.encode()) == notes
    assert notes.about("a") == {"proven": None, "pinned": "before the move"}
    assert notes.about("b") == {"proven": True, "pinned": None}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 1}', "cannot be read"),
        ('{"format": 2, "pins": {}, "proofs": {}}', "have format 2, this program reads 1"),
    ],
)
def test_notes_that_nobody_understands_are_no_empty_ones(text: str, words: str) -> None:
    """Else the retention would remove what somebody pinned."""
    with pytest.raises(Problem, match=words):
        Notes.decode(text)


def test_what_no_retention_removes() -> None:
    notes = Notes()
    notes.pin("a", "", "db2")
    for name, ok in (("b", True), ("c", True), ("d", False)):
        notes.proven(name, ok, "db2")
    assert notes.kept(backups("a", "b", "c", "d", "e")) == {"a", "c"}
    assert notes.kept(backups("d", "e")) == set()
    notes.only(["a", "d"])
    assert (set(notes.pins), set(notes.proofs)) == ({"a"}, {"d"})


def test_pinned_and_proven_backups_outlive_the_retention(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    fake.repository.kept = {name: ["shop"] for name in ("pinned00", "proven00", "surplus0", "damaged0")}
    notes = Notes()
    notes.pin("pinned00", "", "db2")
    notes.proven("proven00", True, "db2")
    notes.proven("damaged0", False, "db2")
    for _ in range(2):
        fake.repository.keep_notes(notes, fake.repository.snapshots())
    assert "note0005" in fake.repository.kept
    assert "note" not in str(fake.repository.snapshots()), "they are no backup"
    fake.run("daily")
    assert set(fake.repository.kept) == {"pinned00", "proven00", "new00000", "note0005"}, "the last notes are enough"


def test_without_its_notes_the_retention_removes_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(tmp_path)
    fake.repository.kept = {"older000": ["shop"], "note0000": ["shop.notes"]}
    assert fake.run("daily")["retention"] == "failed"
    assert set(fake.repository.kept) == {"older000", "note0000", "new00000"}
    assert "retention failed: the repository's notes of pins and proofs cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("fails", ["snapshots", "dump"])
def test_notes_that_cannot_be_fetched_are_a_problem(tmp_path: pathlib.Path, fails: str) -> None:
    fake = Fake(tmp_path, fails)
    fake.repository.kept = {"note0000": ["shop.notes"]}
    with pytest.raises(Problem, match="cannot be read"):
        fake.repository.known()


# --- a proof ------------------------------------------------------------------------------------------

FACTS = {"gtid": "0-1-5", "host": "db2", "binlog_file": "binlog.000002", "binlog_position": 328}


class Live:
    """A session of a server; `says` are answers by words of the question."""

    def __init__(self, **says: list[dict[str, Any]]) -> None:
        self.says: dict[str, list[dict[str, Any]]] = {
            "log_bin_basename": [{"base": "/var/lib/mysql/binlog"}],
            "SHOW BINARY LOGS": [{"Log_name": f"binlog.00000{number}"} for number in (1, 2, 3)],
            "binlog_snapshot": [
                {"Variable_name": "Binlog_snapshot_file", "Value": "binlog.000003"},
                {"Variable_name": "Binlog_snapshot_position", "Value": "77"},
            ],
            "COUNT(*)": [{"a": "3", "b": "99"}],
            **{key.replace("_", " "): value for key, value in says.items()},
        }
        self.did: list[str] = []
        self.fails: dict[str, Problem] = {}

    def rows(self, statement: str, _seconds: float | None = None) -> list[dict[str, Any]]:
        self.did.append(statement)
        for words, problem in self.fails.items():
            if words in statement:
                raise problem
        return next((answer for words, answer in self.says.items() if words in statement), [])

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.rows(statement)

    def close(self) -> None:
        self.did.append("closed")


ORDERS = db.Table("shop", "orders", (), ())


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Any:
    """A live server and a trial with the same rows, on the host that took the backup."""
    fake = Fake(tmp_path)
    fake.values["timeout_seconds"] = 60
    live, restored = Live(), Live()
    monkeypatch.setattr(prove.socket, "gethostname", lambda: "db2")
    monkeypatch.setattr(fake.server, "session", lambda *_: live)
    monkeypatch.setattr(prove.data, "tables", lambda _: [ORDERS, ORDERS._replace(name="m", engine="MEMORY")])
    replayed: list[Any] = []
    monkeypatch.setattr(prove.trial, "replay", lambda *words: replayed.append(words[1:4]))

    def compare(**facts: Any) -> Any:
        return prove.compare(fake.server, restored, tmp_path, {**FACTS, **facts})  # type: ignore[arg-type]

    return SimpleNamespace(fake=fake, live=live, restored=restored, replayed=replayed, compare=compare)


def test_a_trial_is_compared_at_one_moment_of_the_live_server(live: Any) -> None:
    assert live.compare() == {
        "tables": 1, "rows": 3, "left_out": ["shop.m: engine MEMORY takes no part in transactions"]
    }  # fmt: skip
    logs = [pathlib.Path(f"/var/lib/mysql/binlog.00000{number}") for number in (2, 3)]
    assert live.replayed == [(logs, 328, 77)]
    did = live.live.did
    assert did.index("START TRANSACTION WITH CONSISTENT SNAPSHOT") < did.index("ROLLBACK") < did.index("closed")
    assert not any(word in text for text in did for word in ("SET GLOBAL", "STOP", "FLUSH"))


@pytest.mark.parametrize("answer", [{"a": "2", "b": "99"}, {"a": "3", "b": "98"}])
def test_one_row_that_differs_is_no_proof(live: Any, answer: dict[str, str]) -> None:
    live.restored.says["COUNT(*)"] = [answer]
    with pytest.raises(Problem, match=r"shop\.orders has \d rows with sum \d\d where the server has 3 with 99"):
        live.compare()
    assert live.live.did[-1] == "closed"


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"host": "db1"}, "all tables: the backup is of db1, whose binary logs are not here"),
        ({"binlog_file": "binlog.000000"}, "all tables: binlog.000000, where the backup ends, is no longer there"),
    ],
)
def test_what_cannot_be_brought_up_to_date_is_said(live: Any, facts: dict[str, str], why: str) -> None:
    assert live.compare(**facts) == {"tables": 0, "rows": 0, "left_out": [why]}
    assert live.replayed == []


def test_a_table_that_is_altered_meanwhile_is_left_out_and_any_other_error_is_one(live: Any) -> None:
    live.live.fails["COUNT(*)"] = SqlError("ERROR 1412: changed")
    assert live.compare()["left_out"][0] == "shop.orders: was altered meanwhile"
    live.live.fails["COUNT(*)"] = SqlError("ERROR 1030: from storage engine")
    with pytest.raises(Problem, match="1030"):
        live.compare()


def test_a_server_that_has_become_the_writer_is_left_alone(live: Any) -> None:
    live.fake.what.update(role="primary", read_only=False, followers=1)
    with pytest.raises(backup.Skipped, match="this server is the primary"):
        live.compare()
    assert live.replayed == []


@pytest.mark.parametrize(
    ("kind", "text", "good"),
    [
        ("status", "OK", True),
        ("note", "The storage engine for the table doesn't support check", True),
        ("status", "Operation failed", False),
        ("error", "Corrupt", False),
        ("warning", "InnoDB: Index PRIMARY is marked as corrupted", False),
    ],
)
def test_every_table_is_read(kind: str, text: str, good: bool) -> None:
    session = Live(
        information_schema_TABLES=[], CHECK_TABLE=[{"Msg_type": kind, "Msg_text": text}]
    )  # fmt: skip
    session.says["information_schema.TABLES"] = [{"place": "shop", "name": "or`ders"}]
    with contextlib.nullcontext() if good else pytest.raises(Problem, match=r"CHECK TABLE shop\.or`ders: "):
        prove.check(session)  # type: ignore[arg-type]
    assert session.did[-1] == "CHECK TABLE `shop`.`or``ders`"


def test_a_backup_has_to_be_the_one_that_it_is_called(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Problem, match=r"has no webstack-backup\.json"):
        forward.facts_of(tmp_path, {"gtid": "0-1-5"})
    (tmp_path / "webstack-backup.json").write_text(json.dumps(FACTS))
    assert forward.facts_of(tmp_path, {"gtid": "0-1-5"})["host"] == "db2"
    with pytest.raises(Problem, match="it stands at 0-1-5, the repository says 0-1-6"):
        forward.facts_of(tmp_path, {"gtid": "0-1-6"})


def proven(
    home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, outcome: Exception | None, fails: str = ""
) -> tuple[str, dict[str, Any]]:
    """Prove a backup that was proven before. Return what was said, and what is known of it then."""
    fake = Fake(home, fails)
    fake.repository.kept = {"aaaa0000": ["shop"]}
    before = Notes()
    before.proven("aaaa0000", True, "db1")
    fake.repository.fails = ""
    fake.repository.keep_notes(before, fake.repository.snapshots())
    fake.repository.fails = fails

    def restored(*_: Any) -> dict[str, Any]:
        if outcome:
            raise outcome
        return {"tables": 1, "rows": 3, "left_out": []}

    monkeypatch.setattr(prove, "restored", restored)
    monkeypatch.setattr(prove.socket, "gethostname", lambda: "db2")
    try:
        said = str(prove.prove(fake.server, fake.repository, "latest", 3)["read_part"])
    except (Problem, backup.Skipped) as problem:
        said = str(problem)
    fake.repository.fails = ""
    return said, fake.repository.known()[1].proofs["aaaa0000"]


def test_a_proof_is_noted_good_or_not(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, known = proven(tmp_path, monkeypatch, None)
    assert (said, known["ok"], known["host"]) == ("3/7", True, "db2")
    said, known = proven(tmp_path, monkeypatch, Damage("a pack is lost"))
    assert said == "backup aaaa0000 is not good: a pack is lost"
    assert (known["ok"], known["why"]) == (False, "a pack is lost")


@pytest.mark.parametrize(
    "outcome", [Interrupted("by SIGTERM"), Problem("no room"), backup.Skipped("this server is the primary")]
)
def test_a_proof_that_ends_early_condemns_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, outcome: Exception
) -> None:
    """Else the retention would remove the last proven backup after a fail-over."""
    said, known = proven(tmp_path, monkeypatch, outcome)
    assert "not good" not in said
    assert (known["ok"], known["host"]) == (True, "db1")


def test_a_damaged_part_of_the_repository_is_not_the_backups_that_was_restored(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, known = proven(tmp_path, monkeypatch, None, "check")
    assert "the repository is damaged (restic check)" in said
    assert (known["ok"], known["host"]) == (True, "db2")


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (Problem("restic restore failed with 1: id not found"), Damage),
        (Problem("write: no space left on device"), Problem),
        (Problem("dial tcp: connection refused"), Problem),
        (Interrupted("interrupted by SIGTERM"), Interrupted),
    ],
)
def test_what_is_taken_for_damage(problem: Problem, kind: type[Problem]) -> None:
    with pytest.raises(Problem) as caught, prove.evidence():
        raise problem
    assert type(caught.value) is kind


def test_a_repository_that_lacks_the_newest_backup_is_not_good(home: pathlib.Path) -> None:
    backup.record(Settings({"textfile_directory": ""}, "x"), "hourly", True, {"snapshot": "aaaa0000", "finished": 2})
    backup.record(Settings({"textfile_directory": ""}, "x"), "daily", True, {"snapshot": "bbbb0000", "finished": 1})
    prove.all_there(backups("aaaa0000"))
    with pytest.raises(Problem, match="backup aaaa0000, which the last run stored, is not in the repository"):
        prove.all_there(backups("bbbb0000"))


def test_a_primary_proves_nothing(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    fake.what.update(role="primary", read_only=False, followers=1)
    with pytest.raises(backup.Skipped):
        prove.prove(fake.server, fake.repository, "latest", 1)
    assert fake.repository.calls == []


def test_the_server_of_a_trial_can_be_reached_by_nobody_and_ends_by_itself() -> None:
    words = trial.command(pathlib.Path("/srv/trial"), pathlib.Path("/srv/data"), 60)
    assert {"--skip-networking", "--skip-log-bin", "--skip-slave-start", "--event-scheduler=DISABLED"} <= set(words)
    assert {"--property=User=mysql", "--property=RuntimeMaxSec=60", "--property=Nice=15"} <= set(words)
    assert words[words.index("mariadbd") + 1].startswith("--defaults-file="), "the server takes it first only"


# --- proofs, for people -------------------------------------------------------------------------------


def proofs(home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, outcome: Any) -> int:
    def proven(*_: Any) -> dict[str, Any]:
        if isinstance(outcome, Exception):
            raise outcome
        return {"snapshot": "aa", "seconds": 3.0, "left_out": outcome}

    monkeypatch.setattr(cli.prove, "prove", proven)
    return command(home, "prove")


def test_a_proof_leaves_a_line_a_state_and_metrics(
    home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proofs(home, monkeypatch, []) == 0
    assert capsys.readouterr().out == "webstack-backup: ok snapshot=aa seconds=3.0 left_out=nothing\n"
    metrics = (home / "metrics/webstack_backup.prom").read_text()
    assert "webstack_backup_last_proof_ok 1\n" in metrics
    assert "webstack_backup_last_proof_duration_seconds 3\n" in metrics
    assert backup.known()["proof"]["part"] == 1
    assert proofs(home, monkeypatch, Problem("damaged")) == 1
    assert "webstack-backup: FAILED kind=proof" in capsys.readouterr().out
    assert "webstack_backup_last_proof_ok 0\n" in (home / "metrics/webstack_backup.prom").read_text()
    assert backup.known()["proof"]["part"] == 2, "a part that cannot be read does not keep the others from it"
    found = summary.summary_of(backup.known(), 27)
    assert [one.what for one in found.findings] == ["proof_failed"]


def test_where_another_host_proves_nothing_is_wrong(home: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert proofs(home, monkeypatch, Problem("damaged")) == 1
    assert proofs(home, monkeypatch, backup.Skipped("this server is the primary")) == 0
    assert summary.summary_of(backup.known(), 27).findings == []


def test_a_proof_that_is_late_is_a_finding() -> None:
    def found(state: dict[str, Any], hours: int | None = 27) -> list[str]:
        return [one.what for one in summary.summary_of(state, hours).findings]

    now = time.time()
    assert found({}) == []
    assert found({"proof": {"since": now - 26 * 3600}}) == []
    assert found({"proof": {"since": now - 28 * 3600}}) == ["unproven"]
    assert found({"proof": {"since": 0, "ok": True, "success": {"finished": now - 28 * 3600}}}) == ["unproven"]
    assert found({"proof": {"since": 0, "ok": True, "success": {"finished": now - 60}}}) == []
    assert found({"proof": {"since": 0}}, None) == [], "proofs are switched off"


def test_the_parts_of_the_repository_come_round(home: pathlib.Path) -> None:
    assert [backup.next_part(3) for _ in range(5)] == [1, 2, 3, 1, 2]


def test_a_backup_is_pinned_and_unpinned(
    home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(home)
    fake.repository.kept = {"aaaa0000": ["shop"]}
    monkeypatch.setattr(cli, "Repository", lambda _: fake.repository)
    assert command(home, "pin", "aaaa", "--reason", "before the move") == 0
    assert command(home, "list") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("not proven  pinned before the move")
    assert command(home, "unpin", "latest") == 0
    assert command(home, "unpin", "latest") == 1
    assert "backup aaaa0000 is not pinned" in capsys.readouterr().err
    assert command(home, "pin", "ffff") == 1
    assert "snapshot ffff is not in the repository" in capsys.readouterr().err


# --- forward to a moment --------------------------------------------------------------------------------

BINLOG = rb"""DELIMITER /*!*/;
# at 4
#261128 10:00:00 server id 1  end_log_pos 256 CRC32 0x1 	Start: binlog v 4, server v 11.8 created 261128 10:00:00
# at 256
#261128 10:41:05 server id 1  end_log_pos 298 CRC32 0x1 	GTID 0-1-7 trans
START TRANSACTION
#Q> INSERT INTO orders VALUES (1)
BINLOG 'x'
COMMIT
# at 400
#261128  9:41:06 server id 1  end_log_pos 442 CRC32 0x1 	GTID 1-1-3 trans
INSERT INTO t VALUES ('
#261128 10:00:00 server id 1  end_log_pos 442 CRC32 0x1 	GTID 0-1-9 trans
')
# at 500
#261128 10:41:07 server id 1  end_log_pos 542 CRC32 0x1 	GTID 0-1-8 ddl
DROP TABLE orders
# at 600
#261128 10:41:08 server id 1  end_log_pos 642 CRC32 0x1 	GTID 0-1-9 trans
#Q> DELETE FROM orders
COMMIT
"""


def at(text: str) -> forward.Until:
    return forward.until(f"2026-11-28 {text}", "")


@pytest.mark.parametrize(
    ("stop", "following", "last"),
    [
        (at("10:41:06"), "0-1-8", {"0": "0-1-7", "1": "1-1-3"}),
        (at("10:41:07"), "0-1-9", {"0": "0-1-8", "1": "1-1-3"}),
        (at("11:00:00"), "", {"0": "0-1-9", "1": "1-1-3"}),
        (forward.until("", "0-1-8"), "0-1-8", {"0": "0-1-7", "1": "1-1-3"}),
        (forward.until("", "0-1-70"), "", {"0": "0-1-9", "1": "1-1-3"}),
    ],
)
def test_a_copy_goes_forward_to_the_place_that_was_asked_for(
    stop: forward.Until, following: str, last: dict[str, str]
) -> None:
    read = forward.Transactions(BINLOG.splitlines(keepends=True))
    text = b"".join(read.until(stop))
    assert (read.gtid, read.last) == (following, last)
    assert BINLOG.startswith(text), "nothing is left out, and nothing is written anew"
    assert (b"DROP TABLE" in text) == ("8" in last["0"] or "9" in last["0"])


def test_what_was_read_is_what_the_copy_says_of_itself() -> None:
    assert forward.merged("0-1-5,2-1-1", {"0": "0-1-7", "1": "1-1-3"}) == "0-1-7,2-1-1,1-1-3"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("drop table", [("0-1-8", "2026-11-28 10:41:07 UTC", "DROP TABLE orders")]),
        ("delete from", [("0-1-9", "2026-11-28 10:41:08 UTC", "DELETE FROM orders")]),
        ("orders", ["0-1-7", "0-1-8", "0-1-9"]),
        ("server id", []),
    ],
)
def test_statements_are_found_with_their_place(words: str, found: list[Any]) -> None:
    hits = list(forward.find(BINLOG.splitlines(keepends=True), words))
    assert hits == found if found and isinstance(found[0], tuple) else [hit.gtid for hit in hits] == found


@pytest.mark.parametrize(
    ("moment", "before", "words"),
    [
        ("yesterday", "", "is no time such as"),
        ("2026-13-01 00:00:00", "", "is no time such as"),
        ("", "500", "is no GTID such as 0-1-500"),
        ("2026-11-28 10:41:06", "0-1-8", "are two places: take one"),
    ],
)
def test_a_place_that_is_none_is_refused(moment: str, before: str, words: str) -> None:
    with pytest.raises(Problem, match=words):
        forward.until(moment, before)
    assert not forward.until("", "").wanted


def test_only_backups_from_before_the_place_lead_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward.os, "uname", lambda: SimpleNamespace(nodename="db2"))
    listed = [
        {"id": name, "host": host, "time": f"2026-11-28T10:{minute}:00.5Z", "gtid": gtid}
        for name, host, minute, gtid in (
            ("a", "db2", 10, "0-1-5"), ("b", "db1", 20, "0-1-6"),
            ("c", "db2", 30, "0-1-7,1-1-9"), ("d", "db2", 50, "0-1-8"),
        )
    ]  # fmt: skip
    assert [one["id"] for one in forward.usable(listed, at("10:41:06"))] == ["a", "c"]
    assert [one["id"] for one in forward.usable(listed, forward.until("", "0-1-8"))] == ["a", "c"]
    assert [one["id"] for one in forward.usable(listed, forward.until("", "1-1-9"))] == ["a", "d"]
    assert forward.usable(listed, at("10:00:00")) == []


def test_the_binary_logs_from_the_backup_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tmp_path)
    monkeypatch.setattr(fake.server, "option", {"datadir": str(tmp_path)}.get)
    for name in ("binlog.000001", "binlog.000002", "binlog.000010", "binlog.index", "binlog.state", "binlogs.000003"):
        (tmp_path / name).touch()
    names = [path.name for path in forward.logs_of(fake.server, "binlog.000002")]
    assert names == ["binlog.000002", "binlog.000010"]
    assert len(forward.logs_of(fake.server, "")) == 3
    with pytest.raises(Problem, match=r"binlog\.000000, where the backup ends, is no longer among"):
        forward.logs_of(fake.server, "binlog.000000")


def test_a_backup_of_another_host_is_brought_forward_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Problem, match="the backup is of elsewhere, whose binary logs are not on this host"):
        forward.forward(Fake(tmp_path).server, tmp_path, {"host": "elsewhere"}, at("10:41:06"))

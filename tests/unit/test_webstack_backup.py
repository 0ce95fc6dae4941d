"""The pure parts of the command webstack-backup, and what it does with a restic and a server that are fakes."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _data_swap as data_swap
from host_programs import load
from hypothesis import given
from hypothesis import strategies as st

backup = load("backup_slave/files/webstack_backup.py")


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


@given(st.lists(st.text(alphabet="ab\\\n\t\0é", max_size=8), min_size=1, max_size=4))
def test_rows_survive_the_clients_escapes(values: list[str]) -> None:
    escapes = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\0": "\\0"}
    written = ["".join(escapes.get(sign, sign) for sign in value) for value in values]
    header = [f"c{number}" for number in range(len(values))]
    output = "\t".join(header) + "\n" + "\t".join(written) + "\n"
    # Also a row that is nothing but one empty field: @@gtid_slave_pos of a server that never replicated.
    assert backup.parse_rows(output) == [dict(zip(header, values, strict=True))]


def test_no_rows() -> None:
    assert backup.parse_rows("") == []


def source(**changes: str) -> dict[str, str]:
    row = {"Master_Host": "192.0.2.1", "Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes"}
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
    assert backup.replica_state([source(Seconds_Behind_Master="NULL")])["lag_seconds"] is None


@pytest.mark.parametrize(
    ("replica", "read_only", "role"),
    [
        (None, False, "primary"),
        (None, True, "none"),
        ({"io": True, "sql": True}, True, "replica"),
        ({"io": False, "sql": False}, True, "replica"),
        ({"io": True, "sql": True}, False, "replica"),
        # Promoted by hand, with the old link's settings left behind.
        ({"io": False, "sql": False}, False, "primary"),
    ],
)
def test_role(replica: dict[str, Any] | None, read_only: bool, role: str) -> None:
    assert backup.role(replica, read_only) == role


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
        with pytest.raises(backup.BackupError, match=text):
            backup.choose(some, wanted)
    with pytest.raises(backup.BackupError, match="no backup of this site"):
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


def test_positions() -> None:
    assert backup.binlog_position("binlog.000002\t339\t0-1-5\n") == {
        "file": "binlog.000002",
        "position": "339",
        "gtid": "0-1-5",
    }
    assert backup.binlog_position("")["gtid"] == ""
    assert backup.slave_gtid("SET GLOBAL gtid_slave_pos = '0-1-5,1-2-7';\nCHANGE MASTER TO x;\n") == "0-1-5,1-2-7"
    assert backup.slave_gtid("CHANGE MASTER TO MASTER_LOG_FILE='x'") == ""


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
    text = backup.metrics({"daily": {"ok": False, "success": success}, "hourly": {"ok": True}})
    assert 'webstack_backup_last_success_timestamp_seconds{kind="daily"} 12\n' in text
    assert 'webstack_backup_last_run_ok{kind="daily"} 0\n' in text
    assert 'webstack_backup_last_run_ok{kind="hourly"} 1\n' in text
    assert 'last_success_bytes{kind="hourly"}' not in text


def test_room(tmp_path: pathlib.Path) -> None:
    backup.need_room(tmp_path / "not/yet/there", 1, 1.2)
    with pytest.raises(backup.BackupError, match="bytes free and"):
        backup.need_room(tmp_path, 1 << 60, 1.2)


def test_sizes_leave_the_logs_out(tmp_path: pathlib.Path) -> None:
    for name in ("ibdata1", "binlog.000001", "binlog_of_a_table.ibd"):
        (tmp_path / name).write_bytes(b"x" * 8192)
    whole = backup.size_of(str(tmp_path))
    without = backup.size_of(str(tmp_path), [str(tmp_path / "binlog") + "."])
    assert without * 3 == whole * 2


# --- runs, with fakes in the place of server and restic ---------------------------------------------


class Fake(backup.Program):  # type: ignore[name-defined,misc]
    """Answers like the programs; `fails` names the subcommand of restic that does not work."""

    def __init__(self, home: pathlib.Path, fails: str = "", code: int = 1) -> None:
        super().__init__(
            {
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
        )
        self.home, self.fails, self.code = home, fails, code
        self.kept: dict[str, list[str]] = {"old00000": []}
        self.calls: list[str] = []
        self.what: dict[str, Any] = {
            "role": "replica",
            "running": True,
            "replica": {"io": True, "sql": True, "lag_seconds": 0, "error": ""},
            "datadir": str(home),
            "log_bin": "",
            "relay_log": "",
            "version": "11.8.6-MariaDB x",
            "followers": 0,
        }

    def server(self) -> dict[str, Any]:
        return self.what

    def execute(self, command: Any, **options: Any) -> tuple[int, str, str]:
        return 0, "restic 0.18.0", ""

    def copy_server(self, server: Any, directory: pathlib.Path) -> None:
        (directory / "mariadb_backup_binlog_info").write_text("binlog.000001\t4\t0-1-5\n")

    def restic(self, *arguments: str, **options: Any) -> tuple[int, str, str]:
        self.calls.append(arguments[0])
        failed = self.fails == arguments[0]
        if arguments[0] == "backup" and (not failed or self.code == 3):
            self.kept["new00000"] = [after for word, after in itertools.pairwise(arguments) if word == "--tag"]
        if failed:
            return self.code, "", "Fatal: fake"
        if arguments[0] == "snapshots":
            wanted = arguments[arguments.index("--tag") + 1]
            return 0, json.dumps([{"id": name} for name, tags in self.kept.items() if wanted in tags]), ""
        if arguments[0] == "forget" and "--prune" not in arguments:
            del self.kept[arguments[-1]]
        answer = {"message_type": "summary", "snapshot_id": "new00000"}
        return 0, json.dumps(answer) if arguments[0] == "backup" else "", ""


def test_a_good_run_applies_the_retention_last(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    fields = fake.run("daily", require=False, allow_primary=False)
    assert list(fields) == ["kind", "host", "snapshot", "bytes", "seconds", "gtid"]
    assert fake.calls == ["cat", "unlock", "backup", "check", "forget"]
    assert {"shop", "kind=daily", "gtid=0-1-5"} <= set(fake.kept["new00000"])
    assert not (tmp_path / "staging/data").exists()


@pytest.mark.parametrize(("fails", "code"), [("cat", 1), ("backup", 1), ("backup", 3), ("check", 1)])
def test_a_failed_run_leaves_no_snapshot_and_forgets_no_old_one(tmp_path: pathlib.Path, fails: str, code: int) -> None:
    fake = Fake(tmp_path, fails, code)
    for _ in range(3):
        with pytest.raises(backup.BackupError):
            fake.run("daily", require=False, allow_primary=False)
    assert list(fake.kept) == ["old00000"]
    assert not (tmp_path / "staging/data").exists()


def test_a_backup_stays_good_when_the_retention_fails(tmp_path: pathlib.Path) -> None:
    fields = Fake(tmp_path, "forget").run("daily", require=False, allow_primary=False)
    assert fields["retention"] == "failed"


def test_a_missing_repository_is_never_replaced_by_an_empty_one(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    fake.open_repository = lambda: False
    with pytest.raises(backup.BackupError, match="repository is missing"):
        fake.run("daily", require=False, allow_primary=False)
    assert fake.calls == []


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
    fake.config["allow_primary"] = configured
    fake.what |= {"role": "primary", "replica": None, "followers": followers}
    if outcome is None:
        fake.may_back_up(fake.what, require=True, allow_primary=wanted)
    else:
        with pytest.raises(outcome):
            fake.may_back_up(fake.what, require=False, allow_primary=wanted)
        with pytest.raises(backup.BackupError, match="is the primary"):
            fake.may_back_up(fake.what, require=True, allow_primary=wanted)


def test_neither_primary_nor_replica_is_a_failure(tmp_path: pathlib.Path) -> None:
    fake = Fake(tmp_path)
    for change in ({"role": "none"}, {"running": False, "error": "no socket"}):
        with pytest.raises(backup.BackupError):
            fake.may_back_up({**fake.what, **change}, require=False, allow_primary=True)


def test_restore_overwrites_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").touch()
    with pytest.raises(backup.BackupError, match="nothing is overwritten"):
        Fake(tmp_path).restore("latest", tmp_path / "data")
    with pytest.raises(backup.BackupError, match="absolute"):
        Fake(tmp_path).restore("latest", pathlib.Path("data"))


def test_the_lock_names_its_holder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "LOCK", tmp_path / "lock")
    first, second = Fake(tmp_path), Fake(tmp_path)
    first.lock("run --kind daily", 0)
    with pytest.raises(backup.LockedError, match=rf"'run --kind daily' pid {os.getpid()} since \d+T"):
        second.lock("run --kind hourly", 0)
    assert first.lock_fd is not None
    os.close(first.lock_fd)
    second.lock("run --kind hourly", 0)
    assert second.lock_fd is not None
    os.close(second.lock_fd)


# --- exchange of data directories -------------------------------------------------------------------


class Host(Fake):
    def datadir(self) -> pathlib.Path:
        return self.home / "mysql"

    def option(self, name: str, default: str) -> str:
        return str(self.home / "logs/binlog")


@pytest.fixture
def swapping(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in {"JOURNAL": "state/swap.json", "LOCK": "run/lock", "MOUNTS": "mounts", "FSTAB": "fstab"}.items():
        monkeypatch.setattr(data_swap, name, tmp_path / path)
    monkeypatch.setattr(backup, "MARKER", tmp_path / "primary")
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
    old = pathlib.Path(host.replace_data(new, 0)["old"])
    assert not new.exists()
    # Closed until take-over: nobody writes before the position is set.
    assert not (tmp_path / "primary").exists()
    assert (tmp_path / "mysql/shop").is_dir()
    # take-over makes it the primary, and fails after that.
    (tmp_path / "primary").write_text("alone")
    failed = pathlib.Path(host.undo_replace(old)["old"])
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
        patch.setattr(data_swap, "_forget", crash)
        patch.setattr(backup, "stamp", lambda: "20200101T000000Z")
        with pytest.raises(Crash):
            host.replace_data(tmp_path / "new", 0)
    assert not (tmp_path / "mysql/ibdata1").exists()
    old = pathlib.Path(host.replace_data(tmp_path / "new", 0)["old"])
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
    host.replace_data(tmp_path / "new", keep)
    assert earlier.exists() == (keep == 0)
    assert seeded.exists()
    assert len(list(tmp_path.glob("mysql.before-restore-*"))) == 2 - keep


def test_what_cannot_be_exchanged_is_said_before_the_restore(tmp_path: pathlib.Path, swapping: None) -> None:
    (tmp_path / "mysql").symlink_to(tmp_path / "gone")
    answer = backup.where_data_goes(tmp_path / "mysql")
    assert answer["copies"] == ""
    assert "is a link to" in answer["datadir_problem"]
    with pytest.raises(data_swap.SwapError, match="is a link to"):
        Host(tmp_path).replace_data(tmp_path / "new", 0)


def test_an_old_directory_of_elsewhere_does_not_come_back(tmp_path: pathlib.Path, swapping: None) -> None:
    (tmp_path / "mysql").mkdir()
    for path in (tmp_path / "gone", tmp_path / "mysql"):
        with pytest.raises(backup.BackupError, match="is not an earlier data directory in"):
            Host(tmp_path).undo_replace(path / "x")


def test_room_that_is_missing_names_the_copies_that_take_it(tmp_path: pathlib.Path, swapping: None) -> None:
    for name in ("mysql", "mysql.before-restore-20200101T000000Z"):
        (tmp_path / name).mkdir()
    host = Host(tmp_path)
    target = tmp_path / "mysql.restore-1"
    with pytest.raises(backup.BackupError, match=r"nobody may need any more: .*mysql.before-restore-20200101T000000Z"):
        backup.need_room(target, 1 << 60, 1.2, host.earlier(target))
    assert host.earlier(tmp_path / "elsewhere/scratch") == []


def test_a_primary_that_never_replicated_has_an_empty_position() -> None:
    assert backup.parse_rows("gtid\n\n") == [{"gtid": ""}]
    assert backup.parse_rows("gtid\n") == []


def test_data_is_exchanged_and_comes_back(tmp_path: pathlib.Path, swapping: None) -> None:
    host = Host(tmp_path)
    for name in ("mysql/site", "logs", "mysql.restore"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mysql/debian-11.8.flag").touch()
    (tmp_path / "mysql/mariadb_upgrade_info").write_text("11.8.6-MariaDB")
    (tmp_path / "logs/binlog.000001").write_text("old")
    new = tmp_path / "mysql.restore"
    (new / "webstack-backup.json").write_text(json.dumps({"server": "11.8.6-MariaDB-0+deb13u1 from Debian-log"}))
    with pytest.raises(backup.BackupError, match="not a prepared data directory"):
        host.replace_data(new, 0)
    (new / "mariadb_backup_checkpoints").write_text("backup_type = log-applied\nfrom_lsn = 0\n")

    answer = host.replace_data(new, 0)
    old = pathlib.Path(answer["old"])
    assert (old / "site").is_dir()
    assert (old / "binary-logs/binlog.000001").read_text() == "old"
    assert sorted(os.listdir(tmp_path / "mysql")) == [
        "debian-11.8.flag",
        "mariadb_backup_checkpoints",
        "mariadb_upgrade_info",
        "webstack-backup.json",
    ]

    (tmp_path / "logs/binlog.000001").write_text("new")
    host.undo_replace(old)
    assert (tmp_path / "mysql/site").is_dir()
    assert (tmp_path / "logs/binlog.000001").read_text() == "old"
    assert not (tmp_path / "mysql/binary-logs").exists()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((0, '{"disk": {"problem": "", "free_bytes": {}}}', ""), ""),
        ((2, '{"disk": {"problem": "No space left", "free_bytes": {}}}', ""), "No space left"),
        # What could not be seen is not taken for a good disk.
        ((1, "", "webstack-db status: broken"), None),
        ((0, "no JSON", ""), None),
        ((0, "{}", ""), None),
    ],
)
def test_the_disk_is_as_the_owner_of_the_role_sees_it(
    answer: tuple[int, str, str], problem: str | None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tmp_path)
    monkeypatch.setattr(backup, "ROLE_COMMAND", tmp_path / "absent")
    assert fake.disk()["problem"] is None
    (tmp_path / "webstack-db").touch()
    monkeypatch.setattr(backup, "ROLE_COMMAND", tmp_path / "webstack-db")
    monkeypatch.setattr(fake, "execute", lambda *_command, **_options: answer)
    seen = fake.disk()
    assert seen["problem"] == problem
    assert bool(seen.get("error")) == (problem is None)

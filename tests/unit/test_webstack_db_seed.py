"""Seeding by webstack db, with a systemd and a server that are fakes: what it refuses, what a failure leaves behind."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done
from host_programs import Tier

db = Tier("db")


class Host:
    """A replica's host: its unit, its server, its data directory of two schemas, a marker, and new data."""

    def __init__(self, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.monkeypatch = home, monkeypatch
        self.data = home / "lib/mysql"
        self.calls: list[str] = []
        self.running = True
        self.seeding = False
        self.starts: Callable[[], bool] = lambda: True
        self.stops = True
        self.seen: dict[str, Any] | None = {"replica": {"source": "192.0.2.41"}, "read_only": True}
        for folder in ("lib/mysql/site", "lib/mysql/mysql", "run", "state"):
            (home / folder).mkdir(parents=True)
        (self.data / "ibdata1").write_text("old")
        (self.data / "debian-11.8.flag").touch()
        for name, value in {
            "JOURNAL": home / "state/swap.json",
            "MOUNTS": home / "mountinfo",
            "FSTAB": home / "fstab",
        }.items():
            monkeypatch.setattr(db, name, value)
        (home / "mountinfo").write_text("1 1 0:1 / / rw - ext4 x rw\n")
        for name, value in {
            "MARKER": home / "state/primary",
            "RUN": home / "run",
            "SEED_RESULT": home / "run/seed.json",
            "server_account": lambda: (os.getuid(), os.getgid()),
            "systemctl": self.systemctl,
            "unit_states": self.unit_states,
            "look": self.look,
            "local_session": lambda *_: None,
        }.items():
            monkeypatch.setattr(db, name, value)
        monkeypatch.setattr(lock, "FOLDER", home / "locks")
        monkeypatch.setattr(db, "run", self.run)
        db.MARKER.write_text('{"paired": true}')
        self.place = db.place(self.data)
        self.stage = db.seed_folder(self.place)
        (self.stage / "shop").mkdir(parents=True)
        (self.stage / "ibdata1").write_text("new")
        self.config = db.Config.__new__(db.Config)
        self.config.datadir = self.data
        self.config.node = db.Node("db2", "192.0.2.42", 3306)
        self.config.peer = db.Node("db1", "192.0.2.41", 3306)
        self.config.mode, self.config.reseeds = "manual", False

    def systemctl(self, verb: str, unit: str) -> None:
        self.calls.append(f"{verb} {unit}")
        works = self.stops if verb == "stop" else self.starts()
        if not works:
            raise Problem(f"systemctl {verb} {unit} failed: fake")
        self.running = verb == "start"

    def unit_states(self, *units: str) -> dict[str, dict[str, bool]]:
        return {u: {"active": self.running if u == "mariadb.service" else self.seeding} for u in units}

    def look(self, _session: object) -> dict[str, Any]:
        if self.seen is None:
            raise db.ServerGone("ERROR 2002")
        return self.seen

    def run(self, *command: str, **_options: Any) -> Any:
        self.calls.append(" ".join(command[:2]))
        return Done(command, 0, "", "")

    def take(self, move_aside: bool = True) -> str:
        return str(db.take_into_use(self.place, self.stage, move_aside))

    def begin(self, move_aside: bool = True, expect: int = 1) -> None:
        db.receive_begin(self.config, "db1", move_aside, expect, 60)

    def is_untouched(self) -> bool:
        return (
            (self.data / "ibdata1").read_text() == "old"
            and (self.data / "site").is_dir()
            and not (self.data / "shop").exists()
            and db.MARKER.read_text() == '{"paired": true}'
            and not list(self.data.parent.glob("mysql.2*"))
            and not db.JOURNAL.exists()
        )


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


# --- the new data is taken into use -----------------------------------------------------------------


def test_the_new_data_is_in_use_and_the_old_is_kept_with_its_marker(host: Host) -> None:
    kept = pathlib.Path(host.take())
    assert (host.data / "ibdata1").read_text() == "new"
    assert (host.data / "debian-11.8.flag").exists()
    assert (kept / "ibdata1").read_text() == "old"
    assert not db.MARKER.exists()
    assert (kept / "webstack-primary.json").read_text() == '{"paired": true}'
    assert host.running


def test_data_without_schemas_is_not_kept_and_needs_no_permission(host: Host) -> None:
    (host.data / "site").rmdir()
    assert host.take(move_aside=False) == ""
    assert (host.data / "ibdata1").read_text() == "new"
    assert not list(host.data.parent.glob("mysql.2*"))


def test_an_empty_and_a_missing_directory_are_filled(host: Host) -> None:
    for path in (host.data / "site", host.data / "mysql"):
        path.rmdir()
    for path in host.data.iterdir():
        path.unlink()
    host.running = False
    host.seen = None
    host.data.rmdir()
    host.begin(move_aside=False)
    (host.stage / "shop").mkdir(parents=True)
    host.take(move_aside=False)
    assert (host.data / "shop").is_dir()
    assert host.running


def test_data_that_came_in_the_meantime_is_not_moved_unasked(host: Host) -> None:
    with pytest.raises(Problem, match="holds data: site"):
        host.take(move_aside=False)
    assert host.is_untouched()
    assert host.calls == []


@pytest.mark.parametrize(
    ("ran", "words"), [(True, "the server runs again as before"), (False, "did not run before and is left like that")]
)
def test_an_exchange_that_fails_leaves_marker_and_server_as_they_were(host: Host, ran: bool, words: str) -> None:
    host.running = ran
    real = os.rename

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("mysql/shop"):
            raise OSError(28, "No space left on device")
        real(source, target)

    host.monkeypatch.setattr(os, "rename", full)
    with pytest.raises(Problem) as caught:
        host.take()
    assert "No space left on device" in str(caught.value)
    assert "the old data is in its place again" in str(caught.value)
    assert words in str(caught.value)
    assert host.is_untouched()
    assert host.running == ran


def test_a_server_that_does_not_stop_is_left_alone(host: Host) -> None:
    host.stops = False
    with pytest.raises(Problem, match=r"stop mariadb.service failed: fake; the server runs again as before"):
        host.take()
    assert host.is_untouched()


def test_a_server_that_does_not_start_on_the_new_data_gets_the_old_back(host: Host) -> None:
    host.starts = lambda: (host.data / "ibdata1").read_text() == "old"
    with pytest.raises(Problem) as caught:
        host.take()
    text = str(caught.value)
    assert "does not start on the new data: systemctl start mariadb.service failed: fake" in text
    assert "the old data is in its place again, and the server runs again as before" in text
    assert host.is_untouched()
    assert host.running


def test_a_server_that_starts_on_neither_is_said(host: Host) -> None:
    host.starts = lambda: False
    with pytest.raises(Problem, match=r"in its place again, and the server, which ran before, does not start.*jour"):
        host.take()
    assert host.is_untouched()


def test_a_copy_that_hangs_ends_with_all_its_programs(tmp_path: pathlib.Path) -> None:
    began = time.monotonic()
    with pytest.raises(Problem, match=r"no end of the copy within 0\.3 s; see .*/log"):
        db.pipeline([["sh", "-c", f"echo $$ > {tmp_path}/one; exec sleep 60"], ["cat"]], tmp_path / "log", 0.3)
    assert time.monotonic() - began < 10
    assert not pathlib.Path(f"/proc/{(tmp_path / 'one').read_text().strip()}").exists()


def test_old_data_that_cannot_come_back_is_named(host: Host) -> None:
    host.starts = lambda: False
    real = db.exchange

    def once(*arguments: Any, **options: Any) -> None:
        host.monkeypatch.setattr(db, "exchange", fails)
        real(*arguments, **options)

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise Problem("the disk is gone")

    host.monkeypatch.setattr(db, "exchange", once)
    with pytest.raises(
        Problem, match=r"bringing the old data back failed too: the disk is gone; it lies in /.*mysql\.2"
    ):
        host.take()


# --- what is refused before anything comes ----------------------------------------------------------


def test_a_receiver_is_started_and_takes_what_a_killed_one_left_away(host: Host) -> None:
    host.begin()
    assert not host.stage.exists()
    assert "systemd-run --quiet" in host.calls
    # Whether or not its server answers.
    host.seen = None
    host.begin()


def test_a_play_joins_what_the_agent_has_begun(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.seeding = True
    host.config.mode, host.config.reseeds = "auto", True
    host.begin()
    assert "joined" in capsys.readouterr().out
    assert "systemd-run --quiet" not in host.calls
    assert host.is_untouched()


def test_of_two_that_begin_at_once_the_second_joins_and_removes_nothing(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """It removed the directory into which the first one was receiving, and neither came to an end."""
    host.config.mode, host.config.reseeds = "auto", True

    def slowly(*command: str, **_options: Any) -> Any:
        host.calls.append(" ".join(command[:2]))
        if command[0] == "systemd-run":
            time.sleep(0.3)
            host.stage.mkdir()
            host.seeding = True
        return Done(command, 0, "", "")

    host.monkeypatch.setattr(db, "run", slowly)
    with ThreadPoolExecutor(2) as pool:
        for begun in [pool.submit(host.begin) for _ in range(2)]:
            begun.result()
    assert host.calls.count("systemd-run --quiet") == 1
    assert host.stage.exists()
    assert capsys.readouterr().out == "joined: a seed has begun already\n"


def test_what_a_receiver_refuses(host: Host) -> None:
    def refused(text: str, **options: Any) -> None:
        with pytest.raises(Problem, match=text):
            host.begin(**options)
        assert host.is_untouched()
        assert "systemd-run --quiet" not in host.calls

    with pytest.raises(Problem, match="'db7' is none of this site's database hosts"):
        db.receive_begin(host.config, "db7", True, 1, 60)
    refused(r"holds data \(site\); with mysql_replication_reseed: true it is moved aside", move_aside=False)
    refused("MiB free, and the new data needs", expect=1 << 60)
    host.seeding = True
    refused("a seed is under way")
    # Nor is anything joined where the agent may not seed.
    host.config.mode = "auto"
    refused("a seed is under way")
    host.seeding = False
    host.seen = {"replica": None, "read_only": False}
    refused("accepts writes: a primary is never overwritten")
    host.seen = None
    (host.home / "fstab").write_text(f"/dev/x {host.data} xfs defaults 0 0\n")
    refused("is in /etc/fstab and not mounted: mount it first")


def test_an_exchange_that_was_cut_off_is_undone_before_a_new_seed(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    class Crash(BaseException):
        pass

    def crash() -> None:
        raise Crash

    with host.monkeypatch.context() as patch:
        patch.setattr(db, "_forget", crash)
        with pytest.raises(Crash):
            host.take()
    assert db.JOURNAL.exists()
    assert (host.data / "ibdata1").read_text() == "new"
    host.begin()
    assert host.is_untouched()
    assert "was cut off; the old data is in its place again" in capsys.readouterr().err


def test_whatever_goes_wrong_the_waiting_play_hears_it(host: Host) -> None:
    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    host.monkeypatch.setattr(db, "seed_from", broken)
    # Also where neither server nor watcher ran since the host started.
    (host.home / "run").rename(host.home / "run.old")
    with pytest.raises(Problem, match="Input/output error"):
        db.receive_run(host.config, "db1", True, 60)
    assert json.loads(db.SEED_RESULT.read_text())["ok"] is False
    with pytest.raises(Problem, match=r"seeding failed: .*Input/output error"):
        db.receive_wait(1)


@pytest.mark.parametrize("some", [True, False])
def test_a_copy_of_which_nothing_came_is_told_from_one_that_broke(host: Host, some: bool) -> None:
    def pipeline(_commands: Any, _log: pathlib.Path, _seconds: float) -> None:
        if some:
            (host.stage / "ibdata1").touch()
        raise Problem("socat ended with 1")

    host.monkeypatch.setattr(db, "pipeline", pipeline)
    host.monkeypatch.setattr(db, "tls_end", lambda *_: "")
    host.config.seed_port = 4444
    with pytest.raises(Problem, match="socat ended with 1" if some else "nothing came: socat ended with 1"):
        db.receive_run(host.config, "db1", True, 60)
    assert json.loads(db.SEED_RESULT.read_text())["came"] is some
    assert host.is_untouched()


def test_a_seed_has_one_limit_for_the_copy_and_what_is_done_with_it(host: Host) -> None:
    limits: list[float] = []

    def pipeline(_commands: Any, log: pathlib.Path, seconds: float) -> None:
        limits.append(seconds)
        if log.name == "prepare.log":
            raise Problem("no end of the copy within 7 s")
        time.sleep(0.2)

    host.monkeypatch.setattr(db, "pipeline", pipeline)
    host.monkeypatch.setattr(db, "tls_end", lambda *_: "")
    host.config.seed_port = 4444
    with pytest.raises(Problem, match="no end of the copy"):
        db.seed_from(host.config, host.config.peer, True, 7)
    assert limits[0] == 7
    assert 6 < limits[1] < 6.9
    assert not host.stage.exists()
    assert host.is_untouched()
    # The receiver in the background gets the limit of whoever asked for it.
    started: list[tuple[str, ...]] = []
    host.monkeypatch.setattr(db, "run", lambda *words, **_: started.append(words))
    db.receive_begin(host.config, "db1", True, 1, 43200)
    assert "--wait=43200" in started[-1]


def test_new_data_that_does_not_replicate_says_where_the_old_is(host: Host) -> None:
    for name in ("pipeline", "make_ready"):
        host.monkeypatch.setattr(db, name, lambda *_: None)
    host.monkeypatch.setattr(db, "backup_position", lambda _stage: "0-1-5")
    host.monkeypatch.setattr(db, "tls_end", lambda *_: "")
    host.config.seed_port = 4444

    def denied(*_: Any) -> None:
        raise db.SqlError("ERROR 1045 Access denied")

    host.monkeypatch.setattr(db, "link", denied)
    words = r"the new data is in use, but it does not replicate from db1: ERROR 1045.*its old data lies in .*mysql\.2"
    with pytest.raises(Problem, match=words):
        db.seed_from(host.config, host.config.peer, True, 60)
    assert host.running


def test_trouble_with_a_disk_is_a_line_and_no_traceback(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    db.JOURNAL.write_text("torn")
    assert db.main(["recover"]) == 1
    assert capsys.readouterr().err.startswith("webstack db recover: ")


def test_the_size_leaves_logs_and_kept_copies_out(host: Host) -> None:
    def size() -> int:
        return int(db.data_size(host.data))

    before = size()
    assert before > 0
    for name in ("binlog.000001", "relay.000001", "ibtmp1", ".webstack/mysql.20260101-000000/ibdata1"):
        (host.data / name).parent.mkdir(parents=True, exist_ok=True)
        (host.data / name).write_bytes(b"x" * 100_000)
    assert size() == before
    (host.data / "site/a.ibd").write_bytes(b"x" * 100_000)
    assert size() > before


def test_socat_takes_an_ipv6_address_in_brackets() -> None:
    assert db.socat_address("192.0.2.1") == "192.0.2.1"
    assert db.socat_address("2001:db8::1") == "[2001:db8::1]"

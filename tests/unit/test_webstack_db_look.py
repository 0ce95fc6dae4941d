"""What webstack db makes of option files, disks and time zones, without a server."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done
from host_programs import Tier

db = Tier("db")


# --- option files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("True", "BOOLEAN", "ON"),
        ("on", "BOOLEAN", "ON"),
        ("false", "BOOLEAN", "OFF"),
        ("OFF", "BOOLEAN", "OFF"),
        ("", "BOOLEAN", "ON"),
        ("1", "BOOLEAN", "1"),
        ("1G", "BIGINT UNSIGNED", str(1 << 30)),
        ("0.5", "DOUBLE", "0.5"),
        ("ROW", "ENUM", "'ROW'"),
        ("5", "VARCHAR", "'5'"),
        ("it's", "VARCHAR", "'it''s'"),
    ],
)
def test_an_option_in_the_words_of_set(value: str, kind: str, said: str) -> None:
    assert db.sql_value(value, kind) == said


def defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, line: str, fenced: bool) -> dict[str, str]:
    fence = tmp_path / "zz.cnf"
    if fenced:
        fence.touch()
    monkeypatch.setattr(db, "FENCE_OPTIONS", fence)
    done = Done([], 0, f"mariadbd would have been started with:\n{line}\n", "")
    monkeypatch.setattr(db, "run", lambda *_args, **_options: done)
    return dict(db.wanted_options())


def test_the_fence_does_not_hide_what_the_operator_wants(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    line = "--port=3306 --event-scheduler=ON --read_only=1 --event_scheduler=OFF"
    assert defaults(monkeypatch, tmp_path, line, True)["event_scheduler"] == "ON"
    assert "event_scheduler" not in defaults(monkeypatch, tmp_path, "--port=3306 --event_scheduler=OFF", True)


def test_options_that_add_up_are_all_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    line = "--replicate_do_db=a --replicate-do-db=b --port=1 --port=2"
    assert defaults(monkeypatch, tmp_path, line, False) == {"replicate_do_db": "a,b", "port": "2"}


def test_complaints_of_the_server() -> None:
    head = "2026-11-27  5:09:46 0 "
    assert db.complaints(f"{head}[ERROR] mariadbd: unknown variable 'x=1'\n") == ["unknown variable 'x=1'"]
    assert db.complaints(f"{head}[Warning] option 'a': boolean value 'maybe' wasn't recognized. Set to OFF.\n")
    assert db.complaints(f"{head}[Warning] Buffered warning: option 'm': unsigned value 99999999 adjusted to 100000")
    # Rounded to whole blocks, and a limit of the host's.
    assert not db.complaints(f"{head}[Warning] option 'max_allowed_packet': unsigned value 1000000 adjusted to 999424")
    assert not db.complaints(f"{head}[Warning] Could not increase number of max_open_files to more than 20000")


# --- disks ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pathlib.Path:
    monkeypatch.setattr(db, "RUN", tmp_path / "run")
    monkeypatch.setattr(db, "PROBE_LOCK", tmp_path / "run/probe.lock")
    data = tmp_path / "data"
    data.mkdir()
    return data


def test_a_good_disk_has_no_problem_and_keeps_nothing(folder: pathlib.Path) -> None:
    assert db.probe(folder, 5) == ""
    assert list(folder.iterdir()) == []


def test_a_disk_that_refuses_is_named_with_its_reason(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert db.probe(folder / "absent", 5) == f"No such file or directory ({folder}/absent)"

    def full(_file: int, _data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(db.os, "write", full)
    assert db.try_write(folder) == f"No space left on device ({folder})"


def test_a_link_in_its_way_is_not_followed(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept")
    (folder / ".webstack-probe").symlink_to(target)
    assert str(folder) in db.probe(folder, 5)
    assert target.read_text() == "kept"


def test_a_disk_that_hangs_is_an_answer_in_time_and_holds_one_child(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_folder: pathlib.Path) -> str:
        time.sleep(3)
        return ""

    monkeypatch.setattr(db, "try_write", hang)
    started = time.monotonic()
    assert "did not end within 0.3 s" in db.probe(folder, 0.3)
    # The next one waits for the first, and starts none of its own.
    monkeypatch.setattr(db.os, "fork", lambda: pytest.fail("a second child"))
    assert "did not end within 0.3 s" in db.probe(folder, 0.3)
    assert time.monotonic() - started < 2


# --- time zones -------------------------------------------------------------------------------------


class Server:
    """Answers each statement with the same rows."""

    def __init__(self, **row: str) -> None:
        self.row = row

    def rows(self, _statement: str, _seconds: float | None = None) -> list[dict[str, str]]:
        return [self.row]


def test_zones_are_current_when_they_are_the_hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(db, "ZONES", tmp_path)
    server: Any = Server(stamp="", n="0")
    assert db.time_zones_current(server) is None  # no tzdata: not seen, which is another thing than current
    for name in ("UTC", "Europe/Berlin", "posix/UTC", "right/UTC"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"TZif2")
    (tmp_path / "tzdata.zi").write_text("# version 2026f\n")
    assert db.zone_names() == ["Europe/Berlin", "UTC"]
    stamp = db.zone_stamp(db.zone_names())
    assert "2026f" in stamp
    assert db.time_zones_current(Server(stamp=stamp, n="2")) is True
    assert db.time_zones_current(Server(stamp="Time zones", n="2")) is False
    assert db.time_zones_current(Server(stamp=stamp, n="0")) is False
    (tmp_path / "tzdata.zi").write_text("# version 2027a\n")
    assert db.time_zones_current(Server(stamp=stamp, n="2")) is False

"""The exchange of a data directory: refusals, and a crash before every single step of it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from host_programs import Tier

swap = Tier("db")

OLD = {"ibdata1": "old", "site/notes.ibd": "old rows", "mysql/user.frm": "old accounts", "binlog.000001": "old log"}
NEW = {"ibdata1": "new", "site/notes.ibd": "new rows", "mysql/user.frm": "new accounts", "shop/x.ibd": "new shop"}


def fill(folder: pathlib.Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: pathlib.Path) -> dict[str, str]:
    """Files below a folder, without what an exchange leaves alone."""
    return {
        str(p.relative_to(folder)): p.read_text()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.relative_to(folder).parts[0] not in swap.KEEP
    }


class Lab:
    """A data directory, plain or a mount point, the new data, and a file that belongs to the old data."""

    def __init__(self, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, mount: bool) -> None:
        self.home = home
        self.data = home / "lib/mysql"
        fill(self.data, OLD)
        self.data.chmod(0o510)
        (self.data / "lost+found").mkdir()
        # The disk of the tests need not survive anything.
        monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
        monkeypatch.setattr(os, "sync", lambda: None)
        monkeypatch.setattr(swap, "JOURNAL", home / "state/swap.json")
        monkeypatch.setattr(lock, "FOLDER", home / "run")
        monkeypatch.setattr(swap, "MOUNTS", home / "mountinfo")
        monkeypatch.setattr(swap, "FSTAB", home / "fstab")
        self.mounts(*([self.data] if mount else []))
        self.place = swap.place(self.data)
        self.new, self.old = self.place.folder(".{}-seed"), self.place.folder("{}.20260102-030405")
        swap.make_work(self.new, os.getuid(), os.getgid())
        fill(self.new, NEW)
        self.marker = home / "state/primary"
        fill(home, {"state/primary": "marker"})
        self.also = [(self.marker, self.old / "webstack-primary.json")]

    def mounts(self, *points: pathlib.Path) -> None:
        lines = [f"36 35 98:0 / {str(p).replace(' ', chr(92) + '040')} rw - ext4 /dev/x rw" for p in ("/", *points)]
        (self.home / "mountinfo").write_text("\n".join(lines) + "\n")

    def exchange(self) -> None:
        swap.exchange(self.place, self.new, self.old, self.also)

    def is_old(self) -> bool:
        return (
            content(self.data) == OLD
            and self.data.stat().st_mode & 0o7777 == 0o510
            and content(self.new) == NEW
            and self.marker.read_text() == "marker"
            and not self.old.exists()
            and not swap.JOURNAL.exists()
        )

    def is_new(self) -> bool:
        kept = {**OLD, "webstack-primary.json": "marker"}
        left = content(self.new)
        mode = self.data.stat().st_mode & 0o7777
        return (content(self.data), content(self.old), left, mode) == (
            NEW,
            kept,
            {},
            0o710,
        ) and not self.marker.exists()


@pytest.fixture(params=[False, True], ids=["plain", "mount"])
def lab(request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch, request.param)


class Crash(BaseException):
    """The power goes."""


class Power:
    """Cuts the power before the n-th call that changes something on disk; nothing works after that."""

    CALLS = ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "fsync"), (os, "mkdir"), (os, "rmdir"))

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __enter__(self) -> Power:
        self.real: list[tuple[Any, str, Callable[..., Any]]] = []
        for owner, name in self.CALLS:
            function = getattr(owner, name)
            self.real.append((owner, name, function))
            setattr(owner, name, self.counted(function))
        return self

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Crash
            return function(*arguments, **options)

        return call

    def __exit__(self, *_: object) -> None:
        for owner, name, function in self.real:
            setattr(owner, name, function)


def run_until_crash(action: Callable[[], Any], steps: int) -> bool:
    """Whether it came to its end."""
    try:
        with Power(steps):
            action()
    except Crash:
        return False
    return True


@pytest.fixture(params=[False, True], ids=["renames", "copies"])
def rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Once as they are, once where folders of the old data cannot be renamed, as in a container's image."""
    real = os.rename

    def stubborn(source: Any, target: Any) -> None:
        note = pathlib.Path(source) / "user.frm"
        if pathlib.Path(source).parent.name == "mysql" and note.exists() and note.read_text() == "old accounts":
            raise OSError(errno.EXDEV, "layers")
        real(source, target)

    if request.param:
        monkeypatch.setattr(os, "rename", stubborn)
    yield


def test_the_data_is_exchanged(lab: Lab, rename: None) -> None:
    lab.exchange()
    assert lab.is_new()
    assert (lab.data / "lost+found").is_dir()
    assert not swap.JOURNAL.exists()
    assert swap.recover() == ""


def test_a_mount_point_keeps_all_inside_of_itself(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch, mount=True)
    lab.exchange()
    assert lab.old == lab.data / ".webstack/mysql.20260102-030405"
    assert os.listdir(lab.data.parent) == ["mysql"]
    # Copies of earlier exchanges are neither moved nor counted as data the next time.
    fill(lab.new, NEW)
    swap.exchange(lab.place, lab.new, lab.place.folder("{}.20260102-030406"))
    assert [p.name for p in lab.place.earlier()] == ["mysql.20260102-030405", "mysql.20260102-030406"]


def test_a_crash_before_any_step_leaves_the_old_data_and_can_be_repeated(lab: Lab, rename: None) -> None:
    steps = 0
    while not run_until_crash(lab.exchange, steps):
        if lab.is_new():
            # The very last step: the note is gone, only its folder is not synced.
            break
        said = swap.recover()
        assert lab.is_old(), f"after {steps} steps: {said}"
        steps += 1
    assert steps > 20
    assert lab.is_new()


def test_a_crash_while_it_is_undone_is_undone_too(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in (6, 15, 24):
        second = 0
        while True:
            home = tmp_path / f"{first}-{second}"
            lab = Lab(home, monkeypatch, mount=bool(second % 2))
            assert not run_until_crash(lab.exchange, first)
            if run_until_crash(swap.recover, second):
                break
            swap.recover()
            assert lab.is_old(), f"{first} steps forth, {second} back"
            shutil.rmtree(home)
            second += 1
        assert lab.is_old()
        assert second > 5 or first == 6


def test_the_server_is_not_started_while_it_cannot_be_undone(lab: Lab) -> None:
    assert not run_until_crash(lab.exchange, 15)
    shutil.move(lab.data, lab.home / "elsewhere")
    lab.data.mkdir()
    with pytest.raises(Problem, match="is its disk mounted"):
        swap.recover()
    assert swap.JOURNAL.exists()
    lab.data.rmdir()
    shutil.move(lab.home / "elsewhere", lab.data)
    assert "the old data is in its place again" in swap.recover()
    assert lab.is_old()


def test_an_exchange_that_fails_is_undone_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("mysql/shop"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(Problem, match=r"No space left on device.*; the old data is in its place again"):
        lab.exchange()
    assert lab.is_old()


def test_one_that_cannot_be_undone_says_what_lies_where(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def broken(source: Any, target: Any) -> None:
        if not str(target).startswith(str(lab.old)) and "swap" not in str(target):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(Problem) as caught:
        lab.exchange()
    text = str(caught.value)
    for word in (f"partly in {lab.old}", str(lab.new), "recover", "refuses to start"):
        assert word in text
    with pytest.raises(Problem, match="cannot be undone"):
        swap.recover()
    with pytest.raises(Problem, match="an earlier exchange was cut off"):
        lab.exchange()
    monkeypatch.setattr(os, "rename", real)
    # Also when what is left of the new data was cleaned away.
    shutil.rmtree(lab.new)
    swap.recover()
    fill(lab.new, NEW)
    assert lab.is_old()


def test_files_of_elsewhere_come_back_with_the_data_that_they_belong_to(lab: Lab) -> None:
    lab.exchange()
    (lab.home / "state/primary").write_text("of the new data")
    failed = lab.place.folder("{}.failed-restore-x")
    bring = [(lab.old / "webstack-primary.json", lab.marker)]
    with pytest.raises(Problem, match="is in the way"):
        swap.exchange(lab.place, lab.old, failed, bring=bring)
    also = [(lab.marker, failed / "webstack-primary.json")]
    steps = 0
    while not run_until_crash(lambda: swap.exchange(lab.place, lab.old, failed, also, bring), steps):
        if not swap.JOURNAL.exists() and content(lab.data) == OLD:
            break
        if swap.recover():
            assert content(lab.data) == NEW
            assert lab.marker.read_text() == "of the new data"
            assert content(lab.old) == {**OLD, "webstack-primary.json": "marker"}
        steps += 1
    assert (content(lab.data), lab.marker.read_text()) == (OLD, "marker")
    assert (failed / "webstack-primary.json").read_text() == "of the new data"


# --- refusals ---------------------------------------------------------------------------------------


def refused(lab: Lab, text: str) -> None:
    with pytest.raises(Problem, match=text):
        swap.place(lab.data)


def test_a_data_directory_that_is_missing_is_made(lab: Lab) -> None:
    shutil.rmtree(lab.data)
    lab.mounts()
    where = swap.place(lab.data)
    new = where.folder(".{}-seed")
    fill(new, NEW)
    swap.exchange(where, new, where.folder("{}.20260102-030405"))
    assert content(lab.data) == NEW
    shutil.rmtree(lab.data.parent)
    refused(lab, "the parent of the data directory, does not exist")


def test_a_link_is_followed_and_stays(lab: Lab) -> None:
    real = lab.home / "big disk/db"
    real.parent.mkdir()
    shutil.move(lab.data, real)
    lab.data.symlink_to(real)
    for mount in ([], [real]):
        lab.mounts(*mount)
        where = swap.place(lab.data)
        assert where == swap.Place(real, real / ".webstack" if mount else real.parent)
    real.rename(real.with_name("away"))
    refused(lab, "is a link to .*big disk/db, which does not exist")


def test_a_disk_that_is_not_mounted_is_noticed(lab: Lab) -> None:
    lab.mounts()
    fstab = lab.home / "fstab"
    fstab.write_text(f"# comment\nUUID=1 / ext4 defaults 0 1\nUUID=2 {lab.data} ext4 defaults,noatime 0 2\n")
    refused(lab, f"{lab.data} holds {lab.data}, is in /etc/fstab and not mounted: mount it first")
    fstab.write_text(f"UUID=2 {lab.data.parent} ext4 defaults 0 2\n")
    refused(lab, "is in /etc/fstab and not mounted")
    lab.mounts(lab.data.parent)
    assert swap.place(lab.data).data == lab.data
    lab.mounts()
    fstab.write_text(f"UUID=2 {lab.data} ext4 noauto 0 2\n")
    assert swap.place(lab.data).base == lab.data.parent


def test_a_mount_inside_and_a_file_are_refused(lab: Lab) -> None:
    lab.mounts(lab.data / "binlog dir")
    refused(lab, "binlog dir is a mount point inside of")
    lab.mounts()
    shutil.rmtree(lab.data)
    lab.data.write_text("no directory")
    refused(lab, "is no directory")


def test_room_is_looked_for_and_earlier_copies_are_named(lab: Lab) -> None:
    swap.need_room(lab.place, 1)
    kept = lab.place.folder("{}.before-restore-20260101T000000Z")
    kept.mkdir()
    with pytest.raises(Problem) as caught:
        swap.need_room(lab.place, 1 << 62)
    text = str(caught.value)
    assert f"{lab.data}" in text
    assert "MiB free, and the new data needs" in text
    assert str(kept) in text
    assert "stop its server and empty it; then run again" in text
    shutil.rmtree(lab.data)
    swap.need_room(lab.place, 1)


def test_a_disk_that_is_read_only_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = os.statvfs(lab.data)
    fields = [*tuple(seen)[:8], seen.f_flag | os.ST_RDONLY, seen.f_namemax]
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(fields))
    with pytest.raises(Problem, match="read-only: dmesg says why; mount it writable"):
        swap.need_room(lab.place, 1)


def test_what_the_servers_account_made_a_link_of_is_not_followed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, monkeypatch, mount=True)
    secret = tmp_path / "secret"
    secret.write_text("of root")
    (lab.data / "debian-12.flag").write_text("plain")
    swap.carry_notes(lab.data, lab.new, ["debian-*.flag"])
    assert (lab.new / "debian-12.flag").read_text() == "plain"
    for plant in (lambda path: path.symlink_to(secret), os.mkfifo):
        plant(lab.data / "debian-11.flag")
        with pytest.raises(Problem, match=r"debian-11\.flag is no file of its own"):
            swap.carry_notes(lab.data, lab.new, ["debian-11.flag"])
        assert not os.path.lexists(lab.new / "debian-11.flag")
        (lab.data / "debian-11.flag").unlink()
    shutil.move(lab.place.base, tmp_path / "elsewhere")
    lab.place.base.symlink_to(tmp_path / "elsewhere")
    for action in (lab.exchange, lambda: swap.make_work(lab.new, os.getuid(), os.getgid())):
        with pytest.raises(Problem, match="is no directory of its own"):
            action()


def test_what_else_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.old.mkdir(parents=True)
    with pytest.raises(Problem, match="exists already"):
        lab.exchange()
    lab.old.rmdir()
    swap.JOURNAL.write_text("torn")
    with pytest.raises(Problem, match="cannot be read"):
        lab.exchange()
    swap.JOURNAL.write_text(json.dumps({"phase": "in"}))
    with pytest.raises(Problem, match="an earlier exchange was cut off"):
        lab.exchange()
    swap.JOURNAL.unlink()
    with swap._alone(), pytest.raises(Problem, match="under way"):
        lab.exchange()
    pid = os.fork()
    if pid == 0:
        with (lab.data / "ibdata1").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            (lab.home / "locked").touch()
            while not (lab.home / "enough").exists():
                pass
        os._exit(0)
    try:
        while not (lab.home / "locked").exists():
            pass
        with pytest.raises(Problem, match="a server is running on"):
            lab.exchange()
    finally:
        (lab.home / "enough").touch()
        os.waitpid(pid, 0)
    assert lab.is_old()


@pytest.mark.parametrize(
    ("made_by", "upgraded", "carried"),
    [
        ("11.8.6-MariaDB-0+deb13u1-log", "11.8.6-MariaDB", True),
        # Data of another release: the next start has to bring its system tables to this one.
        ("10.11.14-MariaDB-0+deb12u2-log", "11.8.6-MariaDB", False),
        ("11.8.3-MariaDB-0+deb13u1", "11.8.6-MariaDB", False),
        ("11.8.61-MariaDB", "11.8.6", False),
        # Nobody knows of what release it is.
        ("", "11.8.6-MariaDB", False),
    ],
)
@pytest.mark.parametrize("prefix", ["mariadb_backup_", "xtrabackup_"])
def test_a_copy_of_another_release_is_upgraded_at_the_next_start(
    made_by: str, upgraded: str, carried: bool, prefix: str, tmp_path: pathlib.Path
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old/debian-11.8.flag").touch()
    (tmp_path / "old/mariadb_upgrade_info").write_text(f"{upgraded}\n")
    if made_by:
        (tmp_path / f"new/{prefix}info").write_text(
            f"tool_name = mariadb-backup\nserver_version = {made_by}\nend = x\n"
        )
    swap.carry_over(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new/debian-11.8.flag").exists()
    assert (tmp_path / "new/mariadb_upgrade_info").exists() is carried


def test_a_seed_and_a_backup_read_the_same_position(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Problem, match="none of mariadb_backup_binlog_info, xtrabackup_binlog_info"):
        swap.backup_position(tmp_path)
    for text, gtid in (("b.000002\t339\t0-1-5,\n1-2-7\n", "0-1-5,1-2-7"), ("b.000001\t328\t\n", ""), ("b.1\t4", "")):
        (tmp_path / "xtrabackup_binlog_info").write_text(text)
        assert swap.backup_position(tmp_path) == swap.position(tmp_path).gtid == gtid

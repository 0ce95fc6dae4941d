"""What root's programs do in directories where another account may write: links, pipes and second names get nothing.

The molecule scenarios plant them as the accounts themselves; here they are planted between two steps of a program too,
which an account can do and a scenario cannot time.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import files, metrics
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from host_programs import ROLES, Tier

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
STRANGER = 65534


release = Tier("app")
balancer = Tier("lb")
backup = Tier("backup")
database = Tier("db")
shards = Tier("cache")


@pytest.fixture
def secret(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file of root's that nobody may get."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (victim / "secret").write_text("secret")
    (victim / "secret").chmod(0o600)
    return victim / "secret"


def untouched(secret: pathlib.Path) -> bool:
    info = secret.lstat()
    whole = (stat.S_IMODE(info.st_mode), info.st_uid, secret.read_text()) == (0o600, os.geteuid(), "secret")
    return whole and os.listdir(secret.parent) == ["secret"]


# --- releases: the application collects its static files itself ------------------------------------------------


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Any:
    made = release.Application("shop")
    made.base = tmp_path / "shop"
    static = made.release("r1") / "static/css"
    static.mkdir(parents=True)
    (static / "site.css").write_text("body {}")
    (made.base / "static").mkdir()
    for path in (static.parent, static, static / "site.css"):
        os.chown(path, STRANGER, STRANGER)
    return made


@AS_ROOT
def test_static_files_become_roots_and_are_shared(site: Any) -> None:
    css = site.release("r1") / "static/css"
    css.chmod(0o777)
    (css / "site.css").chmod(0o4666)
    for _ in range(2):  # a run that was cut off is repeated
        site.finish("r1")
        assert (site.base / "static/css/site.css").samefile(css / "site.css")
        assert [path.stat().st_uid for path in (css.parent, css, css / "site.css")] == [0, 0, 0]
        assert [stat.S_IMODE(path.stat().st_mode) for path in (css, css / "site.css")] == [0o755, 0o644]
        assert site.finished() == ["r1"]


@AS_ROOT
@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
def test_a_release_with_a_planted_file_is_not_finished(site: Any, secret: pathlib.Path, kind: str) -> None:
    planted = site.release("r1") / "static/css/planted.css"
    if kind == "link":
        planted.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(planted)
    else:
        os.link(secret, planted)
    with pytest.raises(Problem, match=rf"{planted} is .*Find out who put it there"):
        site.finish("r1")
    assert untouched(secret)
    assert site.finished() == []
    assert not (site.base / "static/css/planted.css").exists()


@AS_ROOT
def test_a_directory_of_a_release_that_is_replaced_meanwhile_leads_nowhere(
    site: Any, secret: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    css = site.release("r1") / "static/css"
    (css / "site.css").rename(css / "secret")
    chown, fchown = os.chown, os.fchown

    def swap() -> None:
        if not css.is_symlink():
            css.rename(css.with_name("away"))
            css.symlink_to(secret.parent)

    # Before the first change in the directory itself.
    def change(path: Any, *more: Any, **how: Any) -> None:
        if str(path).endswith("css"):
            swap()
        chown(path, *more, **how)

    def change_open(handle: int, *more: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("css"):
            swap()
        fchown(handle, *more)

    monkeypatch.setattr(os, "chown", change)
    monkeypatch.setattr(os, "fchown", change_open)
    before = secret.stat()
    site.finish("r1")
    assert css.is_symlink()
    assert secret.stat().st_nlink == before.st_nlink == 1
    assert secret.parent.stat().st_mode == (stat.S_IFDIR | 0o700)
    assert (site.base / "static/css/secret").read_text() == "body {}"


# --- the balancer: nginx's workers own the cache, the probes their findings -------------------------------------


def test_purge_waits_for_no_pipe_and_deletes_nothing_elsewhere(
    tmp_path: pathlib.Path, secret: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    (cache / "a").mkdir(parents=True)
    (cache / "a/secret").write_text("\nKEY: https://a/\n")
    unlink = os.unlink

    def swap(path: Any, **how: Any) -> None:
        if (cache / "a").is_dir() and not (cache / "a").is_symlink():
            (cache / "a").rename(cache / "away")
            (cache / "a").symlink_to(secret.parent)
        unlink(path, **how)

    monkeypatch.setattr(balancer, "OPEN_FILE_SECONDS", 0.0)
    monkeypatch.setattr(balancer, "config", lambda: argparse.Namespace(cache_directory=cache))
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", swap)
        assert balancer.purge(argparse.Namespace(prefix=""))["removed"] == 1
    assert untouched(secret)
    (cache / "a").unlink()
    os.mkfifo(cache / "pipe")
    with pytest.raises(Problem, match="pipe is no file"):
        balancer.purge(argparse.Namespace(prefix="https://a/"))
    assert balancer.purge(argparse.Namespace(prefix=""))["removed"] == 1


def test_findings_that_are_no_file_are_refused(tmp_path: pathlib.Path, secret: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(Problem, match=f"{name} is"):
            balancer.load(tmp_path / name)
    assert balancer.load(tmp_path / "absent") == {}


# --- the database: its account owns the data directory ---------------------------------------------------------


@AS_ROOT
@pytest.mark.parametrize(
    "give", [database.give_to_server, lambda data: database.make_ready(data, data / "nowhere")], ids=["backup", "seed"]
)
def test_nobody_enters_a_data_directory_before_all_of_it_is_given_away(
    tmp_path: pathlib.Path, give: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    (data / "shop").mkdir(parents=True)
    (data / "shop/goods.ibd").touch()
    (data / "planted").symlink_to("/etc")
    monkeypatch.setattr(pwd, "getpwnam", lambda _: pwd.struct_passwd(("m", "x", STRANGER, STRANGER, "", "/", "")))
    given: list[str] = []
    chown = os.chown

    def note(path: Any, *more: Any, **how: Any) -> None:
        given.append(os.path.relpath(path, data))
        chown(path, *more, **how)

    monkeypatch.setattr(os, "chown", note)
    monkeypatch.setattr(shutil, "chown", lambda path, *_: note(path, STRANGER, STRANGER))
    etc = os.stat("/etc")
    give(data)
    assert given[-1] == "."
    assert sorted(given) == [".", "planted", "shop", "shop/goods.ibd"]
    assert {os.lstat(data / name).st_uid for name in given} == {STRANGER}
    assert (os.stat("/etc").st_uid, os.stat("/etc").st_mode) == (etc.st_uid, etc.st_mode)


def test_marks_of_the_data_directory_are_files(tmp_path: pathlib.Path, secret: pathlib.Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for kind in ("link", "pipe"):
        for folder in (old, new):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        flag = old / "debian-11.8.flag"
        flag.symlink_to(secret) if kind == "link" else os.mkfifo(flag)
        with pytest.raises(Problem, match="is no file of its own"):
            database.carry_over(old, new)
        with pytest.raises(Problem, match="is no file of its own"):
            database.make_ready(new, old)
        assert os.listdir(new) == []
        assert database.read_theirs(flag) is None
    (old / "note").symlink_to(secret)
    with pytest.raises(Problem, match="not followed"):
        files.read(old / "note")
    (new / "mariadb_backup_info").symlink_to(secret)
    with pytest.raises(Problem, match="not followed"):
        database.tool_file(new, "info")


@AS_ROOT
def test_a_backup_takes_no_file_of_somebody_elses(tmp_path: pathlib.Path, secret: pathlib.Path) -> None:
    data, disk = tmp_path / "mysql", tmp_path / "disk"
    for folder in (data, data / "shop", disk):
        folder.mkdir()
        os.chown(folder, STRANGER, STRANGER)
    (disk / "goods.ibd").touch()
    os.chown(disk / "goods.ibd", STRANGER, STRANGER)
    (data / "debian-11.8.flag").touch()  # root's
    # The server's own, on another disk.
    (data / "far").symlink_to(disk)
    (data / "shop/goods.ibd").symlink_to(disk / "goods.ibd")
    (data / "shop/gone").symlink_to(tmp_path / "nothing")
    assert database.led_astray(data, STRANGER) == ""
    for planted in (data / "log", data / "shop/log", disk / "log"):
        planted.symlink_to(secret)
        assert pathlib.Path(database.led_astray(data, STRANGER)).name == "log"
        planted.unlink()
        os.link(secret, planted)
        assert pathlib.Path(database.led_astray(data, STRANGER)).name == "log"
        planted.unlink()
    (data / "all").symlink_to("/etc")
    assert database.led_astray(data, STRANGER).startswith(f"{data}/all")


def test_logs_that_were_put_aside_do_not_come_through_a_link(
    tmp_path: pathlib.Path, secret: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mysql").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / backup.KEPT_LOGS).symlink_to(secret.parent)
    server = backup.Server.__new__(backup.Server)
    monkeypatch.setattr(server, "datadir", lambda: tmp_path / "mysql")
    with pytest.raises(Problem, match="binary-logs is no directory of its own"):
        backup.undo_replace(server, tmp_path / "old")
    assert untouched(secret)


@pytest.mark.parametrize("program", ["backup", "all others"])
def test_metrics_are_written_through_no_link(tmp_path: pathlib.Path, secret: pathlib.Path, program: str) -> None:
    written = tmp_path / ("webstack_backup.prom" if program == "backup" else "metrics.prom")
    for name in (f"{written.name}.new", f"{written.stem}.new", written.name):
        (tmp_path / name).symlink_to(secret)
    if program == "backup":
        metrics.publish(str(written), "new")
    else:
        files.write(written, "new")
    assert untouched(secret)
    assert written.read_text() == "new"
    assert stat.S_IMODE(written.stat().st_mode) == 0o644


# --- the cache's servers own their directories ------------------------------------------------------------------


def test_only_names_of_shards_are_taken_for_shards(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file redis-...conf would name the shard "..", whose directory is /var/lib itself."""
    program = shards.Program("redis")
    monkeypatch.setattr(program, "configuration", tmp_path)
    for name in ("one", "two.b", "..", ".", "", "-x"):
        (tmp_path / f"redis-{name}.conf").write_text(shards.MARK)
    assert program.placed() == ["one", "two.b"]


@pytest.fixture
def home() -> Iterator[pathlib.Path]:
    """A directory of another account's that it can reach, which pytest's own it cannot."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, STRANGER, STRANGER)
        yield pathlib.Path(name)


@AS_ROOT
def test_what_is_read_and_written_as_an_account_is_its_own(home: pathlib.Path, secret: pathlib.Path) -> None:
    program = shards.Program(pwd.getpwuid(STRANGER).pw_name)
    (home / "away").symlink_to(secret.parent)
    for path in (home / "away/new", secret):
        with pytest.raises((Problem, PermissionError)):
            program.write(path, "x")
    with pytest.raises((Problem, PermissionError)):
        program.read(home / "away/secret")
    os.link(secret, home / "second")
    with pytest.raises(Problem, match="second cannot be read"):
        program.read(home / "second")
    with pytest.raises((Problem, PermissionError)):
        program.remove(home / "away/secret")
    (home / "second").unlink()
    assert untouched(secret)
    program.remove(home / "away")
    assert untouched(secret)
    program.write(home / "note", "mine")
    assert program.read(home / "note") == "mine"
    assert (home / "note").stat().st_uid == STRANGER
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_no_lock_lies_where_every_account_may_put_a_link() -> None:
    """/run/lock is for everybody, as /tmp is: root would create or empty what a link there leads to."""
    found = subprocess.run(
        ["grep", "-rnE", r"/run/lock/|/var/lock/|[\"' =>]/tmp/", "--include=*", str(ROLES)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    assert [line for line in found if "README.md" not in line and ".pyc" not in line] == [], json.dumps(found, indent=1)

"""How webstack.ha.files brings the program `webstack` to a host: complete, once, and back when the call fails."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible_collections.webstack.ha.plugins.action import files as action
from ansible_collections.webstack.ha.plugins.module_utils import _files, _host_program
from ansible_collections.webstack.ha.plugins.module_utils._host_program import MOVED, HostProgram
from ansible_collections.webstack.ha.plugins.modules import files

ME = {"owner": str(os.geteuid()), "group": str(os.getegid())}


class Host:
    """A directory for a host, and what the action does with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.library = root / "lib/webstack"
        self.command = root / "sbin/webstack"
        self.calls: list[str] = []

    def program(self, says: str) -> HostProgram:
        package = self.root / "controller"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        (package / "cli.py").write_text(
            f"def main():\n    import sys\n    print({says!r}, flush=True)\n    sys.stdin.read()\n    return 3\n"
        )
        return HostProgram(package, str(self.library), str(self.command))

    def call(self, program: HostProgram, *entries: dict[str, Any], check: bool = False, **more: Any) -> dict[str, Any]:
        def own(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return _files.entries([{**ME, **entry} for entry in found])

        def send(request: dict[str, Any], what: str) -> dict[str, Any]:
            self.calls.append(what)
            for item in request["files"]:
                item.pop("vars", None)
            return files.deliver(request, check)

        payload = {"files": own([*program.links(), *entries]), **more}
        answer = send({**payload, "program": program.digest}, "asked")
        if answer.pop("program_missing", False):
            answer = send({"files": own(program.content()), "compile": program.home}, "sent")
            if not answer.get("failed"):
                answer = send({**payload, "program": ""}, "placed")
        return answer

    def said(self) -> str:
        done = subprocess.run([self.command], input="", capture_output=True, text=True, check=False)
        assert done.returncode == 3, done.stderr
        return done.stdout.strip()

    def homes(self) -> set[str]:
        return {path.name for path in self.library.iterdir() if path.is_dir() and not path.is_symlink()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_program_comes_once_and_runs(host: Host) -> None:
    program = host.program("one")
    answer = host.call(program, {"dest": f"{host.root}/etc/a", "content": "x"})
    assert answer["changed_files"] == [f"{host.library}/current", str(host.command), f"{host.root}/etc/a"]
    assert host.said() == "one"
    assert (host.library / program.digest / "webstack/__pycache__").is_dir(), "services could not keep its byte code"
    host.calls.clear()
    assert host.call(program, {"dest": f"{host.root}/etc/a", "content": "x"})["changed_files"] == []
    assert host.calls == ["asked"]


def test_the_digest_is_that_of_what_is_sent(host: Host) -> None:
    assert host.program("one").digest == host.program("one").digest != host.program("two").digest


def test_a_new_one_takes_the_place_of_the_old_one(host: Host) -> None:
    host.call(host.program("one"))
    new = host.program("two")
    assert host.call(new)["changed_files"] == [f"{host.library}/current"]
    assert host.said() == "two"
    assert host.homes() == {new.digest}


def test_one_that_runs_keeps_its_directory_until_it_ends(host: Host) -> None:
    old = host.program("one")
    host.call(old)
    running = subprocess.Popen([host.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdin is not None and running.stdout is not None
    assert running.stdout.readline() == "one\n"
    new = host.program("two")
    host.call(new)
    assert host.homes() == {old.digest, new.digest}
    running.communicate("")
    answer = host.call(new)
    assert (answer["changed"], host.homes()) == (False, {new.digest})


def test_only_programs_are_swept(host: Host) -> None:
    host.call(host.program("one"))
    for name in ("kept", "0123", "0123456789abcdeg"):
        (host.library / name).mkdir()
    (host.library / "hash_ring.py").write_text("")
    elsewhere = host.root / "elsewhere"
    elsewhere.mkdir()
    (host.library / ("0" * 16)).symlink_to(elsewhere)
    new = host.program("two")
    host.call(new)
    assert host.homes() == {new.digest, "kept", "0123", "0123456789abcdeg"}
    assert elsewhere.is_dir() and (host.library / "hash_ring.py").is_file()


def test_a_refused_call_leaves_the_old_one_current(host: Host) -> None:
    host.call(host.program("one"))
    answer = host.call(host.program("two"), {"dest": f"{host.root}/a", "content": ""}, validate=["false"])
    assert answer["failed"]
    assert f"{host.library}/current" in answer["restored"]
    assert host.said() == "one"


def test_what_checks_the_files_is_the_new_program(host: Host) -> None:
    host.call(host.program("one"))
    check = ["sh", "-c", f"{host.command} </dev/null | grep -qx two"]
    answer = host.call(host.program("two"), {"dest": f"{host.root}/a", "content": ""}, validate=check)
    assert not answer.get("failed"), answer


def test_check_mode_says_so_and_sends_nothing(host: Host) -> None:
    answer = host.call(host.program("one"), check=True)
    assert (answer["changed"], host.calls) == (True, ["asked"])
    assert not host.library.exists()


def cut_off(host: Host, program: HostProgram) -> None:
    """A run that ended before all was written."""
    host.call(program)
    (host.library / program.digest / "webstack/cli.py").write_text("")
    (host.library / "current").unlink()


def taken_away(host: Host, program: HostProgram) -> None:
    host.call(program)
    (host.library / "current").unlink()
    host.command.unlink()


@pytest.mark.parametrize("before", [cut_off, taken_away])
def test_half_a_program_is_made_whole(host: Host, before: Callable[[Host, HostProgram], None]) -> None:
    program = host.program("one")
    before(host, program)
    host.call(program)
    assert host.said() == "one"


def test_a_program_that_this_python_does_not_take_never_becomes_current(host: Host) -> None:
    host.call(host.program("one"))
    bad = host.program("two")
    bad.files["webstack/cli.py"] = "def main(:\n"
    answer = host.call(bad)
    assert answer["failed"] and "this host's Python does not take it" in answer["msg"]
    assert host.said() == "one"


def test_a_file_in_the_place_of_a_directory_is_refused(host: Host) -> None:
    program = host.program("one")
    host.library.mkdir(parents=True)
    (host.library / program.digest).write_text("")
    answer = host.call(program)
    assert answer["failed"] and program.digest in answer["msg"]
    assert not (host.library / "current").exists()


def test_the_callers_python_has_no_say(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.call(host.program("one"))
    (tmp_path / "fcntl.py").write_text("raise SystemExit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert host.said() == "one"


def lost(host: Host, program: HostProgram) -> None:
    shutil.rmtree(host.library / program.digest)


def without_a_start(host: Host, program: HostProgram) -> None:
    (host.library / program.digest / "command").unlink()


@pytest.mark.parametrize("damage", [lost, without_a_start])
def test_a_link_that_leads_to_no_program_is_no_program(host: Host, damage: Callable[[Host, HostProgram], None]) -> None:
    program = host.program("one")
    host.call(program)
    damage(host, program)
    host.call(program)
    assert host.said() == "one"


def test_no_other_account_keeps_a_program_from_starting_or_coming(host: Host) -> None:
    """Whoever may read a directory may lock it: here exclusively, and for ever."""
    old = host.program("one")
    host.call(old)
    hostile = os.open(host.library / old.digest, os.O_RDONLY)
    try:
        fcntl.flock(hostile, fcntl.LOCK_EX)
        done = subprocess.run([host.command], input="", capture_output=True, text=True, check=False, timeout=20)
        assert (done.returncode, done.stdout) == (3, "one\n")
        host.call(host.program("two"))
        assert host.said() == "two"
    finally:
        os.close(hostile)


def test_a_start_while_the_old_program_goes_takes_the_new_one(host: Host) -> None:
    """It found the old one's file, and had not locked its directory when a run swept it away."""
    old = host.program("one")
    host.call(old)
    new = host.program("two")
    # Where the old one would take its lock, the other run does all that it does.
    script = (
        "import fcntl, json, os, shutil, sys\n"
        "library, old, new, command = sys.argv.pop().split(',')\n"
        "real, calls = fcntl.flock, []\n"
        "def flock(*arguments):\n"
        "    if not calls:\n"
        "        calls.append(1)\n"
        "        os.unlink(f'{library}/current')\n"
        "        os.symlink(new, f'{library}/current')\n"
        "        shutil.rmtree(f'{library}/{old}')\n"
        "    return real(*arguments)\n"
        "fcntl.flock = flock\n"
        "__file__ = command\n"
        "exec(compile(open(command).read(), command, 'exec'))\n"
    )
    for item in new.content():
        Path(item["dest"]).parent.mkdir(parents=True, exist_ok=True)
        Path(item["dest"]).write_text(item["content"])
    words = [sys.executable, "-I", "-c", script, f"{host.library},{old.digest},{new.digest},{host.command}"]
    done = subprocess.run(words, input="", capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (3, "two\n", "")


def test_what_another_run_has_just_brought_is_not_swept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs at once: the later one's program may be complete and not current, or current since a moment."""
    old = host.program("one")
    host.call(old)
    newer = host.program("three")
    real = os.listdir

    def listdir(path: Any) -> list[str]:
        found = real(path)
        if path == str(host.library) and not (host.library / newer.digest).exists():
            send = {"files": _files.entries([{**ME, **item} for item in newer.content()]), "compile": newer.home}
            for item in send["files"]:
                item.pop("vars", None)
            assert not files.deliver(send).get("failed")
            (host.library / "current").unlink()
            (host.library / "current").symlink_to(newer.digest)
            found.append(newer.digest)
        return found

    monkeypatch.setattr(files.os, "listdir", listdir)
    host.call(host.program("two"))
    monkeypatch.undo()
    assert host.said() == "three"


def test_a_program_that_another_run_took_away_is_no_success(host: Host) -> None:
    """Between the call that brought it and the one that makes it the current one."""
    host.call(host.program("one"))
    new = host.program("two")
    request = {"files": _files.entries([{**ME, **entry} for entry in new.links()]), "program": ""}
    answer = files.deliver(request)
    assert answer["failed"] and f"{new.home} was removed by another run just now" in answer["msg"]
    assert host.said() == "one"


class Action(action.ActionModule):  # type: ignore[misc]
    """The action, with the module at hand where a host would be."""

    def __init__(self) -> None:
        arguments = {"files": [], "host_program": True}
        task = mock.Mock(async_val=0, check_mode=False, diff=False, args=arguments)
        super().__init__(task, mock.Mock(), mock.Mock(), DataLoader(), None, None)
        self.sent: list[dict[str, Any]] = []

    def _execute_module(self, module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        request = json.loads(zlib.decompress(base64.b64decode(module_args["payload"])))
        self.sent.append(request)
        return files.deliver(request)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_action_says_what_the_host_got(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    program = host.program("one")
    monkeypatch.setattr(action, "HostProgram", lambda: program)
    current = f"{host.library}/current"
    assert Action().run(task_vars={})["changed_files"] == [current, str(host.command)]
    again = Action()
    assert again.run(task_vars={})["changed_files"] == []
    assert len(again.sent) == 1
    lost(host, program)
    back = Action().run(task_vars={})
    assert (back["changed"], back["changed_files"]) == (True, [current])
    assert host.said() == "one"


class Earlier:
    """A host where an earlier version kept its state elsewhere."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.old, self.new = host.root / "var/tool-db", host.root / "var/tool/db"
        self.command = host.root / "sbin/tool-db"
        self.old.mkdir(parents=True)
        (self.old / "primary").write_text("{}")
        self.command.parent.mkdir(exist_ok=True)
        self.command.write_text("#!/bin/sh\nread -r word\n")
        self.command.chmod(0o755)
        self.places = [[str(self.old), str(self.new), str(self.command)]]

    def call(self, *entries: dict[str, Any], check: bool = False) -> dict[str, Any]:
        return self.host.call(self.host.program("one"), *entries, check=check, moved=self.places)


@pytest.fixture
def earlier(host: Host) -> Earlier:
    return Earlier(host)


def test_what_an_earlier_version_kept_is_moved_before_files_are_compared(earlier: Earlier) -> None:
    inode = (earlier.old / "primary").stat().st_ino
    answer = earlier.call({"dest": f"{earlier.new}/primary", "content": "fresh", "force": False})
    assert answer["changed_files"][0] == str(earlier.new)
    assert (earlier.new / "primary").read_text() == "{}"
    assert (earlier.new / "primary").stat().st_ino == inode
    # What still runs finds it, and writes it, in the old place.
    (earlier.old / "primary").write_text("newer")
    assert (earlier.new / "primary").read_text() == "newer"
    again = earlier.call({"dest": f"{earlier.new}/primary", "content": "fresh", "force": False})
    assert again["changed"] is False


def test_the_link_goes_when_the_earlier_command_is_gone_and_nobody_runs_it(earlier: Earlier) -> None:
    with subprocess.Popen([earlier.command], stdin=subprocess.PIPE) as running:
        earlier.call()
        assert earlier.old.is_symlink(), "the command is there"
        earlier.command.unlink()
        earlier.call()
        assert earlier.old.is_symlink(), "the command runs"
        running.communicate(b"\n")
    assert earlier.call()["changed"] is False
    assert not os.path.lexists(earlier.old)
    assert (earlier.new / "primary").exists()


def test_a_link_of_somebody_else_stays(earlier: Earlier) -> None:
    earlier.call()
    earlier.command.unlink()
    earlier.old.unlink()
    earlier.old.symlink_to(earlier.host.root)
    earlier.call()
    assert earlier.old.is_symlink()


def test_an_empty_new_place_gives_way(earlier: Earlier) -> None:
    earlier.new.mkdir(parents=True)
    assert earlier.call()["changed"] is True
    assert (earlier.new / "primary").exists()


def test_a_check_run_moves_nothing_and_says_that_it_would(earlier: Earlier) -> None:
    answer = earlier.call(check=True)
    assert str(earlier.new) in answer["changed_files"]
    assert (earlier.old / "primary").exists()
    assert not earlier.old.is_symlink()
    assert not earlier.new.exists()


def test_two_places_that_hold_something_are_refused_by_name(earlier: Earlier) -> None:
    earlier.new.mkdir(parents=True)
    (earlier.new / "primary").write_text("other")
    answer = earlier.call({"dest": f"{earlier.host.root}/etc/a", "content": "x"})
    assert answer["failed"] is True
    assert str(earlier.old) in answer["msg"]
    assert str(earlier.new) in answer["msg"]
    assert (earlier.new / "primary").read_text() == "other"
    assert (earlier.old / "primary").read_text() == "{}"
    assert not (earlier.host.root / "etc/a").exists()


def test_what_cannot_be_moved_is_said(earlier: Earlier) -> None:
    rename = os.rename

    def other_disk(old: str, new: str, **more: Any) -> None:
        if old == str(earlier.old):
            raise OSError(18, "Invalid cross-device link")
        rename(old, new, **more)

    with mock.patch.object(files.os, "rename", other_disk):
        answer = earlier.call()
    assert answer["failed"] is True
    assert "Invalid cross-device link" in answer["msg"]
    assert "by hand" in answer["msg"]
    assert (earlier.old / "primary").exists()


def test_what_was_moved_stays_when_the_call_fails(earlier: Earlier) -> None:
    answer = earlier.call({"dest": f"{earlier.host.root}/etc/a", "content": "x", "validate": ["false", "%s"]})
    assert answer["failed"] is True
    assert (earlier.old / "primary").read_text() == "{}"
    assert (earlier.new / "primary").read_text() == "{}"


def test_every_place_moves_below_the_names_of_the_tiers() -> None:
    for old, new, command in MOVED:
        tier = new.split("/webstack/")[1].split("/")[0]
        assert tier in {"db", "backup", "lb", "tls", "vip", "media"}, new
        assert old != new
        assert command.startswith("/usr/local/sbin/")


@pytest.mark.parametrize(
    ("path", "before"),
    [
        ("/etc/webstack/tls/channel/ca.crt", "/etc/webstack-tls/channel/ca.crt"),
        ("/var/lib/webstack/db/primary", "/var/lib/webstack-db/primary"),
        ("/etc/webstack/ca.pem", ""),
        ("/etc/webstack/tls.json", ""),
    ],
)
def test_a_file_is_looked_for_where_an_earlier_version_kept_it(path: str, before: str) -> None:
    assert _host_program.earlier(path) == before

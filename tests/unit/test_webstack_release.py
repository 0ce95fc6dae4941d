"""The command webstack app: what it does with what it cannot see, and in whose surroundings a release is built."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import systemd
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done, Failed, TooSlow
from host_programs import Tier, command_line

release = Tier("app")

RUNNING = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}


@pytest.fixture
def site(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An application whose Apache is this process, with one release that is being built."""
    monkeypatch.setattr(release, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(shutil, "chown", lambda *_arguments: None)
    monkeypatch.setattr(os, "chown", lambda *_arguments, **_options: None)
    monkeypatch.setattr(os, "fchown", lambda *_arguments: None)
    (tmp_path / "etc/shop").mkdir(parents=True)
    (tmp_path / "ports.conf").write_text("")
    os.utime(tmp_path / "ports.conf", (0, 0))
    settings = {"port": 8000, "user": "www-data", "group": "www-data", "apache_files": [str(tmp_path / "ports.conf")]}
    (tmp_path / "etc/shop/release.json").write_text(json.dumps(settings))
    found = release.Application("shop")
    found.base = tmp_path / "shop"
    found.link = found.base / "current"
    monkeypatch.setattr(found, "processes", lambda: [os.getpid()])
    return found


# --- what cannot be seen ----------------------------------------------------------------------------


def test_a_known_apache_with_old_files_is_left_alone(site: Any) -> None:
    assert not site.stale_apache({**RUNNING, "MainPID": str(os.getpid())})


def test_changed_files_are_noticed(site: Any) -> None:
    os.utime(site.setting("apache_files")[0], (time.time() + 60,) * 2)
    assert site.stale_apache({**RUNNING, "MainPID": str(os.getpid())})


@pytest.mark.parametrize("pid", ["0", "4194304"])
def test_an_unknown_main_process_is_no_reason_to_do_nothing(site: Any, pid: str) -> None:
    assert site.stale_apache({**RUNNING, "MainPID": pid})


def test_an_apache_that_runs_none_of_our_processes_starts_anew(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "processes", lambda: [])
    assert site.stale_apache({**RUNNING, "MainPID": str(os.getpid())})


@pytest.mark.parametrize(
    ("code", "said"), [(1, ""), (0, ""), (0, "ActiveState=active\nNeedDaemonReload=no\n"), (0, "MainPID=7\n")]
)
def test_a_systemd_that_does_not_say_is_an_error(monkeypatch: pytest.MonkeyPatch, code: int, said: str) -> None:
    def run(*command: str, check: bool = True, **_options: Any) -> Done:
        done = Done(command, code, said, "")
        if code and check:
            raise Failed(done)
        return done

    monkeypatch.setattr(systemd, "run", run)
    with pytest.raises(Problem, match="systemctl show"):
        release.unit()


def test_a_systemd_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*command: str, seconds: float, **_options: Any) -> None:
        raise TooSlow(f"{' '.join(command[:3])}: no end within {seconds:g} s")

    monkeypatch.setattr(systemd, "run", run)
    with pytest.raises(Problem, match=r"systemctl show .*: no end within 30 s"):
        release.unit()


def test_an_unreadable_file_is_not_an_old_one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert release.changed(tmp_path / "absent") == 0
    (tmp_path / "inner").mkdir()

    def scandir(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        release.changed(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_settings_that_cannot_be_read_are_not_taken_for_none(site: Any, text: str) -> None:
    (release.CONFIGURATION / "shop/release.json").write_text(text)
    with pytest.raises(Problem, match=r"release\.json.*: run the role was_django again"):
        release.Application("shop")


def test_a_setting_that_is_missing_is_named(site: Any) -> None:
    del site.settings["apache_files"]
    with pytest.raises(Problem, match=r"release\.json has no 'apache_files': run the role that writes it again"):
        site.stale_apache({**RUNNING, "MainPID": str(os.getpid())})


# --- while processes are replaced --------------------------------------------------------------------


class Processes:
    """Two daemon processes of a site, one good and one of a release that does not load; a new one loads for a while."""

    def __init__(self, site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        #: Process: its release, when it began and from when on it answers itself.
        self.those: dict[int, tuple[str, float, float]] = {7: ("good", -20.0, 0.0), 8: ("bad", -10.0, 0.0)}
        self.ended: list[int] = []
        site.settings |= {
            "health_timeout": 20,
            "graceful": 1,
            "address": "127.0.0.1",
            "health_path": "/up",
            "watch": [],
        }
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(os, "kill", self.kill)
        monkeypatch.setattr(site, "processes", lambda: sorted(self.those))
        monkeypatch.setattr(site, "stale_processes", lambda: sorted((p for p in self.those if p < 9), reverse=True))
        monkeypatch.setattr(site, "ask", self.ask)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def kill(self, process: int, _signal: int) -> None:
        del self.those[process]
        self.ended.append(process)
        self.those[max(9, *self.those) + 1] = ("good", self.now, self.now + 5)

    def ask(self) -> tuple[int, str, int, str]:
        """One that does not load answers at once, and so is asked most."""
        ready = {pid: name for pid, (name, _began, at) in self.those.items() if at <= self.now}
        bad = [pid for pid, name in ready.items() if name == "bad"]
        pid = max(bad or ready)
        return (503, "bad", pid, "does not load") if bad else (200, ready[pid], pid, "ok")


def test_the_bad_process_of_a_refused_release_is_replaced_first(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    those = Processes(site, monkeypatch)
    assert site.replace("good") == ["replaced 2 processes"]
    assert those.ended == [8, 7]


def test_a_release_that_comes_back_is_not_judged_by_what_the_refused_one_answers(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loads for longer than the other one needs to answer badly ten times; so it was given up on a busy machine."""
    those = Processes(site, monkeypatch)
    monkeypatch.setattr(site, "stale_processes", lambda: [7, 8])
    ask = those.ask
    monkeypatch.setattr(site, "ask", lambda: ask() if those.now < 5 else (200, "good", max(those.those), "ok"))
    assert site.replace("good") == ["replaced 2 processes"]
    assert those.now > 5


def test_a_new_process_that_does_not_load_is_noticed_long_before_the_time_limit(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    those = Processes(site, monkeypatch)
    monkeypatch.setattr(site, "ask", lambda: (503, "new", max(those.those), "does not load"))
    with pytest.raises(Problem, match=r"does not answer for release new \(last answer: status 503: does not load\)"):
        site.replace("new")
    assert those.now < 5


# --- where Apache cannot listen ---------------------------------------------------------------------


def test_a_port_of_another_application_or_program_is_named(site: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "etc/other").mkdir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert site.taken(["127.0.0.1"], port) == [f"another program listens on 127.0.0.1 port {port}"]
    assert site.taken(["127.0.0.1"], port) == []
    (tmp_path / "etc/other/release.json").write_text(json.dumps({"port": port}))
    assert "belongs to the application other" in site.taken(["127.0.0.1"], port)[0]
    assert "cannot listen on 192.0.2.1" in site.taken(["192.0.2.1"], 8000)[0]


def test_apache_is_not_stopped_for_an_address_that_it_cannot_have(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.settings["listen"] = ["192.0.2.1"]
    monkeypatch.setattr(release, "refused_by_apache", lambda: ["Apache refuses its files: line 7"])
    called: list[str] = []
    monkeypatch.setattr(release, "tell", lambda *words: called.append(words[0]))
    monkeypatch.setattr(release, "unit", lambda: {**RUNNING, "MainPID": "0"})
    with pytest.raises(Problem, match=r"cannot listen on 192\.0\.2\.1.*; Apache refuses its files: line 7"):
        site.bring("x")
    assert called == []


def test_a_restart_after_which_systemd_knows_no_apache_is_an_error(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.settings["listen"] = []
    monkeypatch.setattr(release, "refused_by_apache", lambda: [])
    monkeypatch.setattr(release, "tell", lambda *_words: "")
    monkeypatch.setattr(release, "unit", lambda: {**RUNNING, "MainPID": "0"})
    with pytest.raises(Problem, match="does not know the main process"):
        site.bring("x")


def test_a_way_back_that_fails_too_is_told(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        site.begin(name)
        site.finish(name)
    site.point("old")

    def bring(identity: str) -> None:
        raise Problem(f"{identity} is silent")

    monkeypatch.setattr(site, "ask", lambda: (0, "", 0, ""))
    monkeypatch.setattr(site, "stale_processes", lambda: [])
    monkeypatch.setattr(site, "bring", bring)
    with pytest.raises(Problem, match="new is silent; old was put back and does not answer either: old is silent"):
        site.activate("new")
    assert site.current() == "old"


# --- whose surroundings -----------------------------------------------------------------------------


def modes(top: pathlib.Path) -> dict[str, str]:
    return {str(path.relative_to(top)): oct(path.stat().st_mode & 0o7777) for path in sorted(top.rglob("*"))}


def test_a_build_begins_in_a_fresh_place(site: Any) -> None:
    half = site.release("x")
    (half / "venv/bin").mkdir(parents=True, mode=0o700)
    (half / "venv/bin/pip").write_text("half of")
    (half / "src").symlink_to("/etc")
    (half / ".migrated-1").touch()
    before = os.umask(0o077)
    try:
        assert site.begin("x") == ["began x anew"]
    finally:
        os.umask(before)
    assert modes(half) == {".migrated-1": "0o644", "src": "0o755", "static": "0o755"}
    assert not (half / "src").is_symlink()
    site.finish("x")
    with pytest.raises(Problem, match="complete already"):
        site.begin("x")


def test_static_files_can_be_read_whatever_the_application_says_about_uploads(site: Any) -> None:
    site.begin("x")
    (site.release("x") / "static/css").mkdir(mode=0o700)
    (site.release("x") / "static/css/a.css").write_text("a")
    (site.release("x") / "static/css/a.css").chmod(0o600)
    site.finish("x")
    assert modes(site.base / "static") == {"css": "0o755", "css/a.css": "0o644"}


def test_a_static_file_stays_while_a_kept_release_has_it(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is pruned was the last to link the name, and another one needs it."""
    monkeypatch.setattr(site, "setting", lambda _name: 1)
    for number, one in enumerate(("old", "refused")):
        site.begin(one)
        (site.release(one) / "static/a.1f.css").write_text("a")
        (site.release(one) / f"static/{one}.css").write_text(one)
        site.finish(one)
        os.utime(site.release(one) / ".finished", (number, number))
    site.point("old")
    monkeypatch.setattr(site, "finished", lambda: ["old"])
    assert site.prune() == ["removed refused"]
    assert (site.base / "static/a.1f.css").samefile(site.release("old") / "static/a.1f.css")
    assert sorted(path.name for path in (site.base / "static").iterdir()) == ["a.1f.css", "old.css"]


def test_a_program_on_the_port_of_another_address_is_in_nobodys_way(
    site: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apache itself holds 127.0.0.1; somebody else has the same port of 127.0.0.2."""
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        held = {f"socket:[{os.fstat(ours.fileno()).st_ino}]"}
        monkeypatch.setattr(release, "held_by_apache", lambda: held)
        with socket.create_server(("127.0.0.2", port)):
            assert site.taken(["127.0.0.1"], port) == []
            assert site.taken(["127.0.0.2"], port) == [f"another program listens on 127.0.0.2 port {port}"]
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as every:
        port = every.getsockname()[1]
        assert site.taken(["127.0.0.1"], port) == [f"another program listens on 127.0.0.1 port {port}"]


def test_an_apache_that_systemd_lost_ends_its_requests_first(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd does not know whom to wait for, and would kill them."""
    monkeypatch.setattr(release, "PID_FILE", tmp_path / "apache2.pid")
    release.let_requests_end()
    with subprocess.Popen(["sleep", "60"]) as apache:
        (tmp_path / "apache2.pid").write_text(f"{apache.pid}\n")
        asked: list[list[str]] = []

        def run(*command: str, **_options: Any) -> None:
            asked.append([*command])
            threading.Timer(0.5, lambda: (apache.terminate(), apache.wait())).start()

        monkeypatch.setattr(release, "run", run)
        started = time.monotonic()
        release.let_requests_end()
        assert asked == [["apache2ctl", "graceful-stop"]]
        assert 0.4 < time.monotonic() - started < 10


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_static_file_is_refused(site: Any, tmp_path: pathlib.Path, kind: str) -> None:
    """The application may write there: a link would give root's files away."""
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o600)
    site.begin("x")
    file = site.release("x") / "static/a.css"
    if kind == "link":
        file.symlink_to(secret)
    else:
        os.mkfifo(file)
    with pytest.raises(Problem, match=r"a\.css is (a link|no file): collectstatic leaves files only"):
        site.finish("x")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert not (site.release("x") / ".finished").exists()
    assert not (site.base / "static/a.css").exists()


def test_a_step_of_a_build_has_surroundings_of_its_own() -> None:
    login = {
        "PATH": "/opt/node/bin:/usr/bin",
        "HOME": "/home/ada",
        "LANG": "de_DE",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "PYTHONPATH": "/home/ada/lib",
        "VIRTUAL_ENV": "/home/ada/venv",
        "PIP_TARGET": "/home/ada/lib",
        "PIP_INDEX_URL": "https://index.example/",
        "https_proxy": "http://proxy.example:3128",
        "CFLAGS": "-O2",
    }
    command = [*command_line("app"), "none", "run", "sh", "-c", "umask; env"]
    done = subprocess.run(command, env=login, umask=0o077, capture_output=True, text=True, check=True)
    umask, *lines = done.stdout.splitlines()
    assert umask == "0022"
    found = dict(line.split("=", 1) for line in lines)
    assert found.pop("PATH").startswith("/usr/local/sbin:")
    found.pop("PWD", None)
    assert {name: value for name, value in found.items() if name not in ("SHLVL", "_", "OLDPWD")} == {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PIP_INDEX_URL": "https://index.example/",
        "https_proxy": "http://proxy.example:3128",
        "CFLAGS": "-O2",
    }


def test_a_step_of_a_build_keeps_its_exit_code_and_its_arguments() -> None:
    command = [*command_line("app"), "none", "run", "sh", "-c", 'echo "$1"; exit 7', "sh", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "--quiet\n")


# --- what the journal has ---------------------------------------------------------------------------

ENTRY = {"__REALTIME_TIMESTAMP": "1796000000000123", "MESSAGE": "request 5f1c: ValueError"}


def test_lines_about_a_request_are_asked_of_the_journal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[str] = []

    def journal(*command: str, **_options: Any) -> Done:
        asked[:] = command
        odd = {**ENTRY, "MESSAGE": [0x41, 0xFF]}, {"__REALTIME_TIMESTAMP": "1796000000000124", "MESSAGE": None}
        return Done(command, 0, "\n".join(json.dumps(one) for one in (ENTRY, *odd)), "")

    monkeypatch.setattr(release, "run", journal)
    assert release.main(["shop", "logs", "--request", "5f1c", "--since=-1h"]) == 0
    first = "2026-11-30 00:53:20.000123  "
    assert (
        capsys.readouterr().out == f"{first}request 5f1c: ValueError\n{first}A\ufffd\n{first.replace('123', '124')}\n"
    )
    assert asked[-4:] == ["--identifier=shop", "--since=-1h", "--grep=\\b5f1c\\b", "--case-sensitive=true"]
    assert release.main(["shop", "logs", "--lines=7", "--json"]) == 0
    assert [one["text"] for one in json.loads(capsys.readouterr().out)["lines"]][:1] == ["request 5f1c: ValueError"]
    assert asked[-2:] == ["--identifier=shop", "--lines=7"]


@pytest.mark.parametrize("request_id", ["a b", "x;y", "-" * 65, "a.*", "a\n"])
def test_what_is_no_id_of_a_request_is_refused(monkeypatch: pytest.MonkeyPatch, request_id: str) -> None:
    monkeypatch.setattr(release, "run", lambda *_command, **_options: pytest.fail("the journal was asked"))
    with pytest.raises(Problem, match="is no id of a request"):
        release.main(["shop", "logs", f"--request={request_id}"])


@pytest.mark.parametrize(
    ("words", "code", "said", "good"),
    [
        (["--request=5f1c"], 1, "", True),  # no line has it
        (["--request=5f1c"], 1, "Compiled without pattern matching support", False),
        (["--since=yesteryear"], 1, "Failed to parse timestamp: yesteryear", False),
        ([], 1, "", False),
    ],
)
def test_a_journal_that_cannot_be_read_is_not_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str, good: bool
) -> None:
    monkeypatch.setattr(release, "run", lambda *command, **_options: Done(command, code, "", said))
    if good:
        assert release.main(["shop", "logs", *words]) == 0
    else:
        with pytest.raises(Problem, match=f"the journal cannot be read: {said}"):
            release.main(["shop", "logs", *words])


# --- virtual environments ---------------------------------------------------------------------------

#: Stands for a Python: what it is made of, and an environment that names its own place, as pip's program does.
PYTHON = """#!/bin/sh
case $2 in
    -c) cat {folder}/ingredients ;;
    venv)
        [ ! -e {folder}/broken ] || {{ echo "no ensurepip here" >&2; exit 3; }}
        echo "$3 $(umask) $HOME" >> {folder}/made
        mkdir -p "$3/bin" "$3/lib/python3/site-packages/pip"
        echo "#!$3/bin/python" > "$3/bin/pip"
        chmod 755 "$3/bin/pip"
        echo "command = python -m venv $3" > "$3/pyvenv.cfg"
        ln -s /usr/bin/python3 "$3/bin/python"
        ln -s lib "$3/lib64"
        echo code > "$3/lib/python3/site-packages/pip/__init__.py" ;;
esac
"""


@pytest.fixture
def python(tmp_path: pathlib.Path) -> pathlib.Path:
    file = tmp_path / "python"
    file.write_text(PYTHON.format(folder=tmp_path))
    file.chmod(0o755)
    (tmp_path / "ingredients").write_text("3.13, pip 25\n")
    return file


def test_releases_start_as_copies_of_one_environment(site: Any, python: pathlib.Path) -> None:
    for identity in ("a", "b"):
        site.begin(identity)
        site.environment(identity, str(python))
        made = site.release(identity) / "venv"
        assert (made / "bin/pip").read_text() == f"#!{made}/bin/python\n"
        assert (made / "bin/pip").stat().st_mode & 0o777 == 0o755
        assert (made / "pyvenv.cfg").read_text() == f"command = python -m venv {made}\n"
        assert os.readlink(made / "bin/python") == "/usr/bin/python3"
        assert os.readlink(made / "lib64") == "lib"
    assert len((python.parent / "made").read_text().splitlines()) == 1
    # What is installed into one is in no other one.
    (site.release("a") / "venv/lib/python3/site-packages/pip/__init__.py").write_text("other code")
    site.begin("c")
    site.environment("c", str(python))
    assert (site.release("c") / "venv/lib/python3/site-packages/pip/__init__.py").read_text() == "code\n"


def test_another_python_gets_an_environment_of_its_own(site: Any, python: pathlib.Path) -> None:
    site.begin("a")
    site.environment("a", str(python))
    (cut_off := site.base / ".environment-0123.4711").mkdir()
    before = list(site.base.glob(".environment-*"))
    (python.parent / "ingredients").write_text("3.13, pip 26\n")
    site.begin("b")
    site.environment("b", str(python))
    after = list(site.base.glob(".environment-*"))
    assert len((python.parent / "made").read_text().splitlines()) == 2
    assert cut_off in before
    assert len(after) == 1
    assert after[0] not in before


def test_an_environment_that_cannot_be_made_leaves_none_behind(site: Any, python: pathlib.Path) -> None:
    (python.parent / "broken").touch()
    site.begin("a")
    with pytest.raises(Problem, match="venv: no ensurepip here"):
        site.environment("a", str(python))
    assert not (site.release("a") / "venv").exists()
    (python.parent / "broken").unlink()
    site.environment("a", str(python))
    assert (site.release("a") / "venv/bin/pip").is_file()


def complete(site: Any, identity: str, python: pathlib.Path, words: list[str] | None = None, **files: str) -> list[str]:
    """Build a release whose source has these files, as far as its packages; pip leaves a file of its name."""
    site.begin(identity)
    for name, text in files.items():
        (site.release(identity) / "src" / f"{name}.txt").write_text(text)
    said: list[str] = site.environment(identity, str(python), ["--requirement=base.txt"] if words is None else words)
    (site.release(identity) / "venv/lib/python3/site-packages" / identity).touch()
    (site.release(identity) / ".finished").touch()
    return said


def packages(site: Any, identity: str) -> set[str]:
    return {path.name for path in (site.release(identity) / "venv/lib/python3/site-packages").iterdir()}


BASE = "django==5.2 # the LTS\n-r more.txt\n"


def test_a_release_that_asks_for_the_same_packages_gets_copies(site: Any, python: pathlib.Path) -> None:
    complete(site, "a", python, base=BASE, more="redis>=5,<9 \\\n  --hash=sha256:0\n")
    said = complete(site, "b", python, base="# hello\n" + BASE, more="redis>=5,<9 --hash=sha256:0", own="x")
    assert said == ["made the environment of b as that of a"]
    assert packages(site, "b") == {"pip", "a", "b"}
    assert packages(site, "a") == {"pip", "a"}
    made = site.release("b") / "venv"
    assert (made / "bin/pip").read_text() == f"#!{made}/bin/python\n"
    assert (made / "pyvenv.cfg").read_text() == f"command = python -m venv {made}\n"
    # Who wants all anew says so, and a release that never became complete has nothing to give.
    site.begin("c")
    assert site.environment("c", str(python)) == ["made the environment of c"]
    for identity in ("a", "b"):
        (site.release(identity) / ".finished").unlink()
    assert complete(site, "d", python, base=BASE, more="redis>=5,<9 --hash=sha256:0") == ["made the environment of d"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": BASE + "celery"}, None),
        ({"more": "redis==6"}, None),
        ({}, ["--requirement=base.txt", "celery"]),
        ({}, ["--requirement=base.txt", "--index-url", "https://other.example"]),
    ],
)
def test_another_requirement_is_installed_anew(
    site: Any, python: pathlib.Path, changes: dict[str, str], words: list[str] | None
) -> None:
    complete(site, "a", python, base=BASE, more="redis")
    complete(site, "b", python, words, **{"base": BASE, "more": "redis"} | changes)
    assert packages(site, "b") == {"pip", "b"}


def test_another_python_installs_anew(site: Any, python: pathlib.Path) -> None:
    complete(site, "a", python, base="django")
    (python.parent / "ingredients").write_text("3.14, pip 25\n")
    complete(site, "b", python, base="django")
    assert packages(site, "b") == {"pip", "b"}


@pytest.mark.parametrize(
    "line",
    ["-e .", "--editable=.", ".", "./lib", "/opt/lib", "lib/", "file:lib", "git+https://a.example/x@main", "x.whl",
     "x @ https://a.example/x.zip", "x@https://a.example/x.zip", "-r https://a.example/r.txt", "-r ../outside.txt",
     "-c missing.txt", "--unknown-option", "lib/x.tar.gz; python_version > '3'"],
)  # fmt: skip
def test_what_may_be_something_else_tomorrow_is_installed_anew(site: Any, python: pathlib.Path, line: str) -> None:
    for identity in ("a", "b"):
        complete(site, identity, python, base=f"django\n{line}\n")
        assert packages(site, identity) == {"pip", identity}, line


@pytest.mark.parametrize(
    "line",
    ["django", "Django~=5.2", "celery[redis,msgpack]>=5", "tomli; python_version < '3.11'", "a==1.0 --hash=sha256:00",
     "zope.interface (>=5)", "--index-url https://a.example/simple", "-i https://a.example", "--no-binary :all:",
     "--require-hashes", "--extra-index-url=https://a:b@a.example"],
)  # fmt: skip
def test_what_is_asked_for_by_name_is_copied(site: Any, python: pathlib.Path, line: str) -> None:
    for identity in ("a", "b"):
        complete(site, identity, python, base=f"{line}\n")
    assert packages(site, "b") == {"pip", "a", "b"}, line


def test_requirements_that_name_themselves_are_refused(site: Any, python: pathlib.Path) -> None:
    with pytest.raises(Problem, match=r"base\.txt names itself"):
        complete(site, "a", python, base="-r more.txt", more="-r base.txt")


def test_a_real_environment_runs_its_own_pip(site: Any) -> None:
    site.begin("a")
    site.environment("a", getattr(sys, "_base_executable", sys.executable))
    made = site.release("a") / "venv"
    said = subprocess.run([made / "bin/pip", "--version"], capture_output=True, text=True, check=True).stdout
    assert f" from {made}/" in said
    prefix = [made / "bin/python", "-c", "import sys; print(sys.prefix)"]
    assert subprocess.run(prefix, capture_output=True, text=True, check=True).stdout == f"{made}\n"

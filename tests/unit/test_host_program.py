"""The program of the hosts as a whole: who may import whom, how large a module may be, and what `core` promises."""

from __future__ import annotations

import ast
import fcntl
import importlib
import json
import os
import pathlib
import resource
import shlex
import stat
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack import cli
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import (
    agent,
    alarm,
    config,
    files,
    lock,
    metrics,
    systemd,
    table,
    wait,
)
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import say as voice
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Busy, Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done, Failed, TooSlow, run
from host_programs import PACKAGE, command_line

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
#: The largest module, and all of core, in lines.
MOST, CORE_MOST = 300, 1000
#: What a folder may import of the others. Backups move the data of the server whose role `db` owns: they ask what it
#: is (role), and exchange and ship its data in the same way (data).
ALLOWED = {
    "pure": {"pure"},
    "core": {"pure", "core"},
    "": {"core", "overview", "notices"},
}
SHARED_WITH_BACKUP = {"role", "data"}
#: Every tier may keep in the quorum what the site has exactly once.
SHARED_WITH_ALL = {("quorum", "store")}
#: Beside the standard library. Debian's packages, which the roles of these tiers install.
PACKAGES = {
    "core/mariadb.py": {"pymysql"},
    "pure/certificate.py": {"cryptography"},
    "tls/balancer.py": {"cryptography"},
}


def imports(path: pathlib.Path) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the packages from elsewhere, and what is named of this one: (folder, module)."""
    elsewhere: set[str] = set()
    here: set[tuple[str, str]] = set()
    folder = path.parent.name
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            elsewhere |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            elsewhere.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            # From a module of a tier: one dot is the tier, two are the package.
            words = (node.module or "").split(".") if node.module else []
            if node.level == (2 if folder else 1):
                target = words[0]
                modules = words[1:2] or [alias.name for alias in node.names]
            else:
                assert node.level == 1, f"{path} climbs too high"
                target, modules = folder, words[:1] or [alias.name for alias in node.names]
            here |= {(target, module) for module in modules}
    return elsewhere, here


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_what_its_place_allows(path: pathlib.Path) -> None:
    folder = path.parent.name
    elsewhere, here = imports(path)
    foreign = elsewhere - sys.stdlib_module_names - {"__future__"} - PACKAGES.get(str(path), set())
    assert not foreign, f"{path} imports {', '.join(sorted(foreign))}"
    allowed = ALLOWED.get(folder, {"pure", "core", folder})
    wrong = {(target, module) for target, module in here if target not in allowed}
    if folder == "backup":
        wrong -= {("db", module) for module in SHARED_WITH_BACKUP}
    if folder in cli.TIERS:
        wrong -= SHARED_WITH_ALL
    assert not wrong, f"{path} imports {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_can_be_read_in_one_go(path: pathlib.Path) -> None:
    assert len((PACKAGE / path).read_text().splitlines()) <= MOST


def test_core_stays_small() -> None:
    lines = {path: len((PACKAGE / path).read_text().splitlines()) for path in MODULES if path.parent.name == "core"}
    assert sum(lines.values()) <= CORE_MOST, lines


def test_every_folder_is_a_tier_or_shared() -> None:
    folders = {path.parent.name for path in MODULES} - {""}
    assert folders == {*cli.TIERS, "core", "pure"}


def test_the_tree_in_the_documents_is_the_real_one() -> None:
    text = (PACKAGE.parents[2] / "docs/architecture.md").read_text().partition("## The tree of the host program")[2]
    documented: list[str] = []
    folder = ""
    for line in text.split("```")[1].strip("\n").splitlines():
        if line.startswith(" "):
            names = line.split()
        else:
            folder, *names = line.split()
        if folder.endswith(".py"):
            documented.append(folder)
        else:
            documented += [f"{folder}{name}.py" for name in names]
    real = {str(path) for path in MODULES if path.name != "__init__.py"}
    assert len(documented) == len(set(documented))
    assert set(documented) == real, "docs/architecture.md, the tree of the host program"


def test_the_table_of_the_tiers_in_the_documents_is_the_real_one() -> None:
    text = (PACKAGE.parents[2] / "docs/host-program.md").read_text().partition("| Tier | ")[2].partition("\n\n")[0]
    documented = {line.split("`")[1] for line in text.splitlines()[2:]}
    assert documented == set(cli.TIERS), "docs/host-program.md, the table of the tiers"


# --- the command ------------------------------------------------------------------------------------


def called(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(*words), capture_output=True, text=True, check=False)


def test_without_a_word_it_lists_the_tiers() -> None:
    done = called()
    assert (done.returncode, done.stderr) == (64, "")
    assert all(f"webstack {tier}" in done.stdout for tier in cli.TIERS)
    assert called("--help").returncode == 0


def test_an_unknown_tier_is_refused_with_the_known_ones() -> None:
    done = called("database", "status")
    assert (done.returncode, done.stdout) == (64, "")
    assert "no tier 'database'; known are db, " in done.stderr


@pytest.mark.parametrize("tier", sorted(cli.TIERS))
def test_every_tier_has_help_and_refuses_unknown_words(tier: str) -> None:
    helped = called(tier, "--help")
    assert helped.returncode == 0
    assert f"webstack {tier}" in helped.stdout
    wrong = called(tier, *(["shop"] if tier == "app" else []), "no-such-command")
    assert wrong.returncode == 64, wrong


@pytest.mark.parametrize(
    ("words", "role"),
    [
        (["db", "status"], "mysql_replication"),
        (["cache", "status"], "redis_shard"),
        (["vip", "status"], "vip_failover"),
        (["lb", "status"], "lb_nginx"),
        (["tls", "status"], "lb_nginx"),
        (["quorum", "status"], "quorum"),
    ],
)
def test_without_its_settings_a_tier_names_the_role(words: list[str], role: str) -> None:
    done = called(*words)
    assert done.returncode == 1
    assert f"is missing: the role {role} writes it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_is_no_error() -> None:
    line = shlex.join(command_line("db", "--help"))
    done = subprocess.run(["sh", "-c", f"{line} | true"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


# --- core: running -----------------------------------------------------------------------------------


def test_a_command_says_what_it_said_in_one_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/nowhere")
    done = run("sh", "-c", "cat; echo $LC_ALL >&2", seconds=5, text="in")
    assert (done.out, done.err, done.code) == ("in", "C.UTF-8\n", 0)


@pytest.mark.parametrize(
    ("script", "why"),
    [("echo one; echo two >&2; exit 3", "two"), ("echo one; exit 3", "one"), ("exit 3", "exit code 3")],
)
def test_a_failed_command_is_named_with_its_last_words(script: str, why: str) -> None:
    with pytest.raises(Failed, match=f"^sh -c .*: {why}$") as caught:
        run("sh", "-c", script, seconds=5)
    assert caught.value.done.code == 3
    assert run("sh", "-c", script, seconds=5, check=False).code == 3


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(Problem, match=r"no-such-program --x: No such file or directory"):
        run("no-such-program", "--x", seconds=5)


def test_a_command_ends_with_its_time_and_all_that_it_started(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "late"
    started = time.monotonic()
    with pytest.raises(TooSlow, match=r"no end within 0\.3 s"):
        run("sh", "-c", f"(sleep 1; touch {mark}) & sleep 60", seconds=0.3)
    assert time.monotonic() - started < 5
    time.sleep(1.2)
    assert not mark.exists()


def test_a_command_that_takes_too_long_may_clean_up(tmp_path: pathlib.Path) -> None:
    script = f"trap 'echo clean > {tmp_path}/said; exit 0' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    with pytest.raises(TooSlow):
        run("sh", "-c", script, seconds=2, grace=10)
    assert (tmp_path / "said").read_text() == "clean\n"


def test_one_that_does_not_is_killed_after_its_grace(tmp_path: pathlib.Path) -> None:
    began = time.monotonic()
    with pytest.raises(TooSlow):
        run("sh", "-c", f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done", seconds=1, grace=0.5)
    assert time.monotonic() - began < 10
    assert not pathlib.Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_command_of_another_account_has_none_of_our_groups() -> None:
    assert run("id", "-un", seconds=5, account=("nobody", "nogroup")).out == "nobody\n"
    assert run("id", "-G", seconds=5, account=("nobody", "nogroup")).out.split() == ["65534"]


# --- core: files -------------------------------------------------------------------------------------


def test_a_file_is_replaced_with_its_mode_whoever_calls(tmp_path: pathlib.Path) -> None:
    before = os.umask(0o077)
    try:
        files.write(tmp_path / "a", "one", 0o644)
        files.write(tmp_path / "a", "two", 0o640)
    finally:
        os.umask(before)
    assert ((tmp_path / "a").read_text(), oct((tmp_path / "a").stat().st_mode & 0o777)) == ("two", "0o640")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_written_is_on_the_disk_before_it_counts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("fsync"), real_sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), real_replace(*paths)))
    files.write(tmp_path / "a", "one")
    assert done == ["fsync", "replace", "fsync"]


def test_a_full_disk_leaves_the_old_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path / "a", "old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Problem, match="/a cannot be written: No space left on device"):
        files.write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path / "a", "old")

    def fsync(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.parametrize("language", ["C", "en_US.ISO-8859-1"])
def test_text_is_the_same_bytes_in_every_language(tmp_path: pathlib.Path, language: str) -> None:
    module = files.__name__
    code = rf"from {module} import write; write('{tmp_path}/a', '\xe4 \u2192 \udcff')"
    env = {**os.environ, "LC_ALL": language, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env["PYTHONPATH"] = os.environ["ANSIBLE_COLLECTIONS_PATH"]
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa4 \xe2\x86\x92 \xff"


def test_a_new_directory_is_for_all_whatever_the_umask(tmp_path: pathlib.Path) -> None:
    before = os.umask(0o077)
    try:
        made = files.folder(tmp_path / "tiers/backup", 0o700)
        files.folder(tmp_path / "tiers/lb")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (made, made.parent, made.parent / "lb")}
    assert modes == {"backup": 0o700, "tiers": 0o755, "lb": 0o755}
    made.chmod(0o750)
    files.folder(made, 0o700)
    assert made.stat().st_mode & 0o777 == 0o750


def test_what_is_no_file_is_refused_and_what_is_absent_is_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    before = os.listdir("/proc/self/fd")
    for name, said in (
        ("link", "is a link: not followed"),
        ("pipe", "is no file"),
        ("folder", "is no file"),
    ):
        with pytest.raises(Problem, match=f"{name} {said}"):
            files.read(tmp_path / name)
    assert os.listdir("/proc/self/fd") == before
    assert files.read(tmp_path / "absent") is None
    assert files.read(tmp_path / "pipe/below") is None
    files.remove(tmp_path / "absent")
    files.remove(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()


# --- core: settings ----------------------------------------------------------------------------------


def settings(**values: Any) -> config.Settings:
    return config.Settings(values, "x.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "is missing: the role some_role writes it"), ("{", "is broken .*: run the role some_role again"),
     ("[]", "is no table: run the role some_role again")],
)  # fmt: skip
def test_a_settings_file_that_is_none_is_named(tmp_path: pathlib.Path, text: str | None, said: str) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Problem, match=f"{path} {said}"):
        config.load(path, "some_role")


def test_a_key_that_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(Problem, match=r"^x\.json has no 'port': run the role that writes it again$"):
        settings().whole("port")
    with pytest.raises(Problem, match=r"^x\.json, servers\[1\] has no 'name'"):
        settings(servers=[{"name": "a"}, {}]).tables("servers")[1].text("name")
    for read, value, word in (
        ("text", 5, "a text"), ("whole", 1.5, "a whole number"), ("whole", True, "a whole number"),
        ("number", "x", "a number"), ("flag", 1, "yes or no"), ("words", "a", "a list"), ("words", [1], "texts"),
        ("table", [], "a table"), ("tables", {}, "a list"), ("tables", [1], "a table"),
    ):  # fmt: skip
        with pytest.raises(Problem, match=f"'?key'?.* has to be .*{word}"):
            getattr(settings(key=value), read)("key")


def test_texts_of_ini_files_and_the_command_line_count_as_what_they_say() -> None:
    given = settings(port="8000", seconds="1.5", many=3, on="yes", off="False")
    assert (given.whole("port"), given.number("seconds"), given.number("many")) == (8000, 1.5, 3.0)
    assert (given.flag("on"), given.flag("off")) == (True, False)
    assert given.get("none", 7) == 7
    assert dict(given)["port"] == "8000" and "none" not in given


# --- core: locks, waiting, units ----------------------------------------------------------------------


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path: pathlib.Path) -> None:
    with (
        lock.hold("x", "a long backup", 0, tmp_path),
        pytest.raises(Busy, match="a long backup") as caught,
        lock.hold("x", "another", 0, tmp_path),
    ):
        pass
    assert caught.value.code == 75
    assert f"process {os.getpid()}" in str(caught.value)
    with lock.hold("x", "another", 0, tmp_path):
        pass
    # Somebody who says nothing, as an older program.
    with (tmp_path / "x.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another command"), lock.hold("x", "third", 0.2, tmp_path):
            pass


def test_a_lock_is_waited_for(tmp_path: pathlib.Path) -> None:
    file = (tmp_path / "x.lock").open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    threading.Timer(0.5, file.close).start()
    with lock.hold("x", "patient", 10, tmp_path):
        assert file.closed


def test_a_lock_lasts_as_long_as_a_child_that_has_it(tmp_path: pathlib.Path) -> None:
    with lock.hold("one", "ours", 0, tmp_path) as handle:
        run("sh", "-c", "sleep 1 >/dev/null 2>&1 </dev/null &", seconds=5, keep=[handle])
    with pytest.raises(Busy), lock.hold("one", "theirs", 0, tmp_path):
        pass
    with lock.hold("one", "theirs", 10, tmp_path):
        pass


def test_a_full_disk_takes_no_name_and_keeps_nobody_from_a_lock(tmp_path: pathlib.Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    try:
        with (
            lock.hold("x", "ours", 0, tmp_path),
            pytest.raises(Busy, match="another command"),
            lock.hold("x", "theirs", 0, tmp_path),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_only_root_can_take_a_lock(tmp_path: pathlib.Path) -> None:
    """Whoever can open the file can lock it."""
    before = os.umask(0o022)
    try:
        with lock.hold("one", "ours", 0, tmp_path):
            assert stat.S_IMODE((tmp_path / "one.lock").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_no_lock_and_no_program_is_waited_for_without_end() -> None:
    """The one lock has a limit for everybody; who runs a program without `core.run` gives it one."""
    with pytest.raises(TypeError, match="seconds"):
        lock.hold("x", "for ever")  # type: ignore[call-arg]
    endless = []
    for path in MODULES:
        for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            words = ast.unparse(node)
            took = [*(ast.unparse(word) for word in node.args), *(word.arg for word in node.keywords)]
            match node.func.attr:
                case "flock" | "lockf":
                    endless += [words] if "LOCK_NB" not in words and "F_TEST" not in words else []
                case "wait" | "communicate" if "process" in words:
                    endless += [words] if not {"grace", "timeout"} & set(took) else []
                case "hold":
                    endless += [words] if len(took) < 3 or "None" in took else []
    # Both have been killed before: in run(), and in the pipe of a transfer.
    assert [words for words in endless if words != "process.wait()"] == []
    assert endless.count("process.wait()") == 2


def test_waiting_says_what_did_not_come() -> None:
    numbers = iter(range(9))
    assert wait.until(lambda: next(numbers), lambda number: number == 2, 5, "two", every=0.01) == 2
    with pytest.raises(Problem, match=r"a third did not come within 0\.1 s; seen last: seven"):
        wait.until(lambda: "seven", lambda _: False, 0.1, "a third", every=0.05)
    assert wait.turned(lambda: True, 0)
    assert not wait.turned(lambda: False, 0.1, every=0.05)


@pytest.mark.parametrize(("state", "runs"), [("active", True), ("reloading", True), ("activating", False), ("", False)])
def test_a_unit_runs_as_systemd_says(monkeypatch: pytest.MonkeyPatch, state: str, runs: bool) -> None:
    monkeypatch.setattr(systemd, "run", lambda *words, **_limits: Done(words, 0, f"ActiveState={state}\n", ""))
    assert systemd.is_active("x.service") == runs
    with pytest.raises(Problem, match=r"systemctl show x\.service says nothing about MainPID"):
        systemd.show("x.service", "ActiveState", "MainPID")


def test_a_service_tells_its_manager(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    # The manager is gone: that ends no service.
    systemd.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")


def test_a_service_notices_a_new_program_and_new_settings(tmp_path: pathlib.Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "x.json").write_text("{}")
    version = agent.Version(tmp_path / "x.json", program=tmp_path / "current")
    assert not version.changed()
    # While a file is being exchanged there is none.
    (tmp_path / "x.json").rename(tmp_path / "away")
    assert not version.changed()
    (tmp_path / "away").rename(tmp_path / "x.json")
    for path in ("current", "x.json"):
        version = agent.Version(tmp_path / "x.json", program=tmp_path / "current")
        new = tmp_path / "new"
        new.symlink_to("two") if path == "current" else new.write_text("{}")
        new.replace(tmp_path / path)
        assert version.changed()


# --- core: words, metrics, alarms ----------------------------------------------------------------------


def test_the_journal_gets_levels_and_a_person_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    voice.say("two\nlines", voice.ERROR)
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    voice.say("two\nlines", voice.ERROR)
    assert capsys.readouterr().err == "two\nlines\n<3>two\n<3>lines\n"


def test_metrics_are_escaped_and_exact(tmp_path: pathlib.Path) -> None:
    family = metrics.Family("size", 'How "\n\\much.').add(12345678901, name='a"b\\c\nd').add(0.25)
    counter = metrics.Family("calls_total", "Calls.").add(True)
    text = metrics.render("webstack_x", [family, counter])
    assert text.splitlines() == [
        # Prometheus escapes a quote in a label alone.
        '# HELP webstack_x_size How "\\n\\\\much.',
        "# TYPE webstack_x_size gauge",
        'webstack_x_size{name="a\\"b\\\\c\\nd"} 12345678901',
        "webstack_x_size 0.25",
        "# HELP webstack_x_calls_total Calls.",
        "# TYPE webstack_x_calls_total counter",
        "webstack_x_calls_total 1",
    ]
    before = os.umask(0o077)
    try:
        metrics.publish(f"{tmp_path}/new/x.prom", text)
    finally:
        os.umask(before)
    metrics.publish("", text)
    assert (tmp_path / "new/x.prom").read_text() == text
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new", tmp_path / "new/x.prom")}
    assert modes == {"new": 0o755, "x.prom": 0o644}


def test_an_alarm_is_told_by_its_environment(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = tmp_path / "told"
    command = ["sh", "-c", f'echo "$TIER $FINDING $TEXT" > {told}']
    assert alarm.raise_alarm(command, "db", "disk", "the disk is full")
    assert told.read_text() == "db disk the disk is full\n"
    assert not alarm.raise_alarm([], "db", "disk", "x")
    assert not alarm.raise_alarm(["false"], "db", "disk", "x")
    assert "the alarm command failed: false: exit code 1" in capsys.readouterr().err


def test_tables_ages_and_sizes_are_for_people() -> None:
    assert table.table([("a", "long"), ("longer", "b")]) == "a       long\nlonger  b"
    assert table.table([]) == ""
    assert [table.age(seconds) for seconds in (0, 61, 7200, 200000)] == ["0 s", "1 min", "2 h", "2 d"]
    assert [table.size(count) for count in (12, 2048, 5 << 40)] == ["12 bytes", "2.0 KiB", "5.0 TiB"]


def test_every_document_of_a_settings_file_names_itself(tmp_path: pathlib.Path) -> None:
    """Whatever tier: what is asked of its settings goes through the one loader."""
    for tier in cli.TIERS:
        package = importlib.import_module(f"{cli.__package__}.{tier}")
        for path in pathlib.Path(package.__path__[0]).glob("*.py"):
            text = path.read_text()
            assert "json.loads(CONFIG" not in text and "json.load(CONFIG" not in text, path
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    assert config.load(tmp_path / "x.json", "r").where == str(tmp_path / "x.json")

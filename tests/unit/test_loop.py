"""The tools that run the checks: turns, lanes, limits, the lab's Docker client, what a change touches."""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import changed  # noqa: E402
import check  # noqa: E402
import fresh  # noqa: E402
import runner  # noqa: E402
import speed  # noqa: E402
from runner import Budget, Check, Outcome, Runner  # noqa: E402
from turns import turn  # noqa: E402


@pytest.fixture(autouse=True)
def logs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    monkeypatch.setattr(runner, "LOGS", tmp_path)
    monkeypatch.setattr(runner, "LEAST_SECONDS", 0)
    yield tmp_path


def shell(name: str, script: str = "true", after: tuple[str, ...] = ()) -> Check:
    return Check(name, ["sh", "-c", script], after=frozenset(after))


def run(checks: list[Check], budgets: dict[str, Budget] | None = None, lanes: int = 2) -> dict[str, Outcome]:
    outcomes: list[Outcome] = []
    Runner(budgets or {}, outcomes.append, lanes)(checks)
    return {outcome.check.name: outcome for outcome in outcomes}


def gone(pid: str) -> bool:
    """Ended, whether or not its new parent has asked for it yet."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


HANGS = """
import subprocess, threading, time
import pytest

@pytest.fixture
def cleaned(tmp_path_factory):
    yield
    print("cleaned up")

def test_program(cleaned): subprocess.run(["sleep", "60"])
def test_lock(cleaned): threading.Event().wait(60)
def test_good(cleaned): pass
"""


def test_a_test_that_hangs_fails_by_its_name_and_the_others_run(tmp_path: pathlib.Path) -> None:
    """It held its turn, so every other check waited until it was ended, and nobody read which it was."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests")
    (tmp_path / "tests/test_hangs.py").write_text(HANGS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "tests"]
    environment = {**os.environ, "WEBSTACK_TEST_SECONDS": "1", "PY_COLORS": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "2 failed, 1 passed" in done.stdout
    for name in ("test_program", "test_lock"):
        assert f"FAILED tests/test_hangs.py::{name} - Failed: took more than 1 s" in done.stdout
    assert done.stdout.count("cleaned up\n") >= 3


def test_a_turn_says_how_long_it_was_waited_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSTACK_COUNTS", str(tmp_path / "counts"))
    with ThreadPoolExecutor(1) as pool:
        with turn(alone=True, folder=tmp_path):
            other = pool.submit(lambda: turn(alone=False, folder=tmp_path).__enter__())
            time.sleep(0.3)
        other.result()
    first, second = (float(line.partition(":")[2]) for line in (tmp_path / "counts").read_text().split())
    assert first < 0.1
    assert second > 0.25


# --- turns ------------------------------------------------------------------------------------------


def test_those_who_share_run_together_and_a_quiet_one_alone(tmp_path: pathlib.Path) -> None:
    seen: list[str] = []
    # Of a, b and the one that starts the others.
    together = threading.Barrier(3, timeout=10)

    def share(name: str) -> None:
        with turn(alone=False, folder=tmp_path):
            together.wait()
            time.sleep(1)
            seen.append(name)

    def alone() -> None:
        with turn(alone=True, folder=tmp_path):
            seen.append("quiet begins")
            time.sleep(0.2)
            seen.append("quiet ends")

    def late() -> None:
        with turn(alone=False, folder=tmp_path):
            seen.append("late")

    first = [threading.Thread(target=share, args=(name,)) for name in "ab"]
    for thread in first:
        thread.start()
    together.wait()
    rest = [threading.Thread(target=alone), threading.Thread(target=late)]
    for thread in rest:
        thread.start()
        # The quiet one has to be the first in the queue.
        time.sleep(0.3)
    for thread in [*first, *rest]:
        thread.join(10)
    assert sorted(seen[:2]) == ["a", "b"]
    # The late one could have run beside a and b, and would have kept the quiet one waiting.
    assert seen[2:] == ["quiet begins", "quiet ends", "late"]


# --- the runner -------------------------------------------------------------------------------------


def test_the_longest_begins_first_and_each_waits_for_what_it_needs(logs: pathlib.Path) -> None:
    order = logs / "order"
    checks = [
        shell("short", f"echo short >>{order}"),
        shell("long", f"echo long >>{order}"),
        shell("longest", f"echo longest >>{order}", after=("short",)),
    ]
    budgets = {"short": Budget(1, 1), "long": Budget(5, 1), "longest": Budget(9, 1)}
    outcomes = run(checks, budgets, lanes=1)
    # The short one holds the longest up.
    assert order.read_text().split() == ["short", "longest", "long"]
    assert [o.code for o in outcomes.values()] == [0, 0, 0]


@pytest.mark.parametrize(("cpu", "together"), [(3, 3), (7, 2)])
def test_a_third_runs_where_the_cores_are_free_for_it(logs: pathlib.Path, cpu: float, together: int) -> None:
    """Three that take 0.6 of a core each fit on two, and of three that take 1.4 each only two begin."""
    wait = f"touch {logs}/began-$0; sleep 0.6; ls {logs}/began-* | wc -l >>{logs}/seen; rm {logs}/began-$0"
    checks = [Check(name, ["sh", "-c", wait, name]) for name in "abc"]
    outcomes = run(checks, {name: Budget(5, cpu) for name in "abc"}, lanes=3)
    assert [outcome.code for outcome in outcomes.values()] == [0, 0, 0]
    assert int((logs / "seen").read_text().split()[0]) == together


def test_a_failure_is_told(logs: pathlib.Path) -> None:
    outcome = run([shell("bad", "echo why; exit 3")])["bad"]
    assert (outcome.code, outcome.ended) == (3, "")
    assert (logs / "bad.log").read_text() == "why\n"


def test_what_takes_three_times_its_budget_is_ended_with_all_it_started(logs: pathlib.Path) -> None:
    # A grandchild in a session of its own, as Ansible's workers are.
    script = f"setsid sh -c 'echo $$ >{logs}/pid; exec sleep 300' & wait"
    started = time.monotonic()
    outcome = run([shell("hung", script)], {"hung": Budget(0.3, 1)})["hung"]
    assert time.monotonic() - started < 60
    assert outcome.code != 0
    assert outcome.ended
    assert gone((logs / "pid").read_text().strip())


def test_the_time_that_others_took_is_not_the_checks(logs: pathlib.Path) -> None:
    script = "echo waited:4.5 >>$WEBSTACK_COUNTS; sleep 1.5; echo done"
    outcome = run([shell("patient", script)], {"patient": Budget(0.1, 1)})["patient"]
    assert (outcome.code, outcome.ended, outcome.waited) == (0, "", 4.5)


def test_an_interrupt_ends_what_runs_and_what_it_started(logs: pathlib.Path) -> None:
    script = f"setsid sh -c 'echo $$ >{logs}/pid; exec sleep 300' & wait"

    def interrupt(_outcome: Outcome) -> None:
        raise KeyboardInterrupt

    hung = replace(shell("hung", script), lab="its-lab")
    checks = [hung, shell("quick", f"while [ ! -s {logs}/pid ]; do sleep 0.05; done")]
    interrupted = Runner({}, interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted(checks)
    assert gone((logs / "pid").read_text().strip())
    # Its hosts are still there, and whoever interrupted is told so.
    assert interrupted.labs == {"its-lab"}


def test_a_short_check_has_time_to_wait_for_a_loaded_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LEAST_SECONDS", 60)
    outcome = run([shell("short", "sleep 1")], {"short": Budget(0.1, 1)})["short"]
    assert (outcome.code, outcome.ended) == (0, "")


def test_cost_is_counted(logs: pathlib.Path) -> None:
    burn = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; printf 'engine\\nplay\\n' >>$WEBSTACK_COUNTS"
    outcome = run([shell("burn", burn)])["burn"]
    assert outcome.cpu > 0
    assert (outcome.engine_calls, outcome.plays) == (1, 1)


def test_the_unit_tests_begin_by_themselves() -> None:
    checks = check.unit_first([shell("lint"), shell("unit"), shell("images", after=("engine",))])
    assert {c.name: set(c.after) for c in checks} == {"lint": {"unit"}, "unit": set(), "images": {"engine", "unit"}}
    assert check.unit_first([shell("lint")]) == [shell("lint")]


def test_scenarios_wait_for_the_images_of_their_own_hosts() -> None:
    images = [made.name for made in check.checks_of("images", [])]
    (backup,) = check.checks_of("molecule:backup_slave", images)
    (pair,) = check.checks_of("molecule:mysql_replication", images)
    assert backup.after - pair.after == {"images-12"}
    assert pair.after == {"engine", "images"}


def test_every_check_has_a_budget_and_together_they_take_less_than_forty_minutes() -> None:
    names = {c.name for stage in check.STAGES for c in check.checks_of(stage, [])}
    budgets = check.budgets()
    assert set(budgets) == names
    assert sum(budget.cpu for budget in budgets.values()) / 1.9 < 40 * 60


def test_a_check_over_its_budget_is_named() -> None:
    outcome = Outcome(shell("dear"), 0, 100, 140, 0, 0)
    assert check.over_budget([outcome], {"dear": Budget(100, 100)}) == ["dear: CPU 140 s, its budget is 100 s here"]
    assert not check.over_budget([outcome], {"dear": Budget(100, 110)})


@pytest.mark.parametrize(("factor", "over"), [(1, True), (1.6, False), (0.5, True)])
def test_a_budget_is_that_of_the_machine_it_is_spent_on(factor: float, over: bool) -> None:
    outcome = Outcome(shell("dear"), 0, 100, 140, 0, 0)
    allowed = check.scaled({"dear": Budget(100, 100)}, factor)
    assert bool(check.over_budget([outcome], allowed)) is over
    assert allowed["dear"].wall == max(100, 100 * factor), "who waits for outages waits as long on a fast machine"


def test_the_speed_is_the_cpu_of_a_fixed_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.2 < speed.factor() < 20, "a machine out of all bounds, or other work than was measured"
    # CPU, and not time: who waits is not slow. The best of some tries: what disturbs one makes no machine slow.
    costs = iter([9.0, 3 * speed.REFERENCE, 5.0])
    spent = 0.0

    def work() -> None:
        nonlocal spent
        time.sleep(0.01)
        spent += next(costs)

    monkeypatch.setattr(speed, "work", work)
    monkeypatch.setattr(speed, "spent", lambda: spent)
    assert speed.factor() == pytest.approx(3)


def test_what_hosts_spend_is_counted_with_both_kinds_of_control_groups(tmp_path: pathlib.Path) -> None:
    assert runner.spent_by("host", tmp_path) == 0
    first = tmp_path / "first/cpuacct/docker/host/cpuacct.usage"
    first.parent.mkdir(parents=True)
    first.write_text("2500000000\n")
    assert runner.spent_by("host", tmp_path / "first") == 2.5
    for name, microseconds in (("system.slice", 1000000), ("user.slice", 500000), ("init.scope", 9000000)):
        stat = tmp_path / "second/docker/host" / name / "cpu.stat"
        stat.parent.mkdir(parents=True)
        stat.write_text(f"usage_usec {microseconds}\nuser_usec 1\n")
    assert runner.spent_by("host", tmp_path / "second") == 1.5


# --- the lab's Docker client ------------------------------------------------------------------------


class Client:
    """lab/bin/docker with an engine's client behind it that says what it was asked."""

    def __init__(self, folder: pathlib.Path) -> None:
        real = folder / "docker"
        real.write_text(
            '#!/bin/sh\n[ "$1" = inspect ] && { echo "0 none"; exit 0; }\nprintf "engine:"; printf " [%s]" "$@"\n'
        )
        real.chmod(real.stat().st_mode | stat.S_IXUSR)
        self.environment = os.environ | {
            "PATH": f"{ROOT / 'lab/bin'}:{folder}:/usr/bin:/bin",
            "WEBSTACK_COUNTS": str(folder / "counts"),
            "DOCKER_HOST": f"unix://{folder}/none",
        }
        self.counts = folder / "counts"

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, env=self.environment, check=True)
        return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["ps", "--all"],
        ["exec", "--user", "www-data", "host", "id"],
        ["exec", "--detach", "host", "sleep", "1"],
        ["exec", "--env", "SECRET", "host", "env"],
        ["exec", "-it", "host", "bash"],
        # Plain, but the host does not run.
        ["exec", "-i", "--env=A=b c", "host", "sh", "-c", 'echo "$A"', "", "two  words"],
    ],
)
def test_what_cannot_be_entered_goes_to_the_engine_unchanged(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    client = Client(tmp_path)
    assert client(*arguments) == "engine:" + "".join(f" [{word}]" for word in arguments)
    assert "engine" in client.counts.read_text()


def test_without_an_engine_client_the_lab_client_says_so(tmp_path: pathlib.Path) -> None:
    for name in ("dirname", "readlink", "id"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    environment = {"PATH": f"{ROOT / 'lab/bin'}:{tmp_path}"}
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "lab/bin/docker"), "ps"], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (127, "docker: no Docker client on the PATH\n")


def test_whether_there_is_an_ansible_is_said_without_starting_it(tmp_path: pathlib.Path) -> None:
    counts, real = tmp_path / "counts", tmp_path / "ansible-playbook"
    counts.write_text("")
    environment = os.environ | {"PATH": f"{ROOT / 'lab/bin'}:{tmp_path}:/usr/bin:/bin", "WEBSTACK_COUNTS": str(counts)}

    def ask(*arguments: str) -> tuple[int, str]:
        command = [str(ROOT / "lab/bin/ansible-playbook"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout

    assert ask("--version")[0] == 127, "there is none"
    real.write_text('#!/bin/sh\necho "ran $*"\n')
    real.chmod(0o755)
    assert ask("--version") == (0, f"{real}\n")
    assert counts.read_text() == ""
    assert ask("site.yml", "--version") == (0, "ran site.yml --version\n")
    assert counts.read_text() == "play\n"


# --- what a change touches --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("docs/cache.md", {"lint", "unit"}),
        ("roles/shared_media/tasks/main.yml", {"molecule:shared_media", "molecule:default", "integration"}),
        ("tests/testinfra/lb_tls/test_lb_tls.py", {"molecule:lb_tls"}),
        ("playbooks/resize_cache.yml", {"molecule:cache_resize", "molecule:default", "integration"}),
        ("plugins/module_utils/rules/was_django.py", {"molecule:was_django", "molecule:default", "integration"}),
        ("plugins/plugin_utils/_role_inputs.py", {"molecule:was_django", "molecule:backup_slave"}),
        ("plugins/module_utils/_pki.py", {"molecule:redis_shard", "molecule:mysql_replication"}),
        ("roles/redis_shard/tasks/main.yml", {"molecule:redis_shard", "molecule:cache_resize", "integration"}),
        ("plugins/module_utils/webstack/cache/keys.py", {"molecule:redis_shard", "molecule:cache_resize"}),
        ("plugins/module_utils/webstack/media/cli.py", {"molecule:shared_media", "molecule:default"}),
        ("plugins/module_utils/webstack/lb/nginx.py", {"molecule:lb_nginx", "molecule:default"}),
        ("plugins/module_utils/webstack/db/role.py", {"molecule:mysql_replication", "molecule:backup_slave"}),
    ],
)
def test_a_change_touches_what_uses_it(file: str, expected: set[str]) -> None:
    assert expected | {"lint", "unit"} <= set(changed.stages([file]))


def test_a_change_of_one_tier_leaves_the_others_alone() -> None:
    assert {s for s in changed.stages(["roles/shared_media/tasks/main.yml"]) if s.startswith("molecule")} == {
        "molecule:shared_media",
        "molecule:default",
    }
    assert not [s for s in changed.stages(["docs/cache.md"]) if s.startswith("molecule")]
    assert {s for s in changed.stages(["plugins/module_utils/webstack/media/cli.py"]) if s.startswith("molecule")} == {
        "molecule:shared_media",
        "molecule:default",
    }


def test_a_change_of_the_lab_touches_every_scenario() -> None:
    all_scenarios = {f"molecule:{path.parent.name}" for path in ROOT.glob("molecule/*/molecule.yml")}
    assert all_scenarios <= set(changed.stages(["lab/Dockerfile"]))
    for shared in ("core/run.py", "pure/ring.py", "cli.py"):
        assert all_scenarios <= set(changed.stages([f"plugins/module_utils/webstack/{shared}"])), shared
    assert not changed.stages([])


def test_the_lab_of_a_check_that_was_ended_is_removed(logs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.HostsCost, "look", lambda _self: None)
    monkeypatch.setattr(runner, "BIN", logs)
    (logs / "python").write_text('#!/bin/sh\necho "$@"\n')
    (logs / "python").chmod(0o755)
    hung = Check("hung", ["sleep", "300"], lab="some_lab")
    assert run([hung], {"hung": Budget(0.1, 1)})["hung"].ended
    assert (logs / "hung.log").read_text() == f"{ROOT}/tools/lab.py down --lab=some_lab\n"


# --- the lab ----------------------------------------------------------------------------------------


def test_inventory_or_environment_name_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBSTACK_LAB_RELEASE", raising=False)
    lab = fresh.lab
    assert [lab.release(each) for each in ({}, {"lab_release": "12"}, {"lab_release": 12})] == ["13", "12", "12"]
    with pytest.raises(lab.LabError, match="lab_release is '11'; known are 12, 13"):
        lab.release({"lab_release": "11"})
    monkeypatch.setenv("WEBSTACK_LAB_RELEASE", "13")
    assert lab.release({"lab_release": "12"}) == "13"
    monkeypatch.setenv("WEBSTACK_LAB_RELEASE", "sid")
    with pytest.raises(lab.LabError, match="WEBSTACK_LAB_RELEASE is 'sid'"):
        lab.release({})


# --- hosts from a snapshot --------------------------------------------------------------------------


def test_a_snapshot_is_known_by_what_the_hosts_are_made_from(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    monkeypatch.setattr(fresh.lab, "image", lambda kind: kind)
    monkeypatch.setattr(fresh.lab, "stamp_of", lambda name: name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for name in ("roles/lb_nginx/tasks/main.yml", "roles/was_django/tasks/main.yml", "tests/testinfra/lb_nginx/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    first = fresh.stamp("lb_nginx")
    (tmp_path / "tests/testinfra/lb_nginx/x.py").write_text("two")
    (tmp_path / "roles/was_django/tasks/main.yml").write_text("two")
    assert fresh.stamp("lb_nginx") == first, "a test, and a role that it does not run"
    (tmp_path / "roles/lb_nginx/tasks/main.yml").write_text("two")
    second = fresh.stamp("lb_nginx")
    assert second != first
    monkeypatch.setattr(fresh.lab, "stamp_of", lambda name: f"another {name}")
    assert fresh.stamp("lb_nginx") != second, "the lab's image"


def test_fresh_refuses_an_unknown_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert fresh.main("no_such") == 2
    assert "S= names a scenario, one of:" in capsys.readouterr().err


def test_a_failed_play_is_named_by_its_failed_tasks() -> None:
    """They stand far down in what a play prints, and nobody gets to see the rest of a run somewhere else."""
    failed = "[ERROR]: Task failed: no room\nfatal: [was1]: FAILED! => {'msg': 'no room'}\n"
    output = f"PLAY [Converge] {'*' * 500}\n{failed}"
    said = check.gist(f"AssertionError: {output}", "")
    assert said.startswith("AssertionError: PLAY [Converge] ***")
    assert "| [ERROR]: Task failed: no room |" in said
    assert "| fatal: [was1]: FAILED! => {'msg': 'no room'}" in said
    assert check.gist("assert 1 == 2", "E  assert 1 == 2") == "assert 1 == 2"

"""The ring of a running site grows, is weighted and shrinks, as an operator does it, while two hosts use the cache.

The tests follow each other: each finds the ring that the one before it left.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from containers import attempt, docker, on

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "plugins/module_utils/webstack/pure"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import rerun  # noqa: E402
from ring import Ring  # noqa: E402

BOOK = "playbooks/resize_cache.yml"
INVENTORY = yaml.safe_load((ROOT / "molecule/cache_resize/inventory.yml").read_text(encoding="utf-8"))
REDIS = [f"resize-redis{number}" for number in range(1, 5)]
WAS = ["resize-was1", "resize-was2"]
PYTHON = "/opt/venv/bin/python"
FILLED = 12_000


def edited(edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    inventory = copy.deepcopy(INVENTORY)
    edit(inventory["all"]["children"])
    return inventory


def grow(groups: dict[str, Any]) -> None:
    groups["redis"]["hosts"] |= groups["reserve"].pop("hosts")


def weigh(groups: dict[str, Any]) -> None:
    grow(groups)
    groups["redis"]["hosts"][REDIS[3]]["redis_shard_weight"] = 2


def shrink(groups: dict[str, Any]) -> None:
    """The second host leaves and stays in the inventory."""
    weigh(groups)
    groups["reserve"]["hosts"] = {REDIS[1]: groups["redis"]["hosts"].pop(REDIS[1])}


THREE, FOUR, WEIGHTED, WITHOUT_TWO = (edited(edit) for edit in (lambda groups: None, grow, weigh, shrink))


def ring(inventory: dict[str, Any]) -> Ring:
    hosts = inventory["all"]["children"]["redis"]["hosts"]
    return Ring({name: variables.get("redis_shard_weight", 1) for name, variables in hosts.items()})


class Operator:
    """Edits the inventory and runs the playbook."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.report = folder / "plan"

    def inventory(self, content: dict[str, Any]) -> pathlib.Path:
        path = self.folder / "inventory.yml"
        path.write_text(yaml.safe_dump(content))
        return path

    def run(self, content: dict[str, Any], *options: str, book: str = BOOK, **variables: Any) -> tuple[int, str]:
        variables |= {"report": str(self.report)} if book == BOOK else {}
        done = rerun.play("cache_resize", *options, book=book, inventory=self.inventory(content), **variables)
        return done.returncode, done.stdout + done.stderr

    def apply(self, content: dict[str, Any], **variables: Any) -> str:
        started = time.monotonic()
        code, output = self.run(content, confirm=True, **variables)
        assert code == 0, output
        print(f"figure: the run took {time.monotonic() - started:.0f} s")
        return output

    def interrupt(self, content: dict[str, Any], task: str) -> None:
        """Ctrl-C when a task begins, again and again: Python drops one that comes while it clears a weak reference."""
        command = ["ansible-playbook", "-i", str(self.inventory(content)), str(ROOT / BOOK), "-e", "confirm=true"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PY_COLORS"))}
        with subprocess.Popen(
            [*command, "-e", f"report={self.report}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment | {"ANSIBLE_NOCOLOR": "1"},
        ) as process:
            assert process.stdout is not None
            seen = ""
            for line in process.stdout:
                seen += line
                if f"TASK [{task}]" in line:
                    break
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
            seen += process.stdout.read()
            assert f"TASK [{task}]" in seen, seen
            assert process.wait() != 0, seen

    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads(self.report.with_suffix(".json").read_text())
        return plan


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("operator"))


def application(code: str, *arguments: str) -> Any:
    start = "import json, sys\nfrom django.conf import settings\nsettings.configure()\nimport django\ndjango.setup()\n"
    start += "from webstack_cache import RingCache\ncache = RingCache('/etc/webstack/cache.json', {})\n"
    command = ["docker", "exec", "-i", "-e", "PYTHONPATH=/opt/webstack/python", WAS[0], PYTHON, "-", *arguments]
    done = subprocess.run(command, input=start + code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fill() -> None:
    code = f"cache.set_many({{f'fill:{{n}}': 'x' * 200 for n in range({FILLED})}}, timeout=3600)\nprint(1)"
    application(code)


def filled() -> int:
    code = f"print(len(cache.get_many([f'fill:{{n}}' for n in range({FILLED})])))"
    return int(application(code))


def used() -> list[dict[str, Any]]:
    """What the applications have, without access."""
    return [
        {key: value for key, value in json.loads(on(host, "cat", "/etc/webstack/cache.json")).items() if key != "tls"}
        for host in WAS
    ]


def assert_used(inventory: dict[str, Any]) -> None:
    for content in used():
        assert content["fingerprint"] == ring(inventory).fingerprint
        assert "next" not in content


def states() -> dict[str, Any]:
    """All that a plan must leave alone."""
    look = (
        "find /etc/webstack /etc/redis /etc/systemd/system /opt/webstack -type f -name '*' ! -name '*.pyc' "
        "-exec md5sum {} + | sort; systemctl list-units --no-legend --plain 'redis*' | sort"
    )
    return {host: on(host, "sh", "-c", look) for host in [*REDIS, *WAS]}


# --- under load ---------------------------------------------------------------------------------------


class Load:
    """Programs on both application hosts that use the cache; one starts with the title of a process of mod_wsgi."""

    def __init__(self) -> None:
        self.programs: list[subprocess.Popen[str]] = []
        libraries = "/opt/webstack/python:$(echo /opt/venv/lib/python3*/site-packages)"
        for me, other in (WAS, reversed(WAS)):
            docker("cp", str(pathlib.Path(__file__).with_name("elsewhere.py")), f"{me}:/opt/elsewhere.py")
            start = f"PYTHONPATH={libraries} exec -a '(wsgi:site)' /usr/bin/python3 "
            start += f"/opt/elsewhere.py {os.getpid()} {me} {other} 2"
            self.programs.append(
                subprocess.Popen(
                    ["docker", "exec", "-i", me, "bash", "-c", start],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for program in self.programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        self.processes = {host: self.ids(host) for host in WAS}

    @staticmethod
    def ids(host: str) -> list[str]:
        return on(host, "pgrep", "-f", "elsewhere.py").split()

    def finish(self) -> None:
        """No exception, nothing stale, and the processes that began are those that ended."""
        remaining = {host: self.ids(host) for host in WAS}
        for program in self.programs:
            # All end at once: a value of one that has ended grows old without being stale.
            assert program.stdin is not None
            program.stdin.close()
            program.stdin = None
        outputs = [program.communicate()[0] for program in self.programs]
        assert remaining == self.processes
        found = {seen["me"]: seen for output in outputs for seen in json.loads(output)}
        for seen in found.values():
            assert seen["exceptions"] == []
            assert seen["hits"] > 0.5 * seen["reads"] > 500
            # A stale copy grows older all the time. A writer that a busy machine held up says so itself.
            assert seen["oldest"] < max(4, found[seen["other"]]["stood"]), found
        assert [program.returncode for program in self.programs] == [0] * len(self.programs)


@contextlib.contextmanager
def known_versions() -> Iterator[None]:
    """Load that knows the last version of each key, in processes of both hosts, for as long as the change takes."""
    command = ["docker", "exec", "-e", "PYTHONPATH=/opt/webstack/python"]
    options = ["--seconds", "1000", "--processes", "3", "--pause", "0.05"]
    programs: list[subprocess.Popen[str]] = []
    try:
        for host in WAS:
            docker("cp", str(ROOT / "tests/lab/cache_load.py"), f"{host}:/opt/cache_load.py")
            whole = [*command, host, PYTHON, "/opt/cache_load.py", *options]
            programs.append(subprocess.Popen(whole, stdout=subprocess.PIPE, text=True))
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        yield
    finally:
        for host, _ in zip(WAS, programs, strict=False):
            # One that died before is no reason to leave the other one alone.
            attempt(host, "pkill", "-TERM", "-o", "-f", "cache_load.py")
        outputs = [program.communicate()[0] for program in programs]
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    for result in results:
        said = {key: result[key] for key in ("calls", "errors", "stale", "overtaken", "longest_call")}
        print(f"figure: {said}")
    # What went wrong comes first, since a long message is cut off.
    wrong = [{key: result[key] for key in ("stale_reads", "said")} for result in results]
    assert wrong == [{"stale_reads": [], "said": []}] * len(WAS), results
    assert min(result["calls"] for result in results) > 1000, results


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    load = Load()
    yield load
    load.finish()


# --- a plan -------------------------------------------------------------------------------------------


def test_a_plan_changes_nothing(operator: Operator) -> None:
    fill()
    before = states()
    code, output = operator.run(FOUR)
    assert code == 0, output
    assert "changed=0" in output
    assert "resize-redis4 starts on resize-redis4 (10.77.10.24:6379) and resize-redis1 (10.77.10.21:6380)" in output
    code, output = operator.run(FOUR, "--check")
    assert code == 0, output
    assert states() == before
    plan = operator.plan()
    assert plan["phase"] == "change"
    # What is counted is what the ring says of the very keys.
    moving = moved(THREE, FOUR)
    assert plan["total"]["keys"] == FILLED
    assert plan["total"]["keys_moved"] == moving
    assert plan["shards"][REDIS[3]]["keys_in"] == moving
    page = operator.report.with_suffix(".html").read_text()
    assert "<svg" in page
    assert REDIS[3] in page


def test_nothing_is_switched_without_this_playbook(operator: Operator) -> None:
    before = states()
    for content in (FOUR, edited(lambda groups: groups["redis"]["hosts"][REDIS[0]].update(redis_shard_weight=3))):
        code, output = operator.run(content, "--limit=was", book="molecule/cache_resize/converge.yml")
        assert code != 0
        assert "run webstack.ha.resize_cache" in " ".join(output.split())
        assert "changed=0" in output
    assert states() == before


def test_refusals(operator: Operator) -> None:
    before = states()

    def refused(content: dict[str, Any], *words: str, **variables: Any) -> None:
        code, output = operator.run(content, **variables)
        assert code != 0, output
        for word in words:
            assert word in " ".join(output.split()), output

    refused(FOUR, "confirm, abort and repair are true or false, got maybe", confirm="maybe")
    # An application server that does not answer: a plan, no change.
    absent = edited(grow)
    absent["all"]["children"]["was"]["hosts"]["resize-was3"] = {
        "webstack_address": "10.77.10.13",
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_port": 1,
    }
    code, output = operator.run(absent)
    assert code == 0, output
    refused(absent, "Nothing was changed. resize-was3: no answer", confirm=True)
    refused(FOUR, "there is nothing to abort", confirm=True, abort=True)
    assert states() == before
    # One that came back with another ring.
    file = on(WAS[1], "cat", "/etc/webstack/cache.json")
    other = json.loads(file)
    del other["shards"][REDIS[2]]
    other["fingerprint"] = Ring([(name, 1) for name in REDIS[:2]]).fingerprint
    on(WAS[1], "sh", "-c", "cat > /etc/webstack/cache.json", text=json.dumps(other))
    try:
        refused(THREE, "have two rings", f"{WAS[0]}: {', '.join(REDIS[:3])} (", f"{WAS[1]}: {', '.join(REDIS[:2])} (")
    finally:
        on(WAS[1], "sh", "-c", "cat > /etc/webstack/cache.json", text=file)


# --- changes ------------------------------------------------------------------------------------------


def moved(before: dict[str, Any], after: dict[str, Any]) -> int:
    old, new = ring(before), ring(after)
    return sum(old.locate(key) != new.locate(key) for key in (f":1:fill:{n}" for n in range(FILLED)))


def test_a_fourth_shard_under_load(operator: Operator, load: Load) -> None:
    with known_versions():
        output = operator.apply(FOUR)
        assert_used(FOUR)
        assert filled() == FILLED - moved(THREE, FOUR)
    assert "The applications use the ring" in output


def test_a_second_run_has_nothing_to_do(operator: Operator, load: Load) -> None:
    output = operator.apply(FOUR)
    assert "Nothing to do: all application servers have the inventory" in output
    assert {line.split("changed=")[1].split()[0] for line in output.splitlines() if "changed=" in line} == {"0"}


def test_a_weight_in_two_attempts(operator: Operator, load: Load) -> None:
    """The first is interrupted after the first step."""
    fill()
    operator.interrupt(WEIGHTED, "Wait until every process knows")
    assert {content["next"]["fingerprint"] for content in used()} == {ring(WEIGHTED).fingerprint}
    operator.apply(WEIGHTED)
    assert_used(WEIGHTED)
    assert filled() == FILLED - moved(FOUR, WEIGHTED)


def test_a_host_out_of_the_middle_leaves_under_load(operator: Operator, load: Load) -> None:
    fill()
    with known_versions():
        operator.apply(WITHOUT_TWO)
        assert_used(WITHOUT_TWO)
        assert filled() == FILLED - moved(WEIGHTED, WITHOUT_TWO)
    running = on(REDIS[1], "systemctl", "list-units", "--state=active", "--no-legend", "--plain", "redis*.service")
    assert running == ""


def test_an_announced_change_can_be_taken_back(operator: Operator, load: Load) -> None:
    operator.interrupt(FOUR, "Wait until every process knows")
    code, output = operator.run(FOUR, confirm=True, abort=True)
    assert code == 0, output
    assert_used(WITHOUT_TWO)

#!/usr/bin/env python3
"""Run the checks, fast ones first, two at a time but for those that count milliseconds; end with `N passed, N failed`.

  tools/check.py                 everything
  tools/check.py lint unit       some stages
  tools/check.py molecule:lb_nginx   one scenario

Full output of each check: .cache/check/<check>.log; shown at once for what fails.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv/bin"
LOGS = ROOT / ".cache/check"

# Scenarios that wait for their hosts most of the time and whose tests tell no milliseconds.
PATIENT = {"backup_slave", "cache_engines", "lb_tls", "mysql_replication", "shared_media", "was_django"}


@dataclass
class Check:
    """One command. It counts as one test, or as many as the junit file that it writes says."""

    name: str
    command: list[str]
    junit: pathlib.Path | None = None
    # It counts milliseconds, and wants the machine for itself.
    alone: bool = False


@dataclass
class Result:
    passed: int = 0
    failed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    interrupted: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def python(*arguments: str) -> list[str]:
    return [str(BIN / "python"), *arguments]


def pytest(name: str, *paths: str, alone: bool = False) -> Check:
    junit = LOGS / f"{name}.xml"
    return Check(
        name,
        python(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junit-xml={junit}",
            *paths,
        ),
        junit,
        alone,
    )


def shell_scripts() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True)
    found = []
    for name in listing.stdout.split():
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and path.suffix in ("", ".sh"):
            with path.open("rb") as file:
                first = file.readline(60)
            if first.startswith(b"#!") and first.rstrip().endswith((b"sh", b"bash")):
                found.append(name)
    return found


def lint() -> list[Check]:
    return [
        Check("ruff", [str(BIN / "ruff"), "check", "."]),
        Check("ruff-format", [str(BIN / "ruff"), "format", "--check", "."]),
        Check("mypy", [str(BIN / "mypy")]),
        Check("yamllint", [str(BIN / "yamllint"), "--strict", "."]),
        Check("shellcheck", [str(BIN / "shellcheck"), *shell_scripts()]),
        Check("role-docs", python("tools/role_docs.py", "--check")),
        Check("changelog", [str(BIN / "antsibull-changelog"), "lint"]),
        Check(
            "ansible-lint",
            [str(BIN / "ansible-lint"), "--offline", "--profile=production"],
        ),
    ]


def scenarios() -> list[str]:
    """Every scenario, the full site last."""
    names = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))
    return sorted(names, key=lambda name: name == "default")


def molecule(name: str) -> list[Check]:
    junit = LOGS / f"verify-{name}.xml"
    return [
        Check(
            f"molecule-{name}",
            [str(BIN / "molecule"), "test", "--scenario-name", name],
            junit,
            alone=name not in PATIENT,
        )
    ]


def stage(name: str) -> list[Check]:
    word, _, part = name.partition(":")
    if word == "lint":
        return lint()
    if word == "unit":
        return [pytest("unit", "tests/unit", alone=True)]
    if word == "equality":
        return [pytest("equality", "tests/equality")]
    if word == "integration":
        return [pytest("integration", "tests/integration")]
    if word == "sanity":
        return [Check("sanity", ["bash", "tools/sanity.sh"])]
    if word == "images":
        return [
            Check("engine", ["bash", "tools/engine.sh"]),
            Check("images", python("tools/lab.py", "image", "lean", "warm")),
        ]
    if word == "django":
        return [
            Check("django-suite", python("tests/django_suite/run.py")),
            Check("bench-cache", python("tests/bench/bench_cache.py", "--short"), alone=True),
        ]
    if word == "molecule":
        return [check for scenario in ([part] if part else scenarios()) for check in molecule(scenario)]
    raise SystemExit(f"check: no stage {name!r}; known: {', '.join(STAGES)}, molecule:SCENARIO")


STAGES = ["lint", "unit", "equality", "integration", "sanity", "images", "django", "molecule"]
NEED_IMAGES = {"django", "molecule"}


def counts(check: Check, code: int) -> tuple[int, int]:
    """The command itself is one test beside those in its junit file, so a crash before them is a failure too."""
    passed, failed = (1, 0) if code == 0 else (0, 1)
    if check.junit is not None and check.junit.is_file():
        suites = ElementTree.parse(check.junit).getroot().iter("testsuite")
        for suite in suites:
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
            failed += bad
    return passed, failed


def reasons(check: Check, log: str) -> list[str]:
    """One line per failed test, or the log's last line where no test says why."""
    found = []
    if check.junit is not None and check.junit.is_file():
        for case in ElementTree.parse(check.junit).getroot().iter("testcase"):
            for bad in (*case.iter("failure"), *case.iter("error")):
                message = " ".join((bad.get("message") or "").split())
                found.append(f"{check.name}: {case.get('name')}: {message[:160]}")
    if not found:
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith(("fatal:", "[ERROR]:"))]
        found = [f"{check.name}: {line[:240]}" for line in (fatal or lines)[-1:]]
    return found


def run(check: Check, result: Result) -> None:
    if result.interrupted.is_set():
        return
    log = LOGS / f"{check.name}.log"
    if check.junit is not None:
        check.junit.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(ROOT / ".cache/ansible"),
        "PY_COLORS": "0",
        "ANSIBLE_FORCE_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
    }
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            check.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        result.running.add(process)
        code = process.wait()
        result.running.discard(process)
    if result.interrupted.is_set():
        return
    seconds = time.monotonic() - started
    text = log.read_text(errors="replace")
    passed, failed = counts(check, code)
    with result.lock:
        result.passed += passed
        result.failed += failed
        result.seconds[check.name] = seconds
        word = "ok" if code == 0 else "FAILED"
        print(f"check: {check.name:<28} {word:<7} {passed:>4} passed {failed:>3} failed {seconds:>7.1f} s", flush=True)
        if code != 0:
            result.reasons += reasons(check, text)
            print(f"  command: {shlex.join(check.command)}")
            print("\n".join(f"  | {line}" for line in text.splitlines()[-120:]), flush=True)


def in_lanes(lanes: int, rows: Iterable[Sequence[Check]], result: Result) -> None:
    """Run that many rows of checks at a time, each in its order."""

    def run_row(row: Sequence[Check]) -> None:
        for check in row:
            run(check, result)

    with ThreadPoolExecutor(lanes) as pool:
        try:
            for future in [pool.submit(run_row, row) for row in rows]:
                future.result()
        except KeyboardInterrupt:
            result.interrupted.set()
            for process in list(result.running):
                process.terminate()
            raise


def main(names: list[str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    # A wrong name is refused before anything runs.
    stages = {name: stage(name) for name in names or STAGES}
    result = Result()
    started = time.monotonic()
    images = stages.pop("images", [])
    fast: list[Check] = []
    slow: list[Check] = []
    for name, checks in stages.items():
        (slow if name.partition(":")[0] in NEED_IMAGES else fast).extend(checks)
    try:
        # Images take a minute of waiting for packages.
        in_lanes(2, [images, *([check] for check in fast if not check.alone)], result)
        in_lanes(1, [[check] for check in fast if check.alone], result)
        in_lanes(2, [[check] for check in slow if not check.alone], result)
        in_lanes(1, [[check] for check in slow if check.alone], result)
    except KeyboardInterrupt:
        print(
            "\ncheck: interrupted; 'make test' runs again, 'make clean' removes what was left",
            file=sys.stderr,
        )
        return 130
    print(f"\ncheck: {(time.monotonic() - started) / 60:.1f} minutes; the slowest:")
    for name, seconds in sorted(result.seconds.items(), key=lambda item: -item[1])[:8]:
        print(f"  {name:<28} {seconds:>7.1f} s")
    if result.reasons:
        print("\ncheck: what failed:")
        print("\n".join(f"  {reason}" for reason in result.reasons))
    print(f"\n{result.passed} passed, {result.failed} failed")
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

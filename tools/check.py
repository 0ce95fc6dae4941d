#!/usr/bin/env python3
"""Run the checks, the longest first, as many at a time as the cores carry; end with `N passed, N failed`.

  tools/check.py                     everything
  tools/check.py lint unit           some stages
  tools/check.py molecule:lb_nginx   one scenario

Full output of each check: .cache/check/<check>.log; shown at once for what fails. What each check may cost stands in
tests/budgets.yml, for the machine that it was measured on: one that takes three times as long is ended. A piece of work
at the beginning says how much faster or slower this machine is.
"""

from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree

import speed
from runner import BIN, LOGS, ROOT, Budget, Check, Outcome, Runner

BUDGETS = ROOT / "tests/budgets.yml"
OLDER_IMAGE = "images-12"


@dataclass
class Tally:
    passed: int = 0
    failed: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def python(*arguments: str) -> list[str]:
    return [str(BIN / "python"), *arguments]


def single(name: str, *command: str, after: Sequence[str] = ()) -> Check:
    return Check(name, command, after=frozenset(after))


def pytest(name: str, *arguments: str) -> Check:
    junit = LOGS / f"{name}.xml"
    command = python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={junit}", *arguments)
    return Check(name, command, junit)


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
        single("ruff", str(BIN / "ruff"), "check", "."),
        single("ruff-format", str(BIN / "ruff"), "format", "--check", "."),
        single("mypy", str(BIN / "mypy")),
        single("yamllint", str(BIN / "yamllint"), "--strict", "."),
        single("shellcheck", str(BIN / "shellcheck"), *shell_scripts()),
        single("role-docs", *python("tools/role_docs.py", "--check")),
        single("changelog", str(BIN / "antsibull-changelog"), "lint"),
        single("ansible-lint", str(BIN / "ansible-lint"), "--offline", "--profile=production"),
        single("sanity", "bash", "tools/sanity.sh"),
    ]


def scenarios() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def molecule(name: str, images: Sequence[str]) -> Check:
    command = [str(BIN / "molecule"), "test", "--scenario-name", name]
    needed = {image for image in images if image != OLDER_IMAGE or name in on_older_release()}
    return Check(f"molecule-{name}", command, LOGS / f"verify-{name}.xml", lab=name, after=frozenset(needed))


def on_older_release() -> list[str]:
    """The scenarios whose hosts run the older Debian."""
    return [
        path.parent.name for path in ROOT.glob("molecule/*/inventory.yml") if 'lab_release: "12"' in path.read_text()
    ]


def checks_of(stage: str, images: Sequence[str]) -> list[Check]:
    """The checks of a stage; `images` are the names of those that make the lab's images, if they run too."""
    word, _, part = stage.partition(":")
    if word == "lint":
        return lint()
    if word == "unit":
        return [pytest("unit", "-n", "2", "tests/unit")]
    if word in ("equality", "integration"):
        return [pytest(word, f"tests/{word}")]
    if word == "images":
        return [
            single("engine", "bash", "tools/engine.sh"),
            single("images", *python("tools/lab.py", "image", "lean", "warm"), after=["engine"]),
            # Not beside the first one: both may have to install debootstrap.
            single(
                OLDER_IMAGE,
                "env",
                "WEBSTACK_LAB_RELEASE=12",
                *python("tools/lab.py", "image", "warm"),
                after=["images"],
            ),
        ]
    if word == "django":
        return [
            single("django-suite", *python("tests/django_suite/run.py"), after=images),
            single("bench-cache", *python("tests/bench/bench_cache.py", "--short")),
        ]
    if word == "molecule":
        return [molecule(name, images) for name in ([part] if part else scenarios())]
    raise SystemExit(f"check: no stage {stage!r}; known: {', '.join(STAGES)}, molecule:SCENARIO")


STAGES = ["images", "molecule", "unit", "integration", "django", "equality", "lint"]


def budgets() -> dict[str, Budget]:
    import yaml

    return {name: Budget(**cost) for name, cost in yaml.safe_load(BUDGETS.read_text()).items()}


def scaled(allowed: dict[str, Budget], factor: float) -> dict[str, Budget]:
    """The budgets of a machine that takes `factor` times the CPU. A faster one waits for outages as long as any."""
    return {name: Budget(cost.wall * max(1, factor), cost.cpu * factor) for name, cost in allowed.items()}


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


#: What a play says of a failed task begins with one of these.
FATAL = r"fatal: \[|\[ERROR\]: "


def gist(message: str, report: str) -> str:
    """What a failed test says, in short; of a play the tasks that failed, which stand far down in its output."""
    whole = " ".join(f"{message} {report}".replace("\\n", " ").split())
    fatal = dict.fromkeys(re.findall(rf"(?:{FATAL})(?:(?!{FATAL}).){{,300}}", whole))
    return " | ".join([one.strip() for one in (" ".join(message.split())[: 200 if fatal else 400], *list(fatal)[:4])])


def reasons(check: Check, log: str) -> list[str]:
    """One line per failed test, or the log's last line where no test says why."""
    found = []
    if check.junit is not None and check.junit.is_file():
        for case in ElementTree.parse(check.junit).getroot().iter("testcase"):
            for bad in (*case.iter("failure"), *case.iter("error")):
                found.append(f"{check.name}: {case.get('name')}: {gist(bad.get('message') or '', bad.text or '')}")
    if not found:
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith(("fatal:", "[ERROR]:"))]
        found = [f"{check.name}: {line[:240]}" for line in (fatal or lines)[-1:]]
    return found


def unit_first(checks: Sequence[Check]) -> list[Check]:
    """The unit tests begin, by themselves: they fill both cores, many count milliseconds, and they say most soonest."""
    if not any(check.name == "unit" for check in checks):
        return list(checks)
    return [check if check.name == "unit" else replace(check, after=check.after | {"unit"}) for check in checks]


def slowest(junit: pathlib.Path | None, most: int = 5) -> list[str]:
    """The tests that took longest, those of a second and more."""
    if junit is None or not junit.is_file():
        return []
    cases = [(float(c.get("time", 0)), c.get("name", "")) for c in ElementTree.parse(junit).getroot().iter("testcase")]
    return [f"{name} {seconds:.0f} s" for seconds, name in sorted(cases, reverse=True)[:most] if seconds >= 1]


def report(outcome: Outcome, tally: Tally) -> None:
    check = outcome.check
    text = (LOGS / f"{check.name}.log").read_text(errors="replace")
    passed, failed = counts(check, outcome.code)
    with tally.lock:
        tally.passed += passed
        tally.failed += failed
        tally.outcomes.append(outcome)
        word = "ok" if outcome.code == 0 else "FAILED"
        print(
            f"check: {check.name:<30} {word:<7}{passed:>4} passed {failed:>3} failed {outcome.wall:>6.1f} s,"
            f" CPU {outcome.cpu:>6.1f} s, {outcome.engine_calls} engine calls, {outcome.plays} plays"
            + (f", waited {outcome.waited:.0f} s for others" if outcome.waited >= 1 else ""),
            flush=True,
        )
        if longest := slowest(check.junit):
            print(f"         slowest: {', '.join(longest)}", flush=True)
        if outcome.code != 0:
            why = [f"{check.name}: {outcome.ended}, three times its budget"] if outcome.ended else reasons(check, text)
            tally.reasons += why
            print(f"  command: {shlex.join(check.command)}")
            print("\n".join(f"  | {line}" for line in text.splitlines()[-120:]), flush=True)


def over_budget(outcomes: Sequence[Outcome], allowed: dict[str, Budget]) -> list[str]:
    """One line for each check that cost a third more CPU than its budget, and a little more than noise."""
    return [
        f"{o.check.name}: CPU {o.cpu:.0f} s, its budget is {allowed[o.check.name].cpu:.0f} s here"
        for o in outcomes
        if o.check.name in allowed and o.cpu > max(1.3 * allowed[o.check.name].cpu, allowed[o.check.name].cpu + 5)
    ]


def main(names: list[str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    stages = names or STAGES
    images = [check.name for check in checks_of("images", [])] if "images" in stages else []
    # A wrong name is refused before anything runs.
    checks = unit_first([check for stage in stages for check in checks_of(stage, images)])
    factor = speed.factor()
    allowed = scaled(budgets(), factor)
    print(f"check: this machine takes {factor:.2f} times the CPU that budgets count in", flush=True)
    tally = Tally()
    started = time.monotonic()
    runner = Runner(allowed, lambda outcome: report(outcome, tally))
    try:
        runner(checks)
    except KeyboardInterrupt:
        print("\ncheck: interrupted, and what ran was ended; 'make test' runs again", file=sys.stderr)
        for lab in sorted(runner.labs):
            print(f"check: 'make drop S={lab}' removes its hosts", file=sys.stderr)
        return 130
    minutes, cpu = (time.monotonic() - started) / 60, sum(o.cpu for o in tally.outcomes) / 60
    print(f"\ncheck: {minutes:.1f} minutes, {cpu:.1f} of CPU")
    for line in over_budget(tally.outcomes, allowed):
        print(f"check: over its budget: {line}")
    if tally.reasons:
        print("\ncheck: what failed:")
        print("\n".join(f"  {reason}" for reason in tally.reasons))
    print(f"\n{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

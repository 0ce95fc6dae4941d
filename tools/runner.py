"""Runs checks: one queue, as many at a time as the cores carry, each with a time limit and its cost counted."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import IO

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv/bin"
LOGS = ROOT / ".cache/check"
# A check of seconds may wait for the other lane's load, and for packages on a fresh machine.
LEAST_SECONDS = 300
# By this variable every process that a check started is known, whatever session or parent it has by now.
MARK = "WEBSTACK_CHECK"


@dataclass(frozen=True)
class Check:
    """One command. It counts as one test beside those in its junit file."""

    name: str
    command: Sequence[str]
    junit: pathlib.Path | None = None
    #: The lab whose hosts work for it.
    lab: str = ""
    #: Names of checks that come first.
    after: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Budget:
    """What a check costs on two cores, in seconds."""

    wall: float
    cpu: float


@dataclass
class Outcome:
    check: Check
    code: int
    wall: float
    cpu: float
    engine_calls: int
    plays: int
    #: Seconds of its wall time in which others had their turn.
    waited: float = 0.0
    #: Why it was ended, or empty.
    ended: str = ""


def marked(mark: str) -> list[int]:
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [pid for pid in found if pid != os.getpid()]


def end(mark: str, seconds: float = 10) -> None:
    """End every process with this mark: ask first."""
    deadline = time.monotonic() + seconds
    for pid in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    # One that cannot be killed (it waits for a disk) is not waited for either.
    while (left := marked(mark)) and time.monotonic() < deadline + 5:
        for pid in left if time.monotonic() > deadline else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def spent_by(container: str, groups: pathlib.Path) -> float:
    """CPU seconds of a host's services, by its view of the control groups."""
    total = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for stat in (groups / "docker" / container).glob("*.slice/cpu.stat"):
            total += int(stat.read_text().split()[1]) / 1e6
        if not total:
            # With an engine on the first kind of groups nobody enters a host beside it: all that runs there counts.
            total = int((groups / "cpuacct/docker" / container / "cpuacct.usage").read_text()) / 1e9
    return total


class HostsCost:
    """CPU seconds of the services on a lab's hosts, which are no children of the check.

    What the check itself runs on a host is its child (lab/bin/docker) and in the host's init.scope, so only the slices
    count. A host that is killed takes its figures with it: they are looked at every few seconds.
    """

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self.seen: dict[str, float] = {}

    def look(self) -> None:
        if not self.lab:
            return
        listing = ["docker", "ps", "--quiet", "--no-trunc", "--filter", f"label=webstack.lab={self.lab}"]
        ids = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.split()
        if not ids:
            return
        ask = ["docker", "inspect", "--format", "{{.Id}} {{.State.Pid}}", *ids]
        for line in subprocess.run(ask, capture_output=True, text=True, check=False).stdout.splitlines():
            name, _, pid = line.partition(" ")
            if total := spent_by(name, pathlib.Path(f"/proc/{pid}/root/sys/fs/cgroup")):
                self.seen[f"{name} {pid}"] = total

    def seconds(self) -> float:
        return sum(self.seen.values())


class Run:
    """One run of one check."""

    def __init__(self, check: Check, wall: float) -> None:
        self.check = check
        self.limit = max(3 * wall, LEAST_SECONDS)
        self.mark = uuid.uuid4().hex
        self.counts = LOGS / f"{check.name}.counts"
        self.hosts = HostsCost(check.lab)
        self.cpu = 0.0
        self.ended = ""

    def __call__(self) -> Outcome:
        if self.check.junit is not None:
            self.check.junit.unlink(missing_ok=True)
        self.counts.write_text("")
        started = time.monotonic()
        with (LOGS / f"{self.check.name}.log").open("wb") as out:
            code = self.step(self.check.command, out, self.limit)
            if self.ended and self.check.lab:
                self.step(
                    [str(BIN / "python"), str(ROOT / "tools/lab.py"), "down", f"--lab={self.check.lab}"], out, 120
                )
        words = self.counts.read_text().split()
        cpu = self.cpu + self.hosts.seconds()
        wall, waited = time.monotonic() - started, self.waited()
        return Outcome(self.check, code, wall, cpu, words.count("engine"), words.count("play"), waited, self.ended)

    def waited(self) -> float:
        """Seconds in which its tests waited for those of others."""
        notes = (word.partition(":") for word in self.counts.read_text().split())
        return sum(float(seconds) for name, _, seconds in notes if name == "waited" and seconds)

    def step(self, command: Sequence[str], out: IO[bytes], seconds: float) -> int:
        """Run a command, end it with all that it started when it takes longer; return its exit code."""
        environment = {
            **os.environ,
            "PATH": f"{ROOT / 'lab/bin'}:{BIN}:{os.environ['PATH']}",
            "ANSIBLE_HOME": str(ROOT / ".cache/ansible"),
            "PY_COLORS": "0",
            "ANSIBLE_FORCE_COLOR": "0",
            "PYTHONUNBUFFERED": "1",
            "WEBSTACK_COUNTS": str(self.counts),
            MARK: self.mark,
        }
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started = looked = time.monotonic()
        while True:
            # wait4 says what the process and its children cost; Popen would throw that away.
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            now = time.monotonic()
            over = now - started - seconds
            if over > 0 and not self.ended and over > self.waited():
                self.ended = f"ended after {now - started:.0f} s"
                end(self.mark)
            if now > looked + 10:
                self.hosts.look()
                looked = now
            time.sleep(0.2)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu += usage.ru_utime + usage.ru_stime
        return process.returncode


class Runner:
    """Takes the longest check that may begin, in each lane, until none is left.

    Two run at a time, and a third where the three leave the cores free for a part of the time: many a check waits for
    outages, or for hosts that boot.
    """

    def __init__(
        self, budgets: dict[str, Budget], report: Callable[[Outcome], None], lanes: int = 3, cores: int = 2
    ) -> None:
        self.budgets = budgets
        self.report = report
        self.lanes = lanes
        self.cores = cores
        self.changed = threading.Condition()
        self.waiting: list[Check] = []
        self.running: list[Run] = []
        self.unfinished: set[str] = set()
        self.stopped = False
        #: Labs of checks that were ended: nobody removed their hosts.
        self.labs: set[str] = set()

    def __call__(self, checks: Sequence[Check]) -> None:
        """Run them all. Ctrl-C ends what runs, with everything that it started, and is passed on."""
        self.waiting = sorted(checks, key=lambda check: -self.weight(check, checks))
        self.unfinished = {check.name for check in checks}
        with ThreadPoolExecutor(self.lanes) as pool:
            lanes = [pool.submit(self._lane) for _ in range(self.lanes)]
            try:
                for lane in wait(lanes, return_when=FIRST_EXCEPTION).done:
                    lane.result()
            finally:
                with self.changed:
                    self.stopped = True
                    self.changed.notify_all()
                self.labs = {run.check.lab for run in self.running if run.check.lab}
                while not all(lane.done() for lane in lanes):
                    for run in list(self.running):
                        end(run.mark)
                    time.sleep(0.2)

    def wall(self, name: str) -> float:
        # One that nobody has measured yet may be long.
        return self.budgets[name].wall if name in self.budgets else 600

    def weight(self, check: Check, checks: Sequence[Check]) -> float:
        """How long the rest of the run takes at least once this one begins: with the longest that waits for it."""
        later = [self.weight(other, checks) for other in checks if check.name in other.after]
        return self.wall(check.name) + max(later, default=0)

    def share(self, name: str) -> float:
        """How many cores a check keeps busy on average. One that nobody has measured yet may take one."""
        return self.budgets[name].cpu / self.budgets[name].wall if name in self.budgets else 1

    def fits(self, check: Check) -> bool:
        busy = [self.share(run.check.name) for run in self.running]
        # A little more than the cores: all of them wait now and then.
        return len(busy) < 2 or sum(busy) + self.share(check.name) <= 1.1 * self.cores

    def _next(self) -> Run | None:
        with self.changed:
            while self.waiting and not self.stopped:
                for check in self.waiting:
                    if not check.after & self.unfinished and self.fits(check):
                        self.waiting.remove(check)
                        run = Run(check, self.wall(check.name))
                        self.running.append(run)
                        return run
                self.changed.wait()
            return None

    def _lane(self) -> None:
        while run := self._next():
            outcome = run()
            if not self.stopped:
                self.report(outcome)
            with self.changed:
                self.running.remove(run)
                self.unfinished.discard(run.check.name)
                self.changed.notify_all()

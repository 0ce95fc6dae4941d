# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes a release into use: loads it beside the old one, switches to it, checks it, and goes back if it fails."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor

from ..core.errors import Problem
from ..core.systemd import tell
from . import beside, history
from .apache import SERVICE, let_requests_end, refused_by_apache, unit
from .builder import Builder
from .site import CONFIGURATION, MARKER


class Application(Builder):
    """Runs a release, or puts the old one back."""

    def point(self, identity: str) -> None:
        new = self.base / ".current.new"
        new.unlink(missing_ok=True)
        new.symlink_to(f"releases/{identity}")
        os.replace(new, self.link)

    def wait(self, identity: str, others: Container[int] = ()) -> None:
        """Wait for a healthy answer of this release, by another process than these."""
        limit = float(self.setting("health_timeout"))
        deadline = time.monotonic() + limit
        bad = 0
        while True:
            status, release, pid, body = self.ask()
            if status == 200 and release == identity and pid not in others:
                return
            # A process that cannot load the application answers with an error at once. Others may still answer well; or
            # badly, while a good release comes back in the place of one that was refused, and loads for a while.
            bad += status >= 500 and pid not in others
            if bad >= 10 or time.monotonic() > deadline:
                what = f"release {release}" if status == 200 else f"status {status}: {body.strip()[:300]}"
                where = f"http://{self.setting('address')}:{self.setting('port')}{self.of_release('health_path')}"
                raise Problem(f"{where} does not answer for release {identity} (last answer: {what})")
            time.sleep(0.02 if status == 200 else 0.2)

    def replace(self, identity: str) -> list[str]:
        """Replace the daemon processes that began before the last change, one at a time.

        The newest is the first: after a refused release it is the one that answers badly.
        """
        count = len(self.processes())
        stale = self.stale_processes()
        for old in stale:
            before = set(self.processes())
            if old not in before:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(old, signal.SIGUSR1)
            # A process may take `graceful` seconds to finish its requests. Then Apache starts the next one.
            deadline = time.monotonic() + float(self.setting("graceful")) + 30
            while not set(self.processes()) - before or len(self.processes()) < count:
                if time.monotonic() > deadline:
                    raise Problem(f"Apache did not replace the daemon process {old}")
                # A process looks only after a request whether it shall end; without one it would wait for all of
                # `graceful`. Send several at once, since a single one may reach the same other process each time.
                with ThreadPoolExecutor(8) as pool:
                    list(pool.map(lambda _: self.ask(), range(8)))
                time.sleep(0.05)
            self.wait(identity, before)
        return [f"replaced {len(stale)} processes"] if stale else []

    def bring(self, identity: str) -> list[str]:
        state = unit()
        if state["NeedDaemonReload"] == "yes":
            tell("daemon-reload")
            state = unit()
        if state["ActiveState"] == "active" and not self.stale_apache(state):
            done = self.replace(identity)
        else:
            if problems := self.taken(self.setting("listen"), self.setting("port")) + refused_by_apache():
                raise Problem("; ".join(problems))
            neighbours = [Application(site.name) for site in self.others() if site.current() and site.ask()[0] == 200]
            done = ["restarted" if state["ActiveState"] == "active" else "started"]
            with contextlib.suppress(Problem):  # a unit that was never loaded has no failures to forget
                tell("reset-failed", SERVICE)
            if state["ActiveState"] == "active" and state["MainPID"] == "0":
                let_requests_end()
            # `restart` also starts an Apache that does not run.
            tell("restart", SERVICE)
            if unit()["MainPID"] == "0":
                raise Problem(f"systemd does not know the main process of {SERVICE}; see its PIDFile")
            for site in neighbours:
                site.wait(site.current() or "")
            # Earlier versions of the role used this file, and Apache until now: a change of it replaced processes.
            (CONFIGURATION / self.name / "python/webstack_wsgi.py").unlink(missing_ok=True)
        self.wait(identity)
        return done

    def activate(self, identity: str | None, holder: str = "", ask: bool = True) -> list[str]:
        """Run a release. Without `ask` its pages are not looked at."""
        before = self.current()
        identity = identity or before
        if identity is None:
            raise Problem(f"{self.name} has no current release")
        if not (self.release(identity) / MARKER).is_file():
            raise Problem(f"{identity} is no finished release; there are: {', '.join(self.finished()) or 'none'}")
        if before == identity:
            done = self.take_into_use(identity, before, ask=False)
        else:
            try:
                done = self.take_into_use(identity, before, ask)
            except (Problem, OSError) as failure:
                history.note(self, holder or history.caller(), "activate", identity, str(failure))
                raise
            history.note(self, holder or history.caller(), "activate", identity, "good")
        return done + self.prune()

    def take_into_use(self, identity: str, before: str | None, ask: bool) -> list[str]:
        """Check the release beside the one that runs, switch, and go back if it does not answer."""
        done = []
        # If the application does not answer now, there is nothing to protect.
        if (before != identity or self.stale_processes()) and (before is None or self.ask()[0] == 200):
            beside.load(self, identity, ask)
        if before != identity:
            self.point(identity)
            done.append(f"switched from {before} to {identity}")
        try:
            done += self.bring(identity)
        except (Problem, OSError) as failure:
            if before in (None, identity) or not (self.release(before) / MARKER).is_file():
                raise
            self.point(before)
            try:
                self.bring(before)
            except (Problem, OSError) as worse:
                raise Problem(f"{failure}; {before} was put back and does not answer either: {worse}") from failure
            raise Problem(f"{failure}; {before} is back") from failure
        if before != identity or not self.ran(identity):
            # An operator may want the release back that ran last. So it is the second one.
            now = time.time_ns()
            for moment, one in ((now - 1_000_000, before), (now, identity)):
                if one is not None and (self.release(one) / MARKER).is_file():
                    mark = self.ran_mark(one)
                    mark.touch()
                    os.utime(mark, ns=(moment, moment))
        return done

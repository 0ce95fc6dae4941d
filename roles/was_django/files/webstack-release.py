#!/usr/bin/env python3
"""Releases of an application on this host: what runs, switch to another one, put the old one back.

  webstack-release NAME status          what is here and what runs, as JSON; changes nothing
  webstack-release NAME finish ID       mark a built release as complete
  webstack-release NAME activate [ID]   run this release (default: the current one), check it, else go back

Apache is never reloaded: that breaks every request that takes longer than a moment. A new release or new
settings replace the daemon processes one at a time, each when its requests have ended (SIGUSR1). Changed
files of Apache itself need a restart, which lets requests end too but refuses new ones for that long.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SERVICE = "apache2.service"
MARKER = ".finished"


class Failure(Exception):
    """What the caller reads, without a traceback."""


def systemctl(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise Failure(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def unit() -> dict[str, str]:
    properties = "ActiveState,UnitFileState,MainPID,NeedDaemonReload"
    lines = systemctl("show", f"--property={properties}", SERVICE, check=False).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def started(pid: int) -> float | None:
    """When a process started, in the time of the files; None when it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def changed(path: pathlib.Path, listing: bool = False) -> float:
    """When a file, a link, or a file below a directory was written; 0 when it is not there.

    With listing, a file that came or went counts too.
    """
    try:
        newest = path.lstat().st_mtime
        if path.is_dir() and not path.is_symlink():
            newest = newest if listing else 0.0
            for folder, folders, names in os.walk(path):
                folders[:] = [name for name in folders if name != "__pycache__"]
                newest = max([newest, *(os.lstat(os.path.join(folder, name)).st_mtime for name in names)])
        return newest
    except OSError:
        return 0.0


def take_over(path: str, folder: int, shared: pathlib.Path) -> None:
    """Make a static file root's. The application's account wrote it, and could as well have put a link there."""
    handle = os.open(os.path.basename(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        info = os.fstat(handle)
        # Two names: a run that was cut off has already shared it, or it is a file of somebody else's.
        second = info.st_nlink > 1 and not (shared.is_file() and os.path.samestat(shared.lstat(), info))
        if not stat.S_ISREG(info.st_mode) or second:
            kind = "a link" if stat.S_ISLNK(info.st_mode) or second else "no file"
            raise Failure(
                f"{path} is {kind}: collectstatic leaves files only. Find out who put it there, remove it,"
                " and run the role again"
            )
        os.chown(f"/proc/self/fd/{handle}", 0, 0)
        os.chmod(f"/proc/self/fd/{handle}", info.st_mode & 0o755)
    finally:
        os.close(handle)


class Site:
    """One application of this host, as the role described it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.base = pathlib.Path("/srv/webstack") / name
        self.link = self.base / "current"
        path = pathlib.Path("/etc/webstack") / name / "release.json"
        self.settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    # --- what is --------------------------------------------------------------------------------------

    def release(self, identity: str) -> pathlib.Path:
        return self.base / "releases" / identity

    def current(self) -> str | None:
        return os.path.basename(os.readlink(self.link)) if self.link.is_symlink() else None

    def finished(self) -> list[str]:
        """Complete releases, those that ran or were built last first."""
        markers = self.base.glob(f"releases/*/{MARKER}")
        return [path.parent.name for path in sorted(markers, key=lambda path: path.stat().st_mtime, reverse=True)]

    def migrated(self) -> list[str]:
        """What says which release has migrated which database from this host."""
        return [f"{path.parent.name}/{path.name}" for path in self.base.glob("releases/*/.migrated-*")]

    def processes(self) -> list[int]:
        title = f"(wsgi:{self.name})".encode()
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes().startswith(title):
                    found.append(int(path.parent.name))
            except OSError:  # it has ended meanwhile
                continue
        return sorted(found)

    def stale_processes(self) -> list[int]:
        watched = [self.link, *(pathlib.Path(path) for path in self.settings.get("watch", []))]
        newest = max(changed(path) for path in watched)
        return [pid for pid in self.processes() if (started(pid) or newest + 1) < newest]

    def stale_apache(self, state: dict[str, str]) -> bool:
        since = started(int(state.get("MainPID") or 0))
        if since is None:
            return False
        return any(changed(pathlib.Path(path), listing=True) > since for path in self.settings.get("apache_files", []))

    def ask(self) -> tuple[int, str, int, str]:
        """Ask the health address: (status, release, process, body); status 0 when nobody answers."""
        settings = self.settings
        connection = http.client.HTTPConnection(settings["address"], settings["port"], timeout=5)
        try:
            connection.request("GET", settings["health_path"], headers={"Host": settings["health_host"]})
            answer = connection.getresponse()
            body = answer.read(2000).decode(errors="replace")
            release, pid = answer.getheader("X-Webstack-Release", ""), answer.getheader("X-Webstack-Process", "0")
            return answer.status, release, int(pid), body
        except (OSError, http.client.HTTPException) as error:
            return 0, "", 0, str(error)
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        state = unit()
        active = state.get("ActiveState") == "active"
        answer = self.ask() if active and self.settings else (0, "", 0, "")
        return {
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "processors": len(os.sched_getaffinity(0)),
            "enabled": state.get("UnitFileState") == "enabled",
            "active": active,
            "healthy": answer[0] == 200,
            "running": answer[1] or None,
            "current": self.current(),
            "releases": self.finished(),
            "migrated": self.migrated(),
            "stale": bool(active and self.settings and (self.stale_apache(state) or self.stale_processes())),
        }

    # --- what changes ---------------------------------------------------------------------------------

    def finish(self, identity: str) -> list[str]:
        """Keep the static files of every kept release in one place, then say that the release is complete."""
        release = self.release(identity)
        together = self.base / "static"
        for folder, _, names, handle in os.fwalk(release / "static", follow_symlinks=False):
            target = together / os.path.relpath(folder, release / "static")
            target.mkdir(parents=True, exist_ok=True)
            # From here on nobody else can put anything in this directory; what is in it may still be anything.
            os.fchown(handle, 0, 0)
            os.fchmod(handle, 0o755)
            for name in names:
                copy = target / f".{name}.new"
                copy.unlink(missing_ok=True)
                take_over(os.path.join(folder, name), handle, target / name)
                os.link(name, copy, src_dir_fd=handle, follow_symlinks=False)
                os.replace(copy, target / name)
                copy.unlink(missing_ok=True)  # replace does nothing when both are the same file
        (release / MARKER).touch()
        return [f"finished {identity}"]

    def point(self, identity: str) -> None:
        new = self.base / ".current.new"
        new.unlink(missing_ok=True)
        new.symlink_to(f"releases/{identity}")
        os.replace(new, self.link)

    def wait(self, identity: str, process: int | None = None) -> None:
        """Wait for a healthy answer of this release, and of this very process when one is given."""
        limit = float(self.settings["health_timeout"])
        deadline = time.monotonic() + limit
        bad = 0
        while True:
            status, release, pid, body = self.ask()
            if status == 200 and release == identity and process in (None, pid):
                return
            # A process that cannot load the application says so at once; others may still answer well.
            bad += status >= 500
            if bad >= 10 or time.monotonic() > deadline:
                what = f"release {release}" if status == 200 else f"status {status}: {body.strip()[:300]}"
                where = f"http://{self.settings['address']}:{self.settings['port']}{self.settings['health_path']}"
                raise Failure(f"{where} does not answer for release {identity} (last answer: {what})")
            time.sleep(0.02 if status == 200 else 0.2)

    def replace(self, identity: str) -> list[str]:
        """Replace the daemon processes that began before the last change, one at a time."""
        count = len(self.processes())
        stale = self.stale_processes()
        for old in stale:
            before = set(self.processes())
            if old not in before:
                continue
            os.kill(old, signal.SIGUSR1)
            # A process may take `graceful` seconds to end its requests; then Apache starts the next one.
            deadline = time.monotonic() + float(self.settings["graceful"]) + 30
            while (fresh := set(self.processes()) - before) == set() or len(self.processes()) < count:
                if time.monotonic() > deadline:
                    raise Failure(f"Apache did not replace the daemon process {old}")
                # It looks whether it may end only after a request: an idle one would wait for all of `graceful`.
                # Several at once, since one alone goes to whoever was quicker, and that may be the same each time.
                with ThreadPoolExecutor(8) as pool:
                    list(pool.map(lambda _: self.ask(), range(8)))
                time.sleep(0.05)
            self.wait(identity, max(fresh))
        return [f"replaced {len(stale)} processes"] if stale else []

    def bring(self, identity: str) -> list[str]:
        state = unit()
        if state.get("NeedDaemonReload") == "yes":
            systemctl("daemon-reload")
        if state.get("ActiveState") != "active":
            done = ["started"]
            systemctl("reset-failed", SERVICE, check=False)
            systemctl("start", SERVICE)
        elif self.stale_apache(state):
            done = ["restarted"]
            systemctl("restart", SERVICE)
        else:
            done = self.replace(identity)
        self.wait(identity)
        return done

    def activate(self, identity: str | None) -> list[str]:
        before = self.current()
        identity = identity or before
        if identity is None:
            raise Failure(f"{self.name} has no current release")
        if not (self.release(identity) / MARKER).is_file():
            raise Failure(f"{identity} is no finished release; there are: {', '.join(self.finished()) or 'none'}")
        done = []
        if before != identity:
            self.point(identity)
            done.append(f"switched from {before} to {identity}")
        try:
            done += self.bring(identity)
        except Failure as failure:
            if before in (None, identity) or not (self.release(before) / MARKER).is_file():
                raise
            self.point(before)
            self.bring(before)
            raise Failure(f"{failure}; {before} is back") from failure
        if before != identity:
            # What ran last is what somebody may want back: it counts as newer than what never ran.
            for ran in (before, identity):
                if ran is not None and (self.release(ran) / MARKER).is_file():
                    os.utime(self.release(ran) / MARKER)
        return done + self.prune()

    def prune(self) -> list[str]:
        """Keep the current release and the newest ones; forget static files that no release has any more."""
        kept = {self.current(), *self.finished()[: max(1, int(self.settings["keep"]))]}
        # A release without the marker may be in the making by somebody; after a day it is not.
        old = [
            path
            for path in self.base.glob("releases/*")
            if path.name not in kept and ((path / MARKER).is_file() or path.stat().st_mtime < time.time() - 86400)
        ]
        for path in old:
            shutil.rmtree(path)
        if old:
            for folder, _, names in os.walk(self.base / "static", topdown=False):
                for name in names:
                    file = os.path.join(folder, name)
                    if os.stat(file).st_nlink == 1:
                        os.unlink(file)
        return [f"removed {path.name}" for path in old]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the application")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="what is here and what runs")
    commands.add_parser("finish", help="mark a release as complete").add_argument("id")
    commands.add_parser("activate", help="run a release").add_argument("id", nargs="?")
    options = parser.parse_args()
    site = Site(options.name)
    try:
        if options.command == "status":
            print(json.dumps(site.status()))
            return 0
        done = site.finish(options.id) if options.command == "finish" else site.activate(options.id)
    except Failure as failure:
        print(f"webstack-release: {failure}", file=sys.stderr)
        return 1
    for line in done:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

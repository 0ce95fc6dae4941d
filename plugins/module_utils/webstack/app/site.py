# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One application of this host: its releases, its processes, and whether they are up to date."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import pathlib
import socket
import sys
from typing import Any

from ..core.config import Settings, load
from .apache import held_by_apache, listeners, started, unit

#: Of a release that is complete.
MARKER = ".finished"
#: Of a release that has run; its time is when it did last.
RAN = ".ran"
CONFIGURATION = pathlib.Path("/etc/webstack")


def refuse(error: OSError) -> None:
    """Raise the error of os.walk: a folder that cannot be read is one, a folder that vanished meanwhile is not."""
    if not isinstance(error, FileNotFoundError):
        raise error


def changed(path: pathlib.Path, listing: bool = False) -> float:
    """Return when a file, a link, or the newest file below a directory was written; 0 if there is none.

    With `listing`, new and deleted files count too. A file that cannot be read is an error, not an old file.
    """
    try:
        newest = path.lstat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return 0.0
    if path.is_symlink() or not path.is_dir():
        return newest
    newest = newest if listing else 0.0
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                newest = max(newest, os.lstat(os.path.join(folder, name)).st_mtime)
    return newest


class Site:
    """One application of this host: what the role wrote about it, and what is there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.base = pathlib.Path("/srv/webstack") / name
        self.link = self.base / "current"
        path = CONFIGURATION / name / "release.json"
        # There are none before the role has run for the first time.
        self.settings = dict(load(path, "was_django")) if path.exists() else {}

    def setting(self, name: str) -> Any:
        return Settings(self.settings, str(CONFIGURATION / self.name / "release.json"))[name]

    def release(self, identity: str) -> pathlib.Path:
        return self.base / "releases" / identity

    def current(self) -> str | None:
        return os.path.basename(os.readlink(self.link)) if self.link.is_symlink() else None

    def python(self, identity: str) -> pathlib.Path:
        """Return where a release has its settings and its entry."""
        own = self.release(identity) / "python"
        # Releases that an earlier version of the role built share theirs.
        return own if own.is_dir() else CONFIGURATION / self.name / "python"

    def of_release(self, name: str, identity: str | None = None) -> Any:
        """Return how a release wants to be asked, the current one if none is named."""
        one = identity or self.current()
        path = self.release(one) / "checks.json" if one else None
        if path is None or not path.exists():
            return [] if name == "smoke_checks" else self.setting(name)
        return Settings(load(path, "was_django"), str(path))[name]

    def ran_mark(self, identity: str) -> pathlib.Path:
        """Return the file whose time is when a release ran last."""
        release = self.release(identity)
        # Nobody knows whether a release of an earlier version of the role ran. All of them count as such.
        return release / (RAN if (release / "environment").exists() else MARKER)

    def ran(self, identity: str) -> float:
        """Return when a release ran last, 0 if it never did."""
        mark = self.ran_mark(identity)
        return mark.stat().st_mtime if mark.exists() else 0.0

    def finished(self) -> list[str]:
        """Return the complete releases. Those that ran last come first, those that never ran come last."""
        markers = {path.parent.name: path.stat().st_mtime for path in self.base.glob(f"releases/*/{MARKER}")}
        return sorted(markers, key=lambda one: (self.ran(one), markers[one]), reverse=True)

    def others(self) -> list[Site]:
        """Return the other applications of this host."""
        names = [path.parent.name for path in sorted(CONFIGURATION.glob("*/release.json"))]
        return [Site(name) for name in names if name != self.name]

    def taken(self, addresses: list[str], port: int) -> list[str]:
        """Return why Apache could not listen there, or nothing. It would not come back from a restart then."""
        problems = [
            f"port {port} belongs to the application {o.name}" for o in self.others() if o.setting("port") == port
        ]
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    problems.append(f"Apache cannot listen on {address} port {port}: {error.strerror or error}")
                elif listeners(address, port) - held_by_apache():
                    problems.append(f"another program listens on {address} port {port}")
        return problems

    def migrated(self) -> list[str]:
        """Return the file that says which release has migrated which database from this host."""
        return [f"{path.parent.name}/{path.name}" for path in self.base.glob("releases/*/.migrated-*")]

    def processes(self) -> list[int]:
        title = f"(wsgi:{self.name})".encode()
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes().startswith(title):
                    found.append(int(path.parent.name))
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
        return sorted(found)

    def stale_processes(self) -> list[int]:
        """Return the processes that began before the last change, the newest first."""
        watched = [self.link, *(pathlib.Path(path) for path in self.setting("watch"))]
        newest = max(changed(path) for path in watched)
        since = {pid: started(pid) for pid in self.processes()}
        old = [(moment, pid) for pid, moment in since.items() if moment is not None and moment < newest]
        return [pid for _moment, pid in sorted(old, reverse=True)]

    def stale_apache(self, state: dict[str, str]) -> bool:
        """Say whether Apache has to restart: its files changed, its main process is unknown, or none of ours runs."""
        since = started(int(state["MainPID"])) if state["MainPID"] != "0" else None
        if since is None or not self.processes():
            return True
        return any(changed(pathlib.Path(path), listing=True) > since for path in self.setting("apache_files"))

    def ask(self) -> tuple[int, str, int, str]:
        """Ask the health address. Return (status, release, process, body), with status 0 for no answer."""
        connection = http.client.HTTPConnection(self.setting("address"), self.setting("port"), timeout=5)
        try:
            headers = {"Host": self.of_release("health_host")}
            connection.request("GET", self.of_release("health_path"), headers=headers)
            answer = connection.getresponse()
            body = answer.read(2000).decode(errors="replace")
            release, pid = answer.getheader("X-Webstack-Release", ""), answer.getheader("X-Webstack-Process", "0")
            return answer.status, release, int(pid), body
        except (OSError, ValueError, http.client.HTTPException) as error:
            return 0, "", 0, str(error)
        finally:
            connection.close()

    def status(self, addresses: list[str], port: int | None) -> dict[str, Any]:
        state = unit()
        active = state.get("ActiveState") == "active"
        answer = self.ask() if active and self.settings else (0, "", 0, "")
        return {
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "processors": len(os.sched_getaffinity(0)),
            "enabled": state.get("UnitFileState") == "enabled",
            "taken": self.taken(addresses, port) if port else [],
            "active": active,
            "healthy": answer[0] == 200,
            "running": answer[1] or None,
            "current": self.current(),
            "releases": self.finished(),
            "ran": [one for one in self.finished() if self.ran(one)],
            "migrated": self.migrated(),
            "stale": bool(active and self.settings and (self.stale_apache(state) or self.stale_processes())),
        }

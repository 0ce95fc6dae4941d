#!/usr/bin/python3 -I
"""Releases of an application on this host: what runs, switch to another one, put the old one back.

  webstack-release NAME status          what is here and what runs, as JSON; changes nothing
  webstack-release NAME begin ID        make a fresh place for a release, without what an earlier build left there
  webstack-release NAME environment ID PYTHON
                                        make the virtual environment of a release
  webstack-release NAME run COMMAND...  run a step of the build, with a umask and an environment that never differ
  webstack-release NAME finish ID       mark a built release as complete
  webstack-release NAME activate [ID]   run this release (default: the current one), check it, else go back

Apache is never reloaded: that breaks every request that takes longer than a moment. A new release or new
settings replace the daemon processes one at a time, each when its requests have ended (SIGUSR1). Changed
files of Apache itself need a restart, which lets requests end too but refuses new ones for that long.

What could not be observed is never taken for "nothing to do": an Apache whose main process systemd does not know
is restarted, and a question that got no answer ends the command.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import http.client
import ipaddress
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SERVICE = "apache2.service"
MARKER = ".finished"
CONFIGURATION = pathlib.Path("/etc/webstack")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PID_FILE = pathlib.Path("/run/apache2/apache2.pid")
# GracefulShutdownTimeout of the role is 30 s.
GRACE_SECONDS = 45
# What a login, a locale or another virtual environment leaves behind, and what would install elsewhere.
FOREIGN = ("PYTHON", "VIRTUAL_ENV", "DJANGO_", "LC_", "LANG", "XDG_", "SUDO_", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
FOREIGN_NAMES = frozenset({"TZ", "TMPDIR", "USER", "LOGNAME", "MAIL", "PIP_USER", "PIP_PYTHON", "PIP_DRY_RUN"})
# What an empty virtual environment is made of: this Python, and the files that bring pip.
INGREDIENTS = """
import ensurepip, os, sys, sysconfig
folders = [sysconfig.get_config_var("WHEEL_PKG_DIR"), os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")]
files = [entry for folder in folders if folder and os.path.isdir(folder) for entry in os.scandir(folder)]
print(sys.executable, sys.version, sorted((file.path, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
"""
# A stop waits up to 45 s for requests (the unit's drop-in), and a start up to 90 s.
SYSTEMCTL_SECONDS = 180


class Failure(Exception):
    """What the caller reads, without a traceback."""


def surroundings() -> dict[str, str]:
    """The environment of a build: the same whoever calls, but for what a play says (a proxy, an index, flags)."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(FOREIGN) and name not in FOREIGN_NAMES
    }
    path = ":".join(dict.fromkeys([*SEARCH_PATH.split(":"), *filter(None, kept.get("PATH", "").split(":"))]))
    return {**kept, "PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def build(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=surroundings())
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split()) or f"exit code {done.returncode}"
        raise Failure(f"{' '.join(command[:3])}: {said[-1000:]}")
    return done.stdout


def systemctl(*arguments: str) -> str:
    command = ["systemctl", *arguments]
    environment = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=SYSTEMCTL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def unit() -> dict[str, str]:
    """What systemd knows about Apache. It answers for a unit that is not there too."""
    properties = ("ActiveState", "UnitFileState", "MainPID", "NeedDaemonReload")
    lines = systemctl("show", f"--property={','.join(properties)}", SERVICE).splitlines()
    state = dict(line.split("=", 1) for line in lines if "=" in line)
    # A unit that is not there has no UnitFileState.
    if lacking := [name for name in properties if name not in state and name != "UnitFileState"]:
        raise Failure(f"systemctl show {SERVICE} says nothing about {', '.join(lacking)}")
    return state


def refused_by_apache() -> list[str]:
    """Say what Apache has against its files; after a restart it would not come back."""
    command = ["apache2ctl", "configtest"]
    environment = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=environment, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{' '.join(command)}: {error}") from error
    return [] if done.returncode == 0 else [f"Apache refuses its files: {' '.join(done.stderr.split())}"]


def started(pid: int) -> float | None:
    """When a process started, in the time of the files; None when it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def refuse(error: OSError) -> None:
    """For a walk: what cannot be read is an error, what went meanwhile is not."""
    if not isinstance(error, FileNotFoundError):
        raise error


def changed(path: pathlib.Path, listing: bool = False) -> float:
    """When a file, a link, or a file below a directory was written; 0 when it is not there.

    With listing, a file that came or went counts too. What cannot be read is an error, not an old file.
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


def load(path: pathlib.Path) -> dict[str, Any]:
    """What the role wrote about an application; empty before it has written anything."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Failure(f"{path}: {error}; run the role again") from error
    if not isinstance(found, dict):
        raise Failure(f"{path} holds no settings; run the role again")
    return found


def held_by_apache() -> set[str]:
    """The sockets of all Apache processes."""
    held = set()
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.read_text().strip() == "apache2":
                for file in (path.parent / "fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        held.add(os.readlink(file))
    return held


def listeners(address: str, port: int) -> set[str]:
    """The sockets that listen on a port of an address, or of all of them, named as in /proc/PID/fd."""
    wanted = ipaddress.ip_address(address)
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = pathlib.Path("/proc/net", name).read_text().splitlines()[1:]
        except FileNotFoundError:  # a host without IPv6
            continue
        for fields in map(str.split, lines):
            where, _, number = fields[1].rpartition(":")
            if fields[3] != "0A" or int(number, 16) != port:
                continue
            # The kernel writes each 32 bits as a number of its own byte order.
            words = struct.unpack(f">{len(where) // 8}I", bytes.fromhex(where))
            here = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
            if (getattr(here, "ipv4_mapped", None) or here) == wanted or here.is_unspecified:
                found.add(f"socket:[{fields[9]}]")
    return found


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
        # The application's FILE_UPLOAD_PERMISSIONS may say something else, which is meant for uploads.
        os.chmod(f"/proc/self/fd/{handle}", 0o644)
    finally:
        os.close(handle)


def let_requests_end() -> None:
    """Stop an Apache whose main process systemd does not know: its own stop would kill requests at once."""
    try:
        pid = int(PID_FILE.read_text())
    except (FileNotFoundError, ValueError):
        return  # nobody to ask; systemd ends what is left
    environment = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}
    subprocess.run(["apache2ctl", "graceful-stop"], capture_output=True, check=False, env=environment, timeout=60)
    deadline = time.monotonic() + GRACE_SECONDS
    while started(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.1)


class Site:
    """One application of this host, as the role described it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.base = pathlib.Path("/srv/webstack") / name
        self.link = self.base / "current"
        self.settings = load(CONFIGURATION / name / "release.json")

    def setting(self, name: str) -> Any:
        if name not in self.settings:
            raise Failure(f"{CONFIGURATION / self.name / 'release.json'} lacks {name}; run the role again")
        return self.settings[name]

    # --- what is --------------------------------------------------------------------------------------

    def release(self, identity: str) -> pathlib.Path:
        return self.base / "releases" / identity

    def current(self) -> str | None:
        return os.path.basename(os.readlink(self.link)) if self.link.is_symlink() else None

    def finished(self) -> list[str]:
        """Complete releases, those that ran or were built last first."""
        markers = self.base.glob(f"releases/*/{MARKER}")
        return [path.parent.name for path in sorted(markers, key=lambda path: path.stat().st_mtime, reverse=True)]

    def others(self) -> list[Site]:
        """The other applications of this host."""
        names = [path.parent.name for path in sorted(CONFIGURATION.glob("*/release.json"))]
        return [Site(name) for name in names if name != self.name]

    def taken(self, addresses: list[str], port: int) -> list[str]:
        """Say why Apache could not listen there; after a restart it would not come back."""
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
        """What says which release has migrated which database from this host."""
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
        watched = [self.link, *(pathlib.Path(path) for path in self.setting("watch"))]
        newest = max(changed(path) for path in watched)
        since = {pid: started(pid) for pid in self.processes()}
        return [pid for pid, moment in since.items() if moment is not None and moment < newest]

    def stale_apache(self, state: dict[str, str]) -> bool:
        """Say whether Apache has to start anew: its files changed, its main process is unknown, or ours are missing."""
        since = started(int(state["MainPID"])) if state["MainPID"] != "0" else None
        if since is None or not self.processes():
            return True
        return any(changed(pathlib.Path(path), listing=True) > since for path in self.setting("apache_files"))

    def ask(self) -> tuple[int, str, int, str]:
        """Ask the health address: (status, release, process, body); status 0 when nobody answers."""
        connection = http.client.HTTPConnection(self.setting("address"), self.setting("port"), timeout=5)
        try:
            connection.request("GET", self.setting("health_path"), headers={"Host": self.setting("health_host")})
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
            "migrated": self.migrated(),
            "stale": bool(active and self.settings and (self.stale_apache(state) or self.stale_processes())),
        }

    # --- what changes ---------------------------------------------------------------------------------

    def begin(self, identity: str) -> list[str]:
        """Make a fresh place. What a build that was cut off left there had the surroundings of that run."""
        release = self.release(identity)
        if (release / MARKER).is_file():
            raise Failure(f"{identity} is complete already")
        left = [path for path in release.glob("*") if not path.name.startswith(".migrated-")]
        for path in left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in (release.parent, release, release / "src", release / "static"):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)
        # The application's until it is complete: it collects its static files there.
        shutil.chown(release / "static", self.setting("user"), self.setting("group"))
        return [f"began {identity} anew" if left else f"began {identity}"]

    def empty_environment(self, python: str) -> pathlib.Path:
        """A virtual environment with nothing but pip in it, kept for all releases: to unpack and compile pip is slow.

        Nobody ever installs anything there. Another Python or other files that bring pip make another one.
        """
        key = hashlib.sha256(build(python, "-I", "-c", INGREDIENTS).encode()).hexdigest()[:16]
        kept = self.base / f".environment-{key}"
        if not kept.is_dir():
            for old in self.base.glob(".environment-*"):
                shutil.rmtree(old)
            # Under its own name only when it is complete, and on the disk.
            new = self.base / f".environment-{key}.{os.getpid()}"
            build(python, "-m", "venv", str(new / "venv"))
            os.sync()
            new.rename(kept)
        return kept / "venv"

    def environment(self, identity: str, python: str) -> list[str]:
        """Make the virtual environment of a release: a copy of the empty one, whose files name the copy's own place."""
        made = self.release(identity) / "venv"
        # Another run may be making it, or doing away with an older one.
        with (CONFIGURATION / self.name / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            empty = self.empty_environment(python)
            shutil.copytree(empty, made, symlinks=True)
        here = re.compile(re.escape(os.fsencode(empty.parent)) + rb"(?:\.[0-9]+)?/venv")
        for path in (made / "pyvenv.cfg", *(made / "bin").iterdir()):
            if path.is_file() and not path.is_symlink():
                path.write_bytes(here.sub(lambda _: os.fsencode(made), path.read_bytes()))
        return [f"made the environment of {identity}"]

    def finish(self, identity: str) -> list[str]:
        """Keep the static files of every kept release in one place, then say that the release is complete."""
        release = self.release(identity)
        together = self.base / "static"
        for folder, _, names, handle in os.fwalk(release / "static", onerror=refuse, follow_symlinks=False):
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
        os.sync()  # a power cut must not leave a mark without the files
        (release / MARKER).touch()
        return [f"finished {identity}"]

    def load_beside(self, identity: str) -> None:
        """Load the release in a process of its own, as Apache will. One that does not load gets no request."""
        release = self.release(identity)
        python = str(release / "venv/bin/python")
        path = CONFIGURATION / self.name / "python"
        code = (
            f"import sys; sys.path[:0] = {[str(path), *self.setting('python_path')]!r}; import webstack_entry; "
            "sys.exit(webstack_entry._application is None)"
        )
        seconds = float(self.setting("health_timeout"))
        try:
            done = subprocess.run(
                [python, "-c", code],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                cwd=self.base,
                env={"PATH": SEARCH_PATH, "HOME": str(self.base), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
                timeout=seconds,
                user=self.setting("user"),
                group=self.setting("group"),
                extra_groups=[],
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(f"release {identity} does not load: {error}") from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise Failure(f"release {identity} does not load: {last.strip()[:300]}")

    def point(self, identity: str) -> None:
        new = self.base / ".current.new"
        new.unlink(missing_ok=True)
        new.symlink_to(f"releases/{identity}")
        os.replace(new, self.link)

    def wait(self, identity: str, process: int | None = None) -> None:
        """Wait for a healthy answer of this release, and of this very process when one is given."""
        limit = float(self.setting("health_timeout"))
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
                where = f"http://{self.setting('address')}:{self.setting('port')}{self.setting('health_path')}"
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
            with contextlib.suppress(ProcessLookupError):
                os.kill(old, signal.SIGUSR1)
            # A process may take `graceful` seconds to end its requests; then Apache starts the next one.
            deadline = time.monotonic() + float(self.setting("graceful")) + 30
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
        if state["NeedDaemonReload"] == "yes":
            systemctl("daemon-reload")
            state = unit()
        if state["ActiveState"] == "active" and not self.stale_apache(state):
            done = self.replace(identity)
        else:
            if problems := self.taken(self.setting("listen"), self.setting("port")) + refused_by_apache():
                raise Failure("; ".join(problems))
            neighbours = [site for site in self.others() if site.current() and site.ask()[0] == 200]
            done = ["restarted" if state["ActiveState"] == "active" else "started"]
            with contextlib.suppress(Failure):  # a unit that was never loaded has no failures to forget
                systemctl("reset-failed", SERVICE)
            if state["ActiveState"] == "active" and state["MainPID"] == "0":
                let_requests_end()
            # It starts an Apache that does not run, too.
            systemctl("restart", SERVICE)
            if unit()["MainPID"] == "0":
                raise Failure(f"systemd does not know the main process of {SERVICE}; see its PIDFile")
            for site in neighbours:
                site.wait(site.current() or "")
            # The entry of earlier versions, which Apache ran until now: it replaced processes when the file changed.
            (CONFIGURATION / self.name / "python/webstack_wsgi.py").unlink(missing_ok=True)
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
        # Nothing is at stake where the application does not answer now.
        if before is not None and (before != identity or self.stale_processes()) and self.ask()[0] == 200:
            self.load_beside(identity)
        if before != identity:
            self.point(identity)
            done.append(f"switched from {before} to {identity}")
        try:
            done += self.bring(identity)
        except (Failure, OSError) as failure:
            if before in (None, identity) or not (self.release(before) / MARKER).is_file():
                raise
            self.point(before)
            try:
                self.bring(before)
            except (Failure, OSError) as worse:
                raise Failure(f"{failure}; {before} was put back and does not answer either: {worse}") from failure
            raise Failure(f"{failure}; {before} is back") from failure
        if before != identity:
            # What ran last is what somebody may want back: it counts as newer than what never ran.
            for ran in (before, identity):
                if ran is not None and (self.release(ran) / MARKER).is_file():
                    os.utime(self.release(ran) / MARKER)
        return done + self.prune()

    def prune(self) -> list[str]:
        """Keep the current release and the newest ones; forget static files that no release has any more."""
        kept = {self.current(), *self.finished()[: max(1, int(self.setting("keep")))]}
        # A release without the marker may be in the making by somebody; after a day it is not.
        old = [
            path
            for path in self.base.glob("releases/*")
            if path.name not in kept and ((path / MARKER).is_file() or path.stat().st_mtime < time.time() - 86400)
        ]
        for path in old:
            shutil.rmtree(path)
        if old:
            self.tidy_static()
        return [f"removed {path.name}" for path in old]

    def tidy_static(self) -> None:
        """Forget the shared static files that went with the last release that had them."""
        together = self.base / "static"
        for folder, _, names in os.walk(together, onerror=refuse):
            for name in names:
                file = pathlib.Path(folder, name)
                if file.lstat().st_nlink > 1:
                    continue
                # It was linked from a release that is gone. An older one may have a file of the same name.
                same = file.relative_to(together)
                left = [
                    path for path in (self.release(one) / "static" / same for one in self.finished()) if path.exists()
                ]
                if left:
                    copy = file.with_name(f".{name}.new")
                    copy.unlink(missing_ok=True)
                    os.link(left[0], copy, follow_symlinks=False)
                    os.replace(copy, file)
                else:
                    file.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name of the application")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="what is here and what runs")
    status.add_argument("--listen", action="append", default=[], help="say also what keeps Apache from this address")
    status.add_argument("--port", type=int)
    commands.add_parser("begin", help="make a fresh place for a release").add_argument("id")
    environment = commands.add_parser("environment", help="make the virtual environment of a release")
    environment.add_argument("id")
    environment.add_argument("python")
    commands.add_parser("run", help="run a step of the build").add_argument("words", nargs=argparse.REMAINDER)
    commands.add_parser("finish", help="mark a release as complete").add_argument("id")
    commands.add_parser("activate", help="run a release").add_argument("id", nargs="?")
    options = parser.parse_args()
    if options.command == "run" and not options.words:
        parser.error("run: which command?")
    # Whoever calls: what is made here is for Apache and the application to read.
    os.umask(0o022)
    try:
        site = Site(options.name)
        match options.command:
            case "status":
                print(json.dumps(site.status(options.listen, options.port)))
                return 0
            case "run":
                os.execvpe(options.words[0], options.words, surroundings())
            case "begin":
                done = site.begin(options.id)
            case "environment":
                done = site.environment(options.id, options.python)
            case "finish":
                done = site.finish(options.id)
            case _:
                done = site.activate(options.id)
    except (Failure, OSError) as failure:
        print(f"webstack-release: {failure}", file=sys.stderr)
        return 1
    for line in done:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

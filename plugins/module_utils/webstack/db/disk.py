# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tests whether the server can write to its disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import select
import time
from typing import Any

from ..core import files
from ..core.mariadb import Session, quote
from .config import RUN, Config
from .data import PROBE

PROBE_LOCK = RUN / "probe.lock"
# The states of commits that hang.
STUCK_STATES = (
    "Commit", "Writing to binlog", "Waiting for prior transaction to commit", "Waiting for commit lock",
    "Waiting for backup lock", "Waiting for global read lock", "query end",
)  # fmt: skip
STUCK_SECONDS = 5
PROBE_BYTES = 1 << 20


def try_write(folder: pathlib.Path) -> str:
    """Write a small file as the account that owns the folder. Root can still write where the server no longer can."""
    try:
        owner = folder.stat()
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < PROBE_BYTES:
            # Do not use up the rest even for a moment, for the server may need it.
            return f"{os.strerror(errno.ENOSPC)} ({folder})"
        path = folder / PROBE
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            data = bytes(PROBE_BYTES)
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)
        finally:
            os.close(file)
            os.unlink(path)
    except OSError as error:
        return f"{error.strerror} ({folder})"
    return ""


def probe(folder: pathlib.Path, seconds: float) -> str:
    """Return why nothing can be written in this folder, or an empty text. If the disk hangs, only a child hangs."""
    files.folder(RUN)
    deadline = time.monotonic() + seconds
    hung = f"a write of {PROBE_BYTES // 1024} KB in {folder} did not end within {seconds:g} s"
    # The child holds the lock. While one hangs, no further one is started.
    lock = os.open(PROBE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return hung
                time.sleep(0.05)
        answer, child_end = os.pipe()
        child = os.fork()
        if child == 0:
            # The child must end here whatever happens, and run none of the parent's code.
            with contextlib.suppress(BaseException):
                os.write(child_end, (try_write(folder) or "ok").encode())
            os._exit(0)
        os.close(child_end)
        try:
            if not select.select([answer], [], [], max(0.1, deadline - time.monotonic()))[0]:
                return hung
            said = os.read(answer, 4096).decode(errors="replace")
        finally:
            os.close(answer)
        os.waitpid(child, 0)
        return "" if said == "ok" else said or f"the look at {folder} failed"
    finally:
        os.close(lock)


def data_folders(config: Config, session: Session | None) -> list[pathlib.Path]:
    """Return where this server has to write: one folder for each file system."""
    folders = [config.datadir]
    if session is not None:
        row = session.rows(
            "SELECT @@datadir AS data, @@log_bin_basename AS binlog, @@relay_log_basename AS relay,"
            " @@innodb_log_group_home_dir AS redo, @@innodb_data_home_dir AS space"
        )[0]
        data = pathlib.Path(row["data"] or config.datadir)
        folders = [data]
        folders += [(data / name).parent for key in ("binlog", "relay") if (name := row[key])]
        folders += [data / name for key in ("redo", "space") if (name := row[key])]
    systems: dict[int, pathlib.Path] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            systems.setdefault(folder.stat().st_dev, folder)
    return list(systems.values()) or [config.datadir]


def stuck_commits(session: Session) -> str:
    """Return the commits that have been waiting too long, for a disk or for something else."""
    listing = ", ".join(quote(state) for state in STUCK_STATES)
    row = session.rows(
        "SELECT COUNT(*) AS n, COALESCE(MAX(TIME), 0) AS seconds FROM information_schema.PROCESSLIST"
        f" WHERE COMMAND IN ('Query', 'Execute') AND TIME >= {STUCK_SECONDS} AND STATE IN ({listing})"
    )[0]
    return f"{row['n']} commits have been waiting for up to {row['seconds']} s" if row["n"] != "0" else ""


def disk_state(config: Config, session: Session | None, seconds: float = 3) -> dict[str, Any]:
    """Return whether this server can write, and how much room it has."""
    folders = data_folders(config, session)
    found = [why for folder in folders if (why := probe(folder, seconds))]
    free = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            room = os.statvfs(folder)
            free[str(folder)] = room.f_bavail * room.f_frsize
    if session is not None and not found:
        found = [why for why in [stuck_commits(session)] if why]
    return {"problem": "; ".join(found), "free_bytes": free}

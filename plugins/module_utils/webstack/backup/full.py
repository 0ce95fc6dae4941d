# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A repository that is full: how it shows, and how a run gets room there."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..core.errors import Problem
from ..core.run import Done
from .tools import last_message

if TYPE_CHECKING:
    from .repository import Repository

#: How a disk, a quota or an object store says that it is full.
NO_ROOM = re.compile(r"no space left|quota exceeded|insufficient storage|not enough space|quotaexceeded", re.IGNORECASE)
#: Bytes: some packs of restic, which it writes at the same time, and removes when they do not fit.
CROWDED = 64 << 20
#: A program that only waits uses no more of a processor, in hundredths of a second, until it is ended.
IDLE_TICKS = 5
#: How long it may wait: for a network, or ten minutes for a lock; and where the disk has no room, for which restic 0.14
#: waits in vain.
IDLE_SECONDS, CROWDED_SECONDS = 900.0, 30.0


class Full(Problem):
    """The repository has no room for what was to be stored."""


def failure(disk: pathlib.Path | None, done: Done) -> Problem:
    """Return why a backup was not stored. restic 0.14 may panic or hang on a full disk, and says nothing of it then."""
    why = f"restic backup failed with {done.code}: {last_message(done.err)}"
    return Full(why) if NO_ROOM.search(done.err + done.out) or is_crowded(disk) else Problem(why)


def is_crowded(disk: pathlib.Path | None) -> bool:
    """Say whether a repository on a disk has hardly any room."""
    if disk is None or not disk.is_dir():
        return False
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize < CROWDED


def store(repository: Repository, directory: pathlib.Path, tags: Sequence[str]) -> tuple[str, bool]:
    """Store the directory. In a full repository make room and try once more; say whether that was needed."""
    try:
        return repository.store(directory, tags), False
    except Full as full:
        retention = repository.config.flag("retention_enabled")
        kept = "the retention keeps all that is left" if retention else "the retention is off"
        try:
            make_room(repository, retention)
            return repository.store(directory, tags), True
        except Full:
            raise Full(f"the repository is full, and {kept}: {full}") from None
        except Problem as problem:
            raise Full(f"the repository is full ({full}), and no room can be made: {problem}") from None


def make_room(repository: Repository, retention: bool) -> None:
    """Remove what failed runs have left, and what the retention will not keep beside the coming backup.

    The newest backup stays, as do pinned ones and the newest proven one.
    """
    # A run that was killed has left its lock.
    repository.unlock()
    if retention:
        # It stands for the coming backup when restic counts hours and days, and is none: it lacks the site's tag.
        words = ("--host", "room", "--tag", repository.room_tag, "--stdin", "--stdin-filename", "/webstack-room")
        repository.must("backup", "--quiet", *words, text="room\n")
        repository.must("forget", "--quiet", *repository.old(coming=True))
    # Without a limit it would write the rest of a half used pack anew, for which there is no room either.
    repository.must("prune", "--quiet", "--max-repack-size", "0")


@contextlib.contextmanager
def ended_when_idle(disk: pathlib.Path | None, step: float = 10.0) -> Iterator[list[float]]:
    """Kill the programs that this process has started once they do nothing for too long; yield for how long they did.

    Seldom, restic 0.14 waits for itself for ever on a full disk.
    """
    over = threading.Event()
    ended: list[float] = []

    def watch() -> None:
        seen: dict[int, tuple[int, float]] = {}
        while not over.wait(step):
            now = time.monotonic()
            patience = CROWDED_SECONDS if is_crowded(disk) else IDLE_SECONDS
            for process, ticks in work().items():
                before, since = seen.get(process, (ticks, now))
                if ticks - before > IDLE_TICKS:
                    before, since = ticks, now
                seen[process] = before, since
                if now - since >= patience:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                        ended.append(now - since)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield ended
    finally:
        over.set()
        watcher.join()


def work() -> dict[int, int]:
    """Return the programs that this process has started, and how long each has used a processor, in ticks."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found[int(path.parent.name)] = int(fields[11]) + int(fields[12])
    return found

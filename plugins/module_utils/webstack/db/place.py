# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds out where the server's data lies, where copies of it go, and whether it can be exchanged there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import Problem

MOUNTS = pathlib.Path("/proc/self/mountinfo")
FSTAB = pathlib.Path("/etc/fstab")
#: If the data directory is a mount point, copies lie in this folder inside of it. Otherwise they lie beside it.
WORK = ".webstack"
#: `webstack db status` writes this file for a moment, to see whether the server could.
PROBE = ".webstack-probe"
#: An exchange leaves these where they are.
KEEP = (WORK, "lost+found", PROBE)


@dataclass(frozen=True)
class Place:
    """A data directory with its links resolved, and the folder on the same file system for copies of it."""

    data: pathlib.Path
    base: pathlib.Path

    def folder(self, pattern: str) -> pathlib.Path:
        """`{}.suffix` -> /var/lib/mysql.suffix, or /var/lib/mysql/.webstack/mysql.suffix on a mount point."""
        return self.base / pattern.format(self.data.name)

    def earlier(self) -> list[pathlib.Path]:
        """Return the copies that earlier seeds and restores have left."""
        name = re.escape(self.data.name)
        wanted = re.compile(rf"{name}\.(\d{{8}}-\d{{6}}|((before|failed)-)?restore-.+)")
        if not self.base.is_dir():
            return []
        return sorted(e for e in self.base.iterdir() if wanted.fullmatch(e.name) and e.is_dir())


def mounted() -> set[str]:
    """Return the mount points, including those of bind mounts, which os.path.ismount does not see."""
    found = set()
    for line in MOUNTS.read_text().splitlines():
        found.add(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4]))
    return found


def forgotten_mount(path: pathlib.Path, mounts: set[str]) -> str:
    """Return a mount point of /etc/fstab that contains `path` and is not mounted, or an empty text."""
    try:
        lines = FSTAB.read_text().splitlines()
    except FileNotFoundError:
        return ""
    for line in lines:
        words = line.split()
        if len(words) < 4 or words[0].startswith("#") or "noauto" in words[3].split(","):
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), words[1])
        holds = point != "/" and (pathlib.Path(point) == path or pathlib.Path(point) in path.parents)
        if holds and point not in mounts:
            return point
    return ""


def place(datadir: pathlib.Path) -> Place:
    """Return where the data and its copies are. Refuse a directory whose content cannot be exchanged."""
    data = pathlib.Path(os.path.realpath(datadir))
    mounts = mounted()
    missing = forgotten_mount(data, mounts)
    if missing:
        raise Problem(f"{missing} holds {datadir}, is in /etc/fstab and not mounted: mount it first")
    if not os.path.lexists(data):
        if datadir.is_symlink():
            raise Problem(f"{datadir} is a link to {data}, which does not exist: mount or make that directory first")
        if not data.parent.is_dir():
            raise Problem(f"{data.parent}, the parent of the data directory, does not exist: make or mount it first")
    elif not data.is_dir():
        raise Problem(f"{data} is no directory: move it away first")
    inner = sorted(m for m in mounts if m.startswith(f"{data}/"))
    if inner:
        raise Problem(
            f"{', '.join(inner)} is a mount point inside of {data}, which cannot be moved: unmount it first, or mount"
            " all of the data directory"
        )
    own = str(data) in mounts or os.path.ismount(data)
    return Place(data, data / WORK if own else data.parent)


def need_room(where: Place, needed: int) -> None:
    """Refuse if there is no room for the new data beside the old."""
    there = where.data if where.data.is_dir() else where.data.parent
    status = os.statvfs(there)
    if status.f_flag & os.ST_RDONLY:
        raise Problem(
            f"{there} is on a file system that is read-only: dmesg says why; mount it writable, then run again"
        )
    free = status.f_bavail * status.f_frsize
    if free >= needed:
        return
    text = f"{there} has {free >> 20} MiB free, and the new data needs {needed >> 20} MiB beside the old"
    earlier = where.earlier()
    if earlier:
        text += f". Earlier copies that nobody may need any more: {', '.join(map(str, earlier))}"
    raise Problem(
        f"{text}. Make room, or, when nothing in {where.data} is needed, stop its server and empty it; then run again"
    )


def size_of(directory: str, skip: Sequence[str] = ()) -> int:
    """Return the bytes in use below a directory, without the files whose path starts with one of `skip`."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            if not any(path.startswith(prefix) for prefix in skip):
                with contextlib.suppress(FileNotFoundError):
                    total += os.lstat(path).st_blocks * 512
    return total


def need_stopped(*folders: pathlib.Path) -> None:
    """Refuse if a server runs on one of these directories. It locks InnoDB's files, whoever has started it."""
    for folder in folders:
        path = folder / "ibdata1"
        if path.is_file():
            with path.open("r+b") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise Problem(f"a server is running on {folder}; it must be stopped first") from error


def make_work(folder: pathlib.Path, user: int, group: int) -> None:
    """Make the parent folder of a new copy. Inside of a data directory the server's account must be able to read it."""
    if folder.parent.name == WORK:
        # The server's account can write here, so there may be a link to anywhere.
        if not os.path.lexists(folder.parent):
            folder.parent.mkdir(mode=0o700)
        no_link(folder.parent)
        os.chown(folder.parent, user, group, follow_symlinks=False)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)


def no_link(folder: pathlib.Path) -> None:
    """Refuse a link, or anything else that is no folder. The server's account may have put it there."""
    if folder.is_symlink() or not folder.is_dir():
        raise Problem(f"{folder} is no directory of its own: move it away first, it was not made by this program")

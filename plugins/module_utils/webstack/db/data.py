# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The data directory of a server, and copies of it that mariadb-backup makes.

Backups see the data through this module only. What they need of `place`, `exchange` and `slices` is imported here for
them.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import re
import shutil
import stat
from collections.abc import Iterator, Sequence

from ..core import files
from ..core.errors import Problem
from ..pure.gtid import Position, binlog_position, replica_position
from .config import SYSTEM_SCHEMAS
from .exchange import Move, exchange, recover
from .place import KEEP, PROBE, Place, make_work, need_room, need_stopped, no_link, place, size_of
from .slices import Table, sums, tables

__all__ = [
    "KEEP", "PROBE", "Move", "Place", "Table", "exchange", "make_work", "need_room", "need_stopped", "no_link", "place",
    "recover", "size_of", "sums", "tables",
]  # fmt: skip

#: In a copy of data, until its server knows where in the history it stands.
UNPLACED = ".webstack-unplaced"
# mariadb-backup's own files have another prefix since MariaDB 11.
PREFIXES = ("mariadb_backup_", "xtrabackup_")
# Debian's note of the version that the system tables have. Without it, the next start upgrades them.
UPGRADED = ("mariadb_upgrade_info", "mysql_upgrade_info")


def led_astray(datadir: pathlib.Path, account: int) -> str:
    """Return a name in the data directory that leads to another account's file, or an empty text.

    mariadb-backup reads as root and follows links. So the copy would contain that file, and the server's account would
    own it there. Links to the account's own files are allowed: they are a way to use several disks.
    """

    def names(folder: str) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            yield from (entry.path for entry in entries)

    for top in names(str(datadir)):
        for path in (top, *(names(top) if os.path.isdir(top) else ())):
            with contextlib.suppress(FileNotFoundError):
                here, there = os.lstat(path), os.stat(path)
                second = there.st_nlink > 1 and not stat.S_ISDIR(there.st_mode)
                if there.st_uid != account and (stat.S_ISLNK(here.st_mode) or second):
                    return str(path)
    return ""


def carry_notes(old: pathlib.Path, new: pathlib.Path, patterns: Sequence[str]) -> None:
    """Copy small files that no backup contains. Refuse links, and wait for no pipe: another account writes here."""
    for pattern in patterns:
        for note in sorted(old.glob(pattern)):
            _copy_note(note, new / note.name)


def _copy_note(note: pathlib.Path, copy: pathlib.Path) -> None:
    wrong = f"{note} is no file of its own: look who put it there, and remove it"
    try:
        handle = os.open(note, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Problem(wrong) from error
    with os.fdopen(handle, "rb") as file:
        was = os.fstat(handle)
        if not stat.S_ISREG(was.st_mode):
            raise Problem(wrong)
        # A failed exchange may have left one.
        copy.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(copy, flags, 0o600), "wb") as target:
            shutil.copyfileobj(file, target)
            os.fchown(target.fileno(), was.st_uid, was.st_gid)
            os.fchmod(target.fileno(), stat.S_IMODE(was.st_mode))


def carry_over(old: pathlib.Path, new: pathlib.Path) -> None:
    """Copy Debian's notes from the old data directory, since no backup contains them.

    The note that the system tables were upgraded is copied only if the new data comes from a server of that version.
    Data of another version gets no note, so the next start upgrades it.
    """
    carry_notes(old, new, ["debian-*.flag"])
    came_from = re.search(r"^server_version = (\S+)", tool_file(new, "info"), re.MULTILINE)
    for name in UPGRADED:
        upgraded = (read_theirs(old / name) or "").strip()
        if came_from and upgraded and re.match(rf"{re.escape(upgraded)}(?!\d)", came_from[1]):
            carry_notes(old, new, [name])


# --- a copy of the data, made by mariadb-backup ------------------------------------------------------


def tool_file(copy: pathlib.Path, name: str) -> str:
    """Return the text of one of the tool's own files, under its old or new name, or an empty text."""
    return next((text for prefix in PREFIXES if (text := files.read(copy / (prefix + name)))), "")


def position(copy: pathlib.Path) -> Position:
    """Return the position of a copy. If it is of a replica without a binary log, this is the position of its source."""
    found = binlog_position(tool_file(copy, "binlog_info"))
    return found if found.gtid else found._replace(gtid=replica_position(tool_file(copy, "slave_info")))


def backup_position(stage: pathlib.Path) -> str:
    """Return the GTID of a primary's copy. It is empty if the primary never wrote anything."""
    if not tool_file(stage, "binlog_info"):
        names = ", ".join(f"{prefix}binlog_info" for prefix in PREFIXES)
        raise Problem(f"the backup has none of {names}: does the primary write a binary log?")
    return position(stage).gtid


def not_placed(copy: pathlib.Path) -> None:
    """Write into a copy that its server does not know its position yet. Agents neither open it nor link it."""
    files.write(copy / UNPLACED, "")


def is_placed(datadir: pathlib.Path) -> bool:
    return not os.path.lexists(datadir / UNPLACED)


def placed(datadir: pathlib.Path) -> None:
    """The server knows its position now."""
    files.remove(datadir / UNPLACED)


def schema_folders(datadir: pathlib.Path) -> list[str]:
    """Return the schemas on the disk; the server need not run."""
    if not datadir.is_dir():
        return []
    names = [e.name for e in datadir.iterdir() if e.is_dir() and not e.name.startswith((".", "#"))]
    return sorted(n for n in names if n.lower() not in SYSTEM_SCHEMAS and n != "lost+found")


def is_empty(datadir: pathlib.Path) -> bool:
    """Whether no server can start there, since there is nothing."""
    return not os.path.lexists(datadir / "ibdata1") and not schema_folders(datadir)


def server_account() -> tuple[int, int]:
    owner = pwd.getpwnam("mysql")
    return owner.pw_uid, owner.pw_gid


def make_ready(stage: pathlib.Path, datadir: pathlib.Path) -> None:
    """Give the new data to the server, with Debian's notes about the data's version."""
    carry_over(datadir, stage)
    give_to_server(stage)


def give_to_server(stage: pathlib.Path) -> None:
    """Make the server's account the owner. The directory itself comes last, so that no other account gets in before."""
    user, group = server_account()
    for folder, folders, names in os.walk(stage, topdown=False):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            os.chown(path, user, group, follow_symlinks=False)
            if not os.path.islink(path):
                os.chmod(path, 0o700 if name in folders else 0o660)
    os.chown(stage, user, group, follow_symlinks=False)


def read_theirs(path: pathlib.Path) -> str | None:
    """Read a file in the server's directory. Anything else, like a link, is None: the server's account writes there."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, errors="replace") as file:
        return file.read() if stat.S_ISREG(os.fstat(handle).st_mode) else None

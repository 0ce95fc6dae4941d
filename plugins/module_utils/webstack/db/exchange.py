# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exchanges the content of a stopped server's data directory for other data.

It moves entry by entry, so the data directory may be a mount point. Before each phase it writes a journal, outside of
the directory. If the exchange fails it is undone at once. If it is interrupted (power, SIGKILL), `recover` undoes it,
which also runs before the server starts. So the server finds the old data or the new, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from ..core import files, lock
from ..core.errors import Problem
from ..core.run import run
from .place import KEEP, WORK, Place, need_stopped, no_link

#: To copy terabytes between disks takes hours, and must not be ended on the way.
COPY_SECONDS = 86400
JOURNAL = pathlib.Path("/var/lib/webstack/db/data-swap.json")
Move = tuple[pathlib.Path, pathlib.Path]


def interrupted() -> dict[str, Any] | None:
    """Return the journal of an interrupted exchange, or None."""
    try:
        return dict(json.loads(JOURNAL.read_text()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Problem(f"{JOURNAL} cannot be read ({error}); compare it with the directories that it names") from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let only one exchange go on at a time, and hold signals such as SIGTERM back until it is done."""
    polite = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM}
    with lock.hold("data-swap", "an exchange of the data directory is under way", 0):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, polite)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sync(*folders: pathlib.Path) -> None:
    for folder in folders:
        if folder.is_dir():
            files.sync_folder(folder)


def _note(journal: dict[str, Any], phase: str) -> None:
    journal["phase"] = phase
    files.folder(JOURNAL.parent)
    files.write(JOURNAL, json.dumps(journal))


def _forget() -> None:
    os.unlink(JOURNAL)
    _sync(JOURNAL.parent)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _copying(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.copying")


def _move(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Rename it. If the file system cannot (layers of a container, another disk), copy it and return True."""
    try:
        os.rename(source, target)
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    partial = _copying(target)
    _remove(partial)
    try:
        run("cp", "--archive", "--reflink=auto", "--", str(source), str(partial), seconds=COPY_SECONDS)
    except Problem as problem:
        raise Problem(f"{source} can neither be renamed nor copied to {target}: {problem}") from None
    os.rename(partial, target)
    return True


def _pairs(journal: dict[str, Any], key: str) -> list[Move]:
    return [(pathlib.Path(source), pathlib.Path(target)) for source, target in journal[key]]


def _folders(journal: dict[str, Any], key: str) -> set[pathlib.Path]:
    return {path.parent for pair in _pairs(journal, key) for path in pair}


def exchange(
    where: Place, new: pathlib.Path, old: pathlib.Path, also: Sequence[Move] = (), bring: Sequence[Move] = ()
) -> None:
    """Move the content of the data directory to `old` and that of `new` in, or leave everything as it was.

    `also`: files elsewhere that leave with the old data. `bring`: files below `new` that go elsewhere.
    Afterwards the caller has to remove `old`, and what is left of `new`.
    """
    if interrupted() is not None:
        raise Problem(f"an earlier exchange was cut off ({JOURNAL}): undo it first, see 'recover'")
    if not where.data.exists():
        where.data.mkdir(mode=0o755)
    need_stopped(where.data)
    if where.base.name == WORK:
        no_link(where.base)
    if new.stat().st_dev != where.data.stat().st_dev:
        raise Problem(f"{new} is not on the file system of {where.data}")
    if old.exists():
        raise Problem(f"{old} exists already: move it away first")
    gone = {source for source, target in also}
    for _source, target in bring:
        if os.path.lexists(target) and target not in gone:
            raise Problem(f"{target} is in the way of the file that comes with {new}: move it away first")
    elsewhere = {new / source.relative_to(new).parts[0] for source, target in bring}
    goes = [(e, old / e.name) for e in sorted(where.data.iterdir()) if e.name not in KEEP]
    comes = [(e, where.data / e.name) for e in sorted(new.iterdir()) if e.name not in KEEP and e not in elsewhere]
    was = where.data.stat()
    journal: dict[str, Any] = {
        "data": str(where.data),
        "owner": [was.st_uid, was.st_gid, was.st_mode & 0o7777],
        # If the disk is not mounted later, an empty directory is seen there. Its inode is another one.
        "inode": was.st_ino,
        "new": str(new),
        "old": str(old),
        "out": [[str(a), str(b)] for a, b in [*goes, *also]],
        "in": [[str(a), str(b)] for a, b in [*bring, *comes]],
    }
    with _alone():
        _note(journal, "out")
        try:
            _forward(journal)
        except Exception as error:
            try:
                _undo(journal)
            except Exception as second:
                raise Problem(f"{error}; putting the old data back failed too: {_left(journal, second)}") from error
            raise Problem(f"{error}; the old data is in its place again") from error


def _left(journal: dict[str, Any], error: Exception) -> str:
    return (
        f"{error}. The old data lies partly in {journal['old']} and partly in {journal['data']}, the new in"
        f" {journal['new']}; {JOURNAL} lists what goes where. When the cause is gone, the next start of the server"
        " puts the old data back, and so does the command 'recover'; until then it refuses to start"
    )


def _forward(journal: dict[str, Any]) -> None:
    data, new, old = (pathlib.Path(journal[key]) for key in ("data", "new", "old"))
    owner = new.stat()
    # Root owns it until all is in it, so that no other account can put a link into it.
    old.mkdir(mode=0o700, parents=True)
    copied = []
    for source, target in _pairs(journal, "out"):
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if _move(source, target):
            copied.append(source)
    if copied:
        os.sync()
    _sync(*_folders(journal, "out"), old.parent)
    os.chown(old, owner.st_uid, owner.st_gid, follow_symlinks=False)
    # All of the old data is in `old` now, so the sources that were only copied can go.
    _note(journal, "clear")
    for source in copied:
        _remove(source)
    _sync(data)
    _note(journal, "in")
    copied = [source for source, target in _pairs(journal, "in") if _move(source, target)]
    if copied:
        os.sync()
    os.chown(data, owner.st_uid, owner.st_gid)
    data.chmod(data.stat().st_mode & 0o7777 | 0o700)
    _sync(*_folders(journal, "in"), data)
    _forget()


def _undo(journal: dict[str, Any]) -> None:
    """Undo an exchange. If this is interrupted too, it can be done again from the beginning."""
    old = pathlib.Path(journal["old"])
    if journal["phase"] == "in":
        for source, target in _pairs(journal, "in"):
            _remove(_copying(target))
            if os.path.lexists(source):
                # It was not moved yet, or only copied.
                _remove(target)
            elif os.path.lexists(target):
                # An operator may have removed the folder of the new data.
                source.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.rename(target, source)
        _sync(*_folders(journal, "in"))
        _note(journal, "clear")
    for home, kept in _pairs(journal, "out"):
        _remove(_copying(kept))
        if os.path.lexists(kept):
            if journal["phase"] == "out" and os.path.lexists(home):
                _remove(kept)
            else:
                _remove(home)
                _move(kept, home)
    data = pathlib.Path(journal["data"])
    user, group, mode = journal["owner"]
    os.chown(data, user, group)
    data.chmod(mode)
    _sync(*_folders(journal, "out"), data)
    _remove(old)
    _sync(old.parent)
    _forget()


def recover() -> str:
    """Undo an interrupted exchange. Return what was done as a sentence, or an empty text if there was none."""
    if interrupted() is None:
        return ""
    with _alone():
        # Look again: the exchange that held the lock may be done by now.
        journal = interrupted()
        if journal is None:
            return ""
        data, old = pathlib.Path(journal["data"]), pathlib.Path(journal["old"])
        if not data.is_dir() or data.stat().st_ino != journal["inode"]:
            raise Problem(f"an exchange of {data} was cut off, and {data} is not what it was: is its disk mounted?")
        need_stopped(data, old)
        try:
            _undo(journal)
        except Exception as error:
            raise Problem(f"an exchange of {data} was cut off and cannot be undone: {_left(journal, error)}") from error
    return f"an exchange of {data} was cut off; the old data is in its place again"

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exchange the content of a stopped server's data directory for another one.

It works entry by entry, so the data directory may be a mount point of its own. A journal outside of it is written
before each phase: an exchange that fails is undone at once, and one that is cut off (power, SIGKILL) is undone by
`recover`, which also runs before the server starts. So the data is the old or the new one, never a mixture.

Used on the hosts by webstack-db and webstack-backup, as /usr/local/lib/webstack/data_swap.py. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

JOURNAL = pathlib.Path("/var/lib/webstack/data-swap.json")
LOCK = pathlib.Path("/run/webstack/data-swap.lock")
MOUNTS = pathlib.Path("/proc/self/mountinfo")
FSTAB = pathlib.Path("/etc/fstab")
#: In a data directory that is a mount point: what lies beside the data otherwise.
WORK = ".webstack"
#: What webstack-db writes for a moment to see whether the server could.
PROBE = ".webstack-probe"
#: These stay where they are.
KEEP = (WORK, "lost+found", PROBE)

Move = tuple[pathlib.Path, pathlib.Path]


class SwapError(Exception):
    """Something that the operator can act on; its text names the directory and the next step."""


@dataclass(frozen=True)
class Place:
    """A data directory, links resolved, and the folder on its file system that holds new and old copies of it."""

    data: pathlib.Path
    base: pathlib.Path

    def folder(self, pattern: str) -> pathlib.Path:
        """`{}.suffix` -> /var/lib/mysql.suffix, or /var/lib/mysql/.webstack/mysql.suffix on a mount point."""
        return self.base / pattern.format(self.data.name)

    def earlier(self) -> list[pathlib.Path]:
        """Copies that earlier seeds and restores left."""
        name = re.escape(self.data.name)
        wanted = re.compile(rf"{name}\.(\d{{8}}-\d{{6}}|((before|failed)-)?restore-.+)")
        if not self.base.is_dir():
            return []
        return sorted(e for e in self.base.iterdir() if wanted.fullmatch(e.name) and e.is_dir())


# --- what is ----------------------------------------------------------------------------------------


def mounted() -> set[str]:
    """Mount points. Also those of bind mounts, which os.path.ismount does not see."""
    found = set()
    for line in MOUNTS.read_text().splitlines():
        found.add(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4]))
    return found


def forgotten_mount(path: pathlib.Path, mounts: set[str]) -> str:
    """A mount point of /etc/fstab that holds `path` and is not mounted."""
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
    """Where the data and its copies are. Refuses a directory whose content cannot be exchanged."""
    data = pathlib.Path(os.path.realpath(datadir))
    mounts = mounted()
    missing = forgotten_mount(data, mounts)
    if missing:
        raise SwapError(f"{missing} holds {datadir}, is in /etc/fstab and not mounted: mount it first")
    if not os.path.lexists(data):
        if datadir.is_symlink():
            raise SwapError(f"{datadir} is a link to {data}, which does not exist: mount or make that directory first")
        if not data.parent.is_dir():
            raise SwapError(f"{data.parent}, the parent of the data directory, does not exist: make or mount it first")
    elif not data.is_dir():
        raise SwapError(f"{data} is no directory: move it away first")
    inner = sorted(m for m in mounts if m.startswith(f"{data}/"))
    if inner:
        raise SwapError(
            f"{', '.join(inner)} is a mount point inside of {data}, which cannot be moved: unmount it first, or mount"
            " all of the data directory"
        )
    own = str(data) in mounts or os.path.ismount(data)
    return Place(data, data / WORK if own else data.parent)


def need_room(where: Place, needed: int) -> None:
    """Refuse when the new data has no room beside the old."""
    there = where.data if where.data.is_dir() else where.data.parent
    status = os.statvfs(there)
    if status.f_flag & os.ST_RDONLY:
        raise SwapError(
            f"{there} is on a file system that is read-only: dmesg says why; mount it writable, then run again"
        )
    free = status.f_bavail * status.f_frsize
    if free >= needed:
        return
    text = f"{there} has {free >> 20} MiB free, and the new data needs {needed >> 20} MiB beside the old"
    earlier = where.earlier()
    if earlier:
        text += f". Earlier copies that nobody may need any more: {', '.join(map(str, earlier))}"
    raise SwapError(
        f"{text}. Make room, or, when nothing in {where.data} is needed, stop its server and empty it; then run again"
    )


def need_stopped(*folders: pathlib.Path) -> None:
    """InnoDB locks its files as long as the server lives, whoever started it."""
    for folder in folders:
        path = folder / "ibdata1"
        if path.is_file():
            with path.open("r+b") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise SwapError(f"a server is running on {folder}; it must be stopped first") from error


def make_work(folder: pathlib.Path, user: int, group: int) -> None:
    """Have the parent of a new copy. Inside of a data directory the server must be able to look into it."""
    if folder.parent.name == WORK:
        # The server's account may write beside it: what is there may be a link to anywhere.
        if not os.path.lexists(folder.parent):
            folder.parent.mkdir(mode=0o700)
        no_link(folder.parent)
        os.chown(folder.parent, user, group, follow_symlinks=False)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)


def no_link(folder: pathlib.Path) -> None:
    """Refuse a folder in the place of which the server's account put something else."""
    if folder.is_symlink() or not folder.is_dir():
        raise SwapError(f"{folder} is no directory of its own: move it away first, it was not made by this program")


def led_astray(datadir: pathlib.Path, account: int) -> str:
    """Return a name in the data directory that leads to somebody else's file; empty when there is none.

    mariadb-backup reads as root and follows links: what one leads to would become the server's account's with the next
    server that starts on the copy. Links to the account's own files are a way to use several disks.
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
                    return path
    return ""


def carry_notes(old: pathlib.Path, new: pathlib.Path, patterns: Sequence[str]) -> None:
    """Copy small files that no backup contains: no link of the server's account is followed, no pipe waited for."""
    for pattern in patterns:
        for note in sorted(old.glob(pattern)):
            _copy_note(note, new / note.name)


def _copy_note(note: pathlib.Path, copy: pathlib.Path) -> None:
    wrong = f"{note} is no file of its own: look who put it there, and remove it"
    try:
        handle = os.open(note, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SwapError(wrong) from error
    with os.fdopen(handle, "rb") as file:
        was = os.fstat(handle)
        if not stat.S_ISREG(was.st_mode):
            raise SwapError(wrong)
        # Of an exchange that failed.
        copy.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(copy, flags, 0o600), "wb") as target:
            shutil.copyfileobj(file, target)
            os.fchown(target.fileno(), was.st_uid, was.st_gid)
            os.fchmod(target.fileno(), stat.S_IMODE(was.st_mode))


def interrupted() -> dict[str, Any] | None:
    """The journal of an exchange that was cut off."""
    try:
        return dict(json.loads(JOURNAL.read_text()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SwapError(f"{JOURNAL} cannot be read ({error}); compare it with the directories that it names") from error


# --- the exchange -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One exchange at a time, and none is cut off by a polite signal."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    polite = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM}
    with LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SwapError(f"an exchange of the data directory is under way ({LOCK} is held)") from None
        before = signal.pthread_sigmask(signal.SIG_BLOCK, polite)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sync(*folders: pathlib.Path) -> None:
    for folder in folders:
        if folder.is_dir():
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _note(journal: dict[str, Any], phase: str) -> None:
    journal["phase"] = phase
    JOURNAL.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = JOURNAL.with_suffix(".new")
    with new.open("w") as file:
        json.dump(journal, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, JOURNAL)
    _sync(JOURNAL.parent)


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
    """Rename. Where the file system cannot (layers of a container, another disk): copy, leave the source, say True."""
    try:
        os.rename(source, target)
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    partial = _copying(target)
    _remove(partial)
    command = ["cp", "--archive", "--reflink=auto", "--", str(source), str(partial)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SwapError(f"{source} can neither be renamed nor copied to {target}: {done.stderr.strip()}")
    os.rename(partial, target)
    return True


def _pairs(journal: dict[str, Any], key: str) -> list[Move]:
    return [(pathlib.Path(source), pathlib.Path(target)) for source, target in journal[key]]


def _folders(journal: dict[str, Any], key: str) -> set[pathlib.Path]:
    return {path.parent for pair in _pairs(journal, key) for path in pair}


def exchange(
    where: Place, new: pathlib.Path, old: pathlib.Path, also: Sequence[Move] = (), bring: Sequence[Move] = ()
) -> None:
    """Move the content of the data directory to `old` and that of `new` in, or leave all as it was.

    `also`: files from elsewhere that go out with the old data; `bring`: files below `new` that belong elsewhere.
    The caller owns `new` (what is left of it) and `old` afterwards.
    """
    if interrupted() is not None:
        raise SwapError(f"an earlier exchange was cut off ({JOURNAL}): undo it first, see 'recover'")
    if not where.data.exists():
        where.data.mkdir(mode=0o755)
    need_stopped(where.data)
    if where.base.name == WORK:
        no_link(where.base)
    if new.stat().st_dev != where.data.stat().st_dev:
        raise SwapError(f"{new} is not on the file system of {where.data}")
    if old.exists():
        raise SwapError(f"{old} exists already: move it away first")
    gone = {source for source, target in also}
    for _source, target in bring:
        if os.path.lexists(target) and target not in gone:
            raise SwapError(f"{target} is in the way of the file that comes with {new}: move it away first")
    elsewhere = {new / source.relative_to(new).parts[0] for source, target in bring}
    goes = [(e, old / e.name) for e in sorted(where.data.iterdir()) if e.name not in KEEP]
    comes = [(e, where.data / e.name) for e in sorted(new.iterdir()) if e.name not in KEEP and e not in elsewhere]
    was = where.data.stat()
    journal: dict[str, Any] = {
        "data": str(where.data),
        "owner": [was.st_uid, was.st_gid, was.st_mode & 0o7777],
        # Tells the directory from the empty one that is seen there while its disk is not mounted.
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
                raise SwapError(f"{error}; putting the old data back failed too: {_left(journal, second)}") from error
            raise SwapError(f"{error}; the old data is in its place again") from error


def _left(journal: dict[str, Any], error: Exception) -> str:
    return (
        f"{error}. The old data lies partly in {journal['old']} and partly in {journal['data']}, the new in"
        f" {journal['new']}; {JOURNAL} lists what goes where. When the cause is gone, the next start of the server"
        " puts the old data back, and so does the command 'recover'; until then it refuses to start"
    )


def _forward(journal: dict[str, Any]) -> None:
    data, new, old = (pathlib.Path(journal[key]) for key in ("data", "new", "old"))
    owner = new.stat()
    # Root's until all is in it: nobody else can put a link into it meanwhile.
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
    # From here on all of the old data is in `old`, so what was only copied can go.
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
    """Every step can be done again after it was cut off."""
    old = pathlib.Path(journal["old"])
    if journal["phase"] == "in":
        for source, target in _pairs(journal, "in"):
            _remove(_copying(target))
            if os.path.lexists(source):
                # Not moved yet, or copied.
                _remove(target)
            elif os.path.lexists(target):
                # Somebody may have cleaned up what was left of the new data.
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
    """Undo an exchange that was cut off. Returns what was done, in words; empty when there was nothing to do."""
    if interrupted() is None:
        return ""
    with _alone():
        # Again: whoever held the lock may have ended.
        journal = interrupted()
        if journal is None:
            return ""
        data, old = pathlib.Path(journal["data"]), pathlib.Path(journal["old"])
        if not data.is_dir() or data.stat().st_ino != journal["inode"]:
            raise SwapError(f"an exchange of {data} was cut off, and {data} is not what it was: is its disk mounted?")
        need_stopped(data, old)
        try:
            _undo(journal)
        except Exception as error:
            raise SwapError(
                f"an exchange of {data} was cut off and cannot be undone: {_left(journal, error)}"
            ) from error
    return f"an exchange of {data} was cut off; the old data is in its place again"

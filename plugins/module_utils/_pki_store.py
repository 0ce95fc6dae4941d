# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The directory of the internal authority on the controller: find it, lock it, read it, write it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator

from ansible_collections.webstack.ha.plugins.module_utils import _authority, _pki

#: Whoever commits the inventory commits no key by the way.
IGNORE = "# Keys of the internal authority: never under version control.\n*\n"

#: Another fork or run holds the directory while it makes a certificate.
LOCK_SECONDS = 300


def absolute(path: str) -> str:
    """Return a directory by its one name, so that two names of it are no two directories."""
    return os.path.realpath(os.path.expanduser(path))


def take(handle: int, directory: str, kind: int = fcntl.LOCK_EX) -> None:
    """Lock a directory that is open; a run that has held it for minutes hangs, or waits for somebody at a terminal."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise ValueError(f"another run has held {directory} for {LOCK_SECONDS} s: end it") from None
            time.sleep(0.02)


def directory_error(path: object) -> str | None:
    """Say why a text cannot name the directory of the authority."""
    error = _authority.directory_error(path)
    if error:
        return error
    where = os.path.normpath("/" + os.path.expanduser(str(path)).lstrip("/"))
    top = "/" + where.lstrip("/").split("/", 1)[0]
    if not os.path.isdir(top):
        return f"{path}: there is no {top}: is a variable in it empty?"
    if os.path.lexists(where) and not os.path.isdir(where):
        return f"{path} is no directory"
    return None


def look(path: str) -> _authority.Store:
    """Return which authority a directory holds. Nothing is written."""
    store = Store(path, writable=False)
    try:
        with store.locked():
            pair = store.read("ca")
            if pair is None:
                return _authority.Store()
            _pki.check_ca(pair, store.path("ca", "crt"))
            return _authority.Store(_pki.identity(pair.certificate))
    except (ValueError, OSError) as exc:
        return _authority.Store(problem=str(exc))


def write_file(path: str, text: str, mode: int) -> None:
    """Replace a file at once: whoever reads it sees the old one or the new one, also after a power cut.

    What had its name is replaced, also when that is a link; nothing is written through one.
    """
    directory = os.path.dirname(path)
    handle, copy = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)  # mkstemp gives 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(handle, mode)
            file.flush()
            os.fsync(handle)
        os.replace(copy, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(copy)
        raise
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


class Store:
    """The directory with the authority and the certificates that it issued."""

    def __init__(self, directory: str, writable: bool) -> None:
        self.directory = directory
        self.writable = writable
        self.changed = False
        self.reasons: list[str] = []

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the forks of other hosts, and other runs, out."""
        if self.writable:
            os.makedirs(os.path.dirname(self.directory), exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory, 0o700)
        try:
            # The directory itself is the lock, so that nothing is left lying about.
            handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
        try:
            take(handle, self.directory, fcntl.LOCK_EX if self.writable else fcntl.LOCK_SH)
            if self.writable and stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
                os.fchmod(handle, 0o700)
                self.changed = True
                self.reasons.append(f"{self.directory} was open to others")
            yield
        finally:
            os.close(handle)

    def path(self, name: str, suffix: str) -> str:
        return os.path.join(self.directory, f"{name}.{suffix}")

    def read(self, name: str) -> _pki.Pair | None:
        """Return a stored pair; None when neither file is there."""
        found: dict[str, bytes] = {}
        for suffix in ("crt", "key"):
            try:
                with open(self.path(name, suffix), "rb") as file:
                    found[suffix] = file.read()
            except FileNotFoundError:
                continue
        if not found:
            return None
        for suffix, other in (("crt", "key"), ("key", "crt")):
            if suffix not in found:
                raise ValueError(f"{self.path(name, suffix)} is missing beside {self.path(name, other)}")
        return _pki.load(found["crt"], found["key"], self.path(name, "crt"), self.path(name, "key"))

    def write(self, name: str, pair: _pki.Pair, reason: str) -> None:
        """Keep a pair; without the right to write only take note of it."""
        self.changed = True
        self.reasons.append(f"{name}: {reason}")
        if not self.writable:
            return
        if not os.path.lexists(self.path("", "gitignore")):
            write_file(self.path("", "gitignore"), IGNORE, 0o644)
        for suffix, text, mode in (("key", pair.key_pem, 0o600), ("crt", pair.certificate_pem, 0o644)):
            write_file(self.path(name, suffix), text, mode)

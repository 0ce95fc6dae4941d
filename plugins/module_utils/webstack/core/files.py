# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files that survive a power cut, in directories where another account may have put anything."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import pwd
import stat
from collections.abc import Iterator

from .errors import Problem


@contextlib.contextmanager
def as_account(name: str) -> Iterator[None]:
    """Work with the rights of an account only, and with root's again afterwards.

    An account can put a link anywhere in its own directories at any moment. With its rights we can only reach what it
    can reach itself, wherever the link leads. If the account no longer exists, there is no such danger.
    """
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def read(path: str | os.PathLike[str], folder: int | None = None, size: int = -1) -> str | None:
    """Return the text of a file, or None when there is none. Refuse a link, and do not wait for a pipe."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        kind = "is a link: not followed" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise Problem(f"{os.fspath(path)} {kind}: look who put it there, and remove it") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Problem(f"{os.fspath(path)} is no file: look who put it there, and remove it")
    with os.fdopen(handle, "rb") as file:
        return file.read(size).decode(errors="replace")


def write(path: str | os.PathLike[str], text: str, mode: int = 0o644) -> None:
    """Replace a file as a whole or not at all. The new content survives a power cut.

    The directory may belong to another account, so the new file first has a name that nobody can guess.
    The caller's umask and locale do not matter: the file has the mode that is asked for, and its text is UTF-8.
    """
    path = pathlib.Path(path)
    new = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text.encode(errors="surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def folder(path: pathlib.Path, mode: int = 0o755) -> pathlib.Path:
    """Have a directory; one that is there keeps its mode. New ones above it are for all, whatever the umask."""
    if not path.is_dir():
        folder(path.parent).joinpath(path.name).mkdir(exist_ok=True)
        path.chmod(mode)
    return path


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file so that a power cut does not bring it back. It is no error when there is none."""
    path = pathlib.Path(path)
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Problem(f"{path} cannot be removed: {error.strerror}") from error
    sync_folder(path.parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Write the names in a directory to the disk, so that a power cut does not undo a rename."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

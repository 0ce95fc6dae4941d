# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One at a time: a lock that says who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator

from . import files
from .errors import Busy

#: Only root may write here. In a directory like /tmp any account could take the lock.
FOLDER = pathlib.Path("/run/webstack")


@contextlib.contextmanager
def hold(name: str, purpose: str, seconds: float, folder: pathlib.Path | None = None) -> Iterator[int]:
    """Hold the lock of this name, and write down what for. Yields its handle, for a child that has to hold it too.

    Waits `seconds`, then raises a Busy with the words of whoever holds it. The lock goes with the process, however that
    ends.
    """
    place = folder or FOLDER
    files.folder(place)
    path = place / f"{name}.lock"
    # An account that can open the file can lock it. So only root can, whatever the umask.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "ab", 0) as file:
        _take(handle, path, seconds)
        with contextlib.suppress(OSError):  # a full disk takes no name, and keeps nobody from the lock
            file.truncate(0)
            file.write(f"{purpose} (process {os.getpid()}, since {time.strftime('%F %T')})".encode())
        try:
            yield handle
        finally:
            # Otherwise the next Busy would name us, although another command holds the lock.
            file.truncate(0)


def _take(handle: int, path: pathlib.Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise Busy(f"busy: {path.read_text().strip() or 'another command'}") from None
            time.sleep(0.1)

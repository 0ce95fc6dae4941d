# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the server, and says as what. Where an agent decides, nobody else can: its unit waits for this file."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from ..core import files, systemd, wait
from ..core.errors import Problem
from ..core.run import run
from .config import RUN

UNIT = "mariadb.service"
#: The unit's condition and its environment, see templates/mariadb-webstack.conf.j2.
PERMIT = RUN / "start.env"
#: Rows that no other server has acknowledged are cut off the binary log when a crashed server starts with it.
AS_REPLICA = "--init-rpl-role=SLAVE"
#: One that is killed is gone at once, but for a disk that hangs.
KILL_SECONDS = 10


@contextlib.contextmanager
def permit(as_replica: bool = False) -> Iterator[None]:
    """Let the unit start within this block."""
    files.folder(RUN)
    files.write(PERMIT, f"MYSQLD_OPTS={AS_REPLICA if as_replica else ''}\n")
    try:
        yield
    finally:
        files.remove(PERMIT)


def process() -> int:
    """Return the number of the server's process, 0 when there is none."""
    return int(systemd.show(UNIT, "MainPID")["MainPID"] or 0)


def state() -> str:
    return systemd.show(UNIT, "ActiveState")["ActiveState"]


def kill() -> None:
    """End the server at once: a polite stop would first commit what nobody has acknowledged."""
    if number := process():
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    if not wait.turned(lambda: state() in ("inactive", "failed"), KILL_SECONDS, 0.02):
        raise Problem(f"the server was killed and has not ended within {KILL_SECONDS} s: does its disk hang?")
    run("systemctl", "reset-failed", UNIT, seconds=30, check=False)


def packages_change() -> bool:
    """Whether dpkg is at work: it stops the server to replace it, and starts it again."""
    with contextlib.suppress(OSError):
        handle = os.open("/var/lib/dpkg/lock", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.lockf(handle, os.F_TEST, 0)
        except OSError:
            return True
        finally:
            os.close(handle)
    return False

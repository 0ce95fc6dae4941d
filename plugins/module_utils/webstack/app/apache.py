# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks about Apache: what systemd knows of it, whether its files are good, and on which addresses it listens."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pathlib
import struct
import time

from ..core import systemd
from ..core.run import run

SERVICE = "apache2.service"
PID_FILE = pathlib.Path("/run/apache2/apache2.pid")
# More than the role's GracefulShutdownTimeout of 30 s.
GRACE_SECONDS = 45


def unit() -> dict[str, str]:
    """Return what systemd knows about Apache. It answers even if the unit does not exist."""
    return systemd.show(SERVICE, "ActiveState", "UnitFileState", "MainPID", "NeedDaemonReload")


def refused_by_apache() -> list[str]:
    """Return why Apache refuses its files, or nothing. With such files it would not come back from a restart."""
    done = run("apache2ctl", "configtest", seconds=60, check=False)
    return [] if done.code == 0 else [f"Apache refuses its files: {' '.join(done.err.split())}"]


def started(pid: int) -> float | None:
    """Return when a process started, in the time of the files, or None when it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def held_by_apache() -> set[str]:
    """Return the sockets of all Apache processes."""
    held = set()
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.read_text().strip() == "apache2":
                for file in (path.parent / "fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        held.add(os.readlink(file))
    return held


def listeners(address: str, port: int) -> set[str]:
    """Return the sockets that listen on a port of this address, or of all addresses, named as in /proc/PID/fd."""
    wanted = ipaddress.ip_address(address)
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = pathlib.Path("/proc/net", name).read_text().splitlines()[1:]
        except FileNotFoundError:  # a host without IPv6
            continue
        for fields in map(str.split, lines):
            where, _, number = fields[1].rpartition(":")
            if fields[3] != "0A" or int(number, 16) != port:
                continue
            # The kernel writes the address in groups of 32 bits, each in the byte order of this machine.
            words = struct.unpack(f">{len(where) // 8}I", bytes.fromhex(where))
            here = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
            if (getattr(here, "ipv4_mapped", None) or here) == wanted or here.is_unspecified:
                found.add(f"socket:[{fields[9]}]")
    return found


def let_requests_end() -> None:
    """Stop an Apache whose main process systemd does not know. `systemctl stop` would kill its requests at once."""
    try:
        pid = int(PID_FILE.read_text())
    except (FileNotFoundError, ValueError):
        return  # nobody to ask; systemd ends what is left
    run("apache2ctl", "graceful-stop", seconds=60, check=False)
    deadline = time.monotonic() + GRACE_SECONDS
    while started(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.1)

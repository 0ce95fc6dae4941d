# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Counts the connections of nginx to the servers, as the kernel knows them."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import pathlib
import pwd
import sys

from .state import Config


def connections() -> dict[tuple[str, int], int]:
    """Count nginx's connections by address and port of the far end.

    Idle connections that workers keep open count, too. After a reload, old workers close theirs at once, so only those
    with requests are left. The owner of the socket tells nginx's connections from those of the probes.
    """
    try:
        owner = str(pwd.getpwnam("www-data").pw_uid)
    except KeyError:
        return {}
    counts: dict[tuple[str, int], int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table) as file:
            next(file)
            for line in file:
                _, _, far, state, _, _, _, uid, *_ = line.split()
                # ESTABLISHED, SYN_SENT, CLOSE_WAIT
                if uid == owner and state in ("01", "02", "08"):
                    key = far_end(far)
                    counts[key] = counts.get(key, 0) + 1
    return counts


@functools.cache
def far_end(text: str) -> tuple[str, int]:
    """Read an address like `0100007F:1F40`. Each group of four bytes is in the byte order of this machine."""
    number, port = text.split(":")
    groups = [bytes.fromhex(number[start : start + 8]) for start in range(0, len(number), 8)]
    packed = b"".join(group[::-1] if sys.byteorder == "little" else group for group in groups)
    return str(ipaddress.ip_address(packed)), int(port, 16)


def open_connections(settings: Config, name: str) -> int:
    counts = connections()
    ends = {
        (str(ipaddress.ip_address(s.address)), s.port)
        for site in settings.sites
        for s in site.servers
        if s.name == name
    }
    return sum(counts.get(end, 0) for end in ends)


def old_workers() -> int:
    """Count the workers of earlier configurations. They end when their last request is done."""
    count = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            count += path.read_bytes().startswith(b"nginx: worker process is shutting down")
    return count

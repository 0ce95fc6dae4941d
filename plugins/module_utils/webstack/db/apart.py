# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps this host and a silent one apart for a moment, so that the server does not wait for it.

A replica that stops receiving first waits for a connection that is just being made (up to slave_net_timeout), and then
tells its source, which takes a second where nobody answers. The kernel knows at once that there is no way.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator

from ..core.errors import Problem
from ..core.run import Done, run
from .config import Node

#: By this we know a route as ours (`ip route show proto 77`).
PROTOCOL = "77"
SECONDS = 5.0


def route(word: str, peer: Node) -> Done:
    version = ipaddress.ip_address(peer.address).version
    prefix = f"{peer.address}/{32 if version == 4 else 128}"
    command = ["ip", f"-{version}", "route", word, "unreachable", prefix, "proto", PROTOCOL]
    return run(*command, seconds=SECONDS, check=False)


@contextlib.contextmanager
def apart(peer: Node) -> Iterator[None]:
    """Have no way to the other host within this block. Without the means for it, everything only takes longer."""
    try:
        with contextlib.suppress(Problem):
            route("add", peer)
            ended = ("--kill", "--tcp", "dst", peer.address, "dport", "=", str(peer.port))
            run("ss", *ended, seconds=SECONDS, check=False)
        yield
    finally:
        together(peer)


def together(peer: Node) -> None:
    """Have the way again, also after a service that was killed in such a moment."""
    route("del", peer)

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts and stops the server's unit, and waits for the server."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from ..core import lock, systemd
from ..core.errors import Problem
from ..core.run import Failed, run
from . import start
from .config import LOCK_PURPOSE, LOCK_SECONDS, Config
from .marker import marker
from .role import look, running_replica, wait_for
from .session import local_session

#: After a crash a server first reads its whole log. systemd has a limit of its own.
START_SECONDS = 3600


def systemctl(*arguments: str, as_replica: bool = False) -> None:
    """Let systemd do something. If the server does not start, the Problem has the first error of its journal."""
    allowed = start.permit(as_replica) if arguments[0] in ("start", "restart") else contextlib.nullcontext()
    try:
        with allowed:
            systemd.tell(*arguments, seconds=START_SECONDS)
    except Failed as failed:
        said = run(
            *("journalctl", "--no-pager", "-n", "100", "-o", "cat", "-u", arguments[-1], "--since=-1min"),
            seconds=30,
            check=False,
        ).out
        # systemd only says that the start failed. The cause is the first error in the journal since that start.
        errors = re.findall(r"\[ERROR\] (.*)", said.rpartition("] Starting MariaDB ")[2])
        reason = errors[0] if errors else failed.done.err.strip()
        raise Problem(f"systemctl {' '.join(arguments)} failed: {reason}") from None


def restart_server(config: Config, seconds: float) -> None:
    """Restart MariaDB, and wait until it is what it was. Where a quorum decides, the other server writes meanwhile."""
    from .ask import set_aside

    with set_aside(config):
        _restart(config, seconds)


def _restart(config: Config, seconds: float) -> None:
    session = local_session(config)
    before = look(session)
    session.close()
    with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
        systemctl("restart", "mariadb.service")
    if before["replica"] is not None:
        wanted = running_replica if running_replica(before) else lambda seen: seen["replica"] is not None
        wait_for(config, seconds, "a running replica", wanted)
    elif not before["read_only"]:
        wait_for(config, seconds, "accepting writes again", lambda seen: not seen["read_only"])
    print("restarted")


def settle(config: Config, seconds: float) -> None:
    """Wait until a replica replicates, and until a primary accepts writes.

    Where a quorum decides, a replica also has to be counted on.
    """
    from .ask import said

    def good(seen: dict[str, Any]) -> bool:
        pair = said().get("state") if config.decided else None
        if pair and seen["replica"] is not None and pair["replica"] != config.node.name:
            return False
        return running_replica(seen) if seen["replica"] is not None else not seen["read_only"] or marker() is None

    wait_for(config, seconds, "a settled server", good)


def start_server() -> None:
    # Otherwise systemd counts earlier failed starts and may refuse this one.
    run("systemctl", "reset-failed", "mariadb.service", seconds=30, check=False)
    systemctl("start", "mariadb.service")


def start_again(ran: bool) -> str:
    """After a failure, start the server again if it ran before. Return a sentence about it."""
    if not ran:
        return "the server did not run before and is left like that"
    try:
        start_server()
    except Problem as error:
        return f"the server, which ran before, does not start: {error}; see journalctl -u mariadb"
    return "the server runs again as before"


def unit_states(*units: str) -> dict[str, dict[str, bool]]:
    states: dict[str, dict[str, bool]] = {}
    for unit in units:
        found = systemd.show(unit, "ActiveState", "UnitFileState")
        states[unit] = {
            "active": found["ActiveState"] in ("active", "activating", "reloading"),
            "enabled": found["UnitFileState"] == "enabled",
        }
    return states

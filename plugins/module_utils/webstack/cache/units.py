# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts and stops the units of servers and sentinels. If one does not start, it shows the end of its journal."""

from __future__ import annotations

from ..core import systemd
from ..core.errors import Problem
from ..core.run import Failed, run


def systemctl(*words: str) -> None:
    """Let systemd do something. The last word is the unit."""
    try:
        systemd.tell(*words)
    except Failed as failed:
        said = run("journalctl", "--no-pager", "-n", "12", "-o", "cat", "-u", words[-1], seconds=30, check=False).out
        raise Problem(f"systemctl {' '.join(words)} failed: {failed.done.err.strip()}\n{said.strip()}") from None


def active(unit: str) -> bool:
    """Say whether a unit runs. A unit that is starting counts too, since a server with much data starts slowly."""
    return systemd.show(unit, "ActiveState")["ActiveState"] in ("active", "activating", "reloading")


def enabled(unit: str) -> bool:
    """Say whether a unit starts at boot."""
    return systemd.is_enabled(unit)

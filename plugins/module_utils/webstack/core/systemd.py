# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks systemd about units, and starts and stops them. No answer is a Problem, never taken for "it does not run"."""

from __future__ import annotations

import contextlib
import os
import socket

from .errors import Problem
from .run import run

#: A stop may wait for requests to end, a start for a database that recovers.
SECONDS = 180


def show(unit: str, *properties: str) -> dict[str, str]:
    """Return properties of a unit. For a unit that does not exist systemd answers too, without UnitFileState."""
    lines = run("systemctl", "show", f"--property={','.join(properties)}", unit, seconds=30).out.splitlines()
    state = dict(line.split("=", 1) for line in lines if "=" in line)
    if lacking := [name for name in properties if name not in state and name != "UnitFileState"]:
        raise Problem(f"systemctl show {unit} says nothing about {', '.join(lacking)}")
    return {name: state.get(name, "") for name in properties}


def is_active(unit: str) -> bool:
    """Say whether a unit runs, as `systemctl is-active` does. A unit that is still starting does not run."""
    return show(unit, "ActiveState")["ActiveState"] in ("active", "reloading", "refreshing")


def is_enabled(unit: str) -> bool:
    """Say whether a unit starts at boot."""
    return show(unit, "UnitFileState")["UnitFileState"] == "enabled"


def tell(*words: str, seconds: float = SECONDS) -> None:
    """Let systemd start, stop, restart or reload a unit."""
    run("systemctl", *words, seconds=seconds)


def notify(text: str) -> None:
    """Tell systemd how this service is. If systemd does not listen, the service goes on."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.connect(f"\0{path[1:]}" if path.startswith("@") else path)
            line.sendall(text.encode())

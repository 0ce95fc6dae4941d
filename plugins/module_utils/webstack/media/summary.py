# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the sharing of uploads on this host."""

from __future__ import annotations

import pathlib

from ..core.summary import Summary
from .status import SYNCTHING, look

#: A file that only this engine has -> the engine's units.
ENGINES = {
    "syncthing.xml": [SYNCTHING],
    "rsyncd.conf": ["webstack-media-rsyncd.service", "webstack-media-pull.timer"],
}
SETTINGS = pathlib.Path("/etc/webstack/media")


def units() -> list[str]:
    return next((units for file, units in ENGINES.items() if (SETTINGS / file).exists()), [])


def lives_here() -> bool:
    return bool(units())


def summary() -> Summary:
    report, problems = look(units())
    away = sorted(name for name, there in report.get("hosts", {}).items() if not there)
    found = Summary("uploads are shared" if not problems else "uploads are not shared")
    if left := (report.get("folder") or {}).get("needFiles"):
        found.line += f", {left} files are on their way"
    for problem in problems:
        found.add("engine", problem)
    for name in away:
        found.add("peer_away", f"{name} is not connected")
    return found

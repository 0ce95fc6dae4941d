# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the backups of this host."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from ..core.summary import Summary
from ..core.table import age
from .state import KINDS, known

CONFIG = "/etc/webstack/backup.json"


def lives_here() -> bool:
    return pathlib.Path(CONFIG).exists()


def summary() -> Summary:
    return summary_of(known())


def summary_of(state: Mapping[str, Any]) -> Summary:
    """Put what the last runs left into one line, and say what is wrong with it."""
    said = []
    for kind in KINDS:
        last = state.get(kind, {}).get("success")
        said.append(f"{kind} {age(time.time() - last['finished'])} ago" if last else f"{kind} never here")
    found = Summary(f"last good: {', '.join(said)}")
    for kind in KINDS:
        if state.get(kind, {}).get("ok") is False:
            found.add(
                f"{kind}_failed", f"the last {kind} run failed: {state[kind]['failure'].get('reason', 'no word')}"
            )
    return found

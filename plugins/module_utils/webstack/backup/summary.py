# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the backups of this host."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from ..core.config import Settings, load
from ..core.summary import Summary
from ..core.table import age
from .state import KINDS, PROOF, known

CONFIG = "/etc/webstack/backup.json"


def lives_here() -> bool:
    return pathlib.Path(CONFIG).exists()


def summary() -> Summary:
    return summary_of(known(), proof_hours(load(CONFIG, "backup_slave")))


def proof_hours(config: Settings) -> int | None:
    """Return after how many hours without a proof somebody has to know; None where nothing is proven.

    A role that shares the program with this one may have brought a newer one than these settings.
    """
    return config.whole("proof_alarm_hours") if "proof_enabled" in config and config.flag("proof_enabled") else None


def summary_of(state: Mapping[str, Any], proof_hours: int | None = None) -> Summary:
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
    proof = state.get(PROOF, {})
    if proof.get("skipped"):
        # The host of the replica proves.
        return found
    last = proof.get("success")
    found.line += f", proven {age(time.time() - last['finished'])} ago" if last else ", none proven here"
    if proof.get("ok") is False:
        found.add("proof_failed", f"the last proof failed: {proof['failure'].get('reason', 'no word')}")
    since = last["finished"] if last else proof.get("since")
    if proof_hours is not None and since is not None and time.time() - since > proof_hours * 3600:
        found.add("unproven", f"no backup was proven for {age(time.time() - since)}: webstack backup prove")
    return found

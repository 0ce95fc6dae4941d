# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the database of this host counts, for a collector."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..core.metrics import Family, render


def metrics(state: Mapping[str, Any]) -> str:
    """Return the metrics of what `status` returned. What was not seen has no sample: 0 would say that all is well."""
    up = Family("up", "Whether the server answers.").add(state["running"])
    writable = Family("writable", "Whether the server accepts writes.")
    lag = Family("lag_seconds", "How far this replica is behind its source; without a sample while it does not know.")
    epoch = Family("epoch", "Number of the history that the quorum names.")
    alone = Family("unprotected_seconds", "How long no other host has held every row; 0 while one does.")
    rows = Family("unprotected_transactions", "How many transactions no other host has, as their writer counts them.")
    moved = Family("writer_changed_timestamp_seconds", "When the writer last changed.")
    if state["running"]:
        writable.add(not state["read_only"])
        if state["role"] == "replica" and state["replica"]["lag_seconds"] is not None:
            lag.add(state["replica"]["lag_seconds"])
    agent = state["agent"]
    if agent and agent["state"]:
        epoch.add(agent["state"]["epoch"])
        kept = agent.get("alone")
        alone.add(max(0, round(time.time() - kept["since"])) if kept else 0)
        if not kept:
            rows.add(0)
        elif kept["transactions"] is not None:
            rows.add(kept["transactions"])
    if agent and agent.get("last"):
        moved.add(agent["last"]["at"])
    return render("webstack_db", [one for one in (up, writable, lag, epoch, alone, rows, moved) if one.samples])

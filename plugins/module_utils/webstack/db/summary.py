# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the database server of this host."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..core.summary import Summary
from .config import CONFIG, Config
from .status import status


def lives_here() -> bool:
    return CONFIG.exists()


def own_metrics() -> str:
    from .metrics import metrics

    return metrics(status(Config(), detail=False))


def summary() -> Summary:
    return summary_of(status(Config(), detail=False))


def summary_of(state: Mapping[str, Any]) -> Summary:
    """Put a state into one line, and say what is wrong with it."""
    if not state["running"]:
        found = Summary("does not answer")
        if state["mode"] != "manual":
            _decided(found, state["agent"])
        found.add("silent", f"the server does not answer: {state['error']}")
        found.add("disk", state["disk"]["problem"])
        return found
    access = "read-only" if state["read_only"] else "accepts writes"
    found = Summary(f"{state['role']}, {access}")
    found.add("disk", state["disk"]["problem"] and f"cannot write: {state['disk']['problem']}")
    if state["role"] == "none":
        found.add("no_role", "it is read-only and replicates from nobody")
    if state["role"] == "primary" and state["read_only"]:
        found.add("closed", "it is the primary and accepts no writes; journalctl -u webstack-db says why")
    replica = state["replica"]
    if state["role"] == "replica":
        found.line += f" from {replica['source']}, lag {replica['lag_seconds']} s"
        stopped = " and ".join(word for word, runs in (("io", replica["io"]), ("sql", replica["sql"])) if not runs)
        found.add("replication", stopped and f"replication is stopped ({stopped}): {replica['error'] or 'no error'}")
    found.add("astray", state["astray"] and f"it is a replica and {state['astray']} (docs/database.md)")
    if different := state["drift"]["tables"]:
        names = ", ".join(one["title"] for one in different[:5]) + (" and others" if different[5:] else "")
        found.add("drift", f"its rows were other ones than the writer's when compared: {names} (docs/database.md)")
    compared = state["drift"]["compared_at"]
    old = compared is not None and time.time() - compared > OLD_COMPARISON_SECONDS
    found.add("drift_unknown", old and "the data of the two servers was last compared days ago")
    if state["mode"] != "manual":
        _decided(found, state["agent"])
    peer = state["peer"]
    if peer and not peer["reachable"]:
        found.add("peer_silent", f"{peer['name']} does not answer: {peer['error']}")
    return found


#: Rules that a person must know of, since nothing mends them by itself.
SAD = {
    "alone", "broken", "cut_off", "diverged", "needs_seed", "not_promoted", "no_value", "other_epoch", "seeds",
    "stranger", "suspended", "unfit", "unread", "waits_for_store",
}  # fmt: skip
#: An agent that has said nothing for so long does not run, or hangs.
SILENT_SECONDS = 15
#: The timer compares every day.
OLD_COMPARISON_SECONDS = 3 * 86400
#: Beyond this, nothing can be decided by what was read.
OLD_SECONDS = 5


def _decided(found: Summary, agent: Mapping[str, Any]) -> None:
    """Say what is wrong where a quorum decides."""
    if not agent or time.time() - agent["at"] > SILENT_SECONDS:
        found.add("agent_silent", "the agent says nothing: systemctl status webstack-db")
        return
    pair = agent["state"]
    if pair:
        found.line += f", epoch {pair['epoch']}"
    found.add(f"agent_{agent['rule']}", agent["rule"] in SAD and agent["why"])
    found.add("paused", agent["paused"] and "fail-over is paused: 'webstack db pause off' ends that")
    for host in agent["maintenance"]:
        found.add("maintenance", f"{host} is in maintenance: 'webstack db maintenance off' there ends that")
    age = agent["read_seconds_ago"]
    old = age is None or age > OLD_SECONDS
    found.add("no_quorum", old and "the quorum does not answer: a lost writer would not be replaced")
    found.add("agent_problem", agent["problem"])

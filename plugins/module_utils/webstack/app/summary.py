# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the applications of this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.summary import Finding, Summary
from .site import CONFIGURATION, Site


def names() -> list[str]:
    return sorted(path.parent.name for path in CONFIGURATION.glob("*/release.json"))


def lives_here() -> bool:
    return bool(names())


def summary() -> Summary:
    words, found = [], Summary("")
    for name in names():
        state = Site(name).status([], None)
        words.append(f"{name} {state['current'] or 'without a release'}")
        found.findings += findings_of(name, state)
    found.line = ", ".join(words)
    return found


def findings_of(name: str, state: Mapping[str, Any]) -> list[Finding]:
    """Say what is wrong with an application."""
    found = Summary("")
    if not state["active"]:
        found.add("apache", f"{name}: Apache does not run")
    elif not state["healthy"]:
        found.add("unhealthy", f"{name}: its health address does not answer well")
    elif state["running"] != state["current"]:
        found.add("other_release", f"{name}: {state['running']} answers, and {state['current']} is the current one")
    if state["stale"]:
        found.add("stale", f"{name}: its processes are older than its files; a run of the role replaces them")
    return found.findings

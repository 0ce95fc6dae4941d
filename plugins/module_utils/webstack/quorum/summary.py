# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The quorum as seen from this host in one line."""

from __future__ import annotations

from ..core.errors import Problem
from ..core.summary import Summary
from . import config, status, view


def lives_here() -> bool:
    return config.CONFIG.exists()


def own_metrics() -> str:
    """Return what this host sees of each member; nothing when its settings cannot be read, which the summary says."""
    try:
        settings = config.load()
    except Problem:
        return ""
    return status.own_metrics(settings, view.look(settings))


def summary() -> Summary:
    settings = config.load()
    return status.summary_of(settings, view.look(settings))

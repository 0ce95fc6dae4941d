# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the certificates of this balancer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.summary import Summary
from .balancer import CONFIG, Balancer


def lives_here() -> bool:
    return CONFIG.exists()


def summary() -> Summary:
    return summary_of(Balancer().rows())


def summary_of(rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Put what there is to say about each certificate into one line, and say what is wrong."""
    days = [row["days"] for row in rows if row["days"] is not None]
    found = Summary(f"{len(rows)} certificates" + (f", the first ends in {min(days):.0f} days" if days else ""))
    for row in rows:
        found.add("certificate", row["problem"] and f"{row['name']}: {row['problem']}")
    return found

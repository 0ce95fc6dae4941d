# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the cache servers of this host."""

from __future__ import annotations

from ..core.summary import Summary
from .cluster import inspect_cluster
from .site import SITE, Site
from .status import inspect, todo


def lives_here() -> bool:
    return SITE.exists()


def summary() -> Summary:
    site = Site.load()
    roles, problems = inspect_cluster(site) if site.engine == "redis_cluster" else inspect(site)
    words = [f"{name} {role}" for name, role in sorted(roles.items())] + (["a sentinel"] if site.sentinel else [])
    found = Summary(", ".join(words) or "nothing runs here")
    for problem in problems:
        found.add("server", problem)
    for what, units in todo(site).items():
        if units:
            found.add(f"to_{what}", f"to {what}, which a run of the role does: {', '.join(units)}")
    return found

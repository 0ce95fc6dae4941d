# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The line of `webstack status` about the application servers, as this balancer sees them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..core.summary import Summary
from .model import UP
from .state import CONFIG, STATUS, Config, config, load


def lives_here() -> bool:
    return CONFIG.exists()


def own_metrics() -> str:
    """Return what the service counts, as long as it runs; the balancer's /metrics has the same."""
    from .status import metrics

    status = load(STATUS)
    return metrics(status) if time.time() - status.get("time", 0) < 5 else ""


def summary() -> Summary:
    status = load(STATUS)
    return summary_of(config(), status, time.time() - status.get("time", 0) < 5)


def summary_of(settings: Config, status: Mapping[str, Any], alive: bool) -> Summary:
    """Put what the service wrote into one line, and say what is wrong with it."""
    if not settings.interval_seconds:
        return Summary(f"{len(settings.sites)} sites, nobody probes their servers")
    if not alive:
        found = Summary("nobody knows how the application servers are")
        found.add("no_probes", "webstack-lb.service does not probe; nginx keeps the lists that it has")
        return found
    servers = {(s["name"], s["address"]): s for site in status["sites"] for s in site["servers"]}
    asked = [s for s in servers.values() if s["asked"]]
    found = Summary(f"{len(status['sites'])} sites, {len(asked)} of {len(servers)} servers are asked")
    drained = sorted(name for (name, _address), server in servers.items() if server["drained"])
    if drained:
        found.line += f", drained: {', '.join(drained)}"
    for (name, address), server in sorted(servers.items()):
        if server["state"] != UP and not server["drained"]:
            found.add("server_down", f"{name} ({address}) is {server['state']}: {server['reason']}")
    for site in status["sites"]:
        found.add("fail_open", site["fail_open"] and f"{site['name']}: no server works, so all are asked")
        if site["maintenance"]:
            found.line += f", {site['name']} shows its maintenance page"
    found.add("refused", status["error"] and f"nginx refused the last server lists: {status['error']}")
    return found

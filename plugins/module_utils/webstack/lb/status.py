# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The status of the balancer, as text, as JSON and as metrics."""

from __future__ import annotations

import argparse
import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import Problem
from ..core.metrics import Family, render
from ..core.say import WARNING, say
from ..core.summary import document
from ..core.table import age, table
from .connections import connections, old_workers
from .model import UP, Verdict, excluded
from .state import STATUS, WISHES, Config, config, load, states, wishes


def overview(settings: Config, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    try:
        wish = wishes()
    except Problem:
        wish = {"drained": [], "maintenance": []}  # `error` of the status says it; nginx keeps the lists that it has
    counts = connections()
    known = {target: verdict.state for target, verdict in verdicts.items()}
    sites = []
    for site in settings.sites:
        out = excluded(site, known, wish["drained"])
        servers = []
        for server in site.servers:
            verdict = verdicts.get(site.target(server), Verdict(reason="not probed"))
            servers.append(
                {
                    "name": server.name,
                    "address": server.endpoint,
                    "state": verdict.state,
                    "drained": server.name in wish["drained"],
                    "asked": server.name not in out,
                    "connections": counts.get((str(ipaddress.ip_address(server.address)), server.port), 0),
                    "since": verdict.since,
                    "reason": verdict.reason,
                    "probe_seconds": round(verdict.seconds, 4),
                    "failed_probes": verdict.failures,
                    "good_answers_needed": max(verdict.needed, settings.rules.rise),
                }
            )
        everything_down = all(s["drained"] or s["state"] != UP for s in servers)
        sites.append(
            {
                "name": site.name,
                "fail_open": everything_down and any(s["asked"] for s in servers),
                "maintenance": site.maintenance or site.name in wish["maintenance"],
                "servers": servers,
            }
        )
    return {"time": time.time(), "sites": sites, "old_workers": old_workers()}


PER_SERVER: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], float]]] = {
    "up": ("1 if the health address answers well", lambda s: s["state"] == UP),
    "drained": ("1 if the operator took it out", lambda s: s["drained"]),
    "asked": ("1 if nginx may send it requests", lambda s: s["asked"]),
    "connections": ("open connections of nginx", lambda s: s["connections"]),
    "probe_seconds": ("duration of the last probe", lambda s: s["probe_seconds"]),
    "failed_probes_total": ("probes without a good answer", lambda s: s["failed_probes"]),
}
PER_SITE = {
    "fail_open": "1 if no server works and all are asked",
    "maintenance": "1 if the operator shows the maintenance page",
}


def metrics(status: Mapping[str, Any]) -> str:
    """Return the status in the text format of Prometheus."""
    families = []
    for name, (text, value) in PER_SERVER.items():
        family = Family(f"server_{name}", text)
        for site in status["sites"]:
            for server in site["servers"]:
                family.add(value(server), site=site["name"], server=server["name"])
        families.append(family)
    for name, text in PER_SITE.items():
        family = Family(f"site_{name}", text)
        for site in status["sites"]:
            family.add(site[name], site=site["name"])
        families.append(family)
    families += [
        Family("old_workers", "workers of earlier configurations").add(status["old_workers"]),
        Family("reloads_total", "reloads of nginx that the probes caused").add(status["reloads"]),
        Family("apply_failed", "1 if nginx refused the last server lists").add(bool(status["error"])),
    ]
    return render("webstack_lb", families)


def as_text(status: Mapping[str, Any]) -> str:
    rows = [("site", "server", "address", "state", "asked", "connections", "since", "last probe")]
    for site in status["sites"]:
        for server in site["servers"]:
            state = "drained" if server["drained"] else server["state"]
            if server["drained"] and server["state"] != UP:
                state += f", {server['state']}"
            rows.append(
                (
                    site["name"],
                    server["name"],
                    server["address"],
                    state,
                    "yes" if server["asked"] else "no",
                    str(server["connections"]),
                    age(status["time"] - server["since"]) if server["since"] else "-",
                    f"{server['reason']}, {1000 * server['probe_seconds']:.0f} ms",
                )
            )
    lines = [table(rows)]
    for site in status["sites"]:
        if site["fail_open"]:
            lines.append(f"{site['name']}: no server works, so all are asked")
        if site["maintenance"]:
            lines.append(f"{site['name']}: maintenance page")
    if status["old_workers"]:
        lines.append(f"{status['old_workers']} workers of earlier configurations finish their requests")
    if status.get("error"):
        lines.append(f"nginx refused the last server lists: {status['error']}")
    return "\n".join(lines)


def last_status() -> tuple[dict[str, Any], bool]:
    """Return what the service wrote last, and whether it knows the last wish. Wait up to 3 s until it does."""
    wished = WISHES.stat().st_mtime if WISHES.exists() else 0.0
    status = load(STATUS)
    while status.get("time", 0) < wished <= time.time() < wished + 3:
        time.sleep(0.05)
        status = load(STATUS)
    return status, status.get("time", 0) >= wished


def show_status(options: argparse.Namespace) -> int:
    settings = config()
    status, knows = last_status()
    alive = not settings.interval_seconds or time.time() - status.get("time", 0) < 5
    # On a crowded host it may write later than we answer, and who was told that a server is drained asks whether it is.
    if not alive or not knows or not settings.interval_seconds:
        known = {target: Verdict(state=state, reason="as last found") for target, state in states(settings).items()}
        status = overview(settings, known) | {"reloads": 0, "error": ""}
    if options.json:
        from .summary import summary_of

        print(json.dumps(document({"lb": summary_of(settings, status, alive)}, **status, probing=alive)))
    else:
        print(as_text(status))
    if not alive:
        say("webstack-lb.service does not probe: the states are the last that it found", WARNING)
    return 0 if alive else 1

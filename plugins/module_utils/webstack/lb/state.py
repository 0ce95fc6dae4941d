# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads and writes what the role, the operator and the probes have written down."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core import config as settings
from ..core.errors import Problem
from ..core.files import read
from .model import CLOSES, UP, Rules, Server, Site

CONFIG = pathlib.Path("/etc/webstack/lb.json")
#: Files of root: what the operator asked for, and what nginx includes.
WISHES = pathlib.Path("/var/lib/webstack/lb/wishes.json")
INCLUDES = pathlib.Path("/var/lib/webstack/lb/nginx")
#: A file of the service: what the probes found. After a restart it goes on from there.
FOUND = pathlib.Path("/var/lib/webstack/lb/probes/found.json")
STATUS = pathlib.Path("/run/webstack/lb/status.json")
METRICS = pathlib.Path("/run/webstack/lb/metrics.prom")


@dataclass(frozen=True)
class Config:
    sites: tuple[Site, ...]
    rules: Rules
    interval_seconds: float
    timeout_seconds: float
    #: For which silences the connections to a server are closed.
    closes: Sequence[str]
    local: str
    cache_directory: str

    def known(self, name: str) -> list[Site]:
        """Return the sites that a server belongs to. Refuse an unknown server."""
        found = [site for site in self.sites if any(server.name == name for server in site.servers)]
        if not found:
            names = sorted({server.name for site in self.sites for server in site.servers})
            raise Problem(f"{name} is no application server of this balancer; known are {', '.join(names)}")
        return found


def load(path: pathlib.Path) -> dict[str, Any]:
    """Return the content of a state file; nothing if it is absent or broken.

    Root reads here what the probes' account writes. So it follows no link and waits for no pipe.
    """
    try:
        data = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def config() -> Config:
    """Return what the role wrote about this balancer."""
    data = settings.load(CONFIG, "lb_nginx")
    health = data.table("health")
    closes = health.text("close_connections")
    if closes not in CLOSES:
        raise Problem(f"{health.where}: 'close_connections' has to be one of {', '.join(CLOSES)}, it is {closes!r}")
    return Config(
        sites=tuple(_site(entry) for entry in data.tables("sites")),
        rules=Rules(fall=health.whole("fall"), rise=health.whole("rise")),
        interval_seconds=health.number("interval_seconds"),
        timeout_seconds=health.number("timeout_seconds"),
        closes=CLOSES[closes],
        local=data.text("local"),
        cache_directory=data.text("cache_directory"),
    )


def _site(entry: settings.Settings) -> Site:
    servers = entry.tables("servers")
    return Site(
        name=entry.text("name"),
        servers=tuple(Server(one.text("name"), one.text("address"), one.whole("port")) for one in servers),
        fail_timeout_seconds=entry.whole("fail_timeout_seconds"),
        health_path=entry.text("health_path"),
        health_host=entry.text("health_host"),
        maintenance=entry.flag("maintenance") if "maintenance" in entry else False,
    )


def wishes() -> dict[str, list[str]]:
    """Return what the operator wants. A broken file is an error: an empty one would bring drained servers back."""
    none: dict[str, list[str]] = {"drained": [], "maintenance": []}
    try:
        data = json.loads(WISHES.read_text())
    except FileNotFoundError:
        return none
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Problem(f"{WISHES} is broken: remove it, then drain again what has to be out")
    return none | data


def found(settings: Config) -> dict[str, dict[str, Any]]:
    """Return target -> verdict, as the probes last found it. Without probes nothing is known."""
    entries = load(FOUND) if settings.interval_seconds else {}
    return {target: entry for target, entry in entries.items() if isinstance(entry, dict)}


def states(settings: Config) -> dict[str, str]:
    """Return target -> state. A server of which nothing is known counts as up."""
    return {target: entry.get("state", UP) for target, entry in found(settings).items()}

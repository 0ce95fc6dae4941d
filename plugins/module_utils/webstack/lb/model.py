# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decides from the answers of the probes which servers nginx may ask, and makes the lines that it includes. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: nginx evaluates this again when it fetches the maintenance page, which must get through.
MAINTENANCE = "if ($uri != /.webstack-maintenance) { return 503; }\n"
UP, LEAVING, DOWN = "up", "leaving", "down"
#: How silent a server is. SILENT: it accepts a connection and says nothing, as it also does when it has no free worker.
#: UNREACHABLE: its host accepts no connection.
SPEAKS, SILENT, UNREACHABLE = SILENCES = ("", "silent", "unreachable")
#: The values of the role's `lb_nginx_probe_close_connections`: for which silences connections are closed.
CLOSES: Mapping[str, Sequence[str]] = {"never": (), UNREACHABLE: (UNREACHABLE,), SILENT: (UNREACHABLE, SILENT)}


@dataclass(frozen=True)
class Rules:
    """How many answers in a row change a verdict, and how a server that comes and goes is kept out for longer."""

    fall: int = 2
    rise: int = 2
    #: If a server fails again within this time after its return, the next return takes twice as many good answers.
    damping_seconds: float = 600
    damping_most: int = 64


@dataclass(frozen=True)
class Answer:
    """The result of one probe: `up`, `down`, or `leaving`: with a 503 a server asks to get no more requests."""

    state: str
    reason: str
    seconds: float = 0.0
    silence: str = SPEAKS


@dataclass
class Verdict:
    """What the balancer believes of one server."""

    state: str = UP
    since: float = 0.0
    reason: str = "not asked yet"
    #: Answers in a row that contradict the state.
    streak: int = 0
    #: Good answers in a row that bring the server back.
    needed: int = 0
    failures: int = 0
    seconds: float = 0.0
    #: The least silent of the answers in a row.
    silence: str = SPEAKS

    def hear(self, answer: Answer, now: float, rules: Rules) -> bool:
        """Take an answer into account. Return whether nginx has to know."""
        self.seconds, self.reason = answer.seconds, answer.reason
        self.silence = min(answer.silence, self.silence, key=SILENCES.index) if self.streak else answer.silence
        good = answer.state == UP
        self.failures += not good
        if good == (self.state == UP):
            self.streak = 0
            # For nginx it makes no difference whether a server is down or leaving, so change between them at once.
            self.state = answer.state
            return False
        self.streak += 1
        if self.streak < (max(self.needed, rules.rise) if good else rules.fall):
            return False
        if not good:
            again = now - self.since < rules.damping_seconds and self.needed
            self.needed = min(2 * self.needed, rules.damping_most) if again else rules.rise
        self.state, self.since, self.streak = answer.state, now, 0
        return True


@dataclass(frozen=True)
class Server:
    name: str
    address: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Site:
    """One site: its servers, and how their health is asked."""

    name: str
    servers: tuple[Server, ...]
    fail_timeout_seconds: int
    health_path: str
    health_host: str
    maintenance: bool = False

    def target(self, server: Server) -> str:
        """Return the name of what is probed. Sites with the same server and health address share one probe."""
        return f"{server.endpoint} {self.health_host} {self.health_path}"


def excluded(site: Site, states: Mapping[str, str], drained: Sequence[str]) -> set[str]:
    """Return the names of the servers that get no request.

    If all servers are down, all count as up: probably this host's network or the health address is at fault, and it is
    better to ask a server that may work than none. A server that the operator drained stays out in any case.
    """
    kept = [server for server in site.servers if server.name not in drained]
    sick = {server.name for server in kept if states.get(site.target(server), UP) != UP}
    if len(sick) == len(kept):
        sick = set()
    return sick | (set(drained) & {server.name for server in site.servers})


def server_lines(site: Site, out: set[str], max_fails: int) -> str:
    """Return the lines of an `upstream` block."""
    return "".join(
        f"server {server.endpoint} max_fails={max_fails} fail_timeout={site.fail_timeout_seconds}s"
        f"{' down' if server.name in out else ''}; # {server.name}\n"
        for server in site.servers
    )


def includes(
    sites: Sequence[Site], states: Mapping[str, str], drained: Sequence[str], maintenance: Sequence[str]
) -> dict[str, str]:
    """Return every file that nginx includes, by name. The last one has a digest that workers can tell."""
    files = {}
    for site in sites:
        out = excluded(site, states, drained)
        files[f"{site.name}.servers"] = server_lines(site, out, 1)
        files[f"{site.name}.any.servers"] = server_lines(site, out, 0)
        shown = site.maintenance or site.name in maintenance
        files[f"{site.name}.maintenance"] = MAINTENANCE if shown else ""
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return files | {"marks": f'location = /marks {{ return 200 "{digest}"; }}\n'}

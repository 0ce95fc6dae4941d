# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads what the role mysql_replication wrote about the two database hosts."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from ..core.config import load
from ..core.errors import Problem
from ..pure.arbiter import LIMITS

CONFIG = pathlib.Path("/etc/webstack/db.json")
RUN = pathlib.Path("/run/webstack/db")
#: What the last look of the agent led to, for status, commands and tests.
SAID = RUN / "agent.json"
SYSTEM_SCHEMAS = {"mysql", "information_schema", "performance_schema", "sys"}


#: What the lock says about its holder. Who holds it may change whether this server is primary or replica.
LOCK_PURPOSE = "a change of what this server is"
#: How long a command waits for another one: a promotion applies what was received, a seed starts the server.
LOCK_SECONDS = 180


@dataclass(frozen=True)
class Node:
    name: str
    address: str
    port: int


class Config:
    """The settings of this host and of the other one."""

    def __init__(self) -> None:
        raw = load(CONFIG, "mysql_replication")
        nodes = [Node(n.text("name"), n.text("address"), n.whole("port")) for n in raw.tables("nodes")]
        own = [n for n in nodes if n.name == raw.text("name")]
        if len(own) != 1:
            raise Problem(f"{raw.where}: 'name' is {raw.text('name')!r}, which is none of its nodes")
        self.node = own[0]
        self.peer = next((n for n in nodes if n != self.node), None)
        self.writer_address = raw.text("writer_address")
        self.datadir = pathlib.Path(raw.text("datadir"))
        self.socket = raw.text("socket")
        tls = raw.table("tls")
        self.tls = {name: tls.text(name) for name in ("ca", "cert", "key")}
        self.user = raw.text("user")
        self.password = raw.text("password")
        self.seed_port = raw.whole("seed_port")
        self.seed_compression = raw.whole("seed_compression")
        #: Who decides who writes: a person (manual), the agent (auto), or the agent when a person asks (assisted).
        self.mode = raw.text("mode") if "mode" in raw else "manual"
        self.rest = raw.number("rest") if "rest" in raw else LIMITS.rest
        #: Whether the agent seeds this host's data anew by itself, and how long that may take.
        self.reseeds = raw.flag("reseeds") if "reseeds" in raw else False
        self.seed_seconds = raw.number("seed_seconds") if "seed_seconds" in raw else 43200.0
        #: Whether the timer compares the data of the two servers.
        self.compares = raw.flag("compares") if "compares" in raw else True
        self.semi_sync_timeout = raw.whole("semi_sync_timeout")

    @property
    def decided(self) -> bool:
        """Whether the agents of the two hosts decide by the quorum."""
        return self.mode != "manual" and self.peer is not None

    def named(self, name: str) -> Node:
        for node in (self.node, self.peer):
            if node is not None and node.name == name:
                return node
        raise Problem(f"{name!r} is none of this site's database hosts")

    def other(self, name: str) -> Node:
        """Return the other host by its name; this host itself is refused."""
        if (node := self.named(name)) == self.node:
            raise Problem(f"{name} is this host; a copy comes from one host and goes to the other")
        return node

    def is_node(self, node: Node, source: str) -> bool:
        return source in (node.name, node.address)

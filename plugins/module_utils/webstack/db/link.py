# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes and renews the link of a replica to its source."""

from __future__ import annotations

from ..core.errors import Problem
from ..core.mariadb import Session, quote
from .config import Config, Node
from .role import look, running_replica, wait_for
from .session import local_session


def link(config: Config, source: Node, position: str | None, session: Session | None = None) -> None:
    """Replicate from this source. With a position, begin there."""
    session = session or local_session(config)
    statements = ["STOP SLAVE"] if session.rows("SHOW ALL SLAVES STATUS") else []
    if position is not None:
        statements.append(f"SET GLOBAL gtid_slave_pos = {quote(position)}")
    options = {
        "MASTER_HOST": quote(source.address),
        "MASTER_PORT": str(source.port),
        "MASTER_USER": quote(config.user),
        "MASTER_PASSWORD": quote(config.password),
        "MASTER_USE_GTID": "slave_pos",
        "MASTER_CONNECT_RETRY": "1",
        "MASTER_HEARTBEAT_PERIOD": "0.3",
        "MASTER_SSL": "1",
        "MASTER_SSL_CA": quote(config.tls["ca"]),
        "MASTER_SSL_CERT": quote(config.tls["cert"]),
        "MASTER_SSL_KEY": quote(config.tls["key"]),
        "MASTER_SSL_VERIFY_SERVER_CERT": "1",
    }
    statements.append("CHANGE MASTER TO " + ", ".join(f"{k} = {v}" for k, v in options.items()))
    statements.append("START SLAVE")
    session.run(*statements, seconds=60)


def relink(config: Config, seconds: float) -> None:
    """Give the existing link the current password and certificates."""
    seen = look(local_session(config))
    if seen["replica"] is None or config.peer is None or not config.is_node(config.peer, seen["replica"]["source"]):
        raise Problem("this server does not replicate from the other one")
    link(config, config.peer, None)
    wait_for(config, seconds, "a running replica", running_replica)
    print("linked again")


def resume(config: Config, seconds: float) -> None:
    local_session(config).run("START SLAVE", seconds=30)
    wait_for(config, seconds, "a running replica", running_replica)
    print("replication runs")

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connects to the two servers of the site: to the local one over its socket as root, to the other one over TLS."""

from __future__ import annotations

from ..core.mariadb import UNLOGGED, ServerGone, Session
from .config import Config

#: Short, since callers that wait for the other server soon ask again.
PEER_CONNECT_SECONDS = 2


def local_session(config: Config, seconds: float = 10) -> Session:
    return Session({"unix_socket": config.socket, "user": "root", "init_command": UNLOGGED}, seconds)


def peer_session(config: Config, seconds: float = 4) -> Session:
    if config.peer is None:
        raise ServerGone("there is no other database host")
    # This account may only ask what the server is. The password is encoded here, for PyMySQL would not use UTF-8.
    options = {"host": config.peer.address, "port": config.peer.port, "ssl": config.tls}
    return Session(
        {**options, "user": config.user, "password": config.password.encode()}, seconds, PEER_CONNECT_SECONDS
    )

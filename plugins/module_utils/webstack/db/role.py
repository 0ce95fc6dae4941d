# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks a server what it is: primary, replica or neither. Nothing here changes anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.errors import Problem
from ..core.mariadb import Session
from . import data
from .config import SYSTEM_SCHEMAS, Config
from .data import read_theirs
from .marker import KEPT_MARKER, MARKER, marker
from .session import local_session, peer_session

# Backups import only this module and `data` from this tier, so they get these names here.
__all__ = ["KEPT_MARKER", "MARKER"]


def links_of(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the links that `SHOW ALL SLAVES STATUS` lists, without half configured ones that have no source."""
    return [row for row in rows if row["Master_Host"]]


def look(session: Session) -> dict[str, Any]:
    """Return what the server says about itself."""
    base = session.rows(
        "SELECT @@version AS version, @@server_id AS server_id, @@read_only AS read_only,"
        " @@gtid_current_pos AS gtid, @@gtid_binlog_pos AS gtid_binlog_pos, @@gtid_binlog_state AS gtid_binlog_state,"
        " @@gtid_slave_pos AS applied,"
        " @@rpl_semi_sync_master_enabled AS semi_sync, @@rpl_semi_sync_master_timeout AS semi_sync_timeout,"
        " @@event_scheduler AS event_scheduler,"
        " @@GLOBAL.tx_read_only AS fenced"
    )[0]
    seen: dict[str, Any] = dict(base)
    seen["server_id"] = int(base["server_id"] or 0)
    seen["read_only"] = base["read_only"] != "0"
    seen["semi_sync"] = base["semi_sync"] == "1"
    seen["semi_sync_timeout"] = int(base["semi_sync_timeout"] or 0)
    seen["fenced"] = base["fenced"] == "1"
    seen["replica"] = None
    if links := links_of(session.rows("SHOW ALL SLAVES STATUS")):
        link = links[0]
        errors = [
            f"{link[f'Last_{kind}_Errno']}: {link[f'Last_{kind}_Error']}"
            for kind in ("IO", "SQL")
            if link[f"Last_{kind}_Errno"] not in ("0", None)
        ]
        lag = link["Seconds_Behind_Master"]
        seen["replica"] = {
            "io": link["Slave_IO_Running"] == "Yes",
            "io_state": link["Slave_IO_Running"],
            "sql": link["Slave_SQL_Running"] == "Yes",
            "lag_seconds": None if lag is None else int(lag),
            "error": "; ".join(errors),
            "source": link["Master_Host"],
            "tls": link["Master_SSL_Allowed"] == "Yes" and link["Master_SSL_Verify_Server_Cert"] == "Yes",
            "using_gtid": link["Using_Gtid"],
        }
    return seen


def user_schemas(session: Session) -> list[str]:
    rows = session.rows("SELECT SCHEMA_NAME AS name FROM information_schema.SCHEMATA ORDER BY 1")
    names = [r["name"] for r in rows if r["name"] and r["name"].lower() not in SYSTEM_SCHEMAS]
    # If the data directory is a mount point, some folders in it are no schemas.
    return [n for n in names if n not in {f"#mysql50#{folder}" for folder in data.KEEP}]


def role_of(seen: Mapping[str, Any], marked: bool) -> str:
    if seen["replica"] is not None:
        return "replica"
    return "primary" if marked or not seen["read_only"] else "none"


def role_here(seen: Mapping[str, Any]) -> str:
    """Return the role of this host's server. A closed server is still the primary if it was that before it started."""
    return role_of(seen, marker() is not None)


def gtid_sequences(position: str | None) -> dict[str, int]:
    """Return the highest sequence number of each domain."""
    highest: dict[str, int] = {}
    for item in filter(None, (position or "").replace("\n", "").split(",")):
        domain, _server, sequence = item.strip().split("-")
        highest[domain] = max(highest.get(domain, 0), int(sequence))
    return highest


def last_of_each(*positions: str | None) -> dict[tuple[str, str], int]:
    """`0-1-55,0-2-60` -> the highest number of each domain and server."""
    highest: dict[tuple[str, str], int] = {}
    for item in filter(None, (part.strip() for text in positions for part in (text or "").split(","))):
        domain, server, number = item.split("-")
        highest[domain, server] = max(highest.get((domain, server), 0), int(number))
    return highest


def errant(seen: Mapping[str, Any], applied: str | None) -> str:
    """Return what was written on a replica itself, past what it applied."""
    theirs = gtid_sequences(applied)
    wrong = [
        f"{domain}-{server}-{number}"
        for (domain, server), number in last_of_each(seen["gtid_binlog_pos"]).items()
        if server == str(seen["server_id"]) and number > theirs.get(domain, 0)
    ]
    return f"was written to: {', '.join(wrong)}" if wrong else ""


def why_not_open(config: Config, own: dict[str, Any], paired: bool) -> str:
    """Return why this read-only server without a source may not accept writes, or an empty text if it may."""
    if config.peer is None:
        return ""
    session = peer_session(config)
    try:
        peer = look(session)
    except Problem as error:
        # If no server was ever seeded from this primary, none can have taken its place.
        return f"{config.peer.name} does not answer ({error})" if paired else ""
    finally:
        session.close()
    if not peer["read_only"]:
        return f"{config.peer.name} accepts writes"
    if not paired:
        return ""
    if peer["replica"] is None:
        return f"{config.peer.name} replicates from nobody"
    if not config.is_node(config.node, peer["replica"]["source"]):
        return f"{config.peer.name} replicates from {peer['replica']['source']}, not from this server"
    mine = gtid_sequences(own["gtid"])
    for domain, sequence in gtid_sequences(peer["gtid"]).items():
        if sequence > mine.get(domain, 0):
            return f"{config.peer.name} has transactions that this server lacks ({peer['gtid']} against {own['gtid']})"
    return ""


def wait_for(config: Config, seconds: float, what: str, good: Any) -> dict[str, Any]:
    """Look at the server until good(state) is true or the time is over."""
    session = local_session(config, 5)
    deadline = time.monotonic() + seconds
    last = "no answer yet"
    try:
        while time.monotonic() < deadline:
            try:
                seen = look(session)
                if good(seen):
                    return seen
                last = json.dumps(seen["replica"]) if seen["replica"] else f"read_only={seen['read_only']}"
            except Problem as error:
                last = str(error)
            time.sleep(0.2)
    finally:
        session.close()
    raise Problem(f"{what} did not happen within {seconds:g} s; last seen: {last}")


def running_replica(seen: dict[str, Any]) -> bool:
    link = seen["replica"]
    return bool(link and link["io"] and link["sql"])


def caught_up(seen: dict[str, Any]) -> bool:
    return running_replica(seen) and seen["replica"]["lag_seconds"] == 0


def link_is_current(config: Config) -> bool:
    """Say whether the replica connects with the current account. The server keeps that in master.info."""
    text = read_theirs(config.datadir / "master.info")
    if text is None:
        return True
    lines = text.splitlines()
    return len(lines) < 7 or lines[4:6] == [config.user, config.password]

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state of the server: as one document for programs, and as text for people."""

from __future__ import annotations

import time
from typing import Any

from ..core.errors import Problem
from ..core.mariadb import ServerGone
from .address import carries_address
from .ask import said
from .config import Config
from .data import schema_folders
from .disk import disk_state
from .drift import differences
from .marker import marker
from .options import wanted_options
from .role import errant, link_is_current, look, role_of, user_schemas
from .server import unit_states
from .session import local_session, peer_session
from .settings import pending
from .zones import time_zones_current


def peer_status(config: Config) -> dict[str, Any]:
    if config.peer is None:
        return {}
    base = {"name": config.peer.name, "address": config.peer.address}
    session = peer_session(config)
    try:
        seen = look(session)
    except Problem as error:
        return {**base, "reachable": False, "error": str(error)}
    finally:
        session.close()
    return {**base, "reachable": True, "role": role_of(seen, False), **seen}


def status(config: Config, detail: bool) -> dict[str, Any]:
    """Return the state as one document. This server's position is read before the other server's. So a replica that
    is behind never looks as if it were ahead."""
    empty = {"io": False, "sql": False, "lag_seconds": None, "error": "", "source": ""}
    mark = marker()
    result: dict[str, Any] = {
        "name": config.node.name,
        "role": "none",
        "running": False,
        "read_only": True,
        "gtid": "",
        "replica": empty,
        "marker": mark,
        "writer_address": config.writer_address,
        "has_writer_address": bool(config.writer_address) and carries_address(config),
        "error": "",
        "drift": {"tables": [], "compared_at": None},
        "astray": "",
    }
    session = local_session(config)
    try:
        seen = look(session)
        result.update(seen, running=True, role=role_of(seen, mark is not None))
        result["astray"] = errant(seen, seen["applied"]) if seen["replica"] is not None else ""
        result["replica"] = {**empty, **(seen["replica"] or {})}
        result["has_source"] = seen["replica"] is not None
        result["schemas"] = user_schemas(session)
        result["disk"] = disk_state(config, session)
        found, compared = differences(session)
        result["drift"] = {"tables": [one._asdict() for one in found], "compared_at": compared}
        if detail:
            result["time_zones_current"] = time_zones_current(session)
            result["pending"] = pending(config, session)
            result["server_id_wanted"] = int(wanted_options().get("server_id", "1"))
            result["link_current"] = link_is_current(config)
    except ServerGone as error:
        # It may have gone in the middle of this: what was seen before is no answer.
        result.update(running=False, error=str(error))
        result["schemas"] = schema_folders(config.datadir)
        result["disk"] = disk_state(config, None)
    finally:
        session.close()
    result["peer"] = peer_status(config)
    result["mode"] = config.mode
    result["agent"] = said() if config.decided else {}
    if detail:
        result["units"] = unit_states("mariadb.service", "webstack-db.service", "webstack-db-drift.timer")
    return result


def print_status(state: dict[str, Any]) -> None:
    def line(item: dict[str, Any], title: str) -> str:
        if not item.get("running", item.get("reachable")):
            return f"{title}: no answer ({item.get('error', '')})"
        access = "read-only" if item["read_only"] else "writable"
        text = f"{title}: {item['role']}, {access}, gtid {item['gtid'] or '-'}"
        link_state = item.get("replica") or {}
        if link_state.get("source"):
            threads = f"io {'on' if link_state['io'] else 'OFF'}, sql {'on' if link_state['sql'] else 'OFF'}"
            text += f", from {link_state['source']} ({threads}, lag {link_state['lag_seconds']} s)"
            if link_state["error"]:
                text += f"\n  error {link_state['error']}"
        return text

    print(line(state, state["name"]))
    if state["disk"]["problem"]:
        print(f"  CANNOT WRITE: {state['disk']['problem']}")
    if state["writer_address"]:
        print(f"  writer address {state['writer_address']}: {'here' if state['has_writer_address'] else 'not here'}")
    if state["astray"]:
        print(f"  HAS ROWS OF ITS OWN: it {state['astray']}")
    for one in state["drift"]["tables"]:
        print(f"  DIFFERS FROM THE WRITER'S: {one['title']}, {one['places']} places, at {when(one['at'])}")
    if compared := state["drift"]["compared_at"]:
        print(f"  data compared at {when(compared)}")
    if state["peer"]:
        print(line(state["peer"], state["peer"]["name"]))
    if state["mode"] != "manual":
        print(f"fail-over {state['mode']}: {decided(state['agent'])}")


def decided(agent: dict[str, Any]) -> str:
    """Put into words what stands in the quorum, and what the agent of this host last thought of it."""
    if not agent:
        return "the agent has said nothing yet (systemctl status webstack-db)"
    pair = agent["state"]
    text = f"epoch {pair['epoch']}, {pair['writer']} writes" if pair else "nothing known"
    if pair:
        text += f", {pair['replica']} holds every row" if pair["replica"] else f", alone{alone(agent)}"
    if last := agent.get("last"):
        text += f"\n  last change: {when(last['at'])} from {last['from']} to {last['to']}: {last['why']}"
    text += f"\n  this host {agent['rule']}: {agent['why']}"
    return text + (f"\n  problem: {agent['problem']}" if agent["problem"] else "")


def alone(agent: dict[str, Any]) -> str:
    """Say how long no other host has held every row, and how much would be lost with the writer."""
    kept = agent.get("alone") or {}
    if not kept:
        return ": no other host holds every row"
    text = f" since {when(kept['since'])}: no other host holds every row"
    count = kept["transactions"]
    return text if count is None else f"{text}; {count} transactions are on it only"


def when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))

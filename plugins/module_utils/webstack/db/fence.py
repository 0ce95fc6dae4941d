# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Closes a server for writers that `read_only` does not stop: events, and accounts with READ ONLY ADMIN."""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

from ..core.files import write
from ..core.mariadb import Session, SqlError, identifier, quote
from ..core.say import say
from .config import RUN
from .marker import going_on, server_process, was_opened
from .options import switch, wanted_options

EVENTS = RUN / "events.json"
# On a replica all events look disabled. So an event that shall stay off on a new primary has this in its comment.
EVENT_OFF = "webstack: off"
# The bit of READ ONLY ADMIN in mysql.global_priv.
READ_ONLY_ADMIN = 1 << 33


def known_events() -> dict[str, Any]:
    """Return what was written last: for which process of the server, whether it was open, and its event scheduler."""
    try:
        return dict(json.loads(EVENTS.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def note_events(session: Session, opened: bool, scheduler: str) -> None:
    process = server_process(session)
    with going_on("which events ran"):
        write(EVENTS, json.dumps({"process": process, "open": opened, "scheduler": scheduler}))


def resume_events(session: Session) -> None:
    """Let the events of a server run that has just been opened, if the operator wants events to run."""
    known = known_events()
    same = known.get("process") == server_process(session)
    # A value that was set on the running server counts until it restarts. After that the option files count.
    wish = known["scheduler"] if same else switch(wanted_options().get("event_scheduler", ""))
    if wish == "ON":
        enable_events(session)
        session.run("SET GLOBAL event_scheduler = ON")
    note_events(session, True, wish)


def keep_events(session: Session, seen: dict[str, Any]) -> None:
    """Follow on an open server what the operator does with the scheduler, and finish an opening that was cut off."""
    known, process = known_events(), server_process(session)
    if known.get("process") != process and was_opened(session):
        # It was opened before anything was written about its events. Leave its scheduler as it is.
        note_events(session, True, str(seen["event_scheduler"]))
    elif known.get("process") != process or not known["open"]:
        lift_fence(session)
        resume_events(session)
    elif seen["event_scheduler"] != known["scheduler"]:
        if seen["event_scheduler"] == "ON":
            enable_events(session)
        note_events(session, True, str(seen["event_scheduler"]))


def enable_events(session: Session) -> None:
    """Enable the events. Replication stored them as disabled, and a copy of a replica's data has them like that."""
    for event in session.rows(
        "SELECT EVENT_SCHEMA AS place, EVENT_NAME AS name, DEFINER AS definer FROM information_schema.EVENTS"
        f" WHERE STATUS = 'SLAVESIDE_DISABLED' AND EVENT_COMMENT NOT LIKE {quote(f'%{EVENT_OFF}%')}"
    ):
        user, _, host = str(event["definer"]).rpartition("@")
        # Name the definer, otherwise root becomes it.
        definer = f"{quote(user)}@{quote(host)}" if user else quote(host)
        name = f"{identifier(event['place'])}.{identifier(event['name'])}"
        try:
            session.run(f"ALTER DEFINER = {definer} EVENT {name} ENABLE")
            say(f"enabled the event {name}")
        except SqlError as error:
            # This is no reason to close the primary.
            say(f"the event {name} stays off: {error}")


def hold_events(session: Session, seen: dict[str, Any]) -> None:
    """Stop the events of a closed server, and remember whether they ran, for the time when it opens again."""
    known = known_events()
    was_open = known.get("open") and known["process"] == server_process(session)
    if seen["event_scheduler"] == "ON" or was_open:
        session.run("SET GLOBAL event_scheduler = OFF")
        note_events(session, False, known["scheduler"] if was_open else seen["event_scheduler"])
        cut_privileged(session)


def lift_fence(session: Session) -> None:
    """Let all accounts write. Sessions that began on the fenced server would stay read-only, so end them."""
    if session.rows("SELECT @@GLOBAL.tx_read_only AS fenced")[0]["fenced"] == "0":
        return
    session.run("SET GLOBAL tx_read_only = OFF")
    end_clients(session)


def end_clients(session: Session) -> None:
    """End all sessions that came over the network, but for the other server's."""
    for row in session.rows(
        "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE HOST LIKE '%:%' AND COMMAND NOT LIKE 'Binlog Dump%'"
    ):
        with contextlib.suppress(SqlError):
            session.run(f"KILL CONNECTION {int(row['id'] or 0)}")


def close_to_all(session: Session, seen: dict[str, Any]) -> None:
    """Close a former primary for accounts with READ ONLY ADMIN too: all new sessions get read-only transactions."""
    if not seen["fenced"] and not upgrading():
        session.run("SET GLOBAL tx_read_only = ON")
        cut_privileged(session)


def cut_privileged(session: Session) -> None:
    """End network connections of accounts that read_only does not stop. They will connect to the primary anew."""
    for row in session.rows(
        "SELECT DISTINCT p.ID AS id, p.USER AS user FROM information_schema.PROCESSLIST p"
        " JOIN mysql.global_priv g ON g.User = p.USER"
        f" WHERE p.HOST LIKE '%:%' AND CAST(JSON_VALUE(g.Priv, '$.access') AS UNSIGNED) & {READ_ONLY_ADMIN}"
    ):
        with contextlib.suppress(SqlError):
            session.run(f"KILL CONNECTION {int(row['id'] or 0)}")
            say(f"ended a connection of {row['user']}, which read_only does not bind")


def upgrading() -> bool:
    """Say whether Debian is upgrading the system tables. That writes on a closed server, too."""
    names = {"debian-start", "mariadb-upgrade", "mysql_upgrade"}
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() in names:
                return True
    return False

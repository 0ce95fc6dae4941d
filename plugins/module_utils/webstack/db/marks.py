# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names moments in the history of the data, so that a restore can come back to just before one.

A mark is a transaction of the writer's, so it stands in the history itself, in its right place on every server.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from ..core.errors import Problem
from ..core.mariadb import Session, quote
from ..core.table import table
from .config import Config
from .role import look

TABLE = "mysql.webstack_mark"
#: The oldest go; the binary logs of their time are long gone.
KEPT = 200
#: The longest name.
NAME_LENGTH = 120
LIMIT_SECONDS = 30


class Mark(NamedTuple):
    """A named moment."""

    name: str
    time: str
    #: Of the transaction that is the mark.
    gtid: str


def mark(config: Config, name: str) -> Mark | None:
    """Name this moment, if this server is the writer; None on a replica. What was written before is before it."""
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise Problem(f"a mark has a name of 1 to {NAME_LENGTH} letters, and this is {name!r}")
    session = _session(config)
    try:
        seen = look(session)
        if seen["replica"] is not None:
            return None
        if seen["read_only"]:
            raise Problem("this server accepts no writes, so nothing can be marked")
        _prepare(session)
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        session.run(f"INSERT INTO {TABLE} (name, moment, gtid) VALUES ({quote(name)}, {quote(moment)}, '')")
        row = session.rows("SELECT @@last_gtid AS gtid, LAST_INSERT_ID() AS id")[0]
        gtid, number = str(row["gtid"] or ""), int(row["id"] or 0)
        if not gtid or not number:
            raise Problem("the mark has no place in the binary log, so no restore could stop there")
        session.run(
            f"UPDATE {TABLE} SET gtid = {quote(gtid)} WHERE id = {number}",
            f"DELETE FROM {TABLE} WHERE id <= {number - KEPT}",
        )
        return Mark(name, moment, gtid)
    finally:
        session.close()


def marks(config: Config) -> list[Mark]:
    """Return what was marked, oldest first. A replica has what has reached it."""
    session = _session(config)
    try:
        # One without a transaction was cut off, and marks nothing.
        asked = f"SELECT name, moment, gtid FROM {TABLE} WHERE gtid <> '' ORDER BY id"
        rows = session.rows(asked) if _there(session) else []
    finally:
        session.close()
    return [Mark(str(row["name"]), str(row["moment"]), str(row["gtid"])) for row in rows]


def lines(found: list[Mark]) -> list[str]:
    """Return the marks as the lines of a table."""
    return table([["gtid", "time (UTC)", "mark"], *([one.gtid, one.time, one.name] for one in found)]).splitlines()


def _session(config: Config) -> Session:
    # Unlike other sessions of this tier, what it writes is logged.
    return Session({"unix_socket": config.socket, "user": "root"}, LIMIT_SECONDS)


def _there(session: Session) -> bool:
    schema, _, name = TABLE.partition(".")
    asked = f"WHERE TABLE_SCHEMA = '{schema}' AND TABLE_NAME = '{name}'"
    return bool(session.rows(f"SELECT 1 AS one FROM information_schema.TABLES {asked}"))


def _prepare(session: Session) -> None:
    # Asked first: even a statement that makes nothing would be a transaction.
    if not _there(session):
        session.run(
            f"CREATE TABLE IF NOT EXISTS {TABLE} (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,"
            f" name VARCHAR({NAME_LENGTH}) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,"
            " moment DATETIME NOT NULL, gtid VARCHAR(60) CHARACTER SET ascii NOT NULL) ENGINE = InnoDB"
        )

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares the data of the two servers: finds rows that were changed past replication.

The writer sums up each slice of each table by a statement that goes to the replica as a statement. So the replica sums
up its own rows at the same place in the history, and no server has to be asked or stopped. Each keeps both sums.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..core import lock
from ..core.errors import Problem
from ..core.mariadb import ServerGone, Session, SqlError, quote
from ..core.say import say
from .config import Config
from .role import look
from .session import peer_session
from .slices import Edge, Table, edge, next_edge, part, sums, tables

TABLE = "mysql.webstack_checksum"
#: What a slice may take, and what part of the time may be spent on slices.
SLICE_SECONDS, SHARE = 0.2, 0.2
FEWEST_ROWS, FIRST_ROWS, MOST_ROWS = 100, 1000, 50_000
#: Of one statement.
LIMIT_SECONDS = 30
#: Rows of a slice that somebody is changing: then again, a little later.
BUSY, TRIES = ("ERROR 1020", "ERROR 1205", "ERROR 1213"), 5
#: The row that says when the last comparison reached its end.
DONE = ""


class Different(NamedTuple):
    """A table whose rows were other ones than the writer's."""

    title: str
    places: int
    at: int


class Summary(NamedTuple):
    """What one comparison did."""

    tables: int
    slices: int
    left_out: tuple[str, ...]


def compare(config: Config, seconds: float) -> Summary | None:
    """Compare all tables, if this server is the writer; None elsewhere. A Problem says that it did not end well."""
    if config.peer is None:
        print("there is no other database host: nothing to compare with")
        return None
    session = Session({"unix_socket": config.socket, "user": "root"}, LIMIT_SECONDS)
    with lock.hold("drift", "a comparison of the two servers", 0):
        seen = look(session)
        if seen["replica"] is not None:
            print("this server is a replica: the writer's host compares")
            return None
        if seen["read_only"]:
            raise Problem("this server accepts no writes, so nothing can be compared")
        ready(config, seen)
        prepare(session)
        return Comparison(session, time.monotonic() + seconds).run()


def ready(config: Config, seen: dict[str, Any]) -> None:
    """Refuse unless the other server follows this one, with the same program: others may write numbers differently."""
    assert config.peer is not None
    session = peer_session(config)
    try:
        other = look(session)
    except ServerGone as gone:
        raise Problem(f"{config.peer.name} does not answer, so nothing can be compared: {gone}") from None
    finally:
        session.close()
    link = other["replica"]
    if link is None or not link["sql"] or not config.is_node(config.node, link["source"]):
        raise Problem(f"{config.peer.name} does not follow this server, so nothing can be compared")
    if other["version"] != seen["version"]:
        raise Problem(f"{config.peer.name} runs {other['version']} and this server {seen['version']}: upgrade it first")


def prepare(session: Session) -> None:
    session.run(
        # As a statement: each server works it out on its own rows.
        "SET SESSION binlog_format = 'STATEMENT', tx_isolation = 'REPEATABLE-READ', time_zone = '+00:00'",
        # Rather than keep visitors waiting for a row of theirs.
        "SET SESSION innodb_lock_wait_timeout = 1",
        f"CREATE TABLE IF NOT EXISTS {TABLE} (title VARCHAR(140) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,"
        " slice INT NOT NULL, place TEXT CHARACTER SET utf8mb4 NOT NULL, at BIGINT NOT NULL, here_rows BIGINT,"
        " here_sum BIGINT UNSIGNED, writer_rows BIGINT, writer_sum BIGINT UNSIGNED, PRIMARY KEY (title, slice))"
        " ENGINE = InnoDB",
    )


class Comparison:
    """One pass over all tables."""

    def __init__(self, session: Session, end: float) -> None:
        self.session, self.end = session, end
        self.rows = FIRST_ROWS
        self.slices = 0

    def run(self) -> Summary:
        began, left_out, count = int(time.time()), [], 0
        for table in tables(self.session):
            if why := table.why_not():
                left_out.append(f"{table.title}: {why}")
                continue
            try:
                self.table(table)
                count += 1
            except SqlError as error:
                if not str(error).startswith(("ERROR 1146", "ERROR 1054")):
                    raise
                left_out.append(f"{table.title}: was changed meanwhile")
        # Tables that are gone, and slices that a table no longer has.
        self.session.run(f"DELETE FROM {TABLE} WHERE at < {began} AND title <> {quote(DONE)}")
        self.session.run(
            f"REPLACE INTO {TABLE} (title, slice, place, at) VALUES ({quote(DONE)}, 0, '', {int(time.time())})"
        )
        return Summary(count, self.slices, tuple(left_out))

    def table(self, table: Table) -> None:
        low: Edge | None = None
        # Its rows may be larger than those of the table before.
        self.rows = FIRST_ROWS
        for number in range(1, 1 << 31):
            high = self.upper(table, low)
            self.slice(table, number, low, high)
            if high is None:
                break
            low = high

    def upper(self, table: Table, low: Edge | None) -> Edge | None:
        if not table.key:
            return None
        found = self.session.rows(next_edge(table, low, self.rows))
        return edge(table, found[0]) if found else None

    def slice(self, table: Table, number: int, low: Edge | None, high: Edge | None) -> None:
        if time.monotonic() > self.end:
            raise Problem(f"not done in time; {table.title} was not compared whole")
        began = time.monotonic()
        for left in reversed(range(TRIES)):
            try:
                self.sum_up(table, number, low, high)
                break
            except SqlError as error:
                self.session.run("ROLLBACK")
                if not left or not str(error).startswith(BUSY):
                    raise
                time.sleep(SLICE_SECONDS)
        took = max(time.monotonic() - began, 0.001)
        self.slices += 1
        self.rows = int(min(MOST_ROWS, max(FEWEST_ROWS, self.rows * min(2.0, SLICE_SECONDS / took))))
        time.sleep(took * (1 - SHARE) / SHARE)

    def sum_up(self, table: Table, number: int, low: Edge | None, high: Edge | None) -> None:
        """Have each server sum up its rows, and the replica learn the writer's sum, in one transaction."""
        place = part(table, low, high)
        which = f"title = {quote(table.title)} AND slice = {number}"
        self.session.run(
            "START TRANSACTION",
            f"DELETE FROM {TABLE} WHERE {which}",
            f"INSERT INTO {TABLE} (title, slice, place, at, here_rows, here_sum) SELECT {quote(table.title)}, {number},"
            f" {quote(place)}, {int(time.time())}, {sums(table)} FROM {table.where} WHERE {place}",
        )
        own = self.session.rows(f"SELECT here_rows, here_sum, @@GLOBAL.read_only AS closed FROM {TABLE} WHERE {which}")[
            0
        ]
        # It does not bind this account, and a row of ours must not be the one that only a former writer has.
        if own["closed"] != "0":
            raise Problem("this server was closed for writes meanwhile: the comparison ended before its end")
        self.session.run(
            f"UPDATE {TABLE} SET writer_rows = {own['here_rows']}, writer_sum = {own['here_sum']} WHERE {which}",
            "COMMIT",
        )


def differences(session: Session) -> tuple[list[Different], int | None]:
    """Return the tables of this server that were other ones than the writer's, and when the last comparison ended."""
    try:
        found = session.rows(
            f"SELECT title, COUNT(*) AS places, MIN(at) AS at FROM {TABLE} WHERE writer_sum IS NOT NULL"
            " AND NOT (here_sum <=> writer_sum AND here_rows <=> writer_rows) GROUP BY title ORDER BY title"
        )
        done = session.rows(f"SELECT at FROM {TABLE} WHERE title = {quote(DONE)}")
    except SqlError as error:
        if str(error).startswith("ERROR 1146"):
            return [], None
        raise
    different = [Different(str(row["title"]), int(row["places"] or 0), int(row["at"] or 0)) for row in found]
    return different, int(done[0]["at"] or 0) if done else None


def told(done: Summary) -> None:
    say(f"compared {done.tables} tables in {done.slices} slices; the replica's status says what differs there")
    for text in done.left_out:
        say(f"not compared: {text}")

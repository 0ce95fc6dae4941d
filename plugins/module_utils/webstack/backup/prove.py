# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Proves a backup: restores it into a throw-away server, replays what came after it, and compares every row.

What the live server is asked is read within one of its own transactions; it is neither stopped nor changed.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import Problem
from ..core.mariadb import Session, SqlError
from ..db import data
from . import restore, state, trial
from .forward import facts_of
from .repository import Repository, choose
from .server import Server
from .take import may_back_up
from .tools import Damage, Interrupted, need_room

#: What a program says when the trouble is not the backup's.
ELSEWHERE = re.compile(r"no space left|connection|network|timed? ?out|no such host|no end within", re.IGNORECASE)
#: In so many parts the whole repository is read, one at each proof.
PARTS = 7
#: A table that was altered after the snapshot of the live server was taken, or is gone.
ALTERED = ("ERROR 1146", "ERROR 1412")


class Place(NamedTuple):
    """A place in the binary logs of the live server."""

    file: str
    offset: int


def prove(server: Server, repository: Repository, wanted: str, part: int) -> dict[str, Any]:
    """Prove one backup and read a part of the repository. A Problem says what is wrong with it."""
    began = time.monotonic()
    config = server.config
    may_back_up(config, server.look(), require=False, allow_primary=False)
    snapshots = repository.snapshots()
    all_there(snapshots)
    snapshot = choose(snapshots, wanted)
    host = socket.gethostname()
    try:
        found = restored(server, repository, snapshot)
    except Damage as damage:
        note(repository, snapshot["id"], False, host=host, why=str(damage))
        raise Problem(f"backup {snapshot['id']} is not good: {damage}") from None
    except Problem as problem:
        # Nothing is known that was not known before: what was proven stays proven.
        raise Problem(f"backup {snapshot['id']} could not be proven: {problem}") from None
    found["seconds"] = round(time.monotonic() - began, 1)
    note(repository, snapshot["id"], True, host=host, seconds=found["seconds"], compared=not found["left_out"])
    repository.read_part(part, PARTS)
    return {"snapshot": snapshot["id"], "time": snapshot["time"], **found, "read_part": f"{part}/{PARTS}"}


def note(repository: Repository, snapshot: str, ok: bool, *, host: str, **more: Any) -> None:
    """Note the outcome, on what the notes say now: somebody may have pinned a backup meanwhile."""
    try:
        snapshots, notes = repository.known()
        notes.proven(snapshot, ok, host, **more)
        repository.keep_notes(notes, snapshots)
    except Problem as problem:
        if ok:
            raise
        # Damage may keep the notes from being stored; that it was found matters more.
        print(f"webstack-backup: the outcome could not be noted: {problem}", file=sys.stderr)


@contextlib.contextmanager
def evidence() -> Iterator[None]:
    """Take what goes wrong in here as damage of the backup, unless it speaks of something else."""
    try:
        yield
    except (Interrupted, Damage):
        raise
    except Problem as problem:
        raise (Problem if ELSEWHERE.search(str(problem)) else Damage)(str(problem)) from None


def all_there(snapshots: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a repository that lacks what the last good run of this host stored."""
    runs = [known["success"] for kind in state.KINDS if (known := state.known().get(kind, {})).get("success")]
    newest = max(runs, key=lambda one: float(one["finished"]), default=None)
    if newest and newest["snapshot"] not in [one["id"] for one in snapshots]:
        raise Problem(f"backup {newest['snapshot']}, which the last run stored, is not in the repository")


def restored(server: Server, repository: Repository, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Restore it, start a server on it, and look at all that is in it."""
    config = server.config
    with trial.place(pathlib.Path(config.text("staging_directory"))) as home:
        copy = home / "restored"
        need_room(copy, snapshot["bytes"], config.number("free_disk_factor"))
        with evidence():
            done = restore.restore(server, repository, snapshot["id"], copy)
            facts = facts_of(copy, snapshot)
        with contextlib.ExitStack() as stack:
            with evidence():
                session = stack.enter_context(trial.server_on(home, copy, config.whole("timeout_seconds")))
                check(session)
            found = compare(server, session, home, facts)
    return {"bytes": done["bytes"], "restore_seconds": done["seconds"], **found}


def check(session: Session) -> None:
    """Have the server read every table and every index."""
    rows = session.rows(
        "SELECT TABLE_SCHEMA AS place, TABLE_NAME AS name FROM information_schema.TABLES WHERE TABLE_TYPE IN"
        " ('BASE TABLE', 'SYSTEM VERSIONED') AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')"
    )
    for row in rows:
        table = data.Table(str(row["place"]), str(row["name"]), (), ())
        for said in session.rows(f"CHECK TABLE {table.where}"):
            kind, text = str(said["Msg_type"]).lower(), said["Msg_text"]
            if kind in ("error", "warning") or (kind == "status" and text not in ("OK", "Table is already up to date")):
                raise Problem(f"CHECK TABLE {table.title}: {text}")


def compare(server: Server, session: Session, home: pathlib.Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the trial to a moment of the live server, and compare the rows of all tables."""
    with contextlib.closing(server.session(trial.STATEMENT_SECONDS)) as live:
        logs = logs_since(live, facts)
        if isinstance(logs, str):
            return {"tables": 0, "rows": 0, "left_out": [f"all tables: {logs}"]}
        with moment(live) as until:
            wanted, left_out = sums(live, server)
            names = [path for path in logs if path.name <= until.file]
            trial.replay(
                home, names, int(facts["binlog_position"]), until.offset, server.config.whole("timeout_seconds")
            )
            for title, (table, expected) in wanted.items():
                if (have := sum_of(session, table)) != expected:
                    raise Damage(
                        f"{title} has {have[0]} rows with sum {have[1]} where the server has {expected[0]} with"
                        f" {expected[1]}, both at {until.file}:{until.offset}"
                    )
    rows = sum(int(expected[0]) for _table, expected in wanted.values())
    return {"tables": len(wanted), "rows": rows, "left_out": left_out}


def logs_since(live: Session, facts: Mapping[str, Any]) -> list[pathlib.Path] | str:
    """Return the binary logs of this server from the backup on, or why there are none to bring it up to date with."""
    if facts.get("host") != socket.gethostname():
        return f"the backup is of {facts.get('host')}, whose binary logs are not here"
    base = live.rows("SELECT COALESCE(@@log_bin_basename, '') AS base")[0]["base"]
    if not base:
        return "this server writes no binary log"
    folder = pathlib.Path(base).parent
    names = [str(row["Log_name"]) for row in live.rows("SHOW BINARY LOGS")]
    if facts["binlog_file"] not in names:
        return f"{facts['binlog_file']}, where the backup ends, is no longer there"
    return [folder / name for name in names[names.index(facts["binlog_file"]) :]]


@contextlib.contextmanager
def moment(live: Session) -> Iterator[Place]:
    """Hold one moment of the live server, for reading; say which."""
    live.run(
        "SET SESSION tx_isolation = 'REPEATABLE-READ', time_zone = '+00:00'",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT",
    )
    try:
        status = {
            str(row["Variable_name"]).lower(): str(row["Value"])
            for row in live.rows("SHOW STATUS LIKE 'binlog_snapshot_%'")
        }
        yield Place(status["binlog_snapshot_file"], int(status["binlog_snapshot_position"]))
    finally:
        live.run("ROLLBACK")


def sums(live: Session, server: Server) -> tuple[dict[str, tuple[data.Table, tuple[str, str]]], list[str]]:
    """Return rows and sum of each table at this moment, and which could not be summed up."""
    found: dict[str, tuple[data.Table, tuple[str, str]]] = {}
    left_out = []
    for table in data.tables(live):
        if table.engine.lower() != "innodb":
            left_out.append(f"{table.title}: engine {table.engine} takes no part in transactions")
            continue
        gives_way(server)
        try:
            found[table.title] = (table, sum_of(live, table))
        except SqlError as error:
            if not str(error).startswith(ALTERED):
                raise
            left_out.append(f"{table.title}: was altered meanwhile")
    return found, left_out


def gives_way(server: Server) -> None:
    """End as soon as this server has become the writer: its work comes first, and another host proves."""
    may_back_up(server.config, server.look(), require=False, allow_primary=False)


def sum_of(session: Session, table: data.Table) -> tuple[str, str]:
    row = session.rows(f"SELECT {data.sums(table)} FROM {table.where}")[0]
    count, total = row.values()
    return str(count), str(total)

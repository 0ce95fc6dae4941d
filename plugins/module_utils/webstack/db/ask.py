# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What people ask the agents for: another writer, a pause, maintenance. Agents decide; this waits and says why not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..core import lock
from ..core.errors import Problem
from ..core.summary import document
from ..pure.arbiter import Member, State, Swap, Wish
from . import data
from .acts import write_epoch
from .board import MAINTENANCE, PAUSED, STATE, Board, Reading, is_known
from .config import LOCK_PURPOSE, LOCK_SECONDS, SAID, Config
from .heart import TABLE
from .observe import epoch_of
from .role import look
from .session import local_session

#: A wish ends so long after the command that made it.
WISH_SECONDS = 5
SECONDS = 3.0


def board(config: Config) -> Board:
    if not config.decided:
        raise Problem("no quorum decides here (mysql_replication_mode: manual)")
    return Board(config.node.name, SECONDS)


def known(board: Board) -> tuple[Reading, State]:
    reading = board.read()
    if reading.state is None:
        raise Problem("the quorum holds no value for the database yet: run the role mysql_replication")
    return reading, reading.state


def awake(suspended: Any) -> None:
    """Refuse while nobody would do what is asked for."""
    if suspended:
        raise Problem(f"the agents are suspended, on {suspended}: 'webstack db suspend off' when the restore is done")


def enroll(config: Config) -> None:
    """Write down in the quorum that this server is the writer, if nothing stands there yet."""
    store = board(config)
    changed = False
    with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
        reading = store.read()
        if reading.state is None:
            session = local_session(config, 30)
            seen = look(session)
            if seen["replica"] is not None or seen["read_only"]:
                raise Problem("this server is not the primary: only the primary is the first writer")
            session.run(
                "SET SESSION sql_log_bin = 1",
                f"CREATE TABLE IF NOT EXISTS {TABLE} (server INT UNSIGNED PRIMARY KEY, at DATETIME(6) NOT NULL)"
                " ENGINE = InnoDB",
                "SET SESSION sql_log_bin = 0",
            )
            epoch = epoch_of(session) or 1
            if epoch == 1:
                write_epoch(session, epoch)
            data.placed(config.datadir)
            if store.swap(Swap(reading.revision, State(epoch, config.node.name)), None) is None:
                raise Problem("another host wrote its value at this moment: run the role again")
            changed = True
    print(json.dumps(document({}, changed)))


def retire(config: Config) -> None:
    """Remove what the quorum says of the pair: a person decides from now on, and it will not be true any more.

    Agents that find it later would undo what that person did.
    """
    if config.peer is not None and is_known():
        Board(config.node.name, SECONDS).set(STATE, False)


def switchover(config: Config, to: str, seconds: float) -> None:
    """Have the other host write, without losing a row; without an answer in time nothing has changed."""
    store = board(config)
    reading, state = known(store)
    awake(reading.suspended)
    wanted = to or next(node.name for node in (config.node, config.peer) if node and node.name != state.writer)
    config.named(wanted)
    if state.writer == wanted:
        print(f"{wanted} is the writer already")
        return
    if reason := why_not_move(reading, state, wanted):
        raise Problem(f"{wanted} cannot take over now: {reason}")
    wish(store, Wish(state.turn, wanted), seconds)


def why_not_move(reading: Reading, state: State, to: str) -> str:
    """What is in the way of a planned move, before anything is closed."""
    member = reading.reports.get(to)
    if to in reading.maintenance:
        return "it is in maintenance ('webstack db maintenance off' there)"
    if member is None:
        return "its agent does not report (systemctl status webstack-db there)"
    if member.broken:
        return member.broken
    if state.replica != to or state.life != member.life:
        return f"it does not hold every row of {state.writer}"
    if not member.fit:
        return "it cannot write: full or hanging disk"
    return lagging(member, state)


def lagging(member: Member, state: State) -> str:
    if member.source != state.writer or not member.applying:
        return "its replication is stopped"
    return f"it is {member.lag:.0f} s behind" if member.lag > 1 else ""


def promote(config: Config, force: bool, peer_is_off: bool, seconds: float) -> None:
    """Have this host write, when the other one is lost."""
    store = board(config)
    reading, state = known(store)
    if state.writer == config.node.name:
        print("this server is the writer already")
        return
    awake(reading.suspended)
    wish(store, Wish(state.turn, config.node.name, force, peer_is_off), seconds)


def wish(store: Board, wanted: Wish, seconds: float) -> None:
    """Ask for it until it has come; then, or when the time is over, the wish ends."""
    lease = store.store.grant(WISH_SECONDS)
    began = time.monotonic()
    why = ""
    try:
        store.ask(wanted, lease)
        while time.monotonic() - began < seconds:
            time.sleep(0.2)
            store.store.keep(lease)
            reading, state = known(store)
            if state.writer == wanted.to:
                print(f"{wanted.to} is the writer after {time.monotonic() - began:.1f} s")
                return
            member = reading.reports.get(wanted.to)
            why = "its agent does not report" if member is None else member.broken
            if wanted.to == store.name:
                why = said().get("why") or why
    finally:
        store.store.revoke(lease)
    reason = f": {why}" if why else f"; 'webstack db status' on {wanted.to} says why"
    raise Problem(f"{wanted.to} has not become the writer within {seconds:g} s{reason}. The wish is withdrawn")


def pause(config: Config, wanted: bool) -> None:
    """No automatic fail-over and no seed, until it ends. Planned moves still work."""
    board(config).set(PAUSED, wanted)
    print("fail-over is paused" if wanted else "fail-over is automatic again, as far as the mode says so")


def maintenance(config: Config, wanted: bool, seconds: float) -> None:
    """This host is not counted on: it hands over where it is the writer, and may then go off without a stall."""
    store = board(config)
    reading, _ = known(store)
    awake(wanted and reading.suspended)
    store.set(MAINTENANCE + config.node.name, wanted)
    if not wanted:
        print(f"{config.node.name} is counted on again")
        return
    end = time.monotonic() + seconds
    came = False
    try:
        while not came and time.monotonic() < end:
            _, state = known(store)
            came = config.node.name not in (state.writer, state.replica)
            time.sleep(0 if came else 0.1)
    finally:
        if not came:
            store.set(MAINTENANCE + config.node.name, False)
    if not came:
        role = "the writer" if known(store)[1].writer == config.node.name else "counted on"
        raise Problem(f"{config.node.name} is still {role} after {seconds:g} s; maintenance is taken back")
    print(f"{config.node.name} may go off")


@contextmanager
def set_aside(config: Config, seconds: float = 30) -> Iterator[bool]:
    """Have this host out of the way within this block, and say whether that worked."""
    if not config.decided:
        yield False
        return
    awake(said().get("suspended"))
    there = False
    try:
        # Somebody's own ends when they say so.
        there = config.node.name in known(board(config))[0].maintenance
        if not there:
            maintenance(config, True, seconds)
    except Problem as problem:
        print(f"{problem}; goes on all the same, and writes stand still meanwhile")
        yield False
        return
    try:
        yield True
    finally:
        if not there:
            maintenance(config, False, seconds)


def said() -> dict[str, Any]:
    """Return what the agent of this host wrote down last."""
    try:
        found: dict[str, Any] = json.loads(SAID.read_text())
    except (OSError, ValueError):
        return {}
    return found

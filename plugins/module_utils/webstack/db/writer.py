# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Opens a server for writes, closes it, and promotes it."""

from __future__ import annotations

import contextlib

from ..core import lock
from ..core.errors import Problem
from ..core.mariadb import ServerGone, Session, quote
from ..core.say import say
from .address import drop_address, take_address
from .config import LOCK_PURPOSE, LOCK_SECONDS, Config
from .fence import cut_privileged, hold_events, known_events, lift_fence, note_events, resume_events
from .marker import marker, note_opened, server_process, set_marker
from .options import switch, wanted_options
from .role import look, why_not_open
from .session import local_session, peer_session


def semi_sync(config: Config, session: Session, on: bool) -> None:
    """Switch the primary's half of semi-sync. It is on only on the writer, else a replica's appliers would wait."""
    if on:
        session.run(
            f"SET GLOBAL rpl_semi_sync_master_timeout = {config.semi_sync_timeout}",
            "SET GLOBAL rpl_semi_sync_master_wait_no_slave = OFF",
        )
    session.run(f"SET GLOBAL rpl_semi_sync_master_enabled = {'ON' if on else 'OFF'}")


def open_for_writes(config: Config, session: Session, paired: bool) -> None:
    set_marker({"paired": paired})
    if known_events().get("process") != server_process(session):
        # Write this down before anything can fail. `serve` does later what is left undone.
        note_events(session, False, switch(wanted_options().get("event_scheduler", "")))
    semi_sync(config, session, True)
    lift_fence(session)
    session.run("SET GLOBAL read_only = OFF")
    note_opened(session)
    say("this server is the primary and accepts writes")
    take_address(config)
    resume_events(session)


def close_for_writes(config: Config) -> None:
    """The first step of a change of roles by hand."""
    with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
        session = local_session(config, 30)
        seen = look(session)
        if seen["replica"] is not None:
            raise Problem(f"this server replicates from {seen['replica']['source']}: it is closed")
        # Events first. What they write after the position was read would be missing on the next primary.
        if not seen["read_only"]:
            note_events(session, True, seen["event_scheduler"])
        hold_events(session, seen)
        session.run("SET GLOBAL read_only = ON")
        cut_privileged(session)
        drop_address(config)
    print("closed: 'webstack db promote' opens it again")


def bootstrap(config: Config) -> None:
    """First primary of a site whose servers are all empty."""
    with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
        session = local_session(config)
        seen = look(session)
        if seen["replica"] is not None:
            raise Problem(f"this server replicates from {seen['replica']['source']}")
        # If this server was the primary of a pair, check as strictly as 'promote' does.
        paired = bool((marker() or {}).get("paired"))
        reason = why_not_open(config, seen, paired)
        if reason:
            raise Problem(reason)
        open_for_writes(config, session, paired)


def promote(config: Config, force: bool, seconds: float) -> None:
    with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
        session = local_session(config)
        seen = look(session)
        if seen["replica"] is None and not seen["read_only"]:
            print("this server is the primary already")
            return
        other = config.peer.name if config.peer else "nobody"
        if not force:
            if seen["replica"] is not None:
                raise Problem(
                    f"this server replicates from {seen['replica']['source']}. If that one is lost for good,"
                    " 'promote --force' makes this server the primary"
                )
            reason = why_not_open(config, seen, paired=True)
            if reason:
                raise Problem(f"{reason}. 'promote --force' goes on all the same; read what it risks")
            open_for_writes(config, session, paired=True)
            return
        if config.peer is not None:
            say(
                f"RISK: transactions that only {other} has are lost to this server, and if {other} still accepts"
                f" writes somewhere, two servers now do. {other} stays read-only when it returns and has to be seeded"
                " again (playbook reseed.yml)."
            )
        with contextlib.suppress(ServerGone):
            peer = peer_session(config)
            if not look(peer)["read_only"]:
                raise Problem(f"{other} answers and accepts writes: make it read-only first (SET GLOBAL read_only = 1)")
        if seen["replica"] is not None:
            drain_relay_log(session, seconds)
            # Before the link goes for good: where this cannot be written down, nothing opens.
            set_marker({"paired": False})
            session.run("STOP ALL SLAVES", "RESET SLAVE ALL", seconds=60)
        # No other server has a copy of what is written from here on. So a restart need not ask one.
        open_for_writes(config, session, paired=False)


def drain_relay_log(session: Session, seconds: float) -> None:
    """Apply all received transactions before the link is removed for good."""
    link = session.rows("SHOW ALL SLAVES STATUS")[0]
    if link["Slave_SQL_Running"] != "Yes" and link["Last_SQL_Errno"] not in ("0", None):
        raise Problem(f"received transactions cannot be applied: {link['Last_SQL_Error']}")
    session.run("STOP SLAVE IO_THREAD", seconds=30)
    received = session.rows("SHOW ALL SLAVES STATUS")[0]["Gtid_IO_Pos"]
    if not received:
        return
    session.run("START SLAVE SQL_THREAD")
    answer = session.rows(f"SELECT MASTER_GTID_WAIT({quote(received)}, {seconds:g}) AS done", seconds + 5)
    if answer[0]["done"] != "0":
        raise Problem(f"received transactions up to {received} are not applied after {seconds:g} s; try again")

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Carries out what was decided, act by act, in one session of the server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from ..core import files
from ..core.errors import Problem
from ..core.mariadb import Session, SqlError
from ..core.say import say
from ..pure.arbiter import LIMITS, Do
from . import start
from .address import drop_address, take_address
from .apart import apart
from .config import Config
from .fence import close_to_all, end_clients, hold_events, known_events, lift_fence, note_events, resume_events
from .link import link
from .marker import going_on, note_opened, server_process, set_marker
from .observe import DAY, TRUNCATED, Observer, has_room, life_of
from .options import switch, wanted_options
from .server import systemctl

EPOCH_TABLE = "mysql.webstack_epoch"
#: Numbers of an epoch begin here, so that two epochs never use the same one.
EPOCH_STEP = 1 << 40
#: A statement that runs on keeps the server from closing for so long; then its session is ended.
CLOSE_SECONDS = 1
#: Of a server that runs and does not answer, before it is started anew.
HUNG_SECONDS = 10.0
#: An address that is on two closed hosts for a moment costs nothing; one on none costs a second.
LINGER_SECONDS = 0.4
STARTING = ("activating", "reloading", "deactivating")


class Ended(Problem):
    """The session in which these acts were decided is gone; what is true for one run is not for the next."""


class Pinned(Session):
    """A session that does not come back by itself."""

    began = False

    @property
    def ended(self) -> bool:
        return self.began and self._connection is None

    def rows(self, statement: str, seconds: float | None = None) -> list[dict[str, str | None]]:
        if self.ended:
            raise Ended("the session with the server has ended")
        self.began = True
        return super().rows(statement, seconds)


class Acts:
    """The acts of one agent. Each raises a Problem when it is not done."""

    def __init__(self, config: Config, observer: Observer) -> None:
        self.config, self.observer = config, observer
        self.epoch = 0
        self.silent_since = 0.0
        self.lingers = 0.0

    def do(self, act: Do, session: Session | None) -> None:
        without: dict[Do, Callable[[], None]] = {
            Do.START: self.start,
            Do.START_AS_REPLICA: self.start_as_replica,
            Do.FENCE: self.fence,
            Do.WITHDRAW: self.withdraw,
        }
        if act in without:
            without[act]()
            return
        if session is None:
            raise Ended("the server does not answer")
        within: dict[Do, Callable[[Session], None]] = {
            Do.CLOSE: self.close,
            Do.OPEN: self.open,
            Do.SEMI_SYNC_ON: self.semi_sync_on,
            Do.SEMI_SYNC_OFF: self.semi_sync_off,
            Do.STOP_RECEIVING: self.stop_receiving,
            Do.RECEIVE: self.receive,
            Do.APPLY: lambda one: one.run("START SLAVE SQL_THREAD", seconds=30),
            Do.LINK: self.link,
            Do.NEW_EPOCH: self.new_epoch,
        }
        within[act](session)

    # --- the process --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it closed, and as what it was."""
        self.may_start()
        systemctl("start", start.UNIT)

    def may_start(self) -> None:
        """Have no server there that runs. One that hangs is killed; one that comes or goes is left alone."""
        if start.packages_change():
            raise Problem("packages are being changed on this host: the server is started afterwards")
        if not has_room(self.config):
            # It would wait for room in steps of a minute, and not notice that there is some.
            raise Problem(f"the disk of {self.config.datadir} is full: the server is started when there is room")
        state = start.state()
        if state in STARTING:
            raise Problem("the server is starting or stopping")
        if state == "active":
            if not self.hangs():
                raise Problem("the server runs and does not answer")
            say("the server runs and does not answer: it is started anew")
            start.kill()

    def hangs(self) -> bool:
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        return now - self.silent_since > HUNG_SECONDS

    def answers(self) -> None:
        self.silent_since = 0.0

    def start_as_replica(self) -> None:
        self.may_start()
        systemctl("start", start.UNIT, as_replica=True)
        session = Session({"unix_socket": self.config.socket, "user": "root"}, 10)
        files.write(TRUNCATED, life_of(session))
        session.close()

    def fence(self) -> None:
        self.lingers = 0.0
        self.withdraw()
        start.kill()

    def withdraw(self) -> None:
        """Give the address up; after a planned move as soon as the other one has had time to take it."""
        if self.lingers > time.monotonic():
            self.observer.leaves = True
            return
        self.lingers = 0.0
        self.observer.leaves = False
        drop_address(self.config)
        self.observer.moved()

    def handed_over(self) -> None:
        """The other one is the writer by plan: it takes the address now, and nobody has to find it nowhere."""
        self.lingers = time.monotonic() + LINGER_SECONDS

    def let_go(self) -> None:
        """Give up an address that we kept for the other one's sake."""
        if self.observer.leaves and self.lingers <= time.monotonic():
            self.withdraw()

    # --- for writes, and closed ---------------------------------------------------------------------

    def open(self, session: Session) -> None:
        seen = self.observer.seen
        if seen["replica"] is not None:
            session.run("STOP ALL SLAVES", "RESET SLAVE ALL", seconds=60)
        if seen["read_only"]:
            if known_events().get("process") != server_process(session):
                note_events(session, False, switch(wanted_options().get("event_scheduler", "")))
            lift_fence(session)
            session.run("SET GLOBAL read_only = OFF")
            note_opened(session)
        take_address(self.config)
        self.observer.moved()
        say("this server is the primary and accepts writes")
        with going_on("that this server is the primary"):
            set_marker({"paired": True})
        resume_events(session)

    def close(self, session: Session) -> None:
        """Take no writes any more. The address stays until the other one has it: who is refused there asks again."""
        seen = self.observer.seen
        note_events(session, True, str(seen["event_scheduler"]))
        hold_events(session, seen)
        session.run(f"SET SESSION max_statement_time = {CLOSE_SECONDS}")
        try:
            try:
                session.run("SET GLOBAL read_only = ON")
            except SqlError:
                end_clients(session)
                session.run("SET GLOBAL read_only = ON")
        finally:
            session.run("SET SESSION max_statement_time = 0")
        end_clients(session)

    def stay_closed(self, session: Session) -> None:
        """Fence what read_only does not bind: events, and accounts that may write all the same."""
        seen = self.observer.seen
        hold_events(session, seen)
        if seen["replica"] is None:
            close_to_all(session, seen)
        elif seen["fenced"]:
            session.run("SET GLOBAL tx_read_only = OFF")

    # --- semi-sync ----------------------------------------------------------------------------------

    def semi_sync_on(self, session: Session) -> None:
        """A commit waits for the other one until the agent decides."""
        session.run(
            f"SET GLOBAL rpl_semi_sync_master_timeout = {DAY}",
            "SET GLOBAL rpl_semi_sync_master_wait_no_slave = ON",
            "SET GLOBAL rpl_semi_sync_master_enabled = ON",
        )
        self.observer.protected()

    def semi_sync_off(self, session: Session) -> None:
        session.run("SET GLOBAL rpl_semi_sync_master_enabled = OFF")

    # --- the link -----------------------------------------------------------------------------------

    def stop_receiving(self, session: Session) -> None:
        assert self.config.peer is not None
        silent = time.monotonic() - self.observer.heard[0] >= LIMITS.silent
        with apart(self.config.peer) if silent else contextlib.nullcontext():
            session.run("STOP SLAVE IO_THREAD", seconds=30)

    def receive(self, session: Session) -> None:
        session.run("START SLAVE IO_THREAD", seconds=30)
        self.observer.linked()

    def link(self, session: Session) -> None:
        """Replicate from the writer, from where this server's own rows end."""
        assert self.config.peer is not None
        rows = session.rows("SELECT @@gtid_slave_pos AS applied, @@gtid_binlog_pos AS logged")[0]
        session.run("SET GLOBAL tx_read_only = OFF")
        link(self.config, self.config.peer, newest(rows["applied"], rows["logged"]), session)
        self.observer.linked()
        with going_on("that this server is no primary any more"):
            set_marker(None)

    def new_epoch(self, session: Session) -> None:
        write_epoch(session, self.epoch)


def newest(*positions: str | None) -> str:
    """Of each domain the GTID with the highest number."""
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for text in positions for part in (text or "").split(","))):
        domain = item.partition("-")[0]
        if domain not in found or number(item) > number(found[domain]):
            found[domain] = item
    return ",".join(found.values())


def number(gtid: str) -> int:
    return int(gtid.rpartition("-")[2])


def write_epoch(session: Session, epoch: int) -> None:
    """Stamp the data; the row replicates. Its number lies beyond all that any earlier epoch can have used."""
    session.run("SET SESSION sql_log_bin = 1")
    try:
        session.run(
            # Before the table, which is logged, too: its number must not be one that another history has used.
            f"SET SESSION gtid_seq_no = {epoch * EPOCH_STEP}" if epoch > 1 else "SET SESSION gtid_seq_no = 0",
            f"CREATE TABLE IF NOT EXISTS {EPOCH_TABLE} (id TINYINT PRIMARY KEY, epoch BIGINT NOT NULL) ENGINE = InnoDB",
            f"REPLACE INTO {EPOCH_TABLE} VALUES (1, {epoch})",
        )
    finally:
        session.run("SET SESSION sql_log_bin = 0")

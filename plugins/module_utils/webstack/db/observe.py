# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the agent sees of its own server. It looks after it has read the store, never before."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from ..core.errors import Problem
from ..core.mariadb import ServerGone, Session, SqlError
from ..pure.arbiter import Own
from .address import carries_address
from .config import RUN, Config
from .data import is_empty, is_placed
from .heart import Heart
from .marker import server_process
from .role import errant, gtid_sequences, last_of_each, links_of, look
from .session import peer_session

#: The life of the server that was started with what nobody had acknowledged cut off.
TRUNCATED = RUN / "truncated"
DAY = 86_400_000
#: Errors after which the applier may be started again: lock wait, deadlock, a connection that was ended.
PASSING = {"1205", "1213", "1927", "2006", "2013"}
#: The source says that it does not have what comes next, or that this data is not of its history.
REFUSED_BY_SOURCE = {"1236", "1945", "1950"}
#: A commit that takes longer hangs.
HUNG_SECONDS = 5.0
RESERVE = 32 << 20
#: For the question to the other server which rows it has.
PEER_SECONDS = 0.5
#: A replica whose lag nobody knows.
FAR = 1e6
NOTHING_YET = -1e9
#: Of a copy whose server does not know yet where in the history it stands. It is only seeded.
NO_EPOCH = -1

DOWN = Own(
    name="", peer="", automatic=False, clock=0.0, up=False, fit=False, life="", epoch=0, open=False, address=False,
    semi_sync=False, followed=False, stalled=0.0, source="", receiving=False, silent=FAR, received=0, applied=0,
    applying=False, lag=FAR, broken="", truncated=False, contained=None, pending=None, mark=None,
)  # fmt: skip


class Observer:
    """Looks, and remembers when it last saw an acknowledgement, and something new on the link."""

    def __init__(self, config: Config, heart: Heart) -> None:
        assert config.peer is not None
        self.config, self.peer, self.heart = config, config.peer, heart
        self.acknowledged: tuple[float, str] = (0.0, "")
        self.heard: tuple[float, object] = (NOTHING_YET, None)
        self.address: tuple[float, bool] = (NOTHING_YET, False)
        #: The address is here only until the other one has it.
        self.leaves = False
        #: What the store says. Nobody else writes rows of ours.
        self.is_writer = False
        #: The last look in the words of the other commands.
        self.seen: dict[str, Any] = {}

    def without_server(self) -> Own:
        self.seen = {}
        self.heart.beat(False)
        return DOWN._replace(
            name=self.config.node.name, peer=self.peer.name, automatic=self.config.mode == "auto", clock=time.time(),
            address=self.has_address(), silent=time.monotonic() - self.heard[0], empty=is_empty(self.config.datadir),
        )  # fmt: skip

    def own(self, session: Session) -> Own:
        """Return what the server is now. A ServerGone says that it does not answer."""
        now = time.monotonic()
        seen = self.seen = look(session)
        links = links_of(session.rows("SHOW ALL SLAVES STATUS"))
        link: Mapping[str, Any] = links[0] if links else {}
        opened = not seen["read_only"]
        self.heart.beat(opened and self.is_writer)
        more = session.rows(
            "SELECT @@rpl_semi_sync_master_timeout AS timeout, @@rpl_semi_sync_master_wait_no_slave AS alone"
        )[0]
        status = status_of(session)
        life = life_of(session)
        applied = sequence(seen["gtid"], seen["gtid_binlog_pos"])
        received = max(applied, sequence(link.get("Gtid_IO_Pos")))
        source = self.name_of(link.get("Master_Host"))
        receiving = bool(link) and link["Slave_IO_Running"] != "No"
        return Own(
            name=self.config.node.name,
            peer=self.peer.name,
            automatic=self.config.mode == "auto",
            clock=time.time(),
            up=True,
            fit=self.fit(session, opened, status),
            life=life,
            epoch=epoch_of(session) if is_placed(self.config.datadir) else NO_EPOCH,
            open=opened,
            address=self.has_address(),
            semi_sync=seen["semi_sync"] and waits_for_ever(more),
            followed=self.followed(session),
            stalled=self.stalled(now, status),
            source=source,
            receiving=receiving,
            silent=self.silent(now, link),
            received=received,
            applied=applied,
            applying=bool(link) and link["Slave_SQL_Running"] == "Yes",
            lag=lag_of(link, received, applied),
            broken=broken(link) or (errant(seen, seen["applied"]) if link else ""),
            truncated=was_truncated(life),
            contained=None if opened or source == self.peer.name else self.contained(seen),
            pending=None,
            mark=None,
        )

    # --- clocks -------------------------------------------------------------------------------------

    def linked(self) -> None:
        """The link begins anew: it counts as heard."""
        self.heard = (time.monotonic(), None)

    def protected(self) -> None:
        """Semi-sync has just gone on: an acknowledgement is due from now on."""
        self.acknowledged = (time.monotonic(), self.acknowledged[1])

    def stalled(self, now: float, status: Mapping[str, str]) -> float:
        """Seconds for which nothing was acknowledged, though something waits, or nobody is there who would."""
        count = status["get_ack"]
        fine = status["clients"] != "0" and status["wait_sessions"] == "0"
        if fine or count != self.acknowledged[1]:
            self.acknowledged = (now, count)
        return now - self.acknowledged[0]

    def silent(self, now: float, link: Mapping[str, Any]) -> float:
        """Seconds since the link brought something: rows, or the heartbeats that come without rows."""
        news = tuple(link.get(key) for key in ("Master_Log_File", "Read_Master_Log_Pos", "Slave_received_heartbeats"))
        if news != self.heard[1]:
            known = self.heard[1] is not None
            self.heard = (now if known and link.get("Slave_IO_Running") == "Yes" else self.heard[0], news)
        return now - self.heard[0]

    def has_address(self) -> bool:
        if not self.config.writer_address:
            # Nothing that could be given up.
            return bool(self.seen) and not self.seen["read_only"]
        now = time.monotonic()
        if now - self.address[0] > 1.0:
            self.address = (now, carries_address(self.config))
        return self.address[1] and not self.leaves

    def moved(self) -> None:
        """The address was taken or given up: look at it again."""
        self.address = (NOTHING_YET, False)

    # --- the server ---------------------------------------------------------------------------------

    def name_of(self, source: str | None) -> str:
        for node in (self.config.node, self.peer):
            if source in (node.name, node.address):
                return node.name
        return source or ""

    def followed(self, session: Session) -> bool:
        rows = session.rows("SELECT HOST AS host FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'")
        return any(str(row["host"]).rpartition(":")[0].strip("[]") == self.peer.address for row in rows)

    def fit(self, session: Session, opened: bool, status: Mapping[str, str]) -> bool:
        """Whether commits reach the disk, as far as that shows."""
        if not has_room(self.config):
            return False
        # One that waits for an acknowledgement has reached the disk.
        return not opened or self.heart.since() < HUNG_SECONDS or status["wait_sessions"] != "0"

    def contained(self, seen: Mapping[str, Any]) -> bool | None:
        """Ask the other server whether it has our last rows; None when it does not answer."""
        session = peer_session(self.config, PEER_SECONDS)
        try:
            theirs = look(session)
        except Problem:
            return None
        finally:
            session.close()
        has = last_of_each(theirs["gtid_binlog_state"], theirs["gtid"])
        return all(has.get(origin, -1) >= number for origin, number in last_of_each(seen["gtid_binlog_pos"]).items())


def has_room(config: Config) -> bool:
    try:
        room = os.statvfs(config.datadir)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize >= RESERVE


def sequence(*positions: str | None) -> int:
    """Return how far these positions have come: all domains together, since each only grows."""
    newest: dict[str, int] = {}
    for text in positions:
        for domain, number in gtid_sequences(text).items():
            newest[domain] = max(newest.get(domain, 0), number)
    return sum(newest.values())


def status_of(session: Session) -> dict[str, str]:
    names = ("clients", "wait_sessions", "get_ack")
    listing = ", ".join(f"'rpl_semi_sync_master_{name}'" for name in names)
    rows = session.rows(
        "SELECT LOWER(VARIABLE_NAME) AS name, VARIABLE_VALUE AS value FROM information_schema.GLOBAL_STATUS"
        f" WHERE VARIABLE_NAME IN ({listing})"
    )
    found = {str(row["name"]).removeprefix("rpl_semi_sync_master_"): str(row["value"]) for row in rows}
    if missing := set(names) - set(found):
        raise Problem(f"the server says nothing about its semi-sync: {', '.join(sorted(missing))}")
    return found


def waits_for_ever(row: Mapping[str, str | None]) -> bool:
    """Whether a commit without an acknowledgement waits for a decision. With less it acknowledges by itself."""
    return int(row["timeout"] or 0) >= DAY and row["alone"] == "1"


def epoch_of(session: Session) -> int:
    """Return the epoch of the data, 0 for data that has none yet."""
    try:
        rows = session.rows("SELECT epoch FROM mysql.webstack_epoch WHERE id = 1")
    except SqlError as error:
        if str(error).startswith("ERROR 1146"):
            return 0
        raise
    return int(rows[0]["epoch"] or 0) if rows else 0


def life_of(session: Session) -> str:
    """Return what names this run of the server, on this run of the host."""
    try:
        process = server_process(session)
        started = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().partition("-")[0]
    except (OSError, IndexError) as error:
        raise ServerGone(f"the server's process: {error}") from error
    return f"{boot}-{process}-{started}"


def was_truncated(life: str) -> bool:
    with contextlib.suppress(OSError):
        return TRUNCATED.read_text() == life
    return False


def lag_of(link: Mapping[str, Any], received: int, applied: int) -> float:
    if applied >= received and link.get("Slave_IO_Running") == "Yes":
        return 0.0
    behind = link.get("Seconds_Behind_Master")
    return FAR if behind is None else float(behind)


def broken(link: Mapping[str, Any]) -> str:
    """Return why this data can only be seeded."""
    for kind, fatal in (("SQL", None), ("IO", REFUSED_BY_SOURCE)):
        number = str(link.get(f"Last_{kind}_Errno") or "0")
        stopped = link.get(f"Slave_{kind}_Running") == "No"
        if stopped and number != "0" and (number in fatal if fatal else number not in PASSING):
            return f"error {number}: {link.get(f'Last_{kind}_Error')}"
    return ""

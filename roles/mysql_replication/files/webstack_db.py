#!/usr/bin/python3
"""webstack-db: one of the two MariaDB servers of a site, seen and handled from its own host.

The server says what it is: with a replica configuration it is a replica, writable it is the primary. It
boots read-only. `watch` (webstack-db.service) gives a primary its role back after a restart and carries
the writer address; everything else here is asked for by a person or by a play.

The local server is reached with the mariadb client over the unix socket (root, no password), the other one
over TLS. Settings: /etc/webstack/db.json, written by the role mysql_replication.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import pwd
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

sys.path.insert(0, "/usr/local/lib/webstack")
import data_swap
from data_swap import SwapError

CONFIG = pathlib.Path("/etc/webstack/db.json")
PEER_OPTIONS = "/etc/webstack/db-peer.cnf"
MARKER = pathlib.Path("/var/lib/webstack-db/primary")
RUN = pathlib.Path("/run/webstack-db")
STARTED = RUN / "started.json"
OPENED = RUN / "opened"
SEED_RESULT = RUN / "seed.json"
SEED_UNIT = "webstack-db-seed"
EVENTS = RUN / "events.json"
PROBE_LOCK = RUN / "probe.lock"
ZONES = pathlib.Path("/usr/share/zoneinfo")
# A kept data directory holds the marker of its time under this name.
KEPT_MARKER = "webstack-primary.json"
SYSTEM_SCHEMAS = {"mysql", "information_schema", "performance_schema", "sys"}
BATCH = ("--batch", "--unbuffered", "--force", "--skip-reconnect")
# What this program says to a server concerns that server alone. In a replica's binary log it would be a transaction
# that the primary never had, and replication would stop at it. The second is for a server that is closed for others.
UNLOGGED = "--init-command=SET SESSION sql_log_bin = 0, tx_read_only = 0"
# What a client says that has no server (any more).
LOST = re.compile(rb"^ERROR (?:2002|2003|2006|2013|2026|2055|1927|1045|1130)\b.*$", re.M)
# Boots last of all files: the server starts closed whatever the operator's files say.
FENCE_OPTIONS = pathlib.Path("/etc/mysql/mariadb.conf.d/zz-webstack.cnf")
# Wrong value, wrong type, unknown engine, collation, character set, time zone, locale.
WRONG_VALUE = re.compile(r"ERROR (?:1231|1232|1286|1273|1115|1298|1649)\b")
# What a commit says that does not come back.
STUCK_STATES = (
    "Commit", "Writing to binlog", "Waiting for prior transaction to commit", "Waiting for commit lock",
    "Waiting for backup lock", "Waiting for global read lock", "query end",
)  # fmt: skip
STUCK_SECONDS = 5
# A replica stores enabled and disabled events alike. The comment of one that is to stay off says so.
EVENT_OFF = "webstack: off"
# Of mysql.global_priv: READ_ONLY ADMIN, which read_only does not bind.
READ_ONLY_ADMIN = 1 << 33
# Names changed with 11.x; the content is the same.
BACKUP_POSITION = ("mariadb_backup_binlog_info", "xtrabackup_binlog_info")


class Trouble(Exception):
    """Something that the operator can act on; its text is all that is printed."""


class ServerGone(Trouble):
    """The server does not answer."""


class SqlError(Trouble):
    """The server answered with an error."""


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- settings ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    name: str
    address: str
    port: int


class Config:
    def __init__(self) -> None:
        try:
            raw = json.loads(CONFIG.read_text())
        except FileNotFoundError:
            raise Trouble(f"{CONFIG} is missing: the role mysql_replication writes it") from None
        nodes = [Node(n["name"], n["address"], int(n["port"])) for n in raw["nodes"]]
        self.node = next(n for n in nodes if n.name == raw["name"])
        self.peer = next((n for n in nodes if n.name != raw["name"]), None)
        self.writer_address: str = raw["writer_address"]
        self.datadir = pathlib.Path(raw["datadir"])
        self.socket: str = raw["socket"]
        self.tls: dict[str, str] = raw["tls"]
        self.user: str = raw["user"]
        self.password: str = raw["password"]
        self.seed_port: int = raw["seed_port"]
        self.seed_compression: int = raw["seed_compression"]
        self.semi_sync_timeout: int = raw["semi_sync_timeout"]

    def named(self, name: str) -> Node:
        for node in (self.node, self.peer):
            if node is not None and node.name == name:
                return node
        raise Trouble(f"{name!r} is none of this site's database hosts")

    def is_node(self, node: Node, source: str) -> bool:
        return source in (node.name, node.address)


# --- SQL --------------------------------------------------------------------------------------------


def quote(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def unescape(field: str) -> str | None:
    if field == "NULL":
        return None
    if "\\" not in field:
        return field
    names = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
    return re.sub(r"\\(.)", lambda m: names.get(m[1], m[1]), field)


class Session:
    """One open mariadb client. Statements go through its stdin, so no secret reaches a command line."""

    def __init__(self, command: list[str], seconds: float) -> None:
        self.command = command
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.count = 0
        self.broken = False

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                # End of input is a proper goodbye; a killed client leaves a warning in the server's log.
                assert self.process.stdin is not None
                self.process.stdin.close()
                self.process.wait(timeout=0 if self.broken else 1)
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self.process = None
            self.broken = False

    def _open(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        return self.process

    def rows(self, statement: str, seconds: float | None = None) -> list[dict[str, str | None]]:
        """Run one statement, return its rows."""
        client = self._open()
        assert client.stdin is not None and client.stdout is not None
        self.count += 1
        # The client runs with --force: after an error it goes on to the marker that ends the answer.
        end = f"--{os.getpid()}-{self.count}--"
        limit = self.seconds if seconds is None else seconds
        deadline = time.monotonic() + limit
        data = b""
        try:
            client.stdin.write(f"{statement};\nSELECT '{end}' AS '{end}';\n".encode())
            client.stdin.flush()
            tail = f"{end}\n{end}\n".encode()
            while not data.endswith(tail):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([client.stdout], [], [], left)[0]:
                    raise ServerGone(f"no answer within {limit:g} s")
                chunk = os.read(client.stdout.fileno(), 65536)
                if not chunk:
                    raise ServerGone(data.decode(errors="replace").strip() or "the client ended")
                data += chunk
                lost = LOST.search(data)
                if lost:
                    # The marker needs a server too: it would never come.
                    raise ServerGone(lost[0].decode(errors="replace"))
        except (ServerGone, OSError) as error:
            self.broken = True
            self.close()
            raise ServerGone(str(error)) from None
        lines = data[: -len(tail)].decode(errors="replace").split("\n")[:-1]
        for line in lines:
            if line.startswith("ERROR "):
                raise SqlError(line)
        if not lines:
            return []
        names = lines[0].split("\t")
        return [dict(zip(names, map(unescape, line.split("\t")), strict=True)) for line in lines[1:]]

    def run(self, *statements: str, seconds: float | None = None) -> None:
        for statement in statements:
            self.rows(statement, seconds)


def local_client(config: Config) -> list[str]:
    # The password file of a user's home and client sections of my.cnf have no say here.
    # The character set is part of what an event is stored with; the client's own would depend on who calls.
    options = ["--no-defaults", "--default-character-set=utf8mb4", UNLOGGED]
    return ["mariadb", *options, "--user=root", f"--socket={config.socket}", "--protocol=socket"]


def local_session(config: Config, seconds: float = 10) -> Session:
    return Session([*local_client(config), *BATCH], seconds)


def peer_session(config: Config, seconds: float = 4) -> Session:
    if config.peer is None:
        raise ServerGone("there is no other database host")
    command = ["mariadb", f"--defaults-file={PEER_OPTIONS}", *BATCH]
    return Session(command, seconds)


def look(session: Session) -> dict[str, Any]:
    """What the server says about itself."""
    base = session.rows(
        "SELECT @@version AS version, @@server_id AS server_id, @@read_only AS read_only,"
        " @@gtid_current_pos AS gtid, @@gtid_binlog_pos AS gtid_binlog_pos, @@gtid_binlog_state AS gtid_binlog_state,"
        " @@rpl_semi_sync_master_enabled AS semi_sync, @@event_scheduler AS event_scheduler,"
        " @@GLOBAL.tx_read_only AS fenced"
    )[0]
    seen: dict[str, Any] = dict(base)
    seen["server_id"] = int(base["server_id"] or 0)
    seen["read_only"] = base["read_only"] != "0"
    seen["semi_sync"] = base["semi_sync"] == "1"
    seen["fenced"] = base["fenced"] == "1"
    seen["replica"] = None
    links = session.rows("SHOW ALL SLAVES STATUS")
    if links:
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
    # A data directory that is a mount point has folders that are no schemas.
    return [n for n in names if n not in {f"#mysql50#{folder}" for folder in data_swap.KEEP}]


def role_of(seen: dict[str, Any], marked: bool) -> str:
    if seen["replica"] is not None:
        return "replica"
    return "primary" if marked or not seen["read_only"] else "none"


# --- the durable marker: this host was primary ------------------------------------------------------


def marker() -> dict[str, Any] | None:
    try:
        return dict(json.loads(MARKER.read_text()))
    except FileNotFoundError:
        return None
    except ValueError:
        # A torn file still says that this host was primary; a pair is the careful reading.
        return {"paired": True}


def set_marker(content: dict[str, Any] | None) -> None:
    """Write or remove the marker so that a power loss right after cannot bring the old state back."""
    if content == marker():
        return
    MARKER.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if content is None:
        MARKER.unlink(missing_ok=True)
    else:
        new = MARKER.with_suffix(".new")
        with new.open("w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(MARKER)
    folder = os.open(MARKER.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def role_lock() -> Iterator[None]:
    """Whoever changes what this server is, holds this."""
    RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (RUN / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- the writer address -----------------------------------------------------------------------------


def interfaces() -> dict[str, list[str]]:
    """Interface -> its IPv4 addresses, as address/prefix."""
    answer = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, text=True, check=True)
    return {
        link["ifname"]: [f"{a['local']}/{a['prefixlen']}" for a in link.get("addr_info", []) if "local" in a]
        for link in json.loads(answer.stdout)
    }


def carries_address(config: Config) -> bool:
    return any(config.writer_address in found for found in interfaces().values())


def take_address(config: Config) -> None:
    if not config.writer_address or carries_address(config):
        return
    own = config.node.address + "/"
    device = next((n for n, found in interfaces().items() if any(a.startswith(own) for a in found)), None)
    if device is None:
        raise Trouble(f"no interface carries {config.node.address}; the writer address stays off")
    subprocess.run(["ip", "address", "add", config.writer_address, "dev", device], check=True)
    address = config.writer_address.partition("/")[0]
    # Neighbours that remember the old owner learn the new one now; nobody waits for the three packets.
    subprocess.Popen(
        ["arping", "-q", "-U", "-c", "3", "-I", device, address],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    log(f"took the writer address {config.writer_address} on {device}")


def drop_address(config: Config) -> None:
    if not config.writer_address:
        return
    for device, found in interfaces().items():
        if config.writer_address in found:
            subprocess.run(["ip", "address", "del", config.writer_address, "dev", device], check=False)
            log(f"gave the writer address {config.writer_address} up")


# --- becoming and staying what the server is --------------------------------------------------------


def gtid_sequences(position: str | None) -> dict[str, int]:
    """Highest sequence number per domain."""
    highest: dict[str, int] = {}
    for item in filter(None, (position or "").replace("\n", "").split(",")):
        domain, _server, sequence = item.strip().split("-")
        highest[domain] = max(highest.get(domain, 0), int(sequence))
    return highest


def why_not_open(config: Config, own: dict[str, Any], paired: bool) -> str:
    """Why this server, read-only and without a source, may not accept writes; empty when it may."""
    if config.peer is None:
        return ""
    session = peer_session(config)
    try:
        peer = look(session)
    except Trouble as error:
        # Nobody was ever seeded from a primary that is alone, so nobody can have taken its place.
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


def semi_sync(config: Config, session: Session, on: bool) -> None:
    """Primary half of semi-sync: only on the writer, else a replica's own appliers would wait."""
    if on:
        session.run(
            f"SET GLOBAL rpl_semi_sync_master_timeout = {config.semi_sync_timeout}",
            "SET GLOBAL rpl_semi_sync_master_wait_no_slave = OFF",
        )
    session.run(f"SET GLOBAL rpl_semi_sync_master_enabled = {'ON' if on else 'OFF'}")


def open_for_writes(config: Config, session: Session, paired: bool) -> None:
    set_marker({"paired": paired})
    if known_events().get("process") != server_process(session):
        # Written down before anything can fail: serve() makes up for what is left undone.
        note_events(session, False, switch(wanted_options().get("event_scheduler", "")))
    semi_sync(config, session, True)
    lift_fence(session)
    session.run("SET GLOBAL read_only = OFF")
    note_opened(session)
    log("this server is the primary and accepts writes")
    take_address(config)
    resume_events(session)


def close_for_writes(config: Config) -> None:
    """The first step of a change of roles by hand."""
    with role_lock():
        session = local_session(config, 30)
        seen = look(session)
        if seen["replica"] is not None:
            raise Trouble(f"this server replicates from {seen['replica']['source']}: it is closed")
        # First the events: what they write after the last look at the position would be lost to the next primary.
        if not seen["read_only"]:
            note_events(session, True, seen["event_scheduler"])
        hold_events(session, seen)
        session.run("SET GLOBAL read_only = ON")
        cut_privileged(session)
        drop_address(config)
    print("closed: 'webstack-db promote' opens it again")


def server_process(session: Session) -> str:
    path = session.rows("SELECT @@pid_file AS path")[0]["path"]
    return pathlib.Path(str(path)).read_text().strip()


def note_opened(session: Session) -> None:
    """Remember that this very process of the server has accepted writes."""
    if not was_opened(session):
        OPENED.write_text(server_process(session))


def was_opened(session: Session) -> bool:
    try:
        return OPENED.read_text() == server_process(session)
    except FileNotFoundError:
        return False


# --- the fence: read_only does not bind events and accounts with READ ONLY ADMIN ----------------------


def known_events() -> dict[str, Any]:
    """What was last known about this process of the server: whether it was open, and its scheduler then."""
    try:
        return dict(json.loads(EVENTS.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def note_events(session: Session, opened: bool, scheduler: str) -> None:
    new = EVENTS.with_suffix(".new")
    new.write_text(json.dumps({"process": server_process(session), "open": opened, "scheduler": scheduler}))
    new.rename(EVENTS)


def resume_events(session: Session) -> None:
    """Run the events of a server that has just opened, if the operator wants any to run."""
    known = known_events()
    same = known.get("process") == server_process(session)
    # What was set on the running server counts as long as it runs, then what stands in its files.
    wish = known["scheduler"] if same else switch(wanted_options().get("event_scheduler", ""))
    if wish == "ON":
        enable_events(session)
        session.run("SET GLOBAL event_scheduler = ON")
    note_events(session, True, wish)


def enable_events(session: Session) -> None:
    """Replication stores the events of a primary as disabled, and so does a copy of a replica's data."""
    for event in session.rows(
        "SELECT EVENT_SCHEMA AS place, EVENT_NAME AS name, DEFINER AS definer FROM information_schema.EVENTS"
        f" WHERE STATUS = 'SLAVESIDE_DISABLED' AND EVENT_COMMENT NOT LIKE {quote(f'%{EVENT_OFF}%')}"
    ):
        user, _, host = str(event["definer"]).rpartition("@")
        # Without its definer the event would be root's.
        definer = f"{quote(user)}@{quote(host)}" if user else quote(host)
        name = f"{identifier(event['place'])}.{identifier(event['name'])}"
        try:
            session.run(f"ALTER DEFINER = {definer} EVENT {name} ENABLE")
            log(f"enabled the event {name}")
        except SqlError as error:
            # The primary is open all the same.
            log(f"the event {name} stays off: {error}")


def identifier(name: str | None) -> str:
    return "`" + str(name).replace("`", "``") + "`"


def switch(value: str) -> str:
    return "ON" if value.upper() in ("1", "ON", "TRUE") else "OFF"


def hold_events(session: Session, seen: dict[str, Any]) -> None:
    """Nothing runs by itself on a server that is closed. Remembers what ran, for the time when it opens again."""
    known = known_events()
    was_open = known.get("open") and known["process"] == server_process(session)
    if seen["event_scheduler"] == "ON" or was_open:
        session.run("SET GLOBAL event_scheduler = OFF")
        note_events(session, False, known["scheduler"] if was_open else seen["event_scheduler"])
        cut_privileged(session)


def lift_fence(session: Session) -> None:
    """Let everybody write. Sessions that began on the fenced server would stay read-only, so they end."""
    if session.rows("SELECT @@GLOBAL.tx_read_only AS fenced")[0]["fenced"] == "0":
        return
    session.run("SET GLOBAL tx_read_only = OFF")
    for row in session.rows(
        "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE HOST LIKE '%:%' AND COMMAND NOT LIKE 'Binlog Dump%'"
    ):
        with contextlib.suppress(SqlError):
            session.run(f"KILL CONNECTION {int(row['id'] or 0)}")


def cut_privileged(session: Session) -> None:
    """End the connections over the network that read_only does not bind; they go on where they find the primary."""
    for row in session.rows(
        "SELECT DISTINCT p.ID AS id, p.USER AS user FROM information_schema.PROCESSLIST p"
        " JOIN mysql.global_priv g ON g.User = p.USER"
        f" WHERE p.HOST LIKE '%:%' AND CAST(JSON_VALUE(g.Priv, '$.access') AS UNSIGNED) & {READ_ONLY_ADMIN}"
    ):
        with contextlib.suppress(SqlError):
            session.run(f"KILL CONNECTION {int(row['id'] or 0)}")
            log(f"ended a connection of {row['user']}, which read_only does not bind")


def upgrading() -> bool:
    """Whether Debian is bringing the system tables to a new version: it writes, on a closed server too."""
    names = {"debian-start", "mariadb-upgrade", "mysql_upgrade"}
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() in names:
                return True
    return False


class Watcher:
    """Keeps marker, semi-sync, events and writer address in step with what the server is; reopens a primary."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.session = local_session(config, 5)
        self.said = ""
        self.stop = False

    def say(self, text: str) -> None:
        """Log a state once, not every second."""
        if text != self.said:
            self.said = text
            if text:
                log(text)

    def step(self) -> float:
        """Look once, act, return the seconds until the next look."""
        config = self.config
        try:
            seen = look(self.session)
        except ServerGone as error:
            drop_address(config)
            self.say(f"the server does not answer: {error}")
            return 0.5
        mark = marker()
        if seen["replica"] is not None:
            set_marker(None)
            drop_address(config)
            if seen["semi_sync"]:
                semi_sync(config, self.session, False)
            hold_events(self.session, seen)
            self.release(seen)
            self.say(f"replica of {seen['replica']['source']}")
            return 1
        if not seen["read_only"]:
            self.serve(seen, mark)
            return 1
        drop_address(config)
        hold_events(self.session, seen)
        if mark is None:
            self.say("read-only and without a source: waiting for a role")
            return 1
        if was_opened(self.session):
            # Once per start: whoever closes a running primary wants it closed, also for those who come again.
            cut_privileged(self.session)
            self.say("the primary was made read-only by hand and stays so; 'webstack-db promote' opens it again")
            return 1
        reason = why_not_open(config, seen, bool(mark.get("paired")))
        if reason:
            self.fence(seen)
            self.say(f"was the primary, stays read-only: {reason}")
            return 1
        self.say("")
        open_for_writes(config, self.session, bool(mark.get("paired")))
        return 1

    def serve(self, seen: dict[str, Any], mark: dict[str, Any] | None) -> None:
        if not seen["semi_sync"]:
            semi_sync(self.config, self.session, True)
        clients = self.session.rows("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_clients'")
        connected = bool(clients) and clients[0]["Value"] not in ("0", None)
        set_marker({"paired": bool(connected or (mark or {}).get("paired"))})
        known = known_events()
        if known.get("process") != server_process(self.session) and was_opened(self.session):
            # It was open before this was written down: what runs, runs.
            note_events(self.session, True, str(seen["event_scheduler"]))
        elif known.get("process") != server_process(self.session) or not known["open"]:
            lift_fence(self.session)
            resume_events(self.session)
        elif seen["event_scheduler"] != known["scheduler"]:
            if seen["event_scheduler"] == "ON":
                enable_events(self.session)
            note_events(self.session, True, str(seen["event_scheduler"]))
        note_opened(self.session)
        take_address(self.config)
        self.say("primary")

    def fence(self, seen: dict[str, Any]) -> None:
        """Close a former primary for accounts with READ ONLY ADMIN too: sessions begin with read-only transactions."""
        if not seen["fenced"] and not upgrading():
            self.session.run("SET GLOBAL tx_read_only = ON")
            cut_privileged(self.session)

    def release(self, seen: dict[str, Any]) -> None:
        """Somebody made a fenced server a replica by hand: its appliers began with read-only transactions, too."""
        if seen["fenced"]:
            self.session.run("SET GLOBAL tx_read_only = OFF")
            # A link that nobody has started yet is not started here.
            if seen["replica"]["sql"] or seen["replica"]["error"]:
                self.session.run("STOP ALL SLAVES", "START ALL SLAVES", seconds=60)

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        while True:
            pause = 1.0
            try:
                with role_lock():
                    pause = self.step()
            except (Trouble, subprocess.CalledProcessError) as error:
                self.say(f"{error}")
            time.sleep(pause)


# --- settings that the running server does not have yet ---------------------------------------------


def wanted_options() -> dict[str, str]:
    """The options that a start would use now."""
    answer = subprocess.run(["mariadbd", "--print-defaults"], capture_output=True, text=True, check=True)
    line = answer.stdout.strip().splitlines()[-1] if answer.stdout.strip() else ""
    options: dict[str, str] = {}
    items = re.split(r"(?:^|\s)--(?=[a-z])", line)
    # The last word about the scheduler is the fence's; the operator's wish stands before it.
    spoken = [item for item in items if item.replace("-", "_").startswith("event_scheduler")]
    fence = spoken[-1] if spoken and FENCE_OPTIONS.exists() else None
    for item in items:
        name, _, value = item.strip().partition("=")
        name = name.replace("-", "_")
        if name.startswith(("replicate_", "plugin_load_add", "binlog_do_db", "binlog_ignore_db")) and name in options:
            # Each line adds to the ones before.
            options[name] += f",{value}"
        elif name and item is not fence:
            options[name] = value
    return options


def tls_digest(config: Config) -> str:
    digest = hashlib.sha256()
    for name in ("ca", "cert", "key"):
        with contextlib.suppress(FileNotFoundError):
            digest.update(pathlib.Path(config.tls[name]).read_bytes())
    return digest.hexdigest()


def record_start(config: Config) -> None:
    RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    STARTED.write_text(json.dumps({"options": wanted_options(), "tls": tls_digest(config)}))


def pending(config: Config, session: Session) -> dict[str, Any]:
    """Options changed since the start: those that need a restart, and those that can be set."""
    wanted = wanted_options()
    try:
        started = json.loads(STARTED.read_text())
    except (FileNotFoundError, ValueError):
        return {"restart": ["(started before this role configured it)"], "set": {}, "tls": False}
    names = {n for n in {*wanted, *started["options"]} if wanted.get(n) != started["options"].get(n)}
    changes: dict[str, Any] = {"restart": [], "set": {}, "tls": started["tls"] != tls_digest(config)}
    if not names:
        return changes
    listing = ", ".join(quote(n.upper()) for n in names)
    rows = session.rows(
        "SELECT LOWER(VARIABLE_NAME) AS name, VARIABLE_TYPE AS type FROM information_schema.SYSTEM_VARIABLES"
        f" WHERE READ_ONLY = 'NO' AND VARIABLE_SCOPE <> 'SESSION ONLY' AND VARIABLE_NAME IN ({listing})"
    )
    kinds = {r["name"]: r["type"] or "" for r in rows}
    for name in sorted(names):
        if name == "event_scheduler":
            # It never runs where nobody may write; resume_events knows the wish.
            if not look(session)["read_only"]:
                changes["set"][name] = switch(wanted.get(name, ""))
            continue
        # An option that was taken out has a default that only the server knows. read_only is the role itself.
        if name in kinds and name in wanted and name != "read_only":
            changes["set"][name] = sql_value(wanted[name], kinds[name])
        else:
            changes["restart"].append(name)
    return changes


def sql_value(value: str, kind: str) -> str:
    size = re.fullmatch(r"(\d+)([KMGT])", value, re.I)
    if size and "INT" in kind:
        return str(int(size[1]) << {"K": 10, "M": 20, "G": 30, "T": 40}[size[2].upper()])
    if re.fullmatch(r"-?\d+(\.\d+)?", value) and kind not in ("VARCHAR", "SET"):
        return value
    if kind == "BOOLEAN" and value.upper() in ("", "ON", "TRUE", "OFF", "FALSE"):
        # An option file takes more words than SET does.
        return "OFF" if value.upper() in ("OFF", "FALSE") else "ON"
    return quote(value)


def complaints(said: str) -> list[str]:
    """Of what the server says about its option files, what it would not do as they say."""
    found = []
    for line in said.splitlines():
        adjusted = re.search(r"value (\d+) adjusted to (\d+)", line)
        # It rounds some values to whole blocks, and that is fine.
        bounded = adjusted and abs(int(adjusted[1]) - int(adjusted[2])) > int(adjusted[1]) // 10
        if "[ERROR]" in line or "wasn't recognized" in line or bounded:
            found.append(re.sub(r"^.*\[(?:ERROR|Warning)\] (?:mariadbd: |Buffered warning: )?", "", line))
    return list(dict.fromkeys(found))


def check_settings(config: Config) -> None:
    """Refuse option files that the server would not take, before it has to."""
    answer = subprocess.run(
        ["mariadbd", "--user=mysql", "--help", "--verbose"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = complaints(answer.stderr)
    if found or answer.returncode != 0:
        raise Trouble("the server refuses its settings: " + ("; ".join(found) or answer.stderr.strip()[-500:]))
    session = local_session(config, 60)
    tried: list[str] = []
    try:
        # What can be set is tried. `apply` would set it a moment later, and a value that only SET checks is found here.
        for name, value in pending(config, session)["set"].items():
            try:
                session.run(f"SET @was_{name} = @@GLOBAL.{name}", f"SET GLOBAL {name} = {value}")
                tried.append(name)
            except SqlError as error:
                if WRONG_VALUE.match(str(error)):
                    # The files are put back, and so is what they said.
                    for done in tried:
                        with contextlib.suppress(SqlError):
                            session.run(f"SET GLOBAL {done} = @was_{done}")
                    raise Trouble(f"the server refuses {name} = {value}: {error}") from None
    except ServerGone:
        # It says the rest when it starts.
        return
    finally:
        session.close()


def apply_settings(config: Config, seconds: float) -> None:
    session = local_session(config, 60)
    changes = pending(config, session)
    late = []
    for name, value in changes["set"].items():
        try:
            session.run(f"SET GLOBAL {name} = {value}")
        except SqlError as error:
            # Some settings take no change while replication or the server runs; a start takes what check_settings took.
            late.append(name)
            print(f"{name} needs a restart: {error}")
        else:
            print(f"set {name} = {value}")
    if changes["tls"]:
        session.run("FLUSH LOCAL SSL")
        print("loaded the certificates")
    if late:
        session.close()
        restart_server(config, seconds)
        return
    if not changes["restart"]:
        record_start(config)
        return
    try:
        started = json.loads(STARTED.read_text())
    except (FileNotFoundError, ValueError):
        # This start was not recorded, so nothing could be compared and nothing was set.
        return
    wanted = wanted_options()
    for name in changes["set"]:
        if name in wanted:
            started["options"][name] = wanted[name]
        else:
            started["options"].pop(name, None)
    started["tls"] = tls_digest(config)
    STARTED.write_text(json.dumps(started))


# --- waiting ----------------------------------------------------------------------------------------


def systemctl(*arguments: str) -> None:
    result = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = subprocess.run(
            ["journalctl", "--no-pager", "-n", "100", "-o", "cat", "-u", arguments[-1], "--since=-1min"],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        # The first error of the newest start is the cause; systemd knows only that there was one.
        errors = re.findall(r"\[ERROR\] (.*)", said.rpartition("] Starting MariaDB ")[2])
        reason = errors[0] if errors else ""
        raise Trouble(f"systemctl {' '.join(arguments)} failed: {reason or result.stderr.strip()}")


def wait_for(config: Config, seconds: float, what: str, good: Any) -> dict[str, Any]:
    """Look until good(state) or the time is over."""
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
            except Trouble as error:
                last = str(error)
            time.sleep(0.2)
    finally:
        session.close()
    raise Trouble(f"{what} did not happen within {seconds:g} s; last seen: {last}")


def running_replica(seen: dict[str, Any]) -> bool:
    link = seen["replica"]
    return bool(link and link["io"] and link["sql"])


def caught_up(seen: dict[str, Any]) -> bool:
    return running_replica(seen) and seen["replica"]["lag_seconds"] == 0


def restart_server(config: Config, seconds: float) -> None:
    """Restart MariaDB and wait until it is again what it was."""
    session = local_session(config)
    before = look(session)
    session.close()
    systemctl("restart", "mariadb.service")
    if before["replica"] is not None:
        wanted = running_replica if running_replica(before) else lambda seen: seen["replica"] is not None
        wait_for(config, seconds, "a running replica", wanted)
    elif not before["read_only"]:
        wait_for(config, seconds, "accepting writes again", lambda seen: not seen["read_only"])
    print("restarted")


def settle(config: Config, seconds: float) -> None:
    """Wait until a replica replicates, and until a primary accepts writes."""

    def good(seen: dict[str, Any]) -> bool:
        return running_replica(seen) if seen["replica"] is not None else not seen["read_only"] or marker() is None

    wait_for(config, seconds, "a settled server", good)


# --- roles by hand ----------------------------------------------------------------------------------


def bootstrap(config: Config) -> None:
    """First primary of a site whose servers are all empty."""
    with role_lock():
        session = local_session(config)
        seen = look(session)
        if seen["replica"] is not None:
            raise Trouble(f"this server replicates from {seen['replica']['source']}")
        # Asked of a server that was primary of a pair, this is no way around what 'promote' refuses.
        paired = bool((marker() or {}).get("paired"))
        reason = why_not_open(config, seen, paired)
        if reason:
            raise Trouble(reason)
        open_for_writes(config, session, paired)


def promote(config: Config, force: bool, seconds: float) -> None:
    with role_lock():
        session = local_session(config)
        seen = look(session)
        if seen["replica"] is None and not seen["read_only"]:
            print("this server is the primary already")
            return
        other = config.peer.name if config.peer else "nobody"
        if not force:
            if seen["replica"] is not None:
                raise Trouble(
                    f"this server replicates from {seen['replica']['source']}. If that one is lost for good,"
                    " 'promote --force' makes this server the primary"
                )
            reason = why_not_open(config, seen, paired=True)
            if reason:
                raise Trouble(f"{reason}. 'promote --force' goes on all the same; read what it risks")
            open_for_writes(config, session, paired=True)
            return
        if config.peer is not None:
            log(
                f"RISK: transactions that only {other} has are lost to this server, and if {other} still accepts"
                f" writes somewhere, two servers now do. {other} stays read-only when it returns and has to be seeded"
                " again (playbook reseed.yml)."
            )
        with contextlib.suppress(ServerGone):
            peer = peer_session(config)
            if not look(peer)["read_only"]:
                raise Trouble(f"{other} answers and accepts writes: make it read-only first (SET GLOBAL read_only = 1)")
        if seen["replica"] is not None:
            drain_relay_log(session, seconds)
            session.run("STOP ALL SLAVES", "RESET SLAVE ALL", seconds=60)
        # Nobody holds a copy of what is written from here on, so a restart need not wait for anybody.
        open_for_writes(config, session, paired=False)


def drain_relay_log(session: Session, seconds: float) -> None:
    """Apply everything that was received before the link is cut for good."""
    link = session.rows("SHOW ALL SLAVES STATUS")[0]
    if link["Slave_SQL_Running"] != "Yes" and link["Last_SQL_Errno"] not in ("0", None):
        raise Trouble(f"received transactions cannot be applied: {link['Last_SQL_Error']}")
    session.run("STOP SLAVE IO_THREAD", seconds=30)
    received = session.rows("SHOW ALL SLAVES STATUS")[0]["Gtid_IO_Pos"]
    if not received:
        return
    session.run("START SLAVE SQL_THREAD")
    answer = session.rows(f"SELECT MASTER_GTID_WAIT({quote(received)}, {seconds:g}) AS done", seconds + 5)
    if answer[0]["done"] != "0":
        raise Trouble(f"received transactions up to {received} are not applied after {seconds:g} s; try again")


def link(config: Config, source: Node, position: str | None) -> None:
    """Replicate from source; with a position, from there."""
    session = local_session(config)
    statements = ["STOP SLAVE"] if session.rows("SHOW ALL SLAVES STATUS") else []
    if position is not None:
        statements.append(f"SET GLOBAL gtid_slave_pos = {quote(position)}")
    options = {
        "MASTER_HOST": quote(source.address),
        "MASTER_PORT": str(source.port),
        "MASTER_USER": quote(config.user),
        "MASTER_PASSWORD": quote(config.password),
        "MASTER_USE_GTID": "slave_pos",
        "MASTER_CONNECT_RETRY": "1",
        "MASTER_HEARTBEAT_PERIOD": "2",
        "MASTER_SSL": "1",
        "MASTER_SSL_CA": quote(config.tls["ca"]),
        "MASTER_SSL_CERT": quote(config.tls["cert"]),
        "MASTER_SSL_KEY": quote(config.tls["key"]),
        "MASTER_SSL_VERIFY_SERVER_CERT": "1",
    }
    statements.append("CHANGE MASTER TO " + ", ".join(f"{k} = {v}" for k, v in options.items()))
    statements.append("START SLAVE")
    session.run(*statements, seconds=60)


def relink(config: Config, seconds: float) -> None:
    """Give the existing link today's password and certificates."""
    seen = look(local_session(config))
    if seen["replica"] is None or config.peer is None or not config.is_node(config.peer, seen["replica"]["source"]):
        raise Trouble("this server does not replicate from the other one")
    link(config, config.peer, None)
    wait_for(config, seconds, "a running replica", running_replica)
    print("linked again")


def resume(config: Config, seconds: float) -> None:
    local_session(config).run("START SLAVE", seconds=30)
    wait_for(config, seconds, "a running replica", running_replica)
    print("replication runs")


def link_is_current(config: Config) -> bool:
    """Whether the replica connects with today's account; the server keeps it in master.info."""
    text = read_theirs(config.datadir / "master.info")
    if text is None:
        return True
    lines = text.splitlines()
    return len(lines) < 7 or lines[4:6] == [config.user, config.password]


# --- seeding ----------------------------------------------------------------------------------------


# A host that is gone ends the transfer within two minutes.
KEEPALIVE = "keepalive,keepidle=60,keepintvl=10,keepcnt=6"


def socat_address(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def tls_end(config: Config, peer: Node) -> str:
    files = f"cert={config.tls['cert']},key={config.tls['key']},cafile={config.tls['ca']}"
    return f"{files},verify=1,commonname={peer.name},openssl-min-proto-version=TLS1.2"


def pipeline(commands: list[list[str]], errors: pathlib.Path) -> None:
    """Run commands as one pipe; every one of them has to succeed."""
    with errors.open("wb") as trail:
        running: list[subprocess.Popen[bytes]] = []
        source = None
        for position, command in enumerate(commands):
            last = position == len(commands) - 1
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if source is None else source,
                stdout=trail if last else subprocess.PIPE,
                stderr=trail,
            )
            if source is not None:
                source.close()
            source = process.stdout
            running.append(process)
        codes = [process.wait() for process in running]
    failed = [f"{c[0]} ended with {code}" for c, code in zip(commands, codes, strict=True) if code != 0]
    if failed:
        tail = errors.read_text(errors="replace").strip().splitlines()[-12:]
        raise Trouble("; ".join(failed) + ":\n  " + "\n  ".join(tail))


def send(config: Config, to: str) -> None:
    """Stream a backup of this live server to a host that waits for it."""
    peer = config.named(to)
    seen = look(local_session(config))
    if seen["replica"] is not None or seen["read_only"]:
        raise Trouble("this server is not the writing primary")
    if astray := data_swap.led_astray(config.datadir, config.datadir.stat().st_uid):
        raise Trouble(f"{astray} leads to a file that is not the server's: look who put it there, and remove it")
    started = time.monotonic()
    # From the first byte on somebody else has this data: from now on a restart asks the other host first.
    with role_lock():
        set_marker({"paired": True})
    RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    target = f"OPENSSL:{socat_address(peer.address)}:{config.seed_port},{KEEPALIVE},{tls_end(config, peer)}"
    target += ",retry=20,interval=0.5"
    scratch = MARKER.parent / "backup"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    pipeline(
        [
            [
                "mariadb-backup", "--backup", "--stream=mbstream", "--user=root", f"--socket={config.socket}",
                "--log-copy-interval=50", f"--target-dir={scratch}",
            ],
            ["zstd", "-q", f"-{config.seed_compression}", "-T0", "-c"],
            ["socat", "-u", "STDIN", target],
        ],
        RUN / "send.log",
    )  # fmt: skip
    print(f"sent in {time.monotonic() - started:.1f} s")


def schema_folders(datadir: pathlib.Path) -> list[str]:
    """Schemas on disk, for a server that is not running."""
    if not datadir.is_dir():
        return []
    names = [e.name for e in datadir.iterdir() if e.is_dir() and not e.name.startswith((".", "#"))]
    return sorted(n for n in names if n.lower() not in SYSTEM_SCHEMAS and n != "lost+found")


def data_size(datadir: pathlib.Path) -> int:
    """Bytes that a backup of this server takes, without its logs."""
    total = 0
    top = os.path.realpath(datadir)
    for folder, folders, names in os.walk(top):
        if folder == top:
            folders[:] = [n for n in folders if n not in data_swap.KEEP]
            names[:] = [n for n in names if not n.startswith(("binlog.", "relay.", "ibtmp"))]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def receive_begin(config: Config, source: str, move_aside: bool, expect: int) -> None:
    """Start the receiver in the background; it outlives the connection of whoever asked for it."""
    config.named(source)
    if unit_states(f"{SEED_UNIT}.service")[f"{SEED_UNIT}.service"]["active"]:
        raise Trouble(f"a seed is under way ({SEED_UNIT}.service)")
    recover()
    seen = None
    with contextlib.suppress(ServerGone):
        seen = look(local_session(config))
    if seen is not None and seen["replica"] is None and not seen["read_only"]:
        raise Trouble("this server accepts writes: a primary is never overwritten by a seed")
    place = data_swap.place(config.datadir)
    own = schema_folders(place.data)
    if own and not move_aside:
        raise Trouble(
            f"{config.datadir} holds data ({', '.join(own[:5])}); with mysql_replication_reseed: true it is moved"
            " aside, never deleted"
        )
    # What a seed left that was killed takes room.
    shutil.rmtree(seed_folder(place), ignore_errors=True)
    # Preparing the backup lets it grow a little.
    data_swap.need_room(place, expect + expect // 10)
    SEED_RESULT.unlink(missing_ok=True)
    subprocess.run(["systemctl", "reset-failed", f"{SEED_UNIT}.service"], capture_output=True, check=False)
    command = ["systemd-run", "--quiet", f"--unit={SEED_UNIT}", "--collect", "--property=KillMode=control-group"]
    command += [sys.argv[0], "receive-run", f"--from={source}", *(["--move-aside"] if move_aside else [])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise Trouble(f"cannot start the receiver: {result.stderr.strip()}")


def receive_run(config: Config, source: str, move_aside: bool) -> None:
    """The receiver: stream, prepare, exchange, link. The old server runs until the new data is ready."""

    def ended(number: int, _frame: object) -> NoReturn:
        raise Trouble(f"ended by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, ended)
    # Nothing else made it where the server has not run since the host started.
    RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    outcome: dict[str, Any] = {"ok": False}
    try:
        outcome = {"ok": True, **seed_from(config, config.named(source), move_aside)}
    except Exception as error:  # whatever it is, the waiting play has to see it
        outcome = {"ok": False, "error": f"{error}"}
    new = SEED_RESULT.with_suffix(".new")
    new.write_text(json.dumps(outcome))
    new.rename(SEED_RESULT)
    if not outcome["ok"]:
        raise Trouble(outcome["error"])


def seed_folder(place: data_swap.Place) -> pathlib.Path:
    return pathlib.Path(place.folder(".{}-seed"))


def seed_from(config: Config, source: Node, move_aside: bool) -> dict[str, Any]:
    started = time.monotonic()
    place = data_swap.place(config.datadir)
    stage = seed_folder(place)
    shutil.rmtree(stage, ignore_errors=True)
    user, group = server_account()
    data_swap.make_work(stage, user, group)
    stage.mkdir(mode=0o700)
    try:
        listen = f"OPENSSL-LISTEN:{config.seed_port},bind={socat_address(config.node.address)},reuseaddr"
        listen += ",accept-timeout=60" + (",pf=ip6" if ":" in config.node.address else "")
        pipeline(
            [
                ["socat", "-u", f"{listen},{KEEPALIVE},{tls_end(config, source)}", "STDOUT"],
                ["zstd", "-q", "-d", "-c"],
                ["mbstream", "-x", "-C", str(stage)],
            ],
            RUN / "receive.log",
        )
        received = time.monotonic()
        pipeline([["mariadb-backup", "--prepare", f"--target-dir={stage}"]], RUN / "prepare.log")
        position = backup_position(stage)
        size = sum(f.stat().st_size for f in stage.rglob("*") if f.is_file())
        prepared = time.monotonic()
        with role_lock():
            aside = take_into_use(place, stage, move_aside)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    try:
        link(config, source, position)
        wait_for(config, 3600, "catching up", caught_up)
        keep_time_zones(config)
    except (Trouble, OSError) as error:
        raise Trouble(
            f"the new data is in use, but it does not replicate from {source.name}: {error}. Mend that and seed this"
            f" server again{f'; its old data lies in {aside}' if aside else ''}"
        ) from error
    return {
        "bytes": size,
        "seconds_receive": round(received - started, 1),
        "seconds_prepare": round(prepared - received, 1),
        "seconds": round(time.monotonic() - started, 1),
        "gtid": position,
        "old_data": aside,
    }


def backup_position(stage: pathlib.Path) -> str:
    """GTID of the backup: third column of the position file; a server that never wrote has none."""
    for name in BACKUP_POSITION:
        with contextlib.suppress(FileNotFoundError):
            fields = (stage / name).read_text().replace(",\n", ",").strip().split("\t")
            return fields[2].strip() if len(fields) > 2 else ""
    raise Trouble(f"the backup has none of {', '.join(BACKUP_POSITION)}: does the primary write a binary log?")


def server_account() -> tuple[int, int]:
    owner = pwd.getpwnam("mysql")
    return owner.pw_uid, owner.pw_gid


def make_ready(stage: pathlib.Path, datadir: pathlib.Path) -> None:
    """Give the new data to the server, with Debian's notes about the data's version."""
    # Without them the next start would upgrade the tables.
    data_swap.carry_notes(datadir, stage, ("debian-*.flag", "mariadb_upgrade_info", "mysql_upgrade_info"))
    give_to_server(stage)


def give_to_server(stage: pathlib.Path) -> None:
    """Give it to the server's account, the directory itself last: until then nobody else gets at what is in it."""
    user, group = server_account()
    for folder, folders, names in os.walk(stage, topdown=False):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            os.chown(path, user, group, follow_symlinks=False)
            if not os.path.islink(path):
                os.chmod(path, 0o700 if name in folders else 0o660)
    os.chown(stage, user, group, follow_symlinks=False)


def read_theirs(path: pathlib.Path) -> str | None:
    """Read a file in the server's directory; None for anything else: its account could have put a link there."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, errors="replace") as file:
        return file.read() if stat.S_ISREG(os.fstat(handle).st_mode) else None


def take_into_use(place: data_swap.Place, stage: pathlib.Path, move_aside: bool) -> str:
    """Start the server on the new data; return where the old data is, if it is worth keeping.

    When that fails, the server is what it was before: its data, its marker, running or not.
    """
    owned = schema_folders(place.data)
    if owned and not move_aside:
        raise Trouble(f"{place.data} holds data: {', '.join(owned[:5])}")
    make_ready(stage, place.data)
    kept = place.folder("{}." + time.strftime("%Y%m%d-%H%M%S"))
    ran = unit_states("mariadb.service")["mariadb.service"]["active"]
    try:
        systemctl("stop", "mariadb.service")
        data_swap.exchange(place, stage, kept, [(MARKER, kept / KEPT_MARKER)] if MARKER.exists() else [])
    except (Trouble, SwapError, OSError) as error:
        raise Trouble(f"{error}; {start_again(ran)}") from error
    try:
        start_server()
    except Trouble as error:
        back = put_back(place, kept, stage, ran)
        raise Trouble(f"the server does not start on the new data: {error}; {back}") from error
    if owned:
        return str(kept)
    shutil.rmtree(kept, ignore_errors=True)
    return ""


def start_server() -> None:
    # Attempts of before, which failed, count against this one otherwise.
    subprocess.run(["systemctl", "reset-failed", "mariadb.service"], capture_output=True, check=False)
    systemctl("start", "mariadb.service")


def start_again(ran: bool) -> str:
    """After a failure: the server runs again if it did before. Says so."""
    if not ran:
        return "the server did not run before and is left like that"
    try:
        start_server()
    except Trouble as error:
        return f"the server, which ran before, does not start: {error}; see journalctl -u mariadb"
    return "the server runs again as before"


def put_back(place: data_swap.Place, kept: pathlib.Path, stage: pathlib.Path, ran: bool) -> str:
    """Bring the old data and its marker back. Says what it did, or what is left to do."""
    shutil.rmtree(stage, ignore_errors=True)
    bring = [(kept / KEPT_MARKER, MARKER)] if (kept / KEPT_MARKER).exists() else []
    try:
        systemctl("stop", "mariadb.service")
        data_swap.exchange(place, kept, stage, bring=bring)
        shutil.rmtree(kept, ignore_errors=True)
    except (Trouble, SwapError, OSError) as error:
        return f"bringing the old data back failed too: {error}; it lies in {kept}"
    return f"the old data is in its place again, and {start_again(ran)}"


def recover() -> None:
    """Undo an exchange of the data directory that was cut off. Also what the unit of the server does before a start."""
    done = data_swap.recover()
    if done:
        log(done)


def receive_wait(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if SEED_RESULT.exists():
            outcome = json.loads(SEED_RESULT.read_text())
            if not outcome.pop("ok"):
                raise Trouble(f"seeding failed: {outcome['error']}")
            print(json.dumps(outcome))
            return
        alive = subprocess.run(["systemctl", "is-active", f"{SEED_UNIT}.service"], capture_output=True, check=False)
        if alive.returncode != 0 and not SEED_RESULT.exists():
            raise Trouble(f"the receiver is gone and left no result; see journalctl -u {SEED_UNIT}")
        time.sleep(0.2)
    raise Trouble(f"seeding is not done after {seconds:g} s; it goes on as {SEED_UNIT}.service")


# --- whether writes reach the disk -------------------------------------------------------------------

PROBE = data_swap.PROBE
PROBE_BYTES = 1 << 20


def try_write(folder: pathlib.Path) -> str:
    """Write a little file as the account of this folder: root has room where the server has none."""
    try:
        owner = folder.stat()
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < PROBE_BYTES:
            # Not even for a moment: the server may need what is left.
            return f"{os.strerror(errno.ENOSPC)} ({folder})"
        path = folder / PROBE
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            data = bytes(PROBE_BYTES)
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)
        finally:
            os.close(file)
            os.unlink(path)
    except OSError as error:
        return f"{error.strerror} ({folder})"
    return ""


def probe(folder: pathlib.Path, seconds: float) -> str:
    """Why nothing can be written in this folder, or empty. A disk that hangs holds a child of ours, and never us."""
    RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    hung = f"a write of {PROBE_BYTES // 1024} KB in {folder} did not end within {seconds:g} s"
    # The child holds the lock: while one hangs, no further ones pile up behind it.
    lock = os.open(PROBE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return hung
                time.sleep(0.05)
        answer, child_end = os.pipe()
        child = os.fork()
        if child == 0:
            # Nothing of the parent's may run in here, whatever happens.
            with contextlib.suppress(BaseException):
                os.write(child_end, (try_write(folder) or "ok").encode())
            os._exit(0)
        os.close(child_end)
        try:
            if not select.select([answer], [], [], max(0.1, deadline - time.monotonic()))[0]:
                return hung
            said = os.read(answer, 4096).decode(errors="replace")
        finally:
            os.close(answer)
        os.waitpid(child, 0)
        return "" if said == "ok" else said or f"the look at {folder} failed"
    finally:
        os.close(lock)


def data_folders(config: Config, session: Session | None) -> list[pathlib.Path]:
    """Where this server has to write, one folder for each file system."""
    folders = [config.datadir]
    if session is not None:
        row = session.rows(
            "SELECT @@datadir AS data, @@log_bin_basename AS binlog, @@relay_log_basename AS relay,"
            " @@innodb_log_group_home_dir AS redo, @@innodb_data_home_dir AS space"
        )[0]
        data = pathlib.Path(row["data"] or config.datadir)
        folders = [data]
        folders += [(data / name).parent for key in ("binlog", "relay") if (name := row[key])]
        folders += [data / name for key in ("redo", "space") if (name := row[key])]
    systems: dict[int, pathlib.Path] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            systems.setdefault(folder.stat().st_dev, folder)
    return list(systems.values()) or [config.datadir]


def stuck_commits(session: Session) -> str:
    """Commits that wait for a disk, or for whatever else."""
    listing = ", ".join(quote(state) for state in STUCK_STATES)
    row = session.rows(
        "SELECT COUNT(*) AS n, COALESCE(MAX(TIME), 0) AS seconds FROM information_schema.PROCESSLIST"
        f" WHERE COMMAND IN ('Query', 'Execute') AND TIME >= {STUCK_SECONDS} AND STATE IN ({listing})"
    )[0]
    return f"{row['n']} commits have been waiting for up to {row['seconds']} s" if row["n"] != "0" else ""


def disk_state(config: Config, session: Session | None, seconds: float = 3) -> dict[str, Any]:
    """Whether this server can write, and the room that it has."""
    folders = data_folders(config, session)
    found = [why for folder in folders if (why := probe(folder, seconds))]
    free = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            room = os.statvfs(folder)
            free[str(folder)] = room.f_bavail * room.f_frsize
    if session is not None and not found:
        found = [why for why in [stuck_commits(session)] if why]
    return {"problem": "; ".join(found), "free_bytes": free}


# --- time zones -------------------------------------------------------------------------------------


def zone_names() -> list[str]:
    """The zones of this host, as the server's own tool finds them."""
    found = []
    for path in sorted(ZONES.rglob("*")):
        name = str(path.relative_to(ZONES))
        if not name.startswith(("posix/", "right/")) and path.is_file():
            with path.open("rb") as file:
                if file.read(4) == b"TZif":
                    found.append(name)
    return found


def zone_stamp(names: list[str]) -> str:
    """Names one state of the host's zones. It is kept beside the server's, and so comes along with a copy of them."""
    version = ""
    with contextlib.suppress(OSError), (ZONES / "tzdata.zi").open() as file:
        version = file.readline().removeprefix("# version").strip()
    return f"webstack tzdata {version or '?'} {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:16]}"


def time_zones_current(session: Session) -> bool | None:
    """Whether the server knows the zones of this host; None when the host has none."""
    names = zone_names()
    if not names:
        return None
    row = session.rows(
        "SELECT TABLE_COMMENT AS stamp, (SELECT COUNT(*) FROM mysql.time_zone_name) AS n FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'time_zone_name'"
    )
    return bool(row) and row[0]["stamp"] == zone_stamp(names) and row[0]["n"] != "0"


def keep_time_zones(config: Config) -> None:
    """A copy of data brings its own zones. What was asked for is done, whether or not those of this host load."""
    session = local_session(config, 30)
    try:
        if time_zones_current(session) is False:
            load_time_zones(config)
    except (Trouble, OSError, subprocess.SubprocessError) as error:
        log(f"the time zones are not this host's: {error}")
    finally:
        session.close()


def load_time_zones(config: Config) -> None:
    """Replace the server's zones by the host's. Each server has its own: none of it is in the binary log."""
    names = zone_names()
    if not names:
        raise Trouble(f"{ZONES} has no time zones: install tzdata")
    made = subprocess.run(
        ["mariadb-tzinfo-to-sql", "--skip-write-binlog", str(ZONES)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if made.returncode != 0 or "time_zone_name" not in made.stdout:
        raise Trouble(f"mariadb-tzinfo-to-sql failed: {made.stderr.strip()[-300:] or 'it printed nothing'}")
    stamp = f"ALTER TABLE time_zone_name COMMENT = {quote(zone_stamp(names))};\n"
    loaded = subprocess.run(
        [*local_client(config), "mysql"],
        input=f"{made.stdout}\n{stamp}",
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if loaded.returncode != 0:
        raise Trouble(f"the time zones do not load: {loaded.stderr.strip()[-300:]}")
    print(f"loaded {len(names)} time zones")


# --- what is ----------------------------------------------------------------------------------------


def unit_states(*units: str) -> dict[str, dict[str, bool]]:
    states: dict[str, dict[str, bool]] = {}
    for unit in units:
        answer = subprocess.run(
            ["systemctl", "show", unit, "--property=ActiveState,UnitFileState,NeedDaemonReload"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = dict(line.partition("=")[::2] for line in answer.stdout.splitlines())
        states[unit] = {
            "active": found.get("ActiveState") in ("active", "activating", "reloading"),
            "enabled": found.get("UnitFileState") == "enabled",
        }
    return states


def peer_status(config: Config) -> dict[str, Any]:
    if config.peer is None:
        return {}
    base = {"name": config.peer.name, "address": config.peer.address}
    session = peer_session(config)
    try:
        seen = look(session)
    except Trouble as error:
        return {**base, "reachable": False, "error": str(error)}
    finally:
        session.close()
    return {**base, "reachable": True, "role": role_of(seen, False), **seen}


def status(config: Config, detail: bool) -> dict[str, Any]:
    """The state as one document. The own position is read before the other server's, so that a replica
    which is only behind never looks as if it were ahead."""
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
    }
    session = local_session(config)
    try:
        seen = look(session)
        result.update(seen, running=True, role=role_of(seen, mark is not None))
        result["replica"] = {**empty, **(seen["replica"] or {})}
        result["has_source"] = seen["replica"] is not None
        result["schemas"] = user_schemas(session)
        result["disk"] = disk_state(config, session)
        if detail:
            result["time_zones_current"] = time_zones_current(session)
            result["pending"] = pending(config, session)
            result["server_id_wanted"] = int(wanted_options().get("server_id", "1"))
            result["link_current"] = link_is_current(config)
    except ServerGone as error:
        result["error"] = str(error)
        result["schemas"] = schema_folders(config.datadir)
        result["disk"] = disk_state(config, None)
    finally:
        session.close()
    result["peer"] = peer_status(config)
    if detail:
        result["units"] = unit_states("mariadb.service", "webstack-db.service")
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
    if state["peer"]:
        print(line(state["peer"], state["peer"]["name"]))


# --- command line -----------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="webstack-db", description="A site's database server, from its own host.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, wait: float | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if wait is not None:
            sub.add_argument("--wait", type=float, default=wait, metavar="SECONDS", help=f"time limit ({wait:g})")
        return sub

    sub = add("status", "what this server and the other one are")
    sub.add_argument("--json", action="store_true", help="as one JSON document")
    sub.add_argument("--detail", action="store_true", help="with pending settings and units (JSON)")
    sub = add("promote", "make this server the primary", 60)
    sub.add_argument("--force", action="store_true", help="even if the other server is lost; says what that risks")
    add("bootstrap", "make this server the first primary of an empty site")
    add("resume", "start the stopped threads of this replica", 60)
    add("relink", "give this replica's link today's password and certificates", 60)
    add("settle", "wait until this server is what it should be", 60)
    add("close", "stop accepting writes, events and all, until 'promote' or the next start")
    add("check-settings", "ask the server whether it takes its option files")
    add("apply", "set the changed options; restart only for those that a running server does not take", 120)
    add("time-zones", "load this host's time zones into the server")
    add("restart", "restart MariaDB and wait until it is what it was", 120)
    sub = add("send", "stream a backup of this primary to a waiting host")
    sub.add_argument("--to", required=True, metavar="HOST")
    for name, text in (
        ("receive", "begin to wait for a backup, become a replica"),
        ("receive-run", "same, here"),
    ):
        sub = add(name, text)
        sub.add_argument("--from", dest="source", required=True, metavar="HOST")
        sub.add_argument("--move-aside", action="store_true", help="keep old data beside the new")
        if name == "receive":
            sub.add_argument("--expect", type=int, default=0, metavar="BYTES", help="room that the data needs")
    add("size", "bytes that a backup of this server takes")
    add("recover", "undo an exchange of the data directory that was cut off (mariadb.service)")
    add("receive-wait", "wait until the backup is in use", 43200)
    add("watch", "follow the server's role (webstack-db.service)")
    add("record", "note the options of this start (mariadb.service)")
    add("drop-address", "give the writer address up (mariadb.service)")
    return parser.parse_args()


def act(options: argparse.Namespace) -> int:
    """Do what is asked; the exit code: 2 for a server that runs and cannot write."""
    if options.command == "receive-wait":
        receive_wait(options.wait)
        return 0
    if options.command == "recover":
        recover()
        return 0
    config = Config()
    if options.command == "status":
        state = status(config, options.detail)
        if options.json or options.detail:
            print(json.dumps(state))
        else:
            print_status(state)
        # A play that asks for the details reads them.
        return 2 if state["disk"]["problem"] and not options.detail else 0
    elif options.command == "promote":
        promote(config, options.force, options.wait)
        keep_time_zones(config)
    elif options.command == "bootstrap":
        bootstrap(config)
    elif options.command == "resume":
        resume(config, options.wait)
    elif options.command == "relink":
        relink(config, options.wait)
    elif options.command == "settle":
        settle(config, options.wait)
    elif options.command == "apply":
        apply_settings(config, options.wait)
    elif options.command == "check-settings":
        check_settings(config)
    elif options.command == "time-zones":
        load_time_zones(config)
    elif options.command == "close":
        close_for_writes(config)
    elif options.command == "restart":
        restart_server(config, options.wait)
    elif options.command == "send":
        send(config, options.to)
    elif options.command == "receive":
        receive_begin(config, options.source, options.move_aside, options.expect)
    elif options.command == "size":
        print(data_size(config.datadir))
    elif options.command == "receive-run":
        receive_run(config, options.source, options.move_aside)
    elif options.command == "watch":
        Watcher(config).run()
    elif options.command == "record":
        record_start(config)
    else:
        drop_address(config)
    return 0


def main() -> NoReturn:
    options = parse()
    os.umask(0o022)  # whoever calls
    try:
        code = act(options)
    except (Trouble, SwapError, OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        log(f"webstack-db {options.command}: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code)


if __name__ == "__main__":
    main()

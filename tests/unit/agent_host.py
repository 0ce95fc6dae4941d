"""A database host where an agent decides: its server, the other one, the store and systemd are fakes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock, mariadb, systemd
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import (
    acts,
    address,
    agent,
    board,
    news,
    observe,
    start,
)
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.arbiter import (
    Member,
    State,
    Wish,
    decode,
    decode_report,
    encode,
    encode_report,
)
from ansible_collections.webstack.ha.plugins.module_utils.webstack.quorum import store as quorum
from host_programs import Tier

db = Tier("db")
WRITER, OWN, OTHER = "192.0.2.40/24", "192.0.2.41", "192.0.2.42"
LIFE = "theirs"
ALONE = State(1, "db1")
BOTH = State(1, "db1", "db2", LIFE)
UNDER_IT = State(1, "db2")
MEMBER = Member(LIFE, 1, True, "", 0, 0, False, 0.0, "")
FOLLOWS = MEMBER._replace(source="db1", received=5, applied=5, applying=True)


class SaysNo(Exception):
    """How PyMySQL says what the server said."""


LOST = SaysNo(2013, "Lost connection")


class Store:
    """The client of the store, over a dictionary. `fails` ends the next question of that name, with its exception."""

    def __init__(self, did: list[str]) -> None:
        self.did = did
        self.held: dict[str, quorum.Value] = {}
        self.revision = 10
        self.leases: set[int] = set()
        self.fails: dict[str, Exception] = {}
        #: Does what is asked, and then loses the answer.
        self.loses = False
        self.before: Callable[[], None] = lambda: None

    def answer(self, name: str, lease: int = 0) -> None:
        self.did.append(f"store {name}")
        if error := self.fails.get(name) or self.fails.get("all"):
            raise error
        if lease and lease not in self.leases:
            raise quorum.Gone("the lease has ended")

    def write(self, key: str, text: str, lease: int = 0) -> int:
        self.revision += 1
        self.held[key] = quorum.Value(key, text, self.revision, lease, self.revision)
        return self.revision

    def under(self, prefix: str, _seconds: float | None = None) -> list[quorum.Value]:
        self.answer("read")
        self.before()
        return [value for key, value in sorted(self.held.items()) if key.startswith(prefix)]

    def put(self, key: str, text: str, lease: int = 0, _seconds: float | None = None) -> int:
        self.answer("put", lease)
        return self.write(key, text, lease)

    def remove(self, key: str, _seconds: float | None = None) -> None:
        self.answer("remove")
        self.held.pop(key, None)

    def swap(
        self,
        old: quorum.Value,
        text: str,
        _lease: int = 0,
        _seconds: float | None = None,
        beside: Sequence[tuple[str, str, int]] = (),
    ) -> quorum.Swap:
        self.answer("swap", next((one[2] for one in beside), 0))
        now = self.held.get(old.key, quorum.Value(old.key, None))
        if now.revision != old.revision:
            return quorum.Swap(False, now)
        self.write(old.key, text)
        for key, words, lease in beside:
            self.held[key] = quorum.Value(key, words, self.revision, lease, self.revision)
        if self.loses:
            raise quorum.Unknown("no member answers")
        return quorum.Swap(True, self.held[old.key])

    def grant(self, _ttl: int, _seconds: float | None = None) -> int:
        self.answer("grant")
        self.leases.add(lease := 100 + len(self.did))
        return lease

    def keep(self, lease: int, _seconds: float | None = None) -> int:
        self.answer("keep", lease)
        return 2

    def revoke(self, lease: int, _seconds: float | None = None) -> None:
        self.answer("revoke")
        self.leases.discard(lease)
        self.held = {key: value for key, value in self.held.items() if value.lease != lease}

    # --- in words of the protocol --------------------------------------------------------------------

    @property
    def state(self) -> State:
        return decode(str(self.held["database/state"].text))

    @state.setter
    def state(self, state: State) -> None:
        self.write("database/state", encode(state, "a test"))

    def report(self, name: str) -> Member | None:
        value = self.held.get(f"database/members/{name}")
        return decode_report(str(value.text)) if value else None

    def reports(self, member: Member, name: str = "db2") -> None:
        self.write(f"database/members/{name}", encode_report(member))

    def wish(self, wish: Wish) -> None:
        self.write("database/wish", json.dumps(wish._asdict()))


class Server:
    """A MariaDB server, as far as the agent asks it. `fails` are errors by words of a statement, each for good."""

    def __init__(self, did: list[str], pid_file: pathlib.Path, name: str = "") -> None:
        self.did, self.pid_file, self.name = did, pid_file, name
        self.away = False
        self.sessions = 0
        self.read_only = True
        self.gtid = self.logged = self.logged_state = self.applied = ""
        self.semi_sync, self.timeout, self.alone = "0", "10000", "1"
        self.scheduler, self.fenced, self.epoch = "OFF", "0", "1"
        self.status = {"clients": "1", "wait_sessions": "0", "get_ack": "1"}
        self.link: dict[str, str | None] | None = None
        self.dumps: list[str] = []
        self.clients: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.statement_time = "0"

    def links(self, **changes: str | None) -> None:
        self.link = {
            **{"Last_IO_Errno": "0", "Last_IO_Error": "", "Last_SQL_Errno": "0", "Last_SQL_Error": ""},
            **{"Seconds_Behind_Master": "0", "Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes"},
            **{"Master_Host": OTHER, "Master_SSL_Allowed": "Yes", "Master_SSL_Verify_Server_Cert": "Yes"},
            **{"Using_Gtid": "Slave_Pos", "Gtid_IO_Pos": "", "Master_Log_File": "m.1", "Read_Master_Log_Pos": "4"},
            **{"Slave_received_heartbeats": "0"},
            **changes,
        }

    def answer(self, statement: str) -> list[dict[str, str | None]]:
        for words, error in list(self.fails.items()):
            if words in statement:
                self.did.append(f"{self.name}! {statement}")
                raise error
        if not statement.startswith(("SELECT", "SHOW")):
            self.did.append(f"{self.name}{statement}")
            self.keep(statement)
            return []
        answers: dict[str, Callable[[], list[dict[str, str | None]]]] = {
            "@@version": lambda: [
                {
                    **{"version": "11.8", "server_id": "1", "read_only": str(int(self.read_only)), "gtid": self.gtid},
                    "applied": self.applied,
                    **{"gtid_binlog_pos": self.logged, "gtid_binlog_state": self.logged_state or self.logged},
                    **{
                        "semi_sync": self.semi_sync,
                        "semi_sync_timeout": self.timeout,
                        "event_scheduler": self.scheduler,
                        "fenced": self.fenced,
                    },
                }
            ],
            "@@rpl_semi_sync_master_timeout": lambda: [{"timeout": self.timeout, "alone": self.alone}],
            "SHOW ALL SLAVES": lambda: [self.link] if self.link else [],
            "GLOBAL_STATUS": lambda: [
                {"name": f"rpl_semi_sync_master_{name}", "value": value} for name, value in self.status.items()
            ],
            "COMMAND LIKE 'Binlog": lambda: [{"host": host} for host in self.dumps],
            "@@pid_file": lambda: [{"path": str(self.pid_file)}],
            "webstack_epoch": lambda: [{"epoch": self.epoch}],
            "@@GLOBAL.tx_read_only AS": lambda: [{"fenced": self.fenced}],
            "@@gtid_slave_pos AS applied": lambda: [{"applied": self.applied, "logged": self.logged}],
            "global_priv": list,
            "HOST LIKE '%:%'": lambda: [{"id": one} for one in self.clients],
        }
        return next((answer() for words, answer in answers.items() if words in statement), [])

    def keep(self, statement: str) -> None:
        on = statement.endswith("= ON")
        if "GLOBAL read_only" in statement:
            self.read_only = on
        elif "GLOBAL tx_read_only" in statement:
            self.fenced = str(int(on))
        elif "master_enabled" in statement:
            self.semi_sync = str(int(on))
        elif "master_timeout" in statement:
            self.timeout = statement.rpartition(" ")[2]
        elif "max_statement_time" in statement:
            self.statement_time = statement.rpartition(" ")[2]
        elif statement == "RESET SLAVE ALL":
            self.link = None
        elif statement.startswith("KILL CONNECTION"):
            self.clients.remove(statement.rpartition(" ")[2])
            self.fails.pop("GLOBAL read_only", None)


class Connection:
    """One of PyMySQL's, over a server. It is its own cursor."""

    def __init__(self, server: Server) -> None:
        self.server, self.found, self.description = server, [], []  # type: ignore[var-annotated]
        server.sessions += 1

    def cursor(self) -> Connection:
        return self

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str) -> None:
        if self.server.away:
            raise LOST
        self.found = self.server.answer(statement)
        self.description = [(name,) for name in self.found[0]] if self.found else []

    def fetchall(self) -> list[tuple[bytes | None, ...]]:
        return [tuple(None if v is None else v.encode() for v in row.values()) for row in self.found]

    def close(self) -> None:
        pass


class Heart:
    """Beats, and says when it did last."""

    def __init__(self, _config: object = None) -> None:
        self.beats: list[bool] = []
        self.ago = 0.0

    def beat(self, opened: bool) -> None:
        self.beats.append(opened)

    def since(self) -> float:
        return self.ago


class Host:
    """db1; the other one is db2. All that changes something is written down in `did`, in order."""

    def __init__(self, home: pathlib.Path, patch: pytest.MonkeyPatch, mode: str = "auto") -> None:
        self.home, self.patch, self.did = home, patch, []  # type: ignore[var-annotated]
        self.store = Store(self.did)
        self.server = Server(self.did, home / "pid")
        self.other = Server(self.did, home / "pid", "db2: ")
        self.other.away = True
        self.unit, self.dpkg, self.now = "active", False, 1000.0
        (home / "pid").write_text(str(os.getpid()))
        (home / "data").mkdir()
        (home / "run").mkdir()
        raw: dict[str, Any] = {"name": "db1", "writer_address": WRITER, "datadir": str(home / "data"), "socket": "s"}
        raw |= {"tls": {"ca": "ca", "cert": "cert", "key": "key"}, "user": "replica", "password": "p", "mode": mode}
        raw |= {"seed_port": 4444, "seed_compression": 1, "semi_sync_timeout": 1000, "rest": 3600}
        raw["nodes"] = [{"name": "db1", "address": OWN, "port": 3306}, {"name": "db2", "address": OTHER, "port": 3306}]
        (home / "db.json").write_text(json.dumps(raw))
        self.addresses = {"eth0": [f"{OWN}/24"]}
        for name, value in {
            "CONFIG": home / "db.json",
            "MARKER": home / "state/primary",
            "RUN": home / "run",
            "OPENED": home / "run/opened",
            "EVENTS": home / "run/events.json",
            "SAID": home / "run/agent.json",
            "TRUNCATED": home / "run/truncated",
            "PERMIT": home / "run/start.env",
            "Heart": Heart,
            "_opened": set(),
            "_unwritten": {},
            "interfaces": lambda: self.addresses,
            "wanted_options": dict,
            "upgrading": lambda: False,
            "connect": lambda *_: self.store,
            "run": self.command,
        }.items():
            patch.setattr(db, name, value)
        for module in (acts, agent, board, news, observe):
            patch.setattr(
                module, "time", SimpleNamespace(monotonic=lambda: self.now, time=lambda: 1e9, sleep=self.sleep)
            )
        patch.setattr(lock, "FOLDER", home / "locks")
        patch.setattr(mariadb, "_connect", self.connect)
        patch.setattr(systemd, "show", lambda *_: {"ActiveState": self.unit, "MainPID": str(self.pid)})
        patch.setattr(systemd, "tell", self.tell)
        patch.setattr(start, "packages_change", lambda: self.dpkg)
        patch.setattr(start, "kill", lambda: self.did.append("kill"))
        popen = SimpleNamespace(Popen=lambda command, **_options: self.command(*command), DEVNULL=subprocess.DEVNULL)
        patch.setattr(address, "subprocess", popen)
        self.pid = 0
        self.config = db.Config()

    def connect(self, options: Any, _limit: float) -> Connection:
        server = self.server if "unix_socket" in options else self.other
        if server.away:
            raise mariadb.ServerGone("ERROR 2002")
        return Connection(server)

    def command(self, *command: str, **_options: Any) -> Done:
        self.did.append(" ".join(command))
        if command[:3] == ("ip", "address", "add"):
            self.addresses["eth0"].append(command[3])
        elif command[:3] == ("ip", "address", "del"):
            self.addresses["eth0"].remove(command[3])
        return Done(command, 0, "", "")

    def tell(self, *words: str, seconds: float = 0) -> None:
        assert seconds
        permit = self.home / "run/start.env"
        self.did.append(f"systemctl {' '.join(words)} [{permit.read_text().strip() if permit.exists() else 'refused'}]")
        self.server.away = False

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def carries(self) -> bool:
        return WRITER in self.addresses["eth0"]

    def takes(self) -> None:
        self.addresses["eth0"].append(WRITER)

    def opens(self) -> None:
        """The server is open, with its address, and has been for a while."""
        self.server.read_only = False
        self.takes()
        (self.home / "run/opened").write_text(str(os.getpid()))

    def acted(self) -> list[str]:
        """What was done besides reading the store and saying what this host is."""
        quiet = ("store read", "store keep", "store grant", "store put")
        return [act for act in self.did if act not in quiet]

    def agent(self) -> agent.Agent:
        return agent.Agent(self.config)

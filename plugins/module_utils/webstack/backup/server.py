# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks this host's MariaDB server what it is, where its data lies, and what is in its tables."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.config import load
from ..core.errors import Problem
from ..core.mariadb import UNLOGGED, ServerGone, Session, identifier
from ..db import data, role
from .tools import Tools, last_message

ROLE_COMMAND = ("/usr/local/sbin/webstack", "db")
# The file exists where `webstack db` decides on the server's role; the command is then asked for it.
ROLE_SETTINGS = pathlib.Path("/etc/webstack/db.json")
#: A server that answers at all lets us in at once.
CONNECT_SECONDS = 5
#: Tables of these engines hold what is in this server's memory, or nothing, or what is elsewhere.
NOT_COMMON = frozenset({"BLACKHOLE", "CONNECT", "FEDERATED", "MEMORY", "OQGRAPH", "PERFORMANCE_SCHEMA", "SPIDER"})
SYSTEM_SCHEMAS = ("mysql", "sys", "information_schema", "performance_schema")


def replica_state(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what `SHOW ALL SLAVES STATUS` says, or None for a server that replicates from nobody."""
    sources = role.links_of(rows)
    if not sources:
        return None
    lags = [row["Seconds_Behind_Master"] for row in sources]
    numbers = [int(lag) for lag in lags if lag is not None]
    errors = [row[key] for row in sources for key in ("Last_IO_Error", "Last_SQL_Error") if row.get(key)]
    return {
        "io": all(row["Slave_IO_Running"] == "Yes" for row in sources),
        "sql": all(row["Slave_SQL_Running"] == "Yes" for row in sources),
        "lag_seconds": max(numbers) if len(numbers) == len(lags) else None,
        "error": "; ".join(errors),
        "source": ",".join(row["Master_Host"] for row in sources),
    }


class Server:
    """The server of this host."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.config = tools.config

    def session(self, seconds: float = 60) -> Session:
        options = {"unix_socket": self.config.text("socket"), "user": "root", "init_command": UNLOGGED}
        return Session(options, seconds, CONNECT_SECONDS)

    def look(self) -> dict[str, Any]:
        """Return what this server is. If it does not answer, its role is `none`."""
        fields: dict[str, Any] = {"role": "none", "running": False, "read_only": None, "gtid": "", "replica": None}
        fields["datadir"] = str(self.datadir())
        session = self.session()
        try:
            variables = session.rows(
                "SELECT @@read_only AS read_only, @@gtid_current_pos AS gtid, @@version AS version,"
                " @@datadir AS datadir, COALESCE(@@log_bin_basename, '') AS log_bin, @@relay_log AS relay_log,"
                " (SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%') AS followers"
            )[0]
            fields["replica"] = replica_state(session.rows("SHOW ALL SLAVES STATUS"))
        except ServerGone as gone:
            return {**fields, "error": str(gone)}
        finally:
            session.close()
        fields.update(running=True, read_only=variables["read_only"] != "0")
        fields.update({key: variables[key] or "" for key in ("gtid", "version", "log_bin", "relay_log")})
        datadir, followers = variables["datadir"] or fields["datadir"], int(variables["followers"] or 0)
        fields.update(datadir=os.path.normpath(datadir), followers=followers, error="")
        return {**fields, "role": role.role_here(fields)}

    def doubtful(self) -> str:
        """Return why a copy of this server would hold wrong rows, or an empty text. No answer is a Problem."""
        if not ROLE_SETTINGS.is_file():
            return ""
        done = self.tools.run(*ROLE_COMMAND, "status", "--json")
        try:
            seen = json.loads(done.out)
            different = [one["title"] for one in seen["drift"]["tables"]]
            if seen["astray"]:
                return f"this replica {seen['astray']}"
        except (KeyError, TypeError, ValueError):
            raise Problem(f"webstack db status: {last_message(done.err or done.out)}") from None
        return f"rows of {', '.join(different[:5])} differ from the writer's" if different else ""

    def disk(self) -> dict[str, Any]:
        """Ask `webstack db` whether the server can write. No answer is a problem too."""
        if not ROLE_SETTINGS.is_file():
            return {"problem": None, "error": f"{ROLE_SETTINGS} is missing: the role mysql_replication writes it"}
        done = self.tools.run(*ROLE_COMMAND, "status", "--json")
        try:
            # 2 means that it runs but cannot write.
            if done.code in (0, 2):
                return dict(json.loads(done.out)["disk"])
            return {"problem": None, "error": last_message(done.err)}
        except (KeyError, TypeError, ValueError):
            return {"problem": None, "error": f"webstack db status: {last_message(done.err or done.out)}"}

    def fail_over(self) -> str:
        """Return who decides who writes: `manual`, a person; otherwise agents, which stand aside for a restore."""
        if not ROLE_SETTINGS.is_file():
            return "manual"
        raw = load(ROLE_SETTINGS, "mysql_replication")
        return raw.text("mode") if "mode" in raw else "manual"

    def option(self, name: str, default: str) -> str:
        """Return a setting from the server's option files; it may not run now."""
        output = self.tools.run("my_print_defaults", "--mysqld").out
        word = name.replace("_", "[-_]")
        hits = re.findall(rf"^--(?:loose[-_])?{word}(?:=(.*))?$", output, re.MULTILINE)
        return hits[-1].strip() or default if hits else default

    def datadir(self) -> pathlib.Path:
        return pathlib.Path(os.path.normpath(self.option("datadir", "/var/lib/mysql")))

    def earlier(self, target: pathlib.Path) -> list[pathlib.Path]:
        """Return the copies of the data that earlier restores and seeds left, if a new one shall go there too."""
        try:
            where = data.place(self.datadir())
        except (Problem, OSError):
            return []
        return where.earlier() if target.parent == where.base else []

    def replication(self, wish: str) -> dict[str, Any]:
        """Hold or resume replication on this server, if there is any."""
        with contextlib.closing(self.session()) as session:
            try:
                following = bool(session.rows("SHOW ALL SLAVES STATUS"))
            except ServerGone:
                following = False
            if following:
                session.run("STOP ALL SLAVES" if wish == "stop" else "START ALL SLAVES")
        return {"replication": wish if following else "none"}

    def fingerprint(self) -> dict[str, Any]:
        """Rows and checksum of every table, with the position before and after: equal ones make it comparable.

        What no server has in common with another one is left out, and named.
        """
        with contextlib.closing(self.session(self.config.whole("timeout_seconds"))) as session:
            before = position(session)
            quoted = ", ".join(f"'{name}'" for name in SYSTEM_SCHEMAS)
            listed = session.rows(
                "SELECT table_schema AS place, table_name AS name, table_type AS kind, COALESCE(engine, '') AS engine"
                " FROM information_schema.tables WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE')"
                f" AND table_schema NOT IN ({quoted}) ORDER BY 1, 2"
            )
            # Their rows have numbers of transactions, which each server counts for itself.
            counted = session.rows(
                "SELECT table_schema AS place, table_name AS name FROM information_schema.columns"
                " WHERE generation_expression = 'ROW START' AND data_type = 'bigint'"
            )
            own = {(row["place"], row["name"]) for row in counted}
            names: dict[str, list[str]] = {"tables": [], "sequences": []}
            left_out = []
            for row in listed:
                name = f"{identifier(row['place'])}.{identifier(row['name'])}"
                # To read one of these may even write: a server logs that a restart has emptied it.
                if str(row["engine"]).upper() in NOT_COMMON:
                    left_out.append(f"{name}: engine {row['engine']}")
                elif (row["place"], row["name"]) in own:
                    left_out.append(f"{name}: its history is by transaction")
                else:
                    names["sequences" if row["kind"] == "SEQUENCE" else "tables"].append(name)
            found: dict[str, str | None] = {}
            rows = 0
            for start in range(0, len(names["tables"]), 100):
                some = names["tables"][start : start + 100]
                sums = session.rows(f"CHECKSUM TABLE {', '.join(some)} EXTENDED")
                found.update(zip(some, (row["Checksum"] for row in sums), strict=True))
                counts = session.rows(" UNION ALL ".join(f"SELECT COUNT(*) AS n FROM {name}" for name in some))
                rows += sum(int(row["n"] or 0) for row in counts)
            for name in names["sequences"]:
                (state,) = session.rows(f"SELECT * FROM {name}")
                found[name] = " ".join(f"{key}={value}" for key, value in state.items())
            after = position(session)
        return {"before": before, "after": after, "tables": found, "rows": rows, "left_out": left_out}


def position(session: Session) -> str:
    return session.rows("SELECT @@gtid_current_pos AS gtid")[0]["gtid"] or ""

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares the running server with its option files, tries new values, and applies them."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from ..core.errors import Problem
from ..core.files import write
from ..core.mariadb import ServerGone, Session, SqlError, quote
from ..core.run import run
from .config import Config
from .options import STARTED, record_start, switch, tls_digest, wanted_options
from .role import look
from .server import restart_server
from .session import local_session

# In this order: wrong value, wrong type, unknown engine, collation, character set, time zone, locale.
WRONG_VALUE = re.compile(r"ERROR (?:1231|1232|1286|1273|1115|1298|1649)\b")


def pending(config: Config, session: Session) -> dict[str, Any]:
    """Return the options that have changed since the start: those that need a restart, and those that can be set."""
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
            # On a closed server the scheduler stays off. `resume_events` reads the wish when it opens.
            if not look(session)["read_only"]:
                changes["set"][name] = switch(wanted.get(name, ""))
            continue
        # If an option was removed, only a start finds its default. read_only is not set here: it depends on the role.
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
        # An option file accepts more words than SET.
        return "OFF" if value.upper() in ("OFF", "FALSE") else "ON"
    return quote(value)


def complaints(said: str) -> list[str]:
    """Return from the server's messages about its option files those about options that it would not follow."""
    found = []
    for line in said.splitlines():
        adjusted = re.search(r"value (\d+) adjusted to (\d+)", line)
        # It rounds some values to whole blocks. That is no complaint.
        bounded = adjusted and abs(int(adjusted[1]) - int(adjusted[2])) > int(adjusted[1]) // 10
        if "[ERROR]" in line or "wasn't recognized" in line or bounded:
            found.append(re.sub(r"^.*\[(?:ERROR|Warning)\] (?:mariadbd: |Buffered warning: )?", "", line))
    return list(dict.fromkeys(found))


def check_settings(config: Config) -> None:
    """Refuse option files that the server would not start with."""
    answer = run("mariadbd", "--user=mysql", "--help", "--verbose", seconds=60, check=False)
    found = complaints(answer.err)
    if found or answer.code != 0:
        raise Problem("the server refuses its settings: " + ("; ".join(found) or answer.err.strip()[-500:]))
    session = local_session(config, 60)
    tried: list[str] = []
    try:
        # Try the values that can be set; `apply` would set them next anyway. Some values are checked only by SET.
        for name, value in pending(config, session)["set"].items():
            try:
                session.run(f"SET @was_{name} = @@GLOBAL.{name}", f"SET GLOBAL {name} = {value}")
                tried.append(name)
            except SqlError as error:
                if WRONG_VALUE.match(str(error)):
                    # The caller puts the old files back, so put the old values back too.
                    for done in tried:
                        with contextlib.suppress(SqlError):
                            session.run(f"SET GLOBAL {done} = @was_{done}")
                    raise Problem(f"the server refuses {name} = {value}: {error}") from None
    except ServerGone:
        # The next start will show the rest.
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
            # Some settings cannot change while replication or the server runs. A start accepts what was checked before.
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
        # This start was not recorded. So nothing could be compared, and nothing was set.
        return
    wanted = wanted_options()
    for name in changes["set"]:
        if name in wanted:
            started["options"][name] = wanted[name]
        else:
            started["options"].pop(name, None)
    started["tls"] = tls_digest(config)
    write(STARTED, json.dumps(started))

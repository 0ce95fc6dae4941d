# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Loads the time zones of the host into the server."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib

from ..core.errors import Problem
from ..core.mariadb import UNLOGGED, Session, quote
from ..core.run import run
from ..core.say import say
from .config import Config
from .session import local_session

ZONES = pathlib.Path("/usr/share/zoneinfo")


def zone_names() -> list[str]:
    """Return the zones of this host, as the server's own tool finds them."""
    found = []
    for path in sorted(ZONES.rglob("*")):
        name = str(path.relative_to(ZONES))
        if not name.startswith(("posix/", "right/")) and path.is_file():
            with path.open("rb") as file:
                if file.read(4) == b"TZif":
                    found.append(name)
    return found


def zone_stamp(names: list[str]) -> str:
    """Return a name for the state of the host's zones. The server stores it with its zones, so copies have it too."""
    version = ""
    with contextlib.suppress(OSError), (ZONES / "tzdata.zi").open() as file:
        version = file.readline().removeprefix("# version").strip()
    return f"webstack tzdata {version or '?'} {hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:16]}"


def time_zones_current(session: Session) -> bool | None:
    """Say whether the server has the zones of this host; None if the host has none."""
    names = zone_names()
    if not names:
        return None
    row = session.rows(
        "SELECT TABLE_COMMENT AS stamp, (SELECT COUNT(*) FROM mysql.time_zone_name) AS n FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'time_zone_name'"
    )
    return bool(row) and row[0]["stamp"] == zone_stamp(names) and row[0]["n"] != "0"


def keep_time_zones(config: Config) -> None:
    """Load this host's zones after new data brought its own. If that fails, only say so: the seed is done."""
    session = local_session(config, 30)
    try:
        if time_zones_current(session) is False:
            load_time_zones(config)
    except (Problem, OSError) as error:
        say(f"the time zones are not this host's: {error}")
    finally:
        session.close()


def load_time_zones(config: Config) -> None:
    """Replace the server's zones by the host's. Each server has its own, so nothing goes into the binary log."""
    names = zone_names()
    if not names:
        raise Problem(f"{ZONES} has no time zones: install tzdata")
    made = run("mariadb-tzinfo-to-sql", "--skip-write-binlog", str(ZONES), seconds=120, check=False)
    if made.code != 0 or "time_zone_name" not in made.out:
        raise Problem(f"mariadb-tzinfo-to-sql failed: {made.err.strip()[-300:] or 'it printed nothing'}")
    stamp = f"ALTER TABLE time_zone_name COMMENT = {quote(zone_stamp(names))};\n"
    # The tool writes statements for the client. The client must not read the option files in root's home.
    client = ["mariadb", "--no-defaults", "--default-character-set=utf8mb4", f"--init-command={UNLOGGED}"]
    client += ["--user=root", f"--socket={config.socket}", "--protocol=socket", "mysql"]
    loaded = run(*client, text=f"{made.out}\n{stamp}", seconds=300, check=False)
    if loaded.code != 0:
        raise Problem(f"the time zones do not load: {loaded.err.strip()[-300:]}")
    print(f"loaded {len(names)} time zones")

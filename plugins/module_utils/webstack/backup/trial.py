# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A throw-away server on restored data: nobody else can reach it, and it lives no longer than the trial."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..core import files, systemd
from ..core.errors import Problem
from ..core.mariadb import ServerGone, Session
from ..core.run import run
from .ship import program
from .tools import GENTLE, last_message

UNIT = "webstack-backup-trial.service"
#: Where the server itself sees its files; its account may not look into the directory in which they lie.
INSIDE = pathlib.Path("/run/webstack/backup-trial")
MEMORY = "256M"
START_SECONDS = 600
STATEMENT_SECONDS = 3600


@contextlib.contextmanager
def place(staging: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a fresh directory for what belongs to one trial and is no data; afterwards it and its server are gone."""
    home = staging / "trial"
    clear(home)
    try:
        files.folder(staging, 0o700)
        home.mkdir(mode=0o700)
        # Where the server sees its data.
        (home / "data").mkdir(mode=0o700)
        yield home
    finally:
        clear(home)


def clear(home: pathlib.Path) -> None:
    """Remove what this or an earlier trial left, its server first."""
    if known():
        systemd.tell("stop", UNIT, seconds=120)
    shutil.rmtree(home, ignore_errors=True)


def known() -> bool:
    return systemd.show(UNIT, "LoadState")["LoadState"] == "loaded"


def command(home: pathlib.Path, data: pathlib.Path, seconds: int) -> list[str]:
    """Return the command that starts the server: without a network, binary log, events and replication."""
    title = "Throw-away server of the proof of a backup"
    words = ["systemd-run", "--quiet", "--collect", f"--unit={UNIT}", f"--description={title}"]
    for name, value in {
        "User": "mysql",
        "Group": "mysql",
        "Nice": "15",
        "IOSchedulingClass": "idle",
        "RuntimeMaxSec": str(seconds),
        "TimeoutStopSec": "60",
        "LimitNOFILE": "65536",
        "PrivateTmp": "yes",
        "ProtectHome": "yes",
        "NoNewPrivileges": "yes",
        "BindPaths": f"{home}:{INSIDE} {data}:{INSIDE}/data",
    }.items():
        words.append(f"--property={name}={value}")
    return [
        *words,
        "mariadbd",
        # The settings of InnoDB that the data itself needs.
        f"--defaults-file={INSIDE}/data/backup-my.cnf",
        f"--datadir={INSIDE}/data",
        f"--socket={INSIDE}/server.sock",
        f"--pid-file={INSIDE}/server.pid",
        f"--log-error={INSIDE}/server.log",
        f"--innodb-buffer-pool-size={MEMORY}",
        "--innodb-buffer-pool-load-at-startup=OFF",
        "--innodb-buffer-pool-dump-at-shutdown=OFF",
        "--innodb-flush-log-at-trx-commit=0",
        "--skip-networking",
        "--skip-log-bin",
        "--skip-slave-start",
        "--event-scheduler=DISABLED",
        "--max-allowed-packet=1G",
    ]


@contextlib.contextmanager
def server_on(home: pathlib.Path, data: pathlib.Path, seconds: int) -> Iterator[Session]:
    """Start a server on restored data and yield a session of it. It ends with this, cleanly."""
    account = data.stat()
    files.write(home / "server.log", "", 0o600)
    for path in (home, home / "data", home / "server.log"):
        shutil.chown(path, account.st_uid, account.st_gid)
    run(*command(home, data, seconds), seconds=60)
    session = Session({"unix_socket": str(home / "server.sock"), "user": "root"}, STATEMENT_SECONDS, 5)
    try:
        wait(session, home)
        session.run("SET SESSION time_zone = '+00:00'")
        yield session
    finally:
        session.close()
        systemd.tell("stop", UNIT, seconds=120)


def wait(session: Session, home: pathlib.Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            session.rows("SELECT 1")
            return
        except ServerGone as gone:
            if not known() or time.monotonic() > end:
                log = files.read(home / "server.log") or str(gone)
                raise Problem(f"no server starts on the restored data: {last_message(log)}") from None
            time.sleep(0.2)


def client(home: pathlib.Path, seconds: float, **pipes: Any) -> Any:
    """Run a client of the server that does what it reads."""
    words = ["mariadb", "--no-defaults", "--binary-mode", "--max-allowed-packet=1G", "--user=root"]
    return program(seconds, *words, f"--socket={home / 'server.sock'}", **pipes)


def replay(home: pathlib.Path, logs: Sequence[pathlib.Path], start: int, stop: int, seconds: float) -> None:
    """Give the server what stands in these binary logs, from a place in the first one to a place in the last."""
    words = ["mariadb-binlog", f"--start-position={start}", f"--stop-position={stop}", *map(str, logs)]
    with (
        program(seconds, *GENTLE, *words, stdout=subprocess.PIPE) as log,
        client(home, seconds, stdin=log.stdout) as reader,
    ):
        assert log.stdout is not None
        log.stdout.close()
    if log.returncode != 0 or reader.returncode != 0:
        raise Problem(f"the binary logs from {logs[0].name} on cannot be replayed: the journal says why")

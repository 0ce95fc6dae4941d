# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes a backup: decides whether this server is the one to back up, copies its data, stores it in the repository."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..core import files
from ..core.config import Settings
from ..core.errors import Problem
from ..db import data
from . import full
from .repository import Repository, gtid_tag
from .server import Server
from .tools import need_room, stamp

#: What a backup says about itself, in a file of its own beside the data.
METADATA = "webstack-backup.json"


class Skipped(Exception):
    """There is nothing to do on this server, and that is no error."""


def refusal(replica: Mapping[str, Any], lag_limit: int) -> str | None:
    """Return why a backup of this replica would be useless, or None."""
    if not replica["io"] or not replica["sql"]:
        stopped = " and ".join(name for name in ("io", "sql") if not replica[name])
        detail = f": {replica['error']}" if replica["error"] else ""
        return f"replication is not running ({stopped} thread stopped){detail}"
    if replica["lag_seconds"] is None:
        return "the replica does not know its lag"
    if replica["lag_seconds"] > lag_limit:
        return f"the replica lags {replica['lag_seconds']} s, the limit is {lag_limit} s"
    return None


def may_back_up(config: Settings, server: Mapping[str, Any], *, require: bool, allow_primary: bool) -> None:
    """Raise an error or a Skipped if this server is not the one to back up."""
    if not server["running"]:
        raise Problem(f"the server does not answer: {server['error']}")
    if server["role"] == "replica":
        reason = refusal(server["replica"], config.whole("lag_limit_seconds"))
        if reason:
            raise Problem(reason)
    elif server["role"] == "none":
        raise Problem("this server is read-only and replicates from nobody: neither primary nor replica")
    # The setting allows a backup of a primary only while it has no replica. Otherwise there would be two each time.
    elif not allow_primary and (not config.flag("allow_primary") or server["followers"] > 0):
        if require:
            raise Problem("this server is the primary")
        raise Skipped("this server is the primary")
    elif server["read_only"]:
        # The other server may have taken its place. A backup of this old data would count as the newest one.
        raise Problem("this server was the primary and accepts no writes: `webstack db status` shows who does")


@contextlib.contextmanager
def staging(config: Settings) -> Iterator[pathlib.Path]:
    """Make an empty directory for one backup, and remove it afterwards in any case."""
    directory = pathlib.Path(config.text("staging_directory")) / "data"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    directory.parent.chmod(0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def copy_server(server: Server, seen: Mapping[str, Any], directory: pathlib.Path) -> None:
    """Copy the data of the running server."""
    datadir = pathlib.Path(str(seen["datadir"]))
    if astray := data.led_astray(datadir, datadir.stat().st_uid):
        raise Problem(f"{astray} leads to a file that is not the server's: look who put it there, and remove it")
    server.tools.mariadb_backup(
        "mariadb-backup.log",
        "--backup",
        "--user=root",
        f"--socket={server.config.text('socket')}",
        f"--target-dir={directory}",
        f"--parallel={server.config.whole('parallel')}",
        # The tool stops the server's writes at the end, shortly if it has kept up with the redo log.
        "--log-copy-interval=50",
        *(["--slave-info"] if seen["replica"] is not None else []),
    )


def take(server: Server, repository: Repository, kind: str, *, require: bool, allow_primary: bool) -> dict[str, Any]:
    """Take one backup, then apply the retention."""
    started = time.time()
    config = server.config
    seen = server.look()
    may_back_up(config, seen, require=require, allow_primary=allow_primary)
    if doubt := server.doubtful():
        raise Problem(f"{doubt}: a backup would keep that (docs/database.md, 'Sad cases')")
    # The backup has no binary or relay logs, so they do not count.
    logs = [os.path.join(seen["datadir"], name) + "." for name in (seen["log_bin"], seen["relay_log"]) if name]
    # Nor does it have the old copies that lie inside of a data directory on a disk of its own.
    logs += [os.path.join(seen["datadir"], name) + os.sep for name in data.KEEP]
    staged = pathlib.Path(config.text("staging_directory"))
    need_room(staged, data.size_of(seen["datadir"], logs), config.number("free_disk_factor"))
    if not repository.opens():
        raise Problem("the repository is missing; is its disk mounted? `webstack backup init` makes a new one")
    repository.unlock()
    with staging(config) as directory:
        copy_server(server, seen, directory)
        position = data.position(directory)
        if not position.gtid:
            raise Problem("the backup has no GTID position; replication by GTID is needed")
        size = data.size_of(str(directory))
        facts = {
            "format": 1,
            "site": config.text("site"),
            "kind": kind,
            "host": socket.gethostname(),
            "role": seen["role"],
            "server": seen["version"],
            "gtid": position.gtid,
            "binlog_file": position.file,
            "binlog_position": position.offset,
            "started": stamp(started),
            "bytes": size,
        }
        files.write(directory / METADATA, json.dumps(facts, indent=2) + "\n", 0o600)
        version = seen["version"].split()[0]
        tags = [facts["site"], f"kind={kind}", gtid_tag(position.gtid), f"bytes={size}", f"server={version}"]
        snapshot, made_room = full.store(repository, directory, tags)
    fields: dict[str, Any] = {"kind": kind, "host": socket.gethostname(), "snapshot": snapshot, "bytes": size}
    if made_room:
        fields["room"] = "made"
    if config.flag("retention_enabled") and not repository.retain():
        fields["retention"] = "failed"
    fields["seconds"] = round(time.time() - started, 1)
    fields["gtid"] = position.gtid
    return fields

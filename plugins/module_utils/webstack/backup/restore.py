# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restores a backup: first into an empty directory, then in the place of the stopped server's data."""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..core import files
from ..core.errors import Problem
from ..core.mariadb import quote
from ..db import data, role
from .forward import Until, facts_of, forward, usable
from .repository import Repository, choose
from .server import ROLE_COMMAND, ROLE_SETTINGS, Server
from .ship import partial_of
from .take import METADATA
from .tools import last_message, need_room, stamp, surplus

KEPT_LOGS = "binary-logs"


def where_data_goes(datadir: pathlib.Path) -> dict[str, str]:
    """Return how names of copies of the data begin, or why the data cannot be exchanged."""
    try:
        return {"copies": str(data.place(datadir).folder("{}.")), "datadir_problem": ""}
    except (Problem, OSError) as error:
        return {"copies": "", "datadir_problem": str(error)}


def restore(
    server: Server, repository: Repository, wanted: str, target: pathlib.Path, stop: Until | None = None
) -> dict[str, Any]:
    """Restore a backup into `target`, as a data directory that a server of this version can start on.

    With `stop` it is brought forward from there, to that place.
    """
    started = time.monotonic()
    if not target.is_absolute():
        raise Problem(f"--target {target} is not an absolute path")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Problem(f"--target {target} exists and is not an empty directory; nothing is overwritten")
    snapshots: Sequence[Mapping[str, Any]] = repository.snapshots()
    if stop and not (snapshots := usable(snapshots, stop)):
        raise Problem("no backup of this host is old enough to be brought forward to that")
    snapshot = choose(snapshots, wanted)
    need_room(target, snapshot["bytes"], server.config.number("free_disk_factor"), server.earlier(target))
    partial = partial_of(target)
    try:
        repository.fetch(snapshot["id"], partial)
        server.tools.mariadb_backup("prepare.log", "--prepare", f"--target-dir={partial}")
        data.give_to_server(partial)
        forwarded = forward(server, partial, facts_of(partial, snapshot), stop) if stop else {}
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return {
        "snapshot": snapshot["id"],
        "time": snapshot["time"],
        "target": target,
        "bytes": data.size_of(str(target)),
        "seconds": round(time.monotonic() - started, 1),
        "gtid": snapshot["gtid"],
        **forwarded,
    }


def replace_data(server: Server, source: pathlib.Path, keep: int) -> dict[str, str]:
    """Put a prepared directory in the place of the stopped server's. The old one is kept under a dated name."""
    where = data.place(server.datadir())
    data.need_stopped(where.data)
    # Finish with an interrupted restore now; otherwise the next start of the server would do it.
    data.recover()
    if not re.search(
        r"^backup_type = (log-applied|full-prepared)$", data.tool_file(source, "checkpoints"), re.MULTILINE
    ):
        raise Problem(f"{source} is not a prepared data directory")
    old = where.folder("{}.before-restore-" + stamp())
    data.not_placed(source)
    data.carry_over(where.data, source)
    data.exchange(where, source, old, companions(server, where.data, old))
    shutil.rmtree(source, ignore_errors=True)
    before = where.folder("{}.before-restore-").name
    kept = [str(path) for path in where.earlier() if path.name.startswith(before)]
    for name in surplus(kept, keep):
        shutil.rmtree(name)
    return {"datadir": str(where.data), "old": str(old)}


def undo_replace(server: Server, old: pathlib.Path) -> dict[str, str]:
    """Bring the replaced directory back, with all files that were moved with it."""
    where = data.place(server.datadir())
    if not old.is_dir() or old.parent != where.base:
        raise Problem(f"{old} is not an earlier data directory in {where.base}")
    failed = where.folder("{}.failed-restore-" + stamp())
    bring = [(old / role.KEPT_MARKER, role.MARKER)] if (old / role.KEPT_MARKER).is_file() else []
    logs = old / KEPT_LOGS
    if os.path.lexists(logs):
        data.no_link(logs)
        home = pathlib.Path(server.option("log_bin", "")).parent
        bring += [(path, home / path.name) for path in sorted(logs.iterdir())]
    data.exchange(where, old, failed, companions(server, where.data, failed), bring)
    shutil.rmtree(old, ignore_errors=True)
    return {"datadir": str(where.data), "old": str(failed)}


def companions(server: Server, datadir: pathlib.Path, old: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Return files that belong to the data and lie elsewhere: the marker and the binary logs. They move with it."""
    pairs = [(log, old / KEPT_LOGS / log.name) for log in outside_logs(server, datadir)]
    return [*pairs, (role.MARKER, old / role.KEPT_MARKER)] if role.MARKER.is_file() else pairs


def outside_logs(server: Server, datadir: pathlib.Path) -> list[pathlib.Path]:
    """Return binary logs outside of the data directory. They belong to the history that the restore replaces."""
    basename = server.option("log_bin", "")
    if not os.path.isabs(basename) or datadir in pathlib.Path(os.path.realpath(basename)).parents:
        return []
    stem = os.path.splitext(basename)[0]
    return [pathlib.Path(path) for path in glob.glob(glob.escape(stem) + ".*") if os.path.isfile(path)]


def take_over(server: Server) -> dict[str, str]:
    """Make the restored server the writer, once it knows where in the history it stands."""
    with contextlib.closing(server.session()) as session:
        now = session.rows("SELECT @@datadir AS datadir, @@gtid_slave_pos AS gtid")[0]
        gtid = position_in(pathlib.Path(str(now["datadir"])) / METADATA)
        if now["gtid"] != gtid:
            session.run(f"SET GLOBAL gtid_slave_pos = {quote(gtid)}")
        if not ROLE_SETTINGS.is_file():
            session.run("SET GLOBAL read_only = 0")
            data.placed(pathlib.Path(str(now["datadir"])))
            return {"gtid": gtid}
    # It owns the server's role.
    done = server.tools.run(*ROLE_COMMAND, "restored", seconds=300)
    if done.code != 0:
        raise Problem(f"webstack db restored: {last_message(done.err or done.out)}")
    return {"gtid": gtid}


def position_in(note: pathlib.Path) -> str:
    """Return the position that is written in a backup."""
    found = re.search(r'"gtid": "([0-9,-]+)"', files.read(note) or "")
    if not found:
        raise Problem(f"{note} has no GTID position")
    return found[1]

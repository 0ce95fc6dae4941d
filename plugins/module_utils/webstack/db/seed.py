# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Receives a seed: takes a copy of the primary's data and starts on it. If that fails, puts everything back."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import signal
import time
from typing import Any, NoReturn

from ..core import files, lock
from ..core.errors import Problem
from ..core.mariadb import ServerGone
from ..core.run import run
from ..core.say import say
from ..core.summary import document
from . import data
from .config import LOCK_PURPOSE, LOCK_SECONDS, RUN, Config, Node
from .data import backup_position, make_ready, schema_folders, server_account
from .exchange import exchange
from .exchange import recover as undo_exchange
from .link import link
from .marker import KEPT_MARKER, MARKER
from .role import caught_up, look, wait_for
from .server import start_again, start_server, systemctl, unit_states
from .session import local_session
from .transfer import KEEPALIVE, pipeline, socat_address, tls_end
from .zones import keep_time_zones

SEED_RESULT = RUN / "seed.json"
SEED_UNIT = "webstack-db-seed"
#: What another one needs at most to begin.
BEGIN_SECONDS = 60
#: This path stays the same when a new version of the program is installed.
COMMAND = "/usr/local/sbin/webstack"


class NothingCame(Problem):
    """Nobody sent anything."""


def receive_begin(config: Config, source: str, move_aside: bool, expect: int, seconds: float) -> None:
    """Start the receiver in the background; it outlives the connection of whoever asked for it."""
    config.other(source)
    # A play and the agent may begin at the same moment; the second would remove what the first one receives.
    with lock.hold("seed", "begin a seed", BEGIN_SECONDS):
        if not unit_states(f"{SEED_UNIT}.service")[f"{SEED_UNIT}.service"]["active"]:
            _begin(config, source, move_aside, expect, seconds)
        elif config.decided and config.reseeds:
            print("joined: a seed has begun already")
        else:
            raise Problem(f"a seed is under way ({SEED_UNIT}.service)")


def _begin(config: Config, source: str, move_aside: bool, expect: int, seconds: float) -> None:
    recover()
    seen = None
    with contextlib.suppress(ServerGone):
        seen = look(local_session(config))
    if seen is not None and seen["replica"] is None and not seen["read_only"]:
        raise Problem("this server accepts writes: a primary is never overwritten by a seed")
    place = data.place(config.datadir)
    own = schema_folders(place.data)
    if own and not move_aside:
        raise Problem(
            f"{config.datadir} holds data ({', '.join(own[:5])}); with mysql_replication_reseed: true it is moved"
            " aside, never deleted"
        )
    # The remains of a killed seed take room.
    shutil.rmtree(seed_folder(place), ignore_errors=True)
    # The copy grows a little when it is prepared.
    data.need_room(place, expect + expect // 10)
    SEED_RESULT.unlink(missing_ok=True)
    run("systemctl", "reset-failed", f"{SEED_UNIT}.service", seconds=30, check=False)
    command = ["systemd-run", "--quiet", f"--unit={SEED_UNIT}", "--collect", "--property=KillMode=control-group"]
    command += [f"--property=OnFailure=webstack-alarm@db:{SEED_UNIT}.service"]
    command += [COMMAND, "db", "receive-run", f"--from={source}", f"--wait={seconds:g}"]
    command += ["--move-aside"] if move_aside else []
    try:
        run(*command, seconds=60)
    except Problem as problem:
        raise Problem(f"cannot start the receiver: {problem}") from None


def receive_run(config: Config, source: str, move_aside: bool, seconds: float) -> None:
    """Receive the copy, prepare it, exchange the data, link. The old server runs until the new data is ready."""

    def ended(number: int, _frame: object) -> NoReturn:
        raise Problem(f"ended by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, ended)
    # If the server has not run since the host started, nothing else has made this directory.
    files.folder(RUN)
    outcome: dict[str, Any] = {"ok": False}
    try:
        outcome = {"ok": True, **seed_from(config, config.other(source), move_aside, seconds)}
    except Exception as error:  # whatever it is, the waiting play has to see it
        outcome = {"ok": False, "error": f"{error}", "came": not isinstance(error, NothingCame)}
    files.write(SEED_RESULT, json.dumps(outcome))
    if not outcome["ok"]:
        raise Problem(outcome["error"])


def seed_folder(place: data.Place) -> pathlib.Path:
    return pathlib.Path(place.folder(".{}-seed"))


def seed_from(config: Config, source: Node, move_aside: bool, seconds: float) -> dict[str, Any]:
    """Take the copy within some seconds, then put it into use."""
    started = time.monotonic()
    place = data.place(config.datadir)
    stage = seed_folder(place)
    shutil.rmtree(stage, ignore_errors=True)
    user, group = server_account()
    data.make_work(stage, user, group)
    stage.mkdir(mode=0o700)
    try:
        listen = f"OPENSSL-LISTEN:{config.seed_port},bind={socat_address(config.node.address)},reuseaddr"
        listen += ",accept-timeout=60" + (",pf=ip6" if ":" in config.node.address else "")
        receiver = ["socat", "-u", f"{listen},{KEEPALIVE},{tls_end(config, source)}", "STDOUT"]
        unpack = [["zstd", "-q", "-d", "-c"], ["mbstream", "-x", "-C", str(stage)]]
        try:
            pipeline([receiver, *unpack], RUN / "receive.log", seconds)
        except Problem as problem:
            raise problem if any(stage.iterdir()) else NothingCame(f"nothing came: {problem}") from problem
        received = time.monotonic()
        left = seconds - (received - started)
        pipeline([["mariadb-backup", "--prepare", f"--target-dir={stage}"]], RUN / "prepare.log", left)
        position = backup_position(stage)
        size = sum(f.stat().st_size for f in stage.rglob("*") if f.is_file())
        prepared = time.monotonic()
        with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
            aside = take_into_use(place, stage, move_aside)
            # Under the same lock: an agent would link from where the copied tables say that this server was once.
            failed = linked(config, source, position)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    try:
        if failed:
            raise failed
        wait_for(config, 3600, "catching up", caught_up)
        keep_time_zones(config)
    except (Problem, OSError) as error:
        raise Problem(
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


def linked(config: Config, source: Node, position: str) -> Problem | OSError | None:
    """Link the server on its new data. Return what is in the way."""
    try:
        link(config, source, position)
        data.placed(config.datadir)
    except (Problem, OSError) as error:
        return error
    return None


def take_into_use(place: data.Place, stage: pathlib.Path, move_aside: bool) -> str:
    """Start the server on the new data. Return where the old data is, if there was any worth keeping.

    If that fails, everything is as before: the data, the marker, and whether the server runs.
    """
    owned = schema_folders(place.data)
    if owned and not move_aside:
        raise Problem(f"{place.data} holds data: {', '.join(owned[:5])}")
    data.not_placed(stage)
    make_ready(stage, place.data)
    kept = place.folder("{}." + time.strftime("%Y%m%d-%H%M%S"))
    ran = unit_states("mariadb.service")["mariadb.service"]["active"]
    try:
        systemctl("stop", "mariadb.service")
        exchange(place, stage, kept, [(MARKER, kept / KEPT_MARKER)] if MARKER.exists() else [])
    except (Problem, OSError) as error:
        raise Problem(f"{error}; {start_again(ran)}") from error
    try:
        start_server()
    except Problem as error:
        back = put_back(place, kept, stage, ran)
        raise Problem(f"the server does not start on the new data: {error}; {back}") from error
    if owned:
        return str(kept)
    shutil.rmtree(kept, ignore_errors=True)
    return ""


def put_back(place: data.Place, kept: pathlib.Path, stage: pathlib.Path, ran: bool) -> str:
    """Bring the old data and its marker back. Return what was done, or what is left to do."""
    shutil.rmtree(stage, ignore_errors=True)
    bring = [(kept / KEPT_MARKER, MARKER)] if (kept / KEPT_MARKER).exists() else []
    try:
        systemctl("stop", "mariadb.service")
        exchange(place, kept, stage, bring=bring)
        shutil.rmtree(kept, ignore_errors=True)
    except (Problem, OSError) as error:
        return f"bringing the old data back failed too: {error}; it lies in {kept}"
    return f"the old data is in its place again, and {start_again(ran)}"


def recover() -> None:
    """Undo an interrupted exchange of the data directory. The server's unit calls this before each start."""
    done = undo_exchange()
    if done:
        say(done)


def receive_wait(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if SEED_RESULT.exists():
            outcome = json.loads(SEED_RESULT.read_text())
            if not outcome.pop("ok"):
                raise Problem(f"seeding failed: {outcome['error']}")
            print(json.dumps(document({}, True, **outcome)))
            return
        unit = f"{SEED_UNIT}.service"
        if not unit_states(unit)[unit]["active"] and not SEED_RESULT.exists():
            raise Problem(f"the receiver is gone and left no result; see journalctl -u {SEED_UNIT}")
        time.sleep(0.2)
    raise Problem(f"seeding is not done after {seconds:g} s; it goes on as {SEED_UNIT}.service")

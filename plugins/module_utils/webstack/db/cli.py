# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at one of the two MariaDB servers of a site, and change it, from its own host.

The server itself says what it is. If it has a source to replicate from, it is a replica. If it accepts writes, it is
the primary. It always starts read-only. `watch` (webstack-db.service) opens a primary again after a restart, and puts
the writer address on its host; where a quorum decides, it also moves the role to the other host when this one is lost.
All other commands are called by a person or by a play.

The commands reach the local server over its unix socket (as root, no password) and the other one over TLS. Settings:
/etc/webstack/db.json, written by the role mysql_replication.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from ..core.arguments import Parser
from ..core.errors import DEGRADED, FAILED, GOOD, Problem
from ..core.say import ERROR, say
from ..core.summary import document
from .config import Config

#: What mysql_replication_seed_timeout_seconds is by default: half a day.
SEED_SECONDS = 43200
#: The next night's comparison finds nobody at work.
DRIFT_SECONDS = 80000


def parser() -> Parser:
    """Return the parser for the commands of this tier."""
    found = Parser("db", __doc__)
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, wait: float | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if wait is not None:
            sub.add_argument("--wait", type=float, default=wait, metavar="SECONDS", help=f"time limit ({wait:g})")
        return sub

    sub = add("status", "what this server and the other one are")
    sub.add_argument("--json", action="store_true", help="as one JSON document")
    sub.add_argument("--detail", action="store_true", help="with pending settings and units (JSON)")
    sub = add("promote", "make this server the primary", 60)
    sub.add_argument("--force", action="store_true", help="even if rows are lost; says what that risks")
    sub.add_argument("--peer-is-off", action="store_true", help="the other host has no power: you have seen it")
    sub = add("switchover", "have the other server write, by plan", 30)
    sub.add_argument("--to", default="", metavar="HOST", help="whom (the other one)")
    sub = add("maintenance", "do not count on this host: it hands over and may go off", 30)
    sub.add_argument("wanted", choices=["on", "off"])
    sub = add("pause", "no automatic fail-over, on both hosts")
    sub.add_argument("wanted", choices=["on", "off"])
    sub = add("suspend", "have the agents of both hosts decide and do nothing, for a restore", 60)
    sub.add_argument("wanted", choices=["on", "off"])
    add("start", "start this server, closed; where agents decide, while they are suspended")
    add("restored", "make this server, whose data was just restored, the writer", 60)
    add("enroll", "write down in the quorum that this primary is the writer")
    add("bootstrap", "make this server the first primary of an empty site")
    add("resume", "start the stopped threads of this replica", 60)
    add("relink", "give this replica's link today's password and certificates", 60)
    add("settle", "wait until this server is what it should be", 60)
    add("close", "stop accepting writes, events and all, until 'promote' or the next start")
    add("check-settings", "ask the server whether it takes its option files")
    add("apply", "set the changed options; restart only for those that a running server does not take", 120)
    add("time-zones", "load this host's time zones into the server")
    add("restart", "restart MariaDB and wait until it is what it was", 120)
    sub = add("send", "stream a backup of this primary to a waiting host", SEED_SECONDS)
    sub.add_argument("--to", required=True, metavar="HOST")
    for name, text in (
        ("receive", "begin to wait for a backup, become a replica"),
        ("receive-run", "same, here"),
    ):
        sub = add(name, text, SEED_SECONDS)
        sub.add_argument("--from", dest="source", required=True, metavar="HOST")
        sub.add_argument("--move-aside", action="store_true", help="keep old data beside the new")
        if name == "receive":
            sub.add_argument("--expect", type=int, default=0, metavar="BYTES", help="room that the data needs")
    add("size", "bytes that a backup of this server takes")
    add("recover", "undo an exchange of the data directory that was cut off (mariadb.service)")
    add("receive-wait", "wait until the backup is in use", SEED_SECONDS)
    add("watch", "follow the server's role (webstack-db.service)")
    sub = add("mark", "name this moment on the writer: a restore can come back to just before it")
    sub.add_argument("name", metavar="NAME", help="what is about to happen, for example 'before the import'")
    for one in (sub, add("marks", "show the marks and their transactions, oldest first")):
        one.add_argument("--json", action="store_true", help="as one JSON document")
    sub = add("drift", "compare the data of the two servers, from the writer's host", DRIFT_SECONDS)
    sub.add_argument("--nightly", action="store_true", help="unless the role switched it off")
    add("record", "note the options of this start (mariadb.service)")
    add("drop-address", "give the writer address up (mariadb.service)")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier. A refusal is one line that names the command."""
    options = parser().parse_args(arguments)
    try:
        return act(options)
    except (Problem, OSError) as error:
        say(f"webstack db {options.command}: {error}", ERROR)
        return error.code if isinstance(error, Problem) else FAILED
    except KeyboardInterrupt:
        return 130


def act(options: argparse.Namespace) -> int:
    """Run the command. Each imports only what it needs, since some run at every start of the server."""
    command = options.command
    if command in ("recover", "receive-wait"):
        from . import seed

        if command == "recover":
            seed.recover()
        else:
            seed.receive_wait(options.wait)
        return GOOD
    config = Config()
    match command:
        case "status":
            return show(config, options)
        case "switchover" | "maintenance" | "pause" | "enroll":
            from . import ask

            match command:
                case "switchover":
                    ask.switchover(config, options.to, options.wait)
                case "maintenance":
                    ask.maintenance(config, options.wanted == "on", options.wait)
                case "pause":
                    ask.pause(config, options.wanted == "on")
                case _:
                    ask.enroll(config)
        case "suspend" | "start" | "restored":
            from . import suspend

            match command:
                case "suspend":
                    suspend.suspend(config, options.wanted == "on", options.wait)
                case "start":
                    suspend.start(config)
                case _:
                    suspend.restored(config, options.wait)
        case "promote" if config.decided:
            from . import ask

            ask.promote(config, options.force, options.peer_is_off, options.wait)
        case "close" if config.decided:
            raise Problem("the quorum decides who writes: 'webstack db switchover', or 'maintenance on' before work")
        case "promote" | "bootstrap" | "close":
            from . import writer, zones

            if command == "close":
                writer.close_for_writes(config)
            elif command == "bootstrap":
                writer.bootstrap(config)
            else:
                writer.promote(config, options.force, options.wait)
                zones.keep_time_zones(config)
        case "resume" | "relink":
            from . import link

            link.resume(config, options.wait) if command == "resume" else link.relink(config, options.wait)
        case "settle" | "restart":
            from . import server

            wait: Callable[[Config, float], None] = server.settle if command == "settle" else server.restart_server
            wait(config, options.wait)
        case "apply" | "check-settings":
            from . import settings

            if command == "apply":
                settings.apply_settings(config, options.wait)
            else:
                settings.check_settings(config)
        case "time-zones":
            from . import zones

            zones.load_time_zones(config)
        case "send" | "size":
            from . import transfer

            if command == "send":
                transfer.send(config, options.to, options.wait)
            else:
                print(transfer.data_size(config.datadir))
        case "receive" | "receive-run":
            from . import seed

            if command == "receive":
                seed.receive_begin(config, options.source, options.move_aside, options.expect, options.wait)
            else:
                seed.receive_run(config, options.source, options.move_aside, options.wait)
        case "watch":
            if config.decided:
                from .agent import Agent

                Agent(config).run()
            else:
                from .watch import Watcher

                Watcher(config).run()
        case "drift":
            from . import drift

            if options.nightly and not config.compares:
                print("mysql_replication_drift_check is off")
            elif done := drift.compare(config, options.wait):
                drift.told(done)
        case "mark" | "marks":
            tell_marks(config, options)
        case "record":
            from . import options as files

            files.record_start(config)
        case "drop-address":
            from . import address

            address.drop_address(config)
    return GOOD


def tell_marks(config: Config, options: argparse.Namespace) -> None:
    """Make a mark, or show those that there are."""
    from . import marks

    if options.command == "marks":
        found = marks.marks(config)
    else:
        made = marks.mark(config, options.name)
        found = [made] if made else []
    if options.json:
        done = options.command == "mark" and bool(found)
        print(json.dumps(document({}, done, marks=[one._asdict() for one in found])))
    elif options.command == "mark" and not found:
        print("this server is a replica: the writer's host marks")
    else:
        print("\n".join(marks.lines(found)))


def show(config: Config, options: argparse.Namespace) -> int:
    """Print the state. Return DEGRADED if the server runs but cannot write."""
    from . import status
    from .summary import summary_of

    state = status.status(config, options.detail)
    if options.json or options.detail:
        said = {"server_version" if key == "version" else key: value for key, value in state.items()}
        print(json.dumps(document({"db": summary_of(state)}, **said)))
    else:
        status.print_status(state)
    # A play that asks for the details reads the problem there.
    return DEGRADED if state["disk"]["problem"] and not options.detail else GOOD

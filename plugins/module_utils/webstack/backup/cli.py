# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The commands `webstack backup ...`.

`run`, `prove`, `restore` and `init` end with one line on standard output. Their exit code is 0 if all is well, 1 if
not, and 75 if another run holds the lock. `list`, `status`, `pin` and `unpin` are for people, too. The other commands
are steps of webstack.ha.restore and answer in JSON:

  receive, send    ship a data directory from one host to another
  replication      stop and start the replica
  replace-data     put other data in the place of the stopped server's
  recover          undo a replace-data that was interrupted
  take-over        make this server the writer
  fingerprint      rows and checksums of all tables, to compare two servers
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..core import config as settings
from ..core.arguments import Parser
from ..core.errors import FAILED, GOOD, Busy, Problem
from ..core.summary import Summary, document
from ..db import data
from . import forward, prove, restore, ship, state, take
from .repository import Repository, choose
from .server import Server
from .summary import CONFIG, proof_hours, summary_of
from .tools import Interrupted, Tools, need_room, summary


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("backup", __doc__)
    found.add_argument("--config", default=CONFIG, help=argparse.SUPPRESS)
    commands = found.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    run = command("run", "Take a backup now; on the primary: skip it.")
    run.add_argument("--kind", choices=state.KINDS, default="daily")
    run.add_argument("--require", action="store_true", help="fail on the primary instead of skipping it")
    run.add_argument("--allow-primary", action="store_true", help="back up a primary too")
    proof = command("prove", "Restore a backup as a trial and compare every row; on the primary: skip it.")
    proof.add_argument("--snapshot", default="latest", help="latest, or an id from `list`")
    pin = command("pin", "Keep a backup until `unpin`, whatever the retention says.")
    pin.add_argument("--reason", default="", help="shown by `list`")
    for one in (pin, command("unpin", "Leave a backup to the retention again.")):
        one.add_argument("snapshot", help="latest, or an id from `list`")
    listing = command("list", "Show the backups in the repository, oldest first.")
    listing.add_argument("--json", action="store_true")
    back = command("restore", "Restore a backup into an empty directory, ready for a server to start on.")
    back.add_argument("--snapshot", required=True, help="latest, or an id from `list`")
    back.add_argument("--target", required=True, type=pathlib.Path, metavar="DIR")
    seek = command("find", "Find statements in this host's binary logs, with their GTID and time.")
    seek.add_argument("words", help='for example "DROP TABLE"')
    for one in (run, back, proof):
        one.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for another run to end")
    status = command("status", "Say what this server is and how the last runs went.")
    status.add_argument("--json", action="store_true")
    status.add_argument("--snapshots", action="store_true", help="list the backups too")
    for one, text in ((back, "bring it forward to"), (status, "list those that can be brought forward to")):
        one.add_argument("--until", default="", metavar="TIME", help=f"{text} this second, in UTC")
        one.add_argument("--before", default="", metavar="GTID", help=f"{text} just before this transaction")
    command("init", "Make the repository, or prove that it opens.")
    replace = command("replace-data", "Exchange the data of the stopped server.")
    which = replace.add_mutually_exclusive_group(required=True)
    which.add_argument("--source", type=pathlib.Path, metavar="DIR", help="a prepared directory on its file system")
    which.add_argument("--undo", type=pathlib.Path, metavar="DIR", help="the old directory that comes back")
    replace.add_argument("--keep", type=int, default=0, help="old directories that stay, 0: all")
    command("recover", "Undo an exchange of the data that was cut off; the server does it before it starts.")
    command("take-over", "Set the restored server's position to that of its backup and let it accept writes.")
    replication = command("replication", "Hold or resume replication on this server.")
    replication.add_argument("wish", choices=("stop", "start"))
    command("fingerprint", "Rows and checksum of every table.")
    receive = command("receive", "Receive a data directory over mutual TLS.")
    receive.add_argument("--target", required=True, type=pathlib.Path, metavar="DIR")
    receive.add_argument("--address", required=True, help="own address to listen on")
    receive.add_argument("--sender", required=True, help="address in the sender's certificate")
    receive.add_argument("--expect", type=int, default=0, metavar="BYTES", help="room that the data needs")
    receive.add_argument("--patience", type=float, default=120, metavar="SECONDS")
    send = command("send", "Send a data directory over mutual TLS.")
    send.add_argument("--source", required=True, type=pathlib.Path, metavar="DIR")
    send.add_argument("--address", required=True)
    for one in (receive, send):
        one.add_argument("--port", type=int, required=True)
    return found


def show(changed: bool = False, found: Mapping[str, Summary] | None = None, /, **fields: Any) -> None:
    print(json.dumps(document(found or {}, changed, **fields), default=str))


class Program:
    """Runs one command on this host."""

    def __init__(self, config: settings.Settings, options: argparse.Namespace) -> None:
        self.config = config
        self.options = options
        self.tools = Tools(config)
        self.server = Server(self.tools)
        self.repository = Repository(self.tools)

    def guarded(self) -> int:
        """Do one of those four: with a time limit, one line at the end, and all but `init` under the lock."""
        options = self.options
        kind = state.PROOF if options.command == "prove" else getattr(options, "kind", None)
        name = f"{options.command} --kind {kind}" if kind else options.command
        started = time.time()
        fields: dict[str, Any]
        with contextlib.ExitStack() as stack:
            try:
                if options.command != "init":
                    self.tools.lock = stack.enter_context(state.alone(name, options.wait))
                signal.alarm(self.config.whole("timeout_seconds"))
                if options.command == "run":
                    fields = take.take(
                        self.server, self.repository, options.kind,
                        require=options.require, allow_primary=options.allow_primary,
                    )  # fmt: skip
                    state.record(self.config, options.kind, True, {**fields, "finished": int(time.time())})
                elif options.command == "prove":
                    part = state.next_part(prove.PARTS)
                    fields = prove.prove(self.server, self.repository, options.snapshot, part)
                    state.record(self.config, state.PROOF, True, {**fields, "finished": int(time.time())})
                    fields["left_out"] = "; ".join(fields["left_out"]) or "nothing"
                elif options.command == "restore":
                    stop = forward.until(options.until, options.before)
                    words = (self.server, self.repository, options.snapshot, options.target)
                    done = restore.restore(*words, stop if stop.wanted else None)
                    fields = {"restored": options.snapshot, **done}
                else:
                    fields = {"repository": self.repository.make()}
            except take.Skipped as reason:
                if options.command == "prove":
                    state.skip(state.PROOF)
                print(f"webstack-backup: skipped: {reason}")
                return GOOD
            except (Problem, OSError) as error:
                signal.alarm(0)
                failure: dict[str, Any] = {"kind": kind} if kind else {}
                failure.update(host=socket.gethostname(), seconds=round(time.time() - started, 1), reason=str(error))
                print(summary("FAILED", failure), flush=True)
                if kind and not isinstance(error, Busy):
                    state.record(self.config, kind, False, {**failure, "finished": int(time.time())})
                return error.code if isinstance(error, Problem) else FAILED
            print(summary("ok", fields))
        return GOOD

    def listing(self) -> None:
        found, notes = self.repository.known()
        snapshots = [{**one, **notes.about(one["id"])} for one in found]
        if self.options.json:
            show(snapshots=snapshots)
            return
        for one in snapshots:
            size = f"{one['bytes']:>14}"
            word = {True: "proven", False: "NOT GOOD", None: "not proven"}[one["proven"]]
            pinned = "" if one["pinned"] is None else f"pinned {one['pinned']}".strip()
            text = (one["id"], one["time"], f"{one['kind']:<6}", size, one["host"], one["gtid"], f"{word:<10}", pinned)
            print("  ".join(text).rstrip())

    def find(self) -> None:
        """Show the transactions whose statements have the words."""
        logs = forward.logs_of(self.server, "")
        if not logs:
            raise Problem("this host has no binary logs")
        with forward.reader(self.config.whole("timeout_seconds"), logs, 4) as log:
            for hit in forward.find(log.stdout, self.options.words):
                print(*hit, sep="  ", flush=True)
        if log.returncode != 0:
            raise Problem("not all binary logs can be read: the lines above say why")

    def pin(self) -> None:
        """Keep a backup, or leave it to the retention again."""
        options = self.options
        with state.alone(options.command, 0) as self.tools.lock:
            snapshots, notes = self.repository.known()
            snapshot = choose(snapshots, options.snapshot)["id"]
            if options.command == "pin":
                notes.pin(snapshot, options.reason, socket.gethostname())
            elif notes.pins.pop(snapshot, None) is None:
                raise Problem(f"backup {snapshot} is not pinned")
            self.repository.keep_notes(notes, snapshots)
        show(True, snapshot=snapshot)

    def status(self) -> None:
        status = {**self.server.look(), "disk": self.server.disk(), "last": state.known()}
        status["fail_over"] = self.server.fail_over()
        status.update(restore.where_data_goes(pathlib.Path(status["datadir"])))
        if self.options.snapshots:
            status.update(snapshots=[], snapshots_error="")
            try:
                stop = forward.until(self.options.until, self.options.before)
                snapshots: Sequence[Mapping[str, Any]] = self.repository.snapshots()
                status["snapshots"] = forward.usable(snapshots, stop) if stop.wanted else snapshots
            except Problem as problem:
                status["snapshots_error"] = str(problem)
        if self.options.json:
            status["server_version"] = status.pop("version", "")
            show(False, {"backup": summary_of(status["last"], proof_hours(self.config))}, **status)
        else:
            for key, value in status.items():
                print(f"{key}: {json.dumps(value)}")

    def step(self) -> None:
        """Do one of the other commands."""
        options = self.options
        if options.command == "list":
            self.listing()
        elif options.command == "find":
            self.find()
        elif options.command in ("pin", "unpin"):
            self.pin()
        elif options.command == "status":
            self.status()
        elif options.command == "replace-data":
            if options.undo:
                show(True, **restore.undo_replace(self.server, options.undo))
            else:
                show(True, **restore.replace_data(self.server, options.source, options.keep))
        elif options.command == "recover":
            print(data.recover() or "nothing to undo")
        elif options.command == "take-over":
            show(True, **restore.take_over(self.server))
        elif options.command == "replication":
            done = self.server.replication(options.wish)
            show(done["replication"] != "none", **done)
        elif options.command == "fingerprint":
            show(**self.server.fingerprint())
        else:
            signal.alarm(self.config.whole("timeout_seconds"))
            if options.command == "send":
                show(True, **ship.send(self.config, options.source, options.address, options.port))
                return
            factor = self.config.number("free_disk_factor")
            need_room(options.target, options.expect, factor, self.server.earlier(options.target))
            here = (options.address, options.port)
            show(True, **ship.receive(self.config, options.target, here, options.sender, options.patience))


def interrupted(number: int, _frame: object) -> NoReturn:
    what = "the time limit backup_slave_timeout_seconds" if number == signal.SIGALRM else signal.Signals(number).name
    raise Interrupted(f"interrupted by {what}")


def main(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    try:
        program = Program(settings.load(options.config, "backup_slave"), options)
    except Problem as problem:
        print(summary("FAILED", {"reason": problem}))
        return problem.code
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, interrupted)
    os.umask(0o077)
    try:
        if options.command in ("run", "prove", "restore", "init"):
            return program.guarded()
        program.step()
    except (Problem, OSError) as error:
        print(summary("FAILED", {"reason": error}), file=sys.stderr)
        return error.code if isinstance(error, Problem) else FAILED
    finally:
        # The time limit was for the command; this process may go on.
        signal.alarm(0)
    return GOOD

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The quorum: what the site has exactly once, kept by three members of etcd.

  webstack quorum status [--json]   0 good, 1 this member does not work, 2 anything else is wrong
  webstack quorum snapshot          copy what the store holds
  webstack quorum restore FILE      begin a new store with what a snapshot holds

The other commands are for the role, the timer and the unit of the member.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence

from ..core import lock
from ..core.arguments import Parser
from ..core.errors import DEGRADED, GOOD
from ..core.summary import document
from . import config

LOCK_SECONDS = 180


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("quorum", __doc__)
    commands = found.add_subparsers(dest="command", required=True)
    looking = commands.add_parser("status", help="who works, who leads, and what is wrong")
    looking.add_argument("--json", action="store_true")
    commands.add_parser("snapshot", help="copy what the store holds")
    commands.add_parser("restore", help="begin a new store with a snapshot").add_argument("file", type=pathlib.Path)
    commands.add_parser("tidy", help="for the timer: snapshot, free space")
    commands.add_parser("guard", help="for the unit: refuse to start without data")
    seeing = commands.add_parser("look", help="for the role: what this member has")
    seeing.add_argument("--settled", action="store_true", help="only the exit code: 2 if something is left to do")
    commands.add_parser("ready", help="for the role: wait until this member works")
    settling = commands.add_parser("settle", help="for the role: run, join or form")
    settling.add_argument("--empty", default="", help="members without data, with commas between")
    settling.add_argument("--token", default="", help="of a new store")
    settling.add_argument("--discard", action="store_true", help="move the data aside if the member does not work")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier."""
    options = parser().parse_args(arguments)
    settings = config.load()
    match options.command:
        case "status":
            from . import status

            return status.show(settings, options.json)
        case "guard":
            from . import settle

            settle.guard(settings)
            return GOOD
        case "ready":
            from . import settle

            settle.ready(settings)
            return GOOD
        case "look":
            from . import settle

            if options.settled:
                return GOOD if settle.settled(settings) else DEGRADED
            print(json.dumps(document({}, **settle.seen_here(settings))))
            return GOOD
    with lock.hold("quorum", f"webstack quorum {options.command}", LOCK_SECONDS):
        return changing(settings, options.command, options)


def changing(settings: config.Settings, command: str, options: argparse.Namespace) -> int:
    """Run a command that changes something, and print what was done."""
    done: list[str]
    match command:
        case "snapshot":
            from . import snapshot

            done = [f"took the snapshot {snapshot.take(settings)}"]
        case "restore":
            from . import snapshot

            done = [snapshot.restore(settings, options.file)]
        case "tidy":
            from . import tidy

            done = tidy.tidy(settings)
        case _:
            from . import settle

            empty = [name for name in options.empty.split(",") if name]
            done = settle.settle(settings, empty, options.token, options.discard)
            print(json.dumps(document({}, changed=bool(done), done=done)))
            return GOOD
    print("\n".join(done))
    return GOOD

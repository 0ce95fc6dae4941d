# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Releases of an application on this host: what runs, switch to another one, put the old one back.

  webstack app NAME status              what is here and what runs, as JSON; changes nothing
  webstack app NAME releases [--json]   which releases are here: version, when, by whom, whether they are healthy
  webstack app NAME logs [--request ID] [--since TIME] [--lines N] [--json]
                                        what the journal has of a request, or the last lines of it
  webstack app NAME lock HOLDER TOKEN [--seconds N]
                                        have the turn to deploy; refused (75) while somebody else has it
  webstack app NAME unlock [TOKEN]      end that turn; without a token whosever it is
  webstack app NAME begin ID            make a fresh place for a release, without what an earlier build left there
  webstack app NAME environment ID PYTHON [--copy]
                                        make the virtual environment of a release; with --copy as that of a complete one
                                        whose packages were asked for by the same words of pip (a list in JSON, on
                                        standard input)
  webstack app NAME run COMMAND...      run a step of the build, with a umask and an environment that never differ
  webstack app NAME finish ID           mark a built release as complete
  webstack app NAME discard ID          remove a build that failed
  webstack app NAME activate [ID]       run this release (default: the current one), check it, else go back
                                        (--unchecked: without was_django_smoke_checks)

Apache is never reloaded, since a reload breaks requests that are still running. For a new release or new settings the
daemon processes are replaced one at a time, each when its requests have ended (SIGUSR1). If files of Apache itself
change, it needs a restart. That lets requests end too, but refuses new ones until it is done.

"I could not see it" is never taken for "nothing to do". If systemd does not know Apache's main process, Apache is
restarted. A question without an answer ends the command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..core.arguments import Parser
from ..core.errors import GOOD
from ..core.summary import Summary, document
from ..core.table import table
from . import history, logs, turn
from .application import Application
from .summary import findings_of
from .surroundings import surroundings

COLUMNS = ("release", "version", "when", "by", "state", "healthy", "why")


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("app", __doc__)
    found.add_argument("name", help="name of the application")
    commands = found.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="what is here and what runs")
    status.add_argument("--listen", action="append", default=[], help="say also what keeps Apache from this address")
    status.add_argument("--port", type=int)
    status.add_argument("--json", action="store_true", help="the one form that there is")
    releases = commands.add_parser("releases", help="which releases are here")
    releases.add_argument("--json", action="store_true")
    told = commands.add_parser("logs", help="what the journal has")
    told.add_argument("--request", default="", metavar="ID", help="all of this one; the answer's X-Request-ID")
    told.add_argument("--since", default="", metavar="TIME", help="as journalctl takes it")
    told.add_argument("--lines", type=int, default=logs.LINES, metavar="N", help="the last so many (%(default)s)")
    told.add_argument("--json", action="store_true")
    take = commands.add_parser("lock", help="have the turn to deploy")
    take.add_argument("holder")
    take.add_argument("token")
    take.add_argument("--seconds", type=float, default=900)
    commands.add_parser("unlock", help="end the turn").add_argument("token", nargs="?")
    begin = commands.add_parser("begin", help="make a fresh place for a release")
    begin.add_argument("id")
    begin.add_argument("--version", default="", help="what people call it")
    environment = commands.add_parser("environment", help="make the virtual environment of a release")
    environment.add_argument("id")
    environment.add_argument("python")
    environment.add_argument("--copy", action="store_true", help="that of a release with the same packages")
    commands.add_parser("run", help="run a step of the build").add_argument("words", nargs=argparse.REMAINDER)
    finish = commands.add_parser("finish", help="mark a release as complete")
    finish.add_argument("id")
    discard = commands.add_parser("discard", help="remove a build that failed")
    discard.add_argument("id")
    activate = commands.add_parser("activate", help="run a release")
    activate.add_argument("id", nargs="?")
    activate.add_argument("--unchecked", action="store_true", help="do not ask for was_django_smoke_checks")
    for one in (begin, environment, finish, discard, activate):
        one.add_argument("--token", help="of the deploy that this belongs to")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier."""
    options = (reader := parser()).parse_args(arguments)
    if options.command == "run" and not options.words:
        reader.error("run: which command?")
    site = Application(options.name)
    match options.command:
        case "status":
            state = site.status(options.listen, options.port) | {"turn": turn.state(options.name)}
            wrong = Summary("", findings_of(options.name, state))
            print(json.dumps(document({"app": wrong}, **state)))
            return GOOD
        case "releases":
            found = history.releases(site)
            print(
                json.dumps(document({}, host=os.uname().nodename, releases=found)) if options.json else listing(found)
            )
            return GOOD
        case "logs":
            tell(options)
            return GOOD
        case "run":
            os.execvpe(options.words[0], options.words, surroundings())
        case "lock":
            done = turn.take(options.name, options.holder, options.token, options.seconds)
        case "unlock":
            done = turn.drop(options.name, options.token)
        case _:
            done = change(site, options)
    for line in done:
        print(line)
    return GOOD


def change(site: Application, options: argparse.Namespace) -> list[str]:
    """Run a command that is refused in somebody else's turn."""
    holder = turn.allow(options.name, options.token) or history.caller()
    match options.command:
        case "begin":
            done = site.begin(options.id)
            history.describe(site, options.id, options.version, holder)
            return done
        case "environment":
            return site.environment(options.id, options.python, json.load(sys.stdin) if options.copy else None)
        case "finish":
            return site.finish(options.id)
        case "discard":
            return site.discard(options.id)
        case _:
            return site.activate(options.id, holder, ask=not options.unchecked)


def tell(options: argparse.Namespace) -> None:
    found = logs.lines(options.name, options.request, options.since, options.lines)
    if options.json:
        told = [one._asdict() for one in found]
        print(json.dumps(document({}, host=os.uname().nodename, lines=told)))
    else:
        print("".join(f"{one.time}  {one.text}\n" for one in found), end="")


def listing(found: list[dict[str, Any]]) -> str:
    words = {True: "yes", False: "no", None: ""}
    rows = [[words.get(one[name], one[name]) for name in COLUMNS] for one in found]
    return table([COLUMNS, *rows])

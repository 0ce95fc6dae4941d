# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Releases of an application on this host: what runs, switch to another one, put the old one back.

  webstack app NAME status              what is here and what runs, as JSON; changes nothing
  webstack app NAME begin ID        make a fresh place for a release, without what an earlier build left there
  webstack app NAME environment ID PYTHON
                                        make the virtual environment of a release
  webstack app NAME run COMMAND...  run a step of the build, with a umask and an environment that never differ
  webstack app NAME finish ID       mark a built release as complete
  webstack app NAME activate [ID]   run this release (default: the current one), check it, else go back

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
from collections.abc import Sequence

from ..core.arguments import Parser
from ..core.errors import GOOD
from ..core.summary import Summary, document
from .application import Application
from .summary import findings_of
from .surroundings import surroundings


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("app", __doc__)
    found.add_argument("name", help="name of the application")
    commands = found.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="what is here and what runs")
    status.add_argument("--listen", action="append", default=[], help="say also what keeps Apache from this address")
    status.add_argument("--port", type=int)
    status.add_argument("--json", action="store_true", help="the one form that there is")
    commands.add_parser("begin", help="make a fresh place for a release").add_argument("id")
    environment = commands.add_parser("environment", help="make the virtual environment of a release")
    environment.add_argument("id")
    environment.add_argument("python")
    commands.add_parser("run", help="run a step of the build").add_argument("words", nargs=argparse.REMAINDER)
    commands.add_parser("finish", help="mark a release as complete").add_argument("id")
    commands.add_parser("activate", help="run a release").add_argument("id", nargs="?")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier."""
    options = (reader := parser()).parse_args(arguments)
    if options.command == "run" and not options.words:
        reader.error("run: which command?")
    site = Application(options.name)
    match options.command:
        case "status":
            state = site.status(options.listen, options.port)
            wrong = Summary("", findings_of(options.name, state))
            print(json.dumps(document({"app": wrong}, **state)))
            return GOOD
        case "run":
            os.execvpe(options.words[0], options.words, surroundings())
        case "begin":
            done = site.begin(options.id)
        case "environment":
            done = site.environment(options.id, options.python)
        case "finish":
            done = site.finish(options.id)
        case _:
            done = site.activate(options.id)
    for line in done:
        print(line)
    return GOOD

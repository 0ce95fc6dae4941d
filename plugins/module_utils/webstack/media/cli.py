# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the sharing of uploads works on this host.

  webstack media status [--wait SECONDS] [UNIT...]    as JSON; exit code 1 when it does not

Waits for the units, and, where Syncthing is one of them, for its answer about the folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

from ..core.arguments import Parser
from ..core.errors import FAILED, GOOD
from ..core.say import say
from ..core.summary import Finding, Summary, document
from . import status
from .summary import units


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("media", __doc__)
    commands = found.add_subparsers(dest="command", required=True)
    looking = commands.add_parser("status")
    looking.add_argument("--wait", type=float, default=0.0, help="seconds that it may take to become well")
    looking.add_argument("--json", action="store_true", help="the one form that there is")
    looking.add_argument("units", nargs="*", metavar="UNIT", help="default: those of the engine of this host")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier."""
    options = parser().parse_args(arguments)
    options.units = options.units or units()
    return show(options)


def show(options: argparse.Namespace) -> int:
    deadline = time.monotonic() + options.wait
    report, problems = status.look(options.units)
    while problems and time.monotonic() < deadline:
        time.sleep(0.3)
        report, problems = status.look(options.units)
    wrong = Summary("", [Finding("engine", problem) for problem in problems])
    print(json.dumps(document({"media": wrong}, **report), sort_keys=True))
    for unit in options.units if problems else []:
        say(status.last_words(unit))
    return FAILED if problems else GOOD

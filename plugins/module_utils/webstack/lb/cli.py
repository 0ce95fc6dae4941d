# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which application servers nginx may ask.

  webstack lb status [--json]             the servers as this balancer sees them
  webstack lb drain NAME [--wait] [...]   send a server no new request, until undrain; over reboots, too
  webstack lb undrain NAME
  webstack lb maintenance on|off [SITE]   answer with the maintenance page; without SITE on every site
  webstack lb purge [PREFIX]              drop kept answers: all, or those whose key begins with PREFIX
  webstack lb apply                       write the server lists, test them, reload nginx if they changed

nginx has no active health checks. So `run`, a service without any rights, asks every server for its health and writes
down what it found. `apply`, as root, makes the server lists of nginx from that and from the operator's wishes. It also
closes connections to servers whose hosts are gone, so that nginx asks another server. Names, addresses and ports come
from the role's file only. So all that the service can do is to take servers out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..core import lock
from ..core.arguments import Parser
from ..core.errors import FAILED, GOOD, Problem
from ..core.summary import Finding, Summary, document
from . import nginx, state, wishes


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("lb", __doc__)
    commands = found.add_subparsers(dest="command", required=True)
    commands.add_parser("status").add_argument("--json", action="store_true")
    draining = commands.add_parser("drain")
    draining.add_argument("name", metavar="NAME")
    draining.add_argument("--wait", action="store_true", help="until nginx has no connection to the server")
    draining.add_argument("--timeout", type=float, default=60, help="longest wait, in seconds")
    draining.add_argument("--force", action="store_true", help="also the last server that works")
    draining.add_argument("--dry-run", action="store_true", help="only say whether it would be refused")
    commands.add_parser("undrain").add_argument("name", metavar="NAME")
    switching = commands.add_parser("maintenance")
    switching.add_argument("switch", choices=["on", "off"])
    switching.add_argument("site", nargs="?", metavar="SITE")
    commands.add_parser("purge").add_argument("prefix", nargs="?", default="", metavar="PREFIX")
    for name in ("apply", "refresh", "generation", "run"):
        commands.add_parser(name)
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier."""
    options = parser().parse_args(arguments)
    match options.command:
        case "drain" | "undrain" | "maintenance" | "purge":
            act = getattr(wishes, options.command)
            return answering(lambda: dict(act(options)))
        case "apply":
            return answering(locked_apply)
        case "status":
            from . import status

            return status.show_status(options)
        case "run":
            # The one command that needs it.
            import asyncio

            from . import probe

            asyncio.run(probe.Service(state.config()).run())
        case "refresh":
            with lock.hold("lb", "a test of the server lists", nginx.LOCK_SECONDS):
                nginx.refresh()
        case "generation":
            return generation()
    return GOOD


def locked_apply() -> dict[str, Any]:
    with lock.hold("lb", "apply", nginx.LOCK_SECONDS):
        return {"changed": nginx.apply()}


def answering(act: Callable[[], dict[str, Any]]) -> int:
    """Print the result as JSON; the refusal too, since the service and the playbooks read it."""
    try:
        print(json.dumps(document({}, **act())))
    except (Problem, OSError) as problem:
        print(json.dumps(document({"lb": Summary("", [Finding("refused", str(problem))])})))
        return problem.code if isinstance(problem, Problem) else FAILED
    return GOOD


def generation() -> int:
    """Print for the role which configuration the workers run. Fail if nginx would not start with its files."""
    settings = state.config()
    with lock.hold("lb", "a look at the server lists", nginx.LOCK_SECONDS):
        nginx.refresh()
        lists = (state.INCLUDES / "marks").read_text()
    marks = nginx.running_marks(settings)
    print(nginx.running_marks(settings, "generation") if marks and marks in lists else "none")
    return GOOD

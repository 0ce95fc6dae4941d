# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The virtual addresses as this balancer sees them, and how they are handed over.

  webstack vip status [--json]    who owns what, and what the doctor finds
  webstack vip doctor             the same findings; exit code 1 when there are any
  webstack vip switchover         hand every address over, let running connections end here, stay out
  webstack vip rejoin             be a candidate again; the addresses stay where they are

Units call the rest. `agent` answers the other balancers and looks for what is wrong. `leave` and `arrive` run before
and after each stop of the web server, of keepalived and of the host. `move` runs the command of the hook engine.

A switchover keeps running connections. The new owner forwards segments of TCP connections that it has never seen to
the old owner, which has the addresses on its loopback and answers. It does so only while the old owner says, several
times a second, that it still has connections. So after a crash clients get a reset soon and connect anew. If two
balancers own an address and can hear each other, each forwards the other's connections.

Settings: /etc/webstack/vip.json
"""

from __future__ import annotations

from collections.abc import Sequence

from ..core.arguments import Parser
from ..core.errors import GOOD
from .host import Host, set_flag


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("vip", __doc__)
    commands = found.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="who owns what").add_argument("--json", action="store_true")
    commands.add_parser("doctor", help="what is wrong")
    sub = commands.add_parser("switchover", help="hand the addresses over and stay out")
    sub.add_argument("--seconds", type=float, help="how long running connections may go on; 0 cuts them")
    commands.add_parser("rejoin", help="be a candidate again")
    for name in ("agent", "leave", "arrive", "move"):
        commands.add_parser(name, help="for units")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier."""
    options = parser().parse_args(arguments)
    host = Host.load()
    match options.command:
        case "status" | "doctor":
            from . import doctor

            if options.command == "doctor":
                return doctor.status(host, as_json=False, only_findings=True)
            return doctor.status(host, options.json)
        case "switchover":
            from . import handover

            return handover.switchover(host, options.seconds)
        case "rejoin":
            set_flag("maintenance", False)
        case "arrive":
            set_flag("leaving", False)
        case "agent":
            from .agent import agent

            return agent(host)
        case "leave":
            from . import handover

            return handover.leave(host)
        case "move":
            from .hook import move

            return move(host)
    return GOOD

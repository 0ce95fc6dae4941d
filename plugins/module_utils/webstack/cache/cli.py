# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Start, check and change the shards of this host as Sentinel wants them.

The role writes the static files. They never say who is master: each server asks the sentinels when it starts. So
neither a run of the role nor a reboot undoes a fail-over.

  webstack cache status            what this host runs, what it should run and what is wrong, as JSON
  webstack cache status --settled  the same at once, with exit code 2 when something is to be done or is wrong
  webstack cache reload            have running servers read changed accounts and certificates, without a restart
  webstack cache prepare           stop what is no longer listed here, and let Sentinel forget it
  webstack cache settle            start, restart and retire what status lists, without losing data where possible
  webstack cache form              (engine redis_cluster) make one cluster of all servers, or see that it is one
  webstack cache failover SHARD    hand the shard over to its replica and wait for it
  webstack cache census            count the keys of this host's masters; standard input says under which rings, as JSON
  webstack cache sweep [--dry-run]
                                   remove the keys from this host's masters that one of the rings places
                                   elsewhere; standard input lists the rings, as JSON
  webstack cache leave [SHARD...]  stop all that the role placed here; the named shards belong to no ring any more
  webstack cache leave --sentinel  stop this host's sentinel alone
  webstack cache guard SHARD       (systemd, before an instance starts) write the file that says replica or master
  webstack cache follow SHARD      (systemd, after an instance started) see that a replica finds its master
  webstack cache sentinel          (systemd, before Sentinel starts) join its static file with what Sentinel learned
  webstack cache tune              (systemd, after Sentinel started) let it look more often
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from ..core.arguments import Parser
from ..core.errors import GOOD
from ..core.summary import document
from .site import PROGRAMS, Site


def parser() -> Parser:
    """Return what reads the words of this tier."""
    found = Parser("cache", __doc__)
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    looking = commands.add_parser("status")
    looking.add_argument("--json", action="store_true", help="the one form that there is")
    looking.add_argument("--settled", action="store_true", help="at once; 2 if something is to be done or is wrong")
    for name in ("reload", "prepare", "settle", "form", "census", "sentinel", "tune"):
        commands.add_parser(name)
    for name in ("failover", "guard", "follow"):
        commands.add_parser(name).add_argument("shard", metavar="SHARD")
    commands.add_parser("sweep").add_argument("--dry-run", action="store_true", help="only count")
    leaving = commands.add_parser("leave")
    leaving.add_argument("--sentinel", action="store_true", help="stop this host's sentinel alone")
    leaving.add_argument("gone", nargs="*", metavar="SHARD", help="belongs to no ring any more")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run a command of this tier. Each imports what it needs: some run at every start of a server."""
    options = (reader := parser()).parse_args(arguments)
    if options.command == "leave" and options.sentinel and options.gone:
        reader.error("leave: --sentinel stops the sentinel alone, and no shard")
    site = Site.load()
    match options.command:
        case "status":
            from .status import settled, status

            return settled(site) if options.settled else status(site)
        case "reload" | "settle" | "prepare":
            from . import settle

            act = {"reload": settle.reload, "settle": settle.settle, "prepare": settle.prepare}[options.command]
            return act(site)
        case "form":
            from .cluster import form

            return form(site)
        case "leave":
            from . import settle

            return settle.leave_sentinels(site) if options.sentinel else settle.leave(site, options.gone)
        case "census":
            return census(site)
        case "sweep":
            return sweep(site, options.dry_run)
        case "failover":
            from . import settle

            settle.failover(site, options.shard)
        case "guard" | "follow":
            from . import start

            act_on = {"guard": start.guard, "follow": start.follow}[options.command]
            act_on(site, options.shard)
        case "sentinel":
            from .sentinel import prepare_sentinel

            prepare_sentinel(site)
        case "tune":
            from .sentinel import tune

            tune(site)
    return GOOD


def census(site: Site) -> int:
    from . import keys

    orders = json.load(sys.stdin)
    old, new = keys.rings([orders["old"], orders["new"]])
    placed = [program.unit(name) for program in PROGRAMS.values() for name in program.placed()]
    placed += [program.sentinel_unit for program in PROGRAMS.values() if program.sentinel_static.exists()]
    found: dict[str, Any] = {
        "shards": {name: keys.census(command, name, old, new) for name, command in keys.masters(site)},
        # What the role wrote here about the site, and what runs.
        "listed": {name: shard["nodes"] for name, shard in site.shards.items()},
        "placed": placed,
    }
    print(json.dumps(document({}, **found), sort_keys=True))
    return GOOD


def sweep(site: Site, dry_run: bool) -> int:
    from . import keys

    rings = keys.rings(json.load(sys.stdin))
    done = {name: keys.sweep(command, name, rings, dry_run) for name, command in keys.masters(site)}
    removed = 0 if dry_run else sum(shard["removed"] for shard in done.values())
    print(json.dumps(document({}, removed > 0, shards=done), sort_keys=True))
    return GOOD

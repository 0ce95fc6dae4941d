# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`webstack status`: every tier that lives on this host, on one screen."""

from __future__ import annotations

import importlib
import json
import socket
from collections.abc import Iterable, Sequence

from .core.arguments import Parser
from .core.errors import DEGRADED, GOOD, Problem
from .core.summary import Summary, document
from .core.table import table
from .notices import publish, tell


def show(arguments: Sequence[str], tiers: Iterable[str]) -> int:
    """Print it. Return DEGRADED when anything is wrong or could not be looked at."""
    parser = Parser("status", __doc__)
    parser.add_argument("--json", action="store_true", help="as one JSON document")
    wanted = "write its metrics, tell what is wrong, and print nothing"
    parser.add_argument("--metrics", metavar="TIER", choices=list(tiers), help=wanted)
    options = parser.parse_args(arguments)
    if options.metrics:
        return write_metrics(options.metrics)
    found = summaries(tiers)
    if options.json:
        lines = {tier: summary.line for tier, summary in found.items()}
        print(json.dumps(document(found, host=socket.gethostname(), tiers=lines)))
    else:
        print(as_text(found))
    return DEGRADED if any(summary.findings for summary in found.values()) else GOOD


def write_metrics(tier: str) -> int:
    """Write how this tier is and tell what is wrong, where its role says; nothing for one that does not live here."""
    for name, summary in summaries([tier]).items():
        module = importlib.import_module(f".{name}.summary", __package__)
        publish(name, summary, getattr(module, "own_metrics", lambda: "")())
        if not getattr(module, "TELLS_ITSELF", False):
            tell(name, summary)
    return GOOD


def summaries(tiers: Iterable[str]) -> dict[str, Summary]:
    """Ask every tier. A tier that cannot look says why: no answer is never taken for a good one."""
    found = {}
    for tier in tiers:
        try:
            module = importlib.import_module(f".{tier}.summary", __package__)
        except ImportError as error:
            # A missing package of Debian's is no error: only hosts of that tier have it.
            if (error.name or "").split(".")[0] == (__package__ or "").split(".")[0]:
                raise
            continue
        if not module.lives_here():
            continue
        try:
            found[tier] = module.summary()
        except (Problem, OSError) as problem:
            found[tier] = Summary("cannot be looked at")
            found[tier].add("no_look", problem)
    return found


def as_text(found: dict[str, Summary]) -> str:
    """Return one line for each tier, and one for each thing that is wrong."""
    if not found:
        return "no tier lives on this host"
    lines = [table([(tier, summary.line) for tier, summary in found.items()])]
    for tier, summary in found.items():
        lines += [f"! {tier}: {finding.text}" for finding in summary.findings]
    return "\n".join(lines if any(s.findings for s in found.values()) else [*lines, "nothing is wrong"])

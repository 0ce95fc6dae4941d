# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`webstack TIER COMMAND`: calls the tier, and turns its problems into messages and exit codes.

`webstack status` asks every tier that lives on this host.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from .core.errors import FAILED, GOOD, USAGE, Problem
from .core.say import ERROR, say

#: Tier -> what the list of tiers says about it. Each has a module `cli` with `main(arguments)`, imported when needed.
TIERS: dict[str, str] = {
    "db": "one of the two database servers",
    "backup": "backups of the database server, and their way back",
    "cache": "shards on Redis or Valkey, and their sentinels",
    "app": "releases of the applications",
    "vip": "the virtual addresses of the site on this balancer",
    "lb": "which application servers nginx may ask",
    "tls": "the certificates that nginx is given",
    "media": "uploads that are the same on every application server",
    "quorum": "what the site has exactly once, kept by three members of etcd",
}


def usage() -> str:
    """Return the list of tiers."""
    lines = ["usage: webstack TIER COMMAND [...]", "       webstack status [--json]    all tiers of this host", ""]
    lines += [f"  webstack {name:<8} {text}" for name, text in TIERS.items()]
    return "\n".join([*lines, "", "webstack TIER --help lists the commands of a tier."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 good, 1 failed or problems, 2 degraded, 64 usage, 75 busy."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = handed_on(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has closed the pipe. Without this Python would print an error when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD
    return code


def handed_on(words: Sequence[str]) -> int:
    """Find the tier and let it run the command."""
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return GOOD if words else USAGE
    tier, *rest = words
    if tier not in (*TIERS, "status", "alarm"):
        say(f"webstack: no tier {tier!r}; known are {', '.join(TIERS)}", ERROR)
        return USAGE
    # Services and node_exporter read files that we write, so the caller's umask must not hide them.
    os.umask(0o022)
    try:
        if tier == "status":
            from .overview import show

            return show(rest, TIERS)
        if tier == "alarm":
            from .notices import alarm

            return alarm(rest)
        return int(importlib.import_module(f".{tier}.cli", __package__).main(rest))
    except SystemExit as ended:
        # argparse ends like this after its help, and after a wrong word.
        return int(ended.code or GOOD)
    except BrokenPipeError:
        raise
    except (Problem, OSError) as problem:
        say(f"webstack {tier}: {problem}", ERROR)
        return problem.code if isinstance(problem, Problem) else FAILED

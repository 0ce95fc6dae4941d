# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operator's alarm command."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from .errors import Problem
from .run import environment, run
from .say import ERROR, say

SECONDS = 30


def raise_alarm(command: Sequence[str], tier: str, what: str, text: str, host: str = "") -> bool:
    """Run the command, if there is one. Return whether it succeeded. Its environment says what is wrong.

    It reads HOST (`host`, or this machine's name), TIER, FINDING (a word for machines) and TEXT (a sentence for
    people). A command that fails is logged and stops nothing.
    """
    if not command:
        return False
    told = {"HOST": host or socket.gethostname(), "TIER": tier, "FINDING": what, "TEXT": text}
    try:
        run(*command, seconds=SECONDS, env=environment(told))
    except Problem as problem:
        say(f"the alarm command failed: {problem}", ERROR)
        return False
    return True

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the agent tells people: the journal has what changes, /run/webstack/db/agent.json how it is now."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from ..core import files
from ..core.errors import Problem
from ..core.say import WARNING, say
from ..pure.arbiter import Decision, Do, Own
from .ask import said
from .board import NEVER, Reading
from .config import SAID


class News:
    """Of one agent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problem = ""
        self.said: tuple[object, ...] = ()
        self.noted = 0.0
        #: Since when no other host holds every row, and from which position of the writer; None while one does.
        self.alone: dict[str, Any] | None = said().get("alone")

    def complain(self, text: str) -> None:
        """Log a problem once, not at every look."""
        if text != self.problem:
            self.problem = text
            say(text, WARNING)

    def note(self, decision: Decision, own: Own | None, reading: Reading, suspended: str) -> None:
        """Log what changes, and write down what the last look led to."""
        state = reading.state
        now = (decision.rule, state, decision.actions)
        if now != self.said:
            acts = [a.name.lower() if isinstance(a, Do) else type(a).__name__.lower() for a in decision.actions]
            say(f"{decision.rule}: {decision.why}{': ' if acts else ''}{', '.join(acts)}")
        elif time.monotonic() - self.noted < 1.0:
            return
        self.said, self.noted = now, time.monotonic()
        self.count(own, reading)
        content = {
            "at": time.time(),
            "rule": decision.rule,
            "why": decision.why,
            "problem": self.problem,
            "suspended": suspended,
            "read_seconds_ago": round(time.monotonic() - reading.asked, 2) if reading is not NEVER else None,
            "paused": reading.paused,
            "maintenance": list(reading.maintenance),
            "state": state._asdict() if state else None,
            "own": own._asdict() if own else None,
            "alone": self.alone,
            "last": last_move(reading),
        }
        with contextlib.suppress(Problem, OSError):  # a full disk; the journal has it, too
            files.write(SAID, json.dumps(content))

    def count(self, own: Own | None, reading: Reading) -> None:
        """Keep since when the writer is alone, and how many transactions nobody else has. The writer counts them."""
        state = reading.state
        if state is None or state.replica:
            # Where nothing was read yet, what was known before our own start still counts.
            self.alone = self.alone if reading is NEVER else None
            return
        if self.alone is None or self.alone["turn"] != state.turn:
            self.alone = {"since": round(time.time()), "turn": state.turn, "from": None, "transactions": None}
        if own is not None and own.up and state.writer == self.name:
            if self.alone["from"] is None or own.received < self.alone["from"]:
                self.alone["from"] = own.received
            self.alone["transactions"] = own.received - self.alone["from"]


def last_move(reading: Reading) -> dict[str, Any] | None:
    """Return when the writer last changed, and why. Nothing else hangs on it, so it is no error if it is damaged."""
    try:
        found = json.loads(reading.last)
        return {"at": float(found["at"]), **{key: str(found[key]) for key in ("from", "to", "why")}}
    except (ValueError, KeyError, TypeError):
        return None

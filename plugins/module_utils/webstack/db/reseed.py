# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Seeds this host's data anew without a person: asks the writer's agent for a copy, and answers the other one's asking.

The receiver is what a play starts, too, so only one of the two is ever at work.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time

from ..core.errors import Problem
from ..core.run import run
from ..core.say import say
from ..core.table import age
from ..pure.arbiter import Decision, Do
from . import seed
from .board import SEED, Board
from .config import Config
from .server import unit_states
from .transfer import data_size

SENDER = "webstack-db-send"
#: A seed that was not the last one of the trouble is not tried for ever: each leaves a copy of the old data behind.
REST_SECONDS = 600
#: What keeps a seed from beginning, such as a full disk, seldom goes by itself; nor why nothing was sent.
AGAIN_SECONDS = 30
#: Between two questions about the receiver.
LOOK_SECONDS = 1.0


class Seeder:
    """Of one agent."""

    def __init__(self, config: Config, board: Board) -> None:
        assert config.peer is not None
        self.config, self.board, self.peer = config, board, config.peer.name
        #: What the writer's agent is to be asked, while a receiver waits for it.
        self.asked = ""
        self.answered = ""
        self.looked: tuple[float, str] = (0.0, "")
        #: What kept the last seed from beginning, and when.
        self.refused: tuple[float, str] = (0.0, "")

    # --- the one that needs a copy ------------------------------------------------------------------

    def instead(self, decision: Decision, stored: str) -> Decision:
        """Replace a decision to seed by what it waits for; `stored` is what is asked for in the store."""
        if Do.SEED not in decision.actions:
            self.withdraw()
            return decision
        now = time.monotonic()
        if now - self.looked[0] > LOOK_SECONDS:
            self.looked = (now, self.why_not(stored))
        if not self.looked[1]:
            return decision
        return Decision("needs_seed", f"{decision.why}; {self.looked[1]}")

    def why_not(self, stored: str) -> str:
        """Why no seed begins now, empty when one may."""
        if receiving():
            # What is asked goes with our lease, and to start a receiver may take longer than that lasts.
            if self.asked and stored != self.asked:
                with contextlib.suppress(Problem):
                    self.ask()
            return f"a copy of {self.peer} is on its way"
        self.withdraw()
        if not self.config.reseeds:
            return f"seed it from {self.peer} (playbook reseed.yml)"
        at, why = self.refused
        if why and time.monotonic() - at < AGAIN_SECONDS:
            return why
        try:
            ended = seed.SEED_RESULT.stat().st_mtime
            outcome = json.loads(seed.SEED_RESULT.read_text())
        except (OSError, ValueError):
            return ""
        rest = REST_SECONDS if outcome.get("came", True) else AGAIN_SECONDS
        if time.time() - ended > rest:
            return ""
        how = "ended" if outcome.get("ok") else f"failed: {outcome.get('error')}"
        return f"the last seed {how}; the next one begins {age(rest)} after it"

    def begin(self) -> None:
        """Have a receiver wait here, and ask the writer's agent to send."""
        self.looked = (0.0, "")
        # Nobody here knows how much it is; ours was about as much.
        size = data_size(self.config.datadir) if self.config.datadir.is_dir() else 0
        # Outside of our service, which sees the data read-only.
        command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", seed.COMMAND, "db", "receive"]
        command += ["--move-aside", f"--from={self.peer}", f"--expect={size}", f"--wait={self.config.seed_seconds:g}"]
        done = run(*command, seconds=60, check=False)
        if done.code:
            self.refused = (time.monotonic(), done.why)
            raise Problem(done.why)
        if done.out.startswith("joined"):
            say(f"waits for the copy of {self.peer} that a person has begun")
            return
        self.asked = json.dumps({"to": self.config.node.name, "id": secrets.token_hex(8)})
        self.ask()

    def ask(self) -> None:
        self.board.store.put(SEED, self.asked, self.board.lease, self.board.seconds)
        say(f"asked {self.peer} for a copy of its data")

    def withdraw(self) -> None:
        """The receiver has ended: nobody has to send any more."""
        if self.asked and not receiving():
            # Else it goes with our lease.
            with contextlib.suppress(Problem):
                self.board.store.remove(SEED, self.board.seconds)
            self.asked = ""

    # --- the writer ---------------------------------------------------------------------------------

    def answer(self, asked: str) -> None:
        """Send what was asked for, once, in the background."""
        # One that still runs is of an earlier asking, whose receiver is gone: it ends soon.
        if not asked or asked == self.answered or unit_states(f"{SENDER}.service")[f"{SENDER}.service"]["active"]:
            return
        self.answered = asked
        try:
            to = str(json.loads(asked)["to"])
        except (ValueError, KeyError, TypeError):
            raise Problem(f"{SEED} in the store cannot be read") from None
        if to != self.peer:
            return
        command = ["systemd-run", "--quiet", f"--unit={SENDER}", "--collect", "--property=KillMode=control-group"]
        run(*command, seed.COMMAND, "db", "send", f"--to={to}", f"--wait={self.config.seed_seconds:g}", seconds=60)
        say(f"sends a copy of this server's data to {to}")


def receiving() -> bool:
    unit = f"{seed.SEED_UNIT}.service"
    return unit_states(unit)[unit]["active"]

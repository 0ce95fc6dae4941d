# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service where the quorum decides: reads the store, looks at the server, decides, and acts.

What it has to keep stands in docs/fail-over.md, "What the agent has to keep".
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from dataclasses import replace
from typing import Any

from ..core import files, lock
from ..core.agent import Version
from ..core.errors import Busy, Problem
from ..core.mariadb import UNLOGGED, ServerGone
from ..pure.arbiter import LIMITS, Decision, Do, Note, Own, Swap, View, report
from ..pure.failover import decide
from .acts import Acts, Pinned
from .apart import together
from .ask import said
from .board import NEVER, SECONDS, Board, Reading, Unknown
from .config import CONFIG, LOCK_PURPOSE, RUN, Config
from .fence import keep_events
from .heart import Heart
from .news import News
from .observe import Observer
from .reseed import Seeder

#: A server that does not say within this time what it is does not answer.
LOOK_SECONDS = 3.0
#: A host that boots may reach the store a moment later. Until then nothing is started that it may want otherwise.
BOOT_SECONDS = 15.0
AFTER_ACTS = 0.02
#: After a silence of the store, until the other host has reported again: a question that is under way, and a look.
AGAIN_SECONDS = SECONDS + LIMITS.tick


class Agent:
    """One host of the two."""

    def __init__(self, config: Config) -> None:
        assert config.peer is not None
        self.config, self.peer = config, config.peer.name
        self.board = Board(config.node.name)
        self.observer = Observer(config, Heart(config))
        self.acts = Acts(config, self.observer)
        self.seeder = Seeder(config, self.board)
        self.session: Pinned | None = None
        self.reading: Reading = NEVER
        #: Who suspended the agents. Until the store has answered, what it said before our own start counts.
        self.suspended = str(said().get("suspended", ""))
        self.limits = LIMITS._replace(rest=config.rest)
        self.began = time.monotonic()
        #: The revision of a swap whose outcome is unknown; after our own start, the first one that is read.
        self.pending: int | None = None
        self.mark: tuple[str, int] | None = None
        self.acted: tuple[Any, ...] = ()
        #: When the other host's report was last a new one, and its revision.
        self.heard: tuple[float, int | None] = (0.0, None)
        self.news = News(config.node.name)
        #: A change of the writer that the store is still to be told: from whom, to whom, and why.
        self.moved: tuple[str, ...] = ()

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        files.folder(RUN)
        assert self.config.peer is not None
        together(self.config.peer)
        version = Version(CONFIG)
        while not version.changed():
            began = time.monotonic()
            pause = self.tick()
            time.sleep(max(AFTER_ACTS, pause - (time.monotonic() - began)))

    def tick(self) -> float:
        """Do all of it once, and return after how many seconds it is to be done again."""
        self.read()
        self.acts.let_go()
        try:
            # Another command is changing what this server is: nothing is decided meanwhile.
            with lock.hold("db", LOCK_PURPOSE, 0):
                return self.step()
        except Busy as busy:
            self.news.note(Decision("busy", str(busy)), None, self.reading, self.suspended)
        except (Problem, OSError) as problem:
            self.news.complain(str(problem))
        return LIMITS.tick

    def read(self) -> None:
        """Renew our lease and read the store. What cannot be read stays what it was, and grows old."""
        try:
            self.board.keep()
            now = self.board.read()
        except (Problem, OSError) as problem:
            self.news.complain(f"the quorum: {problem}")
            return
        if self.reading is NEVER:
            self.pending = now.revision
        beat = now.beats.get(self.peer)
        if beat != self.heard[1]:
            self.heard = (now.asked, beat)
        elif now.asked - self.reading.asked > LIMITS.lease:
            # The store was silent to the other one, too: it gets the time to say something again.
            self.heard = (max(self.heard[0], now.asked - LIMITS.lease + AGAIN_SECONDS), beat)
        self.reading = now
        self.suspended = now.suspended
        if self.moved and not self.acted:
            # Not on the way to an open writer: it is for people.
            with contextlib.suppress(Problem):
                self.board.note_move(*self.moved)
                self.moved = ()

    def step(self) -> float:
        state = self.reading.state
        self.observer.is_writer = state is not None and state.writer == self.config.node.name
        own = self.look()
        told = report(own)._replace(suspended=bool(self.suspended))
        if self.reading is not NEVER:
            with contextlib.suppress(Problem):
                self.board.publish(told, self.moving())
        decision = decide(own, self.view(), self.limits)
        # Nobody who suspends the agents wants a second writer.
        if self.suspended and decision.rule != "deposed":
            decision = Decision("suspended", f"suspended on {self.suspended}: 'webstack db suspend off' ends it")
        decision = self.seeder.instead(decision, self.reading.seed)
        self.news.note(decision, own, self.reading, self.suspended)
        done = 0
        if decision.rule == "unread" and time.monotonic() - self.began < BOOT_SECONDS:
            return LIMITS.tick
        for action in decision.actions:
            if not self.carry_out(action, told, decision.why):
                break
            done += 1
        else:
            self.news.problem = ""
        if own.up and not own.open and not done and self.session is not None:
            self.acts.stay_closed(self.session)
        elif own.open and not done and self.session is not None:
            keep_events(self.session, self.observer.seen)
        if own.open and not self.suspended:
            self.seeder.answer(self.reading.seed)
        again, self.acted = decision.actions == self.acted, decision.actions
        if done and not again:
            return AFTER_ACTS
        return LIMITS.hurry if self.moving() else LIMITS.tick

    def moving(self) -> bool:
        """Whether a planned move is under way, in which nothing is written."""
        reading = self.reading
        return reading.wish is not None or (reading.state is not None and reading.state.writer in reading.maintenance)

    def view(self) -> View:
        """Return what the decision is made from. Silence is told from what the store said, not from its own."""
        return self.reading.view(self.peer, self.reading.asked - self.heard[0] > LIMITS.lease)

    def look(self) -> Own:
        """Return what this host is. Only a server that takes no new session either is down."""
        began = time.monotonic()
        while True:
            fresh = self.session is None or self.session.ended
            if fresh:
                options = {"unix_socket": self.config.socket, "user": "root", "init_command": UNLOGGED}
                self.session = Pinned(options, LOOK_SECONDS, 1)
            assert self.session is not None
            try:
                own = self.observer.own(self.session)
                self.acts.answers()
                break
            except ServerGone as gone:
                self.session = None
                if fresh or time.monotonic() - began > 1.0:
                    self.news.complain(f"the server: {gone}")
                    own = self.observer.without_server()
                    break
        return own._replace(pending=self.pending, mark=self.mark)

    def carry_out(self, action: Any, told: Any, why: str) -> bool:
        """Do one of the list. One that fails ends the list; the next look begins anew."""
        if isinstance(action, Note):
            self.mark = (action.life, action.position)
            return True
        if isinstance(action, Swap):
            return self.swap(action, told, why)
        self.acts.epoch = self.reading.state.epoch if self.reading.state else 0
        try:
            if action is Do.SEED:
                self.seeder.begin()
            else:
                self.acts.do(action, self.session)
        except (Problem, OSError) as problem:
            self.news.complain(f"{action.name.lower()}: {problem}")
            return False
        if action in (Do.SEMI_SYNC_ON, Do.SEMI_SYNC_OFF):
            self.mark = None
        return True

    def swap(self, swap: Swap, told: Any, why: str) -> bool:
        asked = time.monotonic()
        try:
            now = self.board.swap(swap, told)
        except Unknown as unknown:
            self.pending = swap.revision
            self.news.complain(f"the quorum: {unknown}")
            return False
        if now is None:
            return False
        before = self.reading.state
        ours = before is not None and before.writer == self.config.node.name
        if ours and swap.state.writer == self.peer and self.observer.seen:
            self.acts.handed_over()
        # What was written is what was read last, else our older view would depose us.
        self.pending = None
        self.reading = replace(self.reading, asked=asked, revision=now.revision, state=swap.state)
        if before is not None and before.writer != swap.state.writer:
            self.moved = (before.writer, swap.state.writer, why)
        return True

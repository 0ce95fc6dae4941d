# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service: looks at the server every second, follows its role, and opens a primary again after a start."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from ..core import lock
from ..core.agent import Version
from ..core.errors import Problem
from ..core.mariadb import ServerGone
from ..core.say import say
from .address import drop_address, take_address
from .ask import retire
from .config import CONFIG, LOCK_PURPOSE, LOCK_SECONDS, Config
from .fence import close_to_all, cut_privileged, hold_events, keep_events
from .marker import going_on, marker, note_opened, set_marker, was_opened
from .role import look, why_not_open
from .session import local_session
from .writer import open_for_writes, semi_sync

#: Between two attempts to take the pair out of a quorum that does not answer.
RETIRE_SECONDS = 60


class Watcher:
    """Makes marker, semi-sync, events and writer address fit the server's role. Opens a primary after a start."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.session = local_session(config, 5)
        self.said = ""
        self.retired = False

    def say(self, text: str) -> None:
        """Log a state once, not every second."""
        if text != self.said:
            self.said = text
            if text:
                say(text)

    def step(self) -> float:
        """Look once, act, return the seconds until the next look."""
        config = self.config
        try:
            seen = look(self.session)
        except ServerGone as error:
            drop_address(config)
            self.say(f"the server does not answer: {error}")
            return 0.5
        mark = marker()
        if seen["replica"] is not None:
            drop_address(config)
            with going_on("that this server is no primary any more"):
                set_marker(None)
            if seen["semi_sync"]:
                semi_sync(config, self.session, False)
            hold_events(self.session, seen)
            self.release(seen)
            self.say(f"replica of {seen['replica']['source']}")
            return 1
        if not seen["read_only"]:
            self.serve(seen, mark)
            return 1
        drop_address(config)
        hold_events(self.session, seen)
        if mark is None:
            self.say("read-only and without a source: waiting for a role")
            return 1
        if was_opened(self.session):
            # It is opened only once per start. An operator who closes a running primary wants it to stay closed.
            cut_privileged(self.session)
            self.say("the primary was made read-only by hand and stays so; 'webstack db promote' opens it again")
            return 1
        reason = why_not_open(config, seen, bool(mark.get("paired")))
        if reason:
            close_to_all(self.session, seen)
            self.say(f"was the primary, stays read-only: {reason}")
            return 1
        self.say("")
        open_for_writes(config, self.session, bool(mark.get("paired")))
        return 1

    def serve(self, seen: dict[str, Any], mark: dict[str, Any] | None) -> None:
        # Agents of a quorum that decided here before have left it without a limit.
        if not seen["semi_sync"] or seen["semi_sync_timeout"] != self.config.semi_sync_timeout:
            semi_sync(self.config, self.session, True)
        clients = self.session.rows("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_clients'")
        connected = bool(clients) and clients[0]["Value"] not in ("0", None)
        with going_on("that this server is the primary"):
            set_marker({"paired": bool(connected or (mark or {}).get("paired"))})
        keep_events(self.session, seen)
        note_opened(self.session)
        take_address(self.config)
        self.say("primary")

    def release(self, seen: dict[str, Any]) -> None:
        """Lift the fence of a server that was made a replica by hand. Its appliers have read-only transactions too."""
        if seen["fenced"]:
            self.session.run("SET GLOBAL tx_read_only = OFF")
            # Restart the link so that the appliers may write. A link that never ran is left alone.
            if seen["replica"]["sql"] or seen["replica"]["error"]:
                self.session.run("STOP ALL SLAVES", "START ALL SLAVES", seconds=60)

    def retire(self) -> None:
        """Take the pair out of the quorum. Where that does not answer, nothing decides by it either; then again."""
        try:
            retire(self.config)
            self.retired = True
        except (Problem, OSError) as error:
            say(f"the quorum still names who writes, from a time when agents decided: {error}")

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        version = Version(CONFIG)
        asked = time.monotonic()
        self.retire()
        # When they have changed, end. systemd starts the service anew, with the new program and settings.
        while not version.changed():
            pause = 1.0
            try:
                with lock.hold("db", LOCK_PURPOSE, LOCK_SECONDS):
                    pause = self.step()
            except (Problem, OSError) as error:
                self.say(f"{error}")
            if not self.retired and time.monotonic() - asked > RETIRE_SECONDS:
                asked = time.monotonic()
                self.retire()
            time.sleep(pause)

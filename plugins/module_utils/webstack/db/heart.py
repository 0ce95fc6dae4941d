# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes a row twice a second on an open server: it shows that commits reach the disk, and carries the time."""

from __future__ import annotations

import threading
import time

from ..core.errors import Problem
from ..core.mariadb import Session
from .config import Config

SECONDS = 0.5
#: A commit that waits for the other host's acknowledgement ends when the agent decides; until then we wait, too.
WAIT = 90000.0
TABLE = "mysql.webstack_heartbeat"


class Heart:
    """A thread of its own, since its commit may hang; the agent only reads when the last one was done."""

    def __init__(self, config: Config) -> None:
        # These rows go into the binary log, unlike all others of ours.
        self.session = Session({"unix_socket": config.socket, "user": "root"}, WAIT, 2)
        self.open = False
        self.last = 0.0
        threading.Thread(target=self.run, daemon=True, name="heart").start()

    def since(self) -> float:
        """Return the seconds since the last row was committed."""
        return time.monotonic() - self.last

    def beat(self, opened: bool) -> None:
        """Begin or end; from the moment of the opening the first row is waited for."""
        if opened and not self.open:
            self.last = time.monotonic()
        self.open = opened

    def run(self) -> None:
        while True:
            if self.open:
                try:
                    self.session.run(f"REPLACE INTO {TABLE} VALUES (@@server_id, UTC_TIMESTAMP(6))")
                    self.last = time.monotonic()
                except Problem:
                    # It was closed, or ended: the agent sees that by itself.
                    self.session.close()
            time.sleep(SECONDS)

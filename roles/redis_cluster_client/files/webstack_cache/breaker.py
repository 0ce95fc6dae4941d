# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A circuit breaker whose probes run beside the requests, not inside them."""

from __future__ import annotations

import logging
import threading
import time

import redis

from . import metrics

logger = logging.getLogger("webstack_cache")

ERRORS_TO_OPEN = 2
PROBE_SECONDS = 0.25
# How long a server that was away takes writes before it is read. Every process that found it away has probed it by
# then, and has deleted there what it could not write before: two periods, since a probe may last one.
QUARANTINE_SECONDS = 2 * PROBE_SECONDS
# How long probes go on when nobody calls.
IDLE_SECONDS = 10.0

CLOSED, SETTLING, OPEN = range(3)


class Breaker:
    """Stands before one server. Opens after two errors in a row, or when it is told to.

    While it is open, calls are answered at once, and a thread looks four times a second whether the server is back:
    a hung server costs no request anything. The first look comes at once, so that a hiccup costs a few milliseconds;
    only a server that was found away is put in quarantine, where it takes writes and is not read.
    """

    def __init__(self, name: str, shard: str, state: int = CLOSED) -> None:
        self._name = name
        self._shard = shard
        self._state = state
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._again = False
        self._errors = 0
        self._wanted_until = 0.0
        self._closed_at = 0.0

    # For subclasses

    def opened(self) -> None:
        """Give up what must not be used any more."""

    def recover(self) -> float | None:
        """Look whether the server is back, or raise; return the seconds that reads shall wait, None for the usual."""
        raise NotImplementedError

    def period(self) -> float:
        """Return the seconds from one look to the next."""
        return PROBE_SECONDS

    def unfinished(self) -> bool:
        """Tell whether something is left that only a server that answers can take."""
        return False

    def settled(self) -> None:
        """Take the server into use."""

    def wait_to_be_read(self, pause: float) -> None:
        """Wait until it may be read, or `open` is called, or raise; it takes writes meanwhile."""
        self._wake.wait(pause)

    def closed(self) -> None:
        """Reads have begun, too."""

    # For calls

    @property
    def is_open(self) -> bool:
        return self._state == OPEN

    def allows(self, write: bool) -> bool:
        """Tell whether the server may be asked."""
        if not self._state:
            return True
        self._wanted_until = time.monotonic() + IDLE_SECONDS
        if self._thread is None:
            self._start()
        return write and self._state == SETTLING

    def succeeded(self) -> None:
        # Counts need no lock: threads that race here all saw the server answer, or all saw it fail.
        self._errors = 0

    def failed(self, error: BaseException) -> None:
        self._errors += 1
        if self._errors >= ERRORS_TO_OPEN and self._state != OPEN:
            self.open(f"does not answer: {error}")

    def open(self, reason: str) -> None:
        """Let nobody ask the server until it has been looked at, even if that is being done already."""
        with self._lock:
            before, self._state = self._state, OPEN
            self._errors = 0
            self._again = True
            self._wanted_until = time.monotonic() + IDLE_SECONDS
            self.opened()
        if before == CLOSED:
            logger.warning("%s %s; it is not asked for now", self._name, reason)
            metrics.observe(self._shard, "opened")
        self._wake.set()
        self._start()

    def reset_after_fork(self) -> None:
        """In a child, no thread probes, and locks may be held by threads that do not exist there."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = None

    # The thread

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or self._state == CLOSED:
                return
            thread = threading.Thread(target=self._run, name=f"webstack-cache {self._name}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down
                return
            self._thread = thread

    def _run(self) -> None:
        # Who opens again at once has not just had a hiccup.
        away = time.monotonic() - self._closed_at < 2 * QUARANTINE_SECONDS
        problem = ""
        while True:
            self._wake.clear()
            with self._lock:
                self._again = False
            started = time.monotonic()
            try:
                pause = self.recover()
            except (redis.RedisError, OSError) as exc:
                away = True
                if str(exc) != problem:
                    problem = str(exc)
                    logger.info("%s is not back: %s", self._name, problem)
                if self._is_idle():
                    return
                self._wake.wait(max(0.0, started + self.period() - time.monotonic()))
                continue
            with self._lock:
                if self._again:
                    continue
                self.settled()
                self._state = SETTLING
            if pause is None:
                pause = QUARANTINE_SECONDS if away else 0.0
            try:
                self.wait_to_be_read(pause)
                problem = ""
            except (redis.RedisError, OSError) as exc:
                away = self._again = True
                problem = str(exc)
                logger.info("%s is not back: %s", self._name, problem)
                time.sleep(PROBE_SECONDS / 10)
            with self._lock:
                if self._again or self.unfinished():
                    self._state = OPEN
                    continue
                self._state = CLOSED
                self._closed_at = time.monotonic()
                self._thread = None
            logger.warning("%s is asked again", self._name)
            metrics.observe(self._shard, "closed")
            self.closed()
            return

    def _is_idle(self) -> bool:
        """Tell whether the thread may end: the next call starts it again."""
        with self._lock:
            if self._again or self.unfinished() or time.monotonic() < self._wanted_until:
                return False
            self._thread = None
            return True

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A circuit breaker whose probes run beside the requests, not inside them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis

logger = logging.getLogger("webstack_cache")

ERRORS_TO_OPEN = 2
PROBE_SECONDS = 0.25


class Breaker:
    """Opens after two errors in a row; while it is open, one probe each 250 ms looks whether the shard is back.

    The call that finds a probe due starts it in a thread and is itself answered at once: a hung server costs
    no request anything once the breaker is open. Without calls there are no probes.
    """

    def __init__(self, name: str, probe: Callable[[], object]) -> None:
        self._name = name
        self._probe = probe
        self.reset()

    def reset(self) -> None:
        """Forget everything. Also after a fork: a probe of the parent process never ends in the child."""
        self._errors = 0
        self._opened = False
        self._next_probe = 0.0
        self._probing = threading.Lock()

    @property
    def is_open(self) -> bool:
        return self._opened

    def allows(self) -> bool:
        """Tell whether the shard may be asked."""
        if not self._opened:
            return True
        if time.monotonic() >= self._next_probe:
            self._start_probe()
        return False

    def succeeded(self) -> None:
        # Counts need no lock: threads that race here all saw the shard answer, or all saw it fail.
        self._errors = 0

    def failed(self, error: BaseException) -> None:
        self._errors += 1
        if self._errors >= ERRORS_TO_OPEN and not self._opened:
            self._next_probe = time.monotonic() + PROBE_SECONDS
            self._opened = True
            logger.warning("shard %s does not answer, its keys are misses from now on: %s", self._name, error)

    def _start_probe(self) -> None:
        probing = self._probing
        if not probing.acquire(blocking=False):
            return
        try:
            threading.Thread(
                target=self._run_probe, args=(probing,), name=f"webstack-cache-probe-{self._name}", daemon=True
            ).start()
        except RuntimeError:  # the interpreter is shutting down
            probing.release()

    def _run_probe(self, probing: threading.Lock) -> None:
        try:
            self._probe()
        except (redis.RedisError, OSError) as exc:
            logger.debug("shard %s still does not answer: %s", self._name, exc)
        else:
            self._errors = 0
            self._opened = False
            logger.warning("shard %s answers again", self._name)
        finally:
            self._next_probe = time.monotonic() + PROBE_SECONDS
            probing.release()

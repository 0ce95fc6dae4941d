# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A lock in the cache: one holder at a time among all processes of all application servers."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from types import TracebackType
from typing import Any, Protocol

from asgiref.sync import sync_to_async
from redis.exceptions import LockError, LockNotOwnedError

from .cluster import ShardUnavailable

logger = logging.getLogger("webstack_cache")

DEFAULT_LOCK_SECONDS = 30.0
# Between two attempts, at random within it: waiters that come together do not ask together.
_PAUSE_SECONDS = (0.02, 0.08)

# One step each: between a look and a deletion the lock may end and be somebody else's.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_EXTEND = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"


class Owner(Protocol):
    """What asks the shard that owns a key."""

    def ask_owner(self, key: str, *command: Any) -> Any: ...


class Lock:
    """A lock with an end: `with cache.lock("report", timeout=60):`, or `async with`.

    A shard that does not answer raises ShardUnavailable, always, whatever the cache's `ignore_errors` says: a lock
    that was only believed is worse than none. It has redis-py's exceptions: LockError where it is not to be had in
    time, LockNotOwnedError where it ended, and may be somebody else's, before it was released.

    Make one for each holder; the object remembers whether it holds. The lock lives on one shard, and Redis
    replicates a moment later: a fail-over may lose it, and emptying the shard does. It keeps work from being done
    twice; what must never be done twice needs a constraint in the database.
    """

    def __init__(
        self,
        owner: Owner,
        key: str,
        timeout: float = DEFAULT_LOCK_SECONDS,
        blocking: bool = True,
        blocking_timeout: float | None = None,
    ) -> None:
        self._owner = owner
        self._key = key
        self._milliseconds = _milliseconds(timeout)
        self._blocking = blocking
        self._blocking_timeout = blocking_timeout
        self._token: str | None = None

    def acquire(self, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """Take the lock, waiting for it if that is wanted; return whether it was to be had."""
        end = self._end(blocking, blocking_timeout)
        while not self._try():
            pause = random.uniform(*_PAUSE_SECONDS)
            if time.monotonic() + pause > end:
                return False
            time.sleep(pause)
        return True

    async def aacquire(self, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """Do what acquire does."""
        end = self._end(blocking, blocking_timeout)
        while not await sync_to_async(self._try)():
            pause = random.uniform(*_PAUSE_SECONDS)
            if time.monotonic() + pause > end:
                return False
            await asyncio.sleep(pause)
        return True

    def release(self) -> None:
        """Give the lock back. LockNotOwnedError says that it had ended before."""
        token, self._token = self._held(), None
        if not self._owner.ask_owner(self._key, "EVAL", _RELEASE, 1, self._key, token):
            raise LockNotOwnedError(f"the lock {self._key} ended before it was released")

    async def arelease(self) -> None:
        """Do what release does."""
        await sync_to_async(self.release)()

    def extend(self, timeout: float | None = None) -> None:
        """Let the lock end in so many seconds from now; without a number, in what it was made with."""
        milliseconds = self._milliseconds if timeout is None else _milliseconds(timeout)
        token = self._held()
        if not self._owner.ask_owner(self._key, "EVAL", _EXTEND, 1, self._key, token, milliseconds):
            self._token = None
            raise LockNotOwnedError(f"the lock {self._key} ended before it was extended")

    async def aextend(self, timeout: float | None = None) -> None:
        """Do what extend does."""
        await sync_to_async(self.extend)(timeout)

    def locked(self) -> bool:
        """Tell whether anybody holds the lock."""
        return self._owner.ask_owner(self._key, "GET", self._key) is not None

    async def alocked(self) -> bool:
        """Do what locked does."""
        return await sync_to_async(self.locked)()

    def owned(self) -> bool:
        """Tell whether this object holds the lock."""
        stored = self._owner.ask_owner(self._key, "GET", self._key)
        return self._token is not None and bool(stored == self._token.encode())

    async def aowned(self) -> bool:
        """Do what owned does."""
        return await sync_to_async(self.owned)()

    def __enter__(self) -> Lock:
        if not self.acquire():
            raise LockError(f"the lock {self._key} was not to be had in time")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except (LockError, ShardUnavailable) as exc:
            # What went wrong inside is what the caller must hear of; the lock ends by itself.
            if error is None:
                raise
            logger.warning("%s", exc)

    async def __aenter__(self) -> Lock:
        if not await self.aacquire():
            raise LockError(f"the lock {self._key} was not to be had in time")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await sync_to_async(self.__exit__)(kind, error, trace)

    def _try(self) -> bool:
        if self._token is not None:
            raise LockError(f"this object holds the lock {self._key} already")
        token = secrets.token_hex(16)
        before = self._owner.ask_owner(self._key, "SET", self._key, token, "NX", "GET", "PX", self._milliseconds)
        # Where the connection broke and the command was sent again, the first one may have got the lock.
        if before is not None and before != token.encode():
            return False
        self._token = token
        return True

    def _held(self) -> str:
        if self._token is None:
            raise LockError(f"this object does not hold the lock {self._key}")
        return self._token

    def _end(self, blocking: bool | None, blocking_timeout: float | None) -> float:
        if not (self._blocking if blocking is None else blocking):
            return 0.0
        seconds = self._blocking_timeout if blocking_timeout is None else blocking_timeout
        return float("inf") if seconds is None else time.monotonic() + seconds


def _milliseconds(seconds: float) -> int:
    # A holder that dies must not hold it for ever, so there is no lock without an end.
    if not seconds or seconds < 0.001:
        raise ValueError(f"the timeout of a lock must be at least a millisecond, not {seconds!r}")
    return round(seconds * 1000)

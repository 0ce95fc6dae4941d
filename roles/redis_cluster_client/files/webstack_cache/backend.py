# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Django's cache API over the cluster, and what users of Redis miss in it."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import redis
from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.cache.backends.redis import RedisCacheClient, RedisSerializer
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from . import metrics
from .base import ManyKeysCache
from .cluster import Cluster, Command, Moving, ShardUnavailable, is_refusal, shared_cluster
from .configuration import ConfigurationError
from .lock import DEFAULT_LOCK_SECONDS, Lock

# One step, so that a key which ends in between is not made anew, without an end. EVAL each time: a server that was
# just promoted knows no script by its hash.
_INCR = "if redis.call('EXISTS', KEYS[1]) == 0 then return false end return redis.call('INCRBY', KEYS[1], ARGV[1])"
# MSET knows no end, and fifty SETs cost twice the time of one script: they are packed and answered one by one.
_SET_MANY = (
    "for i, key in ipairs(KEYS) do "
    "if ARGV[1] == '' then redis.call('SET', key, ARGV[i + 1]) "
    "else redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1]) end end "
    "return #KEYS"
)
# PERSIST alone says 0 of a key that has no end already.
_PERSIST = "redis.call('PERSIST', KEYS[1]) return redis.call('EXISTS', KEYS[1])"

# Keys that a server looks at in one step of a walk over all of them; it serves nobody else meanwhile.
_SCAN_COUNT = 1000


class Serializer(RedisSerializer):
    """Django's own format, read faster."""

    def loads(self, data: bytes) -> Any:
        # Django tries every value as a number first. The first byte of a pickle is no digit.
        return pickle.loads(data) if data[:1] == b"\x80" else super().loads(data)


class RingCacheClient(RedisCacheClient):
    """Sends each key to the shard that owns it.

    A shard that does not answer is a miss: nothing is read from or written to another shard in its place,
    since its keys would be stale when it returns. With ignore_errors=False it raises ShardUnavailable.
    """

    def __init__(
        self,
        servers: Collection[str],
        serializer: Any = None,
        ignore_errors: bool = True,
        metrics: bool | str | Callable[..., Any] = False,
        **options: Any,
    ) -> None:
        super().__init__(servers, serializer=serializer or Serializer)
        (path,) = servers
        self._ignore_errors = ignore_errors
        _listen(metrics)
        try:
            self.cluster: Cluster = shared_cluster(path, options)
        except ConfigurationError as exc:
            raise ImproperlyConfigured(f"webstack_cache: {exc}") from exc

    def get_client(self, key: str | None = None, *, write: bool = False) -> redis.Redis:
        """Return redis-py's client of the key's shard, for commands that this class does not have."""
        if key is None:
            raise ValueError("a ring has no single server: say the key")
        self.cluster.refresh()
        shard = self.cluster.shard_of(key)
        return shard.client if write else shard.reader

    # One key

    def add(self, key: str, value: Any, timeout: int | None) -> bool:
        # False on a dead shard: nothing was stored, and nobody who uses add() as a lock may believe it his.
        stored = self._serializer.dumps(value)
        if timeout == 0:  # stored and gone at once
            return bool(self._ask(key, "EXISTS", key) == 0)
        # What an add that got lost leaves behind, if anything, is no older than what anybody wrote before.
        added = self._ask(key, "SET", key, stored, "NX", *_expiry(timeout), write=True, repeat=False, forget=False)
        return self._count(key, "set", added is not None)

    def get(self, key: str, default: Any) -> Any:
        value = self._ask(key, "GET", key)
        if metrics.listeners:
            self._count(key, "miss" if value is None else "hit")
        return default if value is None else self._serializer.loads(value)

    def set(self, key: str, value: Any, timeout: int | None) -> None:
        stored = self._serializer.dumps(value)
        if timeout == 0:
            self.delete(key)
        else:
            self._count(key, "set", self._ask(key, "SET", key, stored, *_expiry(timeout), write=True) is not None)

    def touch(self, key: str, timeout: int | None) -> bool:
        if timeout is None:
            return bool(self._ask(key, "EVAL", _PERSIST, 1, key, write=True))
        return self.pexpire(key, _milliseconds(timeout))

    def pexpire(self, key: str, milliseconds: int) -> bool:
        return bool(self._ask(key, "PEXPIRE", key, milliseconds, write=True))

    def delete(self, key: str) -> bool:
        return self._count(key, "delete", bool(self._ask(key, "UNLINK", key, write=True)))

    def has_key(self, key: str) -> bool:
        return bool(self._ask(key, "EXISTS", key))

    def ttl(self, key: str, command: str) -> int | None:
        """Return what is left of the key's time: 0 without a key, None without an end."""
        left = self._ask(key, command, key)
        return None if left == -1 else max(0, left or 0)

    def incr(self, key: str, delta: int) -> int:
        silent: Any = object()
        result = self._ask(key, "EVAL", _INCR, 1, key, delta, write=True, repeat=False, unanswered=silent)
        if result is silent:
            raise ValueError(f"Key '{key}' not found: its shard does not answer.")
        if result is None:
            raise ValueError(f"Key '{key}' not found.")
        self._count(key, "set")
        return int(result)

    def ask_owner(self, key: str, *command: Any) -> Any:
        """Return what the shard of a lock says; ShardUnavailable where nothing, or where the key has no owner now."""
        self.cluster.refresh()
        try:
            return self.cluster.shard_of(key).call(*command, write=True)
        except Moving as exc:
            raise ShardUnavailable(str(exc)) from exc

    def _ask(
        self,
        key: str,
        *command: Any,
        write: bool = False,
        repeat: bool = True,
        forget: bool = True,
        unanswered: Any = None,
    ) -> Any:
        """Return the reply of the key's shard, or `unanswered`."""
        cluster = self.cluster
        cluster.refresh()
        try:
            return cluster.shard_of(key).call(
                *command, write=write, repeat=repeat, forget=key if write and forget else None
            )
        except Moving:
            if write:
                cluster.forget([key])
        except ShardUnavailable:
            if not self._ignore_errors:
                raise
        return unanswered

    # Many keys

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        grouped, _ = self._by_shard(keys)
        replies = self._exchange({name: [("MGET", *group)] for name, group in grouped.items()})
        found: dict[str, Any] = {}
        loads = self._serializer.loads
        for name, group in grouped.items():
            (values,) = replies.get(name) or [None]
            before = len(found)
            for key, value in zip(group, values or (), strict=False):
                if value is not None:
                    found[key] = loads(value)
            if metrics.listeners:
                hits = len(found) - before
                metrics.observe(name, "hit", count=hits)
                metrics.observe(name, "miss", count=len(group) - hits)
        return found

    def set_many(self, data: Mapping[str, Any], timeout: int | None) -> list[str]:
        """Store all values; return the keys that could not be stored."""
        dumps = self._serializer.dumps
        # All of them first: a value that cannot be stored leaves nothing half done.
        stored = {key: dumps(value) for key, value in data.items()}
        if timeout == 0:
            self.delete_many(data)
            return []
        expiry = "" if timeout is None else _milliseconds(timeout)
        grouped, failed = self._by_shard(stored)
        self.cluster.forget(failed)
        batches: dict[str, list[Command]] = {
            name: [("EVAL", _SET_MANY, len(group), *group, expiry, *[stored[key] for key in group])]
            for name, group in grouped.items()
        }
        replies = self._exchange(batches, grouped)
        for name, group in grouped.items():
            (count,) = replies.get(name) or [None]
            if not count:
                failed += group
            elif metrics.listeners:
                metrics.observe(name, "set", count=count)
        return failed

    def delete_many(self, keys: Iterable[str]) -> None:
        grouped, moving = self._by_shard(keys)
        self.cluster.forget(moving)
        replies = self._exchange({name: [("UNLINK", *group)] for name, group in grouped.items()}, grouped)
        if metrics.listeners:
            for name, (deleted,) in replies.items():
                metrics.observe(name, "delete", count=deleted or 0)

    def clear(self) -> bool:
        """Empty every shard; return whether all of them are empty now."""
        self.cluster.refresh()
        # In the background: a server that frees a few million keys before it answers looks dead meanwhile.
        batches: dict[str, list[Command]] = {name: [("FLUSHDB", "ASYNC")] for name in self.cluster.shards}
        replies = self._exchange(batches, dict.fromkeys(batches, ()))
        return len(replies) == len(batches) and all(reply for (reply,) in replies.values())

    def delete_pattern(self, pattern: str) -> int:
        """Delete the keys that match, on all shards at the same time; return how many there were.

        A shard that does not answer on the way is emptied before it is read again: nobody can tell any more
        which of its keys matched.
        """
        self.cluster.refresh()
        shards = self.cluster.shards
        masters: dict[str, Any] = {}
        deleted = 0
        trouble: ShardUnavailable | None = None
        # One round trip each: delete what the last one found, and look further.
        batches = {name: [_scan(0, pattern)] for name in shards}
        while batches:
            replies, failed = self._try_exchange(batches, dict.fromkeys(batches, ()))
            trouble = trouble or failed
            batches = {}
            for name, results in replies.items():
                deleted += sum(result for result in results if isinstance(result, int))
                if masters.setdefault(name, shards[name].master.address) != shards[name].master.address:
                    # Where another server took over, the cursor means nothing.
                    shards[name].dropped()
                    trouble = trouble or ShardUnavailable(f"{name} was taken over by another server")
                    continue
                if not isinstance(results[-1], list):
                    continue  # the last step had nothing more to look for, or the shard refused
                cursor, keys = results[-1]
                commands: list[Command] = [("UNLINK", *keys)] if keys else []
                if int(cursor):
                    commands.append(_scan(cursor, pattern))
                if commands:
                    batches[name] = commands
        if trouble is not None and not self._ignore_errors:
            raise trouble
        return deleted

    def _by_shard(self, keys: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Return the keys by the name of their shard, and the keys that change their shard just now."""
        grouped: dict[str, list[str]] = {}
        moving: list[str] = []
        self.cluster.refresh()
        shard_of = self.cluster.shard_of
        for key in keys:
            try:
                name = shard_of(key).name
            except Moving:
                moving.append(key)
            else:
                grouped.setdefault(name, []).append(key)
        return grouped, moving

    def _exchange(
        self, batches: Mapping[str, Sequence[Command]], forget: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, list[Any]]:
        """Return the replies of the shards that answered, None in the place of what a shard refused."""
        replies, trouble = self._try_exchange(batches, forget)
        if trouble is not None and not self._ignore_errors:
            raise trouble
        return replies

    def _try_exchange(
        self, batches: Mapping[str, Sequence[Command]], forget: Mapping[str, Sequence[str]] | None
    ) -> tuple[dict[str, list[Any]], ShardUnavailable | None]:
        if not batches:
            return {}, None
        replies, failures = self.cluster.exchange(batches, forget)
        trouble: BaseException | None = next(iter(failures.values()), None)
        lost = set(failures)
        for name, results in replies.items():
            for index, reply in enumerate(results):
                if isinstance(reply, redis.ResponseError):
                    if not is_refusal(reply):
                        raise reply
                    trouble = reply
                    results[index] = None
                    lost.add(name)
        if not lost:
            return replies, None
        unavailable = ShardUnavailable(f"no answer from {', '.join(sorted(lost))}")
        unavailable.__cause__ = trouble
        return replies, unavailable

    def _count(self, key: str, event: metrics.Event, happened: bool = True) -> bool:
        if metrics.listeners and happened:
            metrics.observe(self.cluster.ring.locate(key), event)
        return happened


class RingCache(ManyKeysCache):
    """Cache backend. LOCATION is the path of the configuration file.

    Beside Django's own methods: lock, delete_pattern, ttl, pttl, expire, pexpire, persist, locate and metrics. Every
    method that asks a server has a twin to await (aget, adelete_pattern); a slow shard does not hold up the event loop.
    """

    _cache: RingCacheClient

    def __init__(self, server: str | os.PathLike[str], params: dict[str, Any]) -> None:
        super().__init__([os.fspath(server)], params)
        self._class = RingCacheClient
        # `manage.py check` makes every cache, so a wrong file is refused there even without the app whose
        # check says it more kindly.
        if apps.ready and not apps.is_installed("webstack_cache"):
            _ = self._cache

    # What Redis can do beyond Django's API, by the names that users of django-redis know

    def lock(
        self,
        key: str,
        timeout: float = DEFAULT_LOCK_SECONDS,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        version: int | None = None,
    ) -> Lock:
        """Return a lock that one holder has at a time, on all application servers together; see Lock."""
        return Lock(self._cache, self.make_and_validate_key(key, version=version), timeout, blocking, blocking_timeout)

    def delete_pattern(self, pattern: str, version: int | None = None) -> int:
        """Delete the keys that match a glob pattern (`*`, `?`, `[a-z]`), on all shards; return how many there were.

        The pattern is about the key as the application knows it; prefix and version are this cache's.
        """
        return self._cache.delete_pattern(self._make_pattern(pattern, version))

    def ttl(self, key: str, version: int | None = None) -> int | None:
        """Return the seconds that the key has left: None if it has no end, 0 if there is no such key."""
        return self._cache.ttl(self.make_and_validate_key(key, version=version), "TTL")

    def pttl(self, key: str, version: int | None = None) -> int | None:
        """Return what ttl does, in milliseconds."""
        return self._cache.ttl(self.make_and_validate_key(key, version=version), "PTTL")

    def expire(self, key: str, timeout: float, version: int | None = None) -> bool:
        """Let the key end in so many seconds, fractions count; return whether there is such a key."""
        return self.pexpire(key, round(timeout * 1000), version=version)

    def pexpire(self, key: str, timeout: int, version: int | None = None) -> bool:
        """Let the key end in so many milliseconds; return whether there is such a key."""
        return self._cache.pexpire(self.make_and_validate_key(key, version=version), timeout)

    def persist(self, key: str, version: int | None = None) -> bool:
        """Let the key have no end; return whether there is such a key."""
        return bool(self.touch(key, None, version=version))

    def locate(self, key: str, version: int | None = None) -> str:
        """Return the name of the shard that owns the key."""
        return self._cache.cluster.ring.locate(self.make_and_validate_key(key, version=version))

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return what this process counted, by shard; nothing unless OPTIONS has `"metrics": True`."""
        return metrics.counters.read()

    def _make_pattern(self, pattern: str, version: int | None) -> str:
        # Not made by make_key alone: what KEY_PREFIX and KEY_FUNCTION put around the key must match literally.
        mark = "\0pattern\0"
        before, found, after = self.make_key(mark, version=version).partition(mark)
        if not found:
            raise ValueError(
                "KEY_FUNCTION does not keep the key as it is, so no pattern matches the keys that it makes"
            )
        return _literally(before) + pattern + _literally(after)

    # The same to await

    async def adelete_pattern(self, pattern: str, version: int | None = None) -> int:
        return await sync_to_async(self.delete_pattern)(pattern, version)

    async def attl(self, key: str, version: int | None = None) -> int | None:
        return await sync_to_async(self.ttl)(key, version)

    async def apttl(self, key: str, version: int | None = None) -> int | None:
        return await sync_to_async(self.pttl)(key, version)

    async def aexpire(self, key: str, timeout: float, version: int | None = None) -> bool:
        return await sync_to_async(self.expire)(key, timeout, version)

    async def apexpire(self, key: str, timeout: int, version: int | None = None) -> bool:
        return await sync_to_async(self.pexpire)(key, timeout, version)

    async def apersist(self, key: str, version: int | None = None) -> bool:
        return await sync_to_async(self.persist)(key, version)


def _expiry(timeout: int | None) -> tuple[Any, ...]:
    return () if timeout is None else ("PX", _milliseconds(timeout))


def _milliseconds(timeout: int) -> int:
    # Redis still shows a key in the millisecond in which it ends; Django's caches do not.
    return 1000 * timeout - 1


def _scan(cursor: Any, pattern: str) -> Command:
    return ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)


def _literally(text: str) -> str:
    """Return a glob pattern that matches this text and nothing else."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def _listen(wanted: bool | str | Callable[..., Any]) -> None:
    """Register what OPTIONS says under `metrics`."""
    if wanted:
        listener = import_string(wanted) if isinstance(wanted, str) else wanted
        metrics.listen(metrics.counters if listener is True else listener)

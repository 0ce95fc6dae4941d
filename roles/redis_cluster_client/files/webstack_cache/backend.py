# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Django's cache API over the cluster. Django's own Redis backend does what concerns one key."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import redis
from django.apps import apps
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.core.exceptions import ImproperlyConfigured

from .cluster import (
    UNREACHABLE,
    Cluster,
    Command,
    ShardUnavailable,
    is_refusal,
    is_worth_repeating,
    shared_cluster,
)
from .configuration import ConfigurationError

T = TypeVar("T")


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
        **options: Any,
    ) -> None:
        super().__init__(servers, serializer=serializer)
        (path,) = servers
        self._ignore_errors = ignore_errors
        try:
            self.cluster: Cluster = shared_cluster(path, options)
        except ConfigurationError as exc:
            raise ImproperlyConfigured(f"webstack_cache: {exc}") from exc

    def get_client(self, key: str | None = None, *, write: bool = False) -> redis.Redis:
        if key is None:
            raise ValueError("a ring has no single server: say the key")
        return self.cluster.shard_of(key).client

    # One key

    def add(self, key: str, value: Any, timeout: int | None) -> bool:
        # False on a dead shard: nothing was stored, and nobody who uses add() as a lock may believe it his.
        return self._call(key, super().add, key, value, timeout, missing=False, repeat=False)

    def get(self, key: str, default: Any) -> Any:
        return self._call(key, super().get, key, default, missing=default)

    def set(self, key: str, value: Any, timeout: int | None) -> None:
        self._call(key, super().set, key, value, timeout, missing=None)

    def touch(self, key: str, timeout: int | None) -> bool:
        return self._call(key, super().touch, key, timeout, missing=False)

    def delete(self, key: str) -> bool:
        return self._call(key, super().delete, key, missing=False)

    def has_key(self, key: str) -> bool:
        return self._call(key, super().has_key, key, missing=False)

    def incr(self, key: str, delta: int) -> int:
        result: int | None = self._call(key, super().incr, key, delta, missing=None, repeat=False)
        if result is None:
            # What Django's caches raise for a key that is not there.
            raise ValueError(f"Key '{key}' not found: its shard does not answer.")
        return result

    # Many keys

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        grouped = self._by_shard(keys)
        replies = self._exchange({name: [("MGET", *group)] for name, group in grouped.items()})
        found = {}
        for name, (values,) in replies.items():
            if isinstance(values, redis.ResponseError):
                continue
            for key, value in zip(grouped[name], values, strict=True):
                if value is not None:
                    found[key] = self._serializer.loads(value)
        return found

    def set_many(self, data: Mapping[str, Any], timeout: int | None) -> list[str]:
        """Store all values; return the keys that could not be stored."""
        if timeout == 0:
            self.delete_many(data)
            return []
        expiry = () if timeout is None else ("EX", timeout)
        grouped = self._by_shard(data)
        batches: dict[str, list[Command]] = {
            name: [("SET", key, self._serializer.dumps(data[key]), *expiry) for key in group]
            for name, group in grouped.items()
        }
        replies = self._exchange(batches)
        return [
            key
            for name, group in grouped.items()
            for key, reply in zip(group, replies.get(name) or [None] * len(group), strict=True)
            if reply is None or isinstance(reply, redis.ResponseError)
        ]

    def delete_many(self, keys: Iterable[str]) -> None:
        self._exchange({name: [("DEL", *group)] for name, group in self._by_shard(keys).items()})

    def clear(self) -> bool:
        """Empty every shard; return whether all of them are empty now."""
        replies = self._exchange({name: [("FLUSHDB",)] for name in self.cluster.shards})
        return len(replies) == len(self.cluster.shards) and not any(
            isinstance(reply, redis.ResponseError) for (reply,) in replies.values()
        )

    def _by_shard(self, keys: Iterable[str]) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = {}
        locate = self.cluster.ring.locate
        for key in keys:
            grouped.setdefault(locate(key), []).append(key)
        return grouped

    def _exchange(self, batches: Mapping[str, list[Command]]) -> dict[str, list[Any]]:
        replies, failures = self.cluster.exchange(batches)
        refused = None
        for results in replies.values():
            for reply in results:
                if isinstance(reply, redis.ResponseError):
                    if not is_refusal(reply):
                        raise reply
                    refused = reply
        if not self._ignore_errors and (failures or refused):
            names = ", ".join(sorted(failures)) or "a shard"
            raise ShardUnavailable(f"no answer from {names}") from next(iter(failures.values()), refused)
        return replies

    def _call(self, key: str, operation: Callable[..., T], /, *args: Any, missing: T, repeat: bool = True) -> T:
        shard = self.cluster.shard_of(key)
        error: BaseException | None = None
        if shard.breaker.allows():
            for last in (not repeat, True):
                try:
                    result = operation(*args)
                except UNREACHABLE as exc:
                    if not last and is_worth_repeating(exc):
                        continue
                    error = exc
                    shard.breaker.failed(exc)
                except redis.ResponseError as exc:
                    if not is_refusal(exc):
                        raise
                    error = exc
                else:
                    shard.breaker.succeeded()
                    return result
                break
        if self._ignore_errors:
            return missing
        raise ShardUnavailable(f"shard {shard.name} does not answer") from error


class RingCache(RedisCache):
    """Cache backend. LOCATION is the path of the configuration file, read once per process."""

    def __init__(self, server: str | os.PathLike[str], params: dict[str, Any]) -> None:
        super().__init__([os.fspath(server)], params)
        self._class = RingCacheClient
        # `manage.py check` makes every cache, so a wrong file is refused there even without the app whose
        # check says it more kindly.
        if apps.ready and not apps.is_installed("webstack_cache"):
            _ = self._cache

    def locate(self, key: str, version: int | None = None) -> str:
        """Return the name of the shard that owns the key."""
        return self._cache.cluster.ring.locate(self.make_and_validate_key(key, version=version))

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        names = {self.make_and_validate_key(key, version=version): key for key in data}
        failed = self._cache.set_many(
            {final: data[key] for final, key in names.items()}, self.get_backend_timeout(timeout)
        )
        return [names[final] for final in failed]

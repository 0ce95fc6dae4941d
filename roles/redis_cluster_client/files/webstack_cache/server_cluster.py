# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Django's cache API over a server-side Redis Cluster: there the servers say which of them has a key."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import redis
from django.core.cache.backends.redis import RedisCacheClient
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import ClusterError, RedisClusterException
from redis.retry import Retry

from .base import ManyKeysCache
from .configuration import ConfigurationError, Servers, load_servers

TIMEOUT_SECONDS = 0.25
# How long a server that did not answer is left alone, so that not every call waits for it.
SILENCE_SECONDS = 0.5

# No server for the key at the moment: gone, silent, or its successor is being elected.
AWAY = (redis.ConnectionError, redis.TimeoutError, ClusterError, RedisClusterException)

_shared: dict[tuple[str, str], Connection] = {}
_shared_lock = threading.Lock()


class Connection:
    """One process' view of the cluster, shared by its threads; redis-py's pools notice a fork themselves."""

    def __init__(self, servers: Servers, options: Mapping[str, Any]) -> None:
        access = servers.access
        self._arguments: dict[str, Any] = {
            "startup_nodes": [ClusterNode(server.host, server.port) for server in servers.addresses],
            "username": access.username,
            "password": access.password,
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "require_full_coverage": False,
            # The second attempt follows a key to its new server; more would only add up time-outs.
            "retry": Retry(NoBackoff(), 1),
            **({"ssl": True, "ssl_ca_certs": access.ca} if access.ca else {}),
            **options,
        }
        self._client: RedisCluster | None = None
        self._silent_until = 0.0
        self._silent: dict[str, float] = {}
        self._lock = threading.Lock()

    def client(self) -> RedisCluster:
        """Return the client; the first call asks the servers who has which keys."""
        if self._client is None:
            if time.monotonic() < self._silent_until:
                raise redis.ConnectionError("no server of the cluster answered a moment ago")
            with self._lock:
                if self._client is None:
                    try:
                        self._client = RedisCluster(**self._arguments)
                    except AWAY:
                        self._silent_until = time.monotonic() + SILENCE_SECONDS
                        raise
        return self._client

    def server_of(self, key: str) -> str:
        """Return the name of the key's server; raise where it was silent a moment ago, or where there is none."""
        node = self.client().get_node_from_key(key)
        if node is None:
            raise redis.ConnectionError(f"no server has the slot of {key!r}")
        if time.monotonic() < self._silent.get(node.name, 0.0):
            raise redis.ConnectionError(f"{node.name} did not answer a moment ago")
        return str(node.name)

    def call(self, server: str, operation: Callable[[], Any]) -> Any:
        """Carry out what concerns one server's keys, and remember its silence."""
        try:
            return operation()
        except AWAY:
            self._silent[server] = time.monotonic() + SILENCE_SECONDS
            raise


class ServerClusterCacheClient(RedisCacheClient):
    """A server that is away is a miss for its keys, as with the ring, until the cluster has elected another."""

    def __init__(
        self, servers: Collection[str], serializer: Any = None, ignore_errors: bool = True, **options: Any
    ) -> None:
        super().__init__(servers, serializer=serializer)
        (path,) = servers
        self._ignore_errors = ignore_errors
        with _shared_lock:
            name = (path, repr(sorted(options.items())))
            if name not in _shared:
                try:
                    _shared[name] = Connection(load_servers(path), options)
                except ConfigurationError as exc:
                    raise ImproperlyConfigured(f"webstack_cache: {exc}") from exc
            self.connection = _shared[name]

    def get_client(self, key: str | None = None, *, write: bool = False) -> RedisCluster:
        return self.connection.client()

    # One key

    def add(self, key: str, value: Any, timeout: int | None) -> bool:
        return bool(self._call(key, lambda: super(ServerClusterCacheClient, self).add(key, value, timeout), False))

    def get(self, key: str, default: Any) -> Any:
        return self._call(key, lambda: super(ServerClusterCacheClient, self).get(key, default), default)

    def set(self, key: str, value: Any, timeout: int | None) -> None:
        self._call(key, lambda: super(ServerClusterCacheClient, self).set(key, value, timeout), None)

    def touch(self, key: str, timeout: int | None) -> bool:
        return bool(self._call(key, lambda: super(ServerClusterCacheClient, self).touch(key, timeout), False))

    def delete(self, key: str) -> bool:
        return bool(self._call(key, lambda: super(ServerClusterCacheClient, self).delete(key), False))

    def has_key(self, key: str) -> bool:
        return bool(self._call(key, lambda: super(ServerClusterCacheClient, self).has_key(key), False))

    def incr(self, key: str, delta: int) -> int:
        result = self._call(key, lambda: super(ServerClusterCacheClient, self).incr(key, delta), None)
        if result is None:
            # What Django's caches raise for a key that is not there.
            raise ValueError(f"Key '{key}' not found: its server does not answer.")
        return int(result)

    # Many keys: one round trip a server, and no promise that they happen at once

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        found = self._batch(keys, lambda pipe, key: pipe.get(key))
        return {key: self._serializer.loads(value) for key, value in found.items() if value is not None}

    def set_many(self, data: Mapping[str, Any], timeout: int | None) -> list[str]:
        if timeout == 0:
            self.delete_many(data)
            return []
        stored = {key: self._serializer.dumps(value) for key, value in data.items()}
        done = self._batch(stored, lambda pipe, key: pipe.set(key, stored[key], ex=timeout))
        return [key for key in data if not done.get(key)]

    def delete_many(self, keys: Iterable[str]) -> None:
        self._batch(keys, lambda pipe, key: pipe.delete(key))

    def clear(self) -> bool:
        """Empty every primary; return whether all of them are empty now."""
        try:
            return bool(self.connection.client().flushdb(target_nodes=RedisCluster.PRIMARIES))
        except AWAY:
            if not self._ignore_errors:
                raise
            return False

    def _call(self, key: str, operation: Callable[[], Any], missing: Any) -> Any:
        try:
            return self.connection.call(self.connection.server_of(key), operation)
        except AWAY:
            if not self._ignore_errors:
                raise
            return missing

    def _batch(self, keys: Iterable[str], add: Callable[[Any, str], Any]) -> dict[str, Any]:
        """Give each server its part; return the answers of those that gave one."""
        parts: dict[str, list[str]] = {}
        found: dict[str, Any] = {}
        for key in keys:
            try:
                parts.setdefault(self.connection.server_of(key), []).append(key)
            except AWAY:
                if not self._ignore_errors:
                    raise
        for server, part in parts.items():
            pipe = self.connection.client().pipeline()
            for key in part:
                add(pipe, key)
            try:
                answers = self.connection.call(server, partial(pipe.execute, raise_on_error=False))
            except AWAY:
                if not self._ignore_errors:
                    raise
                continue
            for key, answer in zip(part, answers, strict=True):
                if not isinstance(answer, Exception):
                    found[key] = answer
                elif not (self._ignore_errors and isinstance(answer, AWAY)):
                    raise answer
        return found


class ServerClusterCache(ManyKeysCache):
    """Cache backend. LOCATION is the path of the configuration file, read once per process."""

    def __init__(self, server: str | os.PathLike[str], params: dict[str, Any]) -> None:
        super().__init__([os.fspath(server)], params)
        self._class = ServerClusterCacheClient

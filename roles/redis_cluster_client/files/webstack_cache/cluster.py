# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shards as one process sees them: connections, fail-over, breakers. Knows Redis, not Django."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from .breaker import Breaker
from .configuration import Address, Configuration, load
from .ring import Ring

TIMEOUT_SECONDS = 0.25
# How long a sentinel that did not answer is passed over.
SILENT_SENTINEL_SECONDS = 1.0

Command = tuple[Any, ...]

UNREACHABLE = (redis.ConnectionError, redis.TimeoutError)
# Replies of a server that is there but cannot serve now. Any other error reply is a fault of the caller
# or of the configuration, and is raised.
_REFUSALS = ("OOM ", "READONLY ", "MASTERDOWN ", "NOREPLICAS ", "LOADING ")


class ShardUnavailable(redis.ConnectionError):
    """A shard did not answer, and the caller asked to be told (`ignore_errors: False`)."""


def is_refusal(error: redis.ResponseError) -> bool:
    """Tell whether a server said that it cannot serve at the moment."""
    # redis-py cuts the code off the text of those errors that have a class of their own.
    return isinstance(error, (redis.OutOfMemoryError, redis.ReadOnlyError)) or str(error).startswith(_REFUSALS)


def is_worth_repeating(error: BaseException) -> bool:
    """Tell whether a second attempt may help: after a broken connection yes, after silence never.

    A server that let 250 ms pass would only cost the request another 250 ms.
    """
    return isinstance(error, redis.ConnectionError) and not isinstance(error, MasterNotFoundError)


class _Discovery(Sentinel):
    """Asks the sentinels for the master of one shard.

    redis-py's own asks for the state of all shards each time, waits for every silent sentinel again and
    again, and swaps list entries without a lock, which under threads can lose a sentinel.
    """

    def __init__(self, addresses: Sequence[Address], options: Mapping[str, Any]) -> None:
        super().__init__([(each.host, each.port) for each in addresses], sentinel_kwargs=dict(options))
        self._silent_until = [0.0] * len(addresses)
        self._preferred = 0

    def discover_master(self, service_name: str) -> tuple[str, int]:
        errors = []
        count = len(self.sentinels)
        first = self._preferred
        for index in ((first + offset) % count for offset in range(count)):
            if time.monotonic() < self._silent_until[index]:
                continue
            try:
                state: Any = self.sentinels[index].sentinel_master(service_name)
            except UNREACHABLE as exc:
                self._silent_until[index] = time.monotonic() + SILENT_SENTINEL_SECONDS
                errors.append(str(exc))
                continue
            except redis.ResponseError as exc:  # this one does not know the shard
                errors.append(str(exc))
                continue
            if self.check_master_state(state, service_name):
                self._preferred = index
                return state["ip"], state["port"]
        raise MasterNotFoundError(f"no sentinel knows a master of {service_name} ({'; '.join(errors) or 'all down'})")


class Moving(Exception):
    """The key changes its owner in the change of the ring that is under way: it is on no shard for now."""

    def __init__(self, key: str | bytes, shards: tuple[Shard, Shard]) -> None:
        super().__init__(f"{key!r} moves from {shards[0].name} to {shards[1].name}")
        self.shards = shards


class Shard:
    """One shard: a client of its current master, and a breaker."""

    def __init__(self, name: str, client: redis.Redis) -> None:
        self.name = name
        self.client = client
        self.reader = client
        self.breaker = Breaker(name, client.ping)

    def call(self, *command: Any, write: bool, repeat: bool = True, forget: str | None = None) -> Any:
        """Send one command and return its reply as it comes (bytes, int, list or None).

        `forget` names the key whose old value must not be seen again when the write is lost. Without it nothing
        is forgotten: what add() and a lock lose was no value, and the key may be somebody else's by then.

        ShardUnavailable says that there was none; a reply that blames the caller is raised as it is. Everything
        else is done here: the breaker, one repetition (unless the command may not run twice), a replica that
        reads prefer and the way back to the master, and what a lost write leaves to be forgotten.
        """
        error: BaseException | None = None
        if self.allows(write):
            for last in (not repeat, True):
                try:
                    connection = (self.client if write else self.reader).connection_pool.get_connection()
                    try:
                        connection.send_command(*command)
                        reply = connection.read_response()
                    finally:
                        self.client.connection_pool.release(connection)
                except UNREACHABLE as exc:
                    if not last and is_worth_repeating(exc):
                        continue
                    error = exc
                    self.failed(exc)
                except redis.ResponseError as exc:
                    if not is_refusal(exc):
                        raise
                    error = exc
                else:
                    self.succeeded()
                    if forget is not None:
                        self.wrote(forget)
                    return reply
                break
        if forget is not None:
            self.dropped(forget)
        raise ShardUnavailable(f"shard {self.name} does not answer") from error

    def allows(self, write: bool) -> bool:
        """Tell whether the shard may be asked. After an outage it takes writes before it is read again."""
        return self.breaker.allows()

    def succeeded(self) -> None:
        """Say that it answered."""
        self.breaker.succeeded()

    def failed(self, error: BaseException) -> None:
        """Say that it did not answer."""
        self.breaker.failed(error)

    def wrote(self, *keys: str) -> None:
        """Say which keys it took: the last ones are forgotten if a replica takes over."""

    def dropped(self, *keys: str) -> None:
        """Say which keys' writes did not reach it, or nobody knows: they are forgotten before it is read again.

        Without a key: all of them.
        """


class Cluster:
    """All shards of one configuration. One per process, shared by its threads, usable after a fork."""

    def __init__(self, configuration: Configuration, **options: Any) -> None:
        self._current = configuration.current
        self._next = configuration.next
        connection: dict[str, Any] = {
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "socket_keepalive": True,
            "protocol": 2,
            "username": configuration.access.username,
            "password": configuration.access.password,
            **options,
            # Repeating is decided here, where it is known which operations may run twice.
            "retry": Retry(NoBackoff(), 0),
        }
        discovery = None
        if configuration.sentinels:
            discovery = _Discovery(
                configuration.sentinels, {key: value for key, value in connection.items() if key != "db"}
            )
        self.shards: dict[str, Shard] = {}
        for name, servers in configuration.shards.items():
            if discovery:
                client = discovery.master_for(name, **connection)
            else:
                client = redis.Redis(servers[0].host, servers[0].port, **connection)
            self.shards[name] = Shard(name, client)

    @property
    def ring(self) -> Ring:
        """The ring that reads use."""
        return self._current.ring

    def refresh(self) -> None:
        """Look whether the file changed, at most once a second. Call it before each operation."""

    def shard_of(self, key: str | bytes) -> Shard:
        """Return the shard that owns the key; raise Moving while the key changes its owner."""
        name = self._current.ring.locate(key)
        if self._next and (later := self._next.ring.locate(key)) != name:
            raise Moving(key, (self.shards[name], self.shards[later]))
        return self.shards[name]

    def forget(self, keys: Iterable[str]) -> None:
        """Delete keys that change their owner from both of their shards."""
        batches: dict[str, list[Command]] = {}
        for key in keys:
            for layout in (self._current, self._next or self._current):
                batches.setdefault(layout.ring.locate(key), []).append(("UNLINK", key))
        self.exchange(batches)

    def reset_after_fork(self) -> None:
        # The connection pools of redis-py notice a fork themselves.
        for shard in self.shards.values():
            shard.breaker.reset()

    def exchange(
        self, batches: Mapping[str, Sequence[Command]], forget: Mapping[str, Sequence[str]] | None = None
    ) -> tuple[dict[str, list[Any]], dict[str, BaseException | None]]:
        """Send each shard its commands, to all of them first, then read from all.

        `forget` makes it a write: it says, by shard, which keys are forgotten where the write is lost (see
        Shard.dropped: without keys all of them).

        Every command must be one that may run twice. Returns the replies of the shards that answered (an
        error reply stands in its place in the list), and the other shards, each with its error, or with
        None where the breaker was open.
        """
        replies: dict[str, list[Any]] = {}
        failures: dict[str, BaseException | None] = {}
        self._exchange_once(batches, replies, failures)
        again = {name: batches[name] for name, exc in failures.items() if exc and is_worth_repeating(exc)}
        if again:
            for name in again:
                del failures[name]
            self._exchange_once(again, replies, failures)
        for name, error in failures.items():
            if error:
                self.shards[name].breaker.failed(error)
            if forget is not None:
                self.shards[name].dropped(*forget[name])
        for name in replies:
            self.shards[name].breaker.succeeded()
            if forget is not None and forget[name]:
                self.shards[name].wrote(*forget[name])
        return replies, failures

    def _exchange_once(
        self,
        batches: Mapping[str, Sequence[Command]],
        replies: dict[str, list[Any]],
        failures: dict[str, BaseException | None],
    ) -> None:
        sent: list[tuple[Shard, Any, int]] = []
        try:
            for name, commands in batches.items():
                shard = self.shards[name]
                if not shard.breaker.allows():
                    failures[name] = None
                    continue
                try:
                    connection = shard.client.connection_pool.get_connection()
                    # From here on the connection is given back below, whatever happens.
                    sent.append((shard, connection, len(commands)))
                    connection.send_packed_command(connection.pack_commands(commands))
                except UNREACHABLE as exc:
                    failures[name] = exc
            patience = True
            while sent:
                shard, connection, count = sent[-1]
                if shard.name not in failures:
                    try:
                        # The servers work at the same time: who is silent when another one's time is up
                        # has had its 250 ms, too.
                        if not patience and not connection.can_read(0):
                            raise redis.TimeoutError("Timeout reading from socket")
                        replies[shard.name] = [_read(connection) for _ in range(count)]
                    except UNREACHABLE as exc:
                        failures[shard.name] = exc
                        patience = patience and not isinstance(exc, redis.TimeoutError)
                sent.pop()
                if shard.name in failures:
                    connection.disconnect()
                shard.client.connection_pool.release(connection)
        finally:
            # Only after an exception that is none of ours: replies that nobody read must not meet the
            # next command on the same connection.
            for shard, connection, _ in sent:
                connection.disconnect()
                shard.client.connection_pool.release(connection)


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as exc:
        return exc


class _Clusters:
    """This process's clusters, one for each configuration file and set of options."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Cluster] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork)

    def get(self, path: str, options: Mapping[str, Any]) -> Cluster:
        identity = (path, repr(sorted(options.items())))
        cluster = self._made.get(identity)
        if cluster is None:
            with self._lock:
                cluster = self._made.get(identity)
                if cluster is None:
                    cluster = self._made[identity] = Cluster(load(path), **options)
        return cluster

    def _after_fork(self) -> None:
        # Another thread of the parent may have held the lock; it does not exist here.
        self._lock = threading.Lock()
        for cluster in self._made.values():
            cluster.reset_after_fork()


_clusters = _Clusters()


def shared_cluster(path: str, options: Mapping[str, Any]) -> Cluster:
    """Return the cluster of a configuration file. It is shared, since Django makes a cache object per thread."""
    return _clusters.get(path, options)

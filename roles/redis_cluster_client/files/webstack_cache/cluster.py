# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shards as one process sees them, and the file that says which there are. Knows Redis, not Django."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from . import metrics
from .configuration import Access, Address, Configuration, ConfigurationError, Layout, load
from .connections import UNREACHABLE, Command, Connector, Pool, is_refusal, pack, read
from .ring import Ring
from .roll import Answers
from .sentinels import LEASE_SECONDS, Sentinels
from .shard import Shard, ShardUnavailable

__all__ = [
    "Cluster",
    "Command",
    "Moving",
    "Shard",
    "ShardUnavailable",
    "is_refusal",
    "shared_cluster",
]

logger = logging.getLogger("webstack_cache")

# Every call that begins that long after the file was written uses it.
LOOK_SECONDS = 1.0
# How long a process that ends waits for shards that have to forget something, the time of a fail-over.
SETTLE_SECONDS = 2.5


class Moving(Exception):
    """The key changes its owner in the change of the ring that is under way: it is on no shard for now."""

    def __init__(self, key: str | bytes, shards: tuple[Shard, Shard]) -> None:
        super().__init__(f"{key!r} moves from {shards[0].name} to {shards[1].name}")
        self.shards = shards


class Cluster:
    """All shards of one site. One per process, shared by its threads, usable after a fork."""

    def __init__(self, path: str | Path, prefer_replica: bool = False, **options: Any) -> None:
        """Read the file; ConfigurationError says what is wrong with it.

        With `prefer_replica`, reads go to a replica while one follows its master: they survive the loss of the
        master without a miss, and may return a value that was just replaced. Further options are redis-py's for
        its connections.
        """
        self._path = Path(path)
        self._prefer_replica = prefer_replica
        self._options = options
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._access: Access | None = None
        self._addresses: tuple[Address, ...] = ()
        self._connector: Connector
        self._sentinels: Sentinels | None = None
        self.shards: dict[str, Shard] = {}
        """Shards of the ring, and while it is changed those of both rings."""
        self._findable: dict[str, Shard] = {}
        """These, and the ones that the last change took away: a call that began before it ends with them."""
        self._seen = self._signature()
        self._answers = Answers(lambda: [shard.master for shard in list(self.shards.values())])
        self._apply(load(self._path))

    # The file

    def refresh(self) -> None:
        """See to it that file and masters are the ones of this moment. To be called before each operation."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look(now)
        sentinels = self._sentinels
        if sentinels is not None and now - sentinels.heard > LEASE_SECONDS:
            sentinels.lease(now)

    def _look(self, now: float) -> None:
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it
        try:
            self._look_at = now + LOOK_SECONDS
            seen = self._signature()
            if seen != self._seen:
                # Also where it is wrong: one complaint about each version is enough.
                self._seen = seen
                self._apply(load(self._path))
                logger.info("%s changed, the ring is %s now", self._path, self.ring.fingerprint)
            if self._sentinels:
                self._sentinels.wanted(now)
            self._answers.wanted(now)
        except ConfigurationError as exc:
            logger.error("%s; the ring stays as it is", exc)
        finally:
            self._lock.release()

    def _signature(self) -> list[tuple[int, ...]]:
        """Return what changes when a file is written: the configuration's own, and that of the authority."""
        signature: list[tuple[int, ...]] = []
        for path in (self._path, self._access and self._access.ca):
            if path:
                try:
                    status = os.stat(path)
                    signature.append((status.st_ino, status.st_mtime_ns, status.st_size))
                except OSError:
                    signature.append(())
        return signature

    def _apply(self, configuration: Configuration) -> None:
        """Use what the file says. Shards that it had before keep what they know."""
        connector, sentinels = self._connect(configuration)
        shards: dict[str, Shard] = {}
        for name, servers in configuration.shards.items():
            shard = self.shards.get(name)
            if shard is None:
                shard = Shard(name, servers, connector, sentinels, self._prefer_replica)
            else:
                shard.change(servers, connector, sentinels)
            shards[name] = shard
        gone = [shard for name, shard in self.shards.items() if name not in shards]
        following = configuration.next
        self._findable = {**self.shards, **shards}
        self._current: Layout = configuration.current
        self._next: Ring | None = following.ring if following else None
        self.shards = shards
        for shard in gone:
            shard.close()

    def _connect(self, configuration: Configuration) -> tuple[Connector, Sentinels | None]:
        if configuration.access != self._access:
            self._access = configuration.access
            self._connector = Connector(configuration.access, self._options)
            self._addresses = ()
            # Only the authority is new here: the file itself may have been replaced since it was read.
            self._seen[1:] = self._signature()[1:]
        if configuration.sentinels != self._addresses:
            if self._sentinels:
                self._sentinels.close()
            self._addresses = configuration.sentinels
            self._sentinels = (
                Sentinels(configuration.sentinels, self._connector, self._masters, self._doubt)
                if configuration.sentinels
                else None
            )
        return self._connector, self._sentinels

    def _masters(self) -> dict[str, Address]:
        return {name: shard.master.address for name, shard in self.shards.items() if shard.master.address}

    def _doubt(self, name: str, reason: str, heir: Address | None = None) -> None:
        # The sentinels know shards that this process does not use.
        shard = self.shards.get(name)
        if shard and (shard.master.address or shard.master.begins):
            shard.doubt(reason, heir)

    # The ring

    @property
    def ring(self) -> Ring:
        """The ring that is in use; while it is changed, the one that was."""
        return self._current.ring

    def shard_of(self, key: str | bytes) -> Shard:
        """Return the shard that owns the key; raise Moving while the key changes its owner."""
        name = self._current.ring.locate(key)
        following = self._next
        if following is not None and (later := following.locate(key)) != name:
            raise Moving(key, (self._findable[name], self._findable[later]))
        return self._findable[name]

    def forget(self, keys: Iterable[str]) -> None:
        """Delete keys that change their owner from both of their shards."""
        owned: dict[str, list[str]] = {}
        following = self._next
        for key in keys:
            names = {self._current.ring.locate(key)}
            if following is not None:
                names.add(following.locate(key))
            for name in names:
                owned.setdefault(name, []).append(key)
        self.exchange({name: [("UNLINK", *group)] for name, group in owned.items()}, owned)

    # Many shards at once

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
        shards = self._findable
        if forget is None:
            return self._exchange(shards, batches, None)
        turns = {name: shards[name].writes(forget[name]) for name in batches}
        try:
            return self._exchange(shards, batches, forget)
        finally:
            for name, turn in turns.items():
                shards[name].has_written(turn)

    @staticmethod
    def _exchange(
        shards: Mapping[str, Shard],
        batches: Mapping[str, Sequence[Command]],
        forget: Mapping[str, Sequence[str]] | None,
    ) -> tuple[dict[str, list[Any]], dict[str, BaseException | None]]:
        replies: dict[str, list[Any]] = {}
        failures: dict[str, BaseException | None] = {}
        again = _Round(shards, forget is not None).run(batches, replies, failures)
        if again:
            _Round(shards, forget is not None, last=True).run(
                {name: batches[name] for name in again}, replies, failures
            )
        for name, error in failures.items():
            if error:
                shards[name].failed(error)
            if forget is not None:
                shards[name].dropped(*forget[name])
        if forget is not None:
            for name, results in replies.items():
                refusal = next((reply for reply in results if isinstance(reply, redis.ResponseError)), None)
                if refusal is not None and is_refusal(refusal):
                    shards[name].lost(forget[name], refusal)
        return replies, failures

    # A process and its children

    def reset_after_fork(self) -> None:
        # Another thread of the parent may have held the lock; it does not exist here.
        self._lock = threading.Lock()
        self._look_at = 0.0
        if self._sentinels:
            self._sentinels.reset_after_fork()
        self._answers.reset_after_fork()
        for shard in self.shards.values():
            shard.reset_after_fork()

    def settle(self) -> None:
        """Forget what has to be forgotten, as far as that is possible in short time: the process ends."""
        owing = [shard for shard in self.shards.values() if shard.master.debt]
        if owing:
            until = time.monotonic() + SETTLE_SECONDS
            if left := [shard.name for shard in owing if not shard.settle(until)]:
                logger.error("%s may return with old values: writes to them were lost", ", ".join(left))
        self._answers.close()


class _Round:
    """One exchange with several shards."""

    def __init__(self, shards: Mapping[str, Shard], write: bool, last: bool = False) -> None:
        self._shards = shards
        self._write = write
        self._last = last

    def run(
        self,
        batches: Mapping[str, Sequence[Command]],
        replies: dict[str, list[Any]],
        failures: dict[str, BaseException | None],
    ) -> list[str]:
        """Note the replies, and the errors of the others; return those of them that are worth another try."""
        again: list[str] = []
        sent: list[tuple[str, Pool, Any, int]] = []
        silent = False
        started = metrics.clock() if metrics.listeners else 0.0

        def failed(name: str, pool: Pool, error: BaseException) -> None:
            failures[name] = error
            if self._shards[name].may_try_again(pool, error, not self._last):
                again.append(name)

        try:
            for name, commands in batches.items():
                pool = self._shards[name].route(self._write)
                if pool is None:
                    failures[name] = None
                    continue
                try:
                    connection = pool.get_connection()
                except UNREACHABLE as exc:
                    failed(name, pool, exc)
                    continue
                # From here on the connection is given back below, whatever happens.
                sent.append((name, pool, connection, len(commands)))
                try:
                    connection.send_packed_command((pack(commands),), check_health=False)
                except UNREACHABLE as exc:
                    sent.pop()
                    failed(name, pool, exc)
            while sent:
                name, pool, connection, count = sent[-1]
                try:
                    # The servers work at the same time: who is silent when another one's time is up has had
                    # its 250 ms, too.
                    if silent and not connection.can_read(0):
                        raise redis.TimeoutError("Timeout reading from socket")
                    results = [read(connection) for _ in range(count)]
                    self._shards[name].confirm(pool, connection)
                except UNREACHABLE as exc:
                    silent = silent or isinstance(exc, redis.TimeoutError)
                    sent.pop()
                    connection.disconnect()
                    failed(name, pool, exc)
                else:
                    sent.pop()
                    replies[name] = results
                    pool.release(connection)
                    failures.pop(name, None)
                    self._shards[name].answered(pool)
                    if metrics.listeners:
                        metrics.observe(name, "call", metrics.clock() - started)
        finally:
            # Only after an exception that is none of ours: replies that nobody read must not meet the
            # next command on the same connection.
            for _, _, connection, _ in sent:
                connection.disconnect()
        return again


class _Clusters:
    """This process's clusters, one for each configuration file and set of options."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Cluster] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork)
        atexit.register(self._settle)

    def get(self, path: str, options: Mapping[str, Any]) -> Cluster:
        identity = (path, repr(sorted(options.items())))
        cluster = self._made.get(identity)
        if cluster is None:
            with self._lock:
                cluster = self._made.get(identity)
                if cluster is None:
                    cluster = self._made[identity] = Cluster(path, **options)
        return cluster

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        for cluster in self._made.values():
            cluster.reset_after_fork()

    def _settle(self) -> None:
        for cluster in self._made.values():
            cluster.settle()


_clusters = _Clusters()


def shared_cluster(path: str, options: Mapping[str, Any]) -> Cluster:
    """Return the cluster of a configuration file. It is shared, since Django makes a cache object per thread."""
    return _clusters.get(path, options)

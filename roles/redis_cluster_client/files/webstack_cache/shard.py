# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One shard: its master, perhaps a replica for reads, and what has to be forgotten there."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import redis

from . import metrics
from .breaker import CLOSED, OPEN, Breaker
from .configuration import Address
from .connections import UNREACHABLE, Connector, Pool, ask, is_refusal, is_worth_repeating, pack
from .roll import PATIENCE_SECONDS, Answer, Roll
from .sentinels import LEASE_SECONDS, Sentinels

logger = logging.getLogger("webstack_cache")

# Keys of lost writes that a process remembers for each shard; beyond that it empties the shard.
KEYS_TO_REMEMBER = 10_000
# A new master may lack what the old one took last, since replication is asynchronous. Keys written that shortly before
# the change, or before the old one answered for the last time, are deleted there.
LATELY_SECONDS = 2.0
LAG_SECONDS = 0.5
CALLS_TO_REMEMBER = 4096
# How long reads wait after a change of the master at least, for processes that could not get on the roll any more.
CHANGE_SECONDS = 0.2
# How long after the news of a new master a lost write is told to it directly.
NEWS_SECONDS = 1.0
# How long one look waits for a server that was told to be the master. The next look comes at once while it is news.
PROMOTION_SECONDS = 0.1
# How long a replica is read on after it lost its master, or became the master itself, before a sentinel says so.
ORPHAN_SECONDS = 10.0

_DELETE_AT_ONCE = 1000


class ShardUnavailable(redis.ConnectionError):
    """A shard did not answer, and the caller asked to be told (`ignore_errors: False`)."""


class Debt:
    """Keys that have to be deleted on a shard before it may be read. What is being paid is owed until it is done."""

    def __init__(self) -> None:
        # With the number of the addition, so that what is owed anew during a payment stays owed.
        self._keys: dict[Any, int] = {}
        self._all = 0
        self._additions = 0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._all or self._keys)

    def reset_after_fork(self) -> None:
        # A child owes what its parent owes.
        self._lock = threading.Lock()

    def add(self, keys: Iterable[Any], everything: bool = False) -> None:
        with self._lock:
            self._additions += 1
            self._keys.update(dict.fromkeys(keys, self._additions))
            if everything or self._all or len(self._keys) > KEYS_TO_REMEMBER:
                self._all, self._keys = self._additions, {}

    def remit(self) -> None:
        """Owe nothing any more."""
        with self._lock:
            self._keys, self._all = {}, 0

    def pay(self, pool: Pool) -> None:
        """Delete the keys; what could not be deleted is owed still. Several threads may do so at the same time."""
        with self._lock:
            keys, everything = dict(self._keys), self._all
        if everything:
            ask(pool, ("FLUSHDB", "ASYNC"))
            with self._lock:
                if self._all == everything:
                    self._all = 0
        left = list(keys)
        while left:
            paid, left = left[:_DELETE_AT_ONCE], left[_DELETE_AT_ONCE:]
            ask(pool, ("UNLINK", *paid))
            with self._lock:
                for key in paid:
                    if self._keys.get(key) == keys[key]:
                        del self._keys[key]


class Server(Breaker):
    """A server of a shard that is in use, the pool of connections to it, and the breaker before it."""

    def __init__(self, name: str, shard: Shard, state: int = CLOSED) -> None:
        super().__init__(name, shard.name, state)
        self.shard = shard
        self.address: Address | None = None
        """Where it was found last."""

    def find(self) -> Address:
        raise NotImplementedError

    @cached_property
    def pool(self) -> Pool:
        return Pool(self.shard.connector, self.find)

    @property
    def has_pool(self) -> bool:
        return "pool" in self.__dict__

    def opened(self) -> None:
        # Not only the idle connections: a thread may be about to take one.
        self.pool.block()

    def settled(self) -> None:
        if self.address:
            # No connection from before, even to the same server: after an outage they may be half dead.
            self.pool.move(self.address)


class Master(Server):
    """The server that takes the writes, whichever that is now."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(f"shard {shard.name}", shard)
        self.debt = Debt()
        self.roll = Roll(shard.name, self.owes_nothing_since)
        self.writing: dict[object, float] = {}
        """Writes that are under way, and when they began."""
        self.sought: Address | None = None
        """The server that is being looked at."""
        self.begins = False
        self._looked = time.monotonic()
        self.lately: deque[tuple[float, Sequence[Any]]] = deque(maxlen=CALLS_TO_REMEMBER)
        self._answered = 0.0
        self._pause: float | None = None
        self._heir: tuple[Address | None, float] = (None, 0.0)
        self._heir_lock = threading.Lock()
        self._telling = False
        self._warned = False

    def reset_after_fork(self) -> None:
        super().reset_after_fork()
        self._heir_lock = threading.Lock()
        self._telling = False
        self.roll.reset_after_fork()
        self.writing = {}

    def find(self) -> Address:
        """Return where the master is, for the first call of a process. It may have taken over a moment ago."""
        # From here on news concern it, although it has no address yet.
        self.begins = True
        self.address = address = self._find()
        with Pool.to(address, self.shard.connector) as pool:
            if self._begin(pool):
                self.open("has just taken over")
        return address

    def _begin(self, pool: Pool) -> bool:
        """Get on the roll of a server that this process has not used yet; tell whether others still wait there."""
        answer = self._answer(pool, 0)
        waits = answer is not None and not answer.settled
        if waits:
            self._pause = CHANGE_SECONDS
        return waits

    def _find(self) -> Address:
        sentinels = self.shard.sentinels
        return sentinels.master_of(self.shard.name) if sentinels else self.shard.servers[0]

    def recover(self) -> float | None:
        """Find the master, and delete on it whatever this process failed to write."""
        looked = time.monotonic()
        try:
            self.sought = address = self._find()
            if self.address is not None and self.address != address:
                self._pause = CHANGE_SECONDS
                self._owe_what_was_written_lately()
            with Pool.to(address, self.shard.connector) as pool:
                self._see_that_it_is_the_master(pool, address)
                self.debt.pay(pool)
                if self.address is None:
                    self._begin(pool)
            self.address = address
        finally:
            # The address that is in use stays until there is another: news of that one are news until then.
            self.sought = None
            self._looked = looked
        return self._pause

    def period(self) -> float:
        return PROMOTION_SECONDS if self._heir_in_the_news() else super().period()

    # The roll: see roll.py

    def owes_nothing_since(self, moment: float) -> bool:
        return not self.debt and all(began > moment for began in list(self.writing.values()))

    def answer(self) -> None:
        """Answer on the roll, if the master is in use. A failure means nothing: this is not a call."""
        if self._state == CLOSED and self.address is not None and self.has_pool:
            with contextlib.suppress(redis.RedisError, OSError):
                self._answer(self.pool)

    def _answer(self, pool: Pool, mark: int | None = None) -> Answer | None:
        try:
            return self.roll.answer(pool, mark)
        except redis.ResponseError as exc:
            self._has_no_roll(exc)
            return None

    def _has_no_roll(self, error: redis.ResponseError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s keeps no roll (%s): old values may be read after an outage", self._name, error)

    def leave(self) -> None:
        """Get off the roll: nobody calls any more."""
        if self._state != CLOSED or not self.has_pool:
            return
        late = time.monotonic() - LATELY_SECONDS
        for _ in range(2):  # who stays there by mistake costs others a shard's values
            with contextlib.suppress(redis.RedisError, OSError):
                self.roll.leave(self.pool, any(moment > late for moment, _ in list(self.lately)))
                return

    def wait_to_be_read(self, pause: float) -> None:
        if not pause:  # a hiccup
            return
        try:
            self.roll.call(self.pool, pause, self._is_called_off)
        except redis.ResponseError as exc:
            self._has_no_roll(exc)
            super().wait_to_be_read(pause)

    def _is_called_off(self, seconds: float) -> bool:
        if self._wake.wait(seconds) and not self._again:
            self._wake.clear()
        if self.debt and not self._again:
            # From a call that was refused while the debt before was being paid.
            self.debt.pay(self.pool)
        return self._again

    def may_be_off_the_roll(self) -> bool:
        """Tell whether others may have gone on without this process: it neither answered nor looked for that long."""
        return time.monotonic() - max(self._looked, self.roll.answered) > PATIENCE_SECONDS

    def _see_that_it_is_the_master(self, pool: Pool, address: Address) -> None:
        """Raise unless the server says so. The news of a promotion comes before it, and it ends all connections."""
        until = time.monotonic() + PROMOTION_SECONDS
        while True:
            try:
                _, role = ask(pool, ("PING",), ("ROLE",))
                if role[0] == b"master":
                    return
                raise redis.ConnectionError(f"{address} is no master")
            except redis.ConnectionError:
                if self._heir_in_the_news() != address or time.monotonic() > until:
                    raise
            time.sleep(PROMOTION_SECONDS / 20)

    def succeeded(self) -> None:
        super().succeeded()
        self._answered = time.monotonic()

    def inherited_by(self, heir: Address) -> None:
        """Take notice of a server that a sentinel calls the master now. Each of them tells it."""
        if self._heir_in_the_news() != heir:
            self._heir = heir, time.monotonic()
            self._owe_what_was_written_lately()
            self.tell_the_heir()

    def tell_the_heir(self) -> None:
        """Forget on a new master at once what must not be read there.

        The look for the master will do so, too. But that may be waiting for an answer of the old one, or of a sentinel
        that is writing to its disk, while other processes read already.
        """
        with self._heir_lock:
            if self._telling or not self._heir_in_the_news():
                return
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                threading.Thread(target=self._tell, name=f"{self._name} heir", daemon=True).start()
                self._telling = True

    def _heir_in_the_news(self) -> Address | None:
        heir, since = self._heir
        return heir if time.monotonic() < since + NEWS_SECONDS else None

    def _tell(self) -> None:
        """Try for as long as it is news: a server may take its time to become the master, and ends connections then."""
        while True:
            with self._heir_lock:
                heir = self._heir_in_the_news()
                if heir is None or not self.debt:
                    self._telling = False
                    return
            try:
                with Pool.to(heir, self.shard.connector) as pool:
                    self._see_that_it_is_the_master(pool, heir)
                    self.debt.pay(pool)
            except (redis.RedisError, OSError):
                time.sleep(PROMOTION_SECONDS / 5)

    def _owe_what_was_written_lately(self) -> None:
        since = min(time.monotonic() - LATELY_SECONDS, self._answered - LAG_SECONDS)
        for moment, keys in list(self.lately):
            if moment >= since:
                self.debt.add(keys, not keys)

    def unfinished(self) -> bool:
        return bool(self.debt)

    def closed(self) -> None:
        self._pause = None
        replica = self.shard.replica
        if replica and replica.address == self.address:
            replica.open("is the master now")


class Replica(Server):
    """The server of a shard that is not its master, for reads that may be a little old."""

    def __init__(self, shard: Shard) -> None:
        # Not before it was looked at: only a server that follows a master is read.
        super().__init__(f"the replica of {shard.name}", shard, OPEN)
        self._follows = False
        self._followed_until = 0.0

    def open(self, reason: str) -> None:
        if self._state == CLOSED and self._follows:
            self._followed_until = time.monotonic()
        super().open(reason)

    def find(self) -> Address:
        problem = "there is none"
        for address in self.shard.servers:
            if address == self.shard.master.address:
                continue
            try:
                with Pool.to(address, self.shard.connector) as pool:
                    if self._may_be_read(address, pool):
                        return address
            except redis.RedisError as exc:
                problem = str(exc)
                continue
            problem = f"{address} follows no master"
        raise redis.ConnectionError(problem)

    def _may_be_read(self, address: Address, pool: Pool) -> bool:
        """Tell whether it follows its master, or did until now.

        One that was master and does not know better has old values only. Not so the one that was read until now: its
        master died, or it was promoted this moment, which ends every connection to it.
        """
        ((role, *state),) = ask(pool, ("ROLE",))
        self._follows = role == b"slave" and state[2] == b"connected"
        return self._follows or (address == self.address and time.monotonic() < self._followed_until + ORPHAN_SECONDS)

    def resumes(self) -> bool:
        """Connect anew to a server that ended the connections, as at its promotion; tell whether it is read on."""
        if self._state != CLOSED or self.address is None:
            return False
        if self._follows:
            self._followed_until = time.monotonic()
        self.pool.drop_idle()
        try:
            return self._may_be_read(self.address, self.pool)
        except redis.RedisError:
            return False

    def recover(self) -> float | None:
        self.address = self.find()
        return 0.0


class Shard:
    """One shard as this process sees it. Making one is cheap; its connections come with the first call."""

    def __init__(
        self,
        name: str,
        servers: tuple[Address, ...],
        connector: Connector,
        sentinels: Sentinels | None,
        prefer_replica: bool = False,
    ) -> None:
        self.name = name
        self.servers = servers
        self.connector = connector
        self.sentinels = sentinels
        self.master = Master(self)
        self.replica = Replica(self) if prefer_replica else None
        self._closed = False

    @cached_property
    def client(self) -> redis.Redis:
        """redis-py's client of the master."""
        return redis.Redis(connection_pool=self.master.pool)

    @property
    def reader(self) -> redis.Redis:
        """redis-py's client of the server that reads go to now."""
        if self.replica and self.replica.allows(False):
            return redis.Redis(connection_pool=self.replica.pool)
        return self.client

    def change(self, servers: tuple[Address, ...], connector: Connector, sentinels: Sentinels | None) -> None:
        """Take other servers or another way to reach them. What is owed to the shard stays owed."""
        self.servers, self.sentinels = servers, sentinels
        moved = self.master.address not in {None, *servers}
        if connector is not self.connector:
            self.connector = connector
            for server in self._servers_in_use():
                server.pool.connector = connector
            moved = self.master.address is not None
        if moved:
            self.doubt("is reached in another way now")
        if self.replica and self.replica.address not in {None, *servers}:
            self.replica.open("is another server now")

    def close(self) -> None:
        """Give up connections and debt: the shard is no part of the ring any more. It returns empty, if ever."""
        self._closed = True
        self.master.debt.remit()
        self._drop_idle()

    def _drop_idle(self) -> None:
        for server in self._servers_in_use():
            server.pool.drop_idle()

    def reset_after_fork(self) -> None:
        self.master.debt.reset_after_fork()
        self.master.reset_after_fork()
        if self.replica:
            self.replica.reset_after_fork()
        self._drop_idle()  # closes the child's copies, and tells the servers nothing

    def _servers_in_use(self) -> list[Server]:
        return [server for server in (self.master, self.replica) if server and server.has_pool]

    # What the calls tell

    def answered(self, pool: Pool) -> None:
        """Say which of its servers answered."""
        if pool is self.master.pool:
            self.master.succeeded()

    def failed(self, error: BaseException) -> None:
        """Say that it did not answer."""
        metrics.observe(self.name, "error")
        self.master.failed(error)

    def writes(self, keys: Sequence[Any]) -> object:
        """Say which keys are about to be written: the last ones are forgotten if a replica takes over.

        Not afterwards: a thread may have no turn between a reply and the note of it.
        """
        turn, now = object(), time.monotonic()
        self.master.lately.append((now, keys))
        self.master.writing[turn] = now
        return turn

    def has_written(self, turn: object) -> None:
        """Say that it was taken, or that what has to be forgotten is noted."""
        self.master.writing.pop(turn, None)

    def dropped(self, *keys: Any) -> None:
        """Say which keys' writes did not reach it, or nobody knows: they are forgotten before it is read again.

        Without a key: all of them.
        """
        if self._closed:
            return
        self.master.debt.add(keys, not keys)
        self.master.tell_the_heir()
        metrics.observe(self.name, "dropped", count=len(keys) or 1)
        if not self.master.is_open:
            self.master.open("lost a write")
        if self.master.may_be_off_the_roll():
            # Its threads had no turn for seconds. Nobody waits for them, so nobody is told of the loss before a look.
            with contextlib.suppress(redis.RedisError, OSError):
                self.master.recover()

    def doubt(self, reason: str, heir: Address | None = None) -> None:
        """Say that its master may be another one, the heir: nobody reads or writes before that is known."""
        if heir is None or heir != self.master.sought:
            self.master.open(reason)
        if heir:
            self.master.inherited_by(heir)

    # Commands

    def route(self, write: bool) -> Pool | None:
        """Return where to send a command, None where nowhere. After an outage writes come before reads."""
        replica = self.replica
        if replica is None:
            return self.master.pool if self.master.allows(write) else None
        if not write and replica.allows(False):
            return replica.pool
        # Whoever prefers replicas puts up with old values: no quarantine.
        return self.master.pool if self.master.allows(True) else None

    def call(self, *command: Any, write: bool, repeat: bool = True, forget: str | None = None) -> Any:
        """Send one command and return its reply as it comes (bytes, int, list or None).

        `forget` names the key whose old value must not be seen again when the write is lost. Without it nothing
        is forgotten: what add() and a lock lose was no value, and the key may be somebody else's by then.

        ShardUnavailable says that there was none; a reply that blames the caller is raised as it is. Everything
        else is done here: the breaker, one repetition (unless the command may not run twice), a replica that
        reads prefer and the way back to the master, and what a lost write leaves to be forgotten.
        """
        packed = pack((command,))
        if forget is None:
            return self._call(packed, write, repeat, None)
        turn = self.writes((forget,))
        try:
            return self._call(packed, write, repeat, forget)
        finally:
            self.has_written(turn)

    def _call(self, packed: bytes, write: bool, repeat: bool, forget: str | None) -> Any:
        error: BaseException | None = None
        tried: list[Pool] = []
        started = metrics.clock() if metrics.listeners else 0.0
        while (pool := self.route(write)) is not None:
            try:
                reply = self._exchange(pool, packed, check=not repeat)
            except (*UNREACHABLE, redis.ResponseError) as exc:
                if not self.serves_not(exc):
                    raise
                error = exc
                if self.may_try_again(pool, exc, repeat and pool not in tried):
                    tried.append(pool)
                    continue
                if isinstance(exc, UNREACHABLE):
                    self.failed(exc)
                break
            self.answered(pool)
            if metrics.listeners:
                metrics.observe(self.name, "call", metrics.clock() - started)
            return reply
        if forget is not None:
            self.lost((forget,), error)
        raise ShardUnavailable(f"shard {self.name} does not answer") from error

    def _exchange(self, pool: Pool, packed: bytes, check: bool) -> Any:
        connection = pool.get_connection()
        try:
            # A command that may not run twice does not go into a connection that the server closed meanwhile.
            if check and _is_closed(connection):
                connection.disconnect()
            connection.send_packed_command((packed,), check_health=False)
            reply = connection.read_response()
            self.confirm(pool, connection)
        except redis.ResponseError:
            pool.release(connection)
            raise
        except BaseException:
            connection.disconnect()
            raise
        pool.release(connection)
        return reply

    def confirm(self, pool: Pool, connection: Any) -> None:
        """Raise unless the server that answered was the one to ask when it did, as far as a sentinel knows by now.

        The caller may not have run since it looked, long enough for another master and the return of this one.
        """
        sentinels = self.sentinels
        if sentinels is not None and (now := time.monotonic()) - sentinels.heard > LEASE_SECONDS:
            sentinels.lease(now)
        if not pool.uses(connection):
            raise redis.ConnectionError("another server may have taken over meanwhile")

    @staticmethod
    def serves_not(error: BaseException) -> bool:
        """Tell whether it is the server's fault, or that of the way to it."""
        return isinstance(error, UNREACHABLE) or is_refusal(error)

    def may_try_again(self, pool: Pool, error: BaseException, repeat: bool) -> bool:
        """Tell whether a command that failed there may be sent again: perhaps to the master if this was the replica."""
        if self.replica and pool is self.replica.pool:
            if not (repeat and is_worth_repeating(error) and self.replica.resumes()):
                self.replica.open(f"does not serve: {error}")
            return True
        pool.drop_idle()  # after a restart none of them works
        return repeat and is_worth_repeating(error)

    def lost(self, keys: Sequence[Any], error: BaseException | None = None) -> None:
        """See to it that keys are forgotten whose write was refused, or did not arrive for all that is known."""
        if isinstance(error, redis.OutOfMemoryError) and keys:
            # A full server still deletes, and it has not failed: nobody need wait.
            with contextlib.suppress(redis.RedisError):
                ask(self.master.pool, ("UNLINK", *keys))
                return
        self.dropped(*keys)

    def settle(self, until: float) -> bool:
        """Try until then to forget what has to be: the process ends. Return whether nothing is left."""
        while self.master.debt and time.monotonic() < until:
            try:
                self.master.recover()
            except (redis.RedisError, OSError):
                time.sleep(0.1)
        return not self.master.debt


def _is_closed(connection: Any) -> bool:
    """Tell whether the server closed an idle connection. Nothing else is there to be read from it."""
    try:
        return bool(connection.can_read(0))
    except UNREACHABLE:
        return True

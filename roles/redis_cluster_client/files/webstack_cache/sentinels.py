# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is master: asked of the sentinels, and heard from them when it changes.

A process that goes on using a master after another one took over reads old values, if the old master is alive: it
was paused and runs again, or the network healed. Sentinel tells the old master seconds later. So each process listens
to every sentinel, and takes a master for the master only while some sentinel was heard in the last moments (a lease).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

import redis
from redis.sentinel import MasterNotFoundError

from .configuration import Address
from .connections import UNREACHABLE, Command, Connector, Pool, ask_each

logger = logging.getLogger("webstack_cache")

PING_SECONDS = 0.25
SILENCE_SECONDS = 0.45
LEASE_SECONDS = 0.75
# How long a call may wait for the first sentinels to be heard.
PATIENCE_SECONDS = 0.25
# How long nobody calls before a process stops listening, and before it looks again for a sentinel that is gone.
IDLE_SECONDS = 30.0
RETRY_SECONDS = 0.5

# How long a promoted server is the master for us before the sentinels call it so. They do within a second. Less than
# the time for which written keys are remembered: what it took in vain can still be deleted from the other one.
UNCONFIRMED_SECONDS = 1.5
# How long the news of those who are there waits for the news of the others.
OTHERS_SECONDS = 0.05

_PROMOTION = "+failover-state-wait-promotion"
_NEWS = ("+switch-master", _PROMOTION, "+sdown", "+odown")


class _Sentinel:
    """One sentinel: when it was heard, and a connection for questions."""

    def __init__(self, address: Address, connector: Connector) -> None:
        self.address = address
        self.heard = 0.0
        self.listening = False
        self.questions = Pool.to(address, connector)

    def ask(self, *commands: Command) -> list[object]:
        """Return the replies, an error reply in its place."""
        try:
            return ask_each(self.questions, *commands)
        except UNREACHABLE:
            # Passed over from now on, until its listener hears from it again.
            self.heard = 0.0
            self.questions.drop_idle()
            raise


class Sentinels:
    """The sentinels of one site. One thread listens to each, so that none that is frozen delays news of another.

    The threads start with the first call, end when nobody called for half a minute, and start again with the next
    call, which waits for them: some milliseconds.
    """

    def __init__(
        self,
        addresses: Iterable[Address],
        connector: Connector,
        masters: Callable[[], Mapping[str, Address]],
        doubt: Callable[[str, str, Address | None], None],
    ) -> None:
        """`masters` says which masters are in use; `doubt` is called with the name of a shard whose master may be
        another one, with what was heard of it, and with the other one where a sentinel named it."""
        self._connector = connector.of_sentinels()
        self._sentinels = [_Sentinel(address, self._connector) for address in addresses]
        self._masters = masters
        self._doubt = doubt
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """No thread of the parent is there in a child, and its locks may be held for ever."""
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._wanted_until = 0.0
        self._alone = False
        self._unconfirmed: dict[tuple[str, Address], float] = {}
        self.heard = 0.0
        for sentinel in self._sentinels:
            sentinel.heard = 0.0
            sentinel.listening = False
            sentinel.questions.drop_idle()

    def close(self) -> None:
        """Stop listening: other sentinels are in charge."""
        self._wanted_until = 0.0

    # What a call needs

    def lease(self, now: float) -> None:
        """See to it that the masters in use are the masters: at once while a sentinel is heard."""
        if now - self.heard > LEASE_SECONDS and not self._alone:
            self._listen()
            self._wait(lambda: self.heard >= now - LEASE_SECONDS)
            # Only the one that leads a fail-over knows of it from the beginning.
            self._wait(lambda: len(self._heard_since(now - LEASE_SECONDS)) == len(self._sentinels), OTHERS_SECONDS)
            # No sentinel at all: the cache goes on with the servers that it has, and does not wait again.
            if self.heard < now - LEASE_SECONDS and not self._alone:
                self._alone = True
                logger.warning("no sentinel answers: a fail-over would not be noticed")

    def wanted(self, now: float) -> None:
        """Say that somebody uses the cache."""
        self._wanted_until = now + IDLE_SECONDS
        self._listen()

    def master_of(self, name: str) -> Address:
        """Return the address of a shard's master; MasterNotFoundError where there is none that could be used.

        All sentinels that are heard are asked, and the one with the newest configuration is right: after a
        fail-over the others follow within a moment. A server that one of them promotes is the master already, if
        it says so itself, which is for the caller to ask: the sentinel finds out up to a second later.
        """
        now = time.monotonic()
        self.wanted(now)
        majority = len(self._sentinels) // 2 + 1
        self._wait(lambda: len(self._heard_since(now - LEASE_SECONDS)) >= majority)
        newest: tuple[int, Address] | None = None
        answers = down = 0
        problem = "no sentinel answers"
        for sentinel in self._heard_since(now - LEASE_SECONDS):
            try:
                reply, replicas = sentinel.ask(("SENTINEL", "MASTER", name), ("SENTINEL", "REPLICAS", name))
            except (redis.RedisError, OSError) as exc:
                problem = str(exc)
                continue
            state = _pairs(reply)
            if not state:  # it does not know the shard
                problem = str(reply)
                continue
            flags = state["flags"].split(",")
            # Without a replica it comes to nothing, however long the sentinels vote about it.
            if "failover_in_progress" in flags and state["num-slaves"] != "0":
                for replica in map(_pairs, replicas if isinstance(replicas, list) else ()):
                    if "promoted" in replica["flags"].split(","):
                        return self._to_be_confirmed(name, _address(replica["ip"], replica["port"]))
                raise MasterNotFoundError(f"a replica of {name} is being promoted")
            answers += 1
            down += "s_down" in flags or "o_down" in flags
            found = int(state["config-epoch"]), Address(state["ip"], int(state["port"]))
            if newest is None or found[0] > newest[0]:
                newest = found
        if newest is None:
            raise MasterNotFoundError(f"no master of {name} is known: {problem}")
        if 2 * down > answers:
            raise MasterNotFoundError(f"the master of {name} is down")
        return newest[1]

    def _heard_since(self, moment: float) -> list[_Sentinel]:
        return [sentinel for sentinel in self._sentinels if sentinel.heard >= moment]

    def _wait(self, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        if not condition() and not self._alone:
            with self._news:
                self._news.wait_for(condition, seconds)

    def _to_be_confirmed(self, name: str, address: Address) -> Address:
        self._unconfirmed.setdefault((name, address), time.monotonic() + UNCONFIRMED_SECONDS)
        return address

    # What the threads do

    def _listen(self) -> None:
        if all(sentinel.listening for sentinel in self._sentinels):
            return
        with self._lock:
            self._wanted_until = max(self._wanted_until, time.monotonic() + IDLE_SECONDS)
            for sentinel in self._sentinels:
                if sentinel.listening:
                    continue
                thread = threading.Thread(
                    target=self._run, args=(sentinel,), name=f"webstack-cache-{sentinel.address}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down
                    return
                sentinel.listening = True

    def _run(self, sentinel: _Sentinel) -> None:
        while True:
            try:
                self._hear(sentinel)
            except (redis.RedisError, OSError) as exc:
                logger.debug("sentinel %s is not heard: %s", sentinel.address, exc)
                self._is_heard(sentinel, 0.0)
                time.sleep(RETRY_SECONDS)
            with self._lock:
                if time.monotonic() >= self._wanted_until:
                    self._is_heard(sentinel, 0.0)
                    sentinel.listening = False
                    return

    def _hear(self, sentinel: _Sentinel) -> None:
        """Listen to one sentinel until it falls silent, which raises, or nobody wants to know."""
        connection = self._connector.make(sentinel.address)
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", *_NEWS, check_health=False)
            for _ in _NEWS:
                connection.read_response()
            # What changes from here on is heard, and what changed before is seen.
            begin = time.monotonic()
            self._compare(sentinel)
            self._is_heard(sentinel, begin)
            asked = 0.0
            while time.monotonic() < self._wanted_until:
                self._doubt_what_nobody_confirms()
                if connection.can_read(PING_SECONDS):
                    message = connection.read_response()
                    if message[0] == b"message":
                        self._tell(message[1].decode(), message[2].decode().split())
                    elif message[0] == b"pong":
                        # Whatever was said before the question was asked has been read by now.
                        self._is_heard(sentinel, asked)
                        asked = 0.0
                elif not asked:
                    asked = time.monotonic()
                    connection.send_command("PING", check_health=False)
                elif time.monotonic() - asked > SILENCE_SECONDS:
                    raise redis.TimeoutError(f"{sentinel.address} does not answer")
        finally:
            connection.disconnect()

    def _is_heard(self, sentinel: _Sentinel, moment: float) -> None:
        """Note when the sentinel was heard last; 0 says that it is not heard any more."""
        with self._news:
            sentinel.heard = moment
            self.heard = max(each.heard for each in self._sentinels)
            if self.heard:
                self._alone = False
            self._news.notify_all()

    def _compare(self, sentinel: _Sentinel) -> None:
        """Look whether the masters in use are the ones that this sentinel knows: there may have been news unheard."""
        masters = self._masters()
        if not masters:
            sentinel.ask(("PING",))
            return
        replies = sentinel.ask(*[("SENTINEL", "MASTER", name) for name in masters])
        for (name, address), reply in zip(masters.items(), replies, strict=True):
            state = _pairs(reply)
            other = _address(state["ip"], state["port"]) if state else None
            if "failover_in_progress" in state.get("flags", ""):
                self._doubt(name, f"is replaced by {sentinel.address}", None)
            elif other != address and (name, address) not in self._unconfirmed:
                self._doubt(name, f"{sentinel.address} knows another master", other)

    def _tell(self, event: str, words: list[str]) -> None:
        # Each sentinel tells each event, some of them late. What is known already restarts nothing.
        if event == "+switch-master":
            name, _, _, *after = words
            heir = _address(*after)
            self._unconfirmed.pop((name, heir), None)
            if self._masters().get(name) != heir:
                self._doubt(name, f"{heir} took over", heir)
        elif event == _PROMOTION:
            _, _, *after, _, name, _, _ = words
            heir = _address(*after)
            if self._masters().get(name) != heir:
                self._doubt(name, f"{heir} is promoted", heir)
        elif words[0] == "master" and self._masters().get(words[1]) == _address(*words[2:4]):
            self._doubt(words[1], "is down for a sentinel", None)

    def _doubt_what_nobody_confirms(self) -> None:
        """Look again for a master that was promoted, if the sentinel that did so fell silent before it told all."""
        for (name, address), until in list(self._unconfirmed.items()):
            # Several threads look, one of them takes it out.
            late = time.monotonic() > until and self._unconfirmed.pop((name, address), 0.0)
            if late and self._masters().get(name) == address:
                self._doubt(name, f"{address} was promoted, and no sentinel says that it is the master", None)


def _address(host: str | bytes, port: str | bytes) -> Address:
    return Address(host.decode() if isinstance(host, bytes) else host, int(port))


def _pairs(reply: object) -> dict[str, str]:
    words = [word.decode() for word in reply] if isinstance(reply, list) else []
    return dict(zip(words[::2], words[1::2], strict=True))

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who uses a shard: nobody reads it after an outage before all who do have said that they owe it nothing.

What a lost write was to replace, and what a promoted replica lacks, is known to the process that wrote it and to nobody
else. Waiting for some time gives that process the chance to delete it, and is in vain where it does not run meanwhile:
the machine may be busy. So each process stands on a roll on the shard itself, which is replicated like all data, and
answers there twice a second. Who takes a server into use calls the roll, and reads once all have answered after that;
whom it hears nothing of may have known of old values, so then the shard is emptied.

An answer holds for a moment on one server, never for a time on a clock. The server counts the calls. A process that
read the number n from it, and after that saw that it owes nothing and that no write from before is under way, says so
with n; whoever called as number n or earlier has waited for exactly that. A new master counts on under a name of its
own (Redis' replication id), so that an answer to the old one, perhaps still on its way, counts for nothing.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import redis

from . import sentinels
from .connections import Pool, ask

logger = logging.getLogger("webstack_cache")

ANSWER_SECONDS = 0.5
# How often who calls the roll looks for answers, more and more seldom.
POLL_SECONDS = (0.02, 0.2)
# The more there are, the more seldom each of them looks: a look costs the server time for each.
_POLL_SECONDS_EACH = 0.0005
# How long a call waits for the others. Those who know of no trouble take two of their answers.
PATIENCE_SECONDS = 2.5

# Apart from the data: clearing a cache leaves it, and no count or walk meets it.
DATABASE = 15
KEY = "webstack_cache:roll"
# Who missed so many answers of each of the others was killed. Far more than during a call.
_MISSED = 60

# Only commands that count as no reads, as long as nobody waits: the share of hits is the applications'.
_ANSWER = """#!lua flags=allow-oom
local roll, me, mark = KEYS[1], 'p' .. ARGV[3], tonumber(ARGV[6])
local era = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
redis.call('SELECT', ARGV[1])
if redis.call('HSETNX', roll, 'birth', ARGV[2]) == 1 then redis.call('HSET', roll, 'settled', era) end
local birth = redis.call('HINCRBY', roll, 'birth', 0)
local count = redis.call('HINCRBY', roll, 'count', 1)
redis.call('HSET', roll, me, string.format('%.0f:%s', count, ARGV[4] == era and ARGV[5] or '0'))
local missing, settled, size = 0, 0, 0
if mark or count % 16 == 0 then
  local fields = redis.call('HGETALL', roll)
  size = #fields / 2
  local long_ago = count - size * tonumber(ARGV[8])
  for i = 1, #fields, 2 do
    if fields[i] == 'settled' and fields[i + 1] == era then settled = 1 end
    local last, owes_nothing = string.match(fields[i + 1], '^(%d+):(%d+)$')
    if last then
      if mark and tonumber(owes_nothing) < mark then missing = missing + 1 end
      if not mark and tonumber(last) < long_ago then redis.call('HDEL', roll, fields[i]) end
    end
  end
end
if mark and missing == 0 and ARGV[7] == '1' then redis.call('HSET', roll, 'settled', era) end
return {era, birth, count, missing, settled, size}
"""
_EMPTY = """#!lua flags=allow-oom
local roll, mark = KEYS[1], tonumber(ARGV[2])
local info = redis.call('INFO', 'replication')
local era = string.match(info, 'master_replid:(%x+)')
local silent = {}
redis.call('SELECT', ARGV[1])
local fields = redis.call('HGETALL', roll)
local lost = ARGV[3] == 'lost'
for i = 1, #fields, 2 do
  local owes_nothing = string.match(fields[i + 1], '^%d+:(%d+)$')
  if owes_nothing and tonumber(owes_nothing) < mark and fields[i] ~= 'p' .. ARGV[4] then
    silent[#silent + 1] = fields[i]
  end
  if fields[i] == 'emptied' then lost = false end
end
if #silent == 0 and not lost then return 0 end
redis.call('SELECT', ARGV[5])
redis.call('FLUSHDB', 'ASYNC')
redis.call('SELECT', ARGV[1])
for _, member in ipairs(silent) do redis.call('HDEL', roll, member) end
redis.call('HSET', roll, 'settled', era, 'emptied', 1)
return 1
"""
_COPY_MILLISECONDS = 100
_LEAVE = "redis.call('SELECT', ARGV[1]) return redis.call('HDEL', KEYS[1], 'p' .. ARGV[2])"


class Answer:
    """What a server said when this process answered."""

    def __init__(self, reply: list[Any]) -> None:
        self.era: bytes = reply[0]
        self.birth, self.count, self.missing, settled, self.size = map(int, reply[1:])
        self.settled = bool(settled)
        self.moment = time.monotonic()


class Roll:
    """This process on the roll of one shard."""

    def __init__(self, shard: str, owes_nothing_since: Callable[[float], bool]) -> None:
        """`owes_nothing_since` tells whether the process owes the shard nothing, and no write is under way that began
        before the moment."""
        self._shard = shard
        self._owes_nothing_since = owes_nothing_since
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """A child is another process."""
        self._name = secrets.token_hex(8)
        self._seen: Answer | None = None
        self._lost = False

    @property
    def answered(self) -> float:
        """When the process answered last; 0 if it is on no roll."""
        return self._seen.moment if self._seen else 0.0

    def answer(self, pool: Pool, mark: int | None = None, close: bool = False) -> Answer:
        """Answer, truly. With a mark: count who has not, since the server had counted that far."""
        seen = self._seen
        truly = seen is not None and self._owes_nothing_since(seen.moment)
        words = (
            *("EVAL", _ANSWER, 1, _key(pool), DATABASE, secrets.randbits(48), self._name),
            *((seen.era, seen.count) if seen and truly else ("", 0)),
            *("" if mark is None else mark, int(close), _MISSED),
        )
        (reply,) = ask(pool, words)
        if not isinstance(reply, list):
            raise redis.ResponseError(f"no answer to a script: {reply!r}")
        answer = Answer(reply)
        # Evicted, or deleted by somebody: who was on it besides is not known any more.
        self._lost = self._lost or (seen is not None and seen.birth != answer.birth)
        if mark is None:
            self._lost = False
        self._seen = answer
        return answer

    def call(self, pool: Pool, pause: float, wait: Callable[[float], bool]) -> None:
        """Wait until all have answered, and for the pause at least. `wait` returns True where it is all in vain."""
        started = time.monotonic()
        mark: Answer | None = None
        step = POLL_SECONDS[0]
        while True:
            past = time.monotonic() - started
            answer = self.answer(pool, mark.count if mark else 0, mark is not None and past >= pause)
            if mark is None or mark.era != answer.era:
                mark = answer
            elif not answer.missing and not self._lost and past >= pause:
                return
            elif past > PATIENCE_SECONDS or (self._lost and past >= pause):
                self._empty(pool, mark.count)
                return
            step = max(step, answer.size * _POLL_SECONDS_EACH)
            if wait(min(step, max(pause - past, POLL_SECONDS[0]))):
                return
            step = min(1.5 * step, POLL_SECONDS[1])

    def _empty(self, pool: Pool, mark: int) -> None:
        why = "lost" if self._lost else ""
        (emptied,) = ask(
            pool, ("EVAL", _EMPTY, 1, _key(pool), DATABASE, mark, why, self._name, pool.connector.database)
        )
        self._lost = False
        if emptied:
            logger.warning("shard %s is emptied: a process that may know of old values there is silent", self._shard)

    def leave(self, pool: Pool, wrote_lately: bool) -> None:
        """Stand on the roll no longer, if there is nothing that others must wait for."""
        if not self._seen or not self._owes_nothing_since(time.monotonic()):
            return
        words = ("EVAL", _LEAVE, 1, _key(pool), DATABASE, self._name)
        if wrote_lately and ask(pool, ("ROLE",))[0][2]:
            # What no replica has yet only this process knows of. It stands there again if none takes it in time.
            _, copies = ask(pool, words, ("WAIT", 1, _COPY_MILLISECONDS))
            if not copies:
                self.answer(pool)
                return
        else:
            ask(pool, words)
        self._seen = None


def _key(pool: Pool) -> str:
    return f"{KEY}:{pool.connector.database}"


class Member(Protocol):
    """A shard whose roll the process stands on."""

    def answer(self) -> None: ...

    def leave(self) -> None: ...


class Answers:
    """Answers for all shards in use, for as long as somebody calls."""

    def __init__(self, members: Callable[[], Iterable[Member]]) -> None:
        self._members = members
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._running = False
        self._closed = False
        self._answered = 0.0
        self._ends_with: object = None
        self._wanted_until = 0.0

    def wanted(self, now: float) -> None:
        """Say that somebody uses the cache. The first time, and the first time after a while, it answers at once.

        A process that was stopped may have been struck off.
        """
        self._wanted_until = now + sentinels.IDLE_SECONDS
        if self._closed or (self._running and now - self._answered < PATIENCE_SECONDS):
            return
        with self._lock:
            self._answer()
            if self._running:
                return
            if self._ends_with is None and "multiprocessing.util" in sys.modules:
                # The children that it makes end without the functions of atexit.
                self._ends_with = sys.modules["multiprocessing.util"].Finalize(None, self.close, exitpriority=1)
            try:
                threading.Thread(target=self._run, name="webstack-cache roll", daemon=True).start()
            except RuntimeError:  # the interpreter is shutting down
                return
            self._running = True

    def close(self) -> None:
        """Answer no more: the process ends. Where it owes something it stays on the roll."""
        with self._lock:
            self._closed = True
            self._leave()

    def _run(self) -> None:
        while True:
            time.sleep(ANSWER_SECONDS)
            with self._lock:
                if self._closed:
                    return
                if time.monotonic() >= self._wanted_until:
                    self._running = False
                    self._leave()
                    return
                self._answer()

    def _answer(self) -> None:
        self._answered = time.monotonic()
        for member in self._members():
            member.answer()

    def _leave(self) -> None:
        for member in self._members():
            member.leave()

"""Load on the sharded cache that knows what every read must return, or more: run it while servers fail.

Each process writes its own keys, a version higher each time, and reads everybody's, and some that nobody changes.
Versions stand in memory that the processes share: a read that returns an older one than was written before the read
began is stale. The last process sleeps for seconds at a time, as a worker of a quiet site does, and then reads
everything.

    PYTHONPATH=/opt/webstack/python python cache_load.py --seconds 10 --processes 4

SIGTERM ends it early. Prints `ready` once every process works, and at the end one line of JSON:

    calls, errors           calls to the cache; exceptions (the first ones, as text), 0 expected
    stale                   reads that were older than the last write that the cache had said to be done, 0 expected
    overtaken               reads that were older than the last write at all, done or lost, 0 expected
    stale_reads             the first of both, each [seconds, process, key, version read, version written, kind]
    longest_call, stalled   seconds: the longest call, and all calls over 100 ms of one process together, at the worst
    shards                  for each, in seconds, at the worst process: `misses`, the longest time from a miss until the
                            next hit, of the keys that nobody changes; `forgotten`, the same of the others, which
                            a new master may not keep; and `unwritten`, the longest without a write; `median` and
                            `p95` of the calls to it; and how many `hits` and `reads`
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import signal
import sys
import time
import uuid
from collections import defaultdict
from ctypes import c_bool, c_uint64
from typing import Any

from django.conf import settings

settings.configure()

import django  # noqa: E402

django.setup()

from webstack_cache import RingCache  # noqa: E402
from webstack_cache.shard import LATELY_SECONDS  # noqa: E402

KEYS = 600
# The others are written before it begins and where they are missing, as most of what a cache holds.
WRITTEN = 300
MANY = 30
# Some on every shard.
LAST = 60
NOTED = 20
# What takes less may have waited for a processor of a crowded machine; the cache waits for 250 ms or not at all.
STALL = 0.1
SLEEPS = (1.0, 4.0)


class Worker:
    """What one process does, and what it saw."""

    def __init__(
        self, number: int, arguments: argparse.Namespace, cache: Any, written: Any, done: Any, *, stop: Any
    ) -> None:
        self._number = number
        self._arguments = arguments
        self._cache = cache
        # By key: the last version that anybody tried to write, and the last that the cache took.
        self._written = written
        self._done = done
        self._stop = stop
        self._started = self._end = 0.0
        self.calls = self.stale = self.overtaken = self.errors = 0
        self.longest = self.stalled = 0.0
        self.noted: list[Any] = []
        self.said: list[str] = []
        self.shards: dict[str, Series] = defaultdict(Series)

    def run(self) -> dict[str, Any]:
        self._started = time.monotonic()
        self._end = self._started + self._arguments.seconds
        sleepy = self._arguments.processes > 2 and self._number == self._arguments.processes - 1
        randomly = random.Random(self._number)
        mine = range(self._number, WRITTEN, self._arguments.processes)
        turn = 0
        while time.monotonic() < self._end and not self._stop.value:
            turn += 1
            if sleepy:
                time.sleep(min(randomly.uniform(*SLEEPS), max(0.0, self._end - time.monotonic())))
                for number in range(KEYS):
                    self._read(number)
                continue
            self._write(randomly.choice(mine))
            self._read(randomly.randrange(KEYS))
            self._read(randomly.randrange(KEYS))
            if turn % 10 == 0:
                self._read_many(randomly.sample(range(KEYS), MANY))
            time.sleep(self._arguments.pause)
        for series in self.shards.values():
            series.close(self._started, min(self._end, time.monotonic()), sleepy)
        return {
            "calls": self.calls,
            "errors": self.errors,
            "said": self.said,
            "stale": self.stale,
            "overtaken": self.overtaken,
            "stale_reads": self.noted,
            "longest_call": self.longest,
            "stalled": self.stalled,
            "shards": {name: vars(series) for name, series in self.shards.items()},
        }

    def _call(self, shard: str | None, operation: Any, *arguments: Any) -> Any:
        self.calls += 1
        begin = time.monotonic()
        try:
            return operation(*arguments)
        except Exception as exc:
            self.errors += 1
            if len(self.said) < NOTED:
                self.said.append(repr(exc))
            return None
        finally:
            seconds = time.monotonic() - begin
            self.longest = max(self.longest, seconds)
            if seconds > STALL:
                self.stalled += seconds
            if shard:
                self.shards[shard].times.append(seconds)

    def _write(self, number: int) -> None:
        key = name(number)
        shard = self._cache.locate(key)
        version = self._written[number] + 1
        lost = self._call(shard, self._cache.set_many, {key: version})
        self._written[number] = version
        if lost == []:
            self._done[number] = version
            self.shards[shard].wrote.append(time.monotonic())

    def _read(self, number: int) -> None:
        key = name(number)
        shard = self._cache.locate(key)
        done, written = self._done[number], self._written[number]
        version = self._call(shard, self._cache.get, key)
        self._judge(number, shard, version, done, written)

    def _read_many(self, numbers: list[int]) -> None:
        before = {number: (self._done[number], self._written[number]) for number in numbers}
        found = self._call(None, self._cache.get_many, [name(number) for number in numbers]) or {}
        for number in numbers:
            self._judge(number, self._cache.locate(name(number)), found.get(name(number)), *before[number])

    def _judge(self, number: int, shard: str, version: int | None, done: int, written: int) -> None:
        series = self.shards[shard]
        now = time.monotonic()
        series.note(now, version is not None, number >= WRITTEN)
        if version is None:
            if number >= WRITTEN:
                self._call(shard, self._cache.add, name(number), written)
            return
        if version >= written:
            return
        kind = "stale" if version < done else "overtaken"
        self.stale += kind == "stale"
        self.overtaken += kind == "overtaken"
        if len(self.noted) < NOTED:
            self.noted.append([round(now - self._started, 3), self._number, name(number), version, written, kind])


class Series:
    """What one process saw of one shard."""

    def __init__(self) -> None:
        self.reads = self.hits = 0
        self.misses = self.forgotten = self.unwritten = 0.0
        # For each kind of key.
        self._missed_since: dict[bool, float] = {}
        self.wrote: list[float] = []
        self.times: list[float] = []

    def note(self, now: float, hit: bool, unchanged: bool) -> None:
        self.reads += 1
        self.hits += hit
        if hit:
            self._found(now, unchanged)
        else:
            self._missed_since.setdefault(unchanged, now)

    def _found(self, now: float, unchanged: bool) -> None:
        since = self._missed_since.pop(unchanged, now)
        if unchanged:
            self.misses = max(self.misses, now - since)
        else:
            self.forgotten = max(self.forgotten, now - since)

    def close(self, begin: float, end: float, sleepy: bool) -> None:
        """Make figures of the moments. Who sleeps most of the time sees no end of misses."""
        for unchanged in (True, False):
            self._found(end, unchanged)
        self.unwritten = longest_gap([begin, *self.wrote, end])
        if sleepy:
            self.misses = self.forgotten = self.unwritten = 0.0
        self.wrote = []


def longest_gap(moments: list[float]) -> float:
    return max(after - before for before, after in itertools.pairwise(moments))


def name(number: int) -> str:
    return f"load:{number}"


def together(results: list[dict[str, Any]]) -> dict[str, Any]:
    shards: dict[str, Any] = {}
    for shard in sorted({shard for result in results for shard in result["shards"]}):
        seen = [result["shards"][shard] for result in results if shard in result["shards"]]
        times = sorted(seconds for each in seen for seconds in each["times"])
        shards[shard] = {
            **{kind: round(max(each[kind] for each in seen), 3) for kind in ("misses", "forgotten", "unwritten")},
            "median": round(times[len(times) // 2], 5) if times else None,
            "p95": round(times[int(len(times) * 0.95)], 5) if times else None,
            "reads": sum(each["reads"] for each in seen),
            "hits": sum(each["hits"] for each in seen),
        }
    return {
        **{key: sum(result[key] for result in results) for key in ("calls", "errors", "stale", "overtaken")},
        "said": [text for result in results for text in result["said"]][:NOTED],
        "stale_reads": [read for result in results for read in result["stale_reads"]][:NOTED],
        "longest_call": round(max(result["longest_call"] for result in results), 3),
        "stalled": round(max(result["stalled"] for result in results), 3),
        "shards": shards,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", default="/etc/webstack/cache.json")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.003, help="seconds after each write and two reads")
    parser.add_argument("--options", type=json.loads, default={}, help="OPTIONS of the cache, as JSON")
    arguments = parser.parse_args()

    # Not the id of the process: two containers count theirs alike.
    cache = RingCache(arguments.file, {"OPTIONS": arguments.options, "KEY_PREFIX": uuid.uuid4().hex})
    written, done = multiprocessing.RawArray(c_uint64, KEYS), multiprocessing.RawArray(c_uint64, KEYS)
    stop = multiprocessing.RawValue(c_bool, False)
    signal.signal(signal.SIGTERM, lambda *_: setattr(stop, "value", True))
    # Before the processes fork, as a server does that loads the application first.
    lost = cache.set_many(dict.fromkeys(map(name, range(KEYS)), 1), timeout=3600)
    # A shard that changed hands a moment ago takes writes and is not read yet.
    end = time.monotonic() + 10
    while len(cache.get_many(map(name, range(KEYS)))) < KEYS and time.monotonic() < end:
        time.sleep(0.1)
        lost = cache.set_many(dict.fromkeys(map(name, range(KEYS)), 1), timeout=3600)
    for number in range(KEYS):
        written[number] = 1
        done[number] = name(number) not in lost
    # What was written lately is forgotten when a replica takes over, and what was written last.
    time.sleep(LATELY_SECONDS)
    cache.set_many(dict.fromkeys(map(name, range(KEYS, KEYS + LAST)), 1), timeout=3600)

    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    barrier = context.Barrier(arguments.processes + 1)

    def work(number: int) -> None:
        worker = Worker(number, arguments, cache, written, done, stop=stop)
        cache.get_many(map(name, range(KEYS)))
        barrier.wait()
        queue.put(worker.run())

    processes = [context.Process(target=work, args=(number,)) for number in range(arguments.processes)]
    for process in processes:
        process.start()
    barrier.wait()
    print("ready", flush=True)
    results = [queue.get(timeout=arguments.seconds + 60) for _ in processes]
    for process in processes:
        process.join()
    print(json.dumps(together(results)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

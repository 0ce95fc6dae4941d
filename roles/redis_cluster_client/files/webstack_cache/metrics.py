# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What this process sees of each shard, for whoever wants to know.

Nothing is counted or timed until somebody listens. `OPTIONS: {"metrics": True}` counts in this process, to be read
by `cache.metrics()` or `prometheus_text()`; `OPTIONS: {"metrics": "site.monitoring.on_cache"}` calls a function of
the site for each event instead.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Literal

logger = logging.getLogger("webstack_cache")

Event = Literal[
    "hit",  # keys that a read found
    "miss",  # keys that a read did not find, or did not look for since the shard was out
    "set",  # values stored, by set, add or incr
    "delete",  # keys deleted
    "call",  # one exchange with the shard that it answered; the one with seconds
    "error",  # one exchange that it did not answer
    "dropped",  # keys of a write that did not reach the shard; they are forgotten there before it is read again
    "opened",  # the shard is not asked any more
    "closed",  # it is asked again
]

Listener = Callable[[str, Event, float, int], object]
"""Called with the name of the shard, the event, the seconds that it took, and how many times it happened."""

clock = time.perf_counter

# Upper ends of the histogram, in seconds: below the 250 ms that a call may wait, and what two of them add up to.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)

listeners: tuple[Listener, ...] = ()
"""Who listens. Empty in most processes: look here before taking the time."""

_changing = threading.Lock()


def observe(shard: str, event: Event, seconds: float = 0.0, count: int = 1) -> None:
    """Tell the listeners. A listener that raises is logged: no call to the cache may fail of being counted."""
    for listener in listeners:
        try:
            listener(shard, event, seconds, count)
        except Exception:
            logger.exception("the metrics listener %r failed", listener)


def listen(listener: Listener) -> None:
    """Call the function for each event from now on, once however often it is registered."""
    global listeners  # noqa: PLW0603 - replaced as a whole, so that readers need no lock
    with _changing:
        if listener not in listeners:
            listeners = (*listeners, listener)


def ignore(listener: Listener) -> None:
    """Do not call the function any more."""
    global listeners  # noqa: PLW0603
    with _changing:
        listeners = tuple(each for each in listeners if each != listener)


class ShardCounts:
    """How often each event happened on one shard, and how long it took to answer."""

    __slots__ = ("buckets", "events", "seconds")

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def as_dict(self) -> dict[str, Any]:
        return {"events": dict(self.events), "seconds": self.seconds, "buckets": list(self.buckets)}


class Counters:
    """The listener that counts in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shards: dict[str, ShardCounts] = {}
        os.register_at_fork(after_in_child=self.reset)

    def __call__(self, shard: str, event: Event, seconds: float, count: int) -> None:
        with self._lock:
            counts = self._shards.get(shard)
            if counts is None:
                counts = self._shards[shard] = ShardCounts()
            counts.events[event] = counts.events.get(event, 0) + count
            if event == "call":
                counts.seconds += seconds
                counts.buckets[bisect_left(BUCKETS, seconds)] += 1

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the counts by shard, as they are now."""
        with self._lock:
            return {name: counts.as_dict() for name, counts in sorted(self._shards.items())}

    def reset(self) -> None:
        """Start from nothing. Also after a fork: what the parent saw, the parent reports."""
        self._lock = threading.Lock()
        self._shards = {}


counters = Counters()


def prometheus_text(**labels: str) -> str:
    """Return this process's counts in Prometheus' text format, each line with these labels."""
    shards = counters.read()
    lines = ["# TYPE webstack_cache_events_total counter"]
    for shard, counts in shards.items():
        for event, count in sorted(counts["events"].items()):
            lines.append(f"webstack_cache_events_total{_labels(labels, shard=shard, event=event)} {count}")
    lines.append("# TYPE webstack_cache_seconds histogram")
    for shard, counts in shards.items():
        below = 0
        for end, count in zip((*map(str, BUCKETS), "+Inf"), counts["buckets"], strict=True):
            below += count
            lines.append(f"webstack_cache_seconds_bucket{_labels(labels, shard=shard, le=end)} {below}")
        lines.append(f"webstack_cache_seconds_sum{_labels(labels, shard=shard)} {counts['seconds']:.6f}")
        lines.append(f"webstack_cache_seconds_count{_labels(labels, shard=shard)} {below}")
    return "\n".join(lines) + "\n"


def _labels(common: dict[str, str], **own: str) -> str:
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in {**common, **own}.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"

"""The cache client against django-redis and Django's own, in one run, on the same servers, taken in turns.

usage: bench_cache.py [ROUNDS] [--short]

`ring` and `ShardClient` have three shards, `DefaultClient` (django-redis) and `Django` one server; all of them Redis
on this machine. Times are the medians of ROUNDS (30) rounds in microseconds of one call, ratios the medians of the
ratios within a round: noise that hits a round hits all four. --short: three rounds and no judgement on times.

Then one of three shards is stopped (SIGSTOP: it accepts and never answers), and calls that need it are timed.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/lab"), str(ROOT / "roles/redis_cluster_client/files")]

import django  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.cache import caches  # noqa: E402
from redis_servers import RedisServer, Shards, running_shards  # noqa: E402

VALUE = {"id": 4711, "title": "A list of things", "body": "x" * 200, "tags": ["a", "b", "c"]}
KEYS = [f"list:{n}" for n in range(50)]
DATA = dict.fromkeys(KEYS, VALUE)

Call = Callable[[], object]


class Bar(NamedTuple):
    """Our time over theirs (`at_most`) or theirs over ours (`at_least`)."""

    operation: str
    against: str
    at_least: float | None = None
    at_most: float | None = None


BARS = [
    Bar("get", "ShardClient", at_least=1.0),
    Bar("get_many(50)", "ShardClient", at_least=7.0),
    Bar("set_many(50)", "ShardClient", at_least=7.0),
    Bar("get_many(50)", "DefaultClient", at_most=2.0),
]


def configure(shards: Shards, single: RedisServer) -> None:
    three = [f"redis://{server.address}/1" for server in shards.servers.values()]
    one = f"redis://{single.address}/1"
    sharded = {"CLIENT_CLASS": "django_redis.client.ShardClient", "SOCKET_TIMEOUT": 5, "IGNORE_EXCEPTIONS": True}
    settings.configure(
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
            "ring": {"BACKEND": "webstack_cache.RingCache", "LOCATION": shards.path},
            "ShardClient": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": three, "OPTIONS": sharded},
            "DefaultClient": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": one},
            "Django": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": one},
        },
        INSTALLED_APPS=["webstack_cache"],
    )
    django.setup()
    # Neither belongs between the lines of a table.
    warnings.filterwarnings("ignore", message=".*on sharded client should not specify client")
    logging.getLogger("webstack_cache").setLevel(logging.CRITICAL)


NAMES = ("ring", "ShardClient", "DefaultClient", "Django")


def operations(name: str) -> dict[str, tuple[Call, int]]:
    """Return each operation of a cache, and how many of it make one measurement."""
    cache = caches[name]
    cache.set_many(DATA)
    cache.set("counter", 1)
    return {
        "get": (lambda: cache.get("list:1"), 100),
        "set": (lambda: cache.set("list:1", VALUE), 100),
        "incr": (lambda: cache.incr("counter"), 100),
        "get_many(50)": (lambda: cache.get_many(KEYS), 10),
        "set_many(50)": (lambda: cache.set_many(DATA), 10),
        # On keys that are not there it costs as much as on others.
        "delete_many(50)": (lambda: cache.delete_many([f"no:{key}" for key in KEYS]), 10),
    }


def seconds(call: Call, times: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the times by operation and cache, one for each round."""
    calls = {name: operations(name) for name in NAMES}
    for each in calls.values():
        for call, _ in each.values():
            call()
    times: dict[str, dict[str, list[float]]] = {
        operation: {name: [] for name in NAMES} for operation in calls[NAMES[0]]
    }
    for number in range(rounds):
        for operation, by_name in times.items():
            # Whoever comes first finds colder caches of the processor.
            for name in NAMES[number % len(NAMES) :] + NAMES[: number % len(NAMES)]:
                by_name[name].append(seconds(*calls[name][operation]))
    return times


def ratio(times: Mapping[str, list[float]], name: str, to: str) -> float:
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def report(times: Mapping[str, Mapping[str, list[float]]]) -> int:
    """Print the tables; return how many bars were missed."""
    print("us per call        " + "".join(f"{name:>15}" for name in NAMES))
    for operation, by_name in times.items():
        print(f"{operation:<19}" + "".join(f"{statistics.median(by_name[name]) * 1e6:15.0f}" for name in NAMES))
    print("\ntheirs / ours      " + " " * 15 + "".join(f"{name:>15}" for name in NAMES[1:]))
    for operation, by_name in times.items():
        print(f"{operation:<34}" + "".join(f"{ratio(by_name, name, 'ring'):15.2f}" for name in NAMES[1:]))
    missed = 0
    print()
    for bar in BARS:
        if bar.at_least is not None:
            found = ratio(times[bar.operation], bar.against, "ring")
            kept, goal = found >= bar.at_least, f"{bar.against} / ring >= {bar.at_least}"
        else:
            assert bar.at_most is not None
            found = ratio(times[bar.operation], "ring", bar.against)
            kept, goal = found <= bar.at_most, f"ring / {bar.against} <= {bar.at_most}"
        missed += not kept
        print(f"{bar.operation:<14} {goal:<30} {found:6.2f}  {'ok' if kept else 'MISSED'}")
    return missed


def on_shard(shards: Shards, name: str) -> dict[str, str]:
    """Return, for both caches with shards, a key that is on the shard."""
    theirs: Any = caches["ShardClient"]
    ours: Any = caches["ring"]
    url = f"redis://{shards.servers[name].address}/1"
    keys = [f"list:{n}" for n in range(50)]
    return {
        "ring": next(key for key in keys if ours.locate(key) == name),
        "ShardClient": next(key for key in keys if theirs.client.get_server_name(theirs.make_key(key)) == url),
    }


def limited(call: Call, limit: float) -> tuple[float, Any]:
    """Time the call in a thread; give up waiting after the limit."""
    result: list[Any] = []
    started = time.perf_counter()
    thread = threading.Thread(target=lambda: result.append(call()), daemon=True)
    thread.start()
    thread.join(limit)
    return time.perf_counter() - started, result[0] if result else None


def hang(shards: Shards, limit: float) -> bool:
    """Stop one shard, and time what needs it; return whether the ring answered for all keys of the others."""
    victim = "redis2"
    keys = on_shard(shards, victim)
    for name in ("ring", "ShardClient"):
        caches[name].set_many(DATA)
    ours: Any = caches["ring"]
    healthy = {key for key in KEYS if ours.locate(key) != victim}
    complete = False
    shards.servers[victim].freeze()
    print(f"\none shard of three stopped; ms per call, given up after {limit:.0f} s" + " " * 8 + "ring    ShardClient")
    try:
        rows: dict[str, list[str]] = {}
        for name in ("ring", "ShardClient"):
            cache, key = caches[name], keys[name]
            for number in (1, 2, 3):
                spent, _ = limited(lambda cache=cache, key=key: cache.get(key), limit)  # type: ignore[misc]
                rows.setdefault(f"get of its key, call {number}", []).append(f"{spent * 1e3:.1f}")
            spent, _ = limited(lambda cache=cache, key=key: cache.set(key, VALUE), limit)  # type: ignore[misc]
            rows.setdefault("set of its key, call 4", []).append(f"{spent * 1e3:.1f}")
            spent, found = limited(lambda cache=cache: cache.get_many(KEYS), limit)  # type: ignore[misc]
            rows.setdefault("get_many(50), call 5", []).append(f"{spent * 1e3:.1f}")
            rows.setdefault("  values of 50 that it returned", []).append(str(len(found or {})))
            complete = complete or (name == "ring" and set(found or {}) == healthy)
        for label, columns in rows.items():
            print(f"{label:<55}{columns[0]:>10}{columns[1]:>15}")
    finally:
        shards.servers[victim].thaw()
    return complete


def main(arguments: list[str]) -> int:
    short = "--short" in arguments
    numbers = [int(each) for each in arguments if each.isdigit()]
    rounds = 3 if short else (numbers or [30])[0]
    with tempfile.TemporaryDirectory() as directory, running_shards(Path(directory)) as shards:
        single = RedisServer()
        try:
            configure(shards, single)
            missed = report(measure(rounds))
            complete = hang(shards, 1 if short else 6)
        finally:
            single.kill()
    if not complete:
        print("\nthe ring did not return all keys of the healthy shards")
        return 1
    if short:
        return 0
    print(f"\n{missed} bars missed" if missed else "\nall within the bars")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The ring against uhashring, in one run: time to build, time to look a key up, keys moved without need.

usage: bench_ring.py [ROUNDS]; each figure is the best of ROUNDS (5), taken in turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins/module_utils"))

from hash_ring import Ring
from uhashring import HashRing

KEYS = [f":1:key:{n}" for n in range(20_000)]
# Shards, and the bars for build and look-up.
SIZES = [(3, 0.35, 1.1), (10, 0.35, 1.1), (100, 0.35, 1.1), (1000, 0.1, 1.1)]


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(count: int, rounds: int) -> tuple[list[float], int]:
    """Return the best times (build, theirs; look-up, theirs) and the keys moved without need."""
    names = [f"s{n}" for n in range(count)]
    nodes = dict.fromkeys(names, 1)
    repeat = max(1, 100 // count)
    ours, theirs = Ring(nodes), HashRing(names, hash_fn="ketama")
    calls: list[tuple[Callable[[], object], float]] = [
        (lambda: [Ring(nodes) for _ in range(repeat)], 1e3 / repeat),
        (lambda: [HashRing(names, hash_fn="ketama") for _ in range(repeat)], 1e3 / repeat),
        (lambda: [ours.locate(key) for key in KEYS], 1e6 / len(KEYS)),
        (lambda: [theirs.get_node(key) for key in KEYS], 1e6 / len(KEYS)),
    ]
    times = [[seconds(call) * scale for call, scale in calls] for _ in range(rounds)]
    grown = Ring({**nodes, "new": 2})
    needless = sum(1 for key in KEYS if grown.locate(key) not in ("new", ours.locate(key)))
    return [min(column) for column in zip(*times, strict=True)], needless


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    failed = 0
    print("shards   build ms  uhashring  ratio  bar     look-up us  uhashring  ratio  bar     needless moves")
    for count, build_bar, lookup_bar in SIZES:
        (build, other_build, lookup, other_lookup), needless = measure(count, rounds)
        print(
            f"{count:6}  {build:9.3f}  {other_build:9.3f}  {build / other_build:5.2f}  <={build_bar:<5}"
            f" {lookup:11.3f}  {other_lookup:9.3f}  {lookup / other_lookup:5.2f}  <={lookup_bar:<5} {needless}"
        )
        failed += build / other_build > build_bar or lookup / other_lookup > lookup_bar or needless > 0
    print(f"{failed} sizes outside the bars" if failed else "all within the bars")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The ring beside uhashring, in one run: time to build, time to look a key up, keys moved without need, evenness, and
the client's configuration of 1000 shards.

usage: bench_ring.py [--bars] [ROUNDS]

Each is processor time, the best of ROUNDS (5), taken in turns. With --bars a figure outside its bar is an error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
# The collection by the link that tools/setup.sh made, the client's package from the role.
sys.path[:0] = [str(ROOT / ".cache/collections"), str(ROOT / "roles/redis_cluster_client/files")]

from ansible_collections.webstack.ha.plugins.module_utils import _cache_configuration, _shard_layout  # noqa: E402
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.ring import Ring  # noqa: E402
from uhashring import HashRing  # noqa: E402
from webstack_cache import configuration  # noqa: E402

KEYS = [f":1:key:{n}" for n in range(20_000)]
# Shards, and the bar for building.
SIZES = {3: 0.3, 10: 0.3, 100: 0.3, 1000: 0.05}
LOOKUP_BAR = 1.1
CONFIGURATION_BARS = {"KB": 70.0, "ms": 150.0}


def seconds(call: Callable[[], object]) -> float:
    """Return processor time: nothing here waits, and other programs on the machine shall not count."""
    started = time.process_time()
    call()
    return time.process_time() - started


def best(calls: list[tuple[Callable[[], object], float]], rounds: int) -> list[float]:
    """Return the best time of each call, times its scale; the calls take turns."""
    times = [[seconds(call) * scale for call, scale in calls] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def beside_uhashring(count: int, rounds: int) -> tuple[list[float], int]:
    """Return the best times (build, theirs; look-up, theirs) and the keys moved without need."""
    names = [f"redis{n}" for n in range(count)]
    nodes = dict.fromkeys(names, 1)
    repeat = max(1, 100 // count)
    ours, theirs = Ring(nodes), HashRing(names, hash_fn="ketama")
    times = best(
        [
            (lambda: [Ring(nodes) for _ in range(repeat)], 1e3 / repeat),
            (lambda: [HashRing(names, hash_fn="ketama") for _ in range(repeat)], 1e3 / repeat),
            (lambda: [ours.locate(key) for key in KEYS], 1e6 / len(KEYS)),
            (lambda: [theirs.get_node(key) for key in KEYS], 1e6 / len(KEYS)),
        ],
        rounds,
    )
    grown = Ring({**nodes, "new": 2})
    return times, sum(grown.locate(key) not in ("new", ours.locate(key)) for key in KEYS)


def fullest(count: int, points: int) -> float:
    """Return how many times the mean the fullest shard has: the median of 15 rings."""
    rings = (Ring({f"{prefix}{n}": 1 for n in range(count)}, points) for prefix in "abcdefghijklmno")
    return float(median(max(ring.shares().values()) / Fraction(1, count) for ring in rings))


def client(count: int, rounds: int) -> tuple[float, float]:
    """Return size and loading time of the file that the role writes for so many hosts."""
    hostvars = {f"redis{n + 1}": {"webstack_address": f"10.77.{n // 250}.{n % 250 + 1}"} for n in range(count)}
    text = _cache_configuration.render(
        _shard_layout.layout(list(hostvars), hostvars),
        sentinels=[{"address": f"10.77.9.{n}", "port": 26379} for n in (1, 2, 3)],
        username="application",
        password="x" * 40,
    )
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        (load,) = best([(lambda: configuration.load(file.name), 1e3)], rounds)
    return len(text.encode()) / 1000, load


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--bars", action="store_true", help="fail where a figure is outside its bar")
    arguments = parser.parse_args()
    missed = []

    print("shards   build ms  uhashring  ratio  bar     look-up us  uhashring  ratio  bar     needless moves")
    for count, bar in SIZES.items():
        (build, other_build, lookup, other_lookup), needless = beside_uhashring(count, arguments.rounds)
        print(
            f"{count:6}  {build:9.3f}  {other_build:9.3f}  {build / other_build:5.3f}  <={bar:<5}"
            f" {lookup:11.3f}  {other_lookup:9.3f}  {lookup / other_lookup:5.2f}  <={LOOKUP_BAR:<5} {needless}"
        )
        if build / other_build > bar:
            missed.append(f"build at {count}")
        if lookup / other_lookup > LOOKUP_BAR:
            missed.append(f"look-up at {count}")
        if needless:
            missed.append(f"needless moves at {count}")

    print("\nfullest shard, times the mean (median of 15 rings)")
    print("points  " + "".join(f"{count:>7}" for count in (3, 10, 100)) + "  shards")
    for points in (160, 320, 640, 1280):
        print(f"{points:6}  " + "".join(f"{fullest(count, points):7.2f}" for count in (3, 10, 100)))

    print("\nconfiguration of 1000 shards of two servers each")
    for (unit, bar), figure in zip(CONFIGURATION_BARS.items(), client(1000, arguments.rounds), strict=True):
        what = {"KB": "size", "ms": "load: ring built, fingerprint compared"}[unit]
        print(f"{what:40} {figure:7.1f} {unit}  <={bar:g}")
        if figure > bar:
            missed.append(what)

    print(f"\noutside the bars: {', '.join(missed)}" if missed else "\nall within the bars")
    return 1 if missed and arguments.bars else 0


if __name__ == "__main__":
    raise SystemExit(main())

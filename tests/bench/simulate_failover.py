#!/usr/bin/env python3
"""Play many schedules of faults against the decision of fail-over; what fails is shortened and told in words.

  tests/bench/simulate_failover.py 1000000 [SEED]

The unit tests play 104,000 of other seeds. Exit code 1 when a schedule had two writers, lost an acknowledged row or
left a pair that did not become whole.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".cache/collections"), str(ROOT / "tests/unit")]

from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.failover import decide  # noqa: E402
from failover_timing import FAULTS, misses, two_faults  # noqa: E402
from failover_world import fails, schedules, shortest, story  # noqa: E402

EACH = 10_000
FIRST_SEED = 1_000_000


def play(seed: int) -> list[str]:
    found = []
    for schedule, recover in schedules(seed, EACH):
        if fails(schedule, decide, recover):
            found.append(story(shortest(schedule, decide, recover), decide, recover))
            break
    # Beside every 10,000 schedules some with seconds.
    found += [f"{name}, seed {seed}: {why}" for name, fault in FAULTS.items() if (why := misses(fault, decide, seed))]
    found += [
        f"two faults, seed {n}: {why}" for n in range(seed * 20, seed * 20 + 20) if (why := two_faults(decide, n))
    ]
    return found


def main(words: list[str]) -> int:
    if not words or not all(word.isdigit() for word in words):
        print(__doc__, file=sys.stderr)
        return 64
    count, first = int(words[0]), FIRST_SEED + int(words[1] if len(words) > 1 else 0)
    seeds = range(first, first + -(-count // EACH))
    started, bad = time.monotonic(), 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for number, found in enumerate(pool.imap_unordered(play, seeds), 1):
            bad += len(found)
            for text in found:
                print(text, flush=True)
            if number % 10 == 0 or number == len(seeds):
                print(f"{number * EACH} schedules, {bad} failed, {time.monotonic() - started:.0f} s", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

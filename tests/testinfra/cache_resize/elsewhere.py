"""Write values that say when, and read what the other host writes, until the input ends.

    python elsewhere.py RUN NAME NAME_OF_THE_OTHER PROCESSES

Both hosts have one clock here, so a value that is older than the other's round of writes is stale. A round over all
keys is spread over a second: every moment of a change has reads, and the processors have time for the change. Prints
`ready`, then at the end one line of JSON: reads, hits, exceptions, the oldest value that was read, how long a value of
its own stood at most until the next one was there, its name and the other's, and the ids of the processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from typing import Any

from django.conf import settings

settings.configure()

import django  # noqa: E402

django.setup()

from webstack_cache import RingCache  # noqa: E402

KEYS = 60
ROUND_SECONDS = 1.0
# As many are written and read at once.
BATCH = 4


def work(run: str, me: str, other: str, stop: Any, answers: Any) -> None:
    cache = RingCache("/etc/webstack/cache.json", {"KEY_PREFIX": f"elsewhere-{run}"})
    seen: dict[str, Any] = {
        "process": os.getpid(),
        "reads": 0,
        "hits": 0,
        "oldest": 0.0,
        "stood": 0.0,
        "exceptions": [],
    }
    seen |= {"me": me, "other": other, "exceptions": []}
    wrote: dict[int, float] = {}
    turn = 0
    while not stop.is_set():
        begin = time.monotonic()
        for number in (place % KEYS for place in range(turn * BATCH, (turn + 1) * BATCH)):
            try:
                now = time.monotonic()
                cache.set(f"{me}:{number}", now, timeout=600)
                asked = time.monotonic()
                seen["stood"] = max(seen["stood"], asked - wrote.get(number, now))
                wrote[number] = now
                written = cache.get(f"{other}:{number}")
            except Exception as exc:
                seen["exceptions"].append(repr(exc))
                continue
            seen["reads"] += 1
            if written is not None:
                seen["hits"] += 1
                seen["oldest"] = max(seen["oldest"], asked - written)
        turn += 1
        time.sleep(max(0.0, begin + ROUND_SECONDS * BATCH / KEYS - time.monotonic()))
    answers.put(seen)


def main() -> None:
    run, me, other, count = sys.argv[1:5]
    stop, answers = multiprocessing.Event(), multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=work, args=(run, f"{me}-{number}", f"{other}-{number}", stop, answers))
        for number in range(int(count))
    ]
    for process in processes:
        process.start()
    print("ready", flush=True)
    sys.stdin.read()
    stop.set()
    print(json.dumps([answers.get(timeout=30) for _ in processes]), flush=True)


if __name__ == "__main__":
    main()

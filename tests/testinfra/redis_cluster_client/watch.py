"""Runs in the application's Python, fed through stdin: asks steadily for one key of each shard and for many keys.

Argument: seconds. Prints `ready`, then at the end one JSON line: for each shard its samples [time of day, seconds
that the call took, hit], the same for get_many with the number of keys found, and the exceptions.
"""

from __future__ import annotations

import json
import sys
import time

import django

django.setup()

from django.core.cache import cache  # noqa: E402
from webstack_cache.shard import LATELY_SECONDS  # noqa: E402

KEYS = [f"watch:{n}" for n in range(60)]
owned: dict[str, str] = {}
for key in KEYS:
    owned.setdefault(cache.locate(key), key)
cache.set_many(dict.fromkeys(KEYS, 1), timeout=600)
# What was written lately is forgotten when a replica takes over.
time.sleep(LATELY_SECONDS)

samples: dict[str, list[tuple[float, float, int]]] = {name: [] for name in [*owned, "many"]}
exceptions: list[str] = []
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for name, series in samples.items():
        now, started = time.time(), time.perf_counter()
        try:
            found = len(cache.get_many(KEYS)) if name == "many" else int(cache.get(owned[name]) is not None)
        except Exception as exc:
            exceptions.append(repr(exc))
            continue
        series.append((now, time.perf_counter() - started, found))
    time.sleep(0.01)
per_shard = {name: sum(cache.locate(key) == name for key in KEYS) for name in owned}
print(json.dumps({"samples": samples, "exceptions": exceptions, "keys": per_shard}))

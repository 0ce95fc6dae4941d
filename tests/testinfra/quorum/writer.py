"""Raises a number in the quorum until /tmp/written is there; prints as JSON what was acknowledged."""

from __future__ import annotations

import json
import pathlib
import sys
import time

sys.path.insert(0, "/usr/local/lib/webstack/current")
from webstack.core.errors import Problem
from webstack.quorum.store import connect

KEY = "/lab/number"
ENOUGH = pathlib.Path("/tmp/written")

ENOUGH.unlink(missing_ok=True)
store = connect()
last = time.monotonic()
longest, unknown, texts = 0.0, 0, []
value = store.get(KEY)
number = int((value.text or "0").split()[0])
print("begun", flush=True)
while not ENOUGH.exists():
    try:
        swap = store.swap(value, f"{number + 1} {sys.argv[1]}")
    except Problem as problem:
        unknown += 1
        texts.append(str(problem))
        continue
    value = swap.now
    if swap.done:
        number += 1
        longest = max(longest, time.monotonic() - last)
        last = time.monotonic()
    else:
        number = int((value.text or "0").split()[0])
    time.sleep(0.02)
longest = max(longest, time.monotonic() - last)
print(json.dumps({"number": number, "longest": longest, "unknown": unknown, "texts": texts[:3]}))

"""A Django application's view of the cache. Reads steps as JSON lines, answers each with a JSON line.

[method, [arguments], {named ones}] is called on the default cache; the answer is [seconds, result or error].
"""

from __future__ import annotations

import json
import sys
import time

sys.path.insert(0, "/opt/webstack/python")

from django.conf import settings
from webstack_cache import single_server

ENTRIES = {
    "ring": {"BACKEND": "webstack_cache.RingCache", "LOCATION": "/etc/webstack/cache.json"},
    "redis_cluster": {"BACKEND": "webstack_cache.ServerClusterCache", "LOCATION": "/etc/webstack/cache.json"},
    "single": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "/etc/webstack/cache.json",
        "KEY_PREFIX": "site",
    },
}
entry = ENTRIES[sys.argv[1]]
settings.configure(CACHES={"default": single_server(entry) if sys.argv[1] == "single" else entry})

from django.core.cache import cache  # noqa: E402 - only now there are settings

for line in sys.stdin:
    method, arguments, named = json.loads(line)
    start = time.monotonic()
    try:
        result = getattr(cache, method)(*arguments, **named)
    except Exception as error:  # it is the answer
        result = f"{type(error).__name__}: {error}"
    print(json.dumps([time.monotonic() - start, result]), flush=True)

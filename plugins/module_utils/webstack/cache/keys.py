# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Counts the keys on one server of the cache, and removes those that the ring does not place there.

A `Command` is a function that sends words to a server and returns its reply. Keys are strings; bytes that are not
UTF-8 are surrogates in them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..core.resp import session
from ..pure.ring import Ring
from .site import Site
from .view import role_of

Command = Callable[..., Any]

# How many keys the server looks at in one go. That takes it a fraction of a millisecond.
BATCH = 500
# For how many seconds reads are counted.
WINDOW = 1.0
# The roll, which lists the processes that use the shard. No ring places it. See roll.py of the client.
ROLL = "webstack_cache:roll:"
ROLL_DATABASE = "15"


def rings(orders: Sequence[Mapping[str, Any]]) -> list[Ring]:
    """Turn [{points, weights}] into rings."""
    return [Ring(order["weights"], order["points"]) for order in orders]


def gently(command: Command) -> Command:
    """Return a command that pauses after each call for as long as the call took, so that others get the server too."""

    def call(*words: str) -> Any:
        started = time.monotonic()
        reply = command(*words)
        time.sleep(time.monotonic() - started)
        return reply

    return call


def info(command: Command, section: str) -> dict[str, str]:
    lines = [line.partition(":") for line in command("INFO", section).splitlines() if not line.startswith("#")]
    return {name: value for name, colon, value in lines if colon}


def batches(command: Command) -> Iterator[list[str]]:
    """Yield all keys of all databases in batches. The database of a batch stays selected until the next batch."""
    for database in info(command, "keyspace"):
        command("SELECT", database.removeprefix("db"))
        cursor = "0"
        while True:
            cursor, keys = command("SCAN", cursor, "COUNT", str(BATCH))
            yield [key for key in keys if not key.startswith(ROLL)]
            if cursor == "0":
                break


def raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def sweep(command: Command, shard: str, under: Sequence[Ring], dry_run: bool = False) -> dict[str, int]:
    """Remove the keys that one of the rings gives to another shard."""
    command = gently(command)
    looked = removed = 0
    for keys in batches(command):
        strays = [key for key in keys if any(ring.locate(raw(key)) != shard for ring in under)]
        looked += len(keys)
        if strays:
            removed += len(strays) if dry_run else command("UNLINK", *strays)
    return {"looked": looked, "removed": removed}


def census(command: Command, shard: str, old: Ring, new: Ring, limit: int = 20_000) -> dict[str, Any]:
    """Count what a plan needs, and look at `limit` keys. SCAN returns them in random order, so they are a sample."""
    reads = _reads(command)
    started = time.monotonic()
    owners: Counter[str] = Counter()
    looked = 0
    for keys in batches(gently(command)):
        looked += len(keys)
        owners.update(new.locate(raw(key)) for key in keys if old.locate(raw(key)) == shard)
        if looked >= limit:
            break
    time.sleep(max(0.0, started + WINDOW - time.monotonic()))
    hits, misses = _reads(command)
    elapsed = time.monotonic() - started
    memory = {name: int(value) for name, value in info(command, "memory").items() if value.isdigit()}
    count = sum(int(line.split(",")[0].removeprefix("keys=")) for line in info(command, "keyspace").values())
    command("SELECT", ROLL_DATABASE)
    count -= int(command("EXISTS", *[f"{ROLL}{database}" for database in range(16)]))
    used = memory["used_memory"]
    # The memory that a server without keys needs.
    fixed = sum(
        memory.get(name, 0)
        for name in (
            "used_memory_startup",
            "mem_clients_normal",
            "mem_clients_slaves",
            "mem_total_replication_buffers",
        )
    )
    fixed = min(used, fixed) if count else used
    return {
        "keys": count,
        "owners": dict(owners),
        "strays": looked - owners.total(),
        "memory": used,
        "fixed": fixed,
        "data": used - fixed,
        "maxmemory": memory["maxmemory"],
        "hits": hits,
        "misses": misses,
        "reads_per_second": (hits + misses - sum(reads)) / elapsed,
    }


def _reads(command: Command) -> tuple[int, int]:
    stats = info(command, "stats")
    return int(stats["keyspace_hits"]), int(stats["keyspace_misses"])


def masters(site: Site) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the shards whose master is on this host, each with a session there."""
    for name in site.mine:
        node = site.own(name)
        assert node is not None
        if role_of(node, site.access)["role"] == "master":
            with session(node, site.access) as command:
                yield name, command

"""The census and the sweep of a shard, against a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from ansible_collections.webstack.ha.plugins.module_utils.webstack.cache import keys as shard_keys
from redis_servers import RedisServer

OLD, NEW = shard_keys.rings(
    [
        {"points": 160, "weights": {"redis1": 1, "redis2": 1, "redis3": 1}},
        {"points": 160, "weights": {"redis1": 1, "redis2": 1, "redis3": 1, "redis4": 1}},
    ]
)


@pytest.fixture
def server() -> Iterator[redis.Redis]:
    process = RedisServer()
    client = redis.Redis(port=process.port, decode_responses=True, encoding_errors="surrogateescape")
    yield client
    client.close()
    process.kill()


def commands(client: redis.Redis) -> Any:
    """Send words as they are; redis-py would make Python objects of some replies."""
    connection = client.connection_pool.get_connection()

    def command(*words: str) -> Any:
        connection.send_command(*words)
        return connection.read_response()

    return command


def owned(shard: str, count: int, ring: Any = OLD) -> list[str]:
    found = []
    number = 0
    while len(found) < count:
        key = f":1:key:{number}"
        number += 1
        if ring.locate(key) == shard:
            found.append(key)
    return found


def test_a_sweep_keeps_what_is_at_home_under_all_rings(server: redis.Redis) -> None:
    mine, others = owned("redis1", 700), owned("redis2", 900)
    server.mset(dict.fromkeys(mine + others, "x"))
    command = commands(server)
    looked = {"looked": 1600, "removed": 900}
    assert shard_keys.sweep(command, "redis1", [OLD], dry_run=True) == looked
    assert server.dbsize() == 1600
    assert shard_keys.sweep(command, "redis1", [OLD]) == looked
    assert sorted(server.keys()) == sorted(mine)
    assert shard_keys.sweep(command, "redis1", [OLD]) == {"looked": 700, "removed": 0}
    staying = [key for key in mine if NEW.locate(key) == "redis1"]
    assert 0 < len(staying) < 700
    assert shard_keys.sweep(command, "redis1", [OLD, NEW])["removed"] == 700 - len(staying)
    assert sorted(server.keys()) == sorted(staying)


def test_a_shard_that_a_ring_does_not_have_is_emptied(server: redis.Redis) -> None:
    server.mset(dict.fromkeys(owned("redis4", 10, NEW), "x"))
    assert shard_keys.sweep(commands(server), "redis4", [OLD])["removed"] == 10
    assert server.dbsize() == 0


def test_all_databases_are_swept(server: redis.Redis) -> None:
    stray = owned("redis2", 1)[0]
    for number in (0, 3, 15):
        redis.Redis(port=server.connection_pool.connection_kwargs["port"], db=number).set(stray, "x")
    assert shard_keys.sweep(commands(server), "redis1", [OLD]) == {"looked": 3, "removed": 3}
    assert server.info("keyspace") == {}


def test_keys_of_any_bytes(server: redis.Redis) -> None:
    keys = [bytes([number, 255, 10]) + b"\r\n*$" for number in range(256)]
    for key in keys:
        server.set(key, "x")
    away = [key for key in keys if OLD.locate(key) != "redis1"]
    assert shard_keys.sweep(commands(server), "redis1", [OLD])["removed"] == len(away)
    assert server.dbsize() == len(keys) - len(away)


def test_the_roll_of_the_client_is_no_key(server: redis.Redis) -> None:
    server.set(owned("redis1", 1)[0], "x")
    roll = redis.Redis(port=server.connection_pool.connection_kwargs["port"], db=15)
    roll.hset("webstack_cache:roll:0", "count", 1)
    command = commands(server)
    for shard in ("redis1", "redis2", "redis3"):
        assert shard_keys.census(command, shard, OLD, NEW)["keys"] == 1
        shard_keys.sweep(command, shard, [OLD], dry_run=True)
    # No ring places it on two of these.
    for shard in ("redis2", "redis3", "redis1"):
        shard_keys.sweep(command, shard, [OLD])
    assert roll.exists("webstack_cache:roll:0")


@pytest.mark.quiet
def test_a_sweep_does_not_hold_up_others(server: redis.Redis) -> None:
    """Half of 200,000 keys go; somebody else reads meanwhile."""
    pipeline = server.pipeline(transaction=False)
    mine, others = owned("redis1", 100_000), owned("redis2", 100_000)
    pipeline.mset(dict.fromkeys(mine, "x" * 100))
    pipeline.mset(dict.fromkeys(others, "x" * 100))
    pipeline.execute()
    done: list[dict[str, int]] = []
    thread = threading.Thread(target=lambda: done.append(shard_keys.sweep(commands(server), "redis1", [OLD])))
    reader = redis.Redis(port=server.connection_pool.connection_kwargs["port"])
    reader.get(mine[0])
    times = []
    thread.start()
    while thread.is_alive():
        started = time.perf_counter()
        assert reader.get(mine[len(times) % len(mine)]) is not None
        times.append(time.perf_counter() - started)
    thread.join()
    assert done == [{"looked": 200_000, "removed": 100_000}]
    times.sort()
    median, slow = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(f"read during a sweep of 200,000 keys: median {1e3 * median:.2f} ms, 99 % within {1e3 * slow:.2f} ms")
    assert median < 0.005
    assert slow < 0.05


def test_a_census_counts_what_a_plan_needs(server: redis.Redis) -> None:
    server.config_set("maxmemory", "64mb")
    mine, others = owned("redis1", 3000), owned("redis2", 5)
    server.mset(dict.fromkeys(mine + others, "x" * 1000))
    for key in [*mine[:30], *(["absent"] * 10)]:
        server.get(key)
    found = shard_keys.census(commands(server), "redis1", OLD, NEW)
    assert (found["keys"], found["strays"]) == (3005, 5)
    assert found["owners"]["redis4"] == sum(NEW.locate(key) == "redis4" for key in mine)
    assert sum(found["owners"].values()) == 3000
    assert (found["hits"], found["misses"]) == (30, 10)
    assert found["maxmemory"] == 64 << 20
    assert found["memory"] == found["fixed"] + found["data"]
    assert 3_000_000 < found["data"] < 4_500_000
    bounded = shard_keys.census(commands(server), "redis1", OLD, NEW, limit=1000)
    assert bounded["keys"] == 3005
    assert 1000 <= sum(bounded["owners"].values()) + bounded["strays"] < 1600


def test_a_census_of_an_empty_server(server: redis.Redis) -> None:
    found = shard_keys.census(commands(server), "redis1", OLD, NEW)
    assert (found["keys"], found["owners"], found["data"]) == (0, {}, 0)
    assert found["reads_per_second"] == 0

"""The cache client against real servers that are killed, frozen, refused and replaced."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import webstack_cache
from ansible_collections.webstack.ha.plugins.module_utils import _pki
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from fake_sentinel import FakeSentinel
from redis_servers import RedisServer, Shards, free_port, ring
from webstack_cache import breaker, cluster, configuration, connections, roll, sentinels, shard

FILES = Path(__file__).parents[2] / "roles/redis_cluster_client/files"
NAMES = ("redis1", "redis2", "redis3")
KEYS = [f"key{n}" for n in range(60)]


class Site(Shards):
    """Three shards, and sentinels that say what the test wants."""

    def __init__(self, directory: Path) -> None:
        self.sentinels: list[FakeSentinel] = []
        self.others: list[RedisServer] = []
        super().__init__(directory, NAMES)
        self.sentinels = [FakeSentinel({name: made.port for name, made in self.servers.items()}) for _ in range(3)]
        self.write()

    def content(self, **changes: Any) -> dict[str, Any]:
        return super().content(**{"sentinels": [each.address for each in self.sentinels], **changes})

    def cache(self, **options: Any) -> Any:
        return webstack_cache.RingCache(str(self.path), {"OPTIONS": options, "TIMEOUT": 300})

    def replica(self, name: str) -> RedisServer:
        """Return a server that follows the shard's master and has all of its data."""
        made = RedisServer("--replicaof", "127.0.0.1", str(self.servers[name].port))
        self.others.append(made)
        until(lambda: direct(made).info("replication")["master_link_status"] == "up")
        return made

    def promote(self, name: str, server: RedisServer) -> None:
        direct(server).replicaof("NO", "ONE")
        for sentinel in self.sentinels:
            sentinel.switch(name, server.port)

    def stop(self) -> None:
        super().stop()
        for each in (*self.sentinels, *self.others):
            each.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    # What a test's cache still owes cannot be paid any more.
    for each in cluster._clusters._made.values():
        each._answers.close()
        for part in each.shards.values():
            part.close()
    made.stop()


def direct(server: RedisServer) -> redis.Redis:
    """Return a client for a look past the cache."""
    return redis.Redis(port=server.port)


def keys_of(cache: Any, name: str, count: int = 5) -> list[str]:
    return [key for key in (f"key{n}" for n in range(400)) if cache.locate(key) == name][:count]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started


def until(condition: Callable[[], Any], seconds: float = 5) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "waited in vain"
        time.sleep(0.005)
    return time.monotonic() - started


def parts_of(cache: Any) -> Any:
    return cache._cache.cluster


def until_all_are_heard(cache: Any) -> None:
    """Wait: the first call goes on when two of the three sentinels are heard."""
    cache.get(keys_of(cache, "redis1")[0])
    until(lambda: all(each.heard for each in parts_of(cache)._sentinels._sentinels))


# The healthy cache


def test_a_key_is_on_the_shard_that_locate_names(site: Site) -> None:
    cache = site.cache()
    for key in KEYS:
        cache.set(key, {"n": key})
    for key in KEYS:
        owner = cache.locate(key)
        assert [name for name, each in site.servers.items() if direct(each).exists(f":1:{key}")] == [owner]
        assert cache.get(key) == {"n": key}


def test_many_keys_are_one_round_trip_per_shard(site: Site) -> None:
    cache = site.cache()
    data = {f"key{n}": n for n in range(50)}
    for each in site.servers.values():
        direct(each).config_resetstat()
    assert cache.set_many(data, timeout=60) == []
    assert cache.get_many([*data, "missing"]) == data
    cache.delete_many(list(data))
    for each in site.servers.values():
        calls = direct(each).info("commandstats")
        assert calls["cmdstat_mget"]["calls"] == calls["cmdstat_unlink"]["calls"] == 1
        assert "cmdstat_get" not in calls


@pytest.mark.quiet
def test_servers_work_at_the_same_time(site: Site) -> None:
    cache = site.cache()
    cache.set_many(dict.fromkeys(KEYS, 1))
    for each in site.servers.values():
        each.freeze()
    threading.Timer(0.15, lambda: [each.thaw() for each in site.servers.values()]).start()
    found, seconds = timed(lambda: cache.get_many(KEYS))
    assert len(found) == 60
    assert seconds < 0.25


def test_without_sentinels_the_first_server_of_a_shard_is_asked(site: Site) -> None:
    site.write(sentinels=[])
    cache = site.cache()
    cache.set("a", 1)
    assert cache.get("a") == 1
    assert not any(each.questions for each in site.sentinels)


def test_only_shards_in_use_are_connected(site: Site) -> None:
    cache = site.cache()
    cache.set(keys_of(cache, "redis1")[0], 1)
    assert [name for name, part in parts_of(cache).shards.items() if part.master.has_pool] == ["redis1"]


def test_threads_share_one_cluster_and_its_connections(site: Site) -> None:
    cache = site.cache()
    wrong = []

    def work(number: int) -> None:
        mine = site.cache()
        for turn in range(100):
            mine.set(f"key{number}", (number, turn))
            if mine.get(f"key{number}") != (number, turn) or not mine.get_many(KEYS):
                wrong.append((number, turn))
        if parts_of(mine) is not parts_of(cache):
            wrong.append((number, -1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("word", ["plain", "ключ", 7, -1.5, b"\x00\r\n", bytearray(b"ab"), memoryview(b"cd")])
def test_commands_are_packed_as_redis_py_packs_them(word: Any) -> None:
    theirs = redis.Connection(protocol=2).pack_command("SET", "key", word)
    assert connections.pack([("SET", "key", word)]) == b"".join(map(bytes, theirs))


def test_what_is_no_word_is_refused() -> None:
    with pytest.raises(TypeError):
        connections.pack([("SET", "key", None)])


# Shards that fail


@pytest.mark.quiet
def test_a_killed_shard_costs_misses_for_its_keys_only(site: Site) -> None:
    cache = site.cache()
    data = {key: key for key in KEYS}
    cache.set_many(data)
    healthy = {key: value for key, value in data.items() if cache.locate(key) != "redis2"}
    dead = keys_of(cache, "redis2")
    site.servers["redis2"].kill()
    for _ in range(3):
        assert cache.get_many(data) == healthy
        assert cache.get(dead[0], "default") == "default"
    for call in (
        lambda: cache.get(dead[0]),
        lambda: cache.set(dead[0], 1),
        lambda: cache.get_many(data),
        lambda: cache.delete_many(dead),
    ):
        # On a crowded machine some wait for their turn; one that waited for the shard would all take 250 ms.
        assert min(timed(call)[1] for _ in range(11)) < 0.005
    alive = keys_of(cache, "redis1")
    assert sorted(cache.set_many(dict.fromkeys([*dead, *alive], 0))) == sorted(dead)
    assert cache.get_many(alive) == dict.fromkeys(alive, 0)


def test_every_call_on_a_dead_shard(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    site.servers["redis1"].kill()
    assert cache.add(key, 1) is False
    assert cache.get(key) is None
    assert cache.set(key, 1) is None
    assert cache.touch(key) is False
    assert cache.delete(key) is False
    assert cache.has_key(key) is False
    assert cache.clear() is False
    with pytest.raises(ValueError, match="shard does not answer"):
        cache.incr(key)


def test_told_of_errors_on_request(site: Site) -> None:
    cache = site.cache(ignore_errors=False)
    key = keys_of(cache, "redis1")[0]
    other = keys_of(cache, "redis2")[0]
    site.servers["redis1"].kill()
    for call in (
        lambda: cache.get(key),
        lambda: cache.add(key, 1),
        lambda: cache.incr(key),
        lambda: cache.get_many([key, other]),
        lambda: cache.set_many({key: 1, other: 1}),
        cache.clear,
    ):
        with pytest.raises(webstack_cache.ShardUnavailable, match="redis1"):
            call()
    cache.set(other, 1)
    assert cache.get(other) == 1


@pytest.mark.quiet
def test_a_frozen_shard_stalls_two_calls_and_no_more(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "redis3")[0]
    cache.set(key, 1)
    site.servers["redis3"].freeze()
    stalls = [timed(lambda: cache.get(key))[1] for _ in range(2)]
    assert all(0.2 < seconds < 0.4 for seconds in stalls)
    times = []
    for _ in range(100):
        value, seconds = timed(lambda: cache.get(key))
        assert value is None
        times.append(seconds)
        time.sleep(0.01)
    assert sorted(times)[50] < 0.005
    site.servers["redis3"].thaw()
    until(lambda: cache.get(key) == 1)


@pytest.mark.quiet
def test_two_frozen_shards_cost_one_time_limit(site: Site) -> None:
    cache = site.cache()
    data = {key: key for key in KEYS}
    cache.set_many(data)
    site.servers["redis1"].freeze()
    site.servers["redis3"].freeze()
    found, seconds = timed(lambda: cache.get_many(data))
    assert found == {key: value for key, value in data.items() if cache.locate(key) == "redis2"}
    assert seconds < 0.4


def test_a_host_that_drops_packets_stalls_a_process_for_a_second_at_most(site: Site) -> None:
    cut = socket.create_server(("127.0.0.1", 0), backlog=0)
    full = [socket.socket() for _ in range(4)]
    for each in full:
        each.setblocking(False)
        each.connect_ex(cut.getsockname())  # from here on nobody's handshake is answered
    port = cut.getsockname()[1]
    site.write(sentinels=[], **ring({**site.content()["shards"], "redis1": [f"127.0.0.1:{port}"]}))
    cache = site.cache()
    cache.get_many(KEYS)
    stalls = [timed(lambda: cache.get_many(KEYS))[1] for _ in range(20)]
    assert sum(stalls) < 0.6
    for each in (*full, cut):
        each.close()


@pytest.mark.quiet
def test_one_probe_each_quarter_of_a_second_until_nobody_calls(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "IDLE_SECONDS", 1.2)
    site.write(sentinels=[])
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    cache.get(key)
    port = site.servers["redis1"].port
    site.servers["redis1"].kill()
    seen = []
    with socket.create_server(("127.0.0.1", port)) as watched:
        threading.Thread(target=_accept_and_close, args=(watched, seen), daemon=True).start()
        for _ in range(2):
            cache.get(key)
        before = len(seen)
        end = time.monotonic() + 1.1
        while time.monotonic() < end:
            assert cache.get(key) is None
            time.sleep(0.002)
        assert 4 <= len(seen) - before <= 6
        until(lambda: parts_of(cache).shards["redis1"].master._thread is None)
    site.servers["redis1"].start()
    assert cache.get(key) is None
    cache.set(key, 1)
    until(lambda: cache.set(key, 1) or cache.get(key) == 1)


def _accept_and_close(server: socket.socket, seen: list[float]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        seen.append(time.monotonic())
        connection.close()


def test_a_restarted_server_costs_nothing(site: Site) -> None:
    cache = site.cache()
    keys = {name: keys_of(cache, name)[0] for name in NAMES}
    cache.set_many(dict.fromkeys(keys.values(), 1))
    pool = parts_of(cache).shards["redis1"].master.pool
    several = [pool.get_connection() for _ in range(5)]
    for each in several:
        pool.release(each)
    site.servers["redis1"].kill()
    site.servers["redis1"].start()
    assert cache.set_many(dict.fromkeys(keys.values(), 2)) == []
    assert cache.get(keys["redis1"]) == 2


def test_a_connection_that_broke_while_idle_costs_nothing(site: Site) -> None:
    """Also where a command may not be sent twice: it is seen before."""
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    cache.set(key, 1)
    for call in (
        lambda: cache.get(key) == 1,
        lambda: cache.get_many([key]) == {key: 1},
        lambda: cache.incr(key) == 2,
        lambda: cache.add(key, 1) is False,
        lambda: cache.set_many({key: 7}) == [],
    ):
        direct(site.servers["redis1"]).client_kill_filter(_type="normal")
        assert call()


def test_what_a_full_server_refuses_is_forgotten_there(site: Site) -> None:
    cache = site.cache()
    key, other = keys_of(cache, "redis1")[:2]
    cache.set_many({key: "old", other: "good"})
    full = direct(site.servers["redis1"])
    full.config_set("maxmemory-policy", "noeviction")
    full.config_set("maxmemory", 1)
    assert cache.set(key, "new") is None
    assert cache.set_many({key: "new"}) == [key]
    assert cache.get(key) is None
    # It is none that failed.
    assert cache.get(other) == "good"


def test_an_error_of_the_caller_is_raised(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    direct(site.servers["redis1"]).lpush(f":1:{key}", "no string")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cache.get(key)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        cache.incr(key)
    assert cache.get_many([key]) == {}
    assert not parts_of(cache).shards["redis1"].master.is_open


def test_an_interrupt_leaves_no_unread_replies(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = site.cache()
    data = {key: key for key in KEYS}
    cache.set_many(data)
    calls = []

    def interrupt(connection: Any) -> Any:
        calls.append(connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.get_many(data)
    assert len(calls) == 1
    assert cache.get_many(data) == data
    assert all(cache.get(key) == value for key, value in data.items())


# Lost writes


@pytest.mark.parametrize("write", ["set", "set_many", "delete", "delete_many"])
def test_a_lost_write_is_forgotten_when_the_shard_is_back_with_its_data(site: Site, write: str) -> None:
    cache = site.cache()
    key, other = keys_of(cache, "redis1")[:2]
    cache.set_many({key: "old", other: "good"})
    site.servers["redis1"].freeze()
    cache.get(key)
    cache.get(key)
    arguments = {"set": (key, "new"), "set_many": ({key: "new"},), "delete": (key,), "delete_many": ([key],)}
    getattr(cache, write)(*arguments[write])
    time.sleep(0.6)  # so that it is an outage, not a hiccup
    site.servers["redis1"].thaw()
    seen = set()
    until(lambda: seen.add(cache.get(key)) or cache.get(other) == "good")
    assert seen == {None}


@pytest.mark.quiet
def test_a_hiccup_costs_its_own_key_and_nothing_else(site: Site) -> None:
    cache = site.cache()
    key, other = keys_of(cache, "redis1")[:2]
    cache.set_many({key: "old", other: "good"})
    site.servers["redis1"].freeze()
    cache.set(key, "new")
    site.servers["redis1"].thaw()
    seen = set()
    seconds = until(lambda: seen.add(cache.get(key)) or cache.get(other) == "good")
    assert seen == {None}
    assert seconds < 0.3


@pytest.mark.quiet
def test_a_new_master_is_told_at_once_what_to_forget(site: Site) -> None:
    """Other processes read it a moment later, whatever the look for it here is waiting for."""
    cache = site.cache()
    lost, late = keys_of(cache, "redis2")[:2]
    cache.set(lost, "old")
    replica = site.replica("redis2")
    # A sentinel that writes to its disk tells news late, but answers nothing.
    for each in site.sentinels:
        each.freeze()
    site.servers["redis2"].freeze()
    assert cache.set_many({lost: "new"}) == [lost]
    direct(replica).replicaof("NO", "ONE")
    assert direct(replica).exists(f":1:{lost}")
    direct(replica).set(f":1:{late}", "old")
    site.sentinels[0].switch("redis2", replica.port)
    assert until(lambda: not direct(replica).exists(f":1:{lost}")) < 0.15
    # What is lost after that is told as soon.
    assert cache.set_many({late: "new"}) == [late]
    assert until(lambda: not direct(replica).exists(f":1:{late}")) < 0.15
    site.servers["redis2"].thaw()
    for each in site.sentinels:
        each.thaw()


def test_too_many_lost_writes_empty_the_shard(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "KEYS_TO_REMEMBER", 3)
    cache = site.cache()
    keys = keys_of(cache, "redis1", 6)
    cache.set_many(dict.fromkeys(keys, "old"))
    site.servers["redis1"].freeze()
    for key in keys[:4]:
        cache.delete(key)
    site.servers["redis1"].thaw()
    until(lambda: not parts_of(cache).shards["redis1"].master.debt)
    assert direct(site.servers["redis1"]).dbsize() == 0


def test_a_lost_clear_empties_the_shard_later(site: Site) -> None:
    cache = site.cache()
    cache.set_many(dict.fromkeys(KEYS, "old"))
    site.servers["redis1"].freeze()
    assert cache.clear() is False
    site.servers["redis1"].thaw()
    until(lambda: direct(site.servers["redis1"]).dbsize() == 0)


def test_a_lost_write_is_forgotten_also_where_nobody_calls_any_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "IDLE_SECONDS", 0.1)
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    cache.set(key, "old")
    site.servers["redis1"].freeze()
    cache.delete(key)
    time.sleep(1)
    site.servers["redis1"].thaw()
    until(lambda: direct(site.servers["redis1"]).dbsize() == 0)


@pytest.mark.quiet
def test_reads_wait_after_an_outage_until_every_process_has_forgotten(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    cache.set(key, 1)
    site.servers["redis1"].freeze()
    for _ in range(2):
        cache.get(key)
    time.sleep(0.6)
    site.servers["redis1"].thaw()
    taken = until(lambda: cache.set_many({key: 2}) == [])
    # Written again where it is missing: an attempt that got lost may be forgotten after one that was taken.
    read = until(lambda: (cache.get(key) or cache.set(key, 2)) == 2)
    assert taken < 0.3
    assert 0.4 < read < 0.8


LEAVING = """
import sys
from django.conf import settings
settings.configure()
import django
django.setup()
import webstack_cache
cache = webstack_cache.RingCache(sys.argv[1], {})
cache.set(sys.argv[2], "old")
print("ready", flush=True)
sys.stdin.readline()
cache.set(sys.argv[2], "new")
"""


def test_a_process_that_ends_waits_for_a_shard_that_has_to_forget(site: Site) -> None:
    key = keys_of(site.cache(), "redis1")[0]
    with subprocess.Popen(
        [sys.executable, "-c", LEAVING, str(site.path), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(FILES)},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        site.servers["redis1"].freeze()
        process.stdin.write(b"go\n")
        process.stdin.close()
        time.sleep(0.5)
        assert process.poll() is None
        site.servers["redis1"].thaw()
        assert process.wait(20) == 0
    assert direct(site.servers["redis1"]).dbsize() == 0


# Another master


def test_the_new_master_is_found(site: Site) -> None:
    replica = site.replica("redis2")
    cache = site.cache()
    key, kept = keys_of(cache, "redis2")[:2]
    cache.set_many({key: "old", kept: "kept"})
    time.sleep(shard.LATELY_SECONDS)
    cache.set(key, "new")
    site.servers["redis2"].kill()
    site.promote("redis2", replica)
    until(lambda: cache.get(kept) == "kept")
    # The last writes may not have reached the replica.
    assert cache.get(key) is None
    cache.set(key, "newer")
    assert cache.get(key) == "newer"
    assert direct(replica).exists(f":1:{key}")


@pytest.mark.quiet
def test_a_process_that_did_nothing_leaves_the_old_master_at_once(site: Site) -> None:
    """The old master is alive: it was cut off and is back, and takes itself for the master."""
    replica = site.replica("redis2")
    cache = site.cache()
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    until(lambda: direct(replica).exists(f":1:{key}"))
    time.sleep(0.1)
    site.promote("redis2", replica)
    direct(replica).set(f":1:{key}", 7)
    until(lambda: parts_of(cache).shards["redis2"].master.address.port == replica.port, 0.2)
    seen = set()
    until(lambda: seen.add(cache.get(key)) or cache.set_many({key: "newer"}) == [])
    until(lambda: seen.add(cache.get(key)) or cache.get(key) == "newer")
    assert "old" not in seen
    assert direct(site.servers["redis2"]).get(f":1:{key}") != direct(replica).get(f":1:{key}")


def test_news_that_nobody_heard_are_found_out(site: Site) -> None:
    """The sentinels say nothing of the change, but the listeners come back and look."""
    replica = site.replica("redis2")
    cache = site.cache()
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    for each in site.sentinels:
        each.kill()
        each.switch("redis2", replica.port, tell=False)
        each.start()
    direct(replica).replicaof("NO", "ONE")
    until(lambda: parts_of(cache).shards["redis2"].master.address.port == replica.port, 2)


@pytest.mark.quiet
def test_a_process_that_slept_asks_before_it_reads(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinels, "IDLE_SECONDS", 0.3)
    replica = site.replica("redis2")
    cache = site.cache()
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    until(lambda: not any(each.listeners for each in site.sentinels))
    site.promote("redis2", replica)
    direct(replica).set(f":1:{key}", 7)
    _, seconds = timed(lambda: cache.get("other"))
    assert seconds < 0.25
    assert cache.get(key) != "old"
    until(lambda: parts_of(cache).shards["redis2"].master.address.port == replica.port)


def test_the_sentinel_with_the_newest_configuration_is_right(site: Site) -> None:
    replica = site.replica("redis2")
    site.sentinels[1].switch("redis2", replica.port)
    direct(replica).replicaof("NO", "ONE")
    cache = site.cache()
    until_all_are_heard(cache)
    key = keys_of(cache, "redis2")[0]
    cache.set(key, 1)
    assert direct(replica).exists(f":1:{key}")


@pytest.mark.quiet
def test_a_master_that_the_sentinels_take_to_be_down_is_not_used(site: Site) -> None:
    cache = site.cache()
    key, other = keys_of(cache, "redis2")[0], keys_of(cache, "redis1")[0]
    cache.set_many({key: 1, other: 1})
    for each in site.sentinels:
        each.masters["redis2"]["flags"] = "s_down,master"
        each.tell("+sdown", f"master redis2 127.0.0.1 {site.servers['redis2'].port}")
        each.tell("+sdown", "slave 127.0.0.1:1 127.0.0.1 1 @ redis1 127.0.0.1 2")
    until(lambda: parts_of(cache).shards["redis2"].master.is_open, 0.2)
    time.sleep(0.3)
    assert cache.get(key) is None
    assert cache.get(other) == 1
    site.sentinels[0].masters["redis2"]["flags"] = site.sentinels[1].masters["redis2"]["flags"] = "master"
    until(lambda: cache.get(key) == 1)


@pytest.mark.quiet
def test_one_sentinel_that_is_cut_off_from_a_master_changes_nothing(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "redis2")[0]
    cache.set(key, 1)
    site.sentinels[0].masters["redis2"]["flags"] = "s_down,master,disconnected"
    site.sentinels[0].tell("+sdown", f"master redis2 127.0.0.1 {site.servers['redis2'].port}")
    assert until(lambda: cache.get(key) == 1) < 0.2


def test_no_master_is_used_while_a_replica_is_promoted(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "redis2")[0]
    site.sentinels[2].masters["redis2"]["flags"] = "master,failover_in_progress"
    until_all_are_heard(cache)
    assert cache.set_many({key: 1}) == [key]


def test_a_master_without_a_replica_is_used_again_whatever_the_sentinels_try(site: Site) -> None:
    """A vote that nobody wins marks it for seconds after it is back, and nobody can be promoted in its place."""
    cache = site.cache()
    key = keys_of(cache, "redis2")[0]
    site.sentinels[2].masters["redis2"] |= {"flags": "master,failover_in_progress", "replicas": 0}
    until_all_are_heard(cache)
    assert cache.set_many({key: 1}) == []


def struck_down(site: Site, name: str) -> None:
    site.servers[name].kill()
    for each in site.sentinels:
        each.masters[name]["flags"] = "s_down,master"
        each.tell("+sdown", f"master {name} 127.0.0.1 {site.servers[name].port}")


@pytest.mark.quiet
@pytest.mark.parametrize("tell", [True, False], ids=["heard", "unheard"])
def test_a_promoted_replica_is_used_before_the_sentinels_call_it_the_master(site: Site, tell: bool) -> None:
    """The one that leads a fail-over promotes it, and learns a second later that it did."""
    replica = site.replica("redis2")
    cache = site.cache()
    until_all_are_heard(cache)
    written, kept = keys_of(cache, "redis2")[:2]
    cache.set_many({written: "old", kept: "kept"})
    time.sleep(shard.LATELY_SECONDS)
    cache.set(written, "new")
    struck_down(site, "redis2")
    until(lambda: parts_of(cache).shards["redis2"].master.is_open)
    # The news of it comes before it is one.
    site.sentinels[1].lead("redis2", replica.port, tell)
    time.sleep(0.02)
    assert cache.set_many({kept: "early"}) == [kept]
    assert cache.get(kept) is None
    direct(replica).replicaof("NO", "ONE")
    direct(replica).client_kill_filter(_type="normal")
    found = until(lambda: cache.set_many({written: "newer"}) == [])
    assert found < (0.15 if tell else 0.5)
    until(lambda: cache.get(written) == "newer", 0.5)
    assert cache.get(kept) is None  # its write was lost
    # Announced at last: nobody need look again.
    for each in site.sentinels:
        each.switch("redis2", replica.port)
    end = time.monotonic() + sentinels.UNCONFIRMED_SECONDS + 0.5
    while time.monotonic() < end:
        assert cache.get(written) == "newer"
        time.sleep(0.01)


@pytest.mark.quiet
def test_a_server_that_takes_its_time_to_be_the_master_forgets_lost_writes_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 5)
    replica = site.replica("redis2")
    cache = site.cache()
    until_all_are_heard(cache)
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    until(lambda: direct(replica).dbsize() == 1)
    struck_down(site, "redis2")
    until(lambda: parts_of(cache).shards["redis2"].master.is_open)
    cache.delete(key)
    site.sentinels[1].lead("redis2", replica.port)
    time.sleep(3 * shard.PROMOTION_SECONDS)
    assert direct(replica).dbsize() == 1
    direct(replica).replicaof("NO", "ONE")
    until(lambda: direct(replica).dbsize() == 0, 0.3)


@pytest.mark.parametrize("loses", [True, False], ids=["loses", "loses nothing"])
def test_a_server_that_takes_its_time_to_be_the_master_is_used_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, loses: bool
) -> None:
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 5)
    replica = site.replica("redis2")
    cache = site.cache()
    until_all_are_heard(cache)
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    until(lambda: direct(replica).dbsize() == 1)
    struck_down(site, "redis2")
    until(lambda: parts_of(cache).shards["redis2"].master.is_open)
    site.sentinels[1].lead("redis2", replica.port)
    time.sleep(0.3)
    if loses:
        assert cache.set_many({key: "new"}) == [key]
    direct(replica).replicaof("NO", "ONE")
    direct(replica).client_kill_filter(_type="normal")
    until(lambda: cache.set_many({key: "newer"}) == [], 2)


def test_a_promotion_that_nobody_announces_is_taken_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentinel that led it is lost, the old master is back, and the others know of no other."""
    monkeypatch.setattr(sentinels, "UNCONFIRMED_SECONDS", 0.5)
    replica = site.replica("redis2")
    cache = site.cache()
    until_all_are_heard(cache)
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    site.servers["redis2"].freeze()
    for each in site.sentinels:
        each.masters["redis2"]["flags"] = "s_down,master"
    site.sentinels[0].lead("redis2", replica.port)
    direct(replica).replicaof("NO", "ONE")
    until(lambda: cache.set_many({key: "in vain"}) == [])
    site.sentinels[0].kill()
    site.servers["redis2"].thaw()
    for each in site.sentinels[1:]:
        each.masters["redis2"]["flags"] = "master"
    port = site.servers["redis2"].port
    until(lambda: parts_of(cache).shards["redis2"].master.address.port == port, 2)
    # What was written meanwhile is not on the old master, and its value from before is not seen again.
    until(lambda: not parts_of(cache).shards["redis2"].master.debt)
    assert not direct(site.servers["redis2"]).exists(f":1:{key}")
    assert cache.get(key) is None


def test_news_of_a_promotion_count_also_while_the_server_is_looked_at(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked the leading sentinel just before, found the server, and no master yet, still hears what comes."""
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 5)
    replica = site.replica("redis2")
    cache = site.cache()
    until_all_are_heard(cache)
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    until(lambda: direct(replica).dbsize() == 1)
    site.servers["redis2"].kill()
    site.sentinels[1].lead("redis2", replica.port, tell=False)
    site.sentinels[0].tell("+sdown", f"master redis2 127.0.0.1 {site.servers['redis2'].port}")
    until(lambda: parts_of(cache).shards["redis2"].master.is_open)
    cache.delete(key)
    time.sleep(3 * shard.PROMOTION_SECONDS)
    site.sentinels[1].lead("redis2", replica.port)
    time.sleep(0.02)
    direct(replica).replicaof("NO", "ONE")
    until(lambda: direct(replica).dbsize() == 0, 0.5)


# Processes that are late: no time limit tells when all have forgotten


class Late(Site):
    """A writer that loses a write and then has no turn, and a reader that uses the new master."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.turn = threading.Event()
        self.heir = self.replica("redis2")
        # Two clusters of one process know as little of each other as two processes.
        self.writer = self.cache(socket_keepalive=True)
        self.reader = self.cache(socket_keepalive=False)
        self.key, self.kept = keys_of(self.writer, "redis2")[:2]
        for each in (self.writer, self.reader):
            until_all_are_heard(each)
            until(lambda each=each: each.set_many({self.key: "old", self.kept: "kept"}) == [])

    def let_nothing_be_late(self) -> None:
        """What was written in the last two seconds is forgotten, and what was before the last answer."""
        time.sleep(shard.LATELY_SECONDS + 0.1)
        for each in (self.writer, self.reader):
            assert each.get(self.kept) == "kept"

    def lose_a_write(self) -> None:
        master = parts_of(self.writer).shards["redis2"].master
        self.let_nothing_be_late()
        self.servers["redis2"].freeze()
        recover, tell = master.recover, master._tell
        master.recover = lambda: self.turn.wait() and recover()
        master._tell = lambda: self.turn.wait() and tell()
        master.may_be_off_the_roll = lambda: False
        assert self.writer.set_many({self.key: "new"}) == [self.key]

    def stop(self) -> None:
        self.turn.set()
        super().stop()


@pytest.fixture
def late(tmp_path: Path) -> Iterator[Late]:
    made = Late(tmp_path)
    yield made
    for each in cluster._clusters._made.values():
        each._answers.close()
        for part in each.shards.values():
            part.close()
    made.stop()


def test_nobody_reads_a_new_master_before_the_last_has_forgotten(late: Late) -> None:
    late.lose_a_write()
    late.promote("redis2", late.heir)
    until(lambda: late.reader.set_many({"redis2:{" + late.kept + "}": 1}) == [])
    # The reader uses the server, five times longer than every process needs on an idle machine.
    end = time.monotonic() + 5 * shard.CHANGE_SECONDS
    while time.monotonic() < end:
        assert late.reader.get_many([late.key, late.kept]) == {}
    late.turn.set()
    until(lambda: late.reader.get(late.kept) == "kept", 0.5)
    assert late.reader.get(late.key) is None


def test_a_process_that_begins_after_a_fail_over_waits_as_well(late: Late) -> None:
    late.lose_a_write()
    late.promote("redis2", late.heir)
    begins = late.cache(socket_keepalive=None)
    end = time.monotonic() + 5 * shard.CHANGE_SECONDS
    while time.monotonic() < end:
        assert begins.get(late.key) is None
    late.turn.set()
    until(lambda: begins.get(late.kept) == "kept", 1)
    assert begins.get(late.key) is None


@pytest.mark.quiet
def test_a_shard_is_emptied_where_a_process_stays_silent(
    late: Late, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it knew nobody knows."""
    monkeypatch.setattr(roll, "PATIENCE_SECONDS", 1.0)
    late.lose_a_write()
    late.promote("redis2", late.heir)
    waited = until(lambda: late.reader.get(late.key, "missing") != "missing" or direct(late.heir).dbsize() == 0)
    assert 0.8 < waited < 2
    assert late.reader.get(late.key) is None
    until(lambda: "shard redis2 is emptied" in caplog.text)
    # Once, and for good: the next one has nobody to wait for.
    until(lambda: (late.reader.set(late.key, "newer"), late.reader.get(late.key))[1] == "newer")
    late.turn.set()
    until(lambda: late.writer.set_many({late.key: "newest"}) == [])
    until(lambda: late.reader.get(late.key) == "newest", 2)


def test_a_master_that_is_back_is_not_read_before_all_have_forgotten(
    late: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fail-over at all, and a process that had no turn for longer than any quarantine."""
    monkeypatch.setattr(roll, "PATIENCE_SECONDS", 10)
    late.lose_a_write()
    for _ in range(2):
        late.reader.get(late.kept)
    time.sleep(0.3)
    late.servers["redis2"].thaw()
    end = time.monotonic() + 3 * breaker.QUARANTINE_SECONDS
    while time.monotonic() < end:
        assert late.reader.get_many([late.key, late.kept]) == {}
    late.turn.set()
    until(lambda: late.reader.get(late.kept) == "kept", 2)
    assert late.reader.get(late.key) in (None, "new")


def test_an_answer_of_a_master_that_was_left_meanwhile_is_not_used(late: Late) -> None:
    """The call waits for the old master, the news come, and then it answers."""
    late.let_nothing_be_late()
    late.servers["redis2"].freeze()
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(late.reader.get(late.key)))
    thread.start()
    time.sleep(0.05)
    late.promote("redis2", late.heir)
    until(lambda: late.writer.set_many({late.key: "new"}) == [])
    late.servers["redis2"].thaw()
    thread.join()
    assert seen != ["old"]


def test_who_slept_between_question_and_answer_hears_the_news_before_it_believes(
    late: Late, monkeypatch: pytest.MonkeyPatch
) -> None:
    late.let_nothing_be_late()
    awake = threading.Event()
    awake.set()
    read, look = connections.Connection.read_response, connections.Connection.can_read

    def slowly(self: Any, *arguments: Any, **options: Any) -> Any:
        reply = read(self, *arguments, **options)
        if isinstance(reply, bytes) and b"old" in reply:
            awake.clear()
            late.promote("redis2", late.heir)
            direct(late.heir).delete(f":1:{late.key}")
            time.sleep(sentinels.LEASE_SECONDS + sentinels.PING_SECONDS)
            awake.set()
        return reply

    # The threads that listen sleep with it.
    monkeypatch.setattr(connections.Connection, "can_read", lambda self, seconds: awake.wait() and look(self, seconds))
    monkeypatch.setattr(connections.Connection, "read_response", slowly)
    assert late.reader.get(late.key) is None


# On a busy machine a server may answer too late for a process that ends.
@pytest.mark.quiet
def test_who_ends_or_does_nothing_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinels, "IDLE_SECONDS", 1.0)
    on_roll = redis.Redis(port=site.servers["redis1"].port, db=roll.DATABASE)

    def members() -> int:
        return sum(name.startswith(b"p") for name in on_roll.hkeys(f"{roll.KEY}:0"))

    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    cache.set(key, 1)
    assert members() == 1
    until(lambda: members() == 0)
    cache.get(key)
    until(lambda: members() == 1, 1.5)
    with subprocess.Popen(
        [sys.executable, "-c", LEAVING, str(site.path), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(FILES)},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert members() in (1, 2)
        process.communicate(b"go\n")
    until(lambda: members() == 0)


def test_who_was_killed_is_struck_off_the_roll(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll, "_MISSED", 2)
    monkeypatch.setattr(roll, "ANSWER_SECONDS", 0.02)
    on_roll = redis.Redis(port=site.servers["redis1"].port, db=roll.DATABASE)
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    cache.set(key, 1)
    on_roll.hset(f"{roll.KEY}:0", "pkilled", "1:0")
    until(lambda: not on_roll.hexists(f"{roll.KEY}:0", "pkilled"))
    assert cache.get(key) == 1


def test_without_a_place_for_a_roll_the_least_times_are_left(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for each in site.servers.values():
        direct(each).execute_command("ACL", "SETUSER", "default", "-select")
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    cache.set(key, 1)
    assert cache.get(key) == 1
    assert "shard redis1 keeps no roll" in caplog.text
    site.servers["redis1"].freeze()
    for _ in range(2):
        cache.get(key)
    time.sleep(0.6)
    site.servers["redis1"].thaw()
    waited = until(lambda: cache.get(key) == 1, 2)
    assert waited > breaker.QUARANTINE_SECONDS / 2


def test_a_write_that_is_refused_while_the_debt_is_paid_delays_nobody_for_long(late: Late) -> None:
    """It comes between the look that found the server and its use."""
    master = parts_of(late.reader).shards["redis2"].master
    settled = master.settled

    def owing() -> None:
        late.reader.set_many({late.key: "refused"})
        settled()

    master.settled = owing
    master._lock = threading.RLock()  # the call is made where the thread holds it
    late.servers["redis2"].freeze()
    for _ in range(2):
        late.reader.get(late.kept)
    time.sleep(0.3)
    late.servers["redis2"].thaw()
    until(lambda: late.reader.get(late.kept) == "kept", 2)
    assert late.reader.get(late.key) is None


def test_clearing_the_cache_leaves_the_roll(site: Site) -> None:
    cache = site.cache()
    cache.set_many(dict.fromkeys(KEYS, 1))
    on_roll = redis.Redis(port=site.servers["redis1"].port, db=roll.DATABASE)
    assert on_roll.exists(f"{roll.KEY}:0")
    cache.clear()
    assert on_roll.exists(f"{roll.KEY}:0")


def test_who_begins_to_listen_during_a_promotion_leaves_the_old_master(site: Site) -> None:
    replica = site.replica("redis2")
    cache = site.cache()
    until_all_are_heard(cache)
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    # The old master lives, and only the leader knows what goes on: nobody heard that.
    site.sentinels[2].kill()
    site.sentinels[2].lead("redis2", replica.port, tell=False)
    direct(replica).replicaof("NO", "ONE")
    site.sentinels[2].start()
    until(lambda: parts_of(cache).shards["redis2"].master.address.port == replica.port, 2)


def test_a_demoted_master_is_left(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "redis2")[0]
    cache.set(key, "old")
    replica = site.replica("redis2")
    for each in site.sentinels:
        each.switch("redis2", replica.port, tell=False)
    direct(replica).replicaof("NO", "ONE")
    direct(site.servers["redis2"]).replicaof("127.0.0.1", replica.port)
    cache.set(key, "new")
    until(lambda: cache.set(key, "new") or cache.get(key) == "new")
    assert direct(replica).exists(f":1:{key}")


# Sentinels that fail


@pytest.mark.quiet
def test_a_silent_sentinel_delays_nothing(site: Site) -> None:
    site.sentinels[0].freeze()
    cache = site.cache()
    found, seconds = timed(lambda: cache.set_many(dict.fromkeys(KEYS, 1)))
    assert found == []
    assert seconds < 1
    site.servers["redis2"].kill()
    site.servers["redis2"].start()
    times = [timed(lambda: cache.get_many(KEYS))[1] for _ in range(50)]
    assert sorted(times)[40] < 0.1


@pytest.mark.quiet
def test_open_connections_outlive_the_sentinels(site: Site) -> None:
    cache = site.cache()
    cache.set_many(dict.fromkeys(KEYS, 1))
    for each in site.sentinels:
        each.freeze()
    end = time.monotonic() + 2
    times = []
    while time.monotonic() < end:
        found, seconds = timed(lambda: cache.get_many(KEYS))
        assert len(found) == 60
        times.append(seconds)
        time.sleep(0.01)
    # Once, at the end of the lease, it waits to be told.
    assert sum(each > 0.2 for each in times) <= 3
    assert max(times) < 1
    for each in site.sentinels:
        each.thaw()
    until(lambda: not parts_of(cache)._sentinels._alone)


@pytest.mark.quiet
def test_without_any_sentinel_all_is_a_miss_soon(site: Site) -> None:
    for each in site.sentinels:
        each.freeze()
    cache = site.cache()
    found, seconds = timed(lambda: cache.get_many(KEYS))
    assert found == {}
    assert seconds < 0.6
    assert max(timed(lambda: cache.get_many(KEYS))[1] for _ in range(20)) < 0.1


def test_nobody_listens_in_a_process_that_does_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinels, "IDLE_SECONDS", 0.3)
    cache = site.cache()
    cache.get("a")
    assert until(lambda: all(each.listeners for each in site.sentinels)) < 1
    until(lambda: not any(each.listeners for each in site.sentinels))
    time.sleep(sentinels.LEASE_SECONDS)
    cache.set("a", 1)
    assert cache.get("a") == 1
    assert until(lambda: all(each.listeners for each in site.sentinels)) < 1


# TLS and accounts


@pytest.fixture(scope="module")
def authority() -> _pki.Pair:
    return _pki.issue_ca(_pki.now())


def speak_tls(site: Site, authority: _pki.Pair, address: str) -> list[RedisServer]:
    """Let all shards be one server that speaks TLS and shows a certificate for that address."""
    directory = site.path.parent
    names = _pki.alternative_names([], [address])
    made = _pki.issue(authority, "redis", names, 30, _pki.now())
    (directory / "ca.pem").write_text(authority.certificate_pem)
    (directory / "cert.pem").write_text(made.certificate_pem)
    (directory / "key.pem").write_text(made.key_pem)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", f"{directory}/ca.pem"]
    options += ["--tls-cert-file", f"{directory}/cert.pem", "--tls-key-file", f"{directory}/key.pem"]
    server = RedisServer(*options)
    direct(server).acl_setuser("application", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"])
    site.others.append(server)
    site.write(
        **ring({name: [f"127.0.0.1:{port}"] for name in NAMES}),
        sentinels=[],
        username="application",
        password="secret",
        tls={"ca": f"{directory}/ca.pem"},
    )
    return [server]


def test_servers_are_spoken_to_by_tls_as_an_account(site: Site, authority: _pki.Pair) -> None:
    (server,) = speak_tls(site, authority, "127.0.0.1")
    cache = site.cache()
    assert cache.set_many(dict.fromkeys(KEYS, 1)) == []
    assert len(cache.get_many(KEYS)) == 60
    assert cache.incr("key1") == 2
    users = {each["user"] for each in direct(server).client_list() if each["cmd"] != "client|list"}
    assert users == {"application"}
    assert in_a_child(lambda: cache.get("key1") == 2)
    assert cache.get("key1") == 2


def test_a_server_with_another_address_in_its_certificate_gets_no_password(
    site: Site, authority: _pki.Pair, caplog: pytest.LogCaptureFixture
) -> None:
    (server,) = speak_tls(site, authority, "192.0.2.1")
    cache = site.cache()
    for _ in range(3):
        assert cache.get("a") is None
    assert "certificate is not valid for '127.0.0.1'" in caplog.text
    assert "cmdstat_auth" not in direct(server).info("commandstats")


def test_a_server_of_another_authority_gets_no_password(
    site: Site, authority: _pki.Pair, caplog: pytest.LogCaptureFixture
) -> None:
    (server,) = speak_tls(site, authority, "127.0.0.1")
    (site.path.parent / "ca.pem").write_text(_pki.issue_ca(_pki.now()).certificate_pem)
    cache = site.cache()
    for _ in range(3):
        assert cache.get("a") is None
    assert "certificate verify failed" in caplog.text
    assert "cmdstat_auth" not in direct(server).info("commandstats")
    # A new authority is seen as soon as its file changes.
    (site.path.parent / "ca.pem").write_text(authority.certificate_pem)
    time.sleep(cluster.LOOK_SECONDS)
    until(lambda: cache.set_many({"a": 1}) == [])


# Replicas for reads


@pytest.mark.quiet
def test_reads_survive_the_master(site: Site) -> None:
    replica = site.replica("redis1")
    site.write(**ring({**site.content()["shards"], "redis1": [site.servers["redis1"].address, replica.address]}))
    cache = site.cache(prefer_replica=True)
    key = keys_of(cache, "redis1")[0]
    cache.set(key, 1)
    until(lambda: direct(replica).exists(f":1:{key}"))
    until(lambda: parts_of(cache).shards["redis1"].replica.allows(False))
    site.servers["redis1"].freeze()
    results = [timed(lambda: (cache.get(key), cache.get_many([key]))) for _ in range(100)]
    assert all(found == (1, {key: 1}) for found, _ in results)
    # Nobody waits for the master; on a crowded machine a few wait for their turn.
    assert sorted(seconds for _, seconds in results)[90] < 0.1
    assert cache.set_many({"x": 1, key: 2})
    # Promoted, and no sentinel has said so yet: connections end, reads go on.
    direct(replica).replicaof("NO", "ONE")
    for _ in range(20):
        direct(replica).client_kill_filter(_type="normal")
        assert cache.get(key) == 1
        direct(replica).client_kill_filter(_type="normal")
        assert cache.get_many([key]) == {key: 1}
    # One that is gone is another matter.
    assert parts_of(cache).shards["redis1"].replica.allows(False)
    site.promote("redis1", replica)
    until(lambda: cache.set_many({key: 3}) == [])
    until(lambda: cache.get(key) == 3)


@pytest.mark.quiet
def test_reads_fall_back_to_the_master(site: Site) -> None:
    replica = site.replica("redis1")
    site.write(**ring({**site.content()["shards"], "redis1": [site.servers["redis1"].address, replica.address]}))
    cache = site.cache(prefer_replica=True)
    key = keys_of(cache, "redis1")[0]
    cache.set(key, 1)
    assert cache.get(key) == 1  # before a replica was looked at
    until(lambda: parts_of(cache).shards["redis1"].replica.allows(False))
    direct(site.servers["redis1"]).config_resetstat()
    until(lambda: cache.get(key) == 1)
    assert "cmdstat_get" not in direct(site.servers["redis1"]).info("commandstats")
    replica.freeze()
    results = [timed(lambda: cache.get(key)) for _ in range(50)]
    assert all(found == 1 for found, _ in results)
    assert sum(seconds for _, seconds in results) < 0.6
    replica.thaw()
    until(lambda: parts_of(cache).shards["redis1"].replica.allows(False))


# Processes


def in_a_child(call: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if call() else 2
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def test_a_child_has_connections_and_listeners_of_its_own(site: Site) -> None:
    cache = site.cache()
    cache.set_many(dict.fromkeys(KEYS, 1))
    cache.get_many(KEYS)

    def child() -> bool:
        return len(cache.get_many(KEYS)) == 60 and all(cache.get(key) == 1 for key in KEYS)

    children = [in_a_child(child) for _ in range(2)]
    assert children == [True, True]
    assert len(cache.get_many(KEYS)) == 60
    assert not in_a_child(lambda: threading.active_count() > 1)


def test_a_child_owes_what_its_parent_owes(site: Site) -> None:
    cache = site.cache()
    key, other = keys_of(cache, "redis2")[:2]
    cache.set_many({key: "old", other: 1})
    site.servers["redis2"].freeze()
    cache.delete(key)
    cache.get(key)
    # As if threads of the parent were in the middle of something. It goes on, or the child would wait for it.
    lock = parts_of(cache).shards["redis2"].master._lock
    lock.acquire()

    threading.Timer(0.5, site.servers["redis2"].thaw).start()
    threading.Timer(0.7, lock.release).start()

    def child() -> bool:
        seen = set()
        until(lambda: seen.add(cache.get(key)) or cache.get(other) == 1)
        return seen == {None}

    assert in_a_child(child)


# Changes of the ring


FOUR = (*NAMES, "redis4")


def moved(keys: list[str]) -> tuple[list[str], list[str]]:
    """Return the keys that a fourth shard takes, and those that stay."""
    old, new = cluster.Ring(dict.fromkeys(NAMES, 1)), cluster.Ring(dict.fromkeys(FOUR, 1))
    moving = [key for key in keys if old.locate(f":1:{key}") != new.locate(f":1:{key}")]
    return moving, [key for key in keys if key not in moving]


@pytest.fixture
def grown(site: Site) -> dict[str, Any]:
    """The ring with a fourth shard, which runs."""
    fourth = RedisServer()
    site.others.append(fourth)
    for each in site.sentinels:
        each.masters["redis4"] = {"port": fourth.port, "flags": "master", "epoch": 1}
    return ring({**site.content()["shards"], "redis4": [fourth.address]})


def test_a_new_ring_is_used_within_a_second(site: Site, grown: dict[str, Any]) -> None:
    cache = site.cache()
    cache.set_many(dict.fromkeys(KEYS, 1))
    moving, staying = moved(KEYS)
    assert moving
    kept = dict(parts_of(cache).shards)
    site.write(**grown)
    time.sleep(cluster.LOOK_SECONDS)
    assert cache.get_many(KEYS) == dict.fromkeys(staying, 1)
    assert {cache.locate(key) for key in moving} == {"redis4"}
    # Neither connections nor breakers were lost.
    assert all(parts_of(cache).shards[name] is part for name, part in kept.items())
    site.write()
    time.sleep(cluster.LOOK_SECONDS)
    cache.get("a")
    assert set(parts_of(cache).shards) == set(NAMES)


def test_a_ring_that_comes_while_the_first_is_read_is_used_too(
    site: Site, grown: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = cluster.load

    def slow(path: Path) -> Any:
        configuration = load(path)
        site.write(**grown)
        monkeypatch.setattr(cluster, "load", load)
        return configuration

    monkeypatch.setattr(cluster, "load", slow)
    cache = site.cache()
    time.sleep(cluster.LOOK_SECONDS)
    cache.get("a")
    assert set(parts_of(cache).shards) == {*NAMES, "redis4"}


def test_a_shard_that_is_taken_away_while_it_is_dead_leaves_nothing_behind(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "redis3")[0]
    cache.set(key, 1)
    gone = parts_of(cache).shards["redis3"]
    site.servers["redis3"].kill()
    cache.delete(key)
    assert gone.master.debt
    shards = site.content()["shards"]
    del shards["redis3"]
    site.write(**ring(shards))
    time.sleep(cluster.LOOK_SECONDS)
    assert cache.set_many(dict.fromkeys(KEYS, 1)) == []
    gone.dropped(key)
    assert not gone.master.debt
    # Its probes end with the calls.
    gone.master._wanted_until = 0.0
    until(lambda: gone.master._thread is None)


def test_keys_that_move_are_misses_and_are_deleted_on_both_shards(site: Site, grown: dict[str, Any]) -> None:
    cache = site.cache()
    cache.set_many(dict.fromkeys(KEYS, 1))
    moving, staying = moved(KEYS)
    following = {key: value for key, value in grown.items() if key != "algorithm"}
    site.write(next=following)
    time.sleep(cluster.LOOK_SECONDS)
    assert cache.get_many(KEYS) == dict.fromkeys(staying, 1)
    key = moving[0]
    before = direct(site.servers[cache.locate(key)])
    after = direct(site.others[0])
    assert cache.get(key) is None
    assert cache.has_key(key) is False
    for call, answer in (
        (lambda: cache.set(key, 2), None),
        (lambda: cache.add(key, 2), False),
        (lambda: cache.touch(key), False),
        (lambda: cache.delete(key), False),
        (lambda: cache.set_many({key: 2, staying[0]: 2}), [key]),
        (lambda: cache.delete_many([key, staying[1]]), None),
    ):
        before.set(f":1:{key}", "old")
        after.set(f":1:{key}", "old")
        assert call() == answer
        assert not before.exists(f":1:{key}")
        assert not after.exists(f":1:{key}")
    with pytest.raises(ValueError, match="not found"):
        cache.incr(key)
    with pytest.raises(webstack_cache.ShardUnavailable, match="moves from"):
        cache.lock(key).acquire()
    assert cache.get(staying[0]) == 2
    # The next step.
    site.write(**grown)
    time.sleep(cluster.LOOK_SECONDS)
    assert cache.set_many({key: 3}) == []
    assert after.exists(f":1:{key}")


def test_a_shard_with_other_servers_keeps_its_keys_name_and_debt(site: Site) -> None:
    site.write(sentinels=[])
    cache = site.cache()
    key = keys_of(cache, "redis1")[0]
    cache.set(key, "old")
    other = site.replica("redis1")
    until(lambda: direct(other).exists(f":1:{key}"))
    site.servers["redis1"].freeze()
    cache.delete(key)
    direct(other).replicaof("NO", "ONE")
    site.write(sentinels=[], **ring({**site.content()["shards"], "redis1": [other.address]}))
    until(lambda: cache.get("a") or cache.set_many({key: 1}) == [])
    assert direct(other).exists(f":1:{key}")


def test_a_wrong_new_file_is_logged_and_not_used(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    cache = site.cache()
    cache.set("a", 1)
    site.write(fingerprint="0" * 16)
    for _ in range(3):
        time.sleep(cluster.LOOK_SECONDS / 2)
        assert cache.get("a") == 1
    assert sum("the ring stays" in record.getMessage() for record in caplog.records) == 1
    site.path.unlink()
    time.sleep(cluster.LOOK_SECONDS)
    assert cache.get("a") == 1


# The file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "0" * 16}, "the fingerprint is 0000000000000000, but these shards make the ring"),
        ({"points": 320}, "but these shards make the ring"),
        ({"weights": {"redis1": 2}}, "but these shards make the ring"),
        ({"algorithm": "maglev"}, "unknown algorithm 'maglev'"),
        ({"shards": {"redis1": [], "redis2": [], "redis3": []}}, "without a server: redis1"),
        ({"shards": {}}, "at least one shard"),
        ({"shards": None}, "cache.json"),
        ({"shards": {"redis1": "127.0.0.1:1"}}, "must be a list of addresses"),
        ({"shards": {"redis1": ["127.0.0.1"]}}, "'127.0.0.1' is not an address like"),
        ({"shards": {"redis1": ["::1:6379"]}}, "'::1:6379' must stand in brackets"),
        ({"weights": {"redis9": 2}}, "weights of shards that do not exist: redis9"),
        ({"weights": {"redis1": 0}}, "weight of shard 'redis1'"),
        ({"engine": "redis_cluster"}, "the engine is 'redis_cluster', this client is for 'ring'"),
        ({"next": {"points": 160}}, "'shards' is missing"),
        ({"tls": {}}, "'ca' is missing"),
        ({"tls": {"ca": "/nonexistent.pem"}}, "tls.ca: /nonexistent.pem is no usable authority"),
        ({"tls": {"ca": __file__}}, "is no usable authority"),
    ],
)
def test_a_wrong_file_is_refused(site: Site, changes: dict[str, Any], message: str) -> None:
    site.write(**changes)
    with pytest.raises(configuration.ConfigurationError, match=message):
        configuration.load(site.path)
    with pytest.raises(ImproperlyConfigured, match=message):
        site.cache().get("a")
    backends = {"default": {"BACKEND": "webstack_cache.RingCache", "LOCATION": str(site.path)}}
    with override_settings(CACHES=backends), pytest.raises(SystemCheckError, match=message):
        call_command("check", tags=["caches"])


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(configuration.ConfigurationError, match="cannot be read: No such file"):
        configuration.load(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(configuration.ConfigurationError, match="is not JSON"):
        configuration.load(tmp_path / "broken.json")


def test_a_right_file_passes_the_check(site: Site) -> None:
    backends = {
        "default": {"BACKEND": "webstack_cache.RingCache", "LOCATION": site.path},
        "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }
    with override_settings(CACHES=backends):
        call_command("check", tags=["caches"])
        caches["default"].set("a", 1)
        assert caches["default"].get("a") == 1


@pytest.mark.parametrize("text", ["192.0.2.31:6379", "[2001:db8::31]:6380", "redis1.example.com:1"])
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    assert str(configuration.Address.parse(text)) == text


def test_the_password_is_not_shown(site: Site) -> None:
    site.write(username="application", password="secret-4711")
    assert "secret-4711" not in repr(configuration.load(site.path))


def test_a_thousand_shards_are_loaded_soon(tmp_path: Path) -> None:
    """Ten times as many take about ten times as long, on any machine."""

    def cost(count: int) -> float:
        shards = {f"redis{n}": [f"10.77.{n >> 8}.{n & 255}:{port}" for port in (6379, 6380)] for n in range(count)}
        path = tmp_path / f"{count}.json"
        path.write_text(json.dumps({"engine": "ring", **ring(shards), "sentinels": ["10.77.0.1:26379"]}))
        spent = []
        for _ in range(3):
            begin = time.process_time()
            cluster.Cluster(path)
            spent.append(time.process_time() - begin)
        return min(spent)

    assert cost(1000) < 40 * cost(100)


def test_the_ring_of_client_and_controller_is_one_file() -> None:
    ours = (FILES / "webstack_cache/ring.py").resolve()
    assert ours == Path(__file__).parents[2].resolve() / "plugins/module_utils/webstack/pure/ring.py"

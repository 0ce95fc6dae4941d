"""The Django cache backend against servers that can be frozen, killed and moved at will.

The servers here speak just enough of the Redis protocol; the scenario redis_cluster_client does the same with
real Redis and Sentinel.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import webstack_cache
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from webstack_cache import breaker, cluster, configuration
from webstack_cache.ring import Ring

FILES = Path(__file__).parents[2] / "roles/redis_cluster_client/files"

NAMES = ("s1", "s2", "s3")


class Server:
    """A Redis server, or a sentinel, in a thread."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.expiry: dict[bytes, int] = {}
        self.masters: dict[str, tuple[str, int] | None] = {}
        self.commands: list[str] = []
        self.error: bytes | None = None
        self.drop_next = False
        self.running = threading.Event()
        self.running.set()
        self.port = 0
        self.start()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def freeze(self) -> None:
        self.running.clear()

    def thaw(self) -> None:
        self.running.set()

    def kill(self) -> None:
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.running.set()
        self.data.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while line := stream.readline():
                    words = []
                    for _ in range(int(line[1:])):
                        length = int(stream.readline()[1:])
                        words.append(stream.read(length + 2)[:-2])
                    self.running.wait()
                    if self.drop_next and words[0] not in (
                        b"CLIENT",
                        b"AUTH",
                        b"SELECT",
                    ):
                        self.drop_next = False
                        return
                    connection.sendall(self._answer(words))
        except (OSError, ValueError):
            return

    def _answer(self, words: list[bytes]) -> bytes:
        command = words[0].decode().upper()
        self.commands.append(command)
        if command in ("CLIENT", "AUTH", "SELECT"):
            return b"+OK\r\n"
        if self.error:
            return b"-" + self.error + b"\r\n"
        if command == "PING":
            return b"+PONG\r\n"
        if command == "SENTINEL":
            address = self.masters.get(words[2].decode())
            if address is None:
                return b"-ERR No such master with that name\r\n"
            pairs = {
                "name": words[2].decode(),
                "ip": address[0],
                "port": str(address[1]),
                "flags": "master",
                "num-other-sentinels": "2",
            }
            return array([bulk(word.encode()) for pair in pairs.items() for word in pair])
        if command == "GET":
            return bulk(self.data.get(words[1]))
        if command == "MGET":
            return array([bulk(self.data.get(key)) for key in words[1:]])
        if command == "SET":
            options = [word.upper() for word in words[3:]]
            if b"NX" in options and words[1] in self.data:
                return bulk(None)
            self.data[words[1]] = words[2]
            self.expiry[words[1]] = int(options[options.index(b"EX") + 1]) if b"EX" in options else 0
            return b"+OK\r\n"
        if command == "UNLINK":
            return number(sum(self.data.pop(key, None) is not None for key in words[1:]))
        if command in ("EXISTS", "EXPIRE", "PERSIST"):
            return number(words[1] in self.data)
        if command == "EVAL":  # the only script here is that of incr
            if words[3] not in self.data:
                return bulk(None)
            self.data[words[3]] = b"%d" % (int(self.data[words[3]]) + int(words[4]))
            return number(int(self.data[words[3]]))
        if command == "FLUSHDB":
            self.data.clear()
            return b"+OK\r\n"
        return b"-ERR unknown command\r\n"


def bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


def array(items: list[bytes]) -> bytes:
    return b"*%d\r\n%s" % (len(items), b"".join(items))


def number(value: int) -> bytes:
    return b":%d\r\n" % value


class Site:
    """Three shards, three sentinels, the file, and the cache."""

    def __init__(self, directory: Path) -> None:
        self.servers = {name: Server() for name in NAMES}
        self.sentinels = [Server() for _ in range(3)]
        for sentinel in self.sentinels:
            sentinel.masters = {name: ("127.0.0.1", server.port) for name, server in self.servers.items()}
        self.path = directory / "cache.json"
        self.content: dict[str, Any] = {
            "engine": "ring",
            "algorithm": "ketama160a",
            "points": 160,
            "fingerprint": Ring(dict.fromkeys(NAMES, 1)).fingerprint,
            "shards": {name: [f"127.0.0.1:{server.port}"] for name, server in self.servers.items()},
            "sentinels": [f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels],
            "password": "secret",
        }
        self.write()

    def write(self, **changes: Any) -> None:
        self.path.write_text(json.dumps({**self.content, **changes}))

    def cache(self, **options: Any) -> Any:
        return webstack_cache.RingCache(str(self.path), {"OPTIONS": options, "TIMEOUT": 300})

    def promote(self, shard: str, server: Server) -> None:
        for sentinel in self.sentinels:
            sentinel.masters[shard] = ("127.0.0.1", server.port)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for server in (*made.servers.values(), *made.sentinels):
        server.kill()


def keys_of(cache: Any, shard: str, count: int = 5) -> list[str]:
    return [key for key in (f"key{n}" for n in range(400)) if cache.locate(key) == shard][:count]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started


def until(condition: Callable[[], Any], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# The healthy cache


def test_a_key_is_on_the_shard_that_locate_names(site: Site) -> None:
    cache = site.cache()
    for n in range(60):
        cache.set(f"key{n}", {"n": n})
    for n in range(60):
        owner = cache.locate(f"key{n}")
        assert [name for name, server in site.servers.items() if f":1:key{n}".encode() in server.data] == [owner]
        assert cache.get(f"key{n}") == {"n": n}
    assert all(server.data for server in site.servers.values())


def test_the_api_of_django(site: Site) -> None:
    cache = site.cache()
    assert cache.get("a") is None
    assert cache.get("a", "default") == "default"
    assert cache.add("a", 1) is True
    assert cache.add("a", 2) is False
    assert cache.incr("a", 4) == 5
    assert cache.decr("a") == 4
    with pytest.raises(ValueError, match="not found"):
        cache.incr("nothing")
    assert cache.has_key("a")
    assert "b" not in cache
    assert cache.touch("a", 5) is True
    assert cache.touch("b") is False
    assert cache.get_or_set("c", lambda: "made") == "made"
    assert cache.delete("a") is True
    assert cache.delete("a") is False
    cache.set("gone", 1, timeout=0)
    assert cache.get("gone") is None
    with pytest.raises(ValueError, match="say the key"):
        cache._cache.get_client()


def test_many_keys_are_one_round_trip_per_shard(site: Site) -> None:
    cache = site.cache()
    data = {f"key{n}": n for n in range(50)}
    cache.get("warm")
    for server in site.servers.values():
        server.commands.clear()
    assert cache.set_many(data, timeout=60) == []
    assert cache.get_many([*data, "missing"]) == data
    assert all(server.commands.count("MGET") == 1 for server in site.servers.values())
    assert all(set(server.expiry.values()) == {60} for server in site.servers.values())
    cache.delete_many(list(data))
    assert all(server.commands.count("UNLINK") == 1 for server in site.servers.values())
    assert cache.get_many(data) == {}
    assert cache.get_many([]) == {}
    assert cache.set_many({"x": 1}, timeout=None) == []
    assert [server.expiry[b":1:x"] for server in site.servers.values() if b":1:x" in server.expiry] == [0]
    assert cache.set_many({"x": 2}, timeout=0) == []
    assert cache.get("x") is None


def test_clear_empties_every_shard(site: Site) -> None:
    cache = site.cache()
    cache.set_many({f"key{n}": n for n in range(50)})
    assert cache.clear() is True
    assert not any(server.data for server in site.servers.values())


def test_servers_work_at_the_same_time(site: Site) -> None:
    cache = site.cache()
    keys = [f"key{n}" for n in range(50)]
    cache.set_many(dict.fromkeys(keys, 1))
    for server in site.servers.values():
        server.freeze()
    threading.Timer(0.15, lambda: [server.thaw() for server in site.servers.values()]).start()
    found, seconds = timed(lambda: cache.get_many(keys))
    assert len(found) == 50
    assert seconds < 0.25


def test_without_sentinels_the_first_server_of_a_shard_is_asked(site: Site) -> None:
    site.write(sentinels=[])
    cache = site.cache()
    cache.set("a", 1)
    assert cache.get("a") == 1


def test_threads_share_one_cluster(site: Site) -> None:
    clusters = []
    threads = [threading.Thread(target=lambda: clusters.append(site.cache()._cache.cluster)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clusters) == 8
    assert len(set(map(id, clusters))) == 1


# Shards that fail


def test_a_killed_shard_costs_misses_for_its_keys_only(site: Site) -> None:
    cache = site.cache()
    data = {f"key{n}": n for n in range(60)}
    cache.set_many(data)
    healthy = {key: value for key, value in data.items() if cache.locate(key) != "s2"}
    dead = keys_of(cache, "s2")
    site.servers["s2"].kill()
    for _ in range(3):
        assert cache.get_many(data) == healthy
        assert cache.get(dead[0], "default") == "default"
    for call in (
        lambda: cache.get(dead[0]),
        lambda: cache.set(dead[0], 1),
        lambda: cache.get_many(data),
        lambda: cache.delete_many(dead),
    ):
        _, seconds = timed(call)
        assert seconds < 0.02
    alive = keys_of(cache, "s1")
    assert sorted(cache.set_many(dict.fromkeys([*dead, *alive], 0))) == sorted(dead)
    assert not any(f":1:{key}".encode() in server.data for key in dead for server in site.servers.values())


def test_every_call_on_a_dead_shard(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s1")[0]
    site.servers["s1"].kill()
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
    key = keys_of(cache, "s1")[0]
    other = keys_of(cache, "s2")[0]
    site.servers["s1"].kill()
    for call in (
        lambda: cache.get(key),
        lambda: cache.add(key, 1),
        lambda: cache.incr(key),
        lambda: cache.get_many([key, other]),
        lambda: cache.set_many({key: 1, other: 1}),
        cache.clear,
    ):
        with pytest.raises(webstack_cache.ShardUnavailable, match="s1"):
            call()
    # The healthy shard did get its part of what failed as a whole.
    assert "FLUSHDB" in site.servers["s2"].commands
    cache.set(other, 1)
    assert cache.get(other) == 1


def test_a_frozen_shard_stalls_two_calls_and_no_more(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s3")[0]
    cache.set(key, 1)
    site.servers["s3"].freeze()
    stalls = [timed(lambda: cache.get(key))[1] for _ in range(2)]
    assert all(0.2 < seconds < 0.4 for seconds in stalls)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        value, seconds = timed(lambda: cache.get(key))
        assert value is None
        assert seconds < 0.05
        time.sleep(0.01)
    site.servers["s3"].thaw()
    until(lambda: cache.get(key) == 1)


def test_two_frozen_shards_cost_one_time_limit(site: Site) -> None:
    cache = site.cache()
    data = {f"key{n}": n for n in range(60)}
    cache.set_many(data)
    site.servers["s1"].freeze()
    site.servers["s3"].freeze()
    found, seconds = timed(lambda: cache.get_many(data))
    assert found == {key: value for key, value in data.items() if cache.locate(key) == "s2"}
    assert seconds < 0.4


def test_one_probe_each_quarter_of_a_second(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s1")[0]
    site.servers["s1"].error = b"LOADING Redis is loading the dataset in memory"
    for _ in range(2):
        cache.get(key)
    site.servers["s1"].commands.clear()
    end = time.monotonic() + 1.1
    while time.monotonic() < end:
        cache.get(key)
        time.sleep(0.002)
    assert site.servers["s1"].commands.count("GET") == 0
    assert 3 <= site.servers["s1"].commands.count("PING") <= 4
    site.servers["s1"].error = None
    until(lambda: cache.set(key, 1) or cache.get(key) == 1)


def test_a_restarted_server_costs_nothing(site: Site) -> None:
    cache = site.cache()
    keys = {name: keys_of(cache, name)[0] for name in NAMES}
    cache.set_many(dict.fromkeys(keys.values(), 1))
    site.servers["s1"].kill()
    site.servers["s1"].start()
    assert cache.set_many(dict.fromkeys(keys.values(), 2)) == []
    assert cache.get(keys["s1"]) == 2


def test_a_broken_connection_is_repeated_where_that_is_safe(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s1")[0]
    cache.set(key, 1)
    site.servers["s1"].drop_next = True
    assert cache.get(key) == 1
    site.servers["s1"].drop_next = True
    assert cache.get_many([key]) == {key: 1}
    # The server may have counted before the connection broke.
    site.servers["s1"].drop_next = True
    with pytest.raises(ValueError, match="does not answer"):
        cache.incr(key)
    site.servers["s1"].drop_next = True
    assert cache.add(key, 1) is False


def test_the_new_master_is_found(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s2")[0]
    cache.set(key, "old")
    replica = Server()
    replica.data.update(site.servers["s2"].data)
    site.servers["s2"].kill()
    site.promote("s2", replica)
    assert cache.get(key) == "old"
    cache.set(key, "new")
    assert replica.data
    replica.kill()


def test_a_demoted_master_is_left(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s2")[0]
    cache.set(key, "old")
    replica = Server()
    site.servers["s2"].error = b"READONLY You can't write against a read only replica."
    site.promote("s2", replica)
    cache.set(key, "new")
    assert cache.get(key) == "new"
    assert f":1:{key}".encode() in replica.data
    replica.kill()


def test_silent_sentinels_are_passed_over(site: Site) -> None:
    site.sentinels[0].freeze()
    site.sentinels[1].kill()
    cache = site.cache()
    found, seconds = timed(lambda: cache.set_many({f"key{n}": n for n in range(60)}))
    assert found == []
    assert seconds < 0.5
    for sentinel in site.sentinels:
        sentinel.kill()
    # Open connections need no sentinel.
    assert len(cache.get_many([f"key{n}" for n in range(60)])) == 60


def test_without_any_sentinel_all_is_a_miss_soon(site: Site) -> None:
    for sentinel in site.sentinels:
        sentinel.freeze()
    cache = site.cache()
    found, seconds = timed(lambda: cache.get_many([f"key{n}" for n in range(60)]))
    assert found == {}
    assert seconds < 1.0


def test_a_full_server_refuses_without_an_exception(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s1")[0]
    site.servers["s1"].error = b"OOM command not allowed when used memory > 'maxmemory'."
    assert cache.set(key, 1) is None
    assert cache.set_many({key: 1}) == [key]
    assert cache._cache.cluster.shards["s1"].breaker.is_open is False


def test_an_error_of_the_caller_is_raised(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s1")[0]
    site.servers["s1"].error = b"NOPERM this user has no permissions"
    with pytest.raises(Exception, match="no permissions"):
        cache.get(key)
    with pytest.raises(Exception, match="no permissions"):
        cache.get_many([key])
    site.servers["s1"].error = None
    assert cache.get_many([key]) == {}


def test_an_interrupt_leaves_no_unread_replies(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = site.cache()
    data = {f"key{n}": n for n in range(60)}
    cache.set_many(data)
    calls = []

    def interrupt(connection: Any) -> Any:
        calls.append(connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.get_many(data)
    assert len(calls) == 1
    assert cache.get_many(data) == data
    assert all(cache.get(key) == value for key, value in data.items())


def test_after_a_fork(site: Site) -> None:
    cache = site.cache()
    key = keys_of(cache, "s1")[0]
    other = keys_of(cache, "s2")[0]
    cache.set(key, 1)
    cache.set(other, 2)
    site.servers["s2"].freeze()
    for _ in range(2):
        cache.get(other)
    probing = cache._cache.cluster.shards["s2"].breaker._probing
    probing.acquire()  # as if a probe of the parent were under way
    site.servers["s2"].thaw()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if cache.get(key) == 1 and cache.get(other) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert cache.get(key) == 1


def test_the_breaker_needs_two_errors_in_a_row() -> None:
    made = breaker.Breaker("s1", lambda: None)
    for _ in range(5):
        made.failed(OSError("x"))
        made.succeeded()
    assert made.allows()
    made.failed(OSError("x"))
    made.failed(OSError("x"))
    assert not made.allows()


# The file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fingerprint": "0" * 16},
            "the fingerprint is 0000000000000000, but these shards make the ring",
        ),
        ({"points": 320}, "but these shards make the ring"),
        ({"weights": {"s1": 2}}, "but these shards make the ring"),
        ({"algorithm": "maglev"}, "unknown algorithm 'maglev'"),
        ({"shards": {"s1": [], "s2": [], "s3": []}}, "without a server: s1"),
        ({"shards": {}}, "at least one shard"),
        ({"shards": None}, "cache.json"),
        ({"shards": {"s1": "127.0.0.1:1"}}, "must be a list of addresses"),
        ({"shards": {"s1": ["127.0.0.1"]}}, "'127.0.0.1' is not an address like"),
        ({"shards": {"s1": ["::1:6379"]}}, "'::1:6379' must stand in brackets"),
        ({"weights": {"s9": 2}}, "weights of shards that do not exist: s9"),
        ({"weights": {"s1": 0}}, "weight of shard 's1'"),
        ({"engine": "redis_cluster"}, "the engine is 'redis_cluster', this client is for 'ring'"),
        ({"next": {"points": 160}}, "'shards' is missing"),
        ({"tls": {}}, "'ca' is missing"),
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


def test_the_password_is_not_shown(site: Site) -> None:
    assert "secret" not in repr(configuration.load(site.path))


def test_the_ring_of_client_and_controller_is_one_file() -> None:
    ours = (FILES / "webstack_cache/ring.py").resolve()
    assert ours == Path(__file__).parents[2].resolve() / "plugins/module_utils/hash_ring.py"

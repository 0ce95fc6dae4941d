"""The cache's API on three shards of real Redis. Failures and fail-overs: test_webstack_cache.py."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import webstack_cache
import yaml
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends import cache as cache_sessions
from django.contrib.sessions.backends import cached_db
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.http import HttpResponse
from django.template import Context, Engine
from django.test import Client, RequestFactory, override_settings
from django.views.decorators.cache import cache_page
from redis.exceptions import LockError, LockNotOwnedError
from redis_servers import Shards, ring

ROOT = Path(__file__).parents[2]
NAMES = ("redis1", "redis2", "redis3")


def make(shards: Shards, **params: Any) -> Any:
    return webstack_cache.RingCache(shards.path, {"TIMEOUT": 300, **params})


@pytest.fixture
def cache(shards: Shards) -> Any:
    return make(shards)


@pytest.fixture
def default(shards: Shards) -> Iterator[Any]:
    """The ring as the site's default cache."""
    backend = {"BACKEND": "webstack_cache.RingCache", "LOCATION": shards.path}
    with override_settings(CACHES={"default": backend}):
        yield caches["default"]


def servers(shards: Shards) -> dict[str, redis.Redis]:
    return {name: redis.Redis(port=server.port) for name, server in shards.servers.items()}


def stored(shards: Shards) -> dict[str, str]:
    """Return every key, and the shard that has it."""
    return {key.decode(): name for name, client in servers(shards).items() for key in client.scan_iter()}


def keys_of(cache: Any, shard: str, count: int) -> list[str]:
    return [key for key in (f"key{n}" for n in range(1000)) if cache.locate(key) == shard][:count]


# One key


def test_values_of_all_kinds_come_back(cache: Any) -> None:
    for value in (None, True, False, 0, -1, 2**70, 1.5, "", "é", b"\x00", [1, {"a": (2, 3)}], {4}, float("inf")):
        cache.set("value", value)
        assert cache.get("value", "default") == value
        assert type(cache.get("value")) is type(value)


def test_a_key_is_on_one_shard_and_there_alone(shards: Shards, cache: Any) -> None:
    cache.set_many({f"key{n}": n for n in range(100)})
    assert stored(shards) == {f":1:key{n}": cache.locate(f"key{n}") for n in range(100)}


@pytest.mark.parametrize(("timeout", "left"), [(60, 60), (60.9, 60), ("default", 300), (None, None), (0, 0), (-5, 0)])
def test_timeouts(cache: Any, timeout: Any, left: int | None) -> None:
    options = {} if timeout == "default" else {"timeout": timeout}
    cache.set("one", 1, **options)
    cache.set_many({"many": 1}, **options)
    assert cache.add("added", 1, **options) is True
    cache.set("touched", 1, timeout=5)
    assert cache.touch("touched", **options) is True
    for key in ("one", "many", "added", "touched"):
        assert cache.ttl(key) == left, key
        assert (key in cache) == (left != 0), key


def test_touching_a_key_without_an_end_says_that_it_is_there(cache: Any) -> None:
    cache.set("a", 1, timeout=None)
    assert cache.touch("a", None) is True
    assert cache.touch("b", None) is False


def test_a_default_timeout_of_none(shards: Shards) -> None:
    cache = make(shards, TIMEOUT=None)
    cache.set("a", 1)
    assert cache.ttl("a") is None


def test_add_stores_only_what_is_not_there(cache: Any) -> None:
    assert cache.add("a", 1) is True
    assert cache.add("a", 2) is False
    assert cache.add("a", 2, timeout=0) is False
    assert cache.get("a") == 1


def test_only_one_of_many_adds_wins(cache: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda n: cache.add("a", n), range(200))) == 1


def test_incr(cache: Any) -> None:
    cache.set("n", 10, timeout=60)
    assert cache.incr("n") == 11
    assert cache.decr("n", 5) == 6
    assert cache.incr("n", -6) == 0
    assert cache.get("n") == 0
    assert cache.ttl("n") > 50  # it still ends when it would have


def test_incr_does_not_make_a_key(shards: Shards, cache: Any) -> None:
    for call in (cache.incr, cache.decr):
        with pytest.raises(ValueError, match=r"Key ':1:n' not found\.$"):
            call("n")
    assert stored(shards) == {}


def test_incr_of_what_is_no_number(cache: Any) -> None:
    cache.set("n", "text")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        cache.incr("n")
    cache.set("n", 1)
    with pytest.raises(redis.ResponseError, match="not an integer"):
        cache.incr("n", 1.5)
    assert cache.get("n") == 1


def test_counting_in_threads_loses_nothing(cache: Any) -> None:
    cache.set("n", 0)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: cache.incr("n"), range(800)))
    assert cache.get("n") == 800


def test_versions(cache: Any) -> None:
    cache.set("a", "one")
    cache.set("a", "two", version=2)
    assert (cache.get("a"), cache.get("a", version=2)) == ("one", "two")
    assert cache.incr_version("a", 5) == 6
    assert (cache.get("a"), cache.get("a", version=6), cache.get("a", version=2)) == (None, "one", "two")
    assert cache.decr_version("a", version=6) == 5
    with pytest.raises(ValueError, match="not found"):
        cache.incr_version("nothing")


def test_caches_of_different_prefixes_share_no_key(shards: Shards) -> None:
    blue, green = make(shards, KEY_PREFIX="blue"), make(shards, KEY_PREFIX="green", VERSION=3)
    blue.set("a", 1)
    green.set("a", 2)
    assert (blue.get("a"), green.get("a")) == (1, 2)
    assert sorted(stored(shards)) == ["blue:1:a", "green:3:a"]


def test_a_key_function_decides_on_the_shard_too(shards: Shards) -> None:
    cache = make(shards, KEY_FUNCTION=lambda key, prefix, version: f"{{{key[0]}}}{key}")
    cache.set_many({f"a{n}": n for n in range(30)})
    assert len(set(stored(shards).values())) == 1  # a hash tag keeps them together


def test_get_or_set(cache: Any) -> None:
    made = []
    for _ in range(3):
        assert cache.get_or_set("a", lambda: made.append(1) or "made", timeout=60) == "made"
    assert made == [1]


def test_what_cannot_be_pickled_is_refused(shards: Shards, cache: Any) -> None:
    for call in (cache.set, cache.add):
        with pytest.raises((pickle.PicklingError, AttributeError)):
            call("a", lambda: None)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        cache.set_many({"good": 1, "bad": lambda: None})
    assert stored(shards) == {}


def test_another_serializer(shards: Shards) -> None:
    class Upper:
        def dumps(self, value: str) -> bytes:
            return value.upper().encode()

        def loads(self, data: bytes) -> str:
            return data.decode()

    cache = make(shards, OPTIONS={"serializer": Upper})
    cache.set("a", "text")
    assert cache.get("a") == "TEXT"


def test_options_reach_every_shard(shards: Shards) -> None:
    cache = make(shards, OPTIONS={"db": 5, "client_name": "the-test"})
    cache.set_many({f"key{n}": n for n in range(60)})
    for name, server in shards.servers.items():
        client = redis.Redis(port=server.port, db=5)
        assert client.dbsize() > 0, name
        assert {"the-test"} <= {each["name"] for each in client.client_list()}


def test_redis_own_commands_through_the_client_of_a_key(cache: Any) -> None:
    final = cache.make_key("list")
    assert cache._cache.get_client(final, write=True).rpush(final, "a", "b") == 2
    assert cache._cache.get_client(final).lrange(final, 0, -1) == [b"a", b"b"]
    with pytest.raises(ValueError, match="say the key"):
        cache._cache.get_client()


# Many keys


def test_many_keys(shards: Shards, cache: Any) -> None:
    data = {f"key{n}": {"n": n} for n in range(500)}
    assert cache.set_many(data, timeout=60) == []
    assert cache.get_many([*data, "missing"]) == data
    cache.delete_many([*data, "missing"])
    assert stored(shards) == {}
    assert cache.get_many([]) == {}
    assert cache.set_many({}) == []
    cache.delete_many([])


def test_many_keys_from_an_iterator(cache: Any) -> None:
    cache.set_many({"a": 1, "b": 2})
    assert cache.get_many(iter("abc")) == {"a": 1, "b": 2}
    cache.delete_many(iter("ab"))
    assert cache.get_many("ab") == {}


def test_a_refused_value_names_its_key(shards: Shards, cache: Any) -> None:
    keys = keys_of(cache, "redis1", 2) + keys_of(cache, "redis2", 2)
    servers(shards)["redis1"].config_set("maxmemory", "1")
    assert cache.set_many(dict.fromkeys(keys, 1), version=1) == keys[:2]


def test_clear_empties_the_database_of_this_cache_only(shards: Shards, cache: Any) -> None:
    other = make(shards, OPTIONS={"db": 3})
    for each in (cache, other):
        each.set_many({f"key{n}": n for n in range(60)})
    assert cache.clear() is True
    assert stored(shards) == {}
    assert len(other.get_many([f"key{n}" for n in range(60)])) == 60


# Patterns


def test_delete_pattern(shards: Shards, cache: Any) -> None:
    cache.set_many({f"page:{n}": n for n in range(3000)})
    cache.set_many({"page": 1, "other:1": 1})
    cache.set("page:1", 1, version=2)
    assert cache.delete_pattern("page:*") == 3000
    assert sorted(stored(shards)) == [":1:other:1", ":1:page", ":2:page:1"]
    assert cache.delete_pattern("page:[0-5]", version=2) == 1
    assert cache.delete_pattern("nothing*") == 0


def test_prefixes_match_literally_in_a_pattern(shards: Shards) -> None:
    strange = make(shards, KEY_PREFIX=r"a*[b]?\c")
    similar = make(shards, KEY_PREFIX=r"axxbyc")
    for each in (strange, similar):
        each.set("key", 1)
    assert strange.delete_pattern("*") == 1
    assert similar.get("key") == 1
    assert similar.delete_pattern("k?y") == 1


def test_no_pattern_for_keys_that_do_not_show(shards: Shards) -> None:
    cache = make(shards, KEY_FUNCTION=lambda key, prefix, version: f"{prefix}:{len(key)}")
    with pytest.raises(ValueError, match="KEY_FUNCTION does not keep the key"):
        cache.delete_pattern("*")


def test_a_pattern_with_a_dead_shard(shards: Shards) -> None:
    quiet, strict = make(shards), make(shards, OPTIONS={"ignore_errors": False})
    data = {f"key{n}": n for n in range(90)}
    quiet.set_many(data)
    there = len(data) - len([key for key in data if quiet.locate(key) == "redis2"])
    shards.servers["redis2"].kill()
    assert quiet.delete_pattern("key*") == there
    quiet.set_many(data)
    with pytest.raises(webstack_cache.ShardUnavailable, match="redis2"):
        strict.delete_pattern("key*")
    assert quiet.get_many(data) == {}  # the others did it all the same


@pytest.mark.parametrize("call", [lambda cache: cache.delete_pattern("key*"), lambda cache: cache.clear()])
def test_what_a_frozen_shard_missed_is_gone_before_it_is_read(shards: Shards, cache: Any, call: Any) -> None:
    data = {f"key{n}": n for n in range(90)}
    cache.set_many(data)
    shards.servers["redis2"].freeze()
    call(cache)
    shards.servers["redis2"].thaw()
    # It takes writes again before it is read again.
    probe = next(key for key in keys_of(cache, "redis2", 100) if key not in data)
    end = time.monotonic() + 5
    while cache.get(probe) != "new":
        assert cache.get_many(data) == {}
        cache.set(probe, "new")
        assert time.monotonic() < end
        time.sleep(0.02)
    assert cache.get_many(data) == {}


def test_another_server_takes_over_during_the_walk(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys are in another order: what was not seen there is forgotten with the whole shard."""
    data = {f"key{n}": n for n in range(4500)}
    cache.set_many(data)
    cluster = cache._cache.cluster
    exchange, master, rounds = cluster.exchange, cluster.shards["redis2"].master, []

    def then_fail_over(*arguments: Any) -> Any:
        rounds.append(1)
        if len(rounds) == 2:
            monkeypatch.setattr(master, "address", "another one")
        return exchange(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "exchange", then_fail_over)
        assert 3000 < cache.delete_pattern("key*") < 4500
    assert cache.get_many(data) == {}


# Time to live


def test_times_to_live(cache: Any) -> None:
    assert cache.ttl("a") == cache.pttl("a") == 0
    assert cache.expire("a", 5) is cache.pexpire("a", 5) is cache.persist("a") is False
    cache.set("a", 1, timeout=100)
    assert cache.ttl("a") == 100
    assert 99_000 < cache.pttl("a") <= 100_000
    assert cache.persist("a") is True
    assert cache.ttl("a") is cache.pttl("a") is None
    assert cache.pexpire("a", 1500) is True
    assert 1000 < cache.pttl("a") <= 1500
    assert cache.expire("a", 0.05) is True
    time.sleep(0.06)
    assert cache.get("a") is None


# Locks


def test_a_value_is_gone_when_its_time_has_passed(cache: Any) -> None:
    """In that very millisecond; Redis would show it until the next."""
    cache.set("set", 1, timeout=1)
    cache.add("add", 1, timeout=1)
    cache.set_many({"many": 1}, timeout=1)
    cache.set("touched", 1)
    cache.touch("touched", timeout=1)
    assert [cache.pttl(key) < 1000 for key in ("set", "add", "many", "touched")] == [True] * 4


@pytest.mark.quiet
def test_a_lock_has_one_holder(shards: Shards) -> None:
    one, other = make(shards, KEY_PREFIX="p"), make(shards, KEY_PREFIX="p")
    with one.lock("job", timeout=10) as held:
        assert held.owned() is held.locked() is True
        waiting = other.lock("job")
        assert waiting.locked() is True
        assert waiting.owned() is False
        assert waiting.acquire(blocking=False) is False
        started = time.monotonic()
        assert waiting.acquire(blocking_timeout=0.3) is False
        assert time.monotonic() - started < 0.5
        with pytest.raises(LockError, match="not to be had"), other.lock("job", blocking_timeout=0.1):
            pass
        # Other keys, versions and prefixes are other locks.
        for free in (other.lock("job2"), other.lock("job", version=2), make(shards).lock("job")):
            assert free.acquire(blocking=False) is True
    assert waiting.acquire(blocking=False) is True
    waiting.release()
    assert waiting.locked() is False


def test_a_lock_excludes(cache: Any) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(_: int) -> None:
        with cache.lock("job", timeout=10):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert most == [1] * 24


def test_only_the_owner_releases(cache: Any) -> None:
    slow, next_one = cache.lock("job", timeout=0.05), cache.lock("job", timeout=10)
    assert slow.acquire() is True
    assert next_one.acquire(blocking_timeout=1) is True  # the first one ended by itself
    with pytest.raises(LockNotOwnedError, match="ended before it was released"):
        slow.release()
    assert next_one.owned() is True
    with pytest.raises(LockError, match="does not hold"):
        slow.release()
    next_one.release()


def test_extending_a_lock(cache: Any) -> None:
    lock = cache.lock("job", timeout=1)
    with pytest.raises(LockError, match="does not hold"):
        lock.extend()
    lock.acquire()
    lock.extend(100)
    assert 90 < cache.ttl("job") <= 100
    lock.extend()
    assert cache.ttl("job") <= 1
    cache.delete("job")
    with pytest.raises(LockNotOwnedError, match="ended before it was extended"):
        lock.extend()


def test_a_holder_cannot_take_it_twice(cache: Any) -> None:
    with cache.lock("job", timeout=5) as lock, pytest.raises(LockError, match="already"):
        lock.acquire()


@pytest.mark.parametrize("timeout", [0, -1, None, 0.0001])
def test_no_lock_without_an_end(cache: Any, timeout: Any) -> None:
    with pytest.raises(ValueError, match="at least a millisecond"):
        cache.lock("job", timeout=timeout)


def test_an_error_inside_is_not_hidden_by_the_lost_lock(cache: Any) -> None:
    with pytest.raises(ZeroDivisionError), cache.lock("job", timeout=5):
        cache.delete("job")
        raise ZeroDivisionError
    with pytest.raises(LockNotOwnedError), cache.lock("job", timeout=5):
        cache.delete("job")


@pytest.mark.parametrize("ignore_errors", [True, False])
def test_a_dead_shard_gives_no_lock(shards: Shards, ignore_errors: bool) -> None:
    cache = make(shards, OPTIONS={"ignore_errors": ignore_errors})
    key = keys_of(cache, "redis3", 1)[0]
    lock = cache.lock(key, timeout=10)
    lock.acquire()
    shards.servers["redis3"].kill()
    for call in (cache.lock(key).acquire, lock.extend, lock.owned, lock.locked, lock.release):
        with pytest.raises(webstack_cache.ShardUnavailable):
            call()
    # As a lock, add() fails on the safe side.
    if ignore_errors:
        assert cache.add(key, 1) is False


def test_awaiting_a_lock(cache: Any) -> None:
    most: list[int] = []

    async def work(inside: list[int]) -> None:
        async with cache.lock("job", timeout=10) as lock:
            inside.append(1)
            most.append(len(inside))
            await asyncio.sleep(0.005)
            await lock.aextend(20)
            assert await lock.aowned() is await lock.alocked() is True
            inside.pop()

    async def main() -> None:
        inside: list[int] = []
        await asyncio.gather(*(work(inside) for _ in range(8)))
        lock = cache.lock("job")
        assert await lock.aacquire(blocking=False) is True
        assert await cache.lock("job").aacquire(blocking_timeout=0.1) is False
        with pytest.raises(LockError):
            async with cache.lock("job", blocking=False):
                pass
        await lock.arelease()

    asyncio.run(main())
    assert most == [1] * 8


# Threads, forks, tasks


def test_sixteen_threads_get_their_own_values(cache: Any) -> None:
    def work(number: int) -> int:
        wrong = 0
        for n in range(500):
            key = f"key:{number}:{n % 25}"
            if n % 3 == 0:
                cache.set(key, (number, n))
                wrong += cache.get(key) != (number, n)
            else:
                value = cache.get(key)
                wrong += value is not None and value[0] != number
                many = cache.get_many([f"key:{number}:{m}" for m in range(5)])
                wrong += any(value[0] != number for value in many.values())
        return wrong

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [0] * 16


def test_a_fork_in_the_middle_of_it(cache: Any) -> None:
    """Parent and children use the cache at the same time; nobody reads what another one asked for."""
    data = {f"key{n}": n for n in range(60)}
    cache.set_many(data)
    going = threading.Event()
    going.set()
    wrong = []

    def work() -> None:
        while going.is_set():
            if cache.get_many(data) != data or cache.get("key7") != 7:
                wrong.append("parent")

    thread = threading.Thread(target=work)
    thread.start()
    children = []
    try:
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for n in range(100):
                        cache.set(f"child{number}", n)
                        assert cache.get(f"child{number}") == n
                        assert cache.get_many(data) == data
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    finally:
        going.clear()
        thread.join()
    assert wrong == []


def test_two_hundred_tasks(cache: Any) -> None:
    async def main() -> None:
        await asyncio.gather(*(cache.aset(f"key{n}", n) for n in range(200)))
        assert await asyncio.gather(*(cache.aget(f"key{n}") for n in range(200))) == list(range(200))
        await asyncio.gather(*(cache.aincr("key0") for _ in range(200)))
        assert await cache.aget("key0") == 200

    asyncio.run(main())


def test_every_method_has_an_awaitable_twin(cache: Any) -> None:
    async def main() -> None:
        assert await cache.aadd("a", 1) is True
        assert await cache.aget("a") == 1
        assert await cache.aget("b", "default") == "default"
        await cache.aset("b", 2, timeout=60)
        assert await cache.atouch("b", 70) is True
        assert await cache.attl("b") == 70
        assert 69_000 < await cache.apttl("b") <= 70_000
        assert await cache.aexpire("b", 80) is True
        assert await cache.apexpire("b", 80_000) is True
        assert await cache.apersist("b") is True
        assert await cache.attl("b") is None
        assert await cache.ahas_key("b") is True
        assert await cache.aincr("b", 5) == 7
        assert await cache.adecr("b") == 6
        assert await cache.aset_many({"c": 3, "d": 4}) == []
        assert await cache.aget_many("abcde") == {"a": 1, "b": 6, "c": 3, "d": 4}
        await cache.adelete_many("cd")
        assert await cache.adelete("c") is False
        assert await cache.aget_or_set("e", lambda: 5) == 5
        assert await cache.aincr_version("e") == 2
        assert await cache.adecr_version("e", version=2) == 1
        assert await cache.adelete_pattern("[ab]") == 2
        assert await cache.aclear() is True
        assert await cache.aget("e") is None
        await cache.aclose()

    asyncio.run(main())


def test_async_to_sync_from_a_thread(cache: Any) -> None:
    cache.set("a", 1)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: async_to_sync(cache.aget)("a"), range(20))) == [1] * 20


def test_a_closed_cache_goes_on(cache: Any) -> None:
    cache.set("a", 1)
    cache.close()
    assert cache.get("a") == 1


# What Django builds on the cache


def test_sessions(default: Any) -> None:
    session = cache_sessions.SessionStore()
    session["user"] = 1
    session.save()
    again = cache_sessions.SessionStore(session.session_key)
    assert again["user"] == 1
    session.delete()
    assert cache_sessions.SessionStore(session.session_key).load() == {}


def test_cached_db_sessions_survive_their_shard(shards: Shards, default: Any) -> None:
    from django.contrib.sessions.models import Session

    with connection.schema_editor() as editor:
        editor.create_model(Session)
    try:
        session = cached_db.SessionStore()
        session["user"] = 1
        session.save()
        shards.servers[default.locate(session.cache_key)].kill()
        assert cached_db.SessionStore(session.session_key)["user"] == 1
        again = cached_db.SessionStore(session.session_key)
        again["user"] = 2
        again.save()
        assert cached_db.SessionStore(session.session_key)["user"] == 2
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(Session)


def test_cached_pages(default: Any) -> None:
    calls = []

    def view(request: Any) -> HttpResponse:
        calls.append(request.path)
        return HttpResponse(f"page {len(calls)}")

    cached = cache_page(60)(view)
    answers = [cached(RequestFactory().get(path)).content for path in ("/a", "/a", "/b", "/a")]
    assert answers == [b"page 1", b"page 1", b"page 2", b"page 1"]


def test_template_fragments(default: Any) -> None:
    engine = Engine(libraries={"cache": "django.templatetags.cache"})
    template = engine.from_string("{% load cache %}{% cache 60 part who %}{{ text }}{% endcache %}")
    assert template.render(Context({"text": "first", "who": 1})) == "first"
    assert template.render(Context({"text": "second", "who": 1})) == "first"
    assert template.render(Context({"text": "other", "who": 2})) == "other"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_whole_request(default: Any, asynchronous: bool) -> None:
    """Session and cache in one request, after which Django closes the caches."""
    with override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
        SESSION_SERIALIZER="django.contrib.sessions.serializers.JSONSerializer",
    ):
        client = Client()
        path = "/async" if asynchronous else "/sync"
        assert [client.get(path).content for _ in range(3)] == [b"1 1", b"2 2", b"3 3"]


def _count(request: Any) -> HttpResponse:
    caches["default"].add("hits", 0)
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(f"{caches['default'].incr('hits')} {request.session['visits']}")


async def _acount(request: Any) -> HttpResponse:
    await caches["default"].aadd("hits", 0)
    visits = await request.session.aget("visits", 0) + 1
    await request.session.aset("visits", visits)
    return HttpResponse(f"{await caches['default'].aincr('hits')} {visits}")


def _urls() -> list[Any]:
    from django.urls import path

    return [path("sync", _count), path("async", _acount)]


urlpatterns = _urls()


# With the rights that the role gives


def test_the_account_of_the_role_may_do_all_of_it(shards: Shards, caplog: pytest.LogCaptureFixture) -> None:
    role = yaml.safe_load((ROOT / "roles/redis_shard/vars/main.yml").read_text())
    rights = role["__redis_shard_application_rights"].split("{{")[0].split()
    for client in servers(shards).values():
        client.execute_command("ACL", "SETUSER", "application", "on", ">password", *rights)
        client.execute_command("ACL", "SETUSER", "default", "off")
    shards.write(username="application", password="password")
    cache = make(shards)
    assert cache.set_many({f"key{n}": n for n in range(30)}) == []
    assert len(cache.get_many([f"key{n}" for n in range(30)])) == 30
    cache.set("a", 1)
    assert cache.add("b", 1) is True
    assert cache.incr("a") == cache.get("a") == 2
    assert cache.touch("a", 60) is cache.touch("a", None) is cache.persist("a") is True
    assert "a" in cache
    assert cache.expire("a", 60) is True
    assert cache.ttl("a") == 60
    assert cache.pttl("b") > 0
    with cache.lock("job", timeout=5) as lock:
        lock.extend()
        assert lock.owned() is lock.locked() is True
    assert cache.delete("b") is True
    cache.delete_many(["key1", "key2"])
    assert cache.delete_pattern("key*") == 28
    assert cache.clear() is True
    assert "keeps no roll" not in caplog.text


# A ring that is being changed


@pytest.fixture
def changing(shards: Shards) -> Callable[..., Any]:
    """Return a function that makes a cache whose ring loses redis3."""

    def changed(**options: Any) -> Any:
        small = {name: [shards.servers[name].address] for name in NAMES[:2]}
        shards.write(next=ring(small))
        return make(shards, OPTIONS=options)

    return changed


def test_moving_keys_are_misses_and_stored_nowhere(shards: Shards, changing: Callable[..., Any]) -> None:
    before = make(shards, OPTIONS={"client_name": "before"})
    data = {f"key{n}": n for n in range(90)}
    before.set_many(data)
    moving = keys_of(before, "redis3", 8)
    staying = {key: value for key, value in data.items() if before.locate(key) != "redis3"}
    cache = changing()
    assert cache.get_many(data) == staying
    assert cache.get(moving[0], "miss") == "miss"
    assert moving[0] not in cache
    assert cache.ttl(moving[0]) == 0
    assert cache.set(moving[0], "new") is None
    assert cache.add(moving[1], "new") is False
    assert cache.touch(moving[2]) is False
    with pytest.raises(ValueError, match="not found"):
        cache.incr(moving[3])
    assert cache.delete(moving[4]) is False
    assert cache.set_many({moving[5]: "new", **staying}) == [moving[5]]
    cache.delete_many(moving[6:7])
    with pytest.raises(webstack_cache.ShardUnavailable, match="moves from redis3"):
        cache.lock(moving[0]).acquire()
    assert not {f":1:{key}" for key in moving[:7]} & stored(shards).keys()
    assert f":1:{moving[7]}" in stored(shards)


def test_a_change_is_no_error_to_those_who_want_to_be_told(changing: Callable[..., Any], shards: Shards) -> None:
    cache = changing(ignore_errors=False)
    key = keys_of(make(shards), "redis3", 1)[0]
    assert cache.get(key) is None
    assert cache.add(key, 1) is False
    assert cache.set_many({key: 1}) == [key]


def test_a_call_that_began_before_a_change_ends_without_an_error(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webstack_cache.cluster.LOOK_SECONDS", 0.0)
    cache = make(shards, OPTIONS={"client_name": "changes"})
    data = {f"key{n}": n for n in range(60)}
    end = time.monotonic() + 1.5

    def work(_: int) -> int:
        calls = 0
        while time.monotonic() < end:
            cache.set_many(data)
            cache.get_many(data)
            for key in list(data)[:20]:
                cache.get(key)
            cache.delete_many(data)
            calls += 1
        return calls

    def change() -> None:
        small = ring({name: [shards.servers[name].address] for name in NAMES[:2]})
        while time.monotonic() < end:
            shards.write(**small)
            time.sleep(0.005)
            shards.write()
            time.sleep(0.005)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns in the middle of everything
    try:
        with ThreadPoolExecutor(5) as pool:
            changing = pool.submit(change)
            assert all(calls > 0 for calls in pool.map(work, range(4)))
            changing.result()
    finally:
        sys.setswitchinterval(interval)


# Configuration


def test_a_file_that_cannot_be_used_is_refused_at_once(shards: Shards) -> None:
    shards.write(fingerprint="0" * 16)
    with pytest.raises(ImproperlyConfigured, match="the fingerprint is 0000000000000000"):
        make(shards).get("a")

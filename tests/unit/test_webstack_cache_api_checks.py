"""The cache's system checks and metrics, on real servers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webstack_cache
from django.core.checks import run_checks
from django.test import override_settings
from redis_servers import RedisServer, Shards, free_port, ring
from webstack_cache import metrics

# Checks


def check(shards: Shards, deploy: bool = False) -> list[Any]:
    backends = {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "ring": {"BACKEND": "webstack_cache.RingCache", "LOCATION": str(shards.path)},
    }
    with override_settings(CACHES=backends):
        return [
            message
            for message in run_checks(tags=["caches"], include_deployment_checks=deploy)
            if (message.id or "").startswith("webstack_cache")
        ]


def test_a_right_file_passes(shards: Shards) -> None:
    assert check(shards) == check(shards, deploy=True) == []


def test_an_unreadable_file_is_named(shards: Shards) -> None:
    shards.path.unlink()
    (message,) = check(shards)
    assert message.id == "webstack_cache.E001"
    assert f"CACHES['ring']: {shards.path}: cannot be read: No such file" in message.msg
    shards.path.write_text("{")
    (message,) = check(shards)
    assert "is not JSON" in message.msg


def test_a_file_that_may_not_be_read_is_named(shards: Shards) -> None:
    shards.path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        (message,) = check(shards)
    finally:
        os.seteuid(user)
    assert "cannot be read: Permission denied" in message.msg


def addresses(shards: Shards) -> dict[str, list[str]]:
    return {name: [server.address] for name, server in shards.servers.items()}


@pytest.mark.parametrize(
    ("edit", "difference"),
    [
        (lambda part: part["shards"].update(redis4=["127.0.0.1:1"]), "this one without redis4."),
        (lambda part: part["weights"].update(redis2=3), "this one with weight 1 for redis2."),
        (lambda part: part.update(points=320), "this one with 160 points."),
    ],
)
def test_a_wrong_ring_is_refused_and_explained(shards: Shards, edit: Any, difference: str) -> None:
    for place in ("current", "next"):
        part = ring(addresses(shards))
        edit(part)
        shards.write(**(part if place == "current" else {"next": part}))
        (message,) = check(shards)
        assert message.id == "webstack_cache.E002"
        assert f"the fingerprint is {part['fingerprint']}, but these shards make the ring" in message.msg
        assert message.hint.endswith(difference)


def test_a_ring_that_is_wrong_in_two_ways_is_refused(shards: Shards) -> None:
    shards.write(fingerprint="0" * 16)
    (message,) = check(shards)
    assert message.id == "webstack_cache.E002"
    assert message.hint.endswith("never edit it by hand.")


PASSWORD = "not-to-be-shown"


@pytest.mark.parametrize(
    ("mode", "password", "problem"),
    [
        (0o640, PASSWORD, None),
        (0o600, PASSWORD, None),
        (0o644, None, None),
        (0o644, PASSWORD, "read the password"),
        (0o604, PASSWORD, "read the password"),
        (0o646, None, "change the file"),
    ],
)
def test_permissions(shards: Shards, mode: int, password: str | None, problem: str | None) -> None:
    shards.write(password=password)
    shards.path.chmod(mode)
    messages = check(shards)
    if problem is None:
        assert messages == []
    else:
        (message,) = messages
        assert message.id == "webstack_cache.E003"
        assert f"has mode {mode:04o}: everybody on this host may {problem}" in message.msg
        assert PASSWORD not in str(message)


@pytest.fixture
def sentinel(shards: Shards, tmp_path: Path) -> Iterator[RedisServer]:
    """A sentinel that watches redis1, redis2 and one that the file does not have."""
    watched = {"redis1": shards.servers["redis1"].port, "redis2": shards.servers["redis2"].port}
    file = tmp_path / "sentinel.conf"
    lines = [f"sentinel monitor {name} 127.0.0.1 {port} 1" for name, port in watched.items()]
    file.write_text("\n".join([f"dir {tmp_path}", *lines, f"sentinel monitor other 127.0.0.1 {free_port()} 1", ""]))
    server = RedisServer(sentinel_file=file)
    yield server
    server.kill()


def test_shards_that_no_sentinel_watches_are_named(shards: Shards, sentinel: RedisServer) -> None:
    shards.write(sentinels=[f"127.0.0.1:{free_port()}", sentinel.address])
    assert check(shards) == []  # it asks nobody, unless it is about to be deployed
    (message,) = check(shards, deploy=True)
    assert message.id == "webstack_cache.E004"
    assert f"no sentinel watches the shards redis3 of {shards.path}; they watch other, redis1, redis2" in message.msg


def test_shards_that_only_the_sentinels_know_are_named(shards: Shards, sentinel: RedisServer) -> None:
    known = {name: servers for name, servers in addresses(shards).items() if name != "redis3"}
    shards.write(**ring(known), sentinels=[sentinel.address])
    (message,) = check(shards, deploy=True)
    assert message.id == "webstack_cache.W002"
    assert message.msg.endswith("does not have: other")


def test_silent_sentinels_are_named(shards: Shards) -> None:
    shards.write(sentinels=[f"127.0.0.1:{free_port()}"])
    (message,) = check(shards, deploy=True)
    assert message.id == "webstack_cache.W001"
    assert "no sentinel answers: 127.0.0.1:" in message.msg


# Metrics


@pytest.fixture(autouse=True)
def nobody_listens() -> Iterator[None]:
    yield
    for listener in metrics.listeners:
        metrics.ignore(listener)
    metrics.counters.reset()


def make(shards: Shards, **options: Any) -> Any:
    return webstack_cache.RingCache(shards.path, {"OPTIONS": options})


def keys_of(cache: Any, shard: str, count: int) -> list[str]:
    return [key for key in (f"key{n}" for n in range(1000)) if cache.locate(key) == shard][:count]


def test_nothing_is_counted_unless_somebody_wants_it(shards: Shards) -> None:
    cache = make(shards)
    cache.set("a", 1)
    assert cache.metrics() == {}
    assert metrics.listeners == ()


def test_counts(shards: Shards) -> None:
    cache = make(shards, metrics=True)
    keys = keys_of(cache, "redis1", 5)
    for key in keys[:2]:
        cache.set(key, 1)
    cache.set_many({keys[2]: 1, keys[3]: 1})
    cache.add(keys[0], 2)  # there already: nothing is stored
    cache.incr(keys[0])
    assert [cache.get(key) for key in keys] == [2, 1, 1, 1, None]
    cache.get_many(keys)
    cache.delete(keys[0])
    cache.delete(keys[0])
    cache.delete_many(keys[1:])
    counted = cache.metrics()["redis1"]
    expected = {"set": 5, "hit": 8, "miss": 2, "delete": 4, "call": 14}
    assert {event: counted["events"].get(event) for event in expected} == expected
    assert sum(counted["buckets"]) == 14
    assert 0 < counted["seconds"] < 2


def test_counts_of_a_shard_that_fails(shards: Shards) -> None:
    cache = make(shards, metrics=True)
    key = keys_of(cache, "redis2", 1)[0]
    cache.set(key, 1)
    shards.servers["redis2"].kill()
    for _ in range(4):
        cache.get(key)
    cache.set(key, 2)
    events = cache.metrics()["redis2"]["events"]
    assert events["miss"] == 4
    assert events["error"] >= 1
    assert events["opened"] == 1
    assert events["dropped"] >= 1
    assert "closed" not in events
    shards.servers["redis2"].start()
    end = time.monotonic() + 5
    while cache.get(key, "miss") == "miss" and time.monotonic() < end:
        cache.set(key, 3)
        time.sleep(0.05)
    assert cache.metrics()["redis2"]["events"]["closed"] == 1


SEEN: list[tuple[str, str, float, int]] = []


def on_cache(shard: str, event: str, seconds: float, count: int) -> None:
    SEEN.append((shard, event, seconds, count))
    raise RuntimeError("a listener of the site may be broken")


def test_a_function_of_the_site_by_its_dotted_path(shards: Shards, caplog: pytest.LogCaptureFixture) -> None:
    SEEN.clear()
    caches = [make(shards, metrics=f"{__name__}.on_cache") for _ in range(3)]
    for cache in caches:
        cache.get("a")
    shard = caches[0].locate("a")
    assert [(name, event, count) for name, event, _, count in SEEN if event == "miss"] == [(shard, "miss", 1)] * 3
    assert all(seconds > 0 for _, event, seconds, _ in SEEN if event == "call")
    assert "a listener of the site may be broken" in caplog.text


def test_prometheus_reads_it(shards: Shards) -> None:
    cache = make(shards, metrics=True)
    key = keys_of(cache, "redis3", 1)[0]
    for _ in range(3):
        cache.get(key)
    lines = metrics.prometheus_text(site='a"b').splitlines()
    assert 'webstack_cache_events_total{site="a\\"b",shard="redis3",event="miss"} 3' in lines
    assert 'webstack_cache_seconds_bucket{site="a\\"b",shard="redis3",le="+Inf"} 3' in lines
    assert 'webstack_cache_seconds_count{site="a\\"b",shard="redis3"} 3' in lines
    assert lines.count("# TYPE webstack_cache_seconds histogram") == 1


def test_a_child_counts_from_nothing(shards: Shards) -> None:
    cache = make(shards, metrics=True)
    cache.get("a")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert cache.metrics() == {}
            cache.get("a")
            assert sum(counts["events"]["miss"] for counts in cache.metrics().values()) == 1
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_no_port_is_given_twice() -> None:
    """A client of a test that has ended would go on at the server of another one."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
    assert all(port < 32768 for port in ports), "the kernel gives the others to connections"

"""The clients of the other engines, as far as they need no server; the scenario cache_engines has real ones."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import webstack_cache
from webstack_cache.configuration import ConfigurationError, load_servers

DJANGO = "django.core.cache.backends.redis.RedisCache"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def written(folder: Path, **changes: Any) -> str:
    path = folder / "cache.json"
    content = {
        "engine": "redis_cluster",
        "servers": [f"127.0.0.1:{closed_port()}"],
        "username": "application",
        "password": "p/w@ü",
    }
    path.write_text(json.dumps({**content, **changes}))
    return str(path)


def test_djangos_own_backend_is_told_what_stands_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, engine="single", servers=["[2001:db8::1]:6379", "192.0.2.1:6380"])
    entry = {"BACKEND": DJANGO, "LOCATION": path, "KEY_PREFIX": "x", "OPTIONS": {"socket_timeout": 1}}
    assert webstack_cache.single_server(entry) == {
        "BACKEND": DJANGO,
        "LOCATION": "redis://application:p%2Fw%40%C3%BC@[2001:db8::1]:6379/0",
        "KEY_PREFIX": "x",
        "OPTIONS": {"socket_timeout": 1},
    }
    pool = redis.ConnectionPool.from_url(webstack_cache.single_server(entry)["LOCATION"])
    assert pool.connection_kwargs["password"] == "p/w@ü"
    assert pool.connection_kwargs["host"] == "2001:db8::1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "ring"}, "the engine is 'ring'"),
        ({"servers": []}, "there is no server"),
        ({"servers": "127.0.0.1:1"}, "must be a list of addresses"),
        ({"servers": ["nowhere"]}, "is not an address"),
        ({"tls": {"ca": "/nonexistent.pem"}}, "is no usable authority"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_servers(written(tmp_path, **changes))


def test_a_cluster_that_is_away_is_a_miss_and_no_stall(tmp_path: Path) -> None:
    cache = webstack_cache.ServerClusterCache(written(tmp_path), {})
    start = time.monotonic()
    for _ in range(20):
        assert cache.get("a", "default") == "default"
    cache.set("a", 1)
    assert cache.set_many({"a": 1, "b": 2}) == ["a", "b"]
    assert cache.get_many(["a", "b"]) == {}
    assert cache.add("a", 1) is False
    assert cache.delete("a") is False
    assert cache.clear() is False
    with pytest.raises(ValueError, match="does not answer"):
        cache.incr("a")
    assert time.monotonic() - start < 2
    strict = webstack_cache.ServerClusterCache(written(tmp_path), {"OPTIONS": {"ignore_errors": False}})
    with pytest.raises((redis.RedisError, redis.exceptions.RedisClusterException)):
        strict.get("a")
    with pytest.raises((redis.RedisError, redis.exceptions.RedisClusterException)):
        strict.get_many(["a"])

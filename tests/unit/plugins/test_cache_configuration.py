"""The file of the cache's clients: what stands in it, and that a large ring stays small."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.filter.cache_configuration import FilterModule
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.ring import Ring

cache_configuration = FilterModule().filters()["cache_configuration"]


def node(number: int, port: int) -> dict[str, Any]:
    return {"name": f"redis{number}", "address": f"10.77.{number // 250}.{number % 250 + 1}", "port": port}


def shards(count: int) -> list[dict[str, Any]]:
    return [
        {"name": f"redis{number}", "weight": 1, "nodes": [node(number, 6379), node((number + 1) % count, 6380)]}
        for number in range(count)
    ]


def test_a_ring_in_full() -> None:
    two = shards(2)
    two[1]["weight"] = 3
    text = cache_configuration(
        two, sentinels=[{"name": "lb1", "address": "2001:db8::1", "port": 26379}], username="application", password='"ü'
    )
    assert json.loads(text) == {
        "engine": "ring",
        "algorithm": "ketama160a",
        "points": 160,
        "fingerprint": Ring({"redis0": 1, "redis1": 3}).fingerprint,
        "shards": {
            "redis0": ["10.77.0.1:6379", "10.77.0.2:6380"],
            "redis1": ["10.77.0.2:6379", "10.77.0.1:6380"],
        },
        "weights": {"redis1": 3},
        "sentinels": ["[2001:db8::1]:26379"],
        "username": "application",
        "password": '"ü',
    }


def test_tls_and_the_ring_to_come() -> None:
    content = json.loads(cache_configuration(shards(2), next_shards=shards(3), ca="/etc/ca.pem", points=40))
    assert content["tls"] == {"ca": "/etc/ca.pem"}
    assert content["next"]["fingerprint"] == Ring({f"redis{number}": 1 for number in range(3)}, 40).fingerprint
    assert content["next"]["points"] == 40
    finer = json.loads(cache_configuration(shards(2), next_shards=shards(2), next_points=320))
    assert (finer["points"], finer["next"]["points"]) == (160, 320)
    assert list(content["next"]["shards"]) == ["redis0", "redis1", "redis2"]
    assert "next" not in json.loads(cache_configuration(shards(2)))


@pytest.mark.parametrize("engine", ["redis_cluster", "single"])
def test_other_engines_have_servers_and_no_ring(engine: str) -> None:
    content = json.loads(cache_configuration(shards(2), engine=engine, username="application", password="secret"))
    assert content == {
        "engine": engine,
        "servers": ["10.77.0.1:6379", "10.77.0.2:6380", "10.77.0.2:6379", "10.77.0.1:6380"],
        "username": "application",
        "password": "secret",
    }


def test_a_thousand_shards_stay_small() -> None:
    start = time.process_time()
    text = cache_configuration(shards(1000), password="s" * 48)
    assert len(text.encode()) <= 70_000
    assert time.process_time() - start < 2
    # One shard a line.
    assert len(text.splitlines()) > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "memcached"}, "engine must be one of ring, redis_cluster, single"),
        ({"points": 3}, "points must be"),
        ({"shards": []}, "at least one shard"),
        ({"shards": [{"name": "a"}]}, "nodes"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        cache_configuration(**{"shards": shards(2), **arguments})

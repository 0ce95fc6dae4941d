"""Properties of the shard layout and of the choice of the sentinels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.filter.shard_layout import (
    FilterModule as ShardFilters,
)
from ansible_collections.webstack.ha.plugins.module_utils import _shard_layout
from hypothesis import given
from hypothesis import strategies as st

shard_layout = ShardFilters().filters()["shard_layout"]
sentinel_hosts = _shard_layout.sentinels


def variables(hosts: list[str]) -> dict[str, dict[str, Any]]:
    return {host: {"webstack_address": f"192.0.2.{number}"} for number, host in enumerate(hosts, 1)}


def names(count: int, stem: str = "redis") -> list[str]:
    return [f"{stem}{number}" for number in range(1, count + 1)]


def test_three_hosts_in_full() -> None:
    hosts = names(3)
    shards = shard_layout(hosts, variables(hosts))
    assert shards[0] == {
        "name": "redis1",
        "weight": 1,
        "nodes": [
            {"name": "redis1", "address": "192.0.2.1", "port": 6379},
            {"name": "redis2", "address": "192.0.2.2", "port": 6380},
        ],
    }
    assert [[node["name"] for node in shard["nodes"]] for shard in shards] == [
        ["redis1", "redis2"],
        ["redis2", "redis3"],
        ["redis3", "redis1"],
    ]


def test_one_host_has_no_replica() -> None:
    shards = shard_layout(["redis1"], variables(["redis1"]), 7000)
    assert shards[0]["nodes"] == [{"name": "redis1", "address": "192.0.2.1", "port": 7000}]


def test_a_host_says_name_and_weight_of_its_shard() -> None:
    hosts = names(2)
    known = variables(hosts)
    known["redis2"] |= {"redis_shard_name": "old-cache.example", "redis_shard_weight": "3"}
    shards = shard_layout(hosts, known)
    assert [(shard["name"], shard["weight"]) for shard in shards] == [("redis1", 1), ("old-cache.example", 3)]
    # Where it lives is the host's, whatever the shard is called.
    assert shards[1]["nodes"][0]["name"] == "redis2"


def test_no_host_no_shard() -> None:
    assert shard_layout([], {}) == []


@given(count=st.integers(2, 60), port=st.integers(1, 60000))
def test_replica_elsewhere_and_load_even(count: int, port: int) -> None:
    hosts = names(count)
    shards = shard_layout(hosts, variables(hosts), port)
    for shard in shards:
        first, second = shard["nodes"]
        assert first["name"] != second["name"]
        assert (first["port"], second["port"]) == (port, port + 1)
    used = [(node["address"], node["port"]) for shard in shards for node in shard["nodes"]]
    assert len(used) == len(set(used))
    assert set(Counter(address for address, _port in used).values()) == {2}
    assert len({shard["name"] for shard in shards}) == count


@given(count=st.integers(2, 30), gone=st.integers(0, 29))
def test_a_host_that_goes_leaves_the_others_names_and_primaries(count: int, gone: int) -> None:
    """Read backwards it is a host that comes, wherever in the group it is put."""
    hosts = names(count + 1)
    lost = hosts[gone % len(hosts)]
    before = {shard["name"]: shard for shard in shard_layout(hosts, variables(hosts))}
    after = shard_layout([host for host in hosts if host != lost], variables(hosts))
    assert [shard["name"] for shard in after] == [name for name in before if name != lost]
    moved = [shard["name"] for shard in after if shard["nodes"] != before[shard["name"]]["nodes"]]
    assert all(shard["nodes"][0] == before[shard["name"]]["nodes"][0] for shard in after)
    # Only the shard whose replica was there has to find another place for it.
    assert moved == [name for name in moved if before[name]["nodes"][1]["name"] == lost]


@pytest.mark.parametrize(
    ("hosts", "hostvars", "port", "message"),
    [
        (["redis1"], {"redis1": {}}, 6379, "host 'redis1' has no webstack_address"),
        (
            ["redis1"],
            {"redis1": {"webstack_address": None}},
            6379,
            "host 'redis1' has no webstack_address",
        ),
        (["redis1"], {}, 6379, "host 'redis1' is not in the inventory"),
        (
            ["redis1", "redis1"],
            variables(["redis1"]),
            6379,
            "host 'redis1' is listed twice",
        ),
        (
            ["redis1", "redis2"],
            {
                "redis1": {"webstack_address": "192.0.2.1"},
                "redis2": {"webstack_address": "192.0.2.1"},
            },
            6379,
            "hosts 'redis1' and 'redis2' have the same webstack_address",
        ),
        (["redis1"], variables(["redis1"]), 0, "port 0"),
        (["redis1", "redis2"], variables(["redis1", "redis2"]), 65535, "port 65535"),
        (["redis1"], variables(["redis1"]), "six", "port must be an integer"),
        (["redis1"], variables(["redis1"]), True, "port must be an integer"),
        ("redis1", variables(["redis1"]), 6379, "a list of host names"),
        (["redis1"], {"redis1": {"webstack_address": "a", "redis_shard_weight": 0}}, 1, "'redis1': redis_shard_weight"),
        (["redis1"], {"redis1": {"webstack_address": "a", "redis_shard_weight": True}}, 1, "redis_shard_weight"),
        (["redis1"], {"redis1": {"webstack_address": "a", "redis_shard_weight": "much"}}, 1, "redis_shard_weight"),
        (["redis1"], {"redis1": {"webstack_address": "a", "redis_shard_name": "-x"}}, 1, "'redis1': redis_shard_name"),
        (["redis1"], {"redis1": {"webstack_address": "a", "redis_shard_name": 7}}, 1, "redis_shard_name"),
        (
            ["redis1", "redis2"],
            {"redis1": {"webstack_address": "a"}, "redis2": {"webstack_address": "b", "redis_shard_name": "redis1"}},
            6379,
            "hosts 'redis1' and 'redis2' have the same shard name: redis1",
        ),
    ],
)
def test_layout_refuses(hosts: Any, hostvars: Any, port: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        shard_layout(hosts, hostvars, port)


def test_own_group_wins() -> None:
    own = names(5, "sentinel")
    groups = {"sentinel": own, "redis": names(3)}
    chosen = sentinel_hosts(groups, variables(own), 26380)
    assert [sentinel["name"] for sentinel in chosen] == own
    assert chosen[0] == {"name": "sentinel1", "address": "192.0.2.1", "port": 26380}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"redis": names(4), "lb": names(2, "lb")}, ["redis1", "redis2", "redis3"]),
        ({"redis": names(2), "lb": names(2, "lb")}, ["redis1", "redis2", "lb1"]),
        (
            {"redis": names(1), "lb": names(1, "lb"), "was": ["lb1", "was1"]},
            ["redis1", "lb1", "was1"],
        ),
        (
            {"redis": names(1), "db": names(2, "db"), "sentinel": []},
            ["redis1", "db1", "db2"],
        ),
    ],
)
def test_choice_in_order_of_tiers(groups: dict[str, list[str]], expected: list[str]) -> None:
    hosts = list(dict.fromkeys(host for members in groups.values() for host in members))
    assert [sentinel["name"] for sentinel in sentinel_hosts(groups, variables(hosts))] == expected


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"sentinel": names(2, "sentinel")},
            r"group 'sentinel' has 2 host\(s\) \(sentinel1, sentinel2\)",
        ),
        ({"sentinel": names(4, "sentinel")}, "group 'sentinel' has 4"),
        ({"redis": names(2)}, r"3 hosts are needed .* have 2 \(redis1, redis2\)"),
        (
            {"redis": ["redis1", "redis2", "elsewhere"]},
            "host 'elsewhere' is not in the inventory",
        ),
    ],
)
def test_sentinels_refuse(groups: Any, message: str) -> None:
    hosts = [*names(4, "sentinel"), *names(3)]
    with pytest.raises(ValueError, match=message):
        sentinel_hosts(groups, variables(hosts))


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"redis": names(4), "lb": names(2, "lb")}, ["redis1", "redis2", "redis3"]),
        ({"redis": names(2), "lb": names(2, "lb"), "db": names(2, "db")}, ["redis1", "redis2", "lb1"]),
        ({"lb": names(2, "lb"), "db": names(2, "db")}, ["lb1", "lb2", "db1"]),
        # Of the sentinels' hosts only one database; another host fills its place.
        ({"sentinel": ["db1", "db2", "lb1"], "lb": names(2, "lb"), "db": names(2, "db")}, ["db1", "lb1", "lb2"]),
        ({"sentinel": names(5, "s"), "redis": names(3)}, ["s1", "s2", "s3"]),
        ({"quorum": ["a", "b", "c"], "redis": names(3)}, ["a", "b", "c"]),
    ],
)
def test_the_quorum_is_where_the_sentinels_are(groups: dict[str, list[str]], expected: list[str]) -> None:
    assert _shard_layout.quorum_hosts(groups, True) == expected
    assert _shard_layout.quorum_hosts(groups, False) == groups.get("quorum", [])


@pytest.mark.parametrize("groups", [{"redis": names(2)}, {"lb": ["lb1"], "db": ["db1", "db2", "db3"]}])
def test_a_site_that_is_too_small_for_a_quorum_is_told_so(groups: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"3 hosts are needed for the quorum, .* there are 2 \("):
        _shard_layout.quorum_hosts(groups, True)


def a_site() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    hosts = names(3)
    return shard_layout(hosts, variables(hosts)), sentinel_hosts({"redis": hosts}, variables(hosts))


@given(count=st.integers(3, 20))
def test_what_the_filters_give_has_no_problem(count: int) -> None:
    hosts = names(count)
    shards = shard_layout(hosts, variables(hosts))
    sentinels = sentinel_hosts({"redis": hosts}, variables(hosts))
    assert all(said(shards, sentinels, host) == "" for host in hosts)
    assert said(shards, [], hosts[0]) == ""


def said(shards: Any, sentinels: Any, host: str = "redis1", **more: Any) -> str:
    return "\n".join(f"{name}: {reason}" for name, reason in _shard_layout.problems(shards, sentinels, host, **more))


def test_problems_are_named() -> None:
    shards, sentinels = a_site()
    assert said(shards, sentinels, "redis9").startswith("redis_shard_shards: redis9 (redis_shard_node_name) is neither")
    assert said(shards, sentinels[:2]).startswith("redis_shard_sentinels: has 2: an odd number")
    assert said([], sentinels).startswith("redis_shard_shards: is empty")
    assert "two sentinels have the name redis1" in said(shards, [sentinels[0]] * 3)

    shards[0]["nodes"][1] = {"name": "redis1", "address": "192.0.2.1", "port": 7000}
    assert "two nodes of shard redis1 have the name redis1" in said(shards, sentinels)
    assert "two nodes of shard redis1 have the address 192.0.2.1" in said(shards, sentinels)

    shards, sentinels = a_site()
    shards[1]["name"] = "redis1"
    assert "two shards named redis1" in said(shards, sentinels)
    shards[1] = {**shards[1], "name": "a b", "nodes": []}
    assert "letters, digits" in said(shards, sentinels)
    assert "has no node" in said(shards, sentinels)

    shards, sentinels = a_site()
    sentinels[0]["port"] = 6379
    assert "192.0.2.1:6379 is used twice" in said(shards, sentinels)


def test_one_host_cannot_pass_for_two() -> None:
    """A replica or a sentinel of another name on the same machine dies with it."""
    shards, sentinels = a_site()
    sentinels[2]["address"] = "192.0.2.1"
    assert "two sentinels have the address 192.0.2.1" in said(shards, sentinels)
    shards, sentinels = a_site()
    shards[0]["nodes"][1] = {**shards[0]["nodes"][1], "name": "alias"}
    assert "address 192.0.2.2 stands for alias and for redis2" in said(shards, sentinels)
    shards, sentinels = a_site()
    sentinels[1]["address"] = "192.0.2.99"
    assert "host redis2 stands for 192.0.2.2 and for 192.0.2.99" in said(shards, sentinels)


def test_other_engines_have_no_sentinel_and_the_hosts_that_they_need() -> None:
    hosts = names(3)
    known = variables(hosts)
    assert shard_layout(hosts, known, engine="redis_cluster") == shard_layout(hosts, known)
    assert shard_layout(hosts, known, engine="single") == shard_layout(hosts, known)[:1]
    for engine in ("redis_cluster", "single"):
        assert sentinel_hosts({"redis": hosts}, known, engine=engine) == []
        assert said(shard_layout(hosts, known, engine=engine), [], "redis3", engine=engine) == ""
    with pytest.raises(AnsibleFilterError, match="redis_cluster needs 3 hosts in the group redis, there are 2"):
        shard_layout(hosts[:2], known, engine="redis_cluster")
    with pytest.raises(AnsibleFilterError, match="webstack_cache_engine must be one of"):
        shard_layout(hosts, known, engine="memcached")
    shards, sentinels = a_site()
    assert "the engine redis_cluster has no Sentinel" in said(shards, sentinels, engine="redis_cluster")
    assert "needs 3 hosts or more" in said(shard_layout(hosts[:2], known), [], engine="redis_cluster")
    assert "needs 3 shards or more" in said(shards[:2], [], engine="redis_cluster")
    assert "has 3 shards: the engine single has one" in said(shards, [], engine="single")


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("5b", 5), ("1k", 1000), ("1kb", 1024), ("256MB", 268435456), ("2g", 2 * 10**9)]
)
def test_amounts_of_memory(text: str, number: int) -> None:
    assert _shard_layout.memory_bytes(text) == number


@pytest.mark.parametrize("text", ["", "0", "0mb", "1.5gb", "-1mb", "1tb", "lots", None])
def test_amounts_that_are_none(text: Any) -> None:
    with pytest.raises(ValueError, match="amount of memory like 256mb"):
        _shard_layout.memory_bytes(text)


def test_no_redis_no_sentinel() -> None:
    assert sentinel_hosts({"redis": [], "was": names(3)}, variables(names(3))) == []

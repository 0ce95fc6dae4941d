"""What Sentinel starts with: the role's static file joined with what Sentinel learned."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from typing import Any

TOOL = pathlib.Path(__file__).resolve().parents[2] / "roles/redis_shard/files/redis-shard.py"
SPEC = importlib.util.spec_from_file_location("redis_shard_tool", TOOL)
assert SPEC is not None
assert SPEC.loader is not None
tool = importlib.util.module_from_spec(SPEC)
sys.modules["redis_shard_tool"] = tool
SPEC.loader.exec_module(tool)

ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
STATIC = f"""port 26379
sentinel monitor s1 {ONE} 6379 2
sentinel down-after-milliseconds s1 1000
"""


def node(address: str) -> dict[str, Any]:
    return {"name": f"redis{address[-1]}", "address": address, "port": 6379}


def site(*addresses: str) -> Any:
    return tool.Site(
        {
            "node": "redis1",
            "password": "secret",
            "persistent": False,
            "overcommit": False,
            "shards": [{"name": "s1", "nodes": [node(address) for address in addresses or (ONE, TWO)]}],
            "sentinels": [{**node(address), "port": 26379} for address in (ONE, TWO, THREE)],
        }
    )


def dynamic(master: str, replica: str, epoch: int) -> str:
    return f"""port 26379
sentinel myid 0123456789
sentinel monitor s1 {master} 6379 2
sentinel config-epoch s1 {epoch}
sentinel leader-epoch s1 {epoch}
sentinel known-replica s1 {replica} 6379
sentinel known-sentinel s1 {TWO} 26379 abcdef
sentinel known-sentinel s1 192.0.2.9 26379 fedcba
sentinel known-replica gone 192.0.2.9 6379
sentinel current-epoch {epoch}
"""


def merged(old: str, views: dict[str, Any] | None = None, place: Any = None) -> list[str]:
    return tool.merge(STATIC, old, place or site(), views or {}).splitlines()


def test_first_start_takes_the_static_file() -> None:
    assert merged("") == STATIC.splitlines()


def test_own_memory_beats_the_inventory() -> None:
    lines = merged(dynamic(TWO, ONE, 5))
    assert f"sentinel monitor s1 {TWO} 6379 2" in lines
    assert f"sentinel known-replica s1 {ONE} 6379" in lines
    assert "sentinel config-epoch s1 5" in lines
    assert "sentinel leader-epoch s1 5" in lines
    assert "sentinel myid 0123456789" in lines
    assert "sentinel current-epoch 5" in lines
    assert "sentinel down-after-milliseconds s1 1000" in lines
    assert lines.count("port 26379") == 1


def test_newer_word_of_the_others_beats_own_memory() -> None:
    """A master is never also its own replica: Sentinel would tell it to follow itself."""
    lines = merged(dynamic(ONE, TWO, 5), {"s1": ({"address": TWO, "port": 6379}, 6)})
    assert f"sentinel monitor s1 {TWO} 6379 2" in lines
    assert "sentinel config-epoch s1 6" in lines
    assert [line for line in lines if "known-replica" in line] == [f"sentinel known-replica s1 {ONE} 6379"]


def test_older_word_of_the_others_does_not_count() -> None:
    lines = merged(dynamic(TWO, ONE, 5), {"s1": ({"address": ONE, "port": 6379}, 4)})
    assert f"sentinel monitor s1 {TWO} 6379 2" in lines


def test_what_left_the_list_is_forgotten() -> None:
    lines = merged(dynamic(ONE, TWO, 5), place=site(ONE, THREE))
    assert not any("known-replica" in line for line in lines)
    assert f"sentinel known-sentinel s1 {TWO} 26379 abcdef" in lines
    assert not any("192.0.2.9" in line or "gone" in line for line in lines)


def test_a_master_that_left_the_list_stays_until_its_replica_took_over() -> None:
    lines = merged(dynamic("192.0.2.9", TWO, 5))
    assert "sentinel monitor s1 192.0.2.9 6379 2" in lines
    assert f"sentinel known-replica s1 {TWO} 6379" in lines


def test_a_shard_that_moved_as_a_whole_starts_at_its_first_node() -> None:
    assert f"sentinel monitor s1 {ONE} 6379 2" in merged(dynamic("192.0.2.8", "192.0.2.9", 5))

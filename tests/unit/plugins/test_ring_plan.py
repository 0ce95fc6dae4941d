"""The steps of a change of the ring, from whatever the application servers have, and its forecast."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.filter.cache_configuration import FilterModule as ConfigurationFilters
from ansible_collections.webstack.ha.plugins.filter.shard_layout import FilterModule as LayoutFilters
from ansible_collections.webstack.ha.plugins.module_utils._ring_plan import plan as ring_plan
from ansible_collections.webstack.ha.plugins.module_utils._ring_plan import situation as ring_situation
from ansible_collections.webstack.ha.plugins.module_utils._ring_plan import size
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.ring import Ring

cache_configuration = ConfigurationFilters().filters()["cache_configuration"]
shard_layout = LayoutFilters().filters()["shard_layout"]

ADDRESSES = {f"redis{number}": f"192.0.2.{number}" for number in range(1, 6)}
NAMES = {address: name for name, address in ADDRESSES.items()}


def layout(*numbers: int, **weights: int) -> list[dict[str, Any]]:
    hosts = [f"redis{number}" for number in numbers]
    variables = {
        host: {"webstack_address": ADDRESSES[host], "redis_shard_weight": weights.get(host, 1)} for host in hosts
    }
    shards: list[dict[str, Any]] = shard_layout(hosts, variables)
    return shards


def file(shards: list[dict[str, Any]], following: list[dict[str, Any]] | None = None, points: int = 160) -> Any:
    return json.loads(cache_configuration(shards, next_shards=following or [], points=points))


OLD, NEW, OTHER = layout(1, 2, 3), layout(1, 2, 3, 4), layout(1, 2, 3, 5)


def steps(files: dict[str, Any], shards: list[dict[str, Any]] = NEW, **options: Any) -> tuple[str, str]:
    """Phase and steps in short: < sweep before, a announce, = sweep between, s switch, > sweep after."""
    found = ring_situation(files, shards, **options)
    assert found["refused"] == []
    done = found["steps"]
    marks = {"sweep_before": "<", "announce": "a", "sweep_between": "=", "switch": "s", "sweep_after": ">"}
    return found["phase"], "".join(mark for name, mark in marks.items() if done[name])


# --- from any state to the wanted one -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": file(NEW), "b": file(NEW)}, ("settled", ">")),
        ({"a": file(OLD), "b": file(OLD)}, ("change", "<as>")),
        # Interrupted while it was announced: from the beginning.
        ({"a": file(OLD, NEW), "b": file(OLD)}, ("change", "<as>")),
        ({"a": file(OLD, NEW), "b": file(OLD, NEW)}, ("change", "<as>")),
        ({"a": file(OLD, OTHER), "b": file(OLD)}, ("change", "<as>")),
        # Interrupted while it was switched: on.
        ({"a": file(NEW), "b": file(OLD, NEW)}, ("switching", "s>")),
        # The inventory was put back: the announcement goes.
        ({"a": file(NEW, OLD), "b": file(NEW)}, ("change", "s>")),
        # A new application server has no file.
        ({"a": file(OLD), "b": {}}, ("change", "<as>")),
    ],
)
def test_steps(files: dict[str, Any], expected: tuple[str, str]) -> None:
    assert steps(files) == expected


def test_without_any_file_there_is_nothing_to_change() -> None:
    assert ring_situation({"a": {}, "b": {}}, NEW)["phase"] == "first"


def test_abort_goes_back_to_where_the_change_began() -> None:
    found = ring_situation({"a": file(OLD, NEW), "b": file(OLD)}, NEW, abort=True)
    assert found["new"]["weights"] == {"redis1": 1, "redis2": 1, "redis3": 1}
    assert (found["steps"]["announce"], found["steps"]["switch"]) == (False, True)
    # Once some have switched, the copies on both sides go before the old ring serves alone.
    files = {"a": file(NEW), "b": file(OLD, NEW)}
    assert steps(files, abort=True) == ("divided", "a=s>")
    found = ring_situation(files, NEW, abort=True)
    assert "redis4" in found["old"]["weights"]
    assert "redis4" not in found["new"]["weights"]
    assert ring_situation({"a": file(OLD)}, NEW, abort=True)["refused"] == [
        "there is nothing to abort: no application server has a change announced"
    ]


def test_a_change_of_points_is_a_change() -> None:
    found = ring_situation({"a": file(OLD)}, OLD, 320)
    assert found["phase"] == "change"
    assert (found["old"]["points"], found["new"]["points"]) == (160, 320)


# --- refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"was1": file(NEW), "was2": file(OLD)},
        {"was1": file(NEW), "was2": file(OLD), "was3": file(OLD, NEW)},
        {"was1": file(NEW), "was2": file(OLD, OTHER)},
    ],
)
def test_two_rings_in_use_are_refused_and_can_be_repaired(files: dict[str, Any]) -> None:
    (said,) = ring_situation(files, NEW)["refused"]
    assert "was1: redis1, redis2, redis3, redis4 (" in said
    assert "was2" in said
    assert "-e repair=true" in said
    assert steps(files, repair=True) == ("divided", "a=s>")
    between = ring_situation(files, NEW, repair=True)["steps"]["sweep_between"]
    assert [len(ring["weights"]) for ring in between] == [3, 4]


@pytest.mark.parametrize(
    ("files", "shards"),
    [
        ({"was1": file(NEW), "was2": file(OLD), "was3": file(OTHER)}, NEW),
        ({"was1": file(NEW), "was2": file(OLD)}, OTHER),
        ({"was1": file(NEW), "was2": file(OLD, NEW)}, OTHER),
    ],
)
def test_two_rings_and_a_third_are_refused(files: dict[str, Any], shards: list[dict[str, Any]]) -> None:
    (said,) = ring_situation(files, shards, repair=True)["refused"]
    assert "do not have one ring" in said
    assert "was2" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"engine": "single", "servers": []}, "was1 uses the cache as single"),
        ({**file(OLD), "algorithm": "other"}, "was1 uses the cache as ring (other)"),
        ({**file(OLD), "shards": {"redis1": ["nonsense"]}}, "the ring of was1 cannot be understood"),
        ({"engine": "ring", "algorithm": "ketama160a"}, "the ring of was1 cannot be understood: KeyError('shards')"),
    ],
)
def test_files_that_are_no_ring_are_refused(content: dict[str, Any], message: str) -> None:
    assert message in ring_situation({"was1": content}, NEW)["refused"][0]


def test_a_server_without_an_answer_forbids_the_change_and_not_the_plan() -> None:
    found = ring_situation({"was1": file(OLD)}, NEW, hosts=["was1", "was2", "was3"], absent=["was3"])
    assert found["refused"] == []
    assert len(found["hindrances"]) == 1
    assert found["hindrances"][0].startswith("was2: ")
    assert ring_situation({"was1": file(OLD), "was2": None}, NEW, absent=["was2"])["hindrances"] == []


def test_a_wrong_ring_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        ring_situation({"was1": file(OLD)}, NEW, 5)


# --- the forecast -------------------------------------------------------------------------------------


def census(old: list[dict[str, Any]], new: list[dict[str, Any]], keys: int = 30000) -> dict[str, Any]:
    """What the servers would say with these keys on them: 1 KB each, 90 % of the reads hits."""
    rings = [Ring([(shard["name"], shard["weight"]) for shard in shards]) for shards in (old, new)]
    owners: dict[str, dict[str, int]] = {name: {} for name in rings[0].names}
    for number in range(keys):
        here, there = (ring.locate(f":1:key:{number}") for ring in rings)
        owners[here][there] = owners[here].get(there, 0) + 1
    answers = {}
    for name, found in owners.items():
        count = sum(found.values())
        answers[name] = {
            "shards": {
                name: {
                    "keys": count,
                    "owners": found,
                    "strays": 0,
                    "memory": 1000 * count + 1_000_000,
                    "fixed": 1_000_000,
                    "data": 1000 * count,
                    "maxmemory": 19 << 20,
                    "hits": 9 * count,
                    "misses": count,
                    "reads_per_second": count / 10,
                }
            },
            "listed": {shard["name"]: shard["nodes"] for shard in old},
            "placed": ["some"],
            "maximum": "19mb",
        }
    # A host that is new answers and has nothing yet.
    return {shard["name"]: {"maximum": "19mb"} for shard in new} | answers


def planned(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[str, Any]:
    hosts = sorted({node["name"] for shard in new for node in shard["nodes"]})
    found = ring_situation({"was1": file(old)}, new)
    plan: dict[str, Any] = ring_plan(found, census(old, new), addresses=NAMES, members=hosts)
    return plan


def test_a_fourth_shard() -> None:
    plan = planned(OLD, NEW)
    moving = plan["total"]["keys_moved"]
    assert moving / 30000 == pytest.approx(plan["total"]["moved"], abs=0.01)
    assert plan["figures"]["redis4"] == {
        "keys_after": moving,
        "memory_after": 1_000_000 + 1000 * moving,
        "maxmemory": 19 << 20,
        "hit_rate_after": 0.0,
    }
    assert plan["shards"]["redis4"]["keys_in"] == moving
    assert sum(plan["shards"][name].get("keys_out", 0) for name in plan["shards"]) == moving
    assert sum(plan["figures"][name]["keys_after"] for name in plan["shards"]) == 30000
    # Nothing comes to the others, so their own reads stay hits.
    assert plan["figures"]["redis1"]["hit_rate_after"] == pytest.approx(0.9)
    assert plan["total"]["hit_rate_after"] == pytest.approx(0.9 * (1 - moving / 30000))
    # 30,000 keys at 3,000 reads a second: each is read every 10 s on average.
    assert plan["total"]["half_recovered_seconds"] == pytest.approx(6.93, abs=0.01)
    assert plan["warnings"] == []
    assert plan["servers"] == [
        "redis3 moves from redis1 (192.0.2.1:6380) to redis4 (192.0.2.4:6380)",
        "redis4 starts on redis4 (192.0.2.4:6379) and redis1 (192.0.2.1:6380)",
    ]
    assert plan["transition"] == NEW
    assert plan["leaving"] == []
    assert any("half of the loss is made good after 7 s, 95 % after 30 s" in line for line in plan["words"])


def test_a_shard_out_of_the_middle() -> None:
    plan = planned(NEW, layout(1, 3, 4))
    assert plan["figures"]["redis2"].keys() == {"keys", "memory", "maxmemory", "hit_rate"}
    assert plan["shards"]["redis2"]["keys_out"] == plan["total"]["keys_moved"]
    assert sum(plan["figures"][name].get("keys_after", 0) for name in plan["shards"]) == 30000
    assert plan["leaving"] == ["redis2"]


def test_a_leaving_shard_is_kept_meanwhile_where_its_host_answers() -> None:
    found = ring_situation({"was1": file(NEW)}, layout(1, 3, 4))
    answers = census(NEW, layout(1, 3, 4))
    members = ["redis1", "redis3", "redis4"]
    plan = ring_plan(found, answers, addresses=NAMES, members=members)
    # Its master stays until all have the new ring; the place of its replica is wanted.
    assert plan["transition"][:3] == layout(1, 3, 4)
    assert [(shard["name"], shard["nodes"]) for shard in plan["transition"][3:]] == [
        ("redis2", [{"name": "redis2", "address": "192.0.2.2", "port": 6379}])
    ]
    assert [shard["nodes"][-1]["name"] for shard in plan["announced"]] == ["redis3", "redis2", "redis4", "redis1"]
    # The host is dead: what its shard has is lost, and nobody waits for it.
    plan = ring_plan(found, {name: answers[name] for name in members}, addresses=NAMES, members=members)
    assert [shard["name"] for shard in plan["transition"]] == members
    assert any("redis2: its master was not counted" in warning for warning in plan["warnings"])
    # The host is not even in the inventory.
    known = {address: name for address, name in NAMES.items() if name != "redis2"}
    plan = ring_plan(found, {name: answers[name] for name in members}, addresses=known, members=members)
    assert plan["leaving"] == []
    assert any("192.0.2.2: no host of the inventory has this address" in note for note in plan["notes"])


def test_what_an_interrupted_change_left_on_the_servers_is_found() -> None:
    """After the switch the files of the applications no longer name the shard that left."""
    now = layout(1, 3, 4)
    answers = census(now, now)
    answers["redis2"] = {"placed": ["redis2"]}
    for answer in answers.values():
        answer["listed"] = {shard["name"]: shard["nodes"] for shard in NEW}
    plan = ring_plan(
        ring_situation({"was1": file(now)}, now), answers, addresses=NAMES, members=["redis1", "redis3", "redis4"]
    )
    assert plan["phase"] == "settled"
    assert plan["leaving"] == ["redis2"]


def test_memory_that_would_not_fit_is_warned_of() -> None:
    plan = planned(NEW, layout(1, 2))
    assert plan["figures"]["redis1"]["memory_after"] < 19 << 20
    heavy = layout(1, 2, 3, 4, redis1=9)
    plan = planned(NEW, heavy)
    assert any(warning.startswith("redis1 would need") for warning in plan["warnings"])


def test_servers_that_nobody_reads() -> None:
    found = ring_situation({"was1": file(OLD)}, NEW)
    plan = ring_plan(found, {}, addresses=NAMES, members=["redis1", "redis2", "redis3", "redis4"])
    assert plan["total"]["hit_rate"] is None
    assert any("cannot be said" in line for line in plan["words"])
    assert len(plan["warnings"]) == 3
    assert plan["hindrances"][0].startswith("redis1, redis2, redis3, redis4: no answer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("256mb", 256 << 20), ("1GB", 1 << 30), ("2g", 2 * 10**9), ("100", 100), ("0", 0), ("", 0), ("a lot", 0)],
)
def test_sizes_as_redis_writes_them(text: str, expected: int) -> None:
    assert size(text) == expected


def test_before_the_first_installation_there_is_no_plan() -> None:
    plan = ring_plan(ring_situation({"was1": {}}, NEW), {"redis1": {}}, addresses=NAMES, members=["redis1"])
    assert plan["words"][0] == "No application server has a ring yet: webstack.ha.site brings the first one."


def test_the_second_run_has_nothing_to_do() -> None:
    plan = planned(NEW, NEW)
    assert plan["words"] == ["Nothing to do: all application servers have the inventory's ring."]

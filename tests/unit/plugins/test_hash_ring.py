"""The ring: published vectors and properties that must hold; tests/equality compares it with other programs."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.filter.ring import FilterModule
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure import ring as hash_ring
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.ring import Ring, moved
from hypothesis import given, settings
from hypothesis import strategies as st

FILTERS = FilterModule().filters()
# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

printable = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
weighted = st.dictionaries(printable, st.integers(1, 4), min_size=1, max_size=6)
keys = st.lists(st.text(st.characters(exclude_categories=("Cs",))), min_size=1, max_size=40)
few_points = st.sampled_from([4, 8, 40, 160])


def slow_ring(nodes: dict[str, int], points: int) -> list[tuple[int, bytes]]:
    """The rule as it is written, with nothing clever in it."""
    ring = []
    for name, weight in nodes.items():
        for k in range(points // 4 * weight):
            digest = hashlib.md5(name.encode() + b"-" + str(k).encode()).digest()
            ring += [(point, name.encode()) for point in struct.unpack("<4I", digest)]
    return sorted(ring)


def slow_owner_of_hash(ring: list[tuple[int, bytes]], wanted: int) -> str:
    for point, name in ring:
        if point >= wanted:
            return name.decode()
    return ring[0][1].decode()


def slow_owner(nodes: dict[str, int], points: int, key: bytes) -> str:
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return slow_owner_of_hash(slow_ring(nodes, points), struct.unpack("<I", hashlib.md5(key).digest()[:4])[0])


# Published vectors: a change here breaks every site that runs. Never edit them.


@pytest.mark.parametrize(
    ("nodes", "points", "fingerprint"),
    [
        ({"s1": 1}, 160, "75a61c3cfee32405"),
        ({"s1": 1, "s2": 1, "s3": 1}, 160, "6a89f0a37e386faa"),
        ({"s1": 1, "s2": 1, "s3": 2}, 160, "4cce24a99711a71f"),
        ({"s1": 1, "s2": 1, "s3": 1}, 1280, "052c652bb08c8c6e"),
        ({"ä": 1, "b": 3}, 40, "0a7f725d81131243"),
    ],
)
def test_published_fingerprints(nodes: dict[str, int], points: int, fingerprint: str) -> None:
    assert Ring(nodes, points).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        ("", "s3"),
        ("a", "s3"),
        (":1:front-page", "s1"),
        (":1:django.contrib.sessions.cached_dbabc", "s3"),
        (":1:{user7}:cart", "s3"),
        (":1:{user7}:name", "s3"),
        ("user7", "s3"),
        (":1:{}x", "s3"),
        ("ключ", "s2"),
        (b"\xff\x00", "s2"),
    ],
)
def test_published_owners(key: str | bytes, owner: str) -> None:
    assert Ring({"s1": 1, "s2": 1, "s3": 2}).locate(key) == owner


def test_published_first_points() -> None:
    assert Ring({"s1": 1, "s2": 1, "s3": 2}).continuum()[:3] == [
        (14733755, "s3"),
        (17992034, "s3"),
        (25053147, "s1"),
    ]


# Properties


@given(weighted, few_points, keys)
def test_it_is_the_written_rule(nodes: dict[str, int], points: int, some: list[str]) -> None:
    ring = Ring(nodes, points)
    for key in some:
        assert ring.locate(key) == slow_owner(nodes, points, key.encode())


@given(weighted, st.randoms())
def test_order_of_the_input_does_not_matter(nodes: dict[str, int], random: Any) -> None:
    pairs = list(nodes.items())
    random.shuffle(pairs)
    assert Ring(pairs).continuum() == Ring(nodes).continuum()
    assert Ring(pairs).fingerprint == Ring(nodes).fingerprint
    assert Ring(pairs).names == tuple(sorted(nodes, key=str.encode))


@given(weighted, printable, st.integers(1, 4), keys)
def test_a_new_shard_only_takes(nodes: dict[str, int], name: str, weight: int, some: list[str]) -> None:
    nodes.pop(name, None)
    if not nodes:
        nodes = {name + "x": 1}
    before, after = Ring(nodes), Ring({**nodes, name: weight})
    for key in some:
        assert after.locate(key) in (before.locate(key), name)
    move = moved(before, after)
    assert all(change.gained == 0 for shard, change in move.shards.items() if shard != name)
    assert move.moved == move.shards[name].gained == after.shares()[name]
    # And away again: the same keys go back to where they were.
    back = moved(after, before)
    assert back.moved == move.moved
    assert all(
        (there.gained, there.lost) == (here.lost, here.gained)
        for there, here in zip(back.shards.values(), move.shards.values(), strict=True)
    )


@given(weighted, st.integers(1, 4))
def test_more_weight_takes_only_for_that_shard(nodes: dict[str, int], more: int) -> None:
    name = next(iter(nodes))
    move = moved(Ring(nodes), Ring({**nodes, name: nodes[name] + more}))
    assert all(change.gained == 0 for shard, change in move.shards.items() if shard != name)
    assert move.shards[name].lost == 0


@given(weighted, few_points)
def test_shares_are_exact(nodes: dict[str, int], points: int) -> None:
    ring = Ring(nodes, points)
    shares = ring.shares()
    assert sum(shares.values()) == 1
    assert set(shares) == set(nodes)
    assert sum(FILTERS["ring_shares"]([{"name": n, "weight": w} for n, w in nodes.items()], points).values()) == 1.0
    assert moved(ring, ring) == (0, dict.fromkeys(ring.names, (0, 0)))


@given(weighted, weighted)
def test_what_is_gained_was_lost(old: dict[str, int], new: dict[str, int]) -> None:
    before, after = Ring(old, 40), Ring(new, 40)
    move = moved(before, after)
    assert move.moved == sum(change.gained for change in move.shards.values())
    assert move.moved == sum(change.lost for change in move.shards.values())
    for name, change in move.shards.items():
        difference = after.shares().get(name, Fraction(0)) - before.shares().get(name, Fraction(0))
        assert change.gained - change.lost == difference


@given(weighted, weighted, st.sampled_from([4, 8]))
def test_moved_is_what_a_count_of_all_hashes_finds(old: dict[str, int], new: dict[str, int], points: int) -> None:
    before, after = slow_ring(old, points), slow_ring(new, points)
    # The hashes between two points have one owner in each ring: count them by one of them, the last.
    ends = sorted({point for point, _ in before + after} | {(1 << 32) - 1})
    gained: dict[str, int] = {}
    lost: dict[str, int] = {}
    for start, end in zip([-1, *ends[:-1]], ends, strict=True):
        source, target = slow_owner_of_hash(before, end), slow_owner_of_hash(after, end)
        if source != target:
            lost[source] = lost.get(source, 0) + end - start
            gained[target] = gained.get(target, 0) + end - start
    move = moved(Ring(old, points), Ring(new, points))
    assert move.moved * 2**32 == sum(lost.values())
    assert {name: change.gained * 2**32 for name, change in move.shards.items() if change.gained} == gained
    assert {name: change.lost * 2**32 for name, change in move.shards.items() if change.lost} == lost


@given(weighted, weighted, few_points, few_points)
def test_fingerprints_are_equal_where_rings_are(
    one: dict[str, int], other: dict[str, int], points: int, other_points: int
) -> None:
    left, right = Ring(one, points), Ring(other, other_points)
    assert (left.fingerprint == right.fingerprint) == (left.continuum() == right.continuum())
    assert left.fingerprint == Ring(dict(left.weights), points).fingerprint
    # A weight is a number of points, whatever the other shards weigh.
    heavy = {name: weight * 2 for name, weight in one.items()}
    assert Ring(heavy, points).fingerprint == Ring(one, points * 2).fingerprint
    name = next(iter(one))
    assert [pair for pair in left.continuum() if pair[1] == name] == Ring({name: one[name]}, points).continuum()


@given(
    weighted,
    st.text(min_size=1).filter(lambda tag: "}" not in tag and tag.isprintable()),
    st.text("ab:"),
)
def test_a_hash_tag_decides_alone(nodes: dict[str, int], tag: str, around: str) -> None:
    ring = Ring(nodes)
    assert ring.locate(f"{around}{{{tag}}}{around}") == ring.locate(tag) if "{" not in tag else True


@pytest.mark.parametrize("key", ["{}a", "a{}b", "{a", "a}b{", "}{", "a{}{b}"])
def test_no_hash_tag(key: str) -> None:
    nodes = {"s1": 1, "s2": 1, "s3": 1}
    assert Ring(nodes).locate(key) == slow_owner(nodes, 160, key.encode())


def test_on_equal_points_the_smaller_name_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    class Same:
        def __init__(self, _: bytes) -> None:
            pass

        def digest(self) -> bytes:
            return struct.pack("<4I", 7, 7, 9, 9)

    monkeypatch.setattr(hash_ring, "_md5", Same)
    ring = Ring([("b", 1), ("a", 1), ("ä", 1)], 4)
    assert [name for _, name in ring.continuum()] == ["a", "a", "b", "b", "ä", "ä"] * 2
    assert ring.locate("x") == "a"
    assert ring.shares() == {"a": 1, "b": 0, "ä": 0}


def test_bytes_and_text_are_the_same_key() -> None:
    ring = Ring({"s1": 1, "s2": 1, "s3": 1})
    assert all(ring.locate(f"ключ{n}") == ring.locate(f"ключ{n}".encode()) for n in range(100))


@pytest.mark.parametrize(
    ("count", "points", "bound"),
    [(3, 160, 1.10), (10, 160, 1.18), (100, 160, 1.27), (10, 1280, 1.07)],
)
def test_load_is_even(count: int, points: int, bound: float) -> None:
    worst = [
        max(Ring({f"{prefix}{n}": 1 for n in range(count)}, points).shares().values()) * count
        for prefix in ("s", "shard", "cache-")
    ]
    assert sorted(worst)[1] <= bound


def test_the_same_in_every_process() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ring as h;"
        "r = h.Ring({'s1': 1, 's2': 3}); print(r.fingerprint, *(r.locate(str(n)) for n in range(200)))"
    )
    directory = str(Path(hash_ring.__file__).parent)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, directory],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_without_the_built_in_md5() -> None:
    script = (
        "import sys; sys.modules['_md5'] = None; sys.path.insert(0, sys.argv[1]); import ring as h;"
        "print(h.Ring({'s1': 1, 's2': 3}).fingerprint)"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, str(Path(hash_ring.__file__).parent)],
        capture_output=True,
        check=True,
    )
    assert output.stdout.decode().strip() == Ring({"s1": 1, "s2": 3}).fingerprint


# Refusals


@pytest.mark.parametrize(
    ("nodes", "points", "message"),
    [
        ({}, 160, "at least one shard"),
        (dict.fromkeys(map(str, range(65_537)), 1), 4, "a ring takes 65536 shards, not 65537"),
        ({"s1": 0}, 160, "weight of shard 's1'"),
        ({"s1": -1}, 160, "weight of shard 's1'"),
        ({"s1": 1.5}, 160, "weight of shard 's1'"),
        ({"s1": "1"}, 160, "weight of shard 's1'"),
        ({"s1": True}, 160, "weight of shard 's1'"),
        ({"s1": None}, 160, "weight of shard 's1'"),
        ([("s1", 1), ("s1", 1)], 160, "'s1' is named twice"),
        ({"": 1}, 160, "not empty"),
        ({"a\nb": 1}, 160, "printable"),
        ({1: 1}, 160, "must be a string"),
        ({b"s1": 1}, 160, "must be a string"),
        ({"s1": 1}, 0, "multiple of 4"),
        ({"s1": 1}, 161, "multiple of 4"),
        ({"s1": 1}, "160", "multiple of 4"),
        ({"s1": 1}, True, "multiple of 4"),
    ],
)
def test_bad_input_is_refused(nodes: Any, points: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ring(nodes, points)


@pytest.mark.parametrize("key", [1, None, ["a"]])
def test_bad_keys_are_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="key must be"):
        Ring({"s1": 1}).locate(key)


# Filters

SHARDS = [{"name": "s2", "port": 6380}, {"name": "s1", "weight": 2}]


def test_filter_ring() -> None:
    assert FILTERS["ring"](SHARDS) == {
        "algorithm": "ketama160a",
        "points": 160,
        "nodes": [{"name": "s1", "weight": 2}, {"name": "s2", "weight": 1}],
        "fingerprint": Ring({"s1": 2, "s2": 1}).fingerprint,
    }


def test_filter_locate() -> None:
    ring = Ring({"s1": 2, "s2": 1}, 40)
    assert FILTERS["ring_locate"](SHARDS, "a", points=40) == ring.locate("a")
    assert FILTERS["ring_locate"](SHARDS, ["a", "b"], 40) == [
        ring.locate("a"),
        ring.locate("b"),
    ]
    assert FILTERS["ring_locate"](FILTERS["ring"](SHARDS, 40), ["a", "b"]) == [
        ring.locate("a"),
        ring.locate("b"),
    ]


def test_filter_moved() -> None:
    plan = FILTERS["ring_moved"](FILTERS["ring"](SHARDS), [*SHARDS, {"name": "s3"}])
    assert (
        plan["moved"] == plan["shards"]["s3"]["gained"] == plan["shards"]["s1"]["lost"] + plan["shards"]["s2"]["lost"]
    )
    assert plan["shards"]["s3"]["lost"] == plan["shards"]["s1"]["gained"] == 0.0


def test_filters_take_the_file_of_the_clients() -> None:
    file = {
        "engine": "ring",
        "algorithm": "ketama160a",
        "points": 40,
        "fingerprint": Ring({"s1": 2, "s2": 1}, 40).fingerprint,
        "shards": {"s2": ["192.0.2.32:6379"], "s1": ["192.0.2.31:6379", "192.0.2.32:6380"]},
        "weights": {"s1": 2},
    }
    assert FILTERS["ring"](file) == FILTERS["ring"](SHARDS, points=40)
    assert FILTERS["ring_moved"](file, FILTERS["ring"](SHARDS, points=40))["moved"] == 0.0
    with pytest.raises(AnsibleFilterError, match=r"fingerprint '[0-9a-f]{16}' does not belong to these shards"):
        FILTERS["ring_shares"]({**file, "weights": {}})
    with pytest.raises(AnsibleFilterError, match="expected a list of shards, not NoneType"):
        FILTERS["ring_shares"]({**file, "shards": []})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ring", ["s1"], "expected a list of shards, not str"),
        ("ring", [["s1"]], "shard number 1 must be a dictionary with a name"),
        ("ring", [[{"name": "s1"}, {"weight": 1}]], "shard number 2"),
        ("ring", [[{"name": ["s1"]}]], "must be strings"),
        ("ring", [[{"name": "s1"}, {"name": "s1"}]], "named twice"),
        ("ring", [[]], "at least one shard"),
        ("ring", [None], "expected a list of shards, not NoneType"),
        ("ring", [{"s1": 1}], "expected a list of shards, not dict"),
        ("ring", [[{"name": 1}]], "must be a string, not int"),
        ("ring", [[{"name": "s1", "weight": None}]], "weight of shard 's1' must be an integer of at least 1, not None"),
        ("ring", [SHARDS, "160"], "points must be a positive multiple of 4, not '160'"),
        ("ring", [SHARDS, 160.0], "points must be a positive multiple of 4, not 160.0"),
        ("ring", [SHARDS, [160]], "points|unhashable"),
        ("ring_locate", [SHARDS, ["a", None]], "key must be a string or bytes, not NoneType"),
        ("ring_locate", [SHARDS, "\ud800"], "surrogates not allowed"),
        ("ring_locate", [[], "a"], "at least one shard"),
        ("ring_shares", [[]], "at least one shard"),
        ("ring_moved", [SHARDS, []], "at least one shard"),
        ("ring_moved", [[], SHARDS], "at least one shard"),
        ("ring_moved", [SHARDS, [{"name": "s1", "weight": 0}]], "weight of shard 's1'"),
        ("ring_locate", [SHARDS, 5], "key must be"),
        ("ring_locate", [SHARDS], "missing 1 required"),
        (
            "ring_shares",
            [{**FILTERS["ring"](SHARDS), "fingerprint": "0" * 16}],
            "fingerprint",
        ),
        (
            "ring_shares",
            [{**FILTERS["ring"](SHARDS), "algorithm": "maglev"}],
            "unknown algorithm 'maglev'",
        ),
        ("ring_shares", [FILTERS["ring"](SHARDS), 160], "its own number of points"),
    ],
)
def test_filters_refuse(name: str, arguments: list[Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=rf"webstack\.ha\.{name}: .*{message}"):
        FILTERS[name](*arguments)


@pytest.mark.parametrize("weight", [True, 1.0, "1", 0, -1, 1.5, [1], {"weight": 1}])
@pytest.mark.parametrize("name", ["ring", "ring_locate", "ring_moved", "ring_shares"])
def test_a_wrong_weight_is_refused_also_behind_a_good_one(name: str, weight: Any) -> None:
    """The filters keep the last rings that they built; True and 1.0 are equal to 1 and yet no weights."""
    rest = {"ring_locate": ["key"], "ring_moved": [SHARDS]}.get(name, [])
    FILTERS[name]([{"name": "s1", "weight": 1}], *rest)
    with pytest.raises(AnsibleFilterError, match=rf"webstack\.ha\.{name}: .*(weight of shard 's1'|weights integers)"):
        FILTERS[name]([{"name": "s1", "weight": weight}], *rest)


def test_wrong_points_are_refused_also_behind_good_ones() -> None:
    FILTERS["ring_shares"](SHARDS, points=160)
    with pytest.raises(AnsibleFilterError, match="positive multiple of 4"):
        FILTERS["ring_shares"](SHARDS, points=160.0)

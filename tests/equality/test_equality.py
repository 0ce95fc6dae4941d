"""The ring puts keys where other programs put them: uhashring, libketama, libmemcached, nutcracker, all real.

Where one of them differs, the test says why and asserts exactly that difference:

* libketama, libmemcached and nutcracker compute how many labels a node gets in floats of single precision. For some
  numbers of nodes 40 comes out as 39.99..., and every node loses a label; the program then equals a ring of 156
  points. In libketama 61 is the first such number, in the other two 25. It depends on the number alone.
* All four normalise weights: a node's labels depend on the weights of the others. Ours are absolute.
* A key whose hash is exactly a point belongs to that point, but in uhashring to the next one.
* Of two nodes on one point, the one that was named last owns in uhashring and the first in the others, so the names
  have to be given in an order. Ours does not care.
* Only nutcracker knows hash tags. It does not hash an empty key but sends it to the first point.
* libmemcached takes 100 servers, libketama what fits in 512 KiB: 117.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nutcracker_placement import labels
from programs import Libketama, Libmemcached, Nutcracker, Uhashring
from ring import Ring

ODD = ["a", "a.b", "a-b", "a-0", "a-0-0", "A", "0", "-", "10.0.0.1", "redis_1", "x" * 21]
UNICODE = ["ä", "ö", "雪", "a\u0301", "ключ", "s1"]
POINT_LABELS = ["s", "s-1", "s-1-1", "s-0", "s-10", "s-1-0"]
ADDRESSES = [f"192.0.2.{n}:6379" for n in range(1, 8)]


def named(count: int, prefix: str = "redis") -> list[str]:
    return [f"{prefix}{n}" for n in range(1, count + 1)]


@cache
def plain_keys(count: int) -> tuple[bytes, ...]:
    """Keys without a brace: as Django makes them, odd ones, and any text."""
    chance = random.Random(count)
    found = [b"", b" ", b"-0", b"\n", b"a b", b"\x00", "ключ".encode(), "雪".encode(), b"k" * 4000]
    while len(found) < count:
        found.append(b":1:key:%d" % len(found))
        length = chance.randrange(1, 30)
        found.append(
            "".join(chr(chance.choice((chance.randrange(32, 123), 0xE4, 0x96EA))) for _ in range(length)).encode()
        )
    return tuple(found[:count])


@cache
def binary_keys(count: int) -> tuple[bytes, ...]:
    chance = random.Random(count)
    made = (chance.randbytes(chance.randrange(1, 40)) for _ in range(2 * count))
    return tuple(key for key in made if b"{" not in key)[:count]


def label_keys(names: Iterable[str], count: int) -> list[bytes]:
    """Keys that are what the points are made of; each hashes exactly to a point of the ring."""
    found = [b"%s-%d" % (name.encode(), k) for k in range(40) for name in names]
    return found[:count]


def hashed(key: bytes) -> int:
    return int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest()[:4], "little")


def labels_in_libketama(count: int) -> int:
    """How many labels a node gets where the part of a node is a float of single precision, and the rest is not."""

    def single(value: float) -> float:
        return struct.unpack("f", struct.pack("f", value))[0]

    return int(single(single(1 / count) * 40.0 * count))


def differences(ring: Ring, locate: Callable[[bytes], str], keys: Sequence[bytes]) -> list[tuple[bytes, str, str]]:
    return [(key, ring.locate(key), other) for key in keys if (other := locate(key)) != ring.locate(key)]


def equal_weights(names: Iterable[str], points: int = 160) -> Ring:
    return Ring(dict.fromkeys(names, 1), points)


# --- uhashring -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [*map(named, (1, 2, 3, 10, 25, 100, 1000)), ODD, UNICODE, POINT_LABELS, ADDRESSES],
    ids=lambda names: f"{len(names)}-{names[0]}",
)
def test_uhashring(names: list[str]) -> None:
    assert differences(equal_weights(names), Uhashring(names).locate, plain_keys(10_000)) == []


@pytest.mark.parametrize("names", [named(3), ODD, POINT_LABELS], ids=lambda names: f"{len(names)}-{names[0]}")
def test_uhashring_gives_a_key_that_is_on_a_point_to_the_next(names: list[str]) -> None:
    continuum = equal_weights(names).continuum()
    following = {point: name for (point, _), (_, name) in pairwise([*continuum, continuum[0]])}
    other = Uhashring(names)
    for key in label_keys(names, 400):
        assert other.locate(key) == following[hashed(key)]


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8), min_size=1, max_size=12))
def test_uhashring_on_any_names(names: set[str]) -> None:
    assert differences(equal_weights(names), Uhashring(names).locate, plain_keys(300)) == []


# --- libketama and libmemcached --------------------------------------------------------------------

SETS = [*map(named, (1, 2, 3, 8, 24, 26, 60, 100)), ODD, UNICODE, POINT_LABELS, ADDRESSES]


@pytest.mark.parametrize("names", SETS, ids=lambda names: f"{len(names)}-{names[0]}")
def test_libketama(names: list[str], tmp_path: Path) -> None:
    keys = [*plain_keys(10_000), *binary_keys(2_000), *label_keys(names, 4_000)]
    with closing(Libketama(names, tmp_path)) as other:
        assert differences(equal_weights(names), other.locate, keys) == []


@pytest.mark.parametrize("names", SETS, ids=lambda names: f"{len(names)}-{names[0]}")
def test_libmemcached(names: list[str]) -> None:
    keys = [*plain_keys(10_000), *binary_keys(2_000), *label_keys(names, 4_000)]
    points = 4 * labels(len(names))
    assert points == (156 if len(names) == 100 else 160)
    with closing(Libmemcached(names)) as other:
        assert differences(equal_weights(names, points), other.locate, keys) == []


def test_libketama_at_every_number_of_nodes(tmp_path: Path) -> None:
    equal = []
    for count in range(1, 118):
        points = 4 * labels_in_libketama(count)
        with closing(Libketama(named(count), tmp_path)) as other:
            assert differences(equal_weights(named(count), points), other.locate, plain_keys(500)) == []
            if not differences(equal_weights(named(count)), other.locate, plain_keys(500)):
                equal.append(count)
    assert sorted(set(range(1, 118)) - set(equal)) == [61]


def test_libmemcached_at_every_number_of_nodes() -> None:
    equal = []
    for count in range(1, 101):
        points = 4 * labels(count)
        with closing(Libmemcached(named(count))) as other:
            assert differences(equal_weights(named(count), points), other.locate, plain_keys(500)) == []
            if not differences(equal_weights(named(count)), other.locate, plain_keys(500)):
                equal.append(count)
    assert sorted(set(range(1, 101)) - set(equal)) == [25, 47, 50, 55, 61, 71, 94, 100]


# --- nutcracker ------------------------------------------------------------------------------------

TAGGED = [b"a{t}b", b"{t}", b"{}a", b"a{}{t}", b"{a", b"a}{b}", b"}{", b"{{t}}", b"{t", b"x{redis1-0}", b"{a}{b}"]


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (named(3), 10_000),
        (named(24), 10_000),
        (named(1), 500),
        (named(26), 4_000),
        (ODD, 4_000),
        (UNICODE, 4_000),
        (POINT_LABELS, 4_000),
    ],
    ids=lambda value: f"{len(value)}-{value[0]}" if isinstance(value, list) else "",
)
def test_nutcracker(names: list[str], count: int, tmp_path: Path) -> None:
    """With the file that the role's program writes."""
    ring = equal_weights(names)
    keys = [*plain_keys(count)[1:], *binary_keys(count // 5), *label_keys(names, count // 5), *TAGGED]
    with closing(Nutcracker(names, tmp_path)) as other:
        assert differences(ring, dict(zip(keys, other.locate_all(keys), strict=True)).__getitem__, keys) == []
        assert other.locate_all([b""]) == [ring.continuum()[0][1]]


def test_nutcracker_where_floats_lose_a_label(tmp_path: Path) -> None:
    names, keys = named(25), plain_keys(4_000)[1:]
    with closing(Nutcracker(names, tmp_path)) as other:
        found = dict(zip(keys, other.locate_all(keys), strict=True)).__getitem__
    assert differences(equal_weights(names, 156), found, keys) == []
    assert 0.01 < len(differences(equal_weights(names), found, keys)) / len(keys) < 0.05


# --- Ties ------------------------------------------------------------------------------------------


def ties() -> list[tuple[int, str, str]]:
    """Return real ties among a thousand names: the point, and the two nodes that have it."""
    continuum = Ring(dict.fromkeys(named(1000), 1)).continuum()
    return [(a, left, right) for (a, left), (b, right) in pairwise(continuum) if a == b and left != right]


def keys_of_point(ring: Ring, point: int, wanted: int = 3) -> list[bytes]:
    """Return keys whose hash is between the point before this one and this one."""
    before = max((other for other, _ in ring.continuum() if other < point), default=0)
    found: list[bytes] = []
    for n in range(1_000_000):
        key = b"t%d" % n
        if before < hashed(key) < point:
            found.append(key)
            if len(found) == wanted:
                return found
    raise AssertionError(f"no key found for the point {point}")


def test_ties(tmp_path: Path) -> None:
    found = ties()
    assert len(found) >= 2
    for point, left, right in found:
        names = sorted([left, right, "other"], key=str.encode)
        ring = equal_weights(names)
        keys = keys_of_point(ring, point)
        smaller = min(left, right, key=str.encode)
        assert {ring.locate(key) for key in keys} == {smaller}
        assert differences(ring, Uhashring(names).locate, keys) == []
        for program in (Libketama(names, tmp_path), Libmemcached(names)):
            with closing(program) as other:
                assert differences(ring, other.locate, keys) == []
        with closing(Nutcracker(names, tmp_path)) as proxy:
            assert proxy.locate_all(keys) == [smaller] * len(keys)


# --- Weights ---------------------------------------------------------------------------------------


def test_weights_differ_because_the_others_normalise_them(tmp_path: Path) -> None:
    """A fourth node of twice the weight: ours moves keys to it alone, the others move keys among the rest too."""
    weights = {"s1": 1, "s2": 1, "s3": 1}
    grown = {**weights, "s4": 2}
    keys = plain_keys(5_000)

    def needless(before: Callable[[bytes], str], after: Callable[[bytes], str]) -> int:
        return sum(new not in ("s4", before(key)) for key in keys if (new := after(key)))

    assert needless(Ring(weights).locate, Ring(grown).locate) == 0
    assert needless(Uhashring(weights, weights).locate, Uhashring(grown, grown).locate) > 50
    for make in (lambda some: Libketama(list(some), tmp_path, some), lambda some: Libmemcached(list(some), some)):
        with closing(make(weights)) as other:
            before = {key: other.locate(key) for key in keys}
        with closing(make(grown)) as other:
            assert needless(before.__getitem__, other.locate) > 50

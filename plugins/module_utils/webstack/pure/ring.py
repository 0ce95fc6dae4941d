# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The consistent-hash ring ``ketama160a``.

One file serves the filters on the controller and the cache client inside the application, so both always
agree on which shard owns a key. Pure: no Ansible, no Django, no input or output.

The rule, to the bit:

* A node is a logical shard name with a weight (an integer of at least 1). Names are compared as UTF-8 bytes.
* For k in 0 .. points / 4 * weight - 1, MD5(name + "-" + decimal k) gives four points, little-endian uint32.
* The ring is sorted by (point, name); on equal points the smaller name owns.
* A key hashes to the first four bytes of MD5(key), little-endian; with a hash tag ("a{tag}b") only the tag
  counts. The owner is the first point that is not smaller than the hash, else the first point of the ring.
* The fingerprint is the first 16 hex digits of SHA-256 over the lines "%08x name" in ring order.

Weights are absolute, not normalised, so a change of one shard moves that shard's keys and no others.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from typing import NamedTuple

ALGORITHM = "ketama160a"
DEFAULT_POINTS = 160
SPACE = 1 << 32
"""Number of hashes."""

# Python's own MD5 takes half of OpenSSL's time on strings as short as these. If Python was built without it, take
# OpenSSL's, and tell a FIPS build that this is not for security.
try:
    from _md5 import md5 as _md5
except ImportError:
    _md5 = partial(hashlib.md5, usedforsecurity=False)
# A point and the rank of its shard's name share one number, so that sorting puts equal points in the order of the
# names. The number is a float, which holds these 48 bits exactly: Python sorts floats faster than large integers, and
# much faster than tuples.
_RANK_BITS = 16
_RANK = (1 << _RANK_BITS) - 1
_SHIFT = float(1 << _RANK_BITS)
_first_uint32 = struct.Struct("<I").unpack_from


class Change(NamedTuple):
    """The parts of the key space that one shard gains and loses."""

    gained: Fraction
    lost: Fraction


class Move(NamedTuple):
    """What a change of the ring moves: the part of all keys, and each shard's gain and loss."""

    moved: Fraction
    shards: dict[str, Change]


class Ring:
    """An immutable ring over logical shard names."""

    __slots__ = ("_fingerprint", "_merged", "names", "points", "weights")

    names: tuple[str, ...]
    """Names in byte order."""
    weights: dict[str, int]
    points: int
    """Points of a shard of weight 1."""

    def __init__(self, nodes: Mapping[str, int] | Iterable[tuple[str, int]], points: int = DEFAULT_POINTS) -> None:
        """Build the ring. A ValueError says what is wrong with the nodes or the points."""
        if isinstance(points, bool) or not isinstance(points, int) or points < 4 or points % 4:
            raise ValueError(f"points must be a positive multiple of 4, not {points!r}")
        encoded: dict[bytes, tuple[str, int]] = {}
        for name, weight in nodes.items() if isinstance(nodes, Mapping) else nodes:
            raw = _encode_name(name)
            if raw in encoded:
                raise ValueError(f"shard {name!r} is named twice")
            if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
                raise ValueError(f"the weight of shard {name!r} must be an integer of at least 1, not {weight!r}")
            encoded[raw] = (str(name), int(weight))
        if not encoded:
            raise ValueError("a ring needs at least one shard")
        if len(encoded) > _RANK + 1:
            raise ValueError(f"a ring takes {_RANK + 1} shards, not {len(encoded)}")

        order = sorted(encoded)
        suffixes = [b"-%d" % k for k in range(points // 4 * max(weight for name, weight in encoded.values()))]
        merged: list[float] = []
        for rank, raw in enumerate(order):
            labels = points // 4 * encoded[raw][1]
            digests = b"".join([_md5(raw + suffix).digest() for suffix in suffixes[:labels]])
            merged += [point * _SHIFT + rank for point in struct.unpack(f"<{labels * 4}I", digests)]
        merged.sort()
        self._merged = merged
        self._fingerprint: str | None = None
        self.names = tuple(encoded[raw][0] for raw in order)
        self.weights = dict(encoded[raw] for raw in order)
        self.points = int(points)

    def __repr__(self) -> str:
        return f"Ring({self.weights!r}, points={self.points})"

    @property
    def fingerprint(self) -> str:
        """Return sixteen hex digits. Two rings are equal exactly when their digits are."""
        if self._fingerprint is None:
            endings = {f"{rank:04x}": f" {name}\n" for rank, name in enumerate(self.names)}
            digest = hashlib.sha256()
            # Turn many values into text at once: four zeros, eight digits of the point, four of the rank. Not all at
            # once, since small blocks stay in the processor's cache.
            for start in range(0, len(self._merged), 4096):
                part = self._merged[start : start + 4096]
                values = struct.pack(f">{len(part)}Q", *map(int, part)).hex(" ", 8).split()
                digest.update("".join([value[4:12] + endings[value[12:]] for value in values]).encode())
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    def locate(self, key: str | bytes) -> str:
        """Return the name of the shard that owns the key (the final Redis key, prefix and all)."""
        try:
            raw = key.encode() if isinstance(key, str) else bytes(memoryview(key))
        except TypeError:
            raise ValueError(f"a key must be a string or bytes, not {type(key).__name__}") from None
        if b"{" in raw:
            raw = _hash_tag(raw)
        return self._owner(_first_uint32(_md5(raw).digest())[0])

    def _owner(self, value: int) -> str:
        """Return the name of the shard that owns a hash."""
        merged = self._merged
        index = bisect_left(merged, value * _SHIFT)
        # The index is negative, so that the place after the last point is the first point.
        return self.names[int(merged[index - len(merged)]) & _RANK]

    def continuum(self) -> list[tuple[int, str]]:
        """Return the points in ring order, each with the shard that it belongs to."""
        return [(value >> _RANK_BITS, self.names[value & _RANK]) for value in map(int, self._merged)]

    def shares(self) -> dict[str, Fraction]:
        """Return each shard's exact part of the key space; the parts sum to 1."""
        continuum = self.continuum()
        owned = dict.fromkeys(self.names, 0)
        previous = continuum[-1][0] - SPACE
        for point, name in continuum:
            owned[name] += point - previous
            previous = point
        return {name: Fraction(length, SPACE) for name, length in owned.items()}


def arcs(old: Ring, new: Ring) -> Iterator[tuple[int, int, str, str]]:
    """Yield the arcs of the key space: the hash before the first one, the last hash, the old owner, the new owner.

    The first arc crosses the end of the key space, so it begins below zero.
    """
    # Between two neighbouring points of the two rings the owner is the same everywhere, in each ring.
    borders = sorted({point for ring in (old, new) for point, name in ring.continuum()})
    previous = borders[-1] - SPACE
    for border in borders:
        yield previous, border, old._owner(border), new._owner(border)
        previous = border


def moved(old: Ring, new: Ring) -> Move:
    """Return exactly which parts of the key space have another owner in the new ring."""
    gained = dict.fromkeys(sorted({*old.names, *new.names}, key=str.encode), 0)
    lost = dict.fromkeys(gained, 0)
    for start, end, before, after in arcs(old, new):
        if before != after:
            gained[after] += end - start
            lost[before] += end - start
    return Move(
        Fraction(sum(gained.values()), SPACE),
        {name: Change(Fraction(gained[name], SPACE), Fraction(lost[name], SPACE)) for name in gained},
    )


def _encode_name(name: object) -> bytes:
    if not isinstance(name, str):
        raise ValueError(f"the name of a shard must be a string, not {type(name).__name__} ({name!r})")
    # A line break would make two different rings share one fingerprint.
    if not name or not name.isprintable():
        raise ValueError(f"the name of a shard must be printable and not empty, not {name!r}")
    return name.encode()


def _hash_tag(key: bytes) -> bytes:
    """Return what Redis Cluster would hash: the text in the first braces, unless that is empty."""
    start = key.find(b"{") + 1
    end = key.find(b"}", start)
    return key[start:end] if end > start else key

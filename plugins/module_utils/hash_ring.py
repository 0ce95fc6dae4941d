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
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import partial
from typing import NamedTuple

ALGORITHM = "ketama160a"
DEFAULT_POINTS = 160

_SPACE = 1 << 32
# Not for security: a FIPS build of OpenSSL refuses MD5 without the flag. Python's own implementation, which
# hashlib falls back to, takes half of OpenSSL's time on strings as short as these.
try:
    from _md5 import md5 as _any_md5
except ImportError:  # a Python that was built without it
    from hashlib import md5 as _any_md5
_md5 = partial(_any_md5, usedforsecurity=False)
_first_uint32 = struct.Struct("<I").unpack_from


class Change(NamedTuple):
    """Parts of the key space that one shard gains and loses."""

    gained: Fraction
    lost: Fraction


class Move(NamedTuple):
    """What a change of the ring moves: the part of all keys, and each shard's gain and loss."""

    moved: Fraction
    shards: dict[str, Change]


class Ring:
    """An immutable ring over logical shard names."""

    __slots__ = ("_fingerprint", "_hashes", "_owners", "names", "points", "weights")

    names: tuple[str, ...]
    """Names in byte order."""
    weights: dict[str, int]
    points: int
    """Points of a shard of weight 1."""

    def __init__(self, nodes: Mapping[str, int] | Iterable[tuple[str, int]], points: int = DEFAULT_POINTS) -> None:
        """Build the ring; ValueError says what is wrong with the nodes or the points."""
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

        order = sorted(encoded)
        names = [encoded[raw][0] for raw in order]
        # Point and rank of the name share one integer: sorting plain integers is several times faster
        # than sorting tuples, and breaks ties by name without further ado.
        bits = max(1, (len(order) - 1).bit_length())
        merged: list[int] = []
        for rank, raw in enumerate(order):
            labels = points // 4 * encoded[raw][1]
            prefix = raw + b"-"
            digests = b"".join([_md5(prefix + b"%d" % k).digest() for k in range(labels)])
            merged += [point << bits | rank for point in struct.unpack(f"<{labels * 4}I", digests)]
        merged.sort()
        mask = (1 << bits) - 1
        self._hashes = [value >> bits for value in merged]
        self._owners = [names[value & mask] for value in merged]
        self._fingerprint: str | None = None
        self.names = tuple(names)
        self.weights = {name: encoded[raw][1] for raw, name in zip(order, names, strict=True)}
        self.points = int(points)

    def __repr__(self) -> str:
        return f"Ring({self.weights!r}, points={self.points})"

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that are equal exactly where the rings are."""
        if self._fingerprint is None:
            lines = "".join([f"{point:08x} {name}\n" for point, name in zip(self._hashes, self._owners, strict=True)])
            self._fingerprint = hashlib.sha256(lines.encode()).hexdigest()[:16]
        return self._fingerprint

    def locate(self, key: str | bytes) -> str:
        """Return the name of the shard that owns the key (the final Redis key, prefix and all)."""
        try:
            raw = key.encode() if isinstance(key, str) else bytes(memoryview(key))
        except TypeError:
            raise ValueError(f"a key must be a string or bytes, not {type(key).__name__}") from None
        if b"{" in raw:
            raw = _hash_tag(raw)
        index = bisect_left(self._hashes, _first_uint32(_md5(raw).digest())[0])
        try:
            return self._owners[index]
        except IndexError:
            return self._owners[0]

    def continuum(self) -> list[tuple[int, str]]:
        """Return the points in ring order, each with the shard that it belongs to."""
        return list(zip(self._hashes, self._owners, strict=True))

    def shares(self) -> dict[str, Fraction]:
        """Return each shard's exact part of the key space; the parts sum to 1."""
        owned = dict.fromkeys(self.names, 0)
        previous = self._hashes[-1] - _SPACE
        for point, name in zip(self._hashes, self._owners, strict=True):
            owned[name] += point - previous
            previous = point
        return {name: Fraction(length, _SPACE) for name, length in owned.items()}

    def _owner_of_hash(self, value: int) -> str:
        index = bisect_left(self._hashes, value)
        return self._owners[index if index < len(self._owners) else 0]


def moved(old: Ring, new: Ring) -> Move:
    """Return exactly which part of the key space changes its owner from the old ring to the new one."""
    # Between two neighbouring points of either ring the owner is constant in both.
    gained = dict.fromkeys(sorted({*old.names, *new.names}, key=str.encode), 0)
    lost = dict.fromkeys(gained, 0)
    borders = sorted({*old._hashes, *new._hashes})
    previous = borders[-1] - _SPACE
    for border in borders:
        before, after = old._owner_of_hash(border), new._owner_of_hash(border)
        if before != after:
            gained[after] += border - previous
            lost[before] += border - previous
        previous = border
    return Move(
        Fraction(sum(gained.values()), _SPACE),
        {name: Change(Fraction(gained[name], _SPACE), Fraction(lost[name], _SPACE)) for name in gained},
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

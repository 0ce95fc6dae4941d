# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters around the consistent-hash ring: thin, the rule is in module_utils/webstack/pure/ring.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _ring_report
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure import ring as hash_ring


# A template that locates keys one by one builds its ring once. The cache must tell a weight of 1 from True and 1.0,
# which are refused, and does so only for values that are arguments by themselves: names and weights in turn.
@lru_cache(maxsize=8, typed=True)
def _build(points: int, *nodes: Any) -> hash_ring.Ring:
    return hash_ring.Ring(zip(nodes[::2], nodes[1::2], strict=True), points)


def _listed(configuration: Mapping[str, Any]) -> Any:
    """Return the shards of the clients' configuration, which has names with servers and weights other than 1."""
    names, weights = configuration.get("shards"), configuration.get("weights") or {}
    if not isinstance(names, Mapping) or not isinstance(weights, Mapping):
        return None
    return [{"name": name, "weight": weights.get(name, 1)} for name in names]


def _ring_of(shards: Any, points: int | None) -> hash_ring.Ring:
    """Return the ring of a list of shards, of what the filter `ring` made of one, or of the clients' file."""
    fingerprint = None
    if isinstance(shards, Mapping) and "algorithm" in shards:
        algorithm = shards.get("algorithm")
        if algorithm != hash_ring.ALGORITHM:
            raise ValueError(f"unknown algorithm {algorithm!r}, this is {hash_ring.ALGORITHM}")
        if points is None:
            points = shards.get("points")
        else:
            raise ValueError("a ring brings its own number of points, do not give another")
        fingerprint = shards.get("fingerprint")
        shards = shards.get("nodes") or _listed(shards)
    if isinstance(shards, str) or not isinstance(shards, Sequence):
        raise TypeError(f"expected a list of shards, not {type(shards).__name__}")
    nodes: list[Any] = []
    for position, shard in enumerate(shards):
        if not isinstance(shard, Mapping) or "name" not in shard:
            raise ValueError(f"shard number {position + 1} must be a dictionary with a name, not {shard!r}")
        nodes += [shard["name"], shard.get("weight", 1)]
    try:
        ring = _build(hash_ring.DEFAULT_POINTS if points is None else points, *nodes)
    except TypeError as exc:  # a name or weight that is no plain value cannot be a key of the cache
        raise ValueError(f"names must be strings and weights integers: {exc}") from exc
    if fingerprint is not None and fingerprint != ring.fingerprint:
        raise ValueError(f"the fingerprint {fingerprint!r} does not belong to these shards ({ring.fingerprint})")
    return ring


def _rings_of(old: Any, new: Any, points: int | None) -> tuple[hash_ring.Ring, hash_ring.Ring]:
    # The number of points is for those of the two that bring none.
    before, after = (_ring_of(shards, None if isinstance(shards, Mapping) else points) for shards in (old, new))
    return before, after


def ring(shards: Any, points: int | None = None) -> dict[str, Any]:
    built = _ring_of(shards, points)
    return {
        "algorithm": hash_ring.ALGORITHM,
        "points": built.points,
        "nodes": [{"name": name, "weight": built.weights[name]} for name in built.names],
        "fingerprint": built.fingerprint,
    }


def ring_locate(shards: Any, key: Any, points: int | None = None) -> str | list[str]:
    built = _ring_of(shards, points)
    if isinstance(key, Sequence) and not isinstance(key, (str, bytes)):
        return [built.locate(one) for one in key]
    return built.locate(key)


def ring_shares(shards: Any, points: int | None = None) -> dict[str, float]:
    # Every share is a multiple of 1/2**32: a float holds it, and the sum of all of them, without rounding.
    return {name: float(share) for name, share in _ring_of(shards, points).shares().items()}


def ring_moved(old: Any, new: Any, points: int | None = None) -> dict[str, Any]:
    move = hash_ring.moved(*_rings_of(old, new, points))
    return {
        "moved": float(move.moved),
        "shards": {
            name: {"gained": float(change.gained), "lost": float(change.lost)} for name, change in move.shards.items()
        },
    }


def _report_of(old: Any, new: Any, figures: Any, points: int | None) -> _ring_report.Report:
    before, after = _rings_of(old, old if new is None else new, points)
    return _ring_report.report(before, after, figures)


def ring_report(
    old: Any, new: Any = None, figures: Any = None, title: str = "Cache ring", points: int | None = None
) -> str:
    if not isinstance(title, str):
        raise TypeError(f"the title must be a string, not {type(title).__name__}")
    return _ring_report.page(_report_of(old, new, figures, points), title)


def ring_table(old: Any, new: Any = None, figures: Any = None, points: int | None = None) -> list[str]:
    return _ring_report.table(_report_of(old, new, figures, points))


def _translated(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (TypeError, ValueError) as exc:
            raise AnsibleFilterError(f"webstack.ha.{name}: {exc}") from exc

    return call


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        functions = (
            ring,
            ring_locate,
            ring_moved,
            ring_report,
            ring_shares,
            ring_table,
        )
        return {function.__name__: _translated(function.__name__, function) for function in functions}

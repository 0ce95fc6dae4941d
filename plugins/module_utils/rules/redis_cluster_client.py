# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role redis_cluster_client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _nutcracker
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem, Settings, collect
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure import ring as hash_ring

Shards = Sequence[Mapping[str, Any]]


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Return what cannot work."""
    return collect(settings, _shards, _next_shards, _password, _nutcracker_places)


def _shards(settings: Settings) -> Iterator[str]:
    points = settings["redis_cluster_client_points"]
    for reason in _ring_problems(settings["redis_cluster_client_shards"], points):
        yield f"redis_cluster_client_shards with redis_cluster_client_points {points}: {reason}"


def _next_shards(settings: Settings) -> Iterator[str]:
    shards = settings["redis_cluster_client_next_shards"]
    if shards:
        for reason in _ring_problems(shards, settings["redis_cluster_client_next_points"]):
            yield f"redis_cluster_client_next_shards: {reason}"


def _ring_problems(shards: Shards, points: int) -> Iterator[str]:
    try:
        _ring(shards, points)
    except ValueError as error:
        yield str(error)
        return
    yield from (f"shard {shard['name']!r} has no node" for shard in shards if not shard["nodes"])


def _ring(shards: Shards, points: int) -> hash_ring.Ring:
    return hash_ring.Ring([(shard["name"], shard.get("weight", 1)) for shard in shards], points)


def _password(settings: Settings) -> Iterator[str]:
    if not settings["redis_cluster_client_password"]:
        yield "redis_cluster_client_password is empty"


def _nutcracker_places(settings: Settings) -> Iterator[str]:
    """Refuse nutcracker where keys would not be where Django puts them."""
    if not settings["redis_cluster_client_nutcracker_enabled"]:
        return
    try:
        ring = _ring(settings["redis_cluster_client_shards"], settings["redis_cluster_client_points"])
    except ValueError:
        return  # _shards says it
    found = _nutcracker.problems(
        ring.weights,
        ring.points,
        settings["redis_cluster_client_engine"],
        settings["redis_cluster_client_tls_enabled"],
    )
    if found:
        yield f"redis_cluster_client_nutcracker_enabled is true, but {'; '.join(found)}"

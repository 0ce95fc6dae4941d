# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file that tells the clients of the cache which servers there are. Pure: no Ansible import, no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.ring import ALGORITHM, Ring

Shards = Sequence[Mapping[str, Any]]

RING = "ring"
ENGINES = (RING, "redis_cluster", "single")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def place(server: Mapping[str, Any]) -> str:
    """Return address:port, an IPv6 address in brackets."""
    address = str(server["address"])
    return f"[{address}]:{int(server['port'])}" if ":" in address else f"{address}:{int(server['port'])}"


def _lines(items: Sequence[str], indent: str) -> str:
    # One a line: a person finds a shard, and a diff shows the one that changed. No more white space than that.
    return ",\n".join(indent + item for item in items)


def _ring(shards: Shards, points: int, indent: str) -> list[str]:
    ring = Ring([(str(shard["name"]), shard.get("weight", 1)) for shard in shards], points)
    servers = [f"{_json(str(shard['name']))}:{_json([place(node) for node in shard['nodes']])}" for shard in shards]
    return [
        f'"points": {ring.points}',
        f'"fingerprint": {_json(ring.fingerprint)}',
        f'"shards": {{\n{_lines(servers, indent)}\n{indent}}}',
        f'"weights": {_json({name: weight for name, weight in ring.weights.items() if weight != 1})}',
    ]


def render(
    shards: Shards,
    *,
    engine: str = RING,
    points: int = 160,
    next_shards: Shards = (),
    next_points: int | None = None,
    sentinels: Sequence[Mapping[str, Any]] = (),
    username: str = "",
    password: str = "",
    ca: str = "",
) -> str:
    """Return the text of the file.

    The ring travels as names and weights, never as points, and with its fingerprint: the client makes the points
    anew and refuses a ring that came out differently.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    members = [f'"engine": {_json(engine)}']
    if engine == RING:
        members += [f'"algorithm": {_json(ALGORITHM)}', *_ring(shards, points, " ")]
        if next_shards:
            members.append('"next": {' + ",\n".join(_ring(next_shards, next_points or points, "  ")) + "}")
        members.append(f'"sentinels": {_json([place(sentinel) for sentinel in sentinels])}')
    else:
        members.append(f'"servers": {_json([place(node) for shard in shards for node in shard["nodes"]])}')
    members += [f'"username": {_json(username)}', f'"password": {_json(password)}']
    if ca:
        members.append(f'"tls": {_json({"ca": ca})}')
    return "{\n" + ",\n".join(members) + "\n}\n"

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether nutcracker puts keys where the ring puts them.

One file serves the filter on the controller and the program on the application servers that runs nutcracker. Pure: no
Ansible import, no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

# What nutcracker was built with; a label of a node makes four points.
POINTS = 160


def _single(value: float) -> float:
    """Round to a float of single precision."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def labels(count: int) -> int:
    """Return how many labels nutcracker gives each of so many nodes of equal weight: 40, or by its rounding 39."""
    share = _single(1 / count)
    return int(_single(_single(_single(_single(share * POINTS) / 4) * count) + 1e-10))


def problems(weights: Mapping[str, int], points: int, engine: str, tls: bool) -> list[str]:
    """Say why nutcracker cannot serve these shards (name -> weight); empty where it can."""
    found = []
    if engine != "ring":
        found.append(f"nutcracker needs the engine ring, not {engine}")
    if tls:
        found.append("nutcracker cannot speak TLS to the shards")
    if points != POINTS:
        found.append(f"nutcracker has {POINTS} points a shard, not {points}")
    if any(weight != 1 for weight in weights.values()):
        found.append("nutcracker places keys differently where shards have a weight")
    if weights and labels(len(weights)) * 4 != POINTS:
        found.append(f"nutcracker places keys differently with exactly {len(weights)} shards (it rounds): add one")
    return found

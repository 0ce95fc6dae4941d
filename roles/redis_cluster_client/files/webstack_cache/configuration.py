# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file that tells the client which shards there are: read, checked, never written here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .ring import ALGORITHM, Ring


class ConfigurationError(Exception):
    """The file cannot be used; the text says why."""


class WrongRing(ConfigurationError):
    """The ring that these nodes make is not the ring that the file promises."""


@dataclass(frozen=True)
class Address:
    """Where one server listens."""

    host: str
    port: int


@dataclass(frozen=True)
class Configuration:
    """Content of the file."""

    ring: Ring
    shards: dict[str, tuple[Address, ...]]
    """Servers of each shard, the intended primary first."""
    sentinels: tuple[Address, ...]
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)


def load(path: str | Path) -> Configuration:
    """Read the file, build the ring, and refuse both where they do not fit together."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise ConfigurationError(f"{path}: is not JSON: {exc}") from exc
    try:
        return _parse(content)
    except ConfigurationError as exc:
        raise type(exc)(f"{path}: {exc}") from exc
    except KeyError as exc:
        raise ConfigurationError(f"{path}: {exc} is missing") from exc
    except (AttributeError, TypeError, ValueError) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc


def _parse(content: dict[str, Any]) -> Configuration:
    if content["algorithm"] != ALGORITHM:
        raise ConfigurationError(f"unknown algorithm {content['algorithm']!r}, this client knows {ALGORITHM}")
    ring = Ring([(node["name"], node["weight"]) for node in content["nodes"]], content["points"])
    if ring.fingerprint != content["fingerprint"]:
        raise WrongRing(
            f"the fingerprint is {content['fingerprint']}, but these nodes make the ring {ring.fingerprint}; "
            "keys would land on other shards than on the other application servers"
        )
    shards = {name: _addresses(nodes) for name, nodes in content["shards"].items()}
    if set(shards) != set(ring.names):
        odd = ", ".join(sorted(set(shards) ^ set(ring.names)))
        raise ConfigurationError(f"the shards and the nodes of the ring differ in: {odd}")
    if empty := [name for name, nodes in shards.items() if not nodes]:
        raise ConfigurationError(f"shards without a server: {', '.join(empty)}")
    return Configuration(
        ring=ring,
        shards=shards,
        sentinels=_addresses(content.get("sentinels") or []),
        username=content.get("username") or None,
        password=content.get("password") or None,
    )


def _addresses(servers: list[dict[str, Any]]) -> tuple[Address, ...]:
    return tuple(Address(str(server["address"]), int(server["port"])) for server in servers)

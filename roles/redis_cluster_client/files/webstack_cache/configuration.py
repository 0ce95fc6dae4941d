# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file that tells the client which shards there are: read, checked, never written here."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .ring import ALGORITHM, Ring

T = TypeVar("T")


class ConfigurationError(Exception):
    """The file cannot be used; the text says why."""


class WrongRing(ConfigurationError):
    """The ring that these shards make is not the ring that the file promises."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where one server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, where an IPv6 address stands in brackets."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit():
            raise ValueError(f"{text!r} is not an address like 192.0.2.31:6379 or [2001:db8::31]:6379")
        if host[0] == "[" and host[-1] == "]":
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"the IPv6 address in {text!r} must stand in brackets")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Layout:
    """One ring, and the servers of each of its shards, the intended master first."""

    ring: Ring
    shards: dict[str, tuple[Address, ...]]


@dataclass(frozen=True, slots=True)
class Access:
    """How servers and sentinels are spoken to."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    """File with the authority that signed the servers' certificates; None: no TLS."""
    authority: str | None = field(default=None, repr=False)
    """What is in that file."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Content of the file."""

    current: Layout
    next: Layout | None
    """What comes after `current`, while the ring is being changed."""
    sentinels: tuple[Address, ...]
    access: Access

    @property
    def shards(self) -> dict[str, tuple[Address, ...]]:
        """Shards of both rings; where both have a shard, as the current one has it."""
        return {**(self.next.shards if self.next else {}), **self.current.shards}


@dataclass(frozen=True, slots=True)
class Servers:
    """Content of the file where there is no ring."""

    addresses: tuple[Address, ...]
    access: Access


def load(path: str | Path) -> Configuration:
    """Read the file, build the ring, and refuse both where they do not fit together."""
    return _load(path, _parse)


def load_servers(path: str | Path) -> Servers:
    """Read the file of a server-side cluster or of a single server."""
    return _load(path, _parse_servers)


def _load(path: str | Path, parse: Callable[[dict[str, Any]], T]) -> T:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise ConfigurationError(f"{path}: is not JSON: {exc}") from exc
    try:
        return parse(content)
    except ConfigurationError as exc:
        raise type(exc)(f"{path}: {exc}") from exc
    except KeyError as exc:
        raise ConfigurationError(f"{path}: {exc} is missing") from exc
    except (AttributeError, TypeError, ValueError) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc


def _parse(content: dict[str, Any]) -> Configuration:
    if content["engine"] != "ring":
        raise ConfigurationError(f"the engine is {content['engine']!r}, this client is for 'ring'")
    if content["algorithm"] != ALGORITHM:
        raise ConfigurationError(f"unknown algorithm {content['algorithm']!r}, this client knows {ALGORITHM}")
    following = content.get("next")
    return Configuration(
        current=_layout(content),
        next=_layout(following) if following else None,
        sentinels=_addresses(content.get("sentinels") or []),
        access=_access(content),
    )


def _parse_servers(content: dict[str, Any]) -> Servers:
    if content["engine"] == "ring":
        raise ConfigurationError("the engine is 'ring', this client is for the other ones")
    if not content["servers"]:
        raise ConfigurationError("there is no server")
    return Servers(_addresses(content["servers"]), _access(content))


def _access(content: dict[str, Any]) -> Access:
    ca = authority = None
    if (tls := content.get("tls")) is not None:
        ca = tls["ca"]
        try:
            authority = Path(ca).read_text(encoding="ascii")
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=authority)
        except (OSError, ValueError) as exc:  # errors of TLS are OSErrors
            raise ConfigurationError(f"tls.ca: {ca} is no usable authority: {exc}") from exc
    return Access(content.get("username") or None, content.get("password") or None, ca, authority)


def _layout(content: dict[str, Any]) -> Layout:
    shards = {name: _addresses(servers) for name, servers in content["shards"].items()}
    if empty := [name for name, servers in shards.items() if not servers]:
        raise ConfigurationError(f"shards without a server: {', '.join(empty)}")
    weights = content.get("weights") or {}
    if unknown := sorted(weights.keys() - shards.keys()):
        raise ConfigurationError(f"weights of shards that do not exist: {', '.join(unknown)}")
    ring = Ring({name: weights.get(name, 1) for name in shards}, content["points"])
    if ring.fingerprint != content["fingerprint"]:
        raise WrongRing(
            f"the fingerprint is {content['fingerprint']}, but these shards make the ring {ring.fingerprint}; "
            "keys would land on other shards than on the other application servers"
        )
    return Layout(ring, shards)


def _addresses(servers: Iterable[str]) -> tuple[Address, ...]:
    if isinstance(servers, str):
        raise TypeError(f"{servers!r} must be a list of addresses")
    return tuple(Address.parse(server) for server in servers)

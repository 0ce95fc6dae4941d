# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""System checks: the ring that each cache of the site would use."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string

from .backend import RingCache
from .configuration import Configuration, ConfigurationError, WrongRing, load
from .connections import Connector, Pool, ask
from .ring import DEFAULT_POINTS, Ring

_HINT = "Write the file again by the role redis_cluster_client; never edit it by hand."
# Above that, trying what makes the promised ring takes longer than anybody waits for a check.
_SHARDS_TO_TRY = 50


def check_rings(**kwargs: Any) -> list[CheckMessage]:
    """Refuse configuration files that cannot be used, and rings that differ from what they promise."""
    messages: list[CheckMessage] = []
    for alias, path in _files():
        try:
            configuration = load(path)
        except WrongRing as exc:
            hint = f"{_HINT}{_difference(path)}"
            messages.append(Error(f"CACHES[{alias!r}]: {exc}", hint=hint, id="webstack_cache.E002"))
        except ConfigurationError as exc:
            messages.append(Error(f"CACHES[{alias!r}]: {exc}", id="webstack_cache.E001"))
        else:
            messages += _check_permissions(alias, path, configuration)
    return messages


def check_sentinels(**kwargs: Any) -> list[CheckMessage]:
    """Compare the shards of the file with those that the sentinels watch; with `check --deploy`, since it asks them."""
    messages: list[CheckMessage] = []
    for alias, path in _files():
        try:
            configuration = load(path)
        except ConfigurationError:
            continue  # the other check says so
        if not configuration.sentinels:
            continue
        known, errors = _watched(configuration)
        if known is None:
            text = f"CACHES[{alias!r}]: no sentinel answers: {'; '.join(errors)}"
            messages.append(Warning(text, id="webstack_cache.W001"))
        elif unknown := sorted(configuration.shards.keys() - known):
            text = (
                f"CACHES[{alias!r}]: no sentinel watches the shards {', '.join(unknown)} of {path}; "
                f"they watch {', '.join(sorted(known)) or 'none'}"
            )
            hint = "Shards are renamed by redis_shard_name alone: compare it with the file."
            messages.append(Error(text, hint=hint, id="webstack_cache.E004"))
        elif more := sorted(known - configuration.shards.keys()):
            text = f"CACHES[{alias!r}]: the sentinels watch shards that {path} does not have: {', '.join(more)}"
            hint = "If they belong to this site, its file is older than its servers."
            messages.append(Warning(text, hint=hint, id="webstack_cache.W002"))
    return messages


def _files() -> Iterator[tuple[str, Any]]:
    """Return alias and file of every cache that is a ring."""
    for alias, cache in settings.CACHES.items():
        try:
            backend = import_string(cache["BACKEND"])
        except (ImportError, KeyError):  # Django says so itself
            continue
        if isinstance(backend, type) and issubclass(backend, RingCache):
            yield alias, cache.get("LOCATION", "")


def _check_permissions(alias: str, path: str, configuration: Configuration) -> list[CheckMessage]:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    secret = configuration.access.password is not None
    if mode & stat.S_IWOTH or (secret and mode & stat.S_IRWXO):
        may = "change the file" if mode & stat.S_IWOTH else "read the password in it"
        text = f"CACHES[{alias!r}]: {path} has mode {mode:04o}: everybody on this host may {may}"
        hint = "Let it belong to root and the application's group, with mode 0640."
        return [Error(text, hint=hint, id="webstack_cache.E003")]
    return []


def _difference(path: str) -> str:
    """Say which single change makes the ring that the file promises, if there is one."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    for layout in (content, content.get("next") or content):
        for what, names, weights, points in _changes(layout):
            if (
                names
                and Ring({name: weights.get(name, 1) for name in names}, points).fingerprint == (layout["fingerprint"])
            ):
                return f" The promised ring is this one {what}."
    return ""


def _changes(layout: dict[str, Any]) -> Iterator[tuple[str, list[str], dict[str, int], int]]:
    names, weights, points = list(layout["shards"]), layout.get("weights") or {}, layout["points"]
    if len(names) > _SHARDS_TO_TRY:
        return
    if points != DEFAULT_POINTS:
        yield f"with {DEFAULT_POINTS} points", names, weights, DEFAULT_POINTS
    for name in names:
        yield f"without {name}", [each for each in names if each != name], weights, points
    for name in weights:
        yield f"with weight 1 for {name}", names, {**weights, name: 1}, points


def _watched(configuration: Configuration) -> tuple[set[str] | None, list[str]]:
    """Return the names of the shards that any sentinel watches, and what the silent ones said."""
    connector = Connector(configuration.access, {}).of_sentinels()
    known: set[str] | None = None
    errors = []
    for address in configuration.sentinels:
        pool = Pool.to(address, connector)
        try:
            (masters,) = ask(pool, ("SENTINEL", "MASTERS"))
        except redis.RedisError as exc:
            errors.append(f"{address}: {exc}")
        else:
            known = (known or set()) | {fields[fields.index(b"name") + 1].decode() for fields in masters}
        finally:
            pool.drop_idle()
    return known, errors

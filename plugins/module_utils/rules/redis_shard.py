# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role redis_shard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _settings, _shard_layout
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem, Settings, at_least, collect

_PASSWORD = re.compile(r"[^\x00-\x1f\x7f]{16,}")
_PASSWORDS = (
    "redis_shard_password",
    "redis_shard_replication_password",
    "redis_shard_sentinel_password",
    "redis_shard_admin_password",
)
_TIMES = (
    "redis_shard_down_after_milliseconds",
    "redis_shard_down_after_lead_milliseconds",
    "redis_shard_failover_timeout_milliseconds",
)


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Return what cannot work."""
    return collect(settings, _layout, _memory, _passwords, _numbers, _settings_of_the_server)


def _layout(settings: Settings) -> Iterator[str]:
    found = _shard_layout.problems(
        settings["redis_shard_shards"],
        settings["redis_shard_sentinels"],
        settings["redis_shard_node_name"],
        settings["redis_shard_engine"],
    )
    yield from (f"{variable}: {reason}" for variable, reason in found)


def _memory(settings: Settings) -> Iterator[str]:
    for name in ("redis_shard_max_memory", "redis_shard_replication_backlog"):
        try:
            _shard_layout.memory_bytes(settings.get(name, "1mb"))
        except ValueError as error:
            yield f"{name}: {error}"


def _passwords(settings: Settings) -> Iterator[str]:
    """Refuse passwords that are easily guessed or not apart."""
    known = [settings[name] for name in _PASSWORDS if name in settings]
    for name in _PASSWORDS:
        if name in settings and (not _PASSWORD.fullmatch(settings[name]) or known.count(settings[name]) > 1):
            yield (
                f"{name} must have 16 characters or more and no control character, and differ from the other passwords "
                "of the cache"
            )


def _numbers(settings: Settings) -> Iterator[str]:
    yield from at_least(settings, 1, *_TIMES)
    yield from at_least(settings, 0, "redis_shard_down_after_step_milliseconds")
    for name, number in (settings.get("redis_shard_sentinel_timing") or {}).items():
        if number is not None and number < 1:
            yield f"redis_shard_sentinel_timing.{name} must be 1 or more, not {number}"


def _settings_of_the_server(settings: Settings) -> Iterator[str]:
    name = "redis_shard_settings"
    yield from _settings.problems(settings[name], name, "redis")

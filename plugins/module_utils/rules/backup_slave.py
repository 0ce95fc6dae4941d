# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role backup_slave."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _settings
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem, Settings, at_least, collect


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Return what cannot work."""
    return collect(settings, _environment, _retention, _numbers, _place)


def _environment(settings: Settings) -> Iterator[str]:
    name = "backup_slave_environment"
    yield from _settings.problems(settings[name], name, "environment")


def _retention(settings: Settings) -> Iterator[str]:
    for period, count in settings["backup_slave_retention"].items():
        if count is not None and count < 0:
            yield f"backup_slave_retention.{period} is negative"


def _place(settings: Settings) -> Iterator[str]:
    moment, before = settings.get("backup_slave_restore_until"), settings.get("backup_slave_restore_before")
    if moment and not re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", moment):
        yield f"backup_slave_restore_until is {moment!r}; a time such as 2026-11-28 10:41:06 (UTC) is expected"
    if before and not re.fullmatch(r"\d+-\d+-\d+", before):
        yield f"backup_slave_restore_before is {before!r}; a GTID such as 0-1-500 is expected"
    if moment and before:
        yield "backup_slave_restore_until and backup_slave_restore_before are two places: set one"


def _numbers(settings: Settings) -> Iterator[str]:
    yield from at_least(
        settings,
        0,
        "backup_slave_random_delay_seconds",
        "backup_slave_lock_wait_seconds",
        "backup_slave_playbook_wait_seconds",
        "backup_slave_lag_limit_seconds",
        "backup_slave_free_disk_factor",
        "backup_slave_restore_keep",
    )
    yield from at_least(
        settings, 1, "backup_slave_timeout_seconds", "backup_slave_parallel", "backup_slave_proof_alarm_hours"
    )

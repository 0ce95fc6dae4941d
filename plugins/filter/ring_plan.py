# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters ring_situation, where the applications' ring stands, and ring_plan, what a change of it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _ring_plan


def ring_situation(
    files: Mapping[str, Any], shards: Sequence[Mapping[str, Any]], points: int = 160, **options: Any
) -> dict[str, Any]:
    """Return the ring in use, the ring that is wanted, and the steps between them."""
    try:
        return _ring_plan.situation(files, shards, points, **options)
    except (KeyError, TypeError, ValueError) as exc:
        raise AnsibleFilterError(f"webstack.ha.ring_situation: {exc}") from exc


def ring_plan(situation: Mapping[str, Any], census: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Return the plan: figures, servers that start and stop, and words."""
    try:
        return _ring_plan.plan(situation, census, **options)
    except (KeyError, TypeError, ValueError) as exc:
        raise AnsibleFilterError(f"webstack.ha.ring_plan: {exc!r}") from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name and function of each filter."""
        return {"ring_situation": ring_situation, "ring_plan": ring_plan}

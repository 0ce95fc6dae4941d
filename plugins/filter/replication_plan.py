# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter replication_plan: what has to happen to the pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _replication


def replication_plan(
    answers: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
    initial_primary: str,
    reseed: bool = False,
    reseed_node: str = "",
) -> dict[str, Any]:
    try:
        states = {
            str(answer["__mysql_replication_item"]["name"]): answer.get("state") or {}
            for answer in answers
            if "state" in answer
        }
        return _replication.plan(nodes, states, initial_primary, reseed, reseed_node).as_dict()
    except (KeyError, ValueError, TypeError) as exc:
        raise AnsibleFilterError(f"webstack.ha.replication_plan: {exc!r}") from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"replication_plan": replication_plan}

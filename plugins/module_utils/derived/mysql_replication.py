# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role mysql_replication makes of its inputs, and of what the servers answer."""

from __future__ import annotations

from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _replication, _settings
from ansible_collections.webstack.ha.plugins.module_utils.derived import Role, flag


def plan(role: Role, reseed_node: str = "") -> dict[str, Any]:
    """Return what has to happen to the pair, from the newest answers of the servers."""
    nodes, primary = role["mysql_replication_nodes"], role["mysql_replication_initial_primary"]
    reseed = flag(role, "mysql_replication_reseed")
    return _replication.plan(nodes, states(role), primary, reseed, reseed_node).as_dict()


def states(role: Role) -> dict[str, dict[str, Any]]:
    """Return the newest answer of each host; {} of one that was asked and did not answer."""
    return {
        str(answer["__mysql_replication_item"]["name"]): answer.get("state") or {}
        for answer in role["__mysql_replication_answers"]["results"]
        if "state" in answer
    }


def enrolled(role: Role) -> bool:
    """Whether a host has seen in the quorum who writes."""
    return any((state.get("agent") or {}).get("state") for state in states(role).values())


def seed_plan(role: Role) -> dict[str, Any]:
    """Return the same for the one server that is to be seeded."""
    return plan(role, role["mysql_replication_seed_node"])


def setting_lines(role: Role) -> list[str]:
    """Return the user's own settings as MariaDB reads them."""
    return _settings.lines(role["mysql_replication_settings"], "mariadb")

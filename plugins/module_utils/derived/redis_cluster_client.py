# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role redis_cluster_client makes of its inputs, and of the rings in use."""

from __future__ import annotations

from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _ring_plan, _shard_layout
from ansible_collections.webstack.ha.plugins.module_utils.derived import Role


def situation(role: Role) -> dict[str, Any]:
    """Return the ring in use, the ring that is wanted, and the steps between them."""
    files = {host: role["hostvars"][host]["__redis_cluster_client_live"] for host in role["__hosts"]}
    options = role.get("__redis_cluster_client_options", {})
    return _ring_plan.situation(
        files, role["redis_cluster_client_shards"], int(role["redis_cluster_client_points"]), **options
    )


def plan(role: Role) -> dict[str, Any]:
    """Return what the change of playbooks/resize_cache.yml means: figures, servers that start and stop, and words."""
    groups, hostvars = role["groups"], role["hostvars"]
    addresses = {
        hostvars[host]["webstack_address"]: host for host in groups["all"] if "webstack_address" in hostvars[host]
    }
    census = {host: hostvars[host]["__redis_shard_census"] for host in role["__hosts"]}
    members = [*groups["redis"], *(sentinel["name"] for sentinel in _shard_layout.sentinels(groups, hostvars))]
    return _ring_plan.plan(role["__situation"], census, addresses=addresses, members=members)

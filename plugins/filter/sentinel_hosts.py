# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter sentinel_hosts: groups to the hosts that run a sentinel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _shard_layout


def sentinel_hosts(
    groups: Mapping[str, Sequence[str]], hostvars: Mapping[str, Any], port: int = 26379, engine: str = "ring"
) -> list[dict[str, Any]]:
    """Return the sentinels of this inventory."""
    if not isinstance(groups, Mapping):
        raise AnsibleFilterError(f"webstack.ha.sentinel_hosts: the dictionary 'groups' is expected, got {groups!r}")
    try:
        return _shard_layout.sentinels(groups, hostvars, port, engine)
    except ValueError as exc:
        raise AnsibleFilterError(f"webstack.ha.sentinel_hosts: {exc}") from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name and function of each filter."""
        return {"sentinel_hosts": sentinel_hosts}

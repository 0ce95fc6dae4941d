# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter shard_layout: hosts to shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _shard_layout


def shard_layout(
    hosts: Sequence[str], hostvars: Mapping[str, Any], port: int = 6379, engine: str = "ring"
) -> list[dict[str, Any]]:
    """Return the shards of these hosts."""
    if isinstance(hosts, str) or not isinstance(hosts, Sequence):
        raise AnsibleFilterError(f"webstack.ha.shard_layout: a list of host names is expected, got {hosts!r}")
    try:
        return _shard_layout.layout(hosts, hostvars, port, engine)
    except ValueError as exc:
        raise AnsibleFilterError(f"webstack.ha.shard_layout: {exc}") from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name and function of each filter."""
        return {"shard_layout": shard_layout}

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter cache_configuration: shards to the file that the clients of the cache read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _cache_configuration


def cache_configuration(shards: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """Return the text of the file."""
    try:
        return _cache_configuration.render(shards, **options)
    except (KeyError, TypeError, ValueError) as exc:
        raise AnsibleFilterError(f"webstack.ha.cache_configuration: {exc}") from exc


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name and function of each filter."""
        return {"cache_configuration": cache_configuration}

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter setting_lines: settings as their reader writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _settings


def setting_lines(settings: Mapping[str, Any], dialect: str) -> list[str]:
    """Return the lines of a configuration file."""
    try:
        return _settings.lines(settings, dialect)
    except (AttributeError, KeyError, ValueError) as exc:
        raise AnsibleFilterError(f"webstack.ha.setting_lines: {exc}") from exc


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"setting_lines": setting_lines}

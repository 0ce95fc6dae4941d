# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turn a group of hosts into the list of endpoints that a role takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def endpoints(hosts: Sequence[str], hostvars: Mapping[str, Any], port: int) -> list[dict[str, Any]]:
    """Return `{name, address, port}` of each host; the address is the inventory's `webstack_address`."""
    if isinstance(hosts, str) or not isinstance(hosts, Sequence):
        raise AnsibleFilterError(f"webstack.ha.endpoints: expected a list of host names, got {hosts!r}")
    try:
        number = int(port)
    except (TypeError, ValueError) as exc:
        raise AnsibleFilterError(f"webstack.ha.endpoints: the port {port!r} is no number") from exc
    found = []
    for name in hosts:
        address = hostvars[name].get("webstack_address") if name in hostvars else None
        if not address:
            raise AnsibleFilterError(f"webstack.ha.endpoints: {name}: webstack_address is not set in the inventory")
        found.append({"name": str(name), "address": str(address), "port": number})
    return found


class FilterModule:
    """Filters of webstack.ha that turn groups into lists."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"endpoints": endpoints}

# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter endpoints: hosts of a group -> names, addresses and a port."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

VARIABLE = "webstack_address"


def endpoints(hosts: Sequence[str], hostvars: Mapping[str, Any], port: int) -> list[dict[str, Any]]:
    """Return one dictionary of name, address and port for each host, in the given order."""
    if isinstance(hosts, str) or not isinstance(hosts, Sequence):
        raise AnsibleFilterError(f"webstack.ha.endpoints: expected a list of hosts, got {type(hosts).__name__}")
    try:
        number = int(str(port))
    except ValueError:
        number = 0
    if not 1 <= number <= 65535:
        raise AnsibleFilterError(f"webstack.ha.endpoints: {port!r} is no port")
    return [{"name": str(host), "address": _address(str(host), hostvars), "port": number} for host in hosts]


def _address(host: str, hostvars: Mapping[str, Any]) -> str:
    # Inventory variables only: facts of another tier are missing when a run is limited to some hosts.
    if host not in hostvars:
        raise AnsibleFilterError(f"webstack.ha.endpoints: host {host} is not in the inventory")
    address = hostvars[host].get(VARIABLE)
    if address is None or str(address).strip() == "":
        raise AnsibleFilterError(f"webstack.ha.endpoints: {VARIABLE} of host {host} is not set")
    try:
        return str(ipaddress.ip_address(str(address)))
    except ValueError:
        raise AnsibleFilterError(
            f"webstack.ha.endpoints: {VARIABLE} of host {host} is no IP address: {address!r}"
        ) from None


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {"endpoints": endpoints}

# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters about addresses that move between hosts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _virtual_addresses


def _texts(value: Any, name: str) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise AnsibleFilterError(f"webstack.ha.{name}: expected a list of addresses, got {type(value).__name__}")
    return [str(item) for item in value]


def virtual_address_problems(
    addresses: Sequence[str], own: str, peers: Sequence[str], allow_single: bool = False
) -> list[str]:
    """Return what is wrong with the addresses by themselves."""
    name = "virtual_address_problems"
    return _virtual_addresses.address_problems(_texts(addresses, name), str(own), _texts(peers, name), allow_single)


def virtual_network_problems(addresses: Sequence[str], carried: Sequence[str], interface: str) -> list[str]:
    """Return which of them an interface cannot carry."""
    name = "virtual_network_problems"
    return _virtual_addresses.network_problems(_texts(addresses, name), _texts(carried, name), str(interface))


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {
            "virtual_address_problems": virtual_address_problems,
            "virtual_network_problems": virtual_network_problems,
        }

# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of the role lb_nginx: its sites and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.module_utils import _balancer_sites


def longer_than(size: Any) -> str:
    try:
        return _balancer_sites.longer_than(size)
    except ValueError as error:
        raise AnsibleFilterError(f"webstack.ha.longer_than: {error}") from error


def longest_wait(
    hosts: Sequence[str],
    hostvars: Mapping[str, Any],
    port: Any,
    default: int = _balancer_sites.READ_TIMEOUT_SECONDS,
) -> int:
    longest = [0]
    for host in hosts:
        try:
            longest.append(_balancer_sites.longest_wait(hostvars[host], port, default))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise AnsibleFilterError(
                f"webstack.ha.longest_wait: the read timeouts of {host} cannot be read: {error}"
            ) from error
    return max(longest) or default


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "balancer_sites": _balancer_sites.sites,
            "named_files": _balancer_sites.named_files,
            "nginx_text": _balancer_sites.nginx_text,
            "longer_than": longer_than,
            "longest_wait": longest_wait,
        }

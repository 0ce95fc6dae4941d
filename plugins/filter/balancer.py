# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of the role lb_nginx: its sites, what is wrong with them, and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _balancer_sites


def balancer_problems(
    sites: Sequence[Mapping[str, Any]],
    several: bool = True,
    existing: Sequence[str] = (),
    certificates: Sequence[str] | None = None,
    keys: Sequence[str] = (),
) -> list[str]:
    pairs = None
    if certificates is not None:
        # Where a file is missing there is nothing to compare, and the missing file is what is said.
        empty = ("", "")
        read = [*zip(certificates, keys, strict=True)] or [empty] * len(sites)
        pairs = dict(zip((site["name"] for site in sites), read, strict=True))
    return _balancer_sites.problems(sites, several, existing, pairs)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "balancer_sites": _balancer_sites.sites,
            "balancer_problems": balancer_problems,
            "named_files": _balancer_sites.named_files,
        }

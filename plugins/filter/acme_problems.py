# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter `acme_problems`: what keeps the balancers from having certificates issued."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _acme_problems


def acme_problems(settings: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return list(_acme_problems.problems(settings, names))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"acme_problems": acme_problems}

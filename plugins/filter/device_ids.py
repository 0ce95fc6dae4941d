# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter device_ids: the Syncthing device id of each host, as far as it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

REGISTERED = "__shared_media_identity"


def device_ids(peers: Sequence[Mapping[str, Any]], hostvars: Mapping[str, Any]) -> dict[str, str]:
    """Return host name -> device id: the given one, else what the role read from the host in this run."""
    found: dict[str, str] = {}
    for peer in peers:
        name = peer["name"]
        if peer.get("device_id"):
            found[name] = str(peer["device_id"])
        elif name in hostvars:
            lines = (hostvars[name].get(REGISTERED) or {}).get("stdout_lines") or []
            if lines:
                found[name] = str(lines[-1]).strip()
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return name and function of each filter."""
        return {"device_ids": device_ids}

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role shared_media makes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.derived import Role


def device_ids(_role: Role, *, peers: Sequence[Mapping[str, Any]], hostvars: Mapping[str, Any]) -> dict[str, str]:
    """Return host name -> Syncthing's device id: the given one, else what the role read from the host in this run."""
    found: dict[str, str] = {}
    for peer in peers:
        name = peer["name"]
        if peer.get("device_id"):
            found[name] = str(peer["device_id"])
        elif name in hostvars:
            lines = (hostvars[name].get("__shared_media_identity") or {}).get("stdout_lines") or []
            if lines:
                found[name] = str(lines[-1]).strip()
    return found

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The servers that an application asks for an upload which is not on its own host yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.derived import Role, was_django


def servers(_role: Role, *, groups: Mapping[str, Any], hostvars: Mapping[str, Any], port: Any) -> list[dict[str, Any]]:
    """Return the application servers that have an address for others."""
    addresses = {name: hostvars[name].get("webstack_address") for name in groups.get("was") or []}
    return [{"name": name, "address": address, "port": port} for name, address in addresses.items() if address]


def document(role: Role) -> str:
    """Return what the application reads: the name of the site, and all servers but this one."""
    served = role["was_django_media_servers"] if role["was_django_media_url"] else []
    others = [
        {"address": one["address"], "port": int(one["port"])}
        for one in served
        if one["name"] != role["inventory_hostname"]
    ]
    said = {"host": was_django.health_host(role), "servers": others}
    return f"{json.dumps(said, indent=4, sort_keys=True)}\n"

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One server, through Django's own backend: what that one has to be told stands in the same file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .configuration import load_servers


def single_server(cache: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of CACHES, LOCATION being the file, with the address and the account of the server in there.

    With it alone there is no miss in the place of a failure: Django's backend raises what redis-py raises.
    """
    servers = load_servers(cache["LOCATION"])
    access = servers.access
    account = ""
    if access.password:
        account = f"{quote(access.username or '', safe='')}:{quote(access.password, safe='')}@"
    return {
        **cache,
        "LOCATION": f"{'rediss' if access.ca else 'redis'}://{account}{servers.addresses[0]}/0",
        "OPTIONS": {**({"ssl_ca_certs": access.ca} if access.ca else {}), **cache.get("OPTIONS", {})},
    }

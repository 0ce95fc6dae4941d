# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Django cache over a consistent-hash ring of Redis shards.

INSTALLED_APPS = [..., "webstack_cache"]
CACHES = {"default": {"BACKEND": "webstack_cache.RingCache", "LOCATION": "/etc/webstack/cache.json"}}
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import RingCache
    from .cluster import ShardUnavailable
    from .lock import Lock
    from .server_cluster import ServerClusterCache
    from .single import single_server

__all__ = ["Lock", "RingCache", "ServerClusterCache", "ShardUnavailable", "single_server"]

_MODULES = {
    "Lock": "lock",
    "RingCache": "backend",
    "ServerClusterCache": "server_cluster",
    "ShardUnavailable": "cluster",
    "single_server": "single",
}


def __getattr__(name: str) -> Any:
    # Late, so that the ring and the configuration can be used where Django or redis-py is not installed.
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Django cache over a consistent-hash ring of Redis shards.

INSTALLED_APPS = [..., "webstack_cache"]
CACHES = {"default": {"BACKEND": "webstack_cache.RingCache", "LOCATION": "/etc/webstack/cache.json"}}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import RingCache
    from .cluster import ShardUnavailable

__all__ = ["RingCache", "ShardUnavailable"]


def __getattr__(name: str) -> Any:
    # Late, so that the ring and the configuration can be used where Django or redis-py is not installed.
    if name == "RingCache":
        from .backend import RingCache

        return RingCache
    if name == "ShardUnavailable":
        from .cluster import ShardUnavailable

        return ShardUnavailable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

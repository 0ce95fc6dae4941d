# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What this package's backends do alike, and otherwise than Django's Redis cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.redis import RedisCache


class ManyKeysCache(RedisCache):
    """A cache whose client says which of many keys it could not store."""

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Store all values, in one round trip to each server; return the keys that could not be stored."""
        names = {self.make_and_validate_key(key, version=version): key for key in data}
        failed = self._cache.set_many(
            {final: data[key] for final, key in names.items()}, self.get_backend_timeout(timeout)
        )
        return [names[final] for final in failed]

    def validate_key(self, key: str) -> None:
        """Warn about keys that memcached would refuse, as all of Django's caches do."""
        # Its look at a key takes longer than finding the key's shard, and most keys need none.
        if len(key) > 250 or not key.isprintable() or " " in key:
            super().validate_key(key)

    # Only for Django 5.2, which takes many keys one by one and incr in two steps. As Django's own, in the thread of
    # the request's database connection: storing a lazy queryset asks the database.

    async def aget_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = await sync_to_async(self.get_many)(keys, version)
        return found

    async def aset_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        return await sync_to_async(self.set_many)(data, timeout, version)

    async def adelete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        await sync_to_async(self.delete_many)(keys, version)

    async def ahas_key(self, key: str, version: int | None = None) -> bool:
        return bool(await sync_to_async(self.has_key)(key, version))

    async def aincr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        return int(await sync_to_async(self.incr)(key, delta, version))

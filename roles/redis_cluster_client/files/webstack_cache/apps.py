# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Django app: it brings the system checks that refuse a wrong ring."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class WebstackCacheConfig(AppConfig):
    name = "webstack_cache"
    verbose_name = "webstack cache"

    def ready(self) -> None:
        from .checks import check_rings, check_sentinels

        checks.register(check_rings, checks.Tags.caches)
        checks.register(check_sentinels, checks.Tags.caches, deploy=True)

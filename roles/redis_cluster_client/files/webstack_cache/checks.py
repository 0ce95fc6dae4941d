# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""System checks: the ring that each cache of the site would use."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from .backend import RingCache
from .configuration import ConfigurationError, WrongRing, load


def check_rings(**kwargs: Any) -> list[CheckMessage]:
    """Refuse configuration files that cannot be used, and rings that differ from what they promise."""
    messages: list[CheckMessage] = []
    for alias, cache in settings.CACHES.items():
        try:
            backend = import_string(cache["BACKEND"])
        except (ImportError, KeyError):  # Django says so itself
            continue
        if not (isinstance(backend, type) and issubclass(backend, RingCache)):
            continue
        try:
            load(cache.get("LOCATION", ""))
        except WrongRing as exc:
            messages.append(
                Error(
                    f"CACHES[{alias!r}]: {exc}",
                    hint="Write the file again by the role redis_cluster_client; never edit it by hand.",
                    id="webstack_cache.E002",
                )
            )
        except ConfigurationError as exc:
            messages.append(Error(f"CACHES[{alias!r}]: {exc}", id="webstack_cache.E001"))
    return messages

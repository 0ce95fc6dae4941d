# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role shared_media."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem, Settings, at_least, collect

_DIRECTORY = re.compile(r"/[^/\s]+(/[^/\s]+)+")
_PASSWORD = re.compile(r"\S{16,}")


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Return what cannot work."""
    return collect(settings, _directory, _peers, _password, _numbers)


def _directory(settings: Settings) -> Iterator[str]:
    directory = settings["shared_media_directory"]
    if not _DIRECTORY.fullmatch(directory):
        yield (
            "shared_media_directory must be an absolute path below a top directory, without spaces and without a slash "
            f"at its end; it is {directory}"
        )


def _peers(settings: Settings) -> Iterator[str]:
    if settings["shared_media_engine"] == "none":
        return
    own, peers = settings["shared_media_node_name"], settings["shared_media_peers"]
    names = [peer["name"] for peer in peers]
    addresses = [peer["address"] for peer in peers]
    if names.count(own) != 1 or len(set(names)) < len(names) or len(set(addresses)) < len(addresses):
        yield (
            f"shared_media_peers must list {own} (shared_media_node_name) once and no name or address twice; it has "
            f"{', '.join(names) or 'nothing'}"
        )


def _password(settings: Settings) -> Iterator[str]:
    if settings["shared_media_engine"] == "rsync" and not _PASSWORD.fullmatch(
        settings.get("shared_media_password") or ""
    ):
        yield "shared_media_password is required by shared_media_engine rsync: 16 characters or more, no spaces"


def _numbers(settings: Settings) -> Iterator[str]:
    yield from at_least(settings, 0, "shared_media_syncthing_rescan_seconds", "shared_media_syncthing_trash_days")
    yield from at_least(settings, 1, "shared_media_syncthing_delay_seconds", "shared_media_rsync_interval_seconds")

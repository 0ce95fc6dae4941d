# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the operator asks for: drain, maintenance, purge."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

from ..core.errors import Problem
from ..core.files import read
from .connections import open_connections
from .model import UP
from .nginx import change_wishes
from .state import Config, config, states, wishes

# How long nginx may use an open file before it looks whether it still exists (open_file_cache_valid).
OPEN_FILE_SECONDS = 1.0


def last_one(settings: Config, name: str, drained: Sequence[str]) -> str:
    """Return a site that would have no server left, or nothing."""
    known = states(settings)
    for site in settings.known(name):
        others = [s for s in site.servers if s.name != name and s.name not in drained]
        if not any(known.get(site.target(server), UP) == UP for server in others):
            return site.name
    return ""


def drain(options: argparse.Namespace) -> dict[str, Any]:
    settings = config()
    settings.known(options.name)
    already = options.name in wishes()["drained"]
    left = "" if already else last_one(settings, options.name, wishes()["drained"])
    if left and not options.force:
        raise Problem(f"{options.name} is the last server that works for {left}; --force drains it all the same")
    if options.dry_run:
        return {"changed": not already, "connections": open_connections(settings, options.name)}
    changed = change_wishes(lambda wish: wish.update(drained=sorted({*wish["drained"], options.name})))
    deadline = time.monotonic() + options.timeout
    while (count := open_connections(settings, options.name)) and options.wait:
        if time.monotonic() > deadline:
            raise Problem(
                f"{options.name} is drained, but {count} connections are still open after {options.timeout:g} s"
            )
        time.sleep(0.2)
    return {"changed": changed, "connections": count}


def undrain(options: argparse.Namespace) -> dict[str, Any]:
    config().known(options.name)
    changed = change_wishes(lambda wish: wish.update(drained=[n for n in wish["drained"] if n != options.name]))
    return {"changed": changed}


def maintenance(options: argparse.Namespace) -> dict[str, Any]:
    every = [site.name for site in config().sites]
    chosen = {options.site} if options.site else set(every)
    if not chosen <= set(every):
        raise Problem(f"{options.site} is no site of this balancer; known are {', '.join(every)}")

    def change(wish: dict[str, list[str]]) -> None:
        now = set(wish["maintenance"]) & set(every)
        wish["maintenance"] = sorted(now | chosen if options.switch == "on" else now - chosen)

    return {"changed": change_wishes(change)}


def refuse(error: OSError) -> None:
    """Raise the error of os.walk: a folder that cannot be read is one, a folder that vanished meanwhile is not."""
    if not isinstance(error, FileNotFoundError):
        raise error


def purge(options: argparse.Namespace) -> dict[str, Any]:
    """Delete kept answers, and wait until nginx serves none of them any more.

    For nginx a missing file is a miss, so it needs no reload.
    """
    removed = 0
    if not os.path.lexists(config().cache_directory):
        return {"changed": False, "removed": 0}
    wanted = f"\nKEY: {options.prefix}"
    # Walk by open directories: the workers' account owns the cache and could replace a directory by a link meanwhile.
    # The top may be a link of root's to another disk.
    top = os.path.realpath(config().cache_directory)
    for _, _, names, folder in os.fwalk(top, onerror=refuse, follow_symlinks=False):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                # The key is in the first kilobytes of the file, after a binary header.
                if options.prefix and wanted not in (read(name, folder, 8192) or ""):
                    continue
                os.unlink(name, dir_fd=folder)
                removed += 1
    if removed:
        time.sleep(OPEN_FILE_SECONDS)
    return {"changed": removed > 0, "removed": removed}

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells a service of ours when its program or its settings have changed, so that it can end and start anew."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

#: The link to the program that is current on this host.
CURRENT = pathlib.Path("/usr/local/lib/webstack/current")


class Version:
    """The program and settings that a service began with. If they changed, it ends and systemd restarts it."""

    def __init__(self, *settings: str | os.PathLike[str], program: pathlib.Path = CURRENT) -> None:
        self.program = program
        self.settings = [pathlib.Path(path) for path in settings]
        self.began = self._look()

    def _look(self) -> Sequence[object]:
        found: list[object] = []
        for path in (self.program, *self.settings):
            try:
                state = path.lstat()
                found.append((state.st_mtime_ns, state.st_ino))
            except OSError:
                # A file that is being exchanged, or a host that is being cleaned, is no reason to stop.
                found.append(None)
        return found

    def changed(self) -> bool:
        """Say whether program or settings differ from those at the start. A file that is missing does not count."""
        return any(now is not None and now != then for now, then in zip(self._look(), self.began, strict=True))

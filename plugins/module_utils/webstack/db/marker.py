# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remembers on this host that the server was the primary, and that its running process was open for writes."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from ..core import files
from ..core.errors import Problem
from ..core.mariadb import Session
from ..core.say import WARNING, say
from .config import RUN

MARKER = pathlib.Path("/var/lib/webstack/db/primary")
OPENED = RUN / "opened"
# An old data directory that is kept has the marker of its time under this name.
KEPT_MARKER = "webstack-primary.json"
#: The same as OPENED, for the service while there is no room to write it.
_opened: set[str] = set()
#: What could not be written last, and why.
_unwritten: dict[str, str] = {}


def marker() -> dict[str, Any] | None:
    try:
        return dict(json.loads(MARKER.read_text()))
    except FileNotFoundError:
        return None
    except ValueError:
        # A damaged file still says that this host was the primary. With `paired` it asks the other host first.
        return {"paired": True}


def set_marker(content: dict[str, Any] | None) -> None:
    """Write or remove the marker so that a power cut right after cannot bring the old state back."""
    if content == marker():
        return
    files.folder(MARKER.parent)
    if content is None:
        files.remove(MARKER)
    else:
        files.write(MARKER, json.dumps(content))


def server_process(session: Session) -> str:
    path = session.rows("SELECT @@pid_file AS path")[0]["path"]
    return pathlib.Path(str(path)).read_text().strip()


def note_opened(session: Session) -> None:
    """Remember that this very process of the server has accepted writes."""
    process = server_process(session)
    if _opened_process() != process:
        _opened.add(process)
        with going_on("which start of the server was open"):
            files.write(OPENED, process)


def was_opened(session: Session) -> bool:
    return server_process(session) in (_opened_process(), *_opened)


def _opened_process() -> str:
    try:
        return OPENED.read_text()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """What cannot be written down, on a full disk for example, is said once and stops nothing."""
    try:
        yield
    except (Problem, OSError) as error:
        if _unwritten.get(what) != str(error):
            _unwritten[what] = str(error)
            say(f"not written down, {what}: {error}", WARNING)
    else:
        _unwritten.pop(what, None)

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whose turn it is to change an application. A deploy has it on every host, and over many commands.

A lock of a process would end with each command. So this one has a holder, and ends by itself when the holder says
nothing for some time: nobody has to clear up after a controller that died.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from ..core import files, lock
from ..core.errors import Busy, Problem

STATE = pathlib.Path("/var/lib/webstack/app")
#: How long a command waits for another one that reads or writes the same.
LOCK_SECONDS = 30


def take(name: str, holder: str, token: str, seconds: float) -> list[str]:
    """Take the turn, or keep it for another `seconds`. Refused while somebody else has it."""
    with lock.hold(f"turn-{name}", "a deploy takes its turn", LOCK_SECONDS):
        had = _held(name)
        if had and had["token"] != token:
            raise Busy(f"busy: {words(name, had)}")
        now = time.time()
        since = had["since"] if had else now
        _write(name, {"holder": holder, "token": token, "since": since, "seconds": seconds, "until": now + seconds})
    return [] if had else [f"{holder} has the turn of {name}"]


def drop(name: str, token: str | None) -> list[str]:
    """End a turn: one's own, or without a token whosever it is."""
    with lock.hold(f"turn-{name}", "a deploy ends its turn", LOCK_SECONDS):
        if token:
            had = _held(name)
            if had and had["token"] != token:
                raise Busy(f"busy: {words(name, had)}")
        there = _path(name).exists()
        files.remove(_path(name))
    return [f"ended the turn of {name}"] if there else []


def allow(name: str, token: str | None) -> str | None:
    """Refuse to change anything in somebody else's turn; keep one's own. Return who it is."""
    with lock.hold(f"turn-{name}", "a command asks whose turn it is", LOCK_SECONDS):
        had = _read(name)
        running = had if had and had["until"] > time.time() else None
        if not token:
            if running:
                raise Busy(f"busy: {words(name, running)}")
            return None
        if had is None:
            raise Busy(f"busy: somebody ended the turn of this deploy of {name}; run it again")
        if had["token"] != token:
            raise Busy(f"busy: this deploy said nothing for too long, and now {words(name, had)}")
        _write(name, {**had, "until": time.time() + had["seconds"]})
        return str(had["holder"])


def state(name: str) -> str:
    """Say who has the turn, or nothing."""
    had = _held(name)
    return words(name, had) if had else ""


def words(name: str, had: Mapping[str, Any]) -> str:
    """Say who has the turn, since when, and when it ends."""
    return (
        f"{had['holder']} deploys {name} since {moment(had['since'])}. The lock ends by itself at "
        f"{moment(had['until'])}; `webstack app {name} unlock` ends it now"
    )


def moment(seconds: float) -> str:
    return time.strftime("%FT%TZ", time.gmtime(seconds))


def _path(name: str) -> pathlib.Path:
    return STATE / name / "turn.json"


def _held(name: str) -> dict[str, Any] | None:
    had = _read(name)
    return had if had and had["until"] > time.time() else None


def _read(name: str) -> dict[str, Any] | None:
    text = files.read(_path(name))
    if text is None:
        return None
    try:
        had: dict[str, Any] = json.loads(text)
        return {key: had[key] for key in ("holder", "token", "since", "seconds", "until")}
    except (ValueError, KeyError, TypeError) as error:
        raise Problem(f"{_path(name)} cannot be understood: `webstack app {name} unlock` removes it") from error


def _write(name: str, had: Mapping[str, Any]) -> None:
    files.folder(_path(name).parent)
    files.write(_path(name), json.dumps(had), 0o600)

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of each release, and who did what when."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ..core import files
from . import turn
from .site import MARKER, Site

ABOUT = "about.json"
#: As many lines are kept.
LINES = 500


def caller() -> str:
    """Name who called without a deploy's name."""
    return f"{os.environ.get('SUDO_USER') or 'root'} on {os.uname().nodename}"


def describe(site: Site, identity: str, version: str, holder: str) -> None:
    """Write down where a release came from."""
    about = {"version": version, "by": holder, "built": turn.moment(time.time())}
    files.write(site.release(identity) / ABOUT, json.dumps(about))


def note(site: Site, holder: str, what: str, release: str, result: str) -> None:
    """Keep a line of the audit log."""
    path = turn.STATE / site.name / "history.jsonl"
    files.folder(path.parent)
    line = json.dumps({"when": turn.moment(time.time()), "by": holder, "what": what, "release": release, "is": result})
    lines = (files.read(path) or "").splitlines()[-LINES + 1 :]
    files.write(path, "\n".join([*lines, line, ""]), 0o600)


def events(site: Site) -> list[dict[str, Any]]:
    """Return the audit log, the oldest line first."""
    text = files.read(turn.STATE / site.name / "history.jsonl") or ""
    return [json.loads(line) for line in text.splitlines() if line]


def releases(site: Site) -> list[dict[str, Any]]:
    """Return what is known of each release: the one that ran last comes first."""
    found = []
    current = site.current()
    answer = site.ask() if current else (0, "", 0, "")
    last = {event["release"]: event for event in events(site)}
    for identity in site.finished():
        about = json.loads(files.read(site.release(identity) / ABOUT) or "{}")
        event = last.get(identity, {})
        refused = event.get("is", "good") != "good"
        found.append(
            {
                "release": identity,
                "version": about.get("version", ""),
                "when": turn.moment(site.ran(identity) or (site.release(identity) / MARKER).stat().st_mtime),
                "by": event.get("by") or about.get("by", ""),
                "state": "current" if identity == current else "refused" if refused else _kept(site, identity),
                "healthy": answer[0] == 200 and answer[1] == identity if identity == current else None,
                "why": event["is"] if refused else "",
            }
        )
    return found


def _kept(site: Site, identity: str) -> str:
    return "kept" if site.ran(identity) else "built"

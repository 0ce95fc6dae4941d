# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads what an application and its Apache wrote into this host's journal."""

from __future__ import annotations

import json
import re
import time
from typing import NamedTuple

from ..core.errors import Problem
from ..core.run import run

#: What the application lets through as the id of a request.
REQUEST = re.compile(r"[A-Za-z0-9-]{1,64}")
#: A large journal on a slow disk.
LIMIT_SECONDS = 120
LINES = 100


class Line(NamedTuple):
    """One line: when, in UTC and to the microsecond, and the text."""

    time: str
    text: str


def lines(name: str, request: str, since: str, most: int) -> list[Line]:
    """Return the lines about a request, else the last ones; `since` is a time as `journalctl --since` takes it."""
    if request and not REQUEST.fullmatch(request):
        raise Problem(f"{request!r} is no id of a request: the answer's header X-Request-ID has it")
    command = ["journalctl", "--no-pager", "--quiet", "--output=json", f"--identifier={name}"]
    command += [f"--since={since}"] if since else []
    command += [f"--grep=\\b{request}\\b", "--case-sensitive=true"] if request else [f"--lines={most}"]
    done = run(*command, seconds=LIMIT_SECONDS, check=False)
    # With --grep, 1 means that no line has it.
    if done.code != 0 and (done.err.strip() or not request):
        raise Problem(f"the journal cannot be read: {done.why}")
    return [_line(json.loads(text)) for text in done.out.splitlines()]


def _line(entry: dict[str, object]) -> Line:
    micros = int(str(entry["__REALTIME_TIMESTAMP"]))
    message = entry.get("MESSAGE")
    # What is not printable comes as numbers, what is too long as nothing.
    text = bytes(message).decode(errors="replace") if isinstance(message, list) else str(message or "")
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(micros // 1_000_000))
    return Line(f"{moment}.{micros % 1_000_000:06}", text)

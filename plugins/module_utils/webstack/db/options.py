# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the server's option files as its next start would."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import re

from ..core import files
from ..core.run import run
from .config import RUN, Config

STARTED = RUN / "started.json"
# The server reads this file last. So it starts closed whatever the operator's files say.
FENCE_OPTIONS = pathlib.Path("/etc/mysql/mariadb.conf.d/zz-webstack.cnf")


def switch(value: str) -> str:
    return "ON" if value.upper() in ("1", "ON", "TRUE") else "OFF"


def wanted_options() -> dict[str, str]:
    """Return the options that a start would use now."""
    shown = run("mariadbd", "--print-defaults", seconds=30).out
    line = shown.strip().splitlines()[-1] if shown.strip() else ""
    options: dict[str, str] = {}
    items = re.split(r"(?:^|\s)--(?=[a-z])", line)
    # Of several values for the scheduler the last one is the fence's. The operator's wish is the one before it.
    spoken = [item for item in items if item.replace("-", "_").startswith("event_scheduler")]
    fence = spoken[-1] if spoken and FENCE_OPTIONS.exists() else None
    for item in items:
        name, _, value = item.strip().partition("=")
        name = name.replace("-", "_")
        if name.startswith(("replicate_", "plugin_load_add", "binlog_do_db", "binlog_ignore_db")) and name in options:
            # Each line adds to those before.
            options[name] += f",{value}"
        elif name and item is not fence:
            options[name] = value
    return options


def tls_digest(config: Config) -> str:
    digest = hashlib.sha256()
    for name in ("ca", "cert", "key"):
        with contextlib.suppress(FileNotFoundError):
            digest.update(pathlib.Path(config.tls[name]).read_bytes())
    return digest.hexdigest()


def record_start(config: Config) -> None:
    files.folder(RUN)
    files.write(STARTED, json.dumps({"options": wanted_options(), "tls": tls_digest(config)}))

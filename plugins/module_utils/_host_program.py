# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program `webstack` as webstack.ha.files brings it to a host: a directory named by its content, and two links.

/usr/local/lib/webstack/<digest>/webstack/...    the package plugins/module_utils/webstack
/usr/local/lib/webstack/<digest>/command         starts it
/usr/local/lib/webstack/current -> <digest>
/usr/local/sbin/webstack -> ../lib/webstack/current/command
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

PACKAGE = pathlib.Path(__file__).resolve().parent / "webstack"
LIBRARY = "/usr/local/lib/webstack"
COMMAND = "/usr/local/sbin/webstack"

#: Where earlier versions kept things: [there, here, the command that used it]. In this order.
MOVED = [
    ["/var/lib/webstack-db", "/var/lib/webstack/db", "/usr/local/sbin/webstack-db"],
    ["/var/lib/webstack/data-swap.json", "/var/lib/webstack/db/data-swap.json", "/usr/local/sbin/webstack-db"],
    ["/run/webstack-db", "/run/webstack/db", "/usr/local/sbin/webstack-db"],
    ["/etc/webstack-backup", "/etc/webstack/backup", "/usr/local/sbin/webstack-backup"],
    ["/var/lib/webstack-backup", "/var/lib/webstack/backup", "/usr/local/sbin/webstack-backup"],
    ["/var/cache/webstack-backup", "/var/cache/webstack/backup", "/usr/local/sbin/webstack-backup"],
    ["/var/lib/webstack-lb", "/var/lib/webstack/lb", "/usr/local/sbin/webstack-lb"],
    ["/run/webstack-lb", "/run/webstack/lb", "/usr/local/sbin/webstack-lb"],
    ["/etc/webstack-tls", "/etc/webstack/tls", "/usr/local/sbin/webstack-tls"],
    ["/var/lib/webstack-tls", "/var/lib/webstack/tls", "/usr/local/sbin/webstack-tls"],
    ["/etc/webstack-vip", "/etc/webstack/vip", "/usr/local/sbin/webstack-vip"],
    ["/run/webstack-vip", "/run/webstack/vip", "/usr/local/sbin/webstack-vip"],
    ["/etc/shared-media", "/etc/webstack/media", "/usr/local/sbin/shared-media-status"],
    ["/var/lib/shared-media", "/var/lib/webstack/media", "/usr/local/sbin/shared-media-status"],
]


def earlier(path: str) -> str:
    """Return where an earlier version kept this file, until the program comes; empty when it was there already."""
    return next((f"{old}{path.removeprefix(new)}" for old, new, command in MOVED if path.startswith(f"{new}/")), "")


# A program that runs holds its directory, so that nobody removes it; the descriptor stays open until the process ends.
# Any account may lock a directory that it can read, so nobody waits for the lock. A program that goes at this moment
# has been replaced: then the link is asked again.
# Isolated (-I): neither the caller's environment nor the directory where it stands has a say in what is imported.
START = """\
#!/usr/bin/python3 -I
import fcntl
import os
import sys
import time

for attempt in range(10):
    home = os.path.dirname(os.path.realpath(__file__))
    try:
        held = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(home), os.fstat(held)):
            break
    except OSError:
        time.sleep(0.01)
sys.path.insert(0, home)
from webstack.cli import main

sys.exit(main())
"""

#: What a unit of ours names in OnFailure, with its tier and its name.
ALARM_UNIT = """\
# Written by webstack.ha.files for all roles.
[Unit]
Description=Tell that a unit of the site failed (%i)
# One that systemd starts again and again fails each time.
StartLimitIntervalSec=1h
StartLimitBurst=1

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/webstack alarm %i
"""
METRICS_CRON = """\
# Written by webstack.ha.files for all roles.
* * * * * root /usr/local/sbin/webstack status --metrics {tier} 2>&1 | logger -t webstack-metrics
"""


def notices(wanted: Any) -> list[dict[str, Any]]:
    """Return the entries by which these tiers write metrics and tell what is wrong; a ValueError for bad words."""
    keys = {"tiers", "metrics_directory", "alarm_command"}
    if not isinstance(wanted, Mapping) or set(wanted) != keys:
        raise ValueError(f"notices: expected a dictionary with {', '.join(sorted(keys))}, got {wanted!r}")
    directory, command = wanted["metrics_directory"], wanted["alarm_command"]
    if not isinstance(directory, str) or (directory and not re.fullmatch(r"(/[^/\s]+)+", directory)):
        raise ValueError(f"notices: metrics_directory must be an absolute path or empty, got {directory!r}")
    if isinstance(command, str) or not all(isinstance(word, str) for word in command):
        raise ValueError("notices: alarm_command must be a list of words")
    settings = {"metrics_directory": str(directory), "alarm_command": [str(word) for word in command]}
    found: list[dict[str, Any]] = [{"dest": "/etc/systemd/system/webstack-alarm@.service", "content": ALARM_UNIT}]
    for tier in wanted["tiers"]:
        # A token may be on the command's line.
        text = json.dumps(settings, indent=2) + "\n"
        found.append({"dest": f"/etc/webstack/notices-{tier}.json", "content": text, "mode": "0600", "secret": True})
        cron = f"/etc/cron.d/webstack-{tier}-metrics"
        content = {"content": METRICS_CRON.format(tier=tier)} if directory or command else {"state": "absent"}
        found.append({"dest": cron, **content})
    return found


class HostProgram:
    """The program as it is on the controller."""

    def __init__(self, package: pathlib.Path = PACKAGE, library: str = LIBRARY, command: str = COMMAND) -> None:
        self.library = library
        self.command = command
        self.files = {
            f"webstack/{path.relative_to(package)}": path.read_text("utf-8") for path in sorted(package.rglob("*.py"))
        }
        self.files["command"] = START
        text = "".join(f"{name}\0{content}\0" for name, content in sorted(self.files.items()))
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def home(self) -> str:
        return f"{self.library}/{self.digest}"

    def content(self) -> list[dict[str, Any]]:
        """Return the entries of its directory, for webstack.ha.files."""
        return [
            {
                "dest": f"{self.home}/{name}",
                "content": content,
                "mode": "0755" if name == "command" else "0644",
            }
            for name, content in self.files.items()
        ]

    def links(self) -> list[dict[str, Any]]:
        """Return the entries that make it the current one."""
        return [
            {"dest": f"{self.library}/current", "state": "link", "src": self.digest},
            {"dest": self.command, "state": "link", "src": f"../lib/{pathlib.Path(self.library).name}/current/command"},
        ]

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks the units that share the uploads and, if Syncthing is the engine, Syncthing about its folder."""

from __future__ import annotations

import http.client
import json
import pathlib
import socket
from collections.abc import Sequence
from typing import Any

from ..core import files, systemd
from ..core.errors import Problem
from ..core.run import run

SOCKET = "/run/webstack/media/syncthing.sock"
KEY = pathlib.Path("/etc/webstack/media/syncthing.env")
SYNCTHING = "webstack-media-syncthing.service"


class Local(http.client.HTTPConnection):
    """HTTP over Syncthing's socket, which only root and Syncthing's account can open."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(SOCKET)


def syncthing(path: str) -> Any:
    """Send a request to Syncthing's API."""
    key = files.read(KEY)
    if key is None:
        raise Problem(f"{KEY} is missing: Syncthing's unit writes it when it starts")
    link = Local("localhost")
    try:
        link.request("GET", path, headers={"X-API-Key": key.strip().partition("=")[2]})
        reply = link.getresponse()
        text = reply.read().decode()
    finally:
        link.close()
    if reply.status != 200:
        raise OSError(f"{path} answers {reply.status}: {text.strip()}")
    return json.loads(text)


def look(units: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the state, and what is wrong. That another host is away is shown, but is no problem of this host."""
    report: dict[str, Any] = {"units": {}}
    problems: list[str] = []
    for unit in units:
        state = systemd.show(unit, "ActiveState")["ActiveState"]
        report["units"][unit] = state
        if state != "active":
            problems.append(f"{unit} is {state}")
    if "webstack-media-pull.timer" in units:
        report["last_round"] = systemd.show("webstack-media-pull.service", "Result")["Result"]
    if SYNCTHING in units and not problems:
        try:
            folder = syncthing("/rest/db/status?folder=media")
            names = {item["deviceID"]: item["name"] for item in syncthing("/rest/config/devices")}
            links = syncthing("/rest/system/connections")["connections"]
        except (Problem, OSError, ValueError, KeyError, http.client.HTTPException) as error:
            problems.append(f"syncthing does not answer yet: {error}")
        else:
            report["folder"] = {key: folder.get(key) for key in ("state", "error", "needFiles", "globalFiles")}
            report["hosts"] = {names.get(key, key): item["connected"] for key, item in links.items()}
            if folder.get("state") in (None, "", "error"):
                problems.append(f"the folder does not work: {folder.get('error') or 'it has no state'}")
    return report, problems


def last_words(unit: str) -> str:
    """Return the end of a unit's journal."""
    return run("journalctl", "--no-pager", "-n", "10", "-o", "cat", "-u", unit, seconds=30, check=False).out

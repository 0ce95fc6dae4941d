#!/usr/bin/python3
"""Say whether the sharing of uploads works on this host, as JSON; exit 1 when it does not.

  shared-media-status [--wait SECONDS] UNIT...

Waits for the units, and, where Syncthing is one of them, for its answer about the folder. A host that is away is
reported and is no error of this one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import pathlib
import socket
import subprocess
import sys
import time
from typing import Any

SOCKET = "/run/shared-media/syncthing.sock"
KEY = pathlib.Path("/etc/shared-media/syncthing.env")


class Local(http.client.HTTPConnection):
    """HTTP over Syncthing's own socket, which only root and its account can open."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(SOCKET)


def syncthing(path: str) -> Any:
    key = KEY.read_text().strip().partition("=")[2]
    link = Local("localhost")
    try:
        link.request("GET", path, headers={"X-API-Key": key})
        reply = link.getresponse()
        text = reply.read().decode()
    finally:
        link.close()
    if reply.status != 200:
        raise OSError(f"{path} answers {reply.status}: {text.strip()}")
    return json.loads(text)


def look(units: list[str]) -> tuple[dict[str, Any], list[str]]:
    report: dict[str, Any] = {"units": {}}
    problems: list[str] = []
    for unit in units:
        state = subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=False).stdout
        report["units"][unit] = state.strip()
        if state.strip() != "active":
            problems.append(f"{unit} is {state.strip()}")
    if "shared-media-pull.timer" in units:
        command = ["systemctl", "show", "--property=Result", "--value", "shared-media-pull.service"]
        report["last_round"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if "shared-media-syncthing.service" in units and not problems:
        try:
            folder = syncthing("/rest/db/status?folder=media")
            names = {item["deviceID"]: item["name"] for item in syncthing("/rest/config/devices")}
            links = syncthing("/rest/system/connections")["connections"]
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            problems.append(f"syncthing does not answer yet: {error}")
        else:
            report["folder"] = {key: folder.get(key) for key in ("state", "error", "needFiles", "globalFiles")}
            report["hosts"] = {names.get(key, key): item["connected"] for key, item in links.items()}
            if folder.get("state") in (None, "", "error"):
                problems.append(f"the folder does not work: {folder.get('error') or 'it has no state'}")
    return report, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wait", type=float, default=0.0, help="seconds that it may take to become well")
    parser.add_argument("units", nargs="+")
    options = parser.parse_args()
    deadline = time.monotonic() + options.wait
    report, problems = look(options.units)
    while problems and time.monotonic() < deadline:
        time.sleep(0.3)
        report, problems = look(options.units)
    print(json.dumps({**report, "problems": problems}, sort_keys=True))
    for unit in options.units if problems else []:
        subprocess.run(
            ["journalctl", "--no-pager", "-n", "10", "-o", "cat", "-u", unit], stdout=sys.stderr, check=False
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""A visitor of the site and the levers of the lab."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import testinfra

ROOT = pathlib.Path(__file__).resolve().parents[3]
SITE = "https://www.demo.test"


def host(name: str) -> Any:
    return testinfra.get_host(f"docker://{name}")


class Visitor:
    """A browser of sorts on the client host: curl with a cookie jar, through the virtual address."""

    def __init__(self) -> None:
        self.jar = f"/tmp/jar-{uuid.uuid4().hex}"
        self.host = host("client")

    def curl(self, path: str, *options: str) -> tuple[int, str]:
        command = [
            "curl",
            "-sk",
            "--max-time",
            "15",
            "-b",
            self.jar,
            "-c",
            self.jar,
            "-w",
            "\n%{http_code}",
        ]
        result = self.host.run(shlex.join([*command, *options, SITE + path]))
        body, _, status = result.stdout.rpartition("\n")
        return int(status), body

    def get(self, path: str = "/") -> tuple[int, str]:
        return self.curl(path)

    def post(self, path: str, *fields: str) -> tuple[int, str]:
        """POST a form; each field as curl's -F takes it. The status is the POST's own: redirects are not followed."""
        if "csrftoken" not in self.cookies():
            self.get("/")
        token = self.cookies()["csrftoken"]
        form = [part for field in (f"csrfmiddlewaretoken={token}", *fields) for part in ("-F", field)]
        return self.curl(path, "-H", f"Referer: {SITE}/", *form)

    def cookies(self) -> dict[str, str]:
        rows = [line.split("\t") for line in self.host.run(f"cat {self.jar}").stdout.splitlines()]
        return {row[5]: row[6] for row in rows if len(row) == 7}

    def whoami(self) -> dict[str, Any]:
        status, body = self.get("/whoami")
        assert status == 200, body
        return json.loads(body)


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until `condition` gives something true; say what did not come."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not after {seconds} s")
        time.sleep(0.5)


def playbook(name: str, *options: str, collections: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the collection against the lab, as an operator would."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MOLECULE_"))}
    environment["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    if collections is not None:
        environment["ANSIBLE_COLLECTIONS_PATH"] = f"{collections}:{ROOT / '.cache/collections'}"
    # The scenario's inventory is where the site's certificate authority lives.
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    return subprocess.run(
        [
            "ansible-playbook",
            "-i",
            os.path.dirname(inventory),
            name,
            *options,
        ],
        cwd=ROOT if collections is None else collections,
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )


RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)


def recap(output: str) -> dict[str, int]:
    """Host -> number of changed tasks."""
    return {row[0]: int(row[2]) for row in RECAP.findall(output)}

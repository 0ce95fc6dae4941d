"""Fixtures of the whole site's tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from containers import docker, on
from levers import ROOT, SITE, Visitor, host, wait_for


@pytest.fixture
def visitor() -> Visitor:
    return Visitor()


@pytest.fixture
def probe() -> Callable[..., Any]:
    """Start a probe on the client; call what it returns to wait for the report."""
    client = host("client")
    script = (ROOT / "tests/lab/probe.py").read_text()
    on("client", "tee", "/root/probe.py", text=script)
    assert client.run("test -s /root/probe.py").rc == 0

    def start(path: str, *options: str) -> Callable[[], dict[str, Any]]:
        command = [
            "docker",
            "exec",
            "client",
            "python3",
            "/root/probe.py",
            SITE + path,
            *options,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def report() -> dict[str, Any]:
            out, _ = process.communicate(timeout=120)
            return json.loads(out)

        return report

    return start


@pytest.fixture
def killed() -> Iterator[Callable[[str], None]]:
    """Kill hosts; whatever a test does, they run again afterwards and the site is whole."""
    dead: list[str] = []

    def kill(name: str) -> None:
        dead.append(name)
        docker("kill", name)

    yield kill
    for name in dead:
        docker("start", name)
        wait_for(
            f"{name} boots",
            lambda n=name: "running" in host(n).run("systemctl is-system-running").stdout,
        )

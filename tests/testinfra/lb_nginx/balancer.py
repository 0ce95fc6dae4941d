"""The balancer of the scenario as its tests reach it: requests from the client host, commands on the others."""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent
BALANCER = "10.77.1.11"
SERVERS = {"nginx-was1": "10.77.1.21", "nginx-was2": "10.77.1.22", "nginx-was3": "10.77.1.23"}
NAME = "www.example.test"

Answer = dict[str, Any]


def on(name: str, command: str) -> str:
    done = subprocess.run(["docker", "exec", name, "bash", "-c", command], capture_output=True, check=False, text=True)
    assert done.returncode == 0, f"{name}: {command}: {done.stdout}{done.stderr}"
    return done.stdout


def program(path: pathlib.Path, *arguments: str) -> Any:
    command = [
        "docker",
        "exec",
        "--interactive",
        "nginx-client",
        "python3",
        "-",
        *arguments,
    ]
    done = subprocess.run(command, input=path.read_text(), capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def send(*requests: Answer, workers: int = 1) -> list[Answer]:
    full = [{"address": BALANCER, **request} for request in requests]
    answers: list[Answer] = program(HERE / "client.py", json.dumps({"requests": full, "workers": workers}))
    return answers


def get(target: str = "/", **more: Any) -> Answer:
    return send({"target": target, **more})[0]


def facts(answer: Answer) -> Answer:
    assert answer["status"] == 200, answer
    seen: Answer = json.loads(answer["body"])
    return seen


def probe(*arguments: str) -> Answer:
    """Ask steadily, as tests/lab/probe.py does, and say what failed."""
    header = f"Host: {NAME}"
    result: Answer = program(ROOT / "tests/lab/probe.py", *arguments, "--header", header)
    return result


def generation() -> str:
    return on("nginx-lb1", "curl -fsS http://127.0.0.1:8089/generation").strip()


def workers() -> set[str]:
    return set(on("nginx-lb1", "pgrep -f 'nginx: worker process$' || true").split())


def executed(prefix: str) -> list[str]:
    """Return the ids of the POSTs that the servers executed, of dead ones, too."""
    ids = [line for name in SERVERS for line in on(name, "cat /run/posts 2>/dev/null || true").splitlines()]
    return [number for number in ids if number.startswith(prefix)]


def lb(*words: str, name: str = "nginx-lb1") -> Any:
    """Run webstack-lb and return what it said."""
    return json.loads(on(name, "webstack-lb " + " ".join(words)))


def asked(name: str = "nginx-lb1") -> set[str]:
    """Return the servers that a balancer may send requests."""
    (site,) = lb("status", "--json", name=name)["sites"]
    return {server["name"] for server in site["servers"] if server["asked"]}


def until_asked(wanted: set[str], seconds: float = 15, name: str = "nginx-lb1") -> float:
    """Wait for a set of servers; return how long that took."""
    started = time.monotonic()
    while asked(name) != wanted:
        assert time.monotonic() < started + seconds, on(name, "webstack-lb status; journalctl -u webstack-lb -n 20")
        time.sleep(0.1)
    return time.monotonic() - started

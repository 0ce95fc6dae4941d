"""The balancer of the scenario as its tests reach it: requests from the client host, commands on the others."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import threading
import time
from concurrent.futures import Future
from typing import Any

from containers import docker
from documents import document

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent
BALANCER = "10.77.1.11"
SERVERS = {"nginx-was1": "10.77.1.21", "nginx-was2": "10.77.1.22", "nginx-was3": "10.77.1.23"}
NAME = "www.example.test"

Answer = dict[str, Any]


def on(name: str, command: str) -> str:
    return docker("exec", name, "bash", "-c", command)


def program(path: pathlib.Path, *arguments: str) -> Any:
    """Run a program of the tests on the client host and return what it printed."""
    command = ["exec", "--interactive", "nginx-client", "python3", "-", *arguments]
    return json.loads(docker(*command, text=path.read_text()))


class Client:
    """The program that sends requests, one for all tests: its start costs more than most of what it is asked for."""

    def __init__(self) -> None:
        command = ["docker", "exec", "--interactive", "nginx-client", "python3", "-c", (HERE / "client.py").read_text()]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lock = threading.Lock()
        self.jobs: list[Future[list[Answer]]] = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            done = json.loads(line)
            self.jobs[done["number"]].set_result(done["answers"])
        for job in self.jobs:
            if not job.done():
                job.set_exception(RuntimeError("the client on nginx-client ended"))

    def send(self, requests: list[Answer], workers: int) -> list[Answer]:
        assert self.process.stdin is not None
        job: Future[list[Answer]] = Future()
        with self.lock:
            self.jobs.append(job)
            line = {"number": len(self.jobs) - 1, "requests": requests, "workers": workers}
            self.process.stdin.write(json.dumps(line) + "\n")
            self.process.stdin.flush()
        return job.result(timeout=120)


@functools.cache
def client() -> Client:
    return Client()


def send(*requests: Answer, workers: int = 1) -> list[Answer]:
    return client().send([{"address": BALANCER, **request} for request in requests], workers)


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
    """Run `webstack lb` and return what it said."""
    return document(on(name, "webstack lb " + " ".join(words)))


def asked(name: str = "nginx-lb1") -> set[str]:
    """Return the servers that a balancer may send requests."""
    (site,) = lb("status", "--json", name=name)["sites"]
    return {server["name"] for server in site["servers"] if server["asked"]}


#: Reads what `webstack lb status` shows, for one call of the engine and one start of Python.
WAIT = """
import json, pathlib, sys, time
status, wanted, end = pathlib.Path("/run/webstack/lb/status.json"), sys.argv[2:], time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    if status.exists():
        servers = json.loads(status.read_text())["sites"][0]["servers"]
        if sorted(server["name"] for server in servers if server["asked"]) == wanted:
            break
    time.sleep(0.2)
"""


def until_asked(wanted: set[str], seconds: float = 15, name: str = "nginx-lb1") -> float:
    """Wait for a set of servers; return how long that took."""
    started = time.monotonic()
    docker("exec", "--interactive", name, "python3", "-", str(seconds), *sorted(wanted), text=WAIT)
    took = time.monotonic() - started
    assert asked(name) == wanted, on(name, "webstack lb status; journalctl -u webstack-lb -n 20")
    return took


def logged(text: str) -> Answer:
    """Return the balancer's log entry with a text in it; nginx writes its buffer when it opens its files anew."""
    write = "kill -USR1 $(cat /run/nginx.pid)"
    find = f"for _ in $(seq 25); do grep -h {text} /var/log/nginx/access.log && break; sleep 0.2; done"
    entry: Answer = json.loads(on("nginx-lb1", f"{write}; {find}"))
    return entry

"""Runs on the client host, fed through stdin: visitors who read and write at a steady pace, each on a connection of
their own. Argument: {"addresses": [...], "host", "seconds", "gets", "posts" (a second), "prefix" of the requests' ids
(those of GETs begin with it and `get-`), "timeout"}. Prints what failed, how late the requests were at most and how
long the answers took, as JSON.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

job: dict[str, Any] = json.loads(sys.argv[1])
tls = ssl._create_unverified_context()  # the lab's certificate is its own
lock = threading.Lock()
seen: dict[str, list[tuple[float, str]]] = {"GET": [], "POST": []}
late = dict.fromkeys(seen, 0.0)


class Visit(http.client.HTTPSConnection):
    """Asks for the site's name at one of the balancers' addresses."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name, timeout=job["timeout"], context=tls)
        self.address = address

    def connect(self) -> None:
        plain = socket.create_connection((self.address, self.port), self.timeout)
        self.sock = tls.wrap_socket(plain, server_hostname=self.host)


def visit(method: str, number: int) -> None:
    address = job["addresses"][number % len(job["addresses"])]
    target = f"/load?id={job['prefix']}{'get-' if method == 'GET' else ''}{number}"
    started, problem = time.monotonic(), ""
    try:
        connection = Visit(job["host"], address)
        connection.request(method, target, "x" if method == "POST" else None)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 200:
            problem = str(answer.status)
    except (OSError, http.client.HTTPException) as error:
        problem = f"{type(error).__name__}: {error}"
    with lock:
        seen[method].append((time.monotonic() - started, problem))


def pace(method: str, rate: float) -> None:
    begin = latest = time.monotonic()
    with ThreadPoolExecutor(64) as visitors:
        for number in range(int(job["seconds"] * rate)):
            # One that is late is made up for little by little: several at once would be another load.
            due = max(begin + number / rate, latest + 0.8 / rate * (number > 0))
            time.sleep(max(0.0, due - time.monotonic()))
            latest = time.monotonic()
            late[method] = max(late[method], latest - due)
            visitors.submit(visit, method, number)


paces = [threading.Thread(target=pace, args=pair) for pair in (("GET", job["gets"]), ("POST", job["posts"]))]
for thread in paces:
    thread.start()
for thread in paces:
    thread.join()
report = {}
for method, visits in seen.items():
    times = sorted(seconds for seconds, _ in visits)
    report[method] = {
        "requests": len(visits),
        "failed": sum(bool(problem) for _, problem in visits),
        "errors": sorted({problem for _, problem in visits if problem}),
        "late_ms": round(1000 * late[method]),
        "p50_ms": round(1000 * times[len(times) // 2]),
        "p99_ms": round(1000 * times[int(len(times) * 0.99) - 1]),
        "max_ms": round(1000 * times[-1]),
    }
print(json.dumps(report))

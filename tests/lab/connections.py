#!/usr/bin/env python3
"""Hold connections through a change: run on a client host, stdlib only.

  connections.py ADDRESS [--number 6] [--seconds 8] [--first-port 40000]

Starts as many downloads of /download as keep-alive connections that fetch /, prints `ready`, and uses the latter once
more after --seconds; from ports of choice, if any. Prints one JSON document: how many of each broke, and why.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--number", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--first-port", type=int, metavar="PORT", help="ports of the idle connections on this host")
    options = parser.parse_args()
    errors: list[str] = []
    servers: list[str] = []
    finished = 0

    def download() -> None:
        nonlocal finished
        connection = http.client.HTTPConnection(options.address, 80, timeout=10)
        try:
            connection.request("GET", "/download")
            response = connection.getresponse()
            length = int(response.headers["Content-Length"])
            started.release()
            if len(response.read()) == length:
                finished += 1
        except (OSError, http.client.HTTPException) as problem:
            errors.append(f"download: {type(problem).__name__}: {problem}")

    started = threading.Semaphore(0)
    threads = [threading.Thread(target=download) for _ in range(options.number)]
    for thread in threads:
        thread.start()
    for _ in threads:
        started.acquire()
    ports = range(options.first_port or 0, (options.first_port or 0) + options.number)
    idle = [
        http.client.HTTPConnection(
            options.address, 80, timeout=5, source_address=("", port) if options.first_port else None
        )
        for port in ports
    ]

    def use() -> int:
        good = 0
        for connection in idle:
            connection.auto_open = 0  # a broken one stays broken
            try:
                connection.request("GET", "/")
                servers.append(json.loads(connection.getresponse().read())["server"])
                good += 1
            except (OSError, http.client.HTTPException) as problem:
                errors.append(f"idle: {type(problem).__name__}: {problem}")
        return good

    for connection in idle:
        connection.connect()
    use()
    print("ready", flush=True)
    time.sleep(options.seconds)
    good = use()
    for connection in idle:
        connection.close()
    for thread in threads:
        thread.join()
    print(
        json.dumps(
            {
                "downloads_broken": options.number - finished,
                "idle_broken": options.number - good,
                "servers": sorted(set(servers)),
                "errors": sorted(set(errors)),
            }
        )
    )


if __name__ == "__main__":
    main()

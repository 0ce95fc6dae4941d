#!/usr/bin/env python3
"""Ask one URL at a steady pace and report what failed: run on a client host, stdlib only.

  probe.py URL --seconds 8 --interval 0.05 [--method POST --data k=v] [--header 'Cookie: a=b'] [--workers 4]

Prints one JSON document: requests, failed, statuses, longest_outage_ms (time from the first failure of a row to
the next success), p50_ms, p99_ms, max_ms, by (answers per value of a JSON key or header), errors (texts).
A failure is a transport error, a time-out or a status that is not in --expect.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import ssl
import threading
import time
import urllib.parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument(
        "--interval",
        type=float,
        default=0.05,
        help="seconds between the starts of requests",
    )
    parser.add_argument("--timeout", type=float, default=5, help="seconds")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--data")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--expect", default="200", help="comma-separated statuses that are no failure")
    parser.add_argument("--by", help="count the answers by this key of the JSON body")
    options = parser.parse_args()

    target = urllib.parse.urlsplit(options.url)
    context = ssl._create_unverified_context()  # the lab's certificate is its own
    headers = dict(h.split(": ", 1) for h in options.header)
    expected = {int(s) for s in options.expect.split(",")}
    results: list[tuple[float, float, int, str, str]] = []
    lock = threading.Lock()

    def once() -> None:
        started = time.monotonic()
        status, error, key = 0, "", ""
        try:
            if target.scheme == "https":
                connection = http.client.HTTPSConnection(target.netloc, timeout=options.timeout, context=context)
            else:
                connection = http.client.HTTPConnection(target.netloc, timeout=options.timeout)
            path = target.path or "/"
            connection.request(
                options.method,
                f"{path}?{target.query}" if target.query else path,
                options.data,
                headers,
            )
            response = connection.getresponse()
            status, body = response.status, response.read()
            connection.close()
            if options.by and status == 200:
                key = str(json.loads(body).get(options.by))
        except (OSError, http.client.HTTPException, ValueError) as problem:
            status, error = 0, f"{type(problem).__name__}: {problem}"
        with lock:
            results.append((started, time.monotonic(), status, error, key))

    threads = []
    begin = time.monotonic()
    for number in range(int(options.seconds / options.interval)):
        time.sleep(max(0.0, begin + number * options.interval - time.monotonic()))
        thread = threading.Thread(target=once)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()

    results.sort()
    bad = [r for r in results if r[2] not in expected]
    outage, first_failure = 0.0, None
    for started, _, status, _, _ in results:
        if status in expected:
            if first_failure is not None:
                outage = max(outage, started - first_failure)
            first_failure = None
        elif first_failure is None:
            first_failure = started
    if first_failure is not None:
        outage = max(outage, results[-1][1] - first_failure)
    times = sorted(end - started for started, end, *_ in results)
    print(
        json.dumps(
            {
                "requests": len(results),
                "failed": len(bad),
                "statuses": dict(collections.Counter(str(r[2]) for r in results)),
                "longest_outage_ms": round(1000 * outage),
                "p50_ms": round(1000 * times[len(times) // 2]),
                "p99_ms": round(1000 * times[int(len(times) * 0.99) - 1]),
                "max_ms": round(1000 * times[-1]),
                "by": dict(collections.Counter(r[4] for r in results if r[4])),
                "errors": sorted({r[3] for r in results if r[3]})[:5],
            }
        )
    )


if __name__ == "__main__":
    main()

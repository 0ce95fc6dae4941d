"""Runs on the client host, fed through stdin: a visitor who keeps cookies, behind a balancer that speaks HTTPS.

Argument: a JSON object with steps {server, method, path, form, file: [name, text], headers}, the cookies, and whether
ten steps at a time go together. Prints the answers and the cookies.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

HOST = "www.example.test"


def main() -> None:
    job = json.loads(sys.argv[1])
    cookies: dict[str, str] = job.get("cookies", {})
    with ThreadPoolExecutor(10 if job.get("together") else 1) as pool:
        answers = list(pool.map(lambda step: take(step, cookies), job["steps"]))
    print(json.dumps({"answers": answers, "cookies": cookies}))


def take(step: dict[str, Any], cookies: dict[str, str]) -> dict[str, Any]:
    method = step.get("method", "POST" if "form" in step or "file" in step else "GET")
    headers = {"Host": HOST, "X-Forwarded-Proto": "https", "X-Webstack-Balancer": "lb1", **step.get("headers", {})}
    headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    body = None
    if method == "POST":
        headers["Referer"] = f"https://{HOST}/"
        headers["X-CSRFToken"] = cookies.get("csrftoken", "")
        if "file" in step:
            name, text = step["file"]
            headers["Content-Type"] = "multipart/form-data; boundary=lab"
            field = f'Content-Disposition: form-data; name="file"; filename="{name}"'
            body = f"--lab\r\n{field}\r\n\r\n{text}\r\n--lab--\r\n"
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urllib.parse.urlencode(step.get("form", {}))
    return ask((step["server"], method, step["path"]), body, headers, cookies)


def ask(
    what: tuple[str, str, str], body: str | None, headers: dict[str, str], cookies: dict[str, str]
) -> dict[str, Any]:
    started = time.monotonic()
    server, method, path = what
    connection = http.client.HTTPConnection(server, 8000, timeout=20)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read().decode(errors="replace")
    for name, value in response.getheaders():
        if name.lower() == "set-cookie":
            cookie, _, content = value.split(";", 1)[0].partition("=")
            cookies[cookie] = content
    connection.close()
    return {
        "status": response.status,
        "headers": {name.lower(): value for name, value in response.getheaders()},
        "body": text,
        "seconds": round(time.monotonic() - started, 3),
    }


if __name__ == "__main__":
    main()

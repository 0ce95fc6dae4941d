"""Runs on the client host, fed through stdin: a visitor who keeps cookies, behind a balancer that speaks HTTPS.

Argument: a JSON list of steps {server, method, path, form, file: [name, text], headers, cookies}. Prints the answers.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
import urllib.parse
from typing import Any

HOST = "www.example.test"


def main() -> None:
    job = json.loads(sys.argv[1])
    cookies: dict[str, str] = job.get("cookies", {})
    answers = []
    for step in job["steps"]:
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
        answers.append(ask((step["server"], method, step["path"]), body, headers, cookies))
    print(json.dumps({"answers": answers, "cookies": cookies}))


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

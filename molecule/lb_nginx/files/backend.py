"""An application server for the tests of the balancer: says what reached it, and counts what it executed."""

from __future__ import annotations

import json
import os
import pathlib
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

#: What the health address answers, where this file exists.
HEALTH = pathlib.Path("/run/health")

#: One id a line of each POST that was executed; survives the process.
POSTS = pathlib.Path("/run/posts")

#: Bytes that were sent of /big/ by now.
big = {"sent": 0}

counters: dict[str, int] = {}
lock = threading.Lock()


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, body: bytes | None = None) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        with lock:
            counters[url.path] = counters.get(url.path, 0) + 1
            count = counters[url.path]
            if self.command == "POST":
                with POSTS.open("a") as file:
                    file.write(query.get("id", "") + "\n")
        time.sleep(float(query.get("sleep", "0")))
        facts = {
            "server": socket.gethostname(),
            "count": count,
            "method": self.command,
            "headers": {key.lower(): value for key, value in self.headers.items()},
            "user": self.headers.get("Cookie") or self.headers.get("Authorization"),
            "body": len(body or b""),
        }
        text = json.dumps(facts)
        if url.path == "/-/health" and HEALTH.exists():
            query["status"] = HEALTH.read_text().strip()
        missing = query.get("only", socket.gethostname()) != socket.gethostname()
        self.send_response(404 if missing else int(query.get("status", "200")))
        self.send_header("Content-Type", "application/json")
        for name in ("Cache-Control", "Expires", "Vary", "Set-Cookie", "ETag", "Referrer-Policy"):
            if name in query:
                self.send_header(name, query[name])
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def send_big(self) -> None:
        """Send a file of zeros, or a part of it, as a server of large media does, and count what went out."""
        query = parse_qs(urlsplit(self.path).query)
        size = int(query["size"][0])
        found = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        first, last = (int(found[1]), int(found[2] or size - 1)) if found else (0, size - 1)
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Cache-Control", "public, max-age=3600")
        self.send_header("ETag", '"one"')
        if found:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        else:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        left = last - first + 1 if self.command == "GET" else 0
        while left > 0:
            self.wfile.write(bytes(min(left, 1 << 16)))
            with lock:
                big["sent"] += min(left, 1 << 16)
            left -= 1 << 16

    def do_GET(self) -> None:
        if self.path.startswith("/media/big"):
            self.send_big()
        elif self.path == "/big-sent":
            text = str(big["sent"]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        else:
            self.answer()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def log_message(self, *_: object) -> None:
        """Keep the journal quiet."""


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    Server(("0.0.0.0", int(os.environ.get("PORT", "8000"))), Application).serve_forever()

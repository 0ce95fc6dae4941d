#!/usr/bin/env python3
"""The API of a cloud without layer 2, in small: it owns the route to an address, and moves it when it is asked.

  cloud_api.py PORT TOKEN

POST /route?address=A&host=H with the token routes A to H on this host, whose traffic follows. PUT /mood?is=M says
how it answers from now on: well, slow (2 s), failing (two times, then well), hanging (30 s, two times, then well). The
two times are those of a host that takes over, not of one that says again where it is.
GET /calls lists what was asked. Runs on the client host, stdlib only.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import time
import urllib.parse
from typing import ClassVar


class Cloud(http.server.BaseHTTPRequestHandler):
    """Its state is the class's: a handler lives for one request."""

    mood: ClassVar[str] = "well"
    bad_answers: ClassVar[int] = 0
    calls: ClassVar[list[dict[str, object]]] = []
    token: ClassVar[str] = ""

    def query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        Cloud.mood = self.query()["is"]
        Cloud.bad_answers = 2 if Cloud.mood in ("failing", "hanging") else 0
        self.answer(200, Cloud.mood)

    def do_GET(self) -> None:
        self.answer(200, Cloud.calls)

    def do_POST(self) -> None:
        asked = self.query()
        Cloud.calls.append({**asked, "mood": Cloud.mood, "at": time.time()})
        if self.headers.get("Authorization") != f"Bearer {Cloud.token}":
            self.answer(401, "who are you?")
            return
        if Cloud.mood == "slow":
            time.sleep(2)
        elif Cloud.bad_answers and asked.get("state") == "master":
            Cloud.bad_answers -= 1
            if Cloud.mood == "hanging":
                time.sleep(30)
            self.answer(503, "not now")
            return
        subprocess.run(["ip", "route", "replace", f"{asked['address']}/32", "via", asked["host"]], check=True)
        self.answer(200, "moved")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


if __name__ == "__main__":
    Cloud.token = sys.argv[2]
    http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Cloud).serve_forever()

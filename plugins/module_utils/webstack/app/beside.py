# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Loads a release in a process of its own, and asks it for pages there: nobody else's request can reach it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.errors import Problem
from ..core.run import SEARCH_PATH, run
from .site import Site

#: The line with the answers begins like this; the application may print others.
ANSWERS = "webstack-answers "
#: Runs as the application's account. Its words: the Python paths and the checks. What it sends is what a balancer does.
PROGRAM = (
    """
import io, json, os, sys
from urllib.parse import unquote_to_bytes
paths, checks = map(json.loads, sys.argv[1:3])
sys.path[:0] = paths
import webstack_entry

def ask(check):
    path, _, query = check["path"].partition("?")
    told = []
    environ = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query, "REQUEST_URI": check["path"], "SERVER_NAME": check["host"], "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": check["host"],
        "HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_FOR": "127.0.0.1", "HTTP_USER_AGENT": "webstack",
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
        "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
    }
    try:
        answer = webstack_entry.application(environ, lambda status, headers, error=None: told.append(status))
        try:
            body = b"".join(answer)
        finally:
            getattr(answer, "close", lambda: None)()
        return int(told[-1].split()[0]), check["text"].encode() in body
    except Exception:
        import traceback
        traceback.print_exc()
        return 500, False

good = webstack_entry._application is not None
print(\""""
    + ANSWERS
    + """\" + json.dumps([ask(check) for check in checks] if good else []), flush=True)
sys.stderr.flush()
os._exit(0 if good else 1)
"""
)


def load(site: Site, identity: str, ask: bool) -> None:
    """Load a release as Apache will, and with `ask` have its pages checked. A bad one never gets a request."""
    checks = [_whole(site, identity, one) for one in site.of_release("smoke_checks", identity)] if ask else []
    paths = [str(site.python(identity)), *site.setting("python_path")]
    program = (str(site.release(identity) / "venv/bin/python"), "-", json.dumps(paths), json.dumps(checks))
    seconds = float(site.setting("health_timeout")) + sum(float(one["seconds"]) for one in checks)
    try:
        done = run(
            *program,
            seconds=seconds,
            text=PROGRAM,
            check=False,
            cwd=site.base,
            env={"PATH": SEARCH_PATH, "HOME": str(site.base), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
            account=(site.setting("user"), site.setting("group")),
        )
    except Problem as problem:
        what = f"does not answer within {seconds:g} s" if checks else f"does not load: {problem}"
        raise Problem(f"release {identity} {what}") from None
    said = (done.err.strip().splitlines() or [f"exit code {done.code}"])[-1].strip()[:300]
    if done.code != 0:
        raise Problem(f"release {identity} does not load: {said}")
    lines = [line for line in done.out.splitlines() if line.startswith(ANSWERS)]
    answers = json.loads(lines[-1].removeprefix(ANSWERS)) if lines else []
    if len(answers) != len(checks):
        raise Problem(f"release {identity} ends before it has answered all of was_django_smoke_checks: {said}")
    wrong = [_wrong(check, *answer) for check, answer in zip(checks, answers, strict=True)]
    if any(wrong):
        last = f" (it said: {said})" if done.err.strip() else ""
        raise Problem(f"release {identity}: was_django_smoke_checks: {'; '.join(filter(None, wrong))}{last}")


def _whole(site: Site, identity: str, check: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in check.items() if value is not None}
    return {"status": 0, "text": "", "seconds": 10, "host": site.of_release("health_host", identity), **given}


def _wrong(check: Mapping[str, Any], status: int, has_text: bool) -> str:
    """Say what is wrong with an answer, or nothing."""
    page = f"https://{check['host']}{check['path']}"
    if status != check["status"] if check["status"] else status >= 500:
        return f"{page} answered {status}, expected {check['status'] or 'less than 500'}"
    return "" if has_text else f"{page} answered {status} without the text {check['text']!r}"

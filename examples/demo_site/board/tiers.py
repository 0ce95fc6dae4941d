"""Who answers: asks each tier for its name, and goes on when a tier is away.

Reading a session must never cause a write, so nothing here assigns to it.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.core.cache import caches
from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest

Answer = TypeVar("Answer")

# A dead database host costs `connect_timeout` per question. Ask it again only after this many seconds.
PAUSE_SECONDS = 2.0
SESSION_PREFIX = "django.contrib.sessions.cached_db"
NOTES_KEY = "board:notes"
DATABASE_ERRORS = (DatabaseError, InterfaceError)

_pause = {"until": 0.0}  # of this process


class DatabaseAway(Exception):
    """The database does not answer, or answered a moment ago that it cannot."""


@dataclass(frozen=True)
class Tier:
    """One station of the request. `name` is None when the tier did not answer."""

    kind: str
    title: str
    name: str | None
    detail: str

    @property
    def state(self) -> str:
        if self.name is None:
            return "away"
        return "ok"


def ask_database(question: Callable[[], Answer]) -> Answer:
    """Run `question`; raise DatabaseAway, at once for a while, when the database is not there."""
    if time.monotonic() < _pause["until"]:
        raise DatabaseAway
    try:
        return question()
    except DATABASE_ERRORS as error:
        connection.close()
        _pause["until"] = time.monotonic() + PAUSE_SECONDS
        raise DatabaseAway from error


def forget_database_failure() -> None:
    """A write succeeded, so the database is back."""
    _pause["until"] = 0.0


def server() -> str:
    return socket.gethostname()


def release() -> str | None:
    return os.environ.get("WEBSTACK_RELEASE")


def balancer(request: HttpRequest) -> str | None:
    name = request.headers.get("X-Webstack-Balancer", "")
    return name if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) else None


def database() -> tuple[str, bool]:
    """Name of the database server that answered, and whether it is read-only."""
    if connection.vendor != "mysql":
        return ask_database(lambda: (_select("SELECT 1"), (connection.vendor, False))[1])
    name, read_only = ask_database(lambda: _select("SELECT @@hostname, @@read_only"))
    return str(name), str(read_only) not in ("0", "OFF")


def _select(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()


def session(request: HttpRequest) -> Mapping[str, Any]:
    """The visitor's session, read only; empty when neither cache nor database can give it."""
    try:
        return dict(request.session.items())
    except DATABASE_ERRORS:
        return {}
    except Exception:  # a cache backend that raises instead of missing: the database has the session too
        try:
            return ask_database(lambda: DatabaseSession(request.session.session_key).load())
        except DatabaseAway:
            return {}


def shard(request: HttpRequest) -> str | None:
    """The cache shard that holds this visitor's session, or the list of notes for a visitor without one."""
    cache = caches["default"]
    key = f"{SESSION_PREFIX}{request.session.session_key}" if request.session.session_key else NOTES_KEY
    try:
        if hasattr(cache, "locate"):
            return str(cache.locate(key))
        return type(cache).__name__.removesuffix("Cache").lower()
    except Exception:  # whatever a cache raises, the page is worth more
        return None


def cached(key: str) -> Any:
    try:
        return caches["default"].get(key)
    except Exception:
        return None


def remember(key: str, value: Any, seconds: int) -> None:
    try:
        caches["default"].set(key, value, seconds)
    except Exception:  # the database has it; the next request tries again
        return

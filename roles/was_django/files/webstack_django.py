"""Requests that fail: 503 with Retry-After when the database is away, and a traceback in the journal else."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core.signals import got_request_exception
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.utils.log import AdminEmailHandler

# What clients and servers of the MySQL family say when nobody answers, or nobody who may write:
# 0 connection already closed, 1040 too many connections, 1053 shutdown, 1290 and 1836 read-only,
# 1927 connection killed, 2002/2003 cannot connect, 2006/2013/2055 connection lost.
CODES = frozenset({0, 1040, 1053, 1290, 1836, 1927, 2002, 2003, 2006, 2013, 2055})
# A statement that took longer than a request may wait for it: 1969 of MariaDB, 3024 of MySQL.
SLOW = frozenset({1969, 3024})
RETRY_AFTER = "10"


def _code(error: BaseException | None, codes: frozenset[int]) -> BaseException | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, Error) and error.args and error.args[0] in codes:
            return error
        error = error.__cause__ or error.__context__
    return None


def database_away(error: BaseException | None) -> bool:
    """Say whether an exception, or one that it came from, means that the database is away."""
    found = _code(error, CODES)
    # 1290 names other options than read_only as well.
    return found is not None and (found.args[0] != 1290 or "read" in str(found.args[-1]))


def database_slow(error: BaseException | None) -> bool:
    """Say whether an exception, or one that it came from, means that a statement took too long."""
    return _code(error, SLOW) is not None


def answer(slow: bool = False) -> HttpResponse:
    response = HttpResponse(
        "The database did not answer in time.\n"
        if slow
        else "The database takes no requests at the moment. Please try again in a few seconds.\n",
        status=503,
        content_type="text/plain; charset=utf-8",
    )
    response["Retry-After"] = RETRY_AFTER
    response["Cache-Control"] = "no-store"
    return response


def _remember(request: HttpRequest | None = None, **_: Any) -> None:
    error = sys.exc_info()[1]
    if request is not None and database_slow(error):
        request.webstack_answer = answer(slow=True)  # type: ignore[attr-defined]
    elif request is not None and database_away(error):
        request.webstack_answer = answer()  # type: ignore[attr-defined]


# Django turns an exception into a response below every middleware; only this signal still knows it.
got_request_exception.connect(_remember, dispatch_uid="webstack_django")


class DatabaseUnavailable:
    """The outermost middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        instead: HttpResponse | None = getattr(request, "webstack_answer", None)
        return instead if response.status_code == 500 and instead is not None else response


class SessionMiddleware(DjangoSessionMiddleware):
    """Django's own, except that a session which could not be written is no bad request of the visitor."""

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        try:
            return super().process_response(request, response)
        except Exception as error:
            if database_slow(error) or database_away(error):
                _log(request=request)
                return answer(database_slow(error))
            raise


# --- what the journal gets -----------------------------------------------------------------------------


def log_failures() -> None:
    """From now on a request that fails leaves its traceback, request id and release in the journal."""
    got_request_exception.connect(_log, dispatch_uid="webstack_django.log")


def _writes(handler: logging.Handler, record: logging.LogRecord) -> bool:
    """Say whether a handler of the application keeps a failure; mail to the administrators is no log."""
    if isinstance(handler, (logging.NullHandler, AdminEmailHandler)) or handler.level > record.levelno:
        return False
    try:
        return bool(handler.filter(record))
    except Exception:
        return True  # a filter of the application, which wants another record than this one


def logs_itself() -> bool:
    """Say whether the application's own logging keeps what Django reports of a failed request."""
    logger: logging.Logger | None = logging.getLogger("django.request")
    if logger is None or not logger.isEnabledFor(logging.ERROR):
        return False
    record = logging.LogRecord("django.request", logging.ERROR, __file__, 0, "", (), None)
    while logger is not None:
        if any(_writes(handler, record) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _log(request: HttpRequest | None = None, **_: Any) -> None:
    error = sys.exc_info()[1]
    if error is None or logs_itself():
        return
    given = request.headers.get("X-Request-ID", "") if request is not None else ""
    identity = given if re.fullmatch(r"[A-Za-z0-9-]{1,64}", given) else "none"
    what = f"{request.method} {request.path!r}" if request is not None else "a request"
    release = os.environ.get("WEBSTACK_RELEASE", "none")
    lines = [f"request {identity} of release {release}: {what} failed: {type(error).__name__}"]
    if database_away(error):  # one line: every request of an outage has the same to say
        lines[0] += f": {_code(error, CODES)}"
    else:
        lines += "".join(traceback.format_exception(error)).splitlines()
    # Each is an entry of its own in the journal, so each says whose it is.
    sys.stderr.write("\n".join([lines[0], *(f"request {identity}: {line}" for line in lines[1:])]) + "\n")
    sys.stderr.flush()

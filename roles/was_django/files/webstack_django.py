"""A database that is away is no fault of the application: answer 503 with Retry-After instead of 500."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core.signals import got_request_exception
from django.db import Error
from django.http import HttpRequest, HttpResponse

# What clients and servers of the MySQL family say when nobody answers, or nobody who may write:
# 0 connection already closed, 1040 too many connections, 1053 shutdown, 1290 and 1836 read-only,
# 1927 connection killed, 2002/2003 cannot connect, 2006/2013/2055 connection lost.
CODES = frozenset({0, 1040, 1053, 1290, 1836, 1927, 2002, 2003, 2006, 2013, 2055})
RETRY_AFTER = "10"


def database_away(error: BaseException | None) -> bool:
    """Say whether an exception, or one that it came from, means that the database is away."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, Error) and error.args and error.args[0] in CODES:
            # 1290 names other options than read_only as well.
            return error.args[0] != 1290 or "read" in str(error.args[-1])
        error = error.__cause__ or error.__context__
    return False


def answer() -> HttpResponse:
    response = HttpResponse(
        "The database takes no requests at the moment. Please try again in a few seconds.\n",
        status=503,
        content_type="text/plain; charset=utf-8",
    )
    response["Retry-After"] = RETRY_AFTER
    response["Cache-Control"] = "no-store"
    return response


def _remember(request: HttpRequest | None = None, **_: Any) -> None:
    if request is not None and database_away(sys.exc_info()[1]):
        request.webstack_database_away = True  # type: ignore[attr-defined]


# Django turns an exception into a response below every middleware; only this signal still knows it.
got_request_exception.connect(_remember, dispatch_uid="webstack_django")


class DatabaseUnavailable:
    """The outermost middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.status_code == 500 and getattr(request, "webstack_database_away", False):
            return answer()
        return response


class SessionMiddleware(DjangoSessionMiddleware):
    """Django's own, except that a session which could not be written is no bad request of the visitor."""

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        try:
            return super().process_response(request, response)
        except Exception as error:
            if database_away(error):
                return answer()
            raise

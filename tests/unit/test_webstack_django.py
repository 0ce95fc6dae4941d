"""The middleware that the application servers add: a database that is away is a 503, whoever asked it."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import types
from typing import Any

import django
import pytest
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.db import InterfaceError, OperationalError, ProgrammingError
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

FILE = pathlib.Path(__file__).parents[2] / "roles/was_django/files/webstack_django.py"

if not settings.configured:
    settings.configure(USE_TZ=True)
    django.setup()

spec = importlib.util.spec_from_file_location("webstack_django", FILE)
assert spec is not None
assert spec.loader is not None
webstack_django = importlib.util.module_from_spec(spec)
sys.modules["webstack_django"] = webstack_django
spec.loader.exec_module(webstack_django)

GONE = OperationalError(2002, "Can't connect to server")


def fails(error: Exception) -> Any:
    def view(_request: HttpRequest) -> HttpResponse:
        raise error

    return view


def chained(_request: HttpRequest) -> HttpResponse:
    try:
        raise GONE
    except OperationalError as error:
        raise RuntimeError("could not load the basket") from error


def unsaved(request: HttpRequest) -> HttpResponse:
    request.session["seen"] = True
    return HttpResponse("ok")


urls = types.ModuleType("webstack_django_urls")
urls.urlpatterns = [  # type: ignore[attr-defined]
    path("gone", fails(GONE)),
    path("closed", fails(InterfaceError(0, ""))),
    path("read-only", fails(OperationalError(1290, "The server is running with the --read-only option"))),
    path("other-option", fails(OperationalError(1290, "The server is running with the --secure-file-priv option"))),
    path("syntax", fails(ProgrammingError(1064, "You have an error in your SQL syntax"))),
    path("bug", fails(RuntimeError("a bug"))),
    path("chained", chained),
    path("unsaved", unsaved),
    path("fine", lambda _request: HttpResponse("ok")),
]
sys.modules[urls.__name__] = urls


class SessionStore(SessionBase):
    """A session that is there and cannot be written, failing as Django's own do."""

    def load(self) -> dict[str, Any]:
        return {}

    def exists(self, session_key: str) -> bool:
        return True

    def save(self, must_create: bool = False) -> None:
        try:
            raise GONE
        except OperationalError:
            raise UpdateError  # noqa: B904 - so does django.contrib.sessions.backends.db


store = types.ModuleType("webstack_django_store")
store.SessionStore = SessionStore  # type: ignore[attr-defined]
sys.modules[store.__name__] = store


@pytest.fixture
def client() -> Any:
    with override_settings(
        ROOT_URLCONF=urls.__name__,
        ALLOWED_HOSTS=["*"],
        SESSION_ENGINE=store.__name__,
        MIDDLEWARE=["webstack_django.DatabaseUnavailable", "webstack_django.SessionMiddleware"],
    ):
        visitor = Client(raise_request_exception=False)
        visitor.cookies["sessionid"] = "x" * 32
        yield visitor


@pytest.mark.parametrize("name", ["gone", "closed", "read-only", "chained", "unsaved"])
def test_a_database_that_is_away(client: Client, name: str) -> None:
    answer = client.get(f"/{name}")
    assert (answer.status_code, answer["Retry-After"], answer["Cache-Control"]) == (503, "10", "no-store")


@pytest.mark.parametrize("name", ["syntax", "bug", "other-option"])
def test_other_failures_stay_what_they_are(client: Client, name: str) -> None:
    assert client.get(f"/{name}").status_code == 500


def test_everything_else_passes(client: Client) -> None:
    assert client.get("/fine").content == b"ok"

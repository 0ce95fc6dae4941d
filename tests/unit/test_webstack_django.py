"""What the application servers add: a 503 for a database that is away, a traceback in the journal."""

from __future__ import annotations

import logging
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.db import InterfaceError, OperationalError, ProgrammingError
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils.log import AdminEmailHandler, RequireDebugTrue
from host_programs import load

if not settings.configured:
    settings.configure(USE_TZ=True)
    django.setup()

webstack_django = load("was_django/files/webstack_django.py")

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
    path("slow", fails(OperationalError(1969, "Query execution was interrupted (max_statement_time exceeded)"))),
    path("slow-mysql", fails(OperationalError(3024, "maximum statement execution time exceeded"))),
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


@pytest.mark.parametrize("name", ["slow", "slow-mysql"])
def test_a_statement_that_took_too_long(client: Client, name: str) -> None:
    answer = client.get(f"/{name}")
    assert (answer.status_code, answer["Retry-After"]) == (503, "10")
    assert b"did not answer in time" in answer.content


# --- what the journal gets ----------------------------------------------------------------------------

ID = "0123456789abcdef"


@pytest.fixture
def logged(client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What a failing request leaves on the error output when Django's logger has these handlers."""
    logger = logging.getLogger("django.request")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setenv("WEBSTACK_RELEASE", "release-1")
    webstack_django.log_failures()
    yield lambda name, *handlers, **headers: (
        monkeypatch.setattr(logger, "handlers", list(handlers) or [logging.NullHandler()]),
        client.get(f"/{name}", headers={"X-Request-ID": ID, **headers}),
    )
    webstack_django.got_request_exception.disconnect(dispatch_uid="webstack_django.log")


def debug_only() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.addFilter(RequireDebugTrue())
    return handler


def critical_only() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setLevel(logging.CRITICAL)
    return handler


@pytest.mark.parametrize(
    "handlers",
    [[AdminEmailHandler()], [logging.NullHandler()], [debug_only()], [critical_only()]],
    ids=["mail", "null", "debug", "critical"],
)
def test_a_failure_leaves_its_traceback_with_id_and_release(
    logged: Any, capsys: pytest.CaptureFixture[str], handlers: list[logging.Handler]
) -> None:
    logged("bug", *handlers)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"request {ID} of release release-1: GET '/bug' failed: RuntimeError"
    assert lines[1] == f"request {ID}: Traceback (most recent call last):"
    assert lines[-1] == f"request {ID}: RuntimeError: a bug"
    assert all(line.startswith(f"request {ID}") for line in lines)


def test_an_application_that_logs_itself_is_left_alone(
    logged: Any, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    logged("bug", logging.FileHandler(tmp_path / "log"))
    assert capsys.readouterr().err == ""
    assert "RuntimeError: a bug" in (tmp_path / "log").read_text()


def test_the_handlers_of_the_root_count(
    logged: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(logging.getLogger("django.request"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("django"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("django"), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.FileHandler(tmp_path / "log")])
    logged("bug")
    assert capsys.readouterr().err == ""


def test_a_logger_that_was_switched_off_logs_nothing_itself(
    logged: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """LOGGING without disable_existing_loggers: False does this to Django's loggers."""
    monkeypatch.setattr(logging.getLogger("django.request"), "disabled", True)
    logged("bug", logging.FileHandler(tmp_path / "log"))
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_an_outage_of_the_database_leaves_one_line_a_request(logged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logged("gone")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"request {ID} of release release-1: GET '/gone' failed: OperationalError: (2002,")
    logged("unsaved")
    (line,) = capsys.readouterr().err.splitlines()
    assert "failed: SessionInterrupted: (2002," in line


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "x of release y"])
def test_an_id_that_is_none_is_not_repeated(logged: Any, capsys: pytest.CaptureFixture[str], given: str) -> None:
    logged("bug", **{"X-Request-ID": given})
    assert capsys.readouterr().err.startswith("request none of release")

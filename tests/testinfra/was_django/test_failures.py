"""Requests that fail or take too long, and commands that may take longer."""

from __future__ import annotations

import re
import time
import uuid

import pytest
from test_was_django import ONE, SERVERS, Answer, get, on, status, visit

# was_django_database_read_timeout_seconds of the scenario.
LIMIT = 4


def asked_as(path: str) -> tuple[Answer, str]:
    """Ask with a request id, as the balancers do; return the answer, and the journal's lines with that id."""
    identity = uuid.uuid4().hex
    answer = visit({"server": ONE, "path": path, "headers": {"X-Request-ID": identity}})[0]
    deadline = time.monotonic() + 5
    lines = ""
    while not lines and time.monotonic() < deadline:
        time.sleep(0.3)
        lines = on("django-was1", "sh", "-c", f"journalctl --no-pager --output=cat -t board | grep {identity} || true")
    return answer, lines


def statements() -> str:
    return on("django-db1", "mariadb", "-N", "-e", "SHOW FULL PROCESSLIST")


# --- limits -----------------------------------------------------------------------------------------


def test_a_statement_of_a_request_ends_on_the_server_too() -> None:
    answer, lines = asked_as(f"/lab/slow?seconds={LIMIT + 6}")
    assert (answer["status"], answer["headers"]["retry-after"]) == (503, "10")
    assert "did not answer in time" in answer["body"]
    assert LIMIT * 0.8 < answer["seconds"] < LIMIT + 2
    assert "lab-slow" not in statements(), "it runs on"
    assert "1969" in lines
    assert get(ONE, "/lab/slow?seconds=0.1")["body"] == "slept", "the connection is still good"


SLEEP = (
    "from django.db import connection; cursor = connection.cursor(); "
    f"cursor.execute('SELECT SLEEP({LIMIT + 1}), @@max_statement_time'); print(cursor.fetchone())"
)


def test_a_command_is_not_bound_by_the_limits_of_requests() -> None:
    assert "(0, 3240.0)" in on("django-was1", "board-manage", "shell", "-v0", "-c", SLEEP)


def test_a_migration_has_no_limit() -> None:
    show = (
        "import sys; sys.argv[1:] = ['migrate']; import django; django.setup(); "
        "from django.conf import settings; print(sorted(settings.DATABASES['default']['OPTIONS'])); "
        "from django.db import connection; cursor = connection.cursor(); "
        "cursor.execute('SELECT @@max_statement_time'); print(cursor.fetchone()[0])"
    )
    script = f'base=/srv/webstack/board; set -a; . $base/current/environment; cd $base/current/src; {ENTRY} "$1"'
    seen = on("django-was1", "runuser", "-u", "www-data", "--", "sh", "-c", script, "sh", show)
    assert seen.splitlines() == ["['charset', 'connect_timeout', 'ssl', 'ssl_mode']", "0.0"]


ENTRY = (
    "export DJANGO_SETTINGS_MODULE=webstack_settings WEBSTACK_RELEASE_PATH=$base/current "
    "PYTHONPATH=$base/current/src:$base/current/python:/opt/webstack/python; $base/current/venv/bin/python -c"
)


# --- what the journal says --------------------------------------------------------------------------


def test_a_failure_leaves_its_traceback_with_request_and_release() -> None:
    mark = uuid.uuid4().hex
    answer, lines = asked_as(f"/lab/fail?mark={mark}")
    assert answer["status"] == 500
    assert mark not in answer["body"]
    assert f"of release {status('django-was1')['current']}: GET '/lab/fail' failed: ValueError" in lines
    assert "Traceback (most recent call last)" in lines
    assert f"ValueError: a failure of the lab {mark}" in lines
    assert "lab_urls.py" in lines


def test_an_identity_from_elsewhere_writes_nothing_else_into_the_journal() -> None:
    visit({"server": ONE, "path": "/lab/fail", "headers": {"X-Request-ID": "x of release y: forged"}})
    time.sleep(1)
    assert "forged" not in on("django-was1", "journalctl", "--no-pager", "--output=cat", "-t", "board")


def test_what_the_application_prints_is_in_the_journal() -> None:
    mark = uuid.uuid4().hex
    assert get(ONE, f"/lab/say?mark={mark}")["body"] == "said"
    time.sleep(1)
    assert f"printed by the lab {mark}" in on("django-was1", "journalctl", "--no-pager", "-t", "board")


@pytest.mark.parametrize("name", SERVERS)
def test_good_requests_leave_no_traceback(name: str) -> None:
    before = on(name, "sh", "-c", "journalctl -t board | grep -c Traceback || true")
    assert get(SERVERS[name], "/whoami")["status"] == 200
    assert get(SERVERS[name], "/nowhere")["status"] == 404
    assert on(name, "sh", "-c", "journalctl -t board | grep -c Traceback || true") == before


# --- names ------------------------------------------------------------------------------------------


def test_what_settings_modules_read_is_in_the_environment() -> None:
    text = on("django-was1", "cat", "/srv/webstack/board/current/environment")
    for name in ("SECRET_KEY", "DEBUG", "ALLOWED_HOSTS"):
        assert set(re.findall(rf"^((?:DJANGO_)?{name})=", text, re.M)) == {name, f"DJANGO_{name}"}

"""A second project on a host, as differently made as the README says it may be: what each input promises, tried."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from test_was_django import HERE, SERVERS, ansible, on

NAME = "django-was2"
SERVER = SERVERS[NAME]
INPUTS: dict[str, Any] = {
    "was_django_name": "shelf",
    "was_django_source": {"path": str(HERE / "shelf"), "subdirectory": "project"},
    "was_django_requirement_files": ["requirements/base.txt", "requirements/production.txt"],
    "was_django_extra_packages": ["python-decouple"],
    "was_django_pip_arguments": ["--no-compile"],
    "was_django_settings_module": "shelf.production",
    "was_django_wsgi_application": "shelf.entry:serve",
    "was_django_manage_command": "bin/tool.py",
    "was_django_working_directory": "data",
    "was_django_allowed_hosts": ["*.example.test"],
    "was_django_secret_key_fallbacks": ["the-former-key-0123456789-abcdefghijklmnopqrstuvwxyz"],
    "was_django_secure_cookies": False,
    "was_django_session_engine": "django.contrib.sessions.backends.signed_cookies",
    "was_django_unavailable_answer_enabled": False,
    "was_django_settings_extra": "",
    "was_django_caches": {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}},
    "was_django_database_engine": "sqlite",
    "was_django_static_enabled": False,
    "was_django_static_storage": "",
    "was_django_media_url": "",
    "was_django_media_root": "/srv/webstack/shelf-media",
    "was_django_after_migrate_commands": [["clearsessions"]],
    "was_django_port": 8001,
    "was_django_processes": 1,
    "was_django_threads": 2,
    "was_django_health_path": "/up",
    "was_django_access_log_files": 2,
    "was_django_apache_extra": "Header always set X-Extra yes",
}


def deploy(**changes: Any) -> tuple[int, str]:
    scenario = HERE.parents[2] / "molecule/was_django"
    inputs = json.dumps(INPUTS | changes)
    files = (str(scenario / "inventory.yml"), str(scenario / "converge.yml"))
    return ansible("-i", *files, f"--limit={NAME}", "--extra-vars", inputs)


@pytest.fixture(scope="module")
def shelf() -> Iterator[None]:
    # Apache listens to a second application only after a restart.
    on(NAME, "systemctl", "stop", "apache2")
    code, text = deploy()
    assert code == 0, text
    yield
    on(NAME, "sh", "-c", "rm /etc/apache2/sites-*/shelf.conf; systemctl restart apache2")


def ask(path: str, *options: str) -> str:
    return on(
        "django-client", "curl", "-sS", "-i", "-H", "Host: a.example.test", *options, f"http://{SERVER}:8001{path}"
    )


@pytest.mark.usefixtures("shelf")
def test_the_project_finds_what_the_inputs_promise() -> None:
    head, _, body = ask("/facts").partition("\n\n")
    assert json.loads(body) == {
        "hello": "from the working directory\n",
        "derived": True,
        "features": {"debug": False, "hosts": [".example.test"]},
        "former key": "x",
        "extra package": "decouple",
        "host": "a.example.test",
    }
    assert "X-Shelf: own entry" in head
    assert "X-Extra: yes" in head
    cookie = next(line for line in head.splitlines() if line.lower().startswith("set-cookie: sessionid="))
    assert "Secure" not in cookie
    assert len(cookie) > 60, "the session itself, signed"


@pytest.mark.usefixtures("shelf")
def test_the_health_path_static_and_media_are_what_was_said() -> None:
    assert ask("/up").startswith("HTTP/1.1 200")
    for path in ("/-/health", "/static/x.css", "/media/x.png"):
        assert ask(path).startswith("HTTP/1.1 404")
    processes = on(NAME, "pgrep", "-c", "-f", "^[(]wsgi:shelf[)]")
    assert processes.strip() == "1"
    assert "rotatelogs -n 2 /var/log/apache2/shelf-access.log" in on(NAME, "ps", "-eo", "args")


@pytest.mark.usefixtures("shelf")
def test_a_view_that_raises_leaves_no_row_and_a_traceback() -> None:
    """ATOMIC_REQUESTS of the application's own settings."""
    assert ask("/write", "-H", "X-Request-ID: shelf-lab-1").startswith("HTTP/1.1 500")
    assert '{"rows": 0}' in ask("/rows")
    journal = on(NAME, "sh", "-c", "sleep 1; journalctl --no-pager --output=cat -t shelf | grep shelf-lab-1")
    assert "after the row was written" in journal


@pytest.mark.usefixtures("shelf")
def test_a_module_with_debug_on_never_goes_live() -> None:
    before = on(NAME, "webstack", "app", "shelf", "status")
    code, text = deploy(was_django_settings_module="shelf.development")
    assert code != 0
    assert "shelf.development: DEBUG is True" in text
    after = on(NAME, "webstack", "app", "shelf", "status")
    assert json.loads(after)["running"] == json.loads(before)["running"]
    assert ask("/up").startswith("HTTP/1.1 200")

"""A release of an application is whole, is asked for its pages before it is used, and is deployed by one at a time."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import sys
import time
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.app import beside as beside_module
from ansible_collections.webstack.ha.plugins.module_utils.webstack.app import history, turn
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import BUSY, Busy, Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done, run
from host_programs import Tier

app = Tier("app")


@pytest.fixture
def site(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An application that runs as whoever runs this test, and whose Apache does what it is told."""
    monkeypatch.setattr(app, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(app, "STATE", tmp_path / "state")
    monkeypatch.setattr(lock, "FOLDER", tmp_path / "run")
    monkeypatch.setattr(shutil, "chown", lambda *_arguments: None)
    for name in ("chown", "fchown"):
        monkeypatch.setattr(os, name, lambda *_arguments, **_options: None)
    (tmp_path / "etc/shop/python").mkdir(parents=True)
    (tmp_path / "etc/shop/environment").write_text("shared by old releases")
    settings = {
        "address": "127.0.0.1", "port": 8000, "listen": ["127.0.0.1"], "user": "www-data", "group": "www-data",
        "python_path": [], "health_path": "/old", "health_host": "old.example", "health_timeout": 20, "keep": 2,
        "apache_files": [], "watch": [],
    }  # fmt: skip
    (tmp_path / "etc/shop/release.json").write_text(json.dumps(settings))
    found = app.Application("shop")
    found.base = tmp_path / "shop"
    found.link = found.base / "current"
    monkeypatch.setattr(found, "processes", lambda: [])
    monkeypatch.setattr(found, "bring", lambda _identity: [])
    monkeypatch.setattr(found, "ask", lambda: (200, found.current() or "", 1, "ok"))
    return found


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs this is no root, who may run as somebody else."""

    def without_account(*command: str, account: tuple[str, str], **more: Any) -> Done:
        assert account == ("www-data", "www-data")
        return run(*command, **more)

    monkeypatch.setattr(beside_module, "run", without_account)


def build(site: Any, identity: str, checks: list[dict[str, Any]] | None = None, entry: str = "") -> None:
    site.begin(identity)
    release = site.release(identity)
    (release / "environment").write_text(f"of {identity}")
    (release / "checks.json").write_text(
        json.dumps({"health_host": "www.example.com", "health_path": "/up", "smoke_checks": checks or []})
    )
    (release / "python").mkdir()
    (release / "python/webstack_entry.py").write_text(entry or ENTRY)
    (release / "venv/bin").mkdir(parents=True)
    (release / "venv/bin/python").symlink_to(sys.executable)
    site.finish(identity)


#: Answers as the application would; what it got is in the body.
ENTRY = """
import json
_application = True
def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raises":
        raise KeyError("basket")
    status = {"/": "200 OK", "/bad": "500 Internal Server Error", "/away": "302 Found"}.get(path, "404 Not Found")
    start_response(status, [])
    return [json.dumps({name: environ[name] for name in sorted(environ) if isinstance(environ[name], str)}).encode()]
"""


# --- whole ------------------------------------------------------------------------------------------


def test_a_release_brings_its_own_settings_and_an_older_one_has_the_shared(site: Any) -> None:
    site.begin("old")
    site.finish("old")
    build(site, "new")
    assert site.python("old") == app.CONFIGURATION / "shop/python"
    assert site.python("new") == site.release("new") / "python"
    site.point("old")
    assert (site.of_release("health_path"), site.of_release("smoke_checks")) == ("/old", [])
    site.point("new")
    assert (site.of_release("health_path"), site.of_release("health_host")) == ("/up", "www.example.com")
    assert site.of_release("health_path", "old") == "/old"


def test_shared_settings_go_with_the_last_release_that_has_none_of_its_own(site: Any) -> None:
    shared = app.CONFIGURATION / "shop"
    site.begin("old")
    site.finish("old")
    for identity in ("a", "b"):
        build(site, identity)
        site.activate(identity)
        if identity == "a":
            assert (shared / "environment").exists(), "the old one can still be put back"
    assert site.finished() == ["b", "a"]
    assert not (shared / "environment").exists()
    assert not (shared / "python").exists()
    assert (shared / "release.json").exists()


def test_a_failed_build_is_removed_and_what_runs_is_left_alone(site: Any) -> None:
    build(site, "good")
    site.activate("good")
    before = {path: path.stat().st_mtime_ns for path in site.release("good").rglob("*")}
    site.begin("half")
    (site.release("half") / "venv").mkdir()
    assert site.discard("half") == ["removed the build of half"]
    assert site.discard("half") == []
    site.begin("migrated")
    (site.release("migrated") / ".migrated-1").touch()
    site.discard("migrated")
    assert [path.name for path in site.release("migrated").iterdir()] == [".migrated-1"], "it is not migrated again"
    with pytest.raises(Problem, match="good is complete already"):
        site.discard("good")
    assert {path: path.stat().st_mtime_ns for path in site.release("good").rglob("*")} == before


def test_a_refused_release_takes_no_place_of_a_good_one(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for identity in ("a", "b"):
        build(site, identity)
        site.activate(identity)
    for number in range(3):
        build(site, f"bad{number}")
    monkeypatch.setattr(site, "bring", fails_for("bad0"))
    with pytest.raises(Problem, match="bad0 is silent; b is back"):
        site.activate("bad0")
    assert site.current() == "b"
    assert site.finished()[:2] == ["b", "a"], "what ran comes first"
    build(site, "c")
    site.activate("c")
    assert site.finished() == ["c", "b"], "two are kept, and all of those that never ran are gone"


def fails_for(bad: str) -> Any:
    def bring(identity: str) -> list[str]:
        if identity == bad:
            raise Problem(f"{identity} is silent")
        return []

    return bring


# --- pages ------------------------------------------------------------------------------------------


def test_a_release_is_asked_as_by_a_balancer(site: Any) -> None:
    expected = '"HTTP_HOST": "www.example.com"', '"HTTP_X_FORWARDED_PROTO": "https"', '"QUERY_STRING": "q=1&r=%20"'
    checks: list[dict[str, Any]] = [{"path": "/?q=1&r=%20", "status": 200, "text": text} for text in expected]
    checks += [{"path": "/away", "status": 302}, {"path": "/none"}, {"path": "/", "host": "b.example", "text": "b.ex"}]
    build(site, "a", [*checks, {"path": "/", "status": None, "text": None}])
    assert site.activate("a") == ["switched from None to a"]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"path": "/bad"}, "/bad answered 500, expected less than 500"),
        ({"path": "/away", "status": 200}, "/away answered 302, expected 200"),
        ({"path": "/", "text": "Basket"}, "/ answered 200 without the text 'Basket'"),
        ({"path": "/raises"}, "/raises answered 500, expected less than 500 (it said: KeyError: 'basket')"),
    ],
)
def test_a_bad_page_ends_the_deploy_before_anything_is_switched(site: Any, check: dict[str, Any], said: str) -> None:
    build(site, "a")
    site.activate("a")
    build(site, "b", [{"path": "/"}, check])
    brought: list[str] = []
    site.bring = brought.append
    with pytest.raises(Problem, match=re.escape(f"release b: was_django_smoke_checks: https://www.example.com{said}")):
        site.activate("b")
    assert (site.current(), brought) == ("a", [])
    site.bring = lambda _identity: []
    site.activate("b", ask=False)
    assert site.current() == "b", "an operator who knows better"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("raise RuntimeError('no such setting')", "does not load: RuntimeError: no such setting"),
        ("_application = None", "does not load: exit code 1"),
        ("import os; os._exit(0)", "ends before it has answered all of was_django_smoke_checks"),
    ],
)
def test_a_release_that_does_not_load_is_refused(site: Any, entry: str, said: str) -> None:
    build(site, "a", [{"path": "/"}], entry)
    with pytest.raises(Problem, match=re.escape(said)):
        site.activate("a")
    assert site.current() is None


def test_a_page_that_never_answers_is_refused_in_time(site: Any) -> None:
    site.settings["health_timeout"] = 0
    build(site, "a", [{"path": "/", "seconds": 1}], "import time\ntime.sleep(60)\n")
    with pytest.raises(Problem, match="release a does not answer within 1 s"):
        site.activate("a")


def test_a_site_that_answers_nothing_now_has_nothing_to_protect(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build(site, "a")
    site.point("a")
    build(site, "b", [{"path": "/bad"}])
    monkeypatch.setattr(site, "ask", lambda: (0, "", 0, ""))
    site.activate("b")
    assert site.current() == "b"


# --- one at a time ----------------------------------------------------------------------------------


def test_a_second_deploy_is_told_who_has_the_turn(site: Any) -> None:
    assert turn.take("shop", "ada@desk", "1", 60) == ["ada@desk has the turn of shop"]
    with pytest.raises(Busy, match=r"busy: ada@desk deploys shop since 20.*webstack app shop unlock") as refusal:
        turn.take("shop", "bob@desk", "2", 60)
    assert refusal.value.code == BUSY == 75
    assert turn.take("shop", "ada@desk", "1", 60) == [], "one's own is kept"
    assert turn.take("blog", "bob@desk", "2", 60) != [], "another application"
    with pytest.raises(Busy, match="ada@desk"):
        turn.drop("shop", "2")
    assert turn.drop("shop", "1") != []
    assert turn.drop("shop", "1") == []
    turn.take("shop", "bob@desk", "2", 60)
    assert site.name == "shop"


@pytest.mark.parametrize("words", [["begin", "x"], ["activate", "x"], ["finish", "x"], ["discard", "x"]])
def test_nothing_changes_in_somebody_elses_turn(site: Any, words: list[str]) -> None:
    turn.take("shop", "ada@desk", "1", 60)
    for token in ([], ["--token=2"]):
        with pytest.raises(Busy, match="ada@desk deploys shop"):
            app.main(["shop", *words, *token])
    assert not site.base.exists()


def test_the_turn_of_a_holder_who_is_gone_ends(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    turn.take("shop", "ada@desk", "1", 60)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 50)
    assert turn.allow("shop", "1") == "ada@desk", "each step keeps it"
    monkeypatch.setattr(time, "time", lambda: now + 100)
    with pytest.raises(Busy, match="ada@desk"):
        turn.take("shop", "bob@desk", "2", 60)
    monkeypatch.setattr(time, "time", lambda: now + 111)
    assert turn.allow("shop", None) is None
    turn.take("shop", "bob@desk", "2", 60)
    with pytest.raises(Busy, match="said nothing for too long, and now bob@desk deploys shop"):
        turn.allow("shop", "1")
    turn.drop("shop", None)
    with pytest.raises(Busy, match="somebody ended the turn of this deploy"):
        turn.allow("shop", "2")
    assert site.name == "shop"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"holder": "ada"}'])
def test_a_lock_that_cannot_be_understood_is_not_taken_for_none(site: Any, text: str) -> None:
    path = turn.STATE / "shop/turn.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(Problem, match=r"turn\.json cannot be understood: `webstack app shop unlock` removes it"):
        turn.take("shop", "bob@desk", "2", 60)
    assert turn.drop("shop", None) == ["ended the turn of shop"]
    assert not path.exists()
    assert site.name == "shop"


# --- what is known ----------------------------------------------------------------------------------


def test_releases_say_when_by_whom_and_whether_they_are_well(site: Any) -> None:
    for number, identity in enumerate(("a", "b", "bad")):
        build(site, identity)
        history.describe(site, identity, f"v{number}", "ada@desk")
        site.bring = fails_for("bad")
        if identity == "bad":
            with pytest.raises(Problem):
                site.activate(identity, "bob@desk")
        else:
            site.activate(identity, "bob@desk")
    found = history.releases(site)
    assert [(one["release"], one["version"], one["by"], one["state"], one["healthy"]) for one in found] == [
        ("b", "v1", "bob@desk", "current", True),
        ("a", "v0", "bob@desk", "kept", None),
        ("bad", "v2", "bob@desk", "refused", None),
    ]
    assert found[2]["why"] == "bad is silent; b is back"
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["when"]) for one in found)
    assert [event["is"] for event in history.events(site)] == ["good", "good", "bad is silent; b is back"]


def test_the_audit_log_does_not_grow_for_ever(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LINES", 3)
    for number in range(5):
        history.note(site, "ada", "activate", f"r{number}", "good")
    assert [event["release"] for event in history.events(site)] == ["r2", "r3", "r4"]
    assert (turn.STATE / "shop/history.jsonl").stat().st_mode & 0o777 == 0o600

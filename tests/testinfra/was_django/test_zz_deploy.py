"""A deploy as a whole: what a bad one leaves as it was, who is told that another one runs, and the playbooks."""

from __future__ import annotations

import json
import pathlib
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from test_was_django import ONE, SCENARIO, SERVERS, TWO, Loop, ansible, copied, get, on, play, processes, status, visit

BASE = "/srv/webstack/board"


def playbook(name: str, **variables: Any) -> tuple[int, str]:
    inventory = str(SCENARIO / "inventory.yml")
    # Beside the scenario's own playbook, since its source is a relative path.
    here: dict[str, Any] = {"was_django_source": {"path": str(SCENARIO / "../../examples/demo_site")}}
    here["was_django_pki_directory"] = str(SCENARIO.parents[1] / ".cache/pki/was_django")
    here["ansible_become"] = False  # the lab's login is root, and its hosts have no sudo
    return ansible("-i", inventory, f"webstack.ha.{name}", "--extra-vars", json.dumps(here | variables))


def sums(name: str) -> str:
    """What the release that serves is made of."""
    return on(name, "sh", "-c", f"cd {BASE}/current/ && find . -type f -not -path './.*' -exec sha256sum {{}} + | sort")


def releases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(on(name, "webstack", "app", "board", "releases", "--json"))["releases"]
    return found


@pytest.fixture
def untouched() -> Iterator[None]:
    """What serves before a test is, to the byte, what serves after it, and its next restart works."""
    before = {name: (status(name)["current"], sums(name), processes(name)) for name in SERVERS}
    yield
    assert {name: (status(name)["current"], sums(name), processes(name)) for name in SERVERS} == before
    assert all(status(name)["turn"] == "" for name in SERVERS), "the turn is over"
    on("django-was1", "touch", "/etc/webstack/board/webstack_start.py")
    assert on("django-was1", "webstack", "app", "board", "activate").startswith("replaced 2 processes")
    assert get(ONE)["status"] == 200


@pytest.mark.usefixtures("untouched")
def test_a_bad_value_reaches_no_release_but_its_own() -> None:
    """Both servers were broken by this, and the old release too."""
    names = {name: on(name, "ls", f"{BASE}/releases") for name in SERVERS}
    with Loop() as loop:
        code, text = play(was_django_database_password="of another database")
    assert code != 0
    assert "was not built" in text, text
    assert "Access denied" in text
    assert {name: on(name, "ls", f"{BASE}/releases") for name in SERVERS} == names, "nothing is left of it"
    assert sum(result["failed"] for result in loop.results) == 0, loop.results


@pytest.mark.usefixtures("untouched")
def test_a_build_that_fails_is_removed_everywhere() -> None:
    names = {name: on(name, "ls", f"{BASE}/releases") for name in SERVERS}
    code, text = play(was_django_extra_packages=["./no-such-package"])
    assert code != 0
    assert "Install what the application requires" in text
    assert {name: on(name, "ls", f"{BASE}/releases") for name in SERVERS} == names


@pytest.mark.usefixtures("untouched")
def test_without_a_way_back_nothing_is_migrated() -> None:
    """One host has no database of ours, the other one does not exist."""
    names = {name: on(name, "ls", f"{BASE}/releases") for name in SERVERS}
    other = {"was_django_environment": {"BOARD_PLAIN": uuid.uuid4().hex}}
    code, text = play(was_django_mark_hosts=["django-was2", "django-nobody"], **other)
    assert code != 0
    assert "no database host marked the moment before the migration, so nothing was migrated" in text, text
    assert re.search(r"django-was2: webstack db mark: /etc/webstack/db.json is missing: .*; django-nobody: \w", text), (
        text
    )
    assert {name: on(name, "ls", f"{BASE}/releases") for name in SERVERS} == names


@pytest.mark.usefixtures("untouched")
def test_a_page_that_fails_ends_the_deploy_before_its_first_request(tmp_path: pathlib.Path) -> None:
    """It imports, and its health address answers."""
    source = copied(tmp_path / "site")
    with (source / "board/views.py").open("a") as file:
        file.write("\n\ndef home(request):\n    raise KeyError('basket')\n")
    with Loop() as loop:
        code, text = play(was_django_source={"path": str(source)})
    assert code != 0
    assert "django-was1 refused the release" in text, text
    said = "was_django_smoke_checks: https://www.example.test/ answered 500, expected less than 500"
    assert said in text
    assert "KeyError: 'basket'" in text
    assert "no host after this one was switched" in text
    assert sum(result["failed"] for result in loop.results) == 0, loop.results
    first = releases("django-was1")
    assert (first[0]["state"], first[0]["healthy"], first[-1]["state"]) == ("current", True, "refused")
    assert "basket" in first[-1]["why"]
    assert [one["state"] for one in releases("django-was2")][-1] == "built"


@pytest.mark.usefixtures("untouched")
def test_a_second_deploy_is_told_who_is_under_way() -> None:
    for name in SERVERS:
        on(name, "webstack", "app", "board", "lock", "ada@desk", "another", "--seconds", "600")
    try:
        code, text = play(was_django_environment={"BOARD_PLAIN": "another"})
        assert code != 0
        assert "another deploy is under way" in text, text
        assert "ada@desk deploys board since" in text
        again = on("django-was1", "sh", "-c", "webstack app board activate; echo code $?", good=False)
        assert "ada@desk deploys board since" in again
        assert "code 75" in again
        assert status("django-was1")["turn"].startswith("ada@desk deploys board since"), "nobody else ended it"
    finally:
        for name in SERVERS:
            on(name, "webstack", "app", "board", "unlock")


def test_the_playbooks_deploy_show_and_put_back() -> None:
    old = status("django-was1")["current"]
    new = {"was_django_environment": {"BOARD_PLAIN": (mark := uuid.uuid4().hex)}, "was_django_deployer": "ada@desk"}
    code, text = playbook("deploy", dry_run=True, **new)
    assert code == 0, text
    assert "would be built" in text
    assert f"{old} runs" in text
    assert "once these pages answer: /" in text
    assert re.search(r"django-was1 : ok=\d+ changed=0 .*django-was2 : ok=\d+ changed=0 ", text), text
    assert status("django-was1")["releases"].count(old) == 1

    show = ("board-manage", "shell", "-v0", "-c", "import os; print(os.environ['BOARD_PLAIN'])")
    with Loop() as loop:
        code, text = playbook("deploy", **new)
        assert code == 0, text
        assert on("django-was2", *show) == f"{mark}\n"
        code, text = playbook("releases")
        assert code == 0, text
        assert re.search(r"django-was2 \S+ 20\S+Z ada@desk current yes", text.replace("'", "")), text
        code, text = playbook("rollback")
        assert code == 0, text
    assert {status(name)["running"] for name in SERVERS} == {old}
    assert on("django-was2", *show) == "plain\n", "the old release has its own environment"
    assert sum(result["requests"] for result in loop.results) > 100
    assert sum(result["failed"] for result in loop.results) == 0, loop.results

    code, text = playbook("rollback", release="none-such")
    assert code != 0
    assert "release is none-such, which is not here" in text

    code, text = playbook("manage", command="shell -v0 -c \"print('said', 6 * 7)\"", host="django-was2")
    assert code == 0, text
    assert "said 42" in text
    code, text = playbook("manage")
    assert code != 0
    assert "say which command" in text


def test_a_failed_request_is_found_by_the_id_of_its_answer() -> None:
    for server, name in ((ONE, "django-was1"), (TWO, "django-was2")):
        identity = uuid.uuid4().hex
        asked = {"server": server, "path": f"/lab/fail?mark=of-{name}", "headers": {"X-Request-ID": identity}}
        assert visit(asked)[0]["status"] == 500
        # The line reaches the journal a moment later.
        time.sleep(1)
        code, text = playbook("logs", request=identity)
        assert code == 0, text
        assert f"ValueError: a failure of the lab of-{name}" in text, text
        hosts = re.findall(rf"'\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{6}} (\S+) [^']*{identity}", text)
        assert set(hosts) == {name}, text
    code, text = playbook("logs", request="0" * 32)
    assert "no journal of django-was1, django-was2 has a line about the request 000" in text, text


def test_commands_after_a_migration_run_once_for_a_release_and_others_once_for_the_database() -> None:
    """Again neither in a run of a server that was left out before, nor in one that changes nothing."""

    def writes(mark: str) -> list[str]:
        return ["shell", "-v0", "-c", f"open('/var/tmp/webstack-ran', 'a').write('{mark}')  # {uuid.uuid4().hex}"]

    def ran() -> list[str]:
        read = "cat /var/tmp/webstack-ran 2>/dev/null || true"
        return [on(name, "sh", "-c", read, good=False) for name in SERVERS]

    said = {
        "was_django_after_migrate_commands": [writes("x")],
        "was_django_once_per_database_commands": [writes("o")],
        "was_django_keep_releases": 5,  # the old one comes back
    }
    new = said | {"was_django_environment": {"BOARD_PLAIN": uuid.uuid4().hex}}
    old = status("django-was1")["current"]
    try:
        for limit in ("django-was1", "django-was2", "was"):
            code, text = play(f"--limit={limit}", **new)
            assert code == 0, text
        assert ran() == ["ox", ""]
        code, text = play(**said, was_django_environment={"BOARD_PLAIN": uuid.uuid4().hex})
        assert code == 0, text
        assert ran() == ["oxx", ""], "another release has its own"
        # It asks for the same packages as the old one: these are copies, and nothing was installed.
        file = "venv/lib/python3*/site-packages/django/shortcuts.py"
        for name in SERVERS:
            assert status(name)["current"] != old
            written = on(name, "sh", "-c", f"stat -c %Y {BASE}/releases/{old}/{file} {BASE}/current/{file}").split()
            assert len(written) == 2
            assert len(set(written)) == 1, "installed anew"
    finally:
        for name in SERVERS:
            on(name, "rm", "-f", "/var/tmp/webstack-ran")
            on(name, "webstack", "app", "board", "activate", old)


def test_commands_around_a_switch_run_on_every_server_and_a_bad_one_ends_the_deploy() -> None:
    def writes(mark: str) -> list[list[str]]:
        """Also whether this release is the current one at that moment."""
        here = "os.path.realpath('/srv/webstack/board/current') == os.environ['WEBSTACK_RELEASE_PATH']"
        return [
            ["shell", "-v0", "-c", f"import os; open('/var/tmp/webstack-ran', 'a').write(f'{mark}{{int({here})}}')"]
        ]

    bad = [["shell", "-v0", "-c", "raise SystemExit('not today')"]]
    hooks = {
        "was_django_after_collect_commands": writes("c"),
        "was_django_before_switch_commands": writes("b"),
        "was_django_after_switch_commands": writes("a"),
        "was_django_keep_releases": 5,  # the old one comes back
    }

    def deploy(**more: Any) -> tuple[int, str]:
        return play(**hooks | {"was_django_environment": {"BOARD_PLAIN": uuid.uuid4().hex}} | more)

    def ran() -> list[str]:
        read = "cat /var/tmp/webstack-ran 2>/dev/null || true; rm -f /var/tmp/webstack-ran"
        return [on(name, "sh", "-c", read, good=False) for name in SERVERS]

    old = status("django-was1")["current"]
    try:
        with Loop() as loop:
            code, text = deploy()
            assert code == 0, text
            new = status("django-was1")["current"]
            assert ran() == ["c0b0a1", "c0b0a1"]
            code, text = deploy(was_django_after_collect_commands=bad)
            assert code != 0
            assert "was not built (Release | Run the commands after the static files): not today" in text, text
            assert ran() == ["", ""]
            code, text = deploy(was_django_before_switch_commands=bad)
            assert code != 0
            assert re.search(
                r"django-was1 did not take the release \S+, since a command before the switch failed: shell -v0 -c"
                r" raise SystemExit\('not today'\): not today. The run ends here: no host after this one was switched",
                text,
            ), text
            assert ran() == ["c0", "c0"]
            assert {status(name)["running"] for name in SERVERS} == {new}
            code, text = deploy(was_django_after_switch_commands=bad)
            assert code != 0
            assert "django-was1 runs the release" in text, text
            assert "but a command after the switch failed" in text
            assert ran() == ["c0b0", "c0"]
            assert [status(name)["running"] == new for name in SERVERS] == [False, True]
        assert sum(result["failed"] for result in loop.results) == 0, loop.results
    finally:
        for name in SERVERS:
            on(name, "rm", "-f", "/var/tmp/webstack-ran")
            on(name, "webstack", "app", "board", "activate", old)


def test_what_is_misspelt_is_named_with_what_is_meant() -> None:
    code, text = play("--check", was_django_smoke_check=[{"path": "/"}])
    assert code != 0
    assert "django-was1: was_django_smoke_check" in text, text
    assert "is no variable of this collection; did you mean was_django_smoke_checks?" in text

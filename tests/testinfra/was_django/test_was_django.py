"""The application tier, seen by a balancer and by an operator: pages, secrets, releases, a database that is away."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import containers
import pytest
from documents import document
from rerun import refusals

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent
SCENARIO = ROOT / "molecule/was_django"
SERVERS = {"django-was1": "10.77.3.11", "django-was2": "10.77.3.12"}
ONE, TWO = SERVERS.values()
STRANGER = "django-db1"
HARD = "two words, \"double\" 'single' $HOME `id` back\\slash # = ä\nsecond line "

Answer = dict[str, Any]


def on(name: str, *command: str, good: bool = True) -> str:
    return containers.on(name, *(command if good else ("sh", "-c", '"$@" 2>&1 || true', "sh", *command)))


def visit(
    *steps: Answer, cookies: dict[str, str] | None = None, name: str = "django-client", together: bool = False
) -> list[Answer]:
    job = json.dumps({"steps": steps, "cookies": cookies if cookies is not None else {}, "together": together})
    result = json.loads(containers.on(name, "python3", "-", job, text=(HERE / "visitor.py").read_text()))
    if cookies is not None:
        cookies.update(result["cookies"])
    answers: list[Answer] = result["answers"]
    return answers


def get(server: str, path: str = "/", **more: Any) -> Answer:
    return visit({"server": server, "path": path}, **more)[0]


def whoami(server: str, **more: Any) -> Answer:
    answer = get(server, "/whoami", **more)
    assert answer["status"] == 200, answer
    seen: Answer = json.loads(answer["body"])
    return seen


def ansible(*arguments: str) -> tuple[int, str]:
    """Run a playbook as a user would, without what molecule sets for its own runs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PY_COLORS"))}
    done = subprocess.run(
        ["ansible-playbook", *arguments],
        capture_output=True,
        check=False,
        text=True,
        cwd=ROOT,
        env=environment | {"ANSIBLE_NOCOLOR": "1"},
    )
    return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)


def play(*options: str, **variables: Any) -> tuple[int, str]:
    """Run the scenario's playbook once more, with other inputs, on the application servers."""
    inventory, playbook = str(SCENARIO / "inventory.yml"), str(SCENARIO / "converge.yml")
    return ansible("-i", inventory, playbook, "--limit=was", *options, "--extra-vars", json.dumps(variables))


def statement(sql: str) -> str:
    return on("django-db1", "mariadb", "-N", "-e", sql, "board").strip()


def status(name: str) -> Answer:
    found: Answer = document(on(name, "webstack", "app", "board", "status", "--json"))
    return found


def processes(name: str, application: str = "board") -> set[str]:
    return set(on(name, "pgrep", "-f", f"^[(]wsgi:{application}[)]", good=False).split())


@pytest.fixture(scope="module")
def visitor() -> dict[str, str]:
    """A visitor who logged in on one server."""
    cookies: dict[str, str] = {}
    first, login = visit(
        {"server": ONE, "path": "/"}, {"server": ONE, "path": "/login/", "form": {"name": "ada"}}, cookies=cookies
    )
    assert (first["status"], login["status"]) == (200, 302), login
    return cookies


# --- what is served ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_health_names_the_release(name: str) -> None:
    answer = get(SERVERS[name], "/-/health")
    assert (answer["status"], answer["body"]) == (200, "ok\n")
    assert answer["headers"]["x-webstack-release"] == status(name)["current"]


def test_all_servers_run_the_same_release() -> None:
    assert len({status(name)["running"] for name in SERVERS}) == 1


def test_the_page_says_who_answered() -> None:
    for name, server in SERVERS.items():
        seen = whoami(server)
        assert (seen["balancer"], seen["server"], seen["database"]) == ("lb1", name, "django-db1")
        assert seen["release"] == status(name)["current"]


def test_a_session_is_known_to_every_server(visitor: dict[str, str]) -> None:
    for server in (TWO, ONE, TWO):
        assert visit({"server": server, "path": "/counter/", "form": {}}, cookies=visitor)[0]["status"] == 302
    # Each host's own file cache holds what that host wrote last: ask the database by a fresh host cache.
    for name in SERVERS:
        on(name, "sh", "-c", "rm -rf /tmp/systemd-private-*-apache2.service-*/tmp/* /var/tmp/systemd-private-*/tmp/*")
    assert [whoami(server, cookies=visitor)["user"] for server in SERVERS.values()] == ["ada", "ada"]
    assert whoami(ONE, cookies=visitor)["counter"] >= 2


def test_cookies_are_for_https_only() -> None:
    assert "Secure" in get(ONE)["headers"]["set-cookie"]


def test_an_unknown_name_is_refused() -> None:
    answer = visit({"server": ONE, "path": "/", "headers": {"Host": "evil.example.test"}})[0]
    assert answer["status"] == 400


def test_static_files_have_names_for_ever() -> None:
    page = get(ONE)["body"]
    path = re.findall(r'href="(/static/board/board\.[0-9a-f]{12}\.css)"', page)[0]
    for server in SERVERS.values():
        answer = get(server, path)
        assert answer["status"] == 200
        assert answer["headers"]["cache-control"] == "public, max-age=31536000, immutable"
        assert "vary" not in answer["headers"]
    assert get(ONE, "/static/board/board.css")["headers"]["cache-control"] == "public, max-age=300"
    assert get(ONE, "/static/board/none.css")["status"] == 404
    assert get(ONE, "/static/../../../etc/passwd")["status"] in (400, 404)


def test_uploads_are_served_but_never_run(visitor: dict[str, str]) -> None:
    for name, text in (("cat.png", "PNG"), ("evil.html", "<script>alert(1)</script>")):
        assert visit({"server": ONE, "path": "/upload/", "file": [name, text]}, cookies=visitor)[0]["status"] == 302
    page = get(ONE)["body"]
    picture = get(ONE, re.findall(r'"(/media/board/[^"]+cat\.png)"', page)[0])
    assert (picture["status"], picture["body"]) == (200, "PNG")
    assert picture["headers"]["x-content-type-options"] == "nosniff"
    html = get(ONE, re.findall(r'"(/media/board/[^"]+evil\.html)"', page)[0])
    assert html["headers"]["content-disposition"] == "attachment"
    assert "sandbox" in html["headers"]["content-security-policy"]
    assert get(ONE, "/media/board/")["status"] in (403, 404)


def test_uploads_of_one_name_are_as_many_files_and_each_server_reads_them_all() -> None:
    """Nothing spreads uploads here: what one server has, the other takes from it when a page reads it."""
    uploads = [
        {"server": (ONE, TWO)[number % 2], "path": "/lab/keep", "file": ["my cat.png", f"picture {number}"]}
        for number in range(50)
    ]
    kept = visit(*uploads, together=True)
    assert {answer["status"] for answer in kept} == {200}, kept
    names = [answer["body"] for answer in kept]
    assert len(set(names)) == 50, sorted(names)
    elsewhere = [
        {"server": (TWO, ONE)[number % 2], "path": f"/lab/keep?name={name}"} for number, name in enumerate(names)
    ]
    read = visit(*elsewhere, together=True)
    print(
        f"figure: upload read on the other server: {sum(one['status'] != 200 for one in read)} of 50 failed,"
        f" longest {max(one['seconds'] for one in read)} s"
    )
    assert [(answer["status"], answer["body"]) for answer in read] == [(200, f"picture {n}") for n in range(50)]
    files = "cd /srv/webstack/media/lab && ls -A | wc -l && stat -c '%U %a' * | sort -u"
    assert [on(name, "sh", "-c", files).split("\n")[:2] for name in SERVERS] == [["50", "www-data 644"]] * 2
    assert get(ONE, "/lab/keep?name=lab/none.png")["status"] == 500, "nobody has it"


def test_an_upload_is_read_while_its_server_is_down() -> None:
    """Once read elsewhere it is there; one that only the dead server has is missed at once, not waited for."""
    here, there = visit(
        {"server": ONE, "path": "/lab/keep", "file": ["a.png", "here"]},
        {"server": TWO, "path": "/lab/keep", "file": ["b.png", "there"]},
    )
    assert get(ONE, f"/lab/keep?name={there['body']}")["body"] == "there"
    containers.docker("pause", "django-was2")
    try:
        steps = [{"server": ONE, "path": f"/lab/keep?name={one}"} for one in (here["body"], there["body"], "lab/x.png")]
        first, second, missing = visit(*steps)
        assert (first["body"], second["body"]) == ("here", "there")
        assert (missing["status"], missing["seconds"] < 4) == (500, True), missing
    finally:
        containers.docker("unpause", "django-was2")


def test_forwarded_headers_are_believed_from_the_balancer_only() -> None:
    step = {"server": ONE, "path": "/whoami?mark", "headers": {"X-Forwarded-For": "203.0.113.9"}}
    assert json.loads(visit(step)[0]["body"])["balancer"] == "lb1"
    assert json.loads(visit(step, name=STRANGER)[0]["body"])["balancer"] is None
    log = on("django-was1", "sh", "-c", "cat /var/log/apache2/board-access.log*")
    assert "203.0.113.9 10.77.3.31 " in log
    assert "10.77.3.21 10.77.3.21 " in log
    assert "203.0.113.9 10.77.3.21 " not in log
    # Without HTTPS in front, a form from an https page comes from somewhere else.
    secure = {"server": ONE, "path": "/login/", "form": {"name": "x"}}
    cookies: dict[str, str] = {}
    visit({"server": ONE, "path": "/"}, cookies=cookies)
    assert visit(secure, cookies=dict(cookies))[0]["status"] == 302


def test_nothing_listens_elsewhere() -> None:
    listening = on("django-was1", "ss", "-Hltn")
    ports = {line.split()[3] for line in listening.splitlines() if "127.0.0.11" not in line}
    assert ports == {"10.77.3.11:8000", "127.0.0.1:8000"}


# --- environment and secrets ------------------------------------------------------------------------


def test_the_environment_means_the_same_to_everybody() -> None:
    show = "import os; print(os.environ['BOARD_HARD'], end='|')"
    by_shell = on("django-was1", "board-manage", "shell", "-v0", "-c", show)
    file = "--property=EnvironmentFile=/srv/webstack/board/current/environment"
    by_systemd = on("django-was1", "systemd-run", "--quiet", "--pipe", "--wait", file, "printenv", "BOARD_HARD")
    entry = "import sys; sys.path.insert(0, '/srv/webstack/board/current/python'); import webstack_entry"
    python = "/srv/webstack/board/current/venv/bin/python"
    by_entry = on("django-was1", "runuser", "-u", "www-data", "--", python, "-c", f"{entry}; {show}")
    assert (by_shell, by_systemd, by_entry) == (f"{HARD}|", f"{HARD}\n", f"{HARD}|")


def test_secrets_are_for_root_and_the_application() -> None:
    """The secret key and the password, as they stand in the environment file."""
    for word in ("only-for-this-lab", 'only for \\"this'):
        search = ["grep", "-rlIF", word, "/etc/webstack", "/srv/webstack", "/etc/apache2", "/usr/local"]
        found = on("django-was1", *search, good=False).split()
        assert found
        assert all(re.fullmatch("/srv/webstack/board/releases/[^/]+/environment", path) for path in found), found
        assert word not in on("django-was1", "sh", "-c", "cat /proc/[0-9]*/cmdline")
    mode = on("django-was1", "stat", "-c", "%a %U %G", "/srv/webstack/board/current/environment")
    assert mode.split() == ["640", "root", "www-data"]
    text = on(
        "django-was1", "runuser", "-u", "nobody", "--", "cat", "/srv/webstack/board/current/environment", good=False
    )
    assert "Permission denied" in text


def test_the_application_cannot_change_itself() -> None:
    paths = ("current/src/manage.py", "current/venv/bin/python", "current/static", "static", "current")
    script = "for path; do test -w /srv/webstack/board/$path && echo $path; done; true"
    assert on("django-was1", "runuser", "-u", "www-data", "--", "sh", "-c", script, "sh", *paths) == ""


def test_a_link_that_the_application_plants_in_a_release_is_refused_by_name() -> None:
    """It collects the static files itself, so it may write there until the release is complete."""
    name, release = "django-was1", "/srv/webstack/board/releases/planted"
    on(name, "sh", "-ec", f"install -d -o www-data -g www-data {release}/static; rm -rf /root/v; install -d /root/v")
    on(name, "sh", "-ec", "echo 4711 > /root/v/secret; chmod 0711 /root; chmod 0600 /root/v/secret")
    try:
        on(name, "runuser", "-u", "www-data", "--", "ln", "-s", "/root/v/secret", f"{release}/static/planted.css")
        said = on(name, "webstack", "app", "board", "finish", "planted", good=False)
        assert f"{release}/static/planted.css is a link" in said
        assert on(name, "stat", "-c", "%U %a %h", "/root/v/secret") == "root 600 1\n"
        assert "planted" not in json.loads(on(name, "webstack", "app", "board", "status"))["releases"]
        # Nor does it hold the lock of the deployments, or lead it elsewhere.
        assert on(name, "stat", "-c", "%U %a", "/etc/webstack/board/lock") == "root 600\n"
    finally:
        on(name, "rm", "-rf", release, "/root/v", "/srv/webstack/board/static/planted.css")
        on(name, "chmod", "0700", "/root")


def test_the_database_connection_is_encrypted() -> None:
    code = (
        "from django.db import connection; cursor = connection.cursor(); "
        "cursor.execute(\"SHOW STATUS LIKE 'Ssl_cipher'\"); print(cursor.fetchone()[1])"
    )
    assert "TLS_" in on("django-was1", "board-manage", "shell", "-v0", "-c", code)


def test_logrotate_leaves_apache_alone() -> None:
    before = on("django-was1", "pgrep", "-f", "wsgi:board")
    on("django-was1", "sh", "-c", "if command -v logrotate; then logrotate -f /etc/logrotate.d/apache2; fi")
    assert "reload" not in on("django-was1", "cat", "/etc/logrotate.d/apache2").replace("A reload", "")
    assert on("django-was1", "pgrep", "-f", "wsgi:board") == before


def test_the_database_was_migrated_once() -> None:
    assert statement("SELECT COUNT(*), COUNT(DISTINCT app, name) FROM django_migrations").split() == ["2", "2"]
    for name in SERVERS:
        assert len(status(name)["migrated"]) >= 1, "a later run of this server alone must not migrate again"


# --- a database that is away ------------------------------------------------------------------------


@pytest.fixture
def database_away() -> Iterator[None]:
    on("django-db1", "systemctl", "stop", "mariadb")
    yield
    on("django-db1", "systemctl", "start", "mariadb")
    deadline = time.monotonic() + 20
    while any(whoami(server)["database"] is None for server in SERVERS.values()):
        assert time.monotonic() < deadline, "the application should find the database again"
        time.sleep(0.5)


def test_reads_go_on_without_the_database(visitor: dict[str, str], request: pytest.FixtureRequest) -> None:
    write = {"server": ONE, "path": "/notes/", "form": {"text": "kept in the cache"}}
    assert visit(write, cookies=visitor)[0]["status"] == 302
    assert [whoami(server, cookies=visitor)["user"] for server in SERVERS.values()] == ["ada", "ada"]
    request.getfixturevalue("database_away")
    page = get(ONE, cookies=visitor)
    assert page["status"] == 200
    assert "The database does not answer" in page["body"]
    assert "kept in the cache" in page["body"]
    seen = whoami(ONE, cookies=visitor)
    assert (seen["user"], seen["database"]) == ("ada", None)
    assert get(ONE, "/-/health")["status"] == 200
    refused = visit(write, cookies=visitor)[0]
    assert (refused["status"], refused["headers"]["retry-after"]) == (503, "10")


# --- a request that took long -----------------------------------------------------------------------


def test_a_request_takes_as_long_as_the_balancer_says(long_request: tuple[int, Future[Answer]]) -> None:
    """It began with the first test. From here on processes are replaced, which wait for such requests."""
    seconds, request = long_request
    answer = request.result()
    assert answer["status"] == 200, answer
    assert json.loads(answer["body"])["body"] == 1
    assert seconds <= answer["seconds"] < seconds + 10


# --- releases ---------------------------------------------------------------------------------------


def copied(path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(ROOT / "examples/demo_site", path, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3"))
    return path


@pytest.fixture
def changed_source(tmp_path: pathlib.Path) -> pathlib.Path:
    return copied(tmp_path / "site")


class Loop:
    """Ask every server without a break and without a second try, as no balancer would, until told to end."""

    def __enter__(self) -> Loop:
        self.end = threading.Event()
        self.results: list[Answer] = []
        self.threads = [threading.Thread(target=self.ask, args=(server,)) for server in SERVERS.values()]
        for thread in self.threads:
            thread.start()
        return self

    def ask(self, server: str) -> None:
        probe = ["python3", "-", f"http://{server}:8000/whoami", "--header", "Host: www.example.test"]
        probe += ["--seconds", "6", "--interval", "0.1", "--timeout", "30", "--by", "release"]
        script = (ROOT / "tests/lab/probe.py").read_text()
        while not self.end.is_set():
            # paces itself: six seconds each
            said = containers.on("django-client", *probe, text=script)
            self.results.append({"server": server, **json.loads(said)})

    def __exit__(self, *_: object) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join()


@contextlib.contextmanager
def strict_python() -> Iterator[str]:
    """What sudo and a login may do to every module: a umask, and an environment that is somebody's own."""
    path = "/root/strict-python"
    umasks = {"django-was1": "077", "django-was2": "027"}
    for name, umask in umasks.items():
        lines = [f"umask {umask}", "export HOME=/nonexistent LANG=C LC_ALL=C TZ=Asia/Tokyo PIP_TARGET=/root/elsewhere"]
        script = "\n".join(["#!/bin/sh", *lines, 'exec /usr/bin/python3 "$@"'])
        on(name, "sh", "-c", f"printf '%s\\n' '{script}' > {path} && chmod 755 {path}")
    before = os.umask(0o077)  # the controller's too
    try:
        yield path
    finally:
        os.umask(before)
        for name in umasks:
            on(name, "rm", path)


@dataclass
class Roll:
    """A release that was rolled out under load, by somebody with a umask and an environment of his own."""

    source: pathlib.Path
    old: str
    new: str
    style: str
    code: int
    text: str
    results: list[Answer]


@pytest.fixture(scope="module")
def roll(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roll]:
    source = copied(tmp_path_factory.mktemp("roll") / "site")
    with (source / "board/static/board/board.css").open("a") as file:
        file.write("h1 { color: inherit; }\n")
    (source / "board/static/board/grüße.txt").write_text("a name that the locale C does not know")
    (source / "board/static/board/grüße.txt").chmod(0o600)
    old = status("django-was1")["current"]
    style = re.findall(r'href="(/static/board/board\.[0-9a-f]{12}\.css)"', get(ONE)["body"])[0]
    with strict_python() as python, Loop() as loop:
        # All is installed anew, since installing is what a umask gets into.
        words = {"was_django_source": {"path": str(source)}, "was_django_reuse_packages": False}
        code, text = play(**words, ansible_python_interpreter=python)
    yield Roll(source, old, status("django-was1")["current"], style, code, text, loop.results)
    for name in SERVERS:
        on(name, "webstack", "app", "board", "activate", old)


def test_nobodys_umask_gets_into_a_release(roll: Roll) -> None:
    assert roll.code == 0, roll.text
    old, new = roll.old, roll.new
    assert [status(name)["running"] for name in SERVERS] == [new, new] != [old, old]
    for name, server in SERVERS.items():
        base = "/srv/webstack/board"
        closed = ["find", f"{base}/releases/{new}", f"{base}/static", "-not", "-type", "l"]
        secret = [f"{base}/releases/{new}/{path}" for path in ("environment", "python/webstack_settings.py")]
        assert sorted(on(name, *closed, "-not", "-perm", "-o=r").split()) == secret
        assert on(name, *closed, "-type", "d", "-not", "-perm", "-o=x") == ""
        assert on(name, *closed, "-perm", "/o=w") == ""
        assert on(name, "ls", "-A", "/root/elsewhere", good=False).endswith("No such file or directory\n")
        assert get(server, "/static/board/gr%C3%BC%C3%9Fe.txt")["status"] == 200


def test_a_new_release_costs_no_request_and_the_old_one_comes_back(roll: Roll) -> None:
    assert roll.code == 0, roll.text
    old, new = roll.old, roll.new
    assert [status(name)["running"] for name in SERVERS] == [new, new] != [old, old]
    assert whoami(TWO)["release"] == new
    # A page that was made before asks for the old name still; the new one has a new name.
    assert get(ONE, roll.style)["status"] == 200
    assert roll.style not in get(ONE)["body"]
    # The same schema: nothing to migrate.
    assert statement("SELECT COUNT(*) FROM django_migrations") == "2"

    with Loop() as loop:
        for name in SERVERS:
            on(name, "webstack", "app", "board", "activate", old)
            assert status(name)["running"] == old

    results = roll.results + loop.results
    assert sum(result["requests"] for result in results) > 100
    assert sum(result["failed"] for result in results) == 0, results
    assert {release for result in results for release in result["by"]} == {old, new}


def test_a_build_that_was_cut_off_is_made_anew(roll: Roll) -> None:
    """Half a program, a folder closed to the application, no mark."""
    name, half = "django-was1", f"/srv/webstack/board/releases/{roll.new}"
    on(name, "webstack", "app", "board", "activate", roll.old)
    ruin = "rm .finished; chmod 700 src; for file in venv/lib/python3*/site-packages/django/shortcuts.py"
    on(name, "sh", "-c", f"cd {half}; {ruin}; do : > $file; done")
    code, text = play("--limit=django-was1", was_django_source={"path": str(roll.source)})
    assert code == 0, text
    assert status(name)["running"] == roll.new
    assert get(ONE, "/")["status"] == 200
    on(name, "webstack", "app", "board", "activate", roll.old)


# It loads everywhere but in Apache, so that only the very last check finds out.
BROKEN = """
try:
    import mod_wsgi
except ImportError:
    from django.core.wsgi import get_wsgi_application
    application = get_wsgi_application()
else:
    raise RuntimeError("this release does not load")
"""


@dataclass
class Refusal:
    """The roll of a release that the first server refuses, under load: what was there, what was said and asked."""

    before: dict[str, str]
    kept: set[str]
    code: int
    text: str
    results: list[Answer]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Refusal:
    before = {name: status(name)["running"] for name in SERVERS}
    kept = processes("django-was2")
    source = copied(tmp_path_factory.mktemp("refused") / "site")
    (source / "demo_site/wsgi.py").write_text(BROKEN)
    with Loop() as loop:
        code, text = play(was_django_source={"path": str(source)})
    return Refusal(before, kept, code, text, loop.results)


def test_a_release_that_does_not_load_is_taken_back(refused: Refusal) -> None:
    before = refused.before["django-was1"]
    assert refused.code != 0
    assert f"{before} is back" in refused.text, refused.text
    after = status("django-was1")
    assert (after["running"], after["current"], after["stale"]) == (before, before, False)
    assert {get(ONE, "/-/health")["status"] for _ in range(10)} == {200}


def test_the_first_refusal_ends_the_roll(refused: Refusal) -> None:
    before = refused.before
    assert refused.code != 0
    assert "django-was1 refused the release" in refused.text, refused.text
    assert f"{before['django-was1']} is back" in refused.text
    assert "no host after this one was switched" in refused.text
    for name in SERVERS:
        found = status(name)
        assert (found["running"], found["current"], found["stale"]) == (before[name], before[name], False)
    assert processes("django-was2") == refused.kept, "the second server never got what the first one refused"
    # A balancer asks the second server again for what the first one could not answer.
    answers = [result for result in refused.results if result["server"] == TWO]
    assert sum(result["requests"] for result in answers) > 50
    assert sum(result["failed"] for result in answers) == 0, answers
    assert {release for result in answers for release in result["by"]} == {before["django-was2"]}


def test_a_broken_project_never_gets_near_the_servers(changed_source: pathlib.Path) -> None:
    before = on("django-was1", "pgrep", "-f", "wsgi:board")
    (changed_source / "demo_site/urls.py").write_text("this is no Python\n")
    code, text = play("--limit=django-was1", was_django_source={"path": str(changed_source)})
    assert code != 0
    assert "Let Django check the project" in text
    assert on("django-was1", "pgrep", "-f", "wsgi:board") == before


def test_a_run_that_was_cut_off_is_caught_up_with() -> None:
    """Settings that were written but never loaded are loaded by the next run, which changes no file."""
    on("django-was1", "touch", "/etc/webstack/board/webstack_start.py")
    assert status("django-was1")["stale"]
    assert on("django-was1", "webstack", "app", "board", "activate").startswith("replaced 2 processes")
    assert not status("django-was1")["stale"]
    assert on("django-was1", "webstack", "app", "board", "activate") == ""


def test_nothing_is_left_to_change_and_few_releases_are_kept() -> None:
    code, text = play()
    assert code == 0, text
    assert re.search(r"django-was1 : ok=\d+ changed=0 .*django-was2 : ok=\d+ changed=0 ", text), text
    for name in SERVERS:
        assert len(status(name)["releases"]) <= 3


# --- what is refused --------------------------------------------------------------------------------


#: A second application on the same hosts.
OTHER = {
    "was_django_name": "other",
    "was_django_database_engine": "sqlite",
    "was_django_caches": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    "was_django_media_root": "/srv/webstack/other-media",
}
REFUSED: list[tuple[Answer, list[str]]] = [
    (
        {"was_django_secret_key": "short", "was_django_static_url": "static"},
        ["was_django_secret_key", "was_django_static_url"],
    ),
    ({"was_django_python_minimum": "3.99"}, ["was_django_python_minimum is 3.99", "django-was1"]),
    ({"was_django_source": {"path": "/nowhere"}}, ["django-was1: was_django_source: ", "/nowhere"]),
    ({"was_django_source": {"type": "tarball"}}, ["was_django_source", "tarball"]),
    ({"was_django_requirement_files": ["absent.txt"]}, ["lacks absent.txt"]),
    ({"was_django_database_engine": "oracle"}, ["was_django_database_engine"]),
    ({"was_django_media_root": "/srv/webstack/board/releases/media"}, ["was_django_media_root"]),
    ({"was_django_database_password": ""}, ["was_django_database_password"]),
    (
        {"was_django_request_timeout_seconds": 60},
        ["was_django_request_timeout_seconds is 60, but the balancers wait up to 600 s"],
    ),
    # After its restart Apache would be gone, and the site with it.
    (OTHER, ["django-was1", "was_django_port", "port 8000 belongs to the application board"]),
    (
        {"was_django_port": 8002},
        ["django-was1", "was_django_port", "another program listens on 127.0.0.1 port 8002"],
    ),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the role says about each, all in one play, which changes nothing."""
    # The book lies elsewhere than the scenario's, and this path is seen from it.
    source = {"was_django_source": {"path": str(ROOT / "examples/demo_site")}}
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 8002)); sys.stdin.read()"
    command = ["docker", "exec", "--interactive", "django-was1", "python3", "-c", listen]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        while "8002" not in on("django-was1", "ss", "-Hltn"):
            time.sleep(0.2)
        try:
            folder = tmp_path_factory.mktemp("refusals")
            # The role words two of them anew, those of the source: /nowhere and absent.txt.
            return refusals("was_django", "django-was1", [source | bad for bad, _ in REFUSED], folder, reworded=2)
        finally:
            other.communicate()


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[" ".join(variables) for variables, _ in REFUSED])
def test_bad_input_is_refused_by_name(said: list[str], number: int) -> None:
    for word in REFUSED[number][1]:
        assert word in said[number], said[number]


def test_what_is_required_is_asked_for(tmp_path: pathlib.Path) -> None:
    playbook = tmp_path / "bare.yml"
    playbook.write_text(
        "- hosts: localhost\n  gather_facts: false\n  connection: local\n  roles: [webstack.ha.was_django]\n"
    )
    code, text = ansible("-i", "localhost,", str(playbook), "--check")
    assert code != 0
    for name in ("was_django_secret_key", "was_django_settings_module", "was_django_source"):
        assert name in text

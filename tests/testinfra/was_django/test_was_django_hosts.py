"""What happens on a host: Apache's own files, a dead Apache, another application, a release that does not load.

Runs after test_was_django.py, on the same hosts.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from test_was_django import ONE, OTHER, SERVERS, STRANGER, on, play, processes, status

SLOW = """

import time
from django.http import HttpResponse

def slow(request):
    time.sleep(12)
    return HttpResponse("slow and whole")

urlpatterns = [*urlpatterns, path("slow", slow)]
"""


def ask(name: str, url: str, *options: str) -> str:
    """Ask from a host as a balancer would: the answer's head and body, empty when nobody answers."""
    headers = ["-H", "Host: www.example.test", "-H", "X-Webstack-Balancer: lb1"]
    return on(name, "curl", "-s", "-i", "-m", "40", *headers, *options, f"http://{url}", good=False)


def main_process(name: str) -> int:
    return int(on(name, "systemctl", "show", "--value", "--property=MainPID", "apache2"))


def threads(name: str) -> int:
    """The threads of a process: those that answer requests, and a few of Apache's own."""
    return int(on(name, "sh", "-c", f"ls /proc/{min(processes(name))}/task | wc -l"))


def wait_for_health(name: str, seconds: float = 15) -> float:
    start = time.monotonic()
    while " 200 " not in ask(name, "127.0.0.1:8000/-/health", "-m", "2"):
        assert time.monotonic() - start < seconds, on(name, "systemctl", "status", "apache2", good=False)
        time.sleep(0.2)
    return time.monotonic() - start


@pytest.fixture
def slow_page() -> Iterator[None]:
    """A page on the first server that takes longer than Apache would wait by itself."""
    file = "/srv/webstack/board/current/src/demo_site/urls.py"
    load = "touch /etc/webstack/board/webstack_start.py && webstack app board activate"
    on("django-was1", "sh", "-c", f"cp -p {file} /root/urls.py\ncat >> {file} <<'END'\n{SLOW}END\n{load}")
    yield
    on("django-was1", "sh", "-c", f"cp -p /root/urls.py {file} && {load}")


# --- Apache itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_systemd_knows_apache(name: str) -> None:
    assert main_process(name) == int(on(name, "cat", "/run/apache2/apache2.pid"))


@pytest.mark.usefixtures("slow_page")
def test_a_restart_lets_requests_end() -> None:
    old = main_process("django-was1")
    command = ["docker", "exec", "django-was1", "curl", "-sim40", "-HHost:www.example.test", "127.0.0.1:8000/slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as slow:
        on("django-was1", "touch", "/etc/apache2/sites-available/board.conf")
        assert status("django-was1")["stale"]
        time.sleep(1)
        assert on("django-was1", "webstack", "app", "board", "activate") == "restarted\n"
        answer = slow.communicate()[0]
    assert " 200 " in answer
    assert "slow and whole" in answer
    assert main_process("django-was1") not in (0, old)


def test_a_change_of_apaches_own_files_is_applied() -> None:
    five = {name: threads(name) for name in SERVERS}
    code, text = play(
        was_django_apache_extra="Header always set X-Lab applied",
        was_django_port=8010,
        was_django_threads=3,
        was_django_trusted_proxies=["10.77.3.31", "10.77.3.21"],
    )
    assert code == 0, text
    for name, server in SERVERS.items():
        answer = ask(STRANGER, f"{server}:8010/whoami")
        assert " 200 " in answer, name
        assert "X-Lab: applied" in answer
        assert '"balancer": "lb1"' in answer, "it is a balancer now, and is believed"
        assert ask(name, "127.0.0.1:8000/-/health") == ""
        assert threads(name) == five[name] - 2

    code, text = play()
    assert code == 0, text
    for name, server in SERVERS.items():
        answer = ask(STRANGER, f"{server}:8000/whoami")
        assert "X-Lab" not in answer, name
        assert '"balancer": null' in answer
        assert ask(name, "127.0.0.1:8010/-/health") == ""


@pytest.mark.parametrize("name", SERVERS)
def test_an_apache_that_died_comes_back(name: str) -> None:
    old, orphans = main_process(name), processes(name)
    on(name, "kill", "-9", str(old))
    seconds = wait_for_health(name)
    print(f"figure: {name}: Apache killed, healthy again after {seconds:.1f} s")
    assert main_process(name) not in (0, old)
    assert not orphans & processes(name), "what the dead one left must not go on serving"
    assert not status(name)["stale"]
    assert on(name, "webstack", "app", "board", "activate") == ""


def test_an_apache_that_systemd_lost_is_started_anew() -> None:
    """As on every host before the unit had a PID file."""
    name, dropin = "django-was1", "/etc/systemd/system/apache2.service.d/zz-lab.conf"
    on(name, "sh", "-c", f"printf '[Service]\nPIDFile=\nGuessMainPID=no\n' > {dropin}")
    on(name, "sh", "-c", "systemctl daemon-reload && systemctl restart apache2")
    wait_for_health(name)
    assert main_process(name) == 0
    assert status(name)["stale"]
    on(name, "rm", dropin)
    assert on(name, "webstack", "app", "board", "activate") == "restarted\n"
    assert main_process(name) != 0
    assert not status(name)["stale"]


# --- a second application ---------------------------------------------------------------------------


@pytest.fixture
def no_other_application() -> Iterator[None]:
    yield
    for path in ("/etc/apache2/sites-enabled/other.conf", "/etc/webstack/other", "/srv/webstack/other"):
        on("django-was1", "rm", "-rf", path)
    on("django-was1", "webstack", "app", "board", "activate")
    assert ask("django-was1", "127.0.0.1:8001/-/health") == ""


@pytest.mark.usefixtures("no_other_application")
def test_a_second_application_on_a_running_apache() -> None:
    code, text = play("--limit=django-was1", was_django_port=8001, **OTHER)
    assert code == 0, text
    for port, name in ((8000, "board"), (8001, "other")):
        answer = ask("django-client", f"{ONE}:{port}/-/health")
        assert " 200 " in answer, answer
        current = on("django-was1", "readlink", f"/srv/webstack/{name}/current").strip().rpartition("/")[2]
        assert current in answer
    assert processes("django-was1", "other")


# --- a release that is refused ----------------------------------------------------------------------


def test_a_release_that_does_not_load_gets_no_request() -> None:
    """It is loaded beside the running one first: not even one process is replaced by one that answers 503."""
    name, current = "django-was1", status("django-was1")["current"]
    bad = "/srv/webstack/board/releases/bad"
    on(name, "cp", "-a", f"/srv/webstack/board/releases/{current}", bad)
    on(name, "sh", "-c", f"echo 'raise RuntimeError(\"no such setting\")' > {bad}/src/demo_site/wsgi.py")
    kept = processes(name)
    try:
        said = on(name, "webstack", "app", "board", "activate", "bad", good=False)
        assert "release bad does not load: RuntimeError: no such setting" in said
        assert (status(name)["current"], processes(name)) == (current, kept)
    finally:
        on(name, "rm", "-rf", bad)


# --- whose surroundings -----------------------------------------------------------------------------


def test_commands_have_the_applications_umask_too() -> None:
    show = "import os; old = os.umask(0); print(oct(old), os.environ['LC_ALL'], os.environ['HOME'])"
    strict = 'umask 077; LC_ALL=C HOME=/root exec board-manage shell -v0 -c "$1"'
    assert on("django-was1", "sh", "-c", strict, "sh", show) == "0o22 C.UTF-8 /srv/webstack/board\n"

"""The engines that a site can choose beside Django's ring: what they serve, and what the loss of a host costs."""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import testinfra
from containers import attempt, docker
from documents import document
from rerun import play

HOSTS = ["engines-redis1", "engines-redis2", "engines-redis3"]
APPLICATION = pathlib.Path(__file__).with_name("application.py").read_text(encoding="utf-8")
KEYS = [f"key{number}" for number in range(60)]
DATA = {key: [key, 1] for key in KEYS}
SINGLE = {
    "webstack_cache_engine": "single",
    "webstack_cache_server": "redis",
}
RING = {
    "webstack_cache_engine": "ring",
    "webstack_cache_server": "redis",
    "webstack_cache_tls_enabled": False,
    "redis_shard_default_user_enabled": True,
    "redis_cluster_client_nutcracker_enabled": True,
}
PASSWORD = "only-for-this-lab-application"


def on(name: str) -> testinfra.host.Host:
    return testinfra.get_host(f"docker://{name}")


class Application:
    """A process that lives through what happens to the servers."""

    def __init__(self, engine: str) -> None:
        command = ["docker", "exec", "-i", "--user", "www-data", HOSTS[0], "/opt/venv/bin/python", "-c", APPLICATION]
        self._process = subprocess.Popen(
            [*command, engine], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.slowest = 0.0

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, arguments, named]) + "\n")
        seconds, result = json.loads(self._process.stdout.readline())
        self.slowest = max(self.slowest, seconds)
        return result

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def application(request: pytest.FixtureRequest) -> Iterator[Application]:
    made = Application(request.param)
    yield made
    made.close()


def until(condition: Callable[[], bool], limit: float, what: str) -> float:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit:
            journals = [on(name).run("journalctl --no-pager -n 40 -u '*-server@*'").stdout for name in HOSTS]
            pytest.fail(f"not within {limit} s: {what}\n" + "\n".join(journals))
        time.sleep(0.2)
    return time.monotonic() - start


def serves(application: Application) -> None:
    """What Django's cache is for, with all kinds of values and keys on all servers."""
    assert application("set_many", DATA) == []
    assert application("get_many", KEYS) == DATA
    application("set", "number", 41)
    assert application("incr", "number") == 42
    assert "ValueError" in application("incr", "nothing")
    assert application("add", "number", 1) is False
    assert application("has_key", "number") is True
    assert application("touch", "number", 100) is True
    assert application("delete", "number") is True
    assert application("get", "number", "gone") == "gone"
    application("delete_many", KEYS[:10])
    assert sorted(application("get_many", KEYS)) == sorted(KEYS[10:])


def rerun_changes_nothing(**variables: Any) -> None:
    result = play("cache_engines", **variables)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("changed=0") == len(HOSTS), result.stdout


@pytest.mark.parametrize("application", ["redis_cluster"], indirect=True)
def test_a_server_side_cluster_serves_and_takes_over(application: Application) -> None:
    serves(application)
    rerun_changes_nothing()
    assert on(HOSTS[0]).check_output("ps -o user= -C valkey-server | sort -u").strip() == "valkey"
    application("set_many", DATA)
    lost = HOSTS[1]
    docker("kill", lost)
    try:
        application.slowest = 0.0
        kept = len(application("get_many", KEYS))
        # The others' keys are there all the time; nobody raises, and no call waits for long.
        assert 0 < kept < len(KEYS)
        took = until(lambda: application("set_many", DATA) == [], 20, "every key can be stored again")
        assert application("get_many", KEYS) == DATA
        print(
            f"figure: redis_cluster: host killed, all keys writable after {took:.1f} s, {kept} of {len(KEYS)} at once"
        )
        print(f"figure: redis_cluster: slowest call meanwhile {application.slowest:.2f} s")
        assert application.slowest < 3
    finally:
        docker("start", lost)
    until(
        lambda: '"problems": []' in on(lost).run("webstack cache status").stdout, 30, f"{lost} is back in the cluster"
    )
    roles = document(on(lost).check_output("webstack cache status"))["roles"]
    assert set(roles.values()) == {"slave"}
    rerun_changes_nothing()
    assert application("get_many", KEYS) == DATA


def test_a_returned_host_without_its_memory_joins_again() -> None:
    """Its servers are others for the cluster, which forgets the old ones."""
    # Of three primaries two must go on, or nobody is elected; after a fail-over one host has two of them.
    lost = next(
        name for name in reversed(HOSTS) if on(name).check_output("webstack cache status").count('"master"') < 2
    )
    on(lost).check_output("systemctl stop 'valkey-server@*.service'")
    on(lost).check_output("rm -f /var/lib/valkey/*/nodes.conf")
    time.sleep(4)
    result = play("cache_engines")
    assert result.returncode == 0, result.stdout
    known = on(HOSTS[0]).check_output(
        "REDISCLI_AUTH=only-for-this-lab-admin valkey-cli --no-auth-warning --user admin --tls"
        " --cacert /etc/valkey/tls/ca.pem -h 10.77.11.21 CLUSTER NODES"
    )
    assert len(known.splitlines()) == 6, known
    assert "fail" not in known
    rerun_changes_nothing()


def test_another_engine_is_refused_until_the_loss_is_agreed_to() -> None:
    result = play("cache_engines", **SINGLE)
    assert result.returncode != 0
    assert "All that the cache holds would be gone" in result.stdout + result.stderr
    assert "changed=0" in result.stdout
    assert "valkey" in on(HOSTS[0]).check_output("ps -o comm= -C valkey-server")


def test_too_few_hosts_for_a_cluster() -> None:
    shards = [
        {
            "name": "only",
            "nodes": [
                {"name": HOSTS[0], "address": "10.77.11.21", "port": 6379},
                {"name": HOSTS[1], "address": "10.77.11.22", "port": 6380},
            ],
        }
    ]
    result = play("cache_engines", redis_shard_shards=shards)
    assert "the engine redis_cluster needs 3 hosts or more" in result.stdout + result.stderr


def test_one_server_through_djangos_own_backend() -> None:
    result = play("cache_engines", **SINGLE, redis_shard_change_confirmed=True)
    assert result.returncode == 0, result.stdout
    application = Application("single")
    try:
        serves(application)
    finally:
        application.close()
    rerun_changes_nothing(**SINGLE)
    # One server and its copy, nothing of the cluster, and nothing at all on the third host.
    running = [on(name).run("ps -o args= -C redis-server,valkey-server").stdout.strip() for name in HOSTS]
    assert ["valkey" in each for each in running] == [False] * 3
    assert [len(each.splitlines()) for each in running] == [1, 1, 0]
    assert ":6379" in running[0]


def through_nutcracker(*commands: str) -> list[str]:
    """What a program that is not Django does on an application server, one command a line."""
    client = ("env", f"REDISCLI_AUTH={PASSWORD}", "redis-cli", "-p", "22121", "--no-raw")
    done = attempt(HOSTS[0], *client, text="\n".join(commands) + "\n")
    return done.stdout.splitlines()


def test_nutcracker_is_refused_where_it_would_misplace_keys() -> None:
    """Or could not serve at all; an engine without a ring has no picture either."""
    result = play("cache_engines", **SINGLE, redis_cluster_client_nutcracker_enabled=True)
    assert result.returncode != 0
    assert "redis_cluster_client_nutcracker_enabled is true, but" in result.stdout + result.stderr
    report = play("cache_engines", **SINGLE, book="playbooks/ring_report.yml")
    assert report.returncode != 0
    assert "The application servers do not use one ring" in " ".join((report.stdout + report.stderr).split())
    assert "changed=0" in report.stdout


def test_other_programs_find_what_django_wrote_through_nutcracker(tmp_path: pathlib.Path) -> None:
    result = play("cache_engines", **RING, redis_shard_change_confirmed=True)
    assert result.returncode == 0, result.stdout
    rerun_changes_nothing(**RING)
    application = Application("ring")
    try:
        serves(application)
        numbers = {key: number for number, key in enumerate(KEYS)}
        assert application("set_many", numbers) == []
        assert through_nutcracker(*(f"GET :1:{key}" for key in KEYS)) == [f'"{number}"' for number in range(60)]
        assert through_nutcracker(*(f"SET :1:{key} {number + 1000}" for key, number in numbers.items())) == ["OK"] * 60
        assert application("get_many", KEYS) == {key: number + 1000 for key, number in numbers.items()}

        # It follows a fail-over, which moves no key.
        lost = HOSTS[1]
        docker("kill", lost)
        try:
            sets = [f"SET :1:{key} {number + 2000}" for key, number in numbers.items()]
            took = until(lambda: through_nutcracker(*sets) == ["OK"] * 60, 20, "nutcracker has the new master")
            print(f"figure: nutcracker: host killed, all keys writable after {took:.1f} s")
            assert application("get_many", KEYS) == {key: number + 2000 for key, number in numbers.items()}
        finally:
            docker("start", lost)
    finally:
        application.close()
    until(lambda: '"problems": []' in on(lost).run("webstack cache status").stdout, 30, f"{lost} is back")
    rerun_changes_nothing(**RING)

    page = tmp_path / "ring"
    report = play("cache_engines", **RING, book="playbooks/ring_report.yml", report=str(page))
    assert report.returncode == 0, report.stdout
    drawn = page.with_suffix(".html").read_text(encoding="utf-8")
    assert all(name in drawn and name in report.stdout for name in HOSTS)
    assert "<svg" in drawn

    # Without it nothing of it is left.
    without = {**RING, "redis_cluster_client_nutcracker_enabled": False, "redis_shard_default_user_enabled": False}
    assert play("cache_engines", **without).returncode == 0
    assert through_nutcracker("GET :1:key0") == []
    assert not on(HOSTS[0]).file("/etc/systemd/system/webstack-cache-nutcracker.service").exists
    rerun_changes_nothing(**without)

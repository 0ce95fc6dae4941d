"""The virtual address, seen by a client that asks it steadily while its owner is killed, frozen, stopped."""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from rerun import play

ROOT = pathlib.Path(__file__).resolve().parents[3]
SCENARIO = ROOT / "molecule/vip_failover"
ADDRESS = "10.77.2.100"
HOSTS = ("vip-lb1", "vip-lb2")
RUN = "/run/webstack-vip"

Seen = dict[str, Any]


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], capture_output=True, check=True)


def on(name: str, command: str) -> str:
    done = subprocess.run(["docker", "exec", name, "bash", "-c", command], capture_output=True, check=False, text=True)
    assert done.returncode == 0, f"{name}: {command}: {done.stdout}{done.stderr}"
    return done.stdout


def alive(name: str) -> bool:
    done = subprocess.run(
        ["docker", "inspect", "-f", "{{.State.Status}}", name],
        capture_output=True,
        check=False,
        text=True,
    )
    return done.stdout.strip() == "running"


def owners() -> list[str]:
    """Hosts with the address where it answers ARP; the copies on the loopback do not count."""
    return [n for n in HOSTS if alive(n) and on(n, f"ip -o address show dev eth0 to {ADDRESS}")]


def settled(seconds: float = 10) -> str:
    """Wait until exactly one host owns the address and stays the owner; return it."""
    deadline = time.monotonic() + seconds
    last: list[str] = []
    while time.monotonic() < deadline:
        found = owners()
        if len(found) == 1 and found == last:
            return found[0]
        last = found
        time.sleep(0.3)
    pytest.fail(f"owners of {ADDRESS} after {seconds} s: {last}")


def other(name: str) -> str:
    return HOSTS[1 - HOSTS.index(name)]


def watch(act: Callable[[], None], seconds: float, interval: float = 0.01, before: float = 0.8) -> Seen:
    """Ask the address every `interval` seconds, act meanwhile, and say what the client saw."""
    arguments = [
        f"http://{ADDRESS}/",
        "--seconds",
        str(seconds),
        "--interval",
        str(interval),
    ]
    arguments += ["--timeout", "0.5", "--by", "server"]
    command = [
        "docker",
        "exec",
        "--interactive",
        "vip-client",
        "python3",
        "-",
        *arguments,
    ]
    source = (ROOT / "tests/lab/probe.py").read_text()
    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(subprocess.run, command, input=source, capture_output=True, check=False, text=True)
        time.sleep(before)
        act()
        done = probe.result()
    assert done.returncode == 0, done.stderr
    seen: Seen = json.loads(done.stdout)
    return seen


def tell(what: str, seen: Seen) -> None:
    print(
        f"figure: {what}: {seen['failed']} of {seen['requests']} requests failed, outage {seen['longest_outage_ms']} ms"
    )


def modern() -> bool:
    """Whether this is keepalived 2.3: it steps back after a freeze, and checks more often than once a second."""
    return "v2.2." not in on(HOSTS[0], "keepalived --version 2>&1 | head -1")


def boot(name: str) -> None:
    docker("start", name)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        state = subprocess.run(
            ["docker", "exec", name, "systemctl", "is-active", "nginx"],
            capture_output=True,
            check=False,
            text=True,
        )
        if state.stdout.strip() == "active":
            return
        time.sleep(0.2)
    pytest.fail(f"{name} did not come back")


@pytest.fixture
def owner() -> Iterator[str]:
    yield settled()
    for name in HOSTS:
        subprocess.run(["docker", "unpause", name], capture_output=True, check=False)
        if not alive(name):
            boot(name)
        on(
            name,
            f"systemctl kill --signal=CONT nginx; systemctl start nginx; echo 0 > {RUN}/maintenance",
        )


# --- keepalived -------------------------------------------------------------------------------------


class TestKeepalived:
    """The default engine, as converge left it."""

    def test_one_host_owns_the_address_and_both_could_answer_it(self) -> None:
        name = settled()
        assert watch(lambda: None, 1)["by"].keys() == {name}
        for host in HOSTS:
            assert on(host, f"ip -o address show dev lo to {ADDRESS}")

    def test_a_killed_host_costs_less_than_a_second_and_its_return_nothing(self, owner: str) -> None:
        seen = watch(lambda: docker("kill", owner), 3)
        tell("keepalived, host killed", seen)
        assert seen["longest_outage_ms"] <= 1000, seen
        assert settled() == other(owner)
        back = watch(lambda: boot(owner), 6, interval=0.02)
        tell("keepalived, host returns", back)
        assert back["failed"] == 0, back
        assert settled() == other(owner), "the address moved back"

    def test_a_frozen_host_loses_the_address_and_heals(self, owner: str) -> None:
        seen = watch(lambda: docker("pause", owner), 3)
        tell("keepalived, host frozen", seen)
        assert seen["longest_outage_ms"] <= 1000, seen
        healed = watch(lambda: docker("unpause", owner), 3)
        tell("keepalived, host thawed", healed)
        assert settled() == other(owner) or not modern()
        assert healed["longest_outage_ms"] <= 1000, healed

    def test_a_stopped_web_server_costs_less_than_a_second(self, owner: str) -> None:
        seen = watch(lambda: on(owner, "systemctl stop nginx") and None, 2.5)
        tell("keepalived, nginx stopped", seen)
        assert seen["longest_outage_ms"] <= 1000, seen
        assert settled() == other(owner)
        back = watch(lambda: on(owner, "systemctl start nginx") and None, 2.5)
        tell("keepalived, nginx started again", back)
        assert back["failed"] == 0, back
        assert settled() == other(owner)

    def test_a_killed_web_server_costs_less_than_a_second(self, owner: str) -> None:
        seen = watch(lambda: on(owner, "kill -9 $(cat /run/nginx.pid)") and None, 2.5)
        tell("keepalived, nginx killed", seen)
        assert seen["longest_outage_ms"] <= 1000, seen
        assert settled() == other(owner)

    def test_a_hung_web_server_is_found(self, owner: str) -> None:
        seen = watch(
            lambda: on(owner, "systemctl kill --signal=STOP nginx") and None,
            5,
            interval=0.02,
        )
        tell("keepalived, nginx hung", seen)
        assert seen["longest_outage_ms"] <= (2000 if modern() else 3500), seen
        assert settled() == other(owner)

    def test_maintenance_hands_the_address_over_unnoticed(self, owner: str) -> None:
        seen = watch(lambda: on(owner, f"echo 1 > {RUN}/maintenance") and None, 2)
        tell("keepalived, maintenance", seen)
        assert seen["failed"] == 0, seen
        assert settled() == other(owner)
        back = watch(lambda: on(owner, f"echo 0 > {RUN}/maintenance") and None, 1.5)
        assert back["failed"] == 0, back
        assert settled() == other(owner), "the address moved back"

    def test_a_reload_of_keepalived_is_not_noticed(self, owner: str) -> None:
        seen = watch(lambda: on(owner, "systemctl reload keepalived") and None, 2)
        tell("keepalived, reloaded", seen)
        assert seen["failed"] == 0, seen
        assert settled() == owner

    def test_a_killed_keepalived_costs_next_to_nothing(self, owner: str) -> None:
        seen = watch(lambda: on(owner, "systemctl kill --signal=KILL keepalived") and None, 3)
        tell("keepalived, itself killed", seen)
        assert seen["longest_outage_ms"] <= 300, seen
        settled()

    def test_a_stranger_cannot_take_the_address(self, owner: str) -> None:
        advert = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112); "
            f"s.sendto(bytes([0x31, 51, 255, 1, 0, 10, 0, 0]) + socket.inet_aton('{ADDRESS}'), "
            f"('{owner.replace('vip-lb', '10.77.2.1')}', 0))"
        )
        counter = "nft list table inet webstack_vrrp | grep -o 'packets [0-9]*' | head -1"
        before = on(owner, counter)
        on("vip-client", f'python3 -c "{advert}"')
        assert on(owner, counter) != before, "the packet was not dropped"
        assert settled() == owner

    def test_a_lost_reload_is_made_up_for(self, owner: str) -> None:
        on(owner, f"echo '# old' >> {RUN}/keepalived.conf")
        pid = on(owner, "systemctl show --property=MainPID --value keepalived")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(watch, lambda: None, 6, 0.02)
            done = play("vip_failover")
            seen = running.result()
        assert done.returncode == 0, done.stdout
        assert seen["failed"] == 0, seen
        assert on(owner, "systemctl show --property=MainPID --value keepalived") == pid, "reloaded, not restarted"
        on(owner, f"cmp /etc/keepalived/keepalived.conf {RUN}/keepalived.conf")
        assert settled() == owner

    def test_a_refused_configuration_leaves_the_good_one(self, owner: str) -> None:
        before = on(owner, "sha256sum /etc/keepalived/keepalived.conf")
        done = play("vip_failover", vip_failover_interface="eth9")
        assert done.returncode != 0
        assert "eth9" in done.stdout, done.stdout
        assert on(owner, "sha256sum /etc/keepalived/keepalived.conf") == before
        assert settled() == owner


def test_bad_input_is_refused_by_name() -> None:
    done = play(
        "vip_failover",
        vip_failover_addresses=["10.77.2.100", "10.77.2.11/24"],
        vip_failover_peers=[],
        vip_failover_router_id=300,
        vip_failover_check_url="https://x/",
    )
    assert done.returncode != 0
    for message in (
        "vip_failover_addresses needs address/prefix: 10.77.2.100",
        "vip-lb1: vip_failover_addresses",
        "vip_failover_addresses holds the own address of this host, 10.77.2.11",
        "vip_failover_peers names no other balancer",
        "vip_failover_router_id is not within 1-255",
        "vip_failover_check_url is no http:// URL",
    ):
        assert message in " ".join(done.stdout.split()), done.stdout
    assert "changed=0" in done.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"vip_failover_address": "10.77.2.99"}, "no interface carries vip_failover_address 10.77.2.99"),
        ({"vip_failover_engine": "magic"}, "vip_failover_engine"),
    ],
    ids=["no-interface", "unknown-engine"],
)
def test_a_wrong_value_is_refused_by_name(variables: dict[str, Any], message: str) -> None:
    done = play("vip_failover", **variables)
    assert done.returncode != 0
    assert message in " ".join(done.stdout.split()), done.stdout
    assert "changed=0" in done.stdout


# --- classic ----------------------------------------------------------------------------------------


class TestClassic:
    """The 2012 script; the scenario's hosts change engine, and back at the end."""

    settings: ClassVar[dict[str, Any]] = {
        "vip_failover_engine": "classic",
        "vip_failover_classic_interval_seconds": 5,
        "vip_failover_classic_check_enabled": True,
    }

    def test_the_engine_changes_and_leaves_nothing(self) -> None:
        done = play("vip_failover", **self.settings)
        assert done.returncode == 0, done.stdout
        settled(15)
        for name in HOSTS:
            assert on(name, "systemctl is-active keepalived || true").strip() == "inactive"
            assert not on(name, f"ip -o address show dev lo to {ADDRESS}")
            assert "webstack" not in on(name, "nft list tables")
            left = "find /etc/keepalived /etc/sysctl.d /etc/webstack-vip -type f ! -name README\\* -print"
            assert "webstack-vip.conf" not in on(name, left)
            assert not on(name, "ls /etc/keepalived/keepalived.conf 2>/dev/null || true")
        again = play("vip_failover", **self.settings)
        assert "changed=0" in again.stdout, again.stdout
        assert "changed=1" not in again.stdout, again.stdout

    def test_a_killed_host_loses_the_address_within_the_interval(self) -> None:
        name = settled()
        seen = watch(lambda: docker("kill", name), 17, interval=0.05)
        tell("classic every 5 s, host killed", seen)
        assert seen["longest_outage_ms"] <= 15_000, seen
        assert settled() == other(name)
        assert f"took {ADDRESS}" in on(other(name), "cat /var/log/webstack-vip.log")
        back = watch(lambda: boot(name), 12, interval=0.05)
        tell("classic every 5 s, host returns", back)
        assert back["failed"] == 0, back
        assert settled() == other(name)

    def test_a_dead_web_server_gives_the_address_up_on_request(self) -> None:
        name = settled()
        seen = watch(lambda: on(name, "systemctl stop nginx") and None, 20, interval=0.05)
        tell("classic every 5 s, nginx stopped", seen)
        assert seen["longest_outage_ms"] <= 17_000, seen
        assert settled() == other(name)
        on(name, "systemctl start nginx")

    def test_two_owners_become_one(self) -> None:
        name = settled()
        on(other(name), f"ip address add {ADDRESS}/24 dev eth0")
        assert settled(20) in HOSTS

    def test_the_way_back_leaves_nothing_either(self) -> None:
        done = play("vip_failover")
        assert done.returncode == 0, done.stdout
        settled()
        for name in HOSTS:
            assert (
                on(
                    name,
                    "ls -d /usr/local/sbin/webstack-vip /etc/systemd/system/webstack-vip.* 2>/dev/null || true",
                )
                == ""
            )
            assert "webstack-vip.timer" not in on(name, "systemctl list-timers --all")
        assert watch(lambda: None, 1)["failed"] == 0


class TestNone:
    """Nothing moves an address."""

    def test_it_removes_the_engine(self) -> None:
        assert play("vip_failover", vip_failover_engine="none").returncode == 0
        for name in HOSTS:
            assert not on(name, f"ip -o address show to {ADDRESS}")
            assert on(name, "systemctl is-active keepalived || true").strip() == "inactive"
        assert play("vip_failover").returncode == 0
        settled()

"""The hosts of the scenario vip_failover, what can be done to them, and what a client sees meanwhile."""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
ADDRESS, ADDRESS6 = "10.77.2.100", "fd77:2::100"
HOSTS = {"vip-lb1": "10.77.2.11", "vip-lb2": "10.77.2.12"}
CLIENT = "vip-client"
RUN = "/run/webstack/vip"

Seen = dict[str, Any]


class LabError(AssertionError):
    """The lab did not do what it was told."""


def docker(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, check=check, text=True).stdout


def on(name: str, command: str) -> str:
    done = subprocess.run(["docker", "exec", name, "bash", "-c", command], capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise LabError(f"{name}: {command}: {done.stdout}{done.stderr}")
    return done.stdout


def status(name: str) -> str:
    return docker("inspect", "-f", "{{.State.Status}}", name, check=False).strip()


def alive(name: str) -> bool:
    return status(name) == "running"


def on_both(do: Callable[[str], Any]) -> list[Any]:
    """Do something to both balancers at once: a command in a container costs a tenth of a second and more."""
    with ThreadPoolExecutor(len(HOSTS)) as pool:
        return list(pool.map(do, HOSTS))


def owners(address: str = ADDRESS) -> list[str]:
    """Hosts with the address where it answers ARP; the copies on the loopback do not count."""
    look = ("ip", "-o", "address", "show", "dev", "eth0", "to", address)
    # One that is dead or frozen cannot be entered, which the engine says at once.
    found = on_both(lambda name: docker("exec", name, *look, check=False))
    return [name for name, said in zip(HOSTS, found, strict=True) if said]


def settled(seconds: float = 10, address: str = ADDRESS) -> str:
    """Wait until exactly one host owns the address and stays the owner; return it."""
    deadline = time.monotonic() + seconds
    last: list[str] = []
    while time.monotonic() < deadline:
        found = owners(address)
        if len(found) == 1 and found == last:
            return found[0]
        last = found
        time.sleep(0.3)
    raise LabError(f"owners of {address} after {seconds} s: {last}")


def other(name: str) -> str:
    return next(host for host in HOSTS if host != name)


def start_on_client(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a program of tests/lab on the client host."""
    source = (ROOT / "tests/lab" / program).read_text()
    process = subprocess.Popen(
        ["docker", "exec", "--interactive", CLIENT, "python3", "-u", "-", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(source)
    process.stdin.close()
    process.stdin = None  # communicate() must not close it once more
    return process


def document(process: subprocess.Popen[str], seconds: float) -> Seen:
    """Wait for the end of a program that takes some seconds, and read the JSON document that is its last line."""
    said, errors = process.communicate(timeout=seconds + 60)
    if process.returncode != 0:
        raise LabError(errors)
    seen: Seen = json.loads(said.splitlines()[-1])
    return seen


def watch(
    act: Callable[[], object],
    seconds: float,
    interval: float = 0.005,
    url: str = f"http://{ADDRESS}/",
    before: float = 0.8,
) -> Seen:
    """Ask the address every `interval` seconds, act meanwhile, and say what the client saw."""
    options = ["--seconds", str(seconds), "--interval", str(interval), "--timeout", "0.5", "--by", "server"]
    probe = start_on_client("probe.py", url, *options)
    time.sleep(before)
    try:
        act()
    finally:
        seen = document(probe, before + seconds)
    return seen


def hold(act: Callable[[], object], seconds: float = 3, address: str = ADDRESS, *options: str) -> Seen:
    """Keep six downloads and six idle connections, act meanwhile, and say which of them broke."""
    client = start_on_client("connections.py", address, "--seconds", str(seconds), *options)
    assert client.stdout is not None
    if client.stdout.readline().strip() != "ready":
        raise LabError(client.communicate()[1])
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(act)
        seen = document(client, seconds)
        done.result()
    return seen


def modern() -> bool:
    """Whether this is keepalived 2.3: it steps back after a freeze, and checks more often than once a second."""
    return "v2.2." not in on(next(iter(HOSTS)), "keepalived --version 2>&1 | head -1")


def boot(name: str) -> None:
    docker("start", name)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if docker("exec", name, "systemctl", "is-active", "nginx", check=False).strip() == "active":
            return
        time.sleep(0.2)
    raise LabError(f"{name} did not come back")


def partition(what: str) -> None:
    """Keep the balancers from each other, in a firewall table on each: `vrrp` alone or `all` frames."""
    macs = {name: on(name, "cat /sys/class/net/eth0/address").strip() for name in HOSTS}

    def one(name: str) -> None:
        vrrp = "table inet lab_cut { chain input { type filter hook input priority 0; meta l4proto 112 drop; }; };"
        frames = (
            "table netdev lab_cut { chain input { type filter hook ingress device eth0 priority 0; "
            f"ether saddr {macs[other(name)]} drop; }}; }};"
        )
        on(name, f"echo '{vrrp if what == 'vrrp' else frames}' | nft -f -")

    on_both(one)


def heal() -> None:
    on_both(lambda name: on(name, "for f in inet netdev; do nft delete table $f lab_cut 2>/dev/null || true; done"))


def repair() -> None:
    """Undo whatever was done to the balancers."""

    def one(name: str) -> None:
        state = status(name)
        if state == "paused":
            docker("unpause", name)
        elif state != "running":
            boot(name)
        on(name, "ip link set eth0 up; [ ! -e /run/lab-route ] || ip route replace $(cat /run/lab-route)")
        on(name, "rm -f /run/lab-route; systemctl kill --signal=CONT nginx")
        on(name, f"systemctl start nginx keepalived webstack-vip-agent; echo 0 > {RUN}/maintenance")

    on_both(one)
    heal()


# --- The fault table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """One fault on the owner: what is done, how long it is watched, and the bars for it."""

    name: str
    act: Callable[[str], object]
    seconds: float
    median_ms: float
    worst_ms: float


def soft_reboot(name: str) -> None:
    docker("stop", "--time", "60", name)
    boot(name)


def cut(name: str) -> None:
    """Take the link down. A network manager would give the own addresses and the routes back; here `repair` does."""
    keep = "sysctl -qw net.ipv6.conf.eth0.keep_addr_on_down=1; ip route show default > /run/lab-route"
    on(name, f"{keep}; ip link set eth0 down")


FAULTS = [
    Fault("host killed", lambda name: docker("kill", name), 2.5, 220, 300),
    Fault("host frozen", lambda name: docker("pause", name), 2.5, 220, 300),
    Fault("link cut", cut, 2.5, 220, 300),
    Fault("nginx killed", lambda name: on(name, "kill -9 $(cat /run/nginx.pid)"), 2, 150, 250),
    Fault("nginx hung", lambda name: on(name, "systemctl kill --signal=STOP nginx"), 4, 1200, 1500),
    Fault("nginx stopped", lambda name: on(name, "systemctl stop nginx"), 2, 0, 0),
    Fault("nginx restarted", lambda name: on(name, "systemctl restart nginx"), 2, 0, 0),
    Fault("keepalived stopped", lambda name: on(name, "systemctl stop keepalived"), 2, 0, 0),
    Fault("keepalived killed", lambda name: on(name, "systemctl kill --signal=KILL keepalived"), 2.5, 0, 0),
    Fault("keepalived reloaded", lambda name: on(name, "systemctl reload keepalived"), 2, 0, 0),
    Fault("planned switchover", lambda name: on(name, "webstack vip switchover"), 2, 0, 0),
    Fault("soft reboot and return", soft_reboot, 6, 0, 0),
]


def one_round(fault: Fault, interval: float = 0.005) -> Seen:
    """Do it to the owner of the moment, undo it, and see that the return of the host costs nothing."""
    owner = settled()
    wait_for_peers()
    seen = watch(lambda: fault.act(owner), fault.seconds, interval)
    back = watch(repair, 2.5, interval, before=0.2)
    return {**seen, "owner": owner, **{f"back_{key}": back[key] for key in ("failed", "longest_outage_ms", "errors")}}


def wait_for_peers(seconds: float = 15) -> None:
    """Wait until each balancer could own the address: what comes next may move it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        said = on_both(lambda name: docker("exec", name, "webstack", "vip", "status", "--json", check=False) or "{}")
        states = [json.loads(text) for text in said]
        if all(state and not state["unfit"] for state in states):
            return
        time.sleep(0.3)
    raise LabError(f"a balancer could not own the address: {states}")


def one_owner_again(healed: float) -> float:
    """Return how long after healing one of the two stepped back, by its own log: the hosts share a clock."""
    settled()
    log = f"journalctl -u keepalived -o short-unix --since @{int(healed) - 1} | grep 'BACKUP STATE' || true"
    steps = [float(line.split()[0]) for name in HOSTS for line in on(name, log).splitlines()]
    if not steps:
        raise LabError("neither of the two stepped back")
    return max(0.0, max(steps) - healed)


def cut_and_heal(what: str, seconds: float = 3) -> tuple[Seen, float, int]:
    """Partition the balancers while a client asks: what it saw, seconds to one owner, owners during the cut."""
    took, most = 0.0, 0

    def act() -> None:
        nonlocal took, most
        partition(what)
        time.sleep(seconds)
        most = len(owners())
        heal()
        took = one_owner_again(time.time())

    return watch(act, seconds + 5), took, most


# --- The other engines ----------------------------------------------------------------------------------


TOKEN = "the-token-of-the-cloud"
HOOKED = "198.51.100.7"
CLOUD = "http://10.77.2.31:8080"
HOOK = {
    "vip_failover_engine": "hook",
    "webstack_virtual_addresses": [f"{HOOKED}/32"],
    "vip_failover_hook_command": [
        "sh",
        "-c",
        'printf \'header = "Authorization: Bearer %s"\' "$TOKEN" | curl --silent --show-error --fail --config -'
        f' --request POST "{CLOUD}/route?address=$ADDRESS&host=$HOST_ADDRESS&state=$STATE&try=$TRY"',
    ],
    "vip_failover_hook_environment": {"TOKEN": TOKEN},
    "vip_failover_hook_timeout_seconds": 1.5,
    "vip_failover_hook_refresh_seconds": 5,
}
CLASSIC = {"vip_failover_engine": "classic", "webstack_virtual_addresses": [f"{ADDRESS}/24"]}


@contextlib.contextmanager
def cloud() -> Iterator[None]:
    """Run the cloud of the hook engine on the client host, which owns the route to the address."""
    server = start_on_client("cloud_api.py", "8080", TOKEN)
    try:
        yield
    finally:
        on(CLIENT, f"ip route delete {HOOKED}/32 || true; kill $(pgrep -f '^python3 -u - 8080')")
        server.wait(timeout=10)


def routed(seconds: float = 10) -> str:
    """Return the living host that the cloud routes the address of the hook engine to."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        route = on(CLIENT, f"ip route show {HOOKED}")
        for name, address in HOSTS.items():
            if address in route and alive(name):
                return name
        time.sleep(0.3)
    look = (
        "systemctl is-active keepalived webstack-vip-agent webstack-vip-move; ip -o address show dev lo;"
        f" head {RUN}/service {RUN}/maintenance {RUN}/leaving {RUN}/hook.json;"
        " journalctl --no-pager -o short-precise -n 40 -u keepalived -u 'webstack-vip-*'"
    )
    seen = [f"{name}: {docker('exec', name, 'bash', '-c', look, check=False)}" for name in HOSTS]
    raise LabError("\n".join(["the cloud routes the address to nobody", *seen]))


@dataclass(frozen=True)
class Engine:
    """An engine that is slower than keepalived: its settings, and how it is watched."""

    name: str
    settings: Mapping[str, Any]
    interval: float
    #: Longest outage that is waited for.
    seconds: float
    faults: Mapping[str, Callable[[str], object]]
    address: str = ADDRESS
    owner: Callable[[], str] = field(default=lambda: settled(20))
    #: How often it looks, in seconds: faults come at any moment in between.
    period: float = 0


_KILL = {"host killed": lambda name: docker("kill", name)}
_MOVES = {
    **_KILL,
    "nginx stopped": lambda name: on(name, "systemctl stop nginx"),
    "planned switchover": lambda name: on(name, "webstack vip switchover"),
}
ENGINES = [
    Engine("hook", HOOK, 0.02, 4, _MOVES, HOOKED, routed),
    Engine(
        "classic, every 5 s",
        CLASSIC | {"vip_failover_classic_interval_seconds": 5, "vip_failover_classic_check_enabled": True},
        0.05,
        17,
        _MOVES,
        period=5,
    ),
    # As it comes: it looks once a minute, and at dead hosts only.
    Engine("classic, every 60 s", CLASSIC, 0.25, 140, _KILL, period=60),
]


def engine_round(engine: Engine, act: Callable[[str], object]) -> Seen:
    """Do it to the owner of the moment, see what the client sees, and undo it."""
    wait_for_peers()
    name = engine.owner()
    time.sleep(random.uniform(0, engine.period))
    seen = watch(lambda: act(name), engine.seconds, engine.interval, f"http://{engine.address}/")
    if not alive(name):
        boot(name)
    on(name, "systemctl start nginx; webstack vip rejoin")
    return {**seen, "owner": name}

"""What a dead, frozen, cut or leaving application server costs, and a change of the servers under load.

Bars of the project: 60 reads and 25 writes a second. WEBSTACK_ROUNDS repeats each fault, for figures.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from balancer import HERE, NAME, SERVERS, Answer, asked, executed, facts, get, lb, on, program, send, until_asked
from rerun import play

ROUNDS = int(os.environ.get("WEBSTACK_ROUNDS", "1"))
BALANCERS = {"nginx-lb1": "10.77.1.11", "nginx-lb2": "10.77.1.12"}
OTHERS = {"nginx-was2", "nginx-was3"}


def load(seconds: float, prefix: str, balancers: list[str] | None = None) -> Answer:
    job = {
        "addresses": balancers or [BALANCERS["nginx-lb1"]],
        "host": NAME,
        "seconds": seconds,
        "gets": 60,
        "posts": 25,
        "prefix": prefix,
        # Below the read timeout: what waits for a dead server must be asked elsewhere before that.
        "timeout": 15,
    }
    seen: Answer = program(HERE / "load.py", json.dumps(job))
    return seen


def under_load(seconds: float, prefix: str, *acts: Callable[[], object], balancers: list[str] | None = None) -> Answer:
    with ThreadPoolExecutor(1) as pool:
        visitors = pool.submit(load, seconds, prefix, balancers)
        time.sleep(2)
        for act in acts:
            act()
        return visitors.result()


def report(what: str, seen: Answer) -> None:
    for method, row in seen.items():
        print(
            f"figure: {what}: {row['failed']} of {row['requests']} {method}s failed, p50 {row['p50_ms']} ms, "
            f"p99 {row['p99_ms']} ms, longest {row['max_ms']} ms {' '.join(row['errors'])}"
        )


FAULTS = {
    "killed": "systemctl kill --signal=KILL backend; systemctl stop backend",
    "frozen": "systemctl kill --signal=STOP backend",
    "cut": "nft add table inet cut; nft 'add chain inet cut in { type filter hook input priority 0; }';"
    " nft 'add rule inet cut in tcp dport 8000 drop'",
}


@pytest.mark.usefixtures("servers_return")
@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_no_read_and_executes_no_write_twice(fault: str, round_: int) -> None:
    prefix = f"{fault}-{time.time():.0f}-"
    took: list[float] = []

    def act() -> None:
        on("nginx-was1", FAULTS[fault])
        took.append(until_asked(OTHERS))

    seen = under_load(8, prefix, act)
    print(f"figure: {fault}: out after {took[0]:.1f} s")
    report(fault, seen)
    assert seen["GET"]["failed"] == 0, seen
    assert seen["POST"]["failed"] <= 1, seen
    done = executed(prefix)
    assert len(done) == len(set(done)), "a POST was executed twice"


@pytest.mark.usefixtures("servers_return")
def test_a_server_that_answers_503_is_left_alone_and_comes_back() -> None:
    on("nginx-was1", "echo 503 > /run/health")
    print(f"figure: self-drain: out after {until_asked(OTHERS):.1f} s")
    assert "leaving" in on("nginx-lb1", "webstack-lb status")
    answers = send(*({"target": "/leaving"} for _ in range(8)))
    assert {facts(answer)["server"] for answer in answers} == OTHERS
    on("nginx-was1", "rm /run/health")
    until_asked(set(SERVERS))


@pytest.mark.usefixtures("servers_return")
def test_all_down_means_all_up() -> None:
    for name in SERVERS:
        on(name, "echo 500 > /run/health")
    deadline = time.monotonic() + 10
    while not lb("status", "--json")["sites"][0]["fail_open"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert asked() == set(SERVERS)
    assert "all are asked" in on("nginx-lb1", "webstack-lb status")
    assert get("/open")["status"] == 200
    assert 'webstack_lb_site_fail_open{site="site"} 1' in on("nginx-lb1", "curl -fsS http://127.0.0.1:8089/metrics")


@pytest.mark.usefixtures("servers_return")
def test_the_service_starts_again_where_it_ended() -> None:
    on("nginx-was1", "echo 500 > /run/health")
    until_asked(OTHERS)
    lb("apply")  # ends when nginx runs what was found
    workers = on("nginx-lb1", "pgrep -f 'nginx: worker process$'")
    for death in ("systemctl kill --signal=KILL webstack-lb", "systemctl restart webstack-lb"):
        on("nginx-lb1", f"{death}; sleep 3; systemctl is-active webstack-lb")
        assert asked() == OTHERS
    assert on("nginx-lb1", "pgrep -f 'nginx: worker process$'") == workers, "no reload"


def test_a_hung_service_is_started_again() -> None:
    """Its own death costs nothing meanwhile: nginx keeps the lists, and finds dead servers by itself."""
    process = on("nginx-lb1", "systemctl show -P MainPID webstack-lb").strip()
    on("nginx-lb1", f"kill -STOP {process}")
    status = "webstack-lb status >/dev/null 2>/tmp/said && echo alive || cat /tmp/said"
    assert "does not probe" in on("nginx-lb1", f"sleep 6; {status}")
    assert get("/hung")["status"] == 200
    on("nginx-lb1", f"for _ in $(seq 150); do kill -0 {process} 2>/dev/null || break; sleep 0.1; done; sleep 2.5")
    assert on("nginx-lb1", status) == "alive\n"
    assert on("nginx-lb1", "systemctl show -P MainPID webstack-lb").strip() != process


@pytest.mark.usefixtures("servers_return")
def test_a_stopped_nginx_starts_with_what_was_found_meanwhile() -> None:
    on("nginx-lb2", "systemctl stop nginx")
    on("nginx-was1", "echo 500 > /run/health")
    until_asked(OTHERS, name="nginx-lb2")
    on("nginx-lb2", "systemctl start nginx")
    answers = send(*({"address": BALANCERS["nginx-lb2"], "target": "/started"} for _ in range(8)))
    assert {facts(answer)["server"] for answer in answers} == OTHERS


def test_the_service_can_do_little() -> None:
    assert on("nginx-lb1", "stat -c '%U %a' /run/webstack-lb-apply.sock") == "webstack-lb 600\n"
    assert on("nginx-lb1", "ps -o user= -p $(systemctl show -P MainPID webstack-lb)").strip() == "webstack-lb"
    capabilities = on("nginx-lb1", "grep CapEff /proc/$(systemctl show -P MainPID webstack-lb)/status")
    assert int(capabilities.split()[1], 16) == 0


# --- drain ---------------------------------------------------------------------------------------------------


def test_a_drain_waits_for_running_requests_and_holds() -> None:
    """By playbook, on both balancers; over a run of the role, a start of nginx and a restart of the service."""
    prefix = f"drain-{time.time():.0f}-"
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(send, *({"target": "/slow?sleep=1.5&only=x"} for _ in range(6)), workers=6)
        time.sleep(0.5)
        dry = play("lb_nginx", "--check", book="playbooks/drain.yml", host="nginx-was1")
        assert dry.returncode == 0, dry.stdout
        assert asked() == set(SERVERS), "check mode changes nothing"

        def drain() -> None:
            done = play("lb_nginx", book="playbooks/drain.yml", host="nginx-was1")
            assert done.returncode == 0, done.stdout
            assert lb("drain", "nginx-was1")["connections"] == 0

        seen = under_load(6, prefix, drain, balancers=list(BALANCERS.values()))
        assert {answer["status"] for answer in slow.result()} == {404}, "the running requests were answered"
    report("drain", seen)
    assert (seen["GET"]["failed"], seen["POST"]["failed"]) == (0, 0), seen
    assert sorted(set(executed(prefix))) == sorted(executed(prefix))
    try:
        for name in BALANCERS:
            assert asked(name) == OTHERS
            assert lb("drain", "nginx-was1", name=name) == {"changed": False, "connections": 0}
        role = play("lb_nginx")
        assert role.stdout.count("changed=0") == 2, role.stdout
        on("nginx-lb1", "systemctl restart nginx webstack-lb; sleep 2.5")
        assert asked() == OTHERS
        answers = send(*({"target": "/drained"} for _ in range(8)))
        assert {facts(answer)["server"] for answer in answers} == OTHERS
    finally:
        done = play("lb_nginx", book="playbooks/undrain.yml", host="nginx-was1")
    assert done.stdout.count("changed=1") == 2, done.stdout
    assert asked() == set(SERVERS)


def test_unknown_hosts_and_the_last_server_are_not_drained() -> None:
    unknown = play("lb_nginx", book="playbooks/drain.yml", host="nginx-was9")
    assert unknown.returncode != 0
    assert "nginx-was9 is no application server of this balancer" in unknown.stdout
    # Only one balancer would be left without a server: the other one does not drain either.
    lb("drain", "nginx-was1")
    lb("drain", "nginx-was2")
    try:
        last = play("lb_nginx", book="playbooks/drain.yml", host="nginx-was3")
        assert last.returncode != 0
        assert "nginx-was3 is the last server that works for site" in last.stdout
        assert asked("nginx-lb2") == set(SERVERS)
        assert lb("drain", "nginx-was3", "--force")["changed"]
        assert asked() == set()
        assert get("/nobody")["status"] == 502
    finally:
        for name in SERVERS:
            lb("undrain", name)
    assert get("/somebody")["status"] == 200


# --- changes under load --------------------------------------------------------------------------------------


def balancer_seconds(skip: int) -> list[float]:
    """Return how long the balancer took for each request of the load, from its log after a number of lines."""
    lines = on("nginx-lb1", f"sleep 1.5; tail -n +{skip + 1} /var/log/nginx/access.log | grep /load").splitlines()
    return sorted(float(json.loads(line)["seconds"]) for line in lines)


def test_changes_under_load_fail_nothing() -> None:
    """Reload, drain and back, remove a server, add it again, another certificate: all while visitors come.

    The controller shares the cores of the lab, and what it costs the client is not the balancer's: the added time is
    read from the balancer's log.
    """
    prefix = f"change-{time.time():.0f}-"
    backends = [{"name": name, "address": address, "port": 8000} for name, address in SERVERS.items()]
    before = int(on("nginx-lb1", "wc -l < /var/log/nginx/access.log"))

    def role(**variables: object) -> Callable[[], object]:
        def act() -> None:
            done = play("lb_nginx", "--limit", "nginx-lb1", **variables)
            assert done.returncode == 0, done.stdout

        return act

    acts: list[Callable[[], object]] = [
        lambda: on("nginx-lb1", "systemctl reload nginx"),
        lambda: lb("drain", "nginx-was2", "--wait"),
        lambda: lb("undrain", "nginx-was2"),
        role(lb_nginx_backends=backends[:2], lb_nginx_tls_addresses=["192.0.2.99"]),
        role(),
    ]
    seen = under_load(24, prefix, *acts)
    report("changes", seen)
    total = seen["GET"]["requests"] + seen["POST"]["requests"]
    assert total >= 2000
    assert (seen["GET"]["failed"], seen["POST"]["failed"]) == (0, 0), seen
    done = executed(prefix)
    assert sorted(done) == sorted(set(done)), "executed twice"
    assert len(done) == seen["POST"]["requests"]
    took = balancer_seconds(before)
    assert len(took) == total
    added = took[-1] - took[len(took) // 2]
    print(f"figure: changes: {total} requests, the balancer's own time grew by {1000 * added:.0f} ms at most")
    assert added <= 0.5


def test_reloads_do_not_pile_up_workers() -> None:
    for _ in range(5):
        lb("drain", "nginx-was3")
        lb("undrain", "nginx-was3")
    deadline = time.monotonic() + 10
    while lb("status", "--json")["old_workers"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)

"""What a dead, frozen, cut or leaving application server costs, and a change of the servers under load.

Bars of the project: 60 reads and 25 writes a second. WEBSTACK_ROUNDS repeats each fault, for figures.
"""

from __future__ import annotations

import bisect
import json
import math
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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


#: nginx notes milliseconds, of two clocks.
ROUNDING = 0.002
#: The scenario's lb_nginx_backend_fail_timeout_seconds, which nginx counts in whole seconds.
LEFT_ALONE = 3 + 1


@dataclass(frozen=True)
class Attempt:
    """A request as it was given to one server, by the balancer's clock.

    A worker looks at its clock when it wakes, and may be held up before it does what it then notes: that happened
    before it looked at its clock the next time.
    """

    request: str
    server: str
    answered: bool
    began: float
    began_at_most: float
    ended: float
    ended_at_most: float

    def surely(self, moment: float) -> bool:
        return self.began_at_most + ROUNDING < moment < self.ended - ROUNDING

    def perhaps(self, begin: float, end: float) -> bool:
        return self.began - ROUNDING <= end and begin <= self.ended_at_most + ROUNDING


def attempts(prefix: str, requests: int) -> list[Attempt]:
    """Return what the balancer gave to its servers, in order, once it has logged every request of a load."""
    log = "/var/log/nginx/attempts.log"
    count = f"$(grep -c '\"{prefix}' {log})"
    wait = f"for _ in $(seq 25); do [ {count} -ge {requests} ] && break; sleep 0.2; done; grep '\"{prefix}' {log}"
    entries = [json.loads(line) for line in on("nginx-lb1", wait).splitlines()]
    assert len({entry["id"] for entry in entries}) == len(entries) == requests
    looked: dict[str, set[float]] = {entry["worker"]: set() for entry in entries}
    noted = []
    for entry in entries:
        ended = float(entry["ended"])
        looked[entry["worker"]] |= {ended, ended - float(entry["seconds"])}
        columns = (re.split(" ?[,:] ", entry[key]) for key in ("servers", "server_seconds", "statuses"))
        # The last one ended with the request, each other one where the next began.
        for server, seconds, status in reversed(list(zip(*columns, strict=True))):
            began = ended - float(seconds)
            looked[entry["worker"]].add(began)
            noted.append((entry, server.removesuffix(":8000"), status == "200", began, ended))
            ended = began
    clocks = {worker: [*sorted(times), math.inf] for worker, times in looked.items()}

    def at_most(worker: str, moment: float) -> float:
        return clocks[worker][bisect.bisect_right(clocks[worker], moment + ROUNDING)]

    found = [
        Attempt(e["id"], server, answered, began, at_most(e["worker"], began), ended, at_most(e["worker"], ended))
        for e, server, answered, began, ended in noted
    ]
    return sorted(found, key=lambda attempt: attempt.began)


def further_losses(found: list[Attempt], victim: str) -> int:
    """Count what was lost on a server that had a request already; it got it only when no other server had less to do.

    However slow the machine is, a balancer that counts right gives a server that never answers its first request, and
    another one only while each of the others has as many.
    """
    further = 0
    for number, lost in enumerate(found):
        if lost.server != victim or lost.answered:
            continue
        before = [attempt for attempt in found[:number] if attempt.server == victim]
        # Who failed, as one does whose host was held up for a second, is left alone for a while.
        failed = {a.server for a in found if not a.answered and a.perhaps(lost.began - LEFT_ALONE, lost.began_at_most)}
        others = set(SERVERS.values()) - failed - {victim}
        least = min(
            (sum(a.server == other and a.perhaps(lost.began, lost.began_at_most) for a in found) for other in others),
            default=len(found),
        )
        assert least >= sum(a.surely(lost.began) for a in before), (lost, least, before)
        further += least >= 1 and any(a.perhaps(lost.began, lost.began_at_most) for a in before)
    return further


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
    found = attempts(prefix, seen["GET"]["requests"] + seen["POST"]["requests"])
    further = further_losses(found, SERVERS["nginx-was1"])
    late = max(row["late_ms"] for row in seen.values())
    print(
        f"figure: {fault}: out after {took[0]:.1f} s; {further} more lost while all were busy; {late} ms late at most"
    )
    report(fault, seen)
    assert seen["GET"]["failed"] == 0, seen
    # One at most where requests come evenly and are answered at once, which a busy machine prevents.
    assert seen["POST"]["failed"] <= (1 if late <= 5 else 1 + further), seen
    done = executed(prefix)
    assert len(done) == len(set(done)), "a POST was executed twice"


@pytest.mark.usefixtures("servers_return")
def test_a_server_that_answers_503_is_left_alone_and_comes_back() -> None:
    on("nginx-was1", "echo 503 > /run/health")
    print(f"figure: self-drain: out after {until_asked(OTHERS):.1f} s")
    assert "leaving" in on("nginx-lb1", "webstack lb status")
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
    assert "all are asked" in on("nginx-lb1", "webstack lb status")
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
    status = "webstack lb status >/dev/null 2>/tmp/said && echo alive || cat /tmp/said"
    # The status calls it hung after five seconds without a word.
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
    assert on("nginx-lb1", "stat -c '%U %a' /run/webstack/lb-apply.sock") == "webstack-lb 600\n"
    assert on("nginx-lb1", "ps -o user= -p $(systemctl show -P MainPID webstack-lb)").strip() == "webstack-lb"
    capabilities = on("nginx-lb1", "grep CapEff /proc/$(systemctl show -P MainPID webstack-lb)/status")
    assert int(capabilities.split()[1], 16) == 0


def test_a_check_run_fails_nowhere_where_another_tier_brought_the_program() -> None:
    """As on a database host that is to become a balancer: the program is current, and has no settings of this role."""
    paths = ["/etc/webstack/lb.json", "/etc/systemd/system/webstack-lb.service"]
    on("nginx-lb2", "; ".join(f"mv {path} {path}.aside" for path in paths))
    try:
        dry = play("lb_nginx", "--check", "--limit=nginx-lb2")
    finally:
        on("nginx-lb2", "; ".join(f"mv {path}.aside {path}" for path in paths))
    assert dry.returncode == 0, dry.stdout


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
            said = lb("drain", "nginx-was1", name=name)
            assert (said["changed"], said["connections"]) == (False, 0)
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
    # Ansible wraps what a command said.
    assert "nginx-was9 is no application server of this balancer" in " ".join(unknown.stdout.split())
    # Only one balancer would be left without a server: the other one does not drain either.
    lb("drain", "nginx-was1")
    lb("drain", "nginx-was2")
    try:
        last = play("lb_nginx", book="playbooks/drain.yml", host="nginx-was3")
        assert last.returncode != 0
        assert "nginx-was3 is the last server that works for site" in " ".join(last.stdout.split())
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

"""Shards with a replica elsewhere: replication, fail-over, and a re-run that keeps what the sentinels decided."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable

import pytest
import testinfra

SCENARIO = pathlib.Path(__file__).resolve().parents[3] / "molecule/redis_shard"
PASSWORD = 'only-for-this-lab "quoted" \\ 4711'
HOSTS = ["shard-redis1", "shard-redis2", "shard-redis3"]
ADDRESS = {name: f"10.77.4.1{number}" for number, name in enumerate(HOSTS, 1)}
# shard -> port, first node, replica
SHARDS = {
    "s1": (6379, "shard-redis1", "shard-redis2"),
    "s2": (6380, "shard-redis2", "shard-redis3"),
    "s3": (6381, "shard-redis3", "shard-redis1"),
}


def on(name: str) -> testinfra.host.Host:
    return testinfra.get_host(f"docker://{name}")


def redis(name: str, port: int, *words: str, password: str | None = PASSWORD, via: str | None = None) -> str:
    """Ask the server of a host; the password goes through the environment, as the role demands of everybody."""
    command = ["docker", "exec"]
    environment = dict(os.environ)
    if password is not None:
        environment["REDISCLI_AUTH"] = password
        command += ["--env", "REDISCLI_AUTH"]
    command += [via or name, "timeout", "5", "redis-cli", "-h", ADDRESS[name], "-p", str(port), *words]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return (result.stdout + result.stderr).strip()


def master_of(shard: str, witness: str = "shard-redis3") -> str:
    address = redis(witness, 26379, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", shard).splitlines()[0]
    return next(name for name, own in ADDRESS.items() if own == address)


def role(name: str, port: int) -> str:
    return redis(name, port, "ROLE").splitlines()[0]


def seconds_until(condition: Callable[[], bool], limit: float, what: str) -> float:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit:
            journals = [
                on(name).run("journalctl --no-pager -n 60 -o short-precise -u 'redis-*'").stdout for name in HOSTS
            ]
            pytest.fail(f"not within {limit} s: {what}\n" + "\n".join(journals))
        time.sleep(0.05)
    return time.monotonic() - start


def other(shard: str, name: str) -> str:
    return next(node for node in SHARDS[shard][1:] if node != name)


def linked(name: str, port: int) -> bool:
    return redis(name, port, "ROLE").splitlines()[3:4] == ["connected"]


def well() -> bool:
    """Every instance has the role that the sentinels name, and each sentinel sees each replica healthy."""
    for name in HOSTS:
        report = on(name).run("redis-shard status")
        if report.rc != 0 or json.loads(report.stdout)["problems"]:
            return False
        ask = f"redis-cli -h {ADDRESS[name]} -p 26379 SENTINEL REPLICAS"
        command = ["docker", "exec", "--env", "REDISCLI_AUTH", name, "sh", "-c", f"{ask} s1; {ask} s2; {ask} s3"]
        environment = {**os.environ, "REDISCLI_AUTH": PASSWORD}
        seen = subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout.splitlines()
        flags = [seen[line + 1] for line, word in enumerate(seen) if word == "flags"]
        links = [seen[line + 1] for line, word in enumerate(seen) if word == "master-link-status"]
        if flags != ["slave"] * 3 or links != ["ok"] * 3:
            return False
    return True


def play(*arguments: str, playbook: pathlib.Path = SCENARIO / "converge.yml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ansible-playbook", "-i", SCENARIO / "inventory.yml", playbook, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=SCENARIO.parents[1],
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )


@pytest.fixture(autouse=True)
def all_is_well() -> None:
    seconds_until(well, 40, "every shard with its replica")


def test_placement_and_limits() -> None:
    for _shard, (port, *nodes) in SHARDS.items():
        assert sorted(role(name, port) for name in nodes) == ["master", "slave"]
    for name in HOSTS:
        listening = on(name).check_output("ss -Hltn 'sport >= 6379 and sport <= 6381 or sport = 26379'")
        local = {line.split()[3].rsplit(":", 1)[0] for line in listening.splitlines()}
        assert local == {ADDRESS[name], "127.0.0.1"}
        assert len(listening.splitlines()) == 6, listening
        assert not on(name).service("redis-server").is_running
    assert redis("shard-redis1", 6379, "CONFIG", "GET", "maxmemory").splitlines()[1] == str(64 * 1024 * 1024)
    assert redis("shard-redis1", 6379, "CONFIG", "GET", "maxmemory-policy").splitlines()[1] == "allkeys-lru"
    assert redis("shard-redis1", 6379, "CONFIG", "GET", "save").splitlines()[1:] in ([], [""])


def test_write_on_the_master_read_on_the_replica() -> None:
    for shard, (port, *_nodes) in SHARDS.items():
        leader = master_of(shard)
        assert redis(leader, port, "SET", "greeting", f"from {shard}") == "OK"
        assert redis(leader, port, "WAIT", "1", "2000") == "1"
        replica = other(shard, leader)
        assert redis(replica, port, "GET", "greeting") == f"from {shard}"
        assert "READONLY" in redis(replica, port, "SET", "greeting", "here")


def test_password_is_asked_for_and_hidden() -> None:
    for port in (6379, 26379):
        assert "NOAUTH" in redis("shard-redis1", port, "ROLE", password=None, via="shard-redis2")
        assert "WRONGPASS" in redis("shard-redis1", port, "ROLE", password="something else", via="shard-redis2")
    # Even root's process list and the world's view of the files show nothing.
    assert "4711" not in on("shard-redis1").check_output("ps axww -o args")
    assert on("shard-redis1").run("runuser -u nobody -- grep -rs 4711 /etc/redis /var/lib/redis /run").stdout == ""


def test_killed_server_is_replaced_and_follows(record_property: Callable[[str, object], None]) -> None:
    """systemd brings a killed server back in a moment, empty: it must not become master of the emptiness."""
    leader = master_of("s1")
    heir = other("s1", leader)
    assert redis(leader, 6379, "SET", "kept", "yes") == "OK"
    assert redis(leader, 6379, "WAIT", "1", "2000") == "1"
    on(leader).check_output("systemctl kill --signal=KILL redis-server@s1.service")
    took = seconds_until(lambda: redis(heir, 6379, "SET", "after", "kill") == "OK", 8, f"{heir} writable")
    back = seconds_until(lambda: linked(leader, 6379), 15, f"{leader} follows {heir}")
    print(f"\nserver killed: writable again after {took:.2f} s, old master follows after {took + back:.2f} s")
    record_property("killed_server_seconds", took)
    assert redis(heir, 6379, "GET", "kept") == "yes"
    assert redis(leader, 6379, "GET", "kept") == "yes"
    assert redis(leader, 6379, "GET", "after") == "kill"


def test_killed_host_is_replaced_and_a_rerun_keeps_the_choice() -> None:
    lost = master_of("s1")
    witness = next(name for name in HOSTS if name != lost)
    heir = other("s1", lost)
    assert redis(lost, 6379, "SET", "before", "kill") == "OK"
    assert redis(lost, 6379, "WAIT", "1", "2000") == "1"
    subprocess.run(["docker", "kill", lost], check=True, capture_output=True)
    try:
        # About 1.5 s; the two sentinels that are left may split their votes and try again 6 s later.
        took = seconds_until(lambda: redis(heir, 6379, "SET", "after", "kill") == "OK", 15, f"{heir} writable")
        for shard in SHARDS:
            seconds_until(lambda shard=shard: master_of(shard, witness) != lost, 15, f"{shard} has left {lost}")
        print(f"\nhost killed: s1 writable again after {took:.2f} s")
    finally:
        subprocess.run(["docker", "start", lost], check=True, capture_output=True)
    back = seconds_until(lambda: linked(lost, 6379), 30, f"{lost} returns as a replica")
    print(f"host back as a replica {back:.1f} s after its power")
    assert redis(lost, 6379, "GET", "before") == "kill"
    assert redis(lost, 6379, "GET", "after") == "kill"

    after = {shard: master_of(shard) for shard in SHARDS}
    assert after["s1"] == heir
    seconds_until(well, 40, "every shard with its replica")
    result = play()
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("changed=0") == len(HOSTS), result.stdout
    assert {shard: master_of(shard) for shard in SHARDS} == after


def test_power_fails_everywhere_and_the_master_is_remembered() -> None:
    """The inventory names another first node: only what the sentinels wrote down can tell."""
    first, second = SHARDS["s1"][1:]
    if master_of("s1") == first:
        on(first).check_output("redis-shard failover s1")
    assert master_of("s1") == second
    subprocess.run(["docker", "kill", *HOSTS], check=True, capture_output=True)
    subprocess.run(["docker", "start", *HOSTS], check=True, capture_output=True)
    took = seconds_until(well, 60, "every shard after the power failure")
    print(f"\npower failure: all shards complete after {took:.1f} s")
    assert master_of("s1") == second


def test_planned_hand_over_loses_nothing() -> None:
    leader = master_of("s2")
    heir = other("s2", leader)
    for number in range(20):
        assert redis(leader, 6380, "SET", f"key{number}", "kept") == "OK"
    start = time.monotonic()
    assert "handed over" in on(leader).check_output("redis-shard failover s2")
    print(f"\nplanned hand-over: {time.monotonic() - start:.2f} s")
    assert role(heir, 6380) == "master"
    assert all(redis(heir, 6380, "GET", f"key{number}") == "kept" for number in range(20))


def test_static_change_reaches_server_and_sentinel_without_loss() -> None:
    """On one host, which is made the master of a shard first: it hands over before it restarts."""
    name = "shard-redis1"
    if role(name, 6379) != "master":
        on(other("s1", name)).check_output("redis-shard failover s1")
        seconds_until(well, 40, "the shard after the hand-over")
    masters = {shard: master_of(shard) for shard in SHARDS}
    for shard, (port, *_nodes) in SHARDS.items():
        assert redis(masters[shard], port, "SET", "survivor", shard) == "OK"
    result = play(
        "--limit", name, "-e", "redis_shard_max_memory=80mb", "-e", "redis_shard_down_after_milliseconds=1500"
    )
    assert result.returncode == 0, result.stdout
    for port in (6379, 6381):
        assert redis(name, port, "CONFIG", "GET", "maxmemory").splitlines()[1] == str(80 * 1024 * 1024)
    assert role(name, 6379) == "slave"
    for shard, (port, *nodes) in SHARDS.items():
        assert [redis(node, port, "GET", "survivor") for node in nodes] == [shard, shard]
    told = redis(name, 26379, "SENTINEL", "MASTER", "s1").splitlines()
    assert told[told.index("down-after-milliseconds") + 1] == "1500"


REFUSALS: list[tuple[dict[str, object], str]] = [
    ({"redis_shard_node_name": "stranger"}, "stranger (redis_shard_node_name) is neither a node"),
    (
        {"redis_shard_sentinels": [{"name": "shard-redis1", "address": "10.77.4.11", "port": 26379}]},
        "redis_shard_sentinels has 1: an odd number",
    ),
    (
        {
            "redis_shard_shards": [
                {
                    "name": "s1",
                    "nodes": [
                        {"name": "shard-redis1", "address": "10.77.4.11", "port": 6379},
                        {"name": "shard-redis1", "address": "10.77.4.11", "port": 6380},
                    ],
                }
            ]
        },
        "two nodes of shard s1 have the name shard-redis1",
    ),
    ({"redis_shard_password": "short"}, "redis_shard_password must have 16 characters"),
    ({"redis_shard_persistence": "often"}, "redis_shard_persistence"),
    ({"redis_shard_shards": []}, "redis_shard_shards is empty"),
]


def test_refusals(tmp_path: pathlib.Path) -> None:
    """All of them in one run of Ansible: each case ends in its rescue, with a message that names what is wrong."""
    tasks = [
        {
            "name": f"Case {number}",
            "block": [
                {
                    "name": "Run the role",
                    "ansible.builtin.include_role": {"name": "webstack.ha.redis_shard"},
                    "vars": variables,
                }
            ],
            "rescue": [
                {
                    "name": "Show the refusal",
                    "ansible.builtin.debug": {"msg": f"case {number}: {{{{ ansible_failed_result | to_json }}}}"},
                }
            ],
        }
        for number, (variables, _message) in enumerate(REFUSALS)
    ]
    book = tmp_path / "refusals.yml"
    book.write_text(json.dumps([{"hosts": "shard-redis1", "gather_facts": False, "tasks": tasks}]))
    result = play(playbook=book)
    assert "changed=0" in result.stdout, result.stdout
    assert f"rescued={len(REFUSALS)}" in result.stdout, result.stdout
    for number, (_variables, message) in enumerate(REFUSALS):
        said = next(line for line in result.stdout.splitlines() if f"case {number}:" in line)
        assert message in said, said
        assert "redis_shard" in said

"""Shards with a replica elsewhere: replication, fail-over, accounts, TLS, and a re-run that keeps what was decided."""

from __future__ import annotations

import os
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import testinfra
from containers import DEBIAN, docker
from documents import document
from rerun import assert_refused
from rerun import play as play_scenario

PASSWORDS = {
    "application": 'only-for-this-lab "quoted" \\ 4711',
    "replication": 'between-servers-only "quoted" 4712',
    "sentinel": "among-the-sentinels 4713",
    "admin": "for-the-operator \\ 4714",
}
HOSTS = ["shard-redis1", "shard-redis2", "shard-redis3"]
ADDRESS = {name: f"10.77.4.1{number}" for number, name in enumerate(HOSTS, 1)}
ONE, TWO, THREE = "shard-redis1", "shard-redis2", "old.cache_3"
# shard -> its hosts, the first node's first, with their ports
SHARDS = {
    ONE: {"shard-redis1": 6379, "shard-redis2": 6380},
    TWO: {"shard-redis2": 6379, "shard-redis3": 6380},
    THREE: {"shard-redis3": 6379, "shard-redis1": 6380},
}
SENTINEL = 26379
CLI = "timeout 5 redis-cli --no-auth-warning --tls --cacert /etc/redis/tls/ca.pem"


def on(name: str) -> testinfra.host.Host:
    return testinfra.get_host(f"docker://{name}")


def secret(user: str, password: str | None = None) -> tuple[str, str]:
    """The password as redis-cli takes it on the host: through the environment, as the role demands of everybody."""
    return "--env", f"REDISCLI_AUTH={password or PASSWORDS[user]}"


def redis(
    name: str, port: int, *words: str, user: str = "admin", password: str | None = None, via: str | None = None
) -> str:
    """Ask the server of a host."""
    command = ["docker", "exec", *secret(user, password), via or name, *CLI.split(), "--user", user]
    command += ["-h", ADDRESS[name], "-p", str(port), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return (result.stdout + result.stderr).strip()


def master_of(shard: str, witness: str = "shard-redis3") -> str:
    address = redis(witness, SENTINEL, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", shard).splitlines()[0]
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
        time.sleep(0.2)
    return time.monotonic() - start


def other(shard: str, name: str) -> str:
    return next(node for node in SHARDS[shard] if node != name)


def linked(name: str, port: int) -> bool:
    return redis(name, port, "ROLE").splitlines()[3:4] == ["connected"]


#: Whether the host's own report is good, and what its sentinel thinks of each shard's replicas.
LOOK = 'report=$(webstack cache status); echo $?; echo "$report"; echo ---; ' + "; ".join(
    f"{CLI} --user admin -h %s -p {SENTINEL} SENTINEL REPLICAS {shard}" for shard in SHARDS
)


def well_on(name: str) -> bool:
    command = ["docker", "exec", *secret("admin"), name, "sh", "-c", LOOK.replace("%s", ADDRESS[name])]
    looked = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    report, _, replicas = looked.partition("\n---\n")
    code, _, text = report.partition("\n")
    if code != "0" or document(text)["problems"]:
        return False
    seen = replicas.splitlines()
    flags = [seen[line + 1] for line, word in enumerate(seen) if word == "flags"]
    links = [seen[line + 1] for line, word in enumerate(seen) if word == "master-link-status"]
    return flags == ["slave"] * 3 and links == ["ok"] * 3


def well() -> bool:
    """Every instance has the role that the sentinels name, and each sentinel sees each replica healthy."""
    return all(well_on(name) for name in HOSTS)


def play(*options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    return play_scenario("redis_shard", *options, **variables)


@pytest.fixture(autouse=True)
def all_is_well() -> None:
    seconds_until(well, 40, "every shard with its replica")


def test_placement_and_limits() -> None:
    for nodes in SHARDS.values():
        assert sorted(role(name, port) for name, port in nodes.items()) == ["master", "slave"]
    for name in HOSTS:
        listening = on(name).check_output("ss -Hltn 'sport >= 6379 and sport <= 6399 or sport = 26379'")
        local = {line.split()[3].rsplit(":", 1)[0] for line in listening.splitlines()}
        assert local == {ADDRESS[name], "127.0.0.1"}
        assert len(listening.splitlines()) == 6, listening
        assert not on(name).service("redis-server").is_running
    assert redis("shard-redis1", 6379, "CONFIG", "GET", "maxmemory").splitlines()[1] == str(64 * 1024 * 1024)
    assert redis("shard-redis1", 6379, "CONFIG", "GET", "maxmemory-policy").splitlines()[1] == "allkeys-lru"
    assert redis("shard-redis1", 6379, "CONFIG", "GET", "save").splitlines()[1:] in ([], [""])


def test_write_on_the_master_read_on_the_replica() -> None:
    for shard, nodes in SHARDS.items():
        leader = master_of(shard)
        assert redis(leader, nodes[leader], "SET", "greeting", f"from {shard}", user="application") == "OK"
        assert redis(leader, nodes[leader], "WAIT", "1", "2000", user="application") == "1"
        replica = other(shard, leader)
        assert redis(replica, nodes[replica], "GET", "greeting", user="application") == f"from {shard}"
        assert "READONLY" in redis(replica, nodes[replica], "SET", "greeting", "here", user="application")


# What each account may not do.
FORBIDDEN = {
    "application": [
        "CONFIG GET masterauth",
        "CONFIG SET requirepass x",
        "SHUTDOWN NOSAVE",
        "DEBUG SLEEP 0",
        "REPLICAOF NO ONE",
        "ACL LIST",
        "ACL SETUSER application +@all",
        "KEYS *",
        "FLUSHALL",
        "MONITOR",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "CLIENT PAUSE 10",
        "CLUSTER NODES",
        "FUNCTION LIST",
        "MODULE LIST",
        "SAVE",
        "PSYNC a 1",
        # What Sentinel obeys, on whatever way it comes.
        "PUBLISH __sentinel__:hello x",
        "SPUBLISH __sentinel__:hello x",
        "SUBSCRIBE __sentinel__:hello",
        "PSUBSCRIBE *",
        "PSUBSCRIBE __sentinel__:*",
        "SLAVEOF NO ONE",
        "FAILOVER",
        "REPLCONF listening-port 1",
        "CLIENT UNPAUSE",
        "CLIENT NO-EVICT on",
        "SCRIPT DEBUG YES",
        "SCRIPT KILL",
        "SCRIPT FLUSH",
        "FUNCTION LOAD x",
        "FUNCTION FLUSH",
        "MODULE LOAD /tmp/x.so",
        "CONFIG REWRITE",
        "CONFIG RESETSTAT",
        "ACL SAVE",
        "MIGRATE 192.0.2.1 6379 x 0 10",
        "RESTORE x 0 x",
        "SWAPDB 0 1",
        "BGREWRITEAOF",
        "LATENCY RESET",
        "SLOWLOG GET",
        "CLUSTER MEET 192.0.2.1 6379",
    ],
    "replication": [
        "GET greeting",
        "SET greeting x",
        "CONFIG GET masterauth",
        "INFO",
        "REPLICAOF NO ONE",
        "ACL LIST",
        "PUBLISH __sentinel__:hello x",
    ],
    "sentinel": [
        "PUBLISH news x",
        "SUBSCRIBE news",
        "PSUBSCRIBE *",
        "GET greeting",
        "SET greeting x",
        "CONFIG GET masterauth",
        "ACL LIST",
        "SHUTDOWN NOSAVE",
        "FLUSHDB",
    ],
}
FORBIDDEN_ON_SENTINELS = {
    "application": [
        "SENTINEL FAILOVER shard-redis1",
        "SENTINEL SET shard-redis1 quorum 1",
        "SENTINEL REMOVE shard-redis1",
        "SENTINEL RESET *",
        "SENTINEL MONITOR x 192.0.2.1 1 1",
        "SENTINEL CONFIG GET *",
        "SENTINEL DEBUG",
        "PUBLISH __sentinel__:hello x",
        "SUBSCRIBE __sentinel__:hello",
        "PSUBSCRIBE *",
        "SENTINEL IS-MASTER-DOWN-BY-ADDR 10.77.4.11 6379 999999 *",
        "SENTINEL CONFIG SET announce-ip 192.0.2.1",
        "SENTINEL SIMULATE-FAILURE crash-after-election",
        "SENTINEL FLUSHCONFIG",
        "SENTINEL INFO-CACHE shard-redis1",
        "SENTINEL PENDING-SCRIPTS",
        "CLIENT KILL TYPE normal",
        "CLIENT LIST",
        "SHUTDOWN",
        "ACL LIST",
        "ACL SETUSER application +@all",
    ],
    "sentinel": [
        "SENTINEL FAILOVER shard-redis1",
        "SENTINEL REMOVE shard-redis1",
        "SHUTDOWN",
        "ACL LIST",
        "SUBSCRIBE +switch-master",
        "PSUBSCRIBE *",
    ],
}


def let_through_of(port: int, user: str, commands: list[str]) -> list[str]:
    """Return the commands that were let through; each on a connection of its own, all by one call of the engine."""
    client = f"{CLI} --user {user} -h {ADDRESS[HOSTS[0]]} -p {port}"
    script = f"while IFS= read -r line; do printf '%s\\n' \"$line\" | {client} 2>&1; printf '\\0'; done"
    lines = "".join(f"{line}\n" for line in commands)
    said = docker("exec", "-i", *secret(user), HOSTS[0], "sh", "-c", script, text=lines)
    *answers, rest = said.split("\0")
    assert (len(answers), rest) == (len(commands), ""), said
    # DEBUG and MODULE are refused to everybody, before anybody looks at accounts.
    return [
        f"{line}: {answer}"
        for line, answer in zip(commands, answers, strict=True)
        if "NOPERM" not in answer and "command not allowed" not in answer
    ]


def test_an_account_may_do_its_work_and_no_more() -> None:
    for user, commands in FORBIDDEN.items():
        assert let_through_of(6379, user, commands) == [], user
    for user, commands in FORBIDDEN_ON_SENTINELS.items():
        assert let_through_of(SENTINEL, user, commands) == [], user
    leader = master_of(ONE)
    allowed = {
        "PING": "PONG",
        "SET allowed 1": "OK",
        "GET allowed": "1",
        "EVAL return(redis.call('GET',KEYS[1])) 1 allowed": "1",
        "SCAN 0 MATCH allowed": "0\nallowed",
        "DBSIZE": "1",
        "UNLINK allowed": "1",
        "FLUSHDB": "OK",
    }
    redis(leader, SHARDS[ONE][leader], "FLUSHDB", user="application")
    for line, answer in allowed.items():
        assert redis(leader, SHARDS[ONE][leader], *line.split(), user="application") == answer
    assert redis(leader, SHARDS[ONE][leader], "ROLE", user="application").startswith("master")
    assert "redis_version" in redis(leader, SHARDS[ONE][leader], "INFO", user="application")
    for words in (["SENTINEL", "MASTER", ONE], ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", ONE], ["PING"], ["ROLE"]):
        assert "NOPERM" not in redis("shard-redis1", SENTINEL, *words, user="application")


def subscribed(port: int, command: str) -> str:
    """Return what the application reads after a SUBSCRIBE or PSUBSCRIBE."""
    words = ["docker", "exec", "-i", *secret("application"), HOSTS[0], *CLI.split(), "--user", "application"]
    words += ["-h", ADDRESS[HOSTS[0]], "-p", str(port)]
    # redis-cli waits for messages until its input ends.
    return subprocess.run(words, input=f"{command}\n", capture_output=True, text=True, check=False).stdout


def test_the_application_hears_what_it_needs() -> None:
    for event in ("+switch-master", "+failover-state-wait-promotion", "+sdown", "+odown", "-sdown"):
        assert f"subscribe\n{event}\n1" in subscribed(SENTINEL, f"SUBSCRIBE {event}")
    assert "psubscribe\n+*\n1" in subscribed(SENTINEL, "PSUBSCRIBE +*")
    # On the servers it has channels of its own.
    assert "subscribe\nnews\n1" in subscribed(6379, "SUBSCRIBE news")
    assert redis(HOSTS[0], 6379, "PUBLISH", "news", "x", user="application") == "0"


def test_a_forged_order_to_the_sentinels_moves_nothing() -> None:
    """Who says that shard 1 lives at 192.0.2.66 in a newer epoch is believed, on the servers as on the sentinels."""
    leader = master_of(ONE)
    places = [(leader, SHARDS[ONE][leader]), (other(ONE, leader), SHARDS[ONE][other(ONE, leader)])]
    places += [(name, SENTINEL) for name in HOSTS]
    identity = redis(HOSTS[1], SENTINEL, "SENTINEL", "MYID")
    forged = f"{ADDRESS[HOSTS[1]]},{SENTINEL},{identity},9999,{ONE},192.0.2.66,6379,9999"
    for name, port in places:
        answer = redis(name, port, "PUBLISH", "__sentinel__:hello", forged, user="application")
        assert answer.startswith("NOPERM"), f"{name}:{port}: {answer}"
    script = "return redis.pcall('PUBLISH', KEYS[1], ARGV[1])"
    for name, port in places[:2]:
        answer = redis(name, port, "EVAL", script, "1", "__sentinel__:hello", forged, user="application")
        assert "No permissions to access a channel" in answer or "NOPERM" in answer, f"{name}:{port}: {answer}"
    # Longer than the sentinels need to hear each other.
    time.sleep(2.5)
    assert {master_of(ONE, name) for name in HOSTS} == {leader}


def test_an_existing_site_gets_the_rights_under_load() -> None:
    """Accounts as they were, servers and sentinels running: the next run changes them and breaks no connection."""
    wide = {
        "users.acl": {r"resetchannels &\[^_\]\*": r"\&*", "resetchannels &__sentinel__:hello": r"\&*"},
        "sentinel-users.acl": {r"resetchannels &+\* &-\*": r"\&*", "resetchannels &__sentinel__:hello": r"\&*"},
    }
    for name in HOSTS:
        for file, rights in wide.items():
            for new, old in rights.items():
                on(name).check_output(f"sed -i 's/{new}/{old}/' /etc/redis/{file}")
        on(name).check_output("webstack cache reload && webstack cache settle")
    seconds_until(well, 40, "every shard with its replica")
    leader = master_of(ONE)
    assert redis(leader, SHARDS[ONE][leader], "PUBLISH", "__sentinel__:other", "x", user="application") == "0"

    def servers() -> dict[str, str]:
        units = " ".join(f"redis-server@{shard}.service" for shard in SHARDS)
        return {name: on(name).check_output(f"systemctl show -p MainPID --value {units}") for name in HOSTS}

    before, masters = servers(), {shard: master_of(shard) for shard in SHARDS}
    load = on(leader)
    script = (
        f"{CLI} --user application -h {ADDRESS[leader]} -p {SHARDS[ONE][leader]} -r 100000 -i 0.01 SET load x"
        " > /run/load 2>&1 & echo $! > /run/load.pid"
    ).replace("timeout 5 ", "timeout 300 ")
    docker("exec", *secret("application"), leader, "sh", "-c", script)
    result = play()
    load.run("kill $(cat /run/load.pid)")
    assert result.returncode == 0, result.stdout
    assert set(load.check_output("cat /run/load").split()) == {"OK"}
    assert servers() == before
    assert {shard: master_of(shard) for shard in SHARDS} == masters
    for name in HOSTS:
        for port in (6379, 6380, SENTINEL):
            assert "NOPERM" in redis(name, port, "PUBLISH", "__sentinel__:other", "x", user="application")
    seconds_until(well, 40, "every shard with its replica")
    # The sentinels still hear each other, by the channel that is theirs.
    heard = redis(HOSTS[0], SENTINEL, "SENTINEL", "SENTINELS", ONE).splitlines()
    ages = [int(heard[line + 1]) for line, word in enumerate(heard) if word == "last-hello-message"]
    assert len(ages) == 2 and max(ages) < 5000, heard
    result = play()
    assert result.stdout.count("changed=0") == len(HOSTS), result.stdout


VICTIM = "/root/victim"


def test_the_servers_account_does_not_become_root() -> None:
    """It owns the directories in which root writes before the servers and Sentinel start."""
    host = on(HOSTS[0])

    def as_account(script: str) -> None:
        host.check_output(f"runuser -u redis -- sh -ec '{script}'")

    def untouched() -> None:
        found = host.check_output(f"cd {VICTIM} && stat -c '%U:%G %a %s %n' * && cat secret")
        assert found == "root:root 600 5 secret\n4711", found

    host.check_output(f"rm -rf {VICTIM}; install -d -m 0711 {VICTIM}; echo 4711 > {VICTIM}/secret")
    host.check_output(f"chmod 0711 /root; chmod 0600 {VICTIM}/secret")
    program = "/usr/local/sbin/webstack cache"
    # Directories of units that run: they stay while the tool writes there.
    places = ["/var/lib/redis/.sentinel.conf.new", "/run/sentinel/.started-with.new", "/run/sentinel/.loaded.new"]
    places += [f"/run/redis-{ONE}/.{name}.new" for name in ("role.conf", "started-with", "loaded")]
    try:
        for goal in ("secret", "new"):
            for place in places:
                as_account(f"ln -sf {VICTIM}/{goal} {place}")
            for command in ("sentinel", f"guard {ONE}"):
                host.check_output(f"{program} {command}")
            untouched()
        for place in places:
            as_account(f"rm -f {place}")

        # What Sentinel learned, or a link to what it must not read, or a pipe that nobody writes to.
        as_account("mv /var/lib/redis/sentinel.conf /var/lib/redis/away")
        for plant, said in ((f"ln -s {VICTIM}/secret", "is a link"), ("mkfifo", "is no file")):
            as_account(f"{plant} /var/lib/redis/sentinel.conf")
            done = host.run(f"timeout 20 {program} sentinel")
            assert done.rc == 1
            assert f"/var/lib/redis/sentinel.conf {said}" in done.stderr
            untouched()
            as_account("rm /var/lib/redis/sentinel.conf")
        as_account("mv /var/lib/redis/away /var/lib/redis/sentinel.conf")

        # A directory of a shard that leads elsewhere: the role gives it to the account.
        host.check_output(f"systemctl stop redis-server@{ONE}.service")
        as_account(f"cd /var/lib/redis; mv {ONE} away; ln -s {VICTIM} {ONE}")
        result = play("--limit", HOSTS[0])
        assert result.returncode != 0
        assert f"/var/lib/redis/{ONE} is a link" in result.stdout, result.stdout
        untouched()
        assert host.check_output(f"stat -c %U:%G {VICTIM}") == "root:root"
        as_account(f"cd /var/lib/redis; rm {ONE}; mv away {ONE}")
        host.check_output(f"systemctl start redis-server@{ONE}.service")

        # Where the role's files lie it cannot plant anything: a name like this one would remove /var/lib.
        for plant in ("touch /etc/redis/redis-...conf", "ln -s /root /etc/redis/new", "mv /etc/redis/tls /etc/redis/t"):
            assert host.run(f"runuser -u redis -- {plant}").rc != 0, plant
    finally:
        host.run(f"rm -rf {VICTIM}; chmod 0700 /root; systemctl start redis-server@{ONE}.service")
    seconds_until(well, 40, "every shard with its replica")


def test_nobody_comes_in_without_a_password() -> None:
    for port in (6379, SENTINEL):
        assert "NOAUTH" in on("shard-redis2").run(f"{CLI} -h {ADDRESS['shard-redis1']} -p {port} ROLE").stdout
        assert "WRONGPASS" in redis("shard-redis1", port, "ROLE", password="something else")
        # Not even with the right one without a name.
        assert "WRONGPASS" in redis("shard-redis1", port, "ROLE", user="default", password=PASSWORDS["application"])
    # Even root's process list and the world's view of the files show nothing.
    secrets = "471[1-4]"
    assert on("shard-redis1").run(f"ps axww -o args | grep -v grep | grep {secrets}").stdout == ""
    assert (
        on("shard-redis1").run(f"runuser -u nobody -- grep -rs {secrets} /etc/redis /var/lib/redis /run").stdout == ""
    )
    # The accounts' file holds digests only.
    assert on("shard-redis1").run(f"grep -s {secrets} /etc/redis/users.acl /etc/redis/sentinel-users.acl").stdout == ""


def handshake(port: int, *options: str) -> str:
    """Try TLS with the first host, from another one."""
    address = ADDRESS["shard-redis1"]
    words = " ".join(["openssl s_client -brief -verify_return_error", "-connect", f"{address}:{port}", *options])
    return on("shard-redis2").run(f"timeout 5 {words} </dev/null 2>&1").stdout


def test_nothing_but_tls_of_today_with_a_certificate_of_the_own_authority() -> None:
    own = f"-CAfile /etc/redis/tls/ca.pem -verify_ip {ADDRESS['shard-redis1']}"
    for port in (6379, 6380, SENTINEL):
        for version in ("1_2", "1_3"):
            assert "Verification: OK" in handshake(port, own, f"-tls{version}")
        assert "CONNECTION ESTABLISHED" not in handshake(port, own, "-tls1_1", "-cipher ALL@SECLEVEL=0")
        # The certificate is this address's and no other's, and no public authority's.
        assert "IP address mismatch" in handshake(port, "-CAfile /etc/redis/tls/ca.pem -verify_ip 10.77.4.99")
        assert "verify error" in handshake(port, "-verify_ip", ADDRESS["shard-redis1"])
        plain = on("shard-redis2").run(f"timeout 5 redis-cli -h {ADDRESS['shard-redis1']} -p {port} PING")
        assert "PONG" not in plain.stdout


def test_killed_server_is_replaced_and_follows() -> None:
    """systemd brings a killed server back in a moment, empty: it must not become master of the emptiness."""
    leader = master_of(ONE)
    heir = other(ONE, leader)
    port = SHARDS[ONE]
    assert redis(leader, port[leader], "SET", "kept", "yes") == "OK"
    assert redis(leader, port[leader], "WAIT", "1", "2000") == "1"
    on(leader).check_output("systemctl kill --signal=KILL redis-server@shard-redis1.service")
    took = seconds_until(lambda: redis(heir, port[heir], "SET", "after", "kill") == "OK", 8, f"{heir} writable")
    back = seconds_until(lambda: linked(leader, port[leader]), 15, f"{leader} follows {heir}")
    print(f"figure: server killed: writable again after {took:.2f} s, old master follows after {took + back:.2f} s")
    assert redis(heir, port[heir], "GET", "kept") == "yes"
    assert redis(leader, port[leader], "GET", "kept") == "yes"
    assert redis(leader, port[leader], "GET", "after") == "kill"


def test_killed_host_is_replaced_and_a_rerun_keeps_the_choice() -> None:
    lost = master_of(ONE)
    witness = next(name for name in HOSTS if name != lost)
    heir = other(ONE, lost)
    port = SHARDS[ONE]
    assert redis(lost, port[lost], "SET", "before", "kill") == "OK"
    assert redis(lost, port[lost], "WAIT", "1", "2000") == "1"
    docker("kill", lost)
    try:
        took = seconds_until(
            lambda: redis(heir, port[heir], "SET", "after", "kill", via=heir) == "OK", 10, f"{heir} writable"
        )
        for shard in SHARDS:
            seconds_until(lambda shard=shard: master_of(shard, witness) != lost, 10, f"{shard} has left {lost}")
        print(f"figure: host killed: its shard writable again after {took:.2f} s")
    finally:
        docker("start", lost)
    back = seconds_until(lambda: linked(lost, port[lost]), 30, f"{lost} returns as a replica")
    print(f"figure: host back as a replica {back:.1f} s after its power")
    assert redis(lost, port[lost], "GET", "before") == "kill"
    assert redis(lost, port[lost], "GET", "after") == "kill"

    after = {shard: master_of(shard) for shard in SHARDS}
    assert after[ONE] == heir
    seconds_until(well, 40, "every shard with its replica")
    result = play()
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("changed=0") == len(HOSTS), result.stdout
    assert {shard: master_of(shard) for shard in SHARDS} == after


def test_power_fails_everywhere_and_the_master_is_remembered() -> None:
    """The inventory names another first node: only what the sentinels wrote down can tell.

    A host that is later than the others may lose its masters to them by a vote; what counts is what they begin with.
    """
    first, second = SHARDS[ONE]
    if master_of(ONE) == first:
        on(first).check_output(f"webstack cache failover {ONE}")
    for name in HOSTS:
        seconds_until(lambda name=name: master_of(ONE, name) == second, 10, f"{name} knows the master")
    docker("kill", *HOSTS)
    began = time.time()
    docker("start", *HOSTS)
    took = seconds_until(well, 60, "every shard after the power failure")
    print(f"figure: power failure: all shards complete after {took:.1f} s")
    for name in HOSTS:
        said = on(name).check_output(f"journalctl -o cat --since @{began:.3f} | grep -F '+monitor master {ONE} '")
        assert f"{ONE} {ADDRESS[second]} {SHARDS[ONE][second]} " in said, said


def test_planned_hand_over_loses_nothing() -> None:
    leader = master_of(TWO)
    heir = other(TWO, leader)
    port = SHARDS[TWO]
    for number in range(20):
        assert redis(leader, port[leader], "SET", f"key{number}", "kept") == "OK"
    start = time.monotonic()
    assert "handed over" in on(leader).check_output(f"webstack cache failover {TWO}")
    print(f"figure: planned hand-over: {time.monotonic() - start:.2f} s")
    assert role(heir, port[heir]) == "master"
    assert all(redis(heir, port[heir], "GET", f"key{number}") == "kept" for number in range(20))


def survivors(store: bool = False) -> list[str]:
    """Write a key to each shard's master, or return the nodes that do not have it."""
    found = []
    for shard, nodes in SHARDS.items():
        if store:
            leader = master_of(shard)
            assert redis(leader, nodes[leader], "SET", "survivor", shard) == "OK"
            assert redis(leader, nodes[leader], "WAIT", "1", "2000") == "1"
        else:
            found += [f"{shard} on {name}" for name in nodes if redis(name, nodes[name], "GET", "survivor") != shard]
    return found


def test_static_change_reaches_server_and_sentinel_without_loss() -> None:
    """On one host, which is made the master of a shard first: it hands over before it restarts."""
    name = "shard-redis1"
    if role(name, 6379) != "master":
        on(other(ONE, name)).check_output(f"webstack cache failover {ONE}")
        seconds_until(well, 40, "the shard after the hand-over")
    survivors(store=True)
    result = play("--limit", name, redis_shard_max_memory="80mb", redis_shard_down_after_milliseconds=1500)
    assert result.returncode == 0, result.stdout
    for port in (6379, 6380):
        assert redis(name, port, "CONFIG", "GET", "maxmemory").splitlines()[1] == str(80 * 1024 * 1024)
    assert role(name, 6379) == "slave"
    assert survivors() == []
    told = redis(name, SENTINEL, "SENTINEL", "MASTER", ONE).splitlines()
    # It is the last in turn for the shard that is at home with it: the second that may lead.
    assert told[told.index("down-after-milliseconds") + 1] == "1900"


NEW = {
    "application": "another-application 4721",
    "admin": "another-operator-4724",
    "replication": "other-replicas 4722",
}


def test_passwords_change_without_losing_a_key_or_a_connection() -> None:
    """With the old ones as fallbacks; a connection that is open stays open."""
    survivors(store=True)
    leader = master_of(TWO)
    patient = CLI.replace("timeout 5", "timeout 300").split()
    command = ["docker", "exec", "-i", *secret("application"), leader, *patient]
    command += ["--user", "application", "-h", ADDRESS[leader], "-p", str(SHARDS[TWO][leader])]
    open_one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert open_one.stdin is not None
    open_one.stdin.write("SET first 1\n")
    open_one.stdin.flush()
    variables = {
        "redis_shard_password": NEW["application"],
        "redis_shard_admin_password": NEW["admin"],
        "redis_shard_password_fallbacks": {account: [PASSWORDS[account]] for account in NEW},
    }
    result = play(**variables)
    assert result.returncode == 0, result.stdout
    # Nothing restarts for accounts: the same processes go on, and so does who was logged in.
    assert master_of(TWO) == leader
    output, _errors = open_one.communicate("SET second 2\n", timeout=20)
    assert output.split() == ["OK", "OK"]
    assert survivors() == []
    for password in (NEW["application"], PASSWORDS["application"]):
        assert redis(leader, SHARDS[TWO][leader], "PING", user="application", password=password) == "PONG"
    # The servers' own: each restarts once, handing over first.
    variables["redis_shard_replication_password"] = NEW["replication"]
    result = play(**variables)
    assert result.returncode == 0, result.stdout
    assert survivors() == []
    # Back, without fallbacks: what is not listed is not accepted any more.
    variables["redis_shard_password_fallbacks"] = {account: [NEW[account]] for account in NEW}
    for account in NEW:
        variables["redis_shard_password" if account == "application" else f"redis_shard_{account}_password"] = (
            PASSWORDS[account]
        )
    assert play(**variables).returncode == 0
    result = play()
    assert result.returncode == 0, result.stdout
    assert survivors() == []
    leader = master_of(TWO)
    for account, password in NEW.items():
        assert "WRONGPASS" in redis(leader, SHARDS[TWO][leader], "PING", user=account, password=password)


def test_a_renewed_certificate_is_taken_up_without_a_restart() -> None:
    name = "shard-redis1"
    pki = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki"
    show = (
        f"timeout 5 openssl s_client -connect {ADDRESS[name]}:%s </dev/null 2>/dev/null | openssl x509 -noout -serial"
    )
    before = {port: on(name).check_output(show % port) for port in (6379, 6380, SENTINEL)}
    started = on(name).check_output("systemctl show -p ExecMainPID redis-server@*.service")
    for suffix in ("crt", "key"):
        (pki / f"{name}-cache.{suffix}").unlink()
    result = play("--limit", name)
    assert result.returncode == 0, result.stdout
    after = {port: on(name).check_output(show % port) for port in (6379, 6380, SENTINEL)}
    assert all(after[port] != before[port] for port in before)
    assert len(set(after.values())) == 1
    assert on(name).check_output("systemctl show -p ExecMainPID redis-server@*.service") == started


NODES = [
    {"name": "shard-redis1", "address": "10.77.4.11", "port": 6379},
    {"name": "shard-redis2", "address": "10.77.4.12", "port": 6380},
]
REFUSALS: list[tuple[dict[str, object], str]] = [
    # The server reads its file before the file is written.
    ({"redis_shard_settings": {"activedefrag": "sometimes"}}, "argument must be 'yes' or 'no'"),
    ({"redis_shard_settings": {"hz": 2.5}}, "redis_shard_settings: "),
    ({"redis_shard_settings": {"no-such-setting": True}}, "redis_shard_settings: "),
    ({"redis_shard_settings": {"save": {"a": 1}}}, "redis_shard_settings.save is a mapping"),
    ({"redis_shard_settings": {"hz": None}}, "redis_shard_settings.hz has no value"),
    ({"redis_shard_node_name": "stranger"}, "stranger (redis_shard_node_name) is neither a node"),
    (
        {"redis_shard_sentinels": [{"name": "shard-redis1", "address": "10.77.4.11", "port": SENTINEL}]},
        "redis_shard_sentinels: has 1: an odd number",
    ),
    (
        {"redis_shard_shards": [{"name": "s1", "nodes": [NODES[0], {**NODES[0], "port": 6380}]}]},
        "two nodes of shard s1 have the name shard-redis1",
    ),
    (
        {"redis_shard_shards": [{"name": "s1", "nodes": [NODES[0], {**NODES[1], "name": "alias"}]}]},
        "address 10.77.4.12 stands for alias and for shard-redis2",
    ),
    ({"redis_shard_password": "short"}, "redis_shard_password must have 16 characters"),
    ({"redis_shard_admin_password": PASSWORDS["sentinel"]}, "differ from the other passwords of the cache"),
    ({"redis_shard_persistence": "often"}, "redis_shard_persistence"),
    ({"redis_shard_max_memory_policy": "keep-all"}, "redis_shard_max_memory_policy"),
    ({"redis_shard_max_memory": "2 barrels"}, "redis_shard_max_memory: must be an amount of memory"),
    ({"redis_shard_max_memory": "0"}, "redis_shard_max_memory: must be an amount of memory"),
    ({"redis_shard_max_memory": "900gb"}, "for 2 instance(s), and the host has"),
    ({"redis_shard_shards": []}, "redis_shard_shards: is empty"),
    ({"redis_shard_server": "valkey"}, "needs Debian 13" if DEBIAN < 13 else "All that the cache holds would be gone"),
    ({"redis_shard_tls_enabled": False}, "All that the cache holds would be gone"),
    ({"redis_shard_engine": "redis_cluster"}, "the engine redis_cluster has no Sentinel"),
    ({"redis_shard_engine": "redis_cluster", "redis_shard_sentinels": []}, "All that the cache holds would be gone"),
]


def test_refusals(tmp_path: pathlib.Path) -> None:
    assert_refused("redis_shard", "shard-redis1", REFUSALS, tmp_path)

"""The whole site, from the client through the virtual address; every host killed in turn, never two at once."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import time

import pytest
import yaml
from containers import docker
from documents import document
from levers import ROOT, Visitor, host, playbook, recap, wait_for

TIERS = {
    "lb": ["lb1", "lb2"],
    "was": ["was1", "was2"],
    "redis": ["redis1", "redis2", "redis3"],
    "db": ["db1", "db2"],
}


def sql(name: str, statement: str) -> str:
    result = host(name).run(f"mariadb --batch --skip-column-names -e {json.dumps(statement)}")
    assert result.rc == 0, result.stderr
    return result.stdout.strip()


def database_state(name: str) -> dict:
    return json.loads(host(name).check_output("webstack db status --json"))


def primary() -> str:
    writers = [name for name in TIERS["db"] if database_state(name)["role"] == "primary"]
    assert len(writers) == 1, writers
    return writers[0]


def replica() -> str:
    return next(name for name in TIERS["db"] if name != primary())


def replication_runs() -> bool:
    state = database_state(replica())
    link, pair = state["replica"], state["agent"]["state"]
    return link["io"] and link["sql"] and link["lag_seconds"] == 0 and pair["replica"] == replica()


def owners() -> list[str]:
    return [n for n in TIERS["lb"] if "10.77.0.100" in host(n).check_output("ip -o -4 addr show dev eth0")]


# --- what a run leaves ------------------------------------------------------------------------------


def test_installed_copy_finds_nothing_to_change(tmp_path: pathlib.Path) -> None:
    """The second run, with the collection built and installed as a user would, outside of the checkout."""
    galaxy = str(ROOT / ".venv/bin/ansible-galaxy")
    subprocess.run(
        [galaxy, "collection", "build", "--output-path", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (tarball,) = tmp_path.glob("*.tar.gz")
    install = [
        galaxy,
        "collection",
        "install",
        "--no-deps",
        "-p",
        tmp_path / "collections",
        tarball,
    ]
    subprocess.run(install, check=True, capture_output=True)
    result = playbook("webstack.ha.site", collections=tmp_path / "collections")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    changes = recap(result.stdout)
    assert set(changes) >= {name for names in TIERS.values() for name in names}
    assert not any(changes.values()), result.stdout[-6000:]


def test_the_deploy_marked_the_moment_before_it_migrated() -> None:
    for name in TIERS["db"]:
        found = document(host(name).check_output("webstack db marks --json"))["marks"]
        assert [re.sub(r" \S+ ", " ID ", mark["name"]) for mark in found][:1] == ["site: ID migrates"], found


def test_the_site_never_changes_the_ring_by_the_way() -> None:
    """One server that changed its ring alone would read what the others have replaced elsewhere."""
    result = playbook("playbooks/site.yml", "-e", "redis_shard_weight=3")
    said = " ".join((result.stdout + result.stderr).split())
    assert result.returncode != 0
    assert "Nothing was changed. The ring of the inventory is not the one in use" in said
    assert "webstack.ha.resize_cache shows what that means" in said
    assert not any(recap(result.stdout).values()), result.stdout


def test_every_host_says_of_its_tiers_that_nothing_is_wrong() -> None:
    """One command for all that lives on a host; the site has just been built."""
    tiers = {
        "lb": {"vip", "lb", "tls"},
        "was": {"app", "media"},
        "redis": {"cache", "quorum"},
        "db": {"db", "backup", "quorum"},
    }
    for group, names in TIERS.items():
        for name in names:
            done = host(name).run("webstack status --json")
            said = json.loads(done.stdout)
            assert document(done.stdout)["problems"] == [], said
            for tier in tiers[group] - {"app"}:
                answer = host(name).run(f"webstack {tier} status --json")
                assert (answer.rc, document(answer.stdout)["problems"]) == (0, []), answer
            assert (done.rc, said["format"], said["host"], set(said["tiers"])) == (0, 1, name, tiers[group])
            shown = host(name).check_output("webstack status")
            assert shown.endswith("nothing is wrong"), shown


def test_no_secret_is_readable_by_everybody_or_in_a_process_list() -> None:
    secrets = yaml.safe_load((ROOT / "inventories/demo/group_vars/all/secrets.yml").read_text())
    for name in [name for names in TIERS.values() for name in names]:
        processes = host(name).check_output("ps -eww -o args")
        readable = "grep -rlsF -e {} /etc /opt /srv /var/lib /var/log /usr/local --exclude-dir=mysql 2>/dev/null"
        for value in secrets.values():
            assert value not in processes, f"{name}: a secret is in the process list"
            found = host(name).run(f"su -s /bin/sh nobody -c '{readable.format(value)}'")
            assert not found.stdout, f"{name}: {found.stdout}"


# --- the site at rest -------------------------------------------------------------------------------


def test_login_and_its_session_live_on_both_servers(visitor: Visitor) -> None:
    status, _ = visitor.post("/login/", "name=ada")
    assert status == 302
    for _ in range(3):
        assert visitor.post("/counter/")[0] == 302
    seen = [visitor.whoami() for _ in range(30)]
    assert {answer["server"] for answer in seen} == set(TIERS["was"])
    assert {(answer["user"], answer["counter"]) for answer in seen} == {("ada", 3)}
    assert {answer["shard"] for answer in seen} <= {"redis1", "redis2", "redis3"}


def test_sessions_spread_over_the_shards(visitor: Visitor) -> None:
    shards = set()
    for number in range(12):
        other = Visitor()
        other.post("/login/", f"name=user{number}")
        shards.add(other.whoami()["shard"])
    assert shards == {"redis1", "redis2", "redis3"}


def test_upload_is_on_both_servers(visitor: Visitor) -> None:
    visitor.host.run("head -c 200000 /dev/urandom > /tmp/upload.bin")
    wanted = visitor.host.check_output("sha256sum < /tmp/upload.bin")
    assert visitor.post("/upload/", "file=@/tmp/upload.bin;filename=proof.bin")[0] == 302

    def found(name: str) -> str:
        return host(name).run("cat /srv/webstack/media/board/*_proof.bin | sha256sum").stdout.strip()

    for name in TIERS["was"]:
        wait_for(f"the upload on {name}", lambda n=name: found(n) == wanted, 20)


def test_upload_answers_at_once_through_the_virtual_address(visitor: Visitor) -> None:
    """Also before it has spread: a balancer asks the other server when one has it not yet."""
    answers = []
    for number in range(5):
        visitor.host.run(f"echo proof {number} > /tmp/now.txt")
        assert visitor.post("/upload/", f"file=@/tmp/now.txt;filename=now{number}.txt")[0] == 302
        found = [host(name).run(f"ls /srv/webstack/media/board | grep now{number}.txt").stdout for name in TIERS["was"]]
        url = "/media/board/" + "".join(found).split()[0]
        answers += [visitor.get(url)[0] for _ in range(4)]
    assert answers == [200] * 20


def test_note_is_on_the_replica(visitor: Visitor) -> None:
    text = "written on the primary, read on the replica"
    assert visitor.post("/notes/", f"text={text}")[0] == 302
    wait_for(
        "the note on the replica",
        lambda: text in sql(replica(), "SELECT text FROM site.board_note"),
        10,
    )


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_what_an_interface_for_programs_asks_with_reaches_the_application(visitor: Visitor, method: str) -> None:
    command = f"curl -sk -o /dev/null -w '%{{http_code}}' -X {method} https://www.demo.test/"
    assert 200 <= int(visitor.host.check_output(command)) < 500


@pytest.mark.parametrize("method", ["PROPFIND", "BREW"])  # TRACE gets a 405 from nginx itself
def test_other_methods_are_closed(visitor: Visitor, method: str) -> None:
    result = visitor.host.run(f"curl -sk -o /dev/null -X {method} https://www.demo.test/")
    assert result.rc in (52, 92), f"{method} was answered ({result.rc})"  # empty reply, stream closed


def test_plain_http_leads_to_https(visitor: Visitor) -> None:
    result = visitor.host.check_output(
        "curl -s -o /dev/null -w '%{http_code} %{redirect_url}' http://www.demo.test/x?y=1"
    )
    assert result == "301 https://www.demo.test/x?y=1"


# --- every host killed in turn ----------------------------------------------------------------------

PROBE = ("--seconds", "10", "--interval", "0.05", "--by", "server")


def report_line(name: str, report: dict) -> None:
    keys = ("requests", "failed", "longest_outage_ms", "p99_ms", "statuses")
    print(f"figure: killed {name}: " + ", ".join(f"{key} {report[key]}" for key in keys))


def whole() -> bool:
    """Every tier has its spare again: the next kill is the only one."""
    try:
        return len(owners()) == 1 and replication_runs()
    except AssertionError:
        return False


@pytest.mark.parametrize("role", [pytest.param("active", marks=pytest.mark.quiet), "standby"])
def test_balancer_killed(role: str, killed, probe) -> None:
    wait_for("a whole site", whole)
    (owner,) = owners()
    victim = owner if role == "active" else next(n for n in TIERS["lb"] if n != owner)
    waiting = probe("/whoami", *PROBE, "--timeout", "2")
    host("client").run("sleep 2")
    killed(victim)
    report = waiting()
    report_line(f"{victim} ({role} balancer)", report)
    # design: 220 ms in the median, 300 at the worst, on machines of their own; here ten hosts share two cores.
    assert report["longest_outage_ms"] <= (1000 if role == "active" else 0), report
    assert report["failed"] <= (20 if role == "active" else 0), report


def test_returning_balancer_takes_nothing_back(killed, probe) -> None:
    wait_for("a whole site", whole)
    (owner,) = owners()
    killed(owner)
    wait_for("a new owner", lambda: owners_of_living(owner))
    waiting = probe("/whoami", *PROBE)
    docker("start", owner)
    report = waiting()
    assert report["failed"] == 0, report
    assert owner not in owners()


def owners_of_living(dead: str) -> list[str]:
    living = [n for n in TIERS["lb"] if n != dead]
    return [n for n in living if "10.77.0.100" in host(n).run("ip -o -4 addr show dev eth0").stdout]


@pytest.mark.parametrize("victim", TIERS["was"])
def test_application_server_killed(victim: str, killed, probe) -> None:
    wait_for("a whole site", whole)
    waiting = probe("/whoami", *PROBE)
    host("client").run("sleep 2")
    killed(victim)
    report = waiting()
    report_line(f"{victim} (application server)", report)
    assert report["failed"] == 0, report
    assert set(report["by"]) == set(TIERS["was"])


@pytest.mark.parametrize("victim", TIERS["redis"])
def test_redis_host_killed(victim: str, killed, probe) -> None:
    wait_for("a whole site", whole)
    visitors = [Visitor() for _ in range(6)]
    for number, other in enumerate(visitors):
        assert other.post("/login/", f"name=v{number}")[0] == 302
    waiting = probe("/whoami", *PROBE)
    host("client").run("sleep 2")
    killed(victim)
    names = [other.whoami()["user"] for other in visitors]
    report = waiting()
    report_line(f"{victim} (Redis)", report)
    assert report["failed"] == 0, report
    assert names == [f"v{number}" for number in range(6)], "a lost shard logged somebody out"


def test_database_replica_killed(killed, probe, visitor: Visitor) -> None:
    wait_for("a whole site", whole)
    victim = replica()
    waiting = probe("/whoami", *PROBE)
    host("client").run("sleep 2")
    killed(victim)
    status, _ = visitor.post("/notes/", "text=written while the replica is away")
    report = waiting()
    report_line(f"{victim} (database replica)", report)
    assert report["failed"] == 0, report
    assert status == 302, "a write did not survive the loss of the replica"


def test_database_primary_killed(killed, probe, visitor: Visitor) -> None:
    wait_for("a whole site", whole)
    victim = primary()
    assert visitor.post("/login/", "name=grace")[0] == 302
    assert visitor.post("/notes/", "text=before the primary went")[0] == 302
    # every server has seen both pages
    for _ in range(8):
        visitor.get("/")
        visitor.get("/notes/")
    waiting = probe("/whoami", *PROBE, "--timeout", "8")
    pages = probe("/notes/", "--seconds", "10", "--interval", "0.2", "--timeout", "8")
    host("client").run("sleep 2")
    killed(victim)
    began = time.monotonic()
    answers = []
    wait_for(
        "a write",
        lambda: not answers.append(visitor.post("/notes/", "text=written without it")[0]) and answers[-1] == 302,
    )
    print(f"figure: {victim} (database primary): a write after {time.monotonic() - began:.1f} s; before {answers[:-1]}")
    # Nobody is told anything else than "not now".
    assert set(answers[:-1]) <= {503}
    assert visitor.whoami()["user"] == "grace", "the session went with the database"
    assert "before the primary went" in visitor.get("/notes/")[1]
    report, cached = waiting(), pages()
    report_line(f"{victim} (database primary), session reads", report)
    report_line(f"{victim} (database primary), cached page", cached)
    assert report["failed"] == 0, report
    assert cached["failed"] == 0, cached


def test_the_lost_primary_is_a_replica_when_it_is_back(visitor: Visitor) -> None:
    wait_for("a whole site", whole)
    assert visitor.post("/notes/", "text=after the return")[0] == 302
    wait_for("the rows on the replica", replication_runs)
    texts = sql(replica(), "SELECT text FROM site.board_note")
    assert {"before the primary went", "written without it", "after the return"} <= set(texts.splitlines())


def test_run_after_the_faults_moves_no_role() -> None:
    """Sentinel promoted, the address moved: the inventory still names the old order, and the servers keep theirs."""
    wait_for("a whole site", whole)
    before = (owners(), primary(), masters())
    result = playbook("playbooks/site.yml")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert not any(recap(result.stdout).values()), result.stdout[-6000:]
    assert (owners(), primary(), masters()) == before


def masters() -> dict[str, str]:
    """Shard -> address of its primary, as Sentinel says."""
    password = yaml.safe_load((ROOT / "inventories/demo/group_vars/all/secrets.yml").read_text())[
        "webstack_cache_password"
    ]
    client = host("redis1")
    return {
        shard: client.check_output(
            f"REDISCLI_AUTH={password} redis-cli --tls --cacert /etc/redis/tls/ca.pem --user application"
            f" --no-auth-warning -h 10.77.0.31 -p 26379 sentinel get-master-addr-by-name {shard}"
        )
        for shard in ("redis1", "redis2", "redis3")
    }


# --- a backup that restores -------------------------------------------------------------------------


def test_table_dropped_and_restored(visitor: Visitor) -> None:
    wait_for("a whole site", whole)
    for number in range(20):
        sql(
            primary(),
            f"INSERT INTO site.board_note (author, text, server, created) VALUES ('t', 'row {number}', 'x', NOW())",
        )
    wait_for("the rows on the replica", replication_runs)
    rows = sql(primary(), "SELECT COUNT(*) FROM site.board_note")
    checksum = sql(primary(), "CHECKSUM TABLE site.board_note")

    backup = playbook("playbooks/backup.yml")
    assert backup.returncode == 0, backup.stdout[-4000:] + backup.stderr[-2000:]
    # Not the latest: the hourly one may come when the table is gone.
    snapshot = re.search(r"webstack-backup: ok .*snapshot=([0-9a-f]+)", backup.stdout)
    assert snapshot, backup.stdout

    sql(primary(), "DROP TABLE site.board_note")
    refused = playbook("playbooks/restore.yml")
    assert refused.returncode != 0
    assert "backup_slave_restore_confirm" in refused.stdout + refused.stderr

    options = (
        "-e",
        f"backup_slave_restore_snapshot={snapshot[1]}",
        "-e",
        "backup_slave_restore_confirm=true",
    )
    restore = playbook("playbooks/restore.yml", *options)
    assert restore.returncode == 0, restore.stdout[-4000:] + restore.stderr[-2000:]
    wait_for("replication", replication_runs)
    for name in TIERS["db"]:
        assert sql(name, "SELECT COUNT(*) FROM site.board_note") == rows
        assert sql(name, "CHECKSUM TABLE site.board_note") == checksum
    wait_for(
        "a write",
        lambda: visitor.post("/notes/", "text=after the restore")[0] == 302,
        30,
    )
    print(f"figure: restored {rows} rows, checksum {checksum.split()[-1]} on both servers")

"""The pair as a client, an operator and a fault see it.

The tests change roles, kill servers and seed again; they run in the order in which they stand, and each leaves a
working pair behind. Figures are printed with `pytest -s`.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from containers import attempt, docker
from documents import document
from rerun import play

ROOT = pathlib.Path(__file__).resolve().parents[3]
DB1, DB2 = "mysql-db1", "mysql-db2"
ADDRESS = {DB1: "10.77.6.11", DB2: "10.77.6.12"}
WRITER = "10.77.6.100"
CA = "/etc/mysql/webstack/ca.pem"
SITE_PASSWORD = 'it\'s a "lab" \\ secret'


def on(host: str, *command: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = attempt(host, *command, text=text)
    if check:
        assert result.returncode == 0, f"{host}: {command}: {result.stdout}{result.stderr}"
    return result


def sql(host: str, statements: str) -> list[list[str]]:
    """As root, over the socket."""
    out = on(host, "mariadb", "--batch", "--skip-column-names", text=statements).stdout
    return [line.split("\t") for line in out.splitlines()]


def client(
    statement: str, host: str = WRITER, user: str = "site", password: str = SITE_PASSWORD, tls: bool = True
) -> subprocess.CompletedProcess[str]:
    """As an application, over the network, from the second host."""
    options = [f"--ssl-ca={CA}", "--ssl-verify-server-cert"] if tls else ["--skip-ssl"]
    script = ["sh", "-c", 'MYSQL_PWD=$0 exec mariadb --no-defaults --batch -N --connect-timeout=2 "$@"', password]
    return on(DB2, *script, f"--user={user}", f"--host={host}", *options, text=statement, check=False)


def status(host: str) -> dict[str, Any]:
    return document(on(host, "webstack", "db", "status", "--json").stdout)


def has_address(host: str) -> bool:
    return f" {WRITER}/" in on(host, "ip", "-4", "address").stdout


def until(good: Callable[[], bool], seconds: float = 40) -> float:
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if good():
            return time.monotonic() - started
        time.sleep(0.2)
    for host in ADDRESS:
        print(on(host, "webstack", "db", "status", check=False).stdout)
        print(on(host, "journalctl", "--no-pager", "-n40", "-uwebstack-db*", "-umariadb", check=False).stdout)
    raise AssertionError(f"not within {seconds} s")


def is_pair(primary: str, replica: str) -> bool:
    result = on(replica, "webstack", "db", "status", "--json", check=False)
    if result.returncode != 0:
        return False
    state = json.loads(result.stdout)
    link, peer = state["replica"], state["peer"]
    return bool(
        state["running"]
        and state["read_only"]
        and link["io"]
        and link["sql"]
        and link["lag_seconds"] == 0
        and peer["reachable"]
        and not peer["read_only"]
        and has_address(primary)
        and not has_address(replica)
    )


def converge(*extra: str) -> subprocess.CompletedProcess[str]:
    return play("mysql_replication", *extra)


def count_changed(result: subprocess.CompletedProcess[str]) -> int:
    recap = result.stdout.partition("PLAY RECAP")[2]
    return sum(int(word.partition("=")[2]) for word in recap.split() if word.startswith("changed="))


def said(result: subprocess.CompletedProcess[str]) -> str:
    """Output with the line breaks of wrapping taken out."""
    return " ".join((result.stdout + result.stderr).split())


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    until(lambda: is_pair(DB1, DB2))
    result = client("CREATE TABLE IF NOT EXISTS site.note (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(80))")
    assert result.returncode == 0, result.stderr
    yield


def assert_time_zones(host: str) -> None:
    asked = sql(host, "SELECT CONVERT_TZ('2026-07-01 22:30:00', 'UTC', 'Europe/Berlin')")
    assert asked == [["2026-07-02 00:30:00"]]
    assert int(sql(host, "SELECT COUNT(*) FROM mysql.time_zone_name")[0][0]) > 400


def write_note(text: str) -> None:
    result = client(f"INSERT INTO site.note (text) VALUES ('{text}')")
    assert result.returncode == 0, result.stderr


def notes(host: str) -> list[str]:
    return [row[0] for row in sql(host, "SELECT text FROM site.note ORDER BY id")]


class Writer:
    """Inserts numbers at the writer address, some ten a second, and remembers the acknowledged ones."""

    SCRIPT = (
        "i=0; while [ ! -e /run/stop-writer ]; do i=$((i+1)); sleep 0.05; "
        'if MYSQL_PWD="$0" mariadb --no-defaults --user=site --host=' + WRITER + " --connect-timeout=1"
        f" --ssl-ca={CA} -e \"INSERT INTO site.note (text) VALUES ('$1-$i')\" 2>/dev/null; then echo $1-$i; fi; done"
    )

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Writer:
        on(DB2, "rm", "-f", "/run/stop-writer")
        command = ["docker", "exec", DB2, "sh", "-c", self.SCRIPT, SITE_PASSWORD, self.name]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        on(DB2, "touch", "/run/stop-writer")
        self.written = self.process.communicate(timeout=30)[0].split()


# --- a working pair ---------------------------------------------------------------------------------


def test_both_servers_have_the_same_configuration_and_never_a_role() -> None:
    files = [on(h, "cat", "/etc/mysql/mariadb.conf.d/70-webstack.cnf").stdout for h in (DB1, DB2)]
    own = ("server_id", "report_host")
    same = [[line for line in text.splitlines() if not line.startswith(own)] for text in files]
    assert same[0] == same[1]
    names = (
        "gtid_strict_mode", "sync_binlog", "innodb_flush_log_at_trx_commit", "skip_name_resolve", "log_slave_updates",
        "rpl_semi_sync_slave_enabled", "relay_log_recovery",
    )  # fmt: skip
    for host in (DB1, DB2):
        assert "read_only = 1" in files[0]
        assert set(sql(host, "SELECT " + ", ".join(f"@@{n}" for n in names))[0]) == {"1"}
        assert sql(host, "SELECT @@binlog_format")[0] == ["ROW"]


def test_status_tells_the_roles() -> None:
    first, second = status(DB1), status(DB2)
    assert (first["role"], first["read_only"], first["peer"]["role"]) == ("primary", False, "replica")
    assert (second["role"], second["read_only"], second["peer"]["role"]) == ("replica", True, "primary")
    assert second["replica"]["source"] == ADDRESS[DB1]
    assert second["replica"]["error"] == ""
    assert {first["server_id"], second["server_id"]} == {1, 2}
    assert second["replica"]["using_gtid"] == "Slave_Pos"


def test_what_is_written_on_the_primary_is_read_on_the_replica() -> None:
    write_note("first")
    until(lambda: "first" in notes(DB2), 5)


# The other server, asked as the program asks it.
ASK_THE_OTHER = """
import json, sys
sys.path.insert(0, "/usr/local/lib/webstack/current")
from webstack.db.config import Config
from webstack.db.session import peer_session
print(json.dumps(peer_session(Config()).rows(sys.argv[1])))
"""


def test_the_link_is_encrypted_and_both_ends_show_certificates() -> None:
    assert status(DB2)["replica"]["tls"]
    account = json.loads(sql(DB1, "SELECT Priv FROM mysql.global_priv WHERE User = 'replica'")[0][0])
    assert account["ssl_type"] == 2  # REQUIRE X509: without a certificate of the CA nobody gets in
    cipher = json.loads(on(DB2, "python3", "-c", ASK_THE_OTHER, "SHOW STATUS LIKE 'Ssl_cipher'").stdout)
    assert cipher[0]["Value"].startswith(("TLS_", "ECDHE"))
    # What is right but for the certificate.
    password = json.loads(on(DB2, "cat", "/etc/webstack/db.json").stdout)["password"]
    refused = client("SELECT 1", host=ADDRESS[DB1], user="replica", password=password, tls=False)
    assert refused.returncode != 0
    assert "1045" in refused.stderr


def test_semi_sync_is_on_where_it_belongs() -> None:
    assert sql(DB1, "SELECT @@rpl_semi_sync_master_enabled")[0] == ["1"]
    assert sql(DB2, "SELECT @@rpl_semi_sync_master_enabled")[0] == ["0"]
    until(lambda: sql(DB1, "SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'")[0][1] == "1", 10)


def test_the_replica_refuses_writes() -> None:
    refused = client("INSERT INTO site.note (text) VALUES ('no')", host=ADDRESS[DB2])
    assert "1290" in refused.stderr


def test_accounts_work_over_tls_only_and_do_what_they_may() -> None:
    assert "1045" in client("SELECT 1", tls=False).stderr
    assert client("SHOW STATUS LIKE 'Ssl_version'").stdout.split()[1] in ("TLSv1.2", "TLSv1.3")
    sql(DB1, "CREATE TABLE IF NOT EXISTS other_site.page (id INT)")
    reader = {"user": "reader", "password": "reader-of-the-lab"}
    assert client("SELECT COUNT(*) FROM other_site.page", **reader).returncode == 0
    assert "1142" in client("INSERT INTO other_site.page VALUES (1)", **reader).stderr
    # `_` in a schema's name is no wildcard
    sql(DB1, "CREATE DATABASE IF NOT EXISTS otherXsite; CREATE TABLE IF NOT EXISTS otherXsite.page (id INT)")
    assert "1142" in client("SELECT * FROM otherXsite.page", **reader).stderr
    sql(DB1, "DROP DATABASE otherXsite")


def test_root_comes_in_over_the_socket_only() -> None:
    assert client("SELECT 1", user="root", password="").returncode != 0
    assert client("SELECT 1", host=ADDRESS[DB2], user="root", password="").returncode != 0
    rows = sql(DB1, "SELECT User, Host FROM mysql.global_priv WHERE User IN ('', 'root')")
    assert rows == [["root", "localhost"]]
    assert not sql(DB1, "SHOW DATABASES LIKE 'test'")


def test_no_secret_is_readable_or_logged() -> None:
    for path, owner in (
        ("/etc/mysql/webstack/key.pem", "mysql"),
        ("/etc/webstack/db.json", "root"),
    ):
        assert on(DB1, "stat", "-c", "%a %U", path).stdout.split() == ["600", owner]
    # Root reads and writes there, and the server's account plants nothing.
    assert on(DB1, "stat", "-c", "%a %U:%G", "/etc/mysql/webstack").stdout.split() == ["750", "root:mysql"]
    logs = on(DB1, "sh", "-c", "mariadb-binlog /var/lib/mysql/binlog.000*; journalctl --no-pager").stdout
    assert SITE_PASSWORD not in logs
    assert "reader-of-the-lab" not in logs


# --- faults -----------------------------------------------------------------------------------------


def test_a_killed_primary_comes_back_by_itself() -> None:
    with Writer("kill") as writer:
        time.sleep(0.5)
        on(DB1, "sh", "-c", "kill -9 $(cat /run/mysqld/mysqld.pid)")
        until(lambda: not has_address(DB1), 5)
        seconds = until(lambda: is_pair(DB1, DB2))
        time.sleep(0.5)
    print(f"primary killed: pair complete after {seconds:.1f} s, {len(writer.written)} rows acknowledged")
    until(lambda: notes(DB1) == notes(DB2), 10)
    assert set(writer.written) <= set(notes(DB2))


def test_a_restarted_replica_catches_up_read_only() -> None:
    docker("kill", DB2)
    sql(DB1, "INSERT INTO site.note (text) VALUES ('while the replica was away')")
    docker("start", DB2)
    seconds = until(lambda: is_pair(DB1, DB2))
    assert notes(DB2)[-1] == "while the replica was away"
    print(f"replica host killed and started: caught up after {seconds:.1f} s")


# --- an operator ------------------------------------------------------------------------------------


def swap(old: str, new: str) -> None:
    """The two roles change by hand, as the README says."""
    on(old, "webstack", "db", "close")
    position = sql(old, "SELECT @@gtid_binlog_pos")[0][0]
    assert sql(new, f"SELECT MASTER_GTID_WAIT('{position}', 10)")[0] == ["0"]
    sql(new, "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0")
    password = json.loads(on(new, "cat", "/etc/webstack/db.json").stdout)["password"]
    password = password.replace("\\", "\\\\").replace("'", "''")
    sql(
        old,
        f"CHANGE MASTER TO MASTER_HOST='{ADDRESS[new]}', MASTER_USER='replica', MASTER_PASSWORD='{password}',"
        f" MASTER_USE_GTID=slave_pos, MASTER_DEMOTE_TO_SLAVE=1, MASTER_SSL=1, MASTER_SSL_CA='{CA}',"
        " MASTER_SSL_CERT='/etc/mysql/webstack/cert.pem', MASTER_SSL_KEY='/etc/mysql/webstack/key.pem',"
        " MASTER_SSL_VERIFY_SERVER_CERT=1, MASTER_CONNECT_RETRY=1; START SLAVE",
    )
    until(lambda: is_pair(new, old), 15)


def test_a_primary_that_was_closed_by_hand_stays_closed() -> None:
    sql(DB1, "SET GLOBAL read_only = 1")
    until(lambda: not has_address(DB1), 5)
    time.sleep(2)
    assert status(DB1)["read_only"]
    on(DB1, "webstack", "db", "promote")
    assert is_pair(DB1, DB2)


def test_two_writable_servers_are_refused() -> None:
    sql(DB2, "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0")
    result = converge()
    assert result.returncode != 0
    assert f"{DB1} and {DB2} both accept writes" in said(result)
    sql(DB2, "SET GLOBAL read_only = 1")
    until(lambda: not has_address(DB2), 5)


def test_a_replica_on_its_own_is_not_overwritten_unasked() -> None:
    refused = on(DB2, "webstack", "db", "receive", f"--from={DB1}", check=False)
    assert refused.returncode == 1
    assert "mysql_replication_reseed" in refused.stderr


def test_seeding_from_a_primary_that_is_written_to() -> None:
    before = len(notes(DB1))
    with Writer("seed") as writer:
        result = play(
            "mysql_replication", "-e", f"host={DB2}", "-e", "mysql_replication_reseed=true", book="playbooks/reseed.yml"
        )
    assert result.returncode == 0, result.stdout
    assert len(writer.written) > 5
    until(lambda: is_pair(DB1, DB2), 10)
    until(lambda: notes(DB1) == notes(DB2), 10)
    assert set(writer.written) <= set(notes(DB2))
    assert before > 0
    assert sql(DB1, "CHECKSUM TABLE site.note") == sql(DB2, "CHECKSUM TABLE site.note")
    kept = on(DB2, "sh", "-c", "ls -d /var/lib/mysql.2*").stdout.split()
    assert on(DB2, "test", "-d", f"{kept[-1]}/site").returncode == 0
    left = on(DB2, "sh", "-c", "ls -a /var/lib | grep -- -seed || true; ss -Hltn 'sport = :4444'").stdout
    assert left == ""
    print(f"seeded under load: {len(writer.written)} rows written meanwhile, all of them on the replica")


def reseed(*extra: str) -> subprocess.CompletedProcess[str]:
    return play("mysql_replication", "-e", f"host={DB2}", *extra, book="playbooks/reseed.yml")


# Killed in the last moment of an exchange: the data directory holds what no server can use.
CUT_OFF = """
import os, pathlib, sys
sys.path.insert(0, "/usr/local/lib/webstack/current")
from webstack.db import data, exchange
place = data.place(pathlib.Path("/var/lib/mysql"))
new = place.folder(".{}-seed")
data.make_work(new, 0, 0)
new.mkdir()
(new / "ibdata1").write_text("not the data")
exchange._forget = lambda: os._exit(9)
exchange.exchange(place, new, place.folder("{}.20200101-000000"))
"""


def test_a_replica_on_a_disk_of_its_own_that_does_not_start_is_mended() -> None:
    disk = (
        "systemctl stop mariadb; cp -a /var/lib/mysql /srv/disk; rm -r /var/lib/mysql; mkdir /var/lib/mysql;"
        " mount --bind /srv/disk /var/lib/mysql; mkdir -p -m 700 /var/lib/mysql/lost+found;"
        " truncate --size=4096 /var/lib/mysql/ibdata1; systemctl start mariadb"
    )
    assert on(DB2, "sh", "-c", disk, check=False).returncode != 0
    refused = reseed()
    assert refused.returncode != 0
    assert "/var/lib/mysql holds data (other_site, site); with mysql_replication_reseed: true" in said(refused)
    done = reseed("-e", "mysql_replication_reseed=true")
    assert done.returncode == 0, done.stdout
    until(lambda: is_pair(DB1, DB2), 10)
    assert sql(DB1, "CHECKSUM TABLE site.note") == sql(DB2, "CHECKSUM TABLE site.note")
    kept = on(DB2, "sh", "-c", "ls -d /var/lib/mysql/.webstack/mysql.2*").stdout.split()
    assert on(DB2, "stat", "-c", "%s", f"{kept[-1]}/ibdata1").stdout.strip() == "4096"
    assert not [name for (name,) in sql(DB2, "SHOW DATABASES") if name.startswith("#")]
    assert status(DB2)["schemas"] == status(DB1)["schemas"]


def test_an_exchange_that_was_cut_off_is_undone_before_the_server_starts() -> None:
    on(DB2, "systemctl", "stop", "mariadb")
    assert on(DB2, "python3", "-c", CUT_OFF, check=False).returncode == 9
    assert on(DB2, "cat", "/var/lib/mysql/ibdata1").stdout == "not the data"
    on(DB2, "systemctl", "start", "mariadb")
    until(lambda: is_pair(DB1, DB2), 10)
    assert "the old data is in its place again" in on(DB2, "journalctl", "-b", "-u", "mariadb").stdout
    on(DB2, "test", "!", "-e", "/var/lib/webstack/db/data-swap.json")


def test_a_replica_without_any_data_is_seeded_without_a_permission() -> None:
    # As after a disk that was lost.
    on(DB2, "sh", "-c", "systemctl stop mariadb && umount /var/lib/mysql && rm -r /srv/disk")
    done = reseed()
    assert done.returncode == 0, done.stdout
    until(lambda: is_pair(DB1, DB2), 10)
    assert sql(DB1, "CHECKSUM TABLE site.note") == sql(DB2, "CHECKSUM TABLE site.note")


def test_a_primary_is_never_seeded() -> None:
    refused = on(DB1, "webstack", "db", "receive", f"--from={DB2}", "--move-aside", check=False)
    assert "accepts writes" in refused.stderr


def test_a_stopped_replica_is_refused_with_its_error() -> None:
    sql(DB2, "SET SESSION sql_log_bin = 0; INSERT INTO site.note (id, text) VALUES (900000, 'stray')")
    sql(DB1, "INSERT INTO site.note (id, text) VALUES (900000, 'right')")
    until(lambda: not status(DB2)["replica"]["sql"], 10)
    result = converge()
    assert result.returncode != 0
    assert f"replication on {DB2} stopped with error 1062" in said(result)
    sql(DB2, "SET SESSION sql_log_bin = 0; DELETE FROM site.note WHERE id = 900000; START SLAVE")
    until(lambda: is_pair(DB1, DB2), 10)
    assert notes(DB2)[-1] == "right"


def test_equal_server_ids_and_bad_addresses_are_refused_before_the_first_change() -> None:
    wrong = {
        "mysql_replication_server_id": 7,
        "mysql_replication_writer_address": "10.77.6.11/24",
        "mysql_replication_initial_primary": "db9",
    }
    result = converge("-e", json.dumps(wrong))
    assert result.returncode != 0
    text = said(result)
    assert f"mysql_replication_server_id is 7 on {DB1} and on {DB2}" in text
    assert "mysql_replication_writer_address 10.77.6.11 is the address of a host" in text
    assert "mysql_replication_initial_primary is 'db9'" in text
    assert count_changed(result) == 0


def test_forced_promotion_makes_a_primary_and_keeps_the_old_one_fenced() -> None:
    refused = on(DB2, "webstack", "db", "promote", "--force", check=False)
    assert refused.returncode == 1
    assert "accepts writes" in refused.stderr
    docker("kill", DB1)
    assert "--force" in on(DB2, "webstack", "db", "promote", check=False).stderr
    done = on(DB2, "webstack", "db", "promote", "--force")
    assert "RISK" in done.stderr
    assert has_address(DB2)
    write_note("on the new primary")
    docker("start", DB1)
    until(lambda: "accepts writes" in on(DB1, "journalctl", "-b", "-u", "webstack-db", "--no-pager").stdout)
    assert status(DB1)["read_only"]
    assert not has_address(DB1)

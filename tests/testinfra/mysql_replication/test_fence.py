"""A closed server writes nothing: no event, and no account that read_only does not bind."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from containers import docker
from test_mysql_replication import (
    ADDRESS,
    CA,
    DB1,
    DB2,
    client,
    converge,
    count_changed,
    has_address,
    is_pair,
    notes,
    on,
    sql,
    status,
    swap,
    table,
    until,
    write_note,
)

__all__ = ["table"]
COLUMNS = "DEFINER, TIME_ZONE, SQL_MODE, INTERVAL_VALUE, INTERVAL_FIELD, EVENT_DEFINITION, ON_COMPLETION"
EVENT = f"SELECT STATUS, {COLUMNS} FROM information_schema.EVENTS WHERE EVENT_NAME = 'clock'"
OPERATOR = "/etc/mysql/mariadb.conf.d/zy-operator.cnf"
ADMIN = {"user": "admin", "password": "administrator-of-the-lab"}


def ticks(host: str) -> int:
    return int(sql(host, "SELECT COUNT(*) FROM site.tick")[0][0])


def runs(host: str) -> bool:
    before = ticks(host)
    time.sleep(1.2)
    return ticks(host) > before


def follows(replica: str, primary: str) -> bool:
    """The replica has the ticks of the primary and no others; the clock may go on between two questions."""
    least = ticks(primary)
    return least <= ticks(replica) <= ticks(primary)


def scheduler(host: str) -> str:
    return sql(host, "SELECT @@event_scheduler")[0][0]


@pytest.fixture(scope="module", autouse=True)
def events(table: None) -> Iterator[None]:
    """An operator who wants events, on both hosts, in a file of their own and in a running server."""
    for host in (DB1, DB2):
        on(host, "sh", "-c", f"printf '[mariadbd]\\nevent_scheduler = ON\\nread_only = 0\\n' > {OPERATOR}")
    sql(
        DB1,
        "CREATE TABLE IF NOT EXISTS site.tick (id INT AUTO_INCREMENT PRIMARY KEY, host VARCHAR(20));"
        # A definer that read_only does not bind, and one that is not root.
        f"CREATE USER IF NOT EXISTS admin@'%' IDENTIFIED BY '{ADMIN['password']}' REQUIRE SSL;"
        "GRANT ALL ON *.* TO admin@'%'; SET SESSION time_zone = '+03:00', sql_mode = 'ANSI';"
        "CREATE DEFINER = admin@'%' EVENT IF NOT EXISTS site.clock ON SCHEDULE EVERY 1 SECOND"
        " DO INSERT INTO site.tick (host) VALUES (@@hostname); SET GLOBAL event_scheduler = ON",
    )
    for host in (DB1, DB2):
        on(host, "webstack", "db", "apply")
    assert (scheduler(DB1), scheduler(DB2)) == ("ON", "OFF")
    until(lambda: is_pair(DB1, DB2), 10)
    yield
    sql(DB1, "DROP EVENT IF EXISTS site.clock; DROP USER IF EXISTS admin@'%'; SET GLOBAL event_scheduler = OFF")
    for host in (DB1, DB2):
        on(host, "rm", "-f", OPERATOR)


@pytest.fixture(scope="module")
def alone(events: None) -> list[list[str]]:
    """Both hosts die and the primary's returns by itself, closed; its position then."""
    assert runs(DB1)
    until(lambda: follows(DB2, DB1), 10)
    docker("kill", DB1, DB2)
    docker("start", DB1)
    until(lambda: "does not answer" in on(DB1, "journalctl", "-b", "-u", "webstack-db", "--no-pager").stdout
          and status(DB1)["running"])  # fmt: skip
    assert (scheduler(DB1), status(DB1)["read_only"]) == ("OFF", True)
    position = sql(DB1, "SELECT @@gtid_binlog_pos")
    until(lambda: status(DB1)["fenced"], 5)
    return position


def test_a_primary_alone_waits_for_its_replica(alone: list[list[str]]) -> None:
    time.sleep(2)
    state = status(DB1)
    assert (state["role"], state["read_only"], has_address(DB1)) == ("primary", True, False)
    refused = on(DB1, "webstack", "db", "promote", check=False)
    assert refused.returncode == 1
    assert DB2 in refused.stderr


def test_a_primary_that_returns_closed_writes_nothing_until_it_opens(alone: list[list[str]]) -> None:
    # The account is bound by nothing but the fence.
    login = f"MYSQL_PWD={ADMIN['password']} mariadb --no-defaults --user=admin --host={ADDRESS[DB1]} --ssl-ca={CA}"
    refused = on(DB1, "sh", "-c", f"{login} -e \"INSERT INTO site.tick (host) VALUES ('admin')\"", check=False)
    assert "1792" in refused.stderr
    assert not runs(DB1)
    assert sql(DB1, "SELECT @@gtid_binlog_pos") == alone
    docker("start", DB2)
    seconds = until(lambda: is_pair(DB1, DB2))
    print(f"both hosts killed: pair complete {seconds:.1f} s after the second start")
    until(lambda: scheduler(DB1) == "ON", 5)
    assert scheduler(DB2) == "OFF"
    assert runs(DB1)
    assert client("INSERT INTO site.tick (host) VALUES ('admin')", **ADMIN).returncode == 0


def test_a_primary_that_is_closed_by_hand_stops_its_events_and_its_privileged_connections() -> None:
    script = (
        # Holds its connection open, as a pool does.
        f"(echo \"SELECT 'connected';\"; sleep 20; echo 'INSERT INTO site.tick (host) VALUES (1);') |"
        f" MYSQL_PWD={ADMIN['password']} mariadb --no-defaults -N --unbuffered --skip-reconnect --user=admin"
        f" --host={ADDRESS[DB1]} --ssl-ca={CA}"
    )
    pool = subprocess.Popen(["docker", "exec", DB2, "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert pool.stdout is not None and pool.stdout.readline().strip() == "connected"
    sql(DB1, "SET GLOBAL read_only = 1")
    until(lambda: scheduler(DB1) == "OFF", 5)
    listing = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'admin'"
    until(lambda: sql(DB1, listing) == [["0"]], 5)
    pool.kill()
    assert not runs(DB1)
    on(DB1, "webstack", "db", "promote")
    assert scheduler(DB1) == "ON"
    assert runs(DB1)
    # What was switched off on the running server stays off.
    sql(DB1, "SET GLOBAL event_scheduler = OFF")
    until(lambda: json.loads(on(DB1, "cat", "/run/webstack/db/events.json").stdout)["scheduler"] == "OFF", 5)
    assert "closed" in on(DB1, "webstack", "db", "close").stdout
    on(DB1, "webstack", "db", "promote")
    assert scheduler(DB1) == "OFF"
    sql(DB1, "SET GLOBAL event_scheduler = ON")
    until(lambda: is_pair(DB1, DB2), 10)


@pytest.fixture(scope="module")
def swapped(events: None) -> list[str]:
    """The roles change by hand, so that the second host is the primary; what the event said of itself before."""
    before = sql(DB1, EVENT)[0]
    assert sql(DB2, EVENT)[0] == ["SLAVESIDE_DISABLED", *before[1:]]
    swap(DB1, DB2)
    return before


def test_events_move_with_the_role(swapped: list[str]) -> None:
    until(lambda: scheduler(DB2) == "ON", 5)
    assert scheduler(DB1) == "OFF"
    assert sql(DB2, EVENT)[0] == swapped
    assert runs(DB2)
    until(lambda: follows(DB1, DB2), 5)
    assert sql(DB1, "SELECT host FROM site.tick ORDER BY id DESC LIMIT 1") == [[DB2]]


def test_a_run_keeps_the_roles_that_an_operator_swapped(swapped: list[str]) -> None:
    result = converge()
    assert result.returncode == 0, result.stdout
    assert count_changed(result) == 0, result.stdout
    assert is_pair(DB2, DB1)
    write_note("after the swap")
    until(lambda: "after the swap" in notes(DB1), 5)
    docker("restart", DB2)  # the new primary keeps its role over a restart, the old one its own
    until(lambda: is_pair(DB2, DB1))


def test_events_move_back_with_the_role(swapped: list[str]) -> None:
    swap(DB2, DB1)
    until(lambda: scheduler(DB1) == "ON" and scheduler(DB2) == "OFF", 5)
    assert runs(DB1)
    until(lambda: is_pair(DB1, DB2), 10)
    result = converge()
    assert count_changed(result) == 0, result.stdout

"""Rows that were changed past replication are found, named, and never an alarm without cause."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from test_mysql_replication import DB1, DB2, is_pair, on, sql, status, table, until

__all__ = ["table"]
SECRET = "SET SESSION sql_log_bin = 0; "
TABLES = """
    CREATE SCHEMA IF NOT EXISTS drift CHARACTER SET utf8mb4; USE drift;
    CREATE OR REPLACE TABLE numbers (id BIGINT AUTO_INCREMENT PRIMARY KEY, body LONGTEXT, price DECIMAL(20, 8),
        ratio DOUBLE, at DATETIME(6), flag BIT(3), data VARBINARY(20), kind ENUM('a', 'b'), extra JSON);
    INSERT INTO numbers (body, price, ratio, at, flag, data, kind, extra)
        SELECT REPEAT('ä', seq % 50), seq / 7, seq / 3, NOW(6), seq % 8, UNHEX(MD5(seq)), 'b', '[1]' FROM seq_1_to_5000;
    UPDATE numbers SET body = NULL, price = NULL, flag = NULL WHERE id % 7 = 0;
    CREATE OR REPLACE TABLE words (name VARCHAR(40), part BINARY(2), at TIMESTAMP, PRIMARY KEY (name, part, at));
    INSERT INTO words SELECT CONCAT('wört ''', seq % 90), UNHEX(LPAD(HEX(seq), 4, '0')), '2026-03-29 02:30:00' +
        INTERVAL seq MINUTE FROM seq_1_to_3000;
    CREATE OR REPLACE TABLE keyless (a INT, b VARCHAR(10)) CHARACTER SET latin1;
    INSERT INTO keyless VALUES (1, 'ü'), (1, 'ü'), (NULL, NULL);
    CREATE OR REPLACE TABLE versions (id INT PRIMARY KEY, a INT) WITH SYSTEM VERSIONING;
    INSERT INTO versions VALUES (1, 1); UPDATE versions SET a = 2;
    CREATE OR REPLACE TABLE fleeting (id INT PRIMARY KEY) ENGINE = MEMORY;
"""


@pytest.fixture(scope="module", autouse=True)
def tables(table: None) -> Any:
    until(lambda: is_pair(DB1, DB2), 20)
    sql(DB1, TABLES)
    yield
    sql(DB1, "DROP SCHEMA drift; DELETE FROM mysql.webstack_checksum")


def compare() -> str:
    """Compare, and wait until the replica has done its part. Return what was said."""
    done = on(DB1, "webstack", "db", "drift")
    until(lambda: is_pair(DB1, DB2) and gtid(DB2) == gtid(DB1), 30)
    return done.stdout + done.stderr


def gtid(host: str) -> str:
    return sql(host, "SELECT @@gtid_binlog_pos")[0][0]


def found(host: str) -> dict[str, int]:
    return {one["title"]: one["places"] for one in status(host)["drift"]["tables"]}


def test_equal_data_is_found_equal_whatever_its_types() -> None:
    said = compare()
    assert "not compared: drift.fleeting: engine MEMORY" in said
    assert (found(DB1), found(DB2)) == ({}, {})
    assert abs(status(DB2)["drift"]["compared_at"] - time.time()) < 120
    cut = sql(DB2, "SELECT title, COUNT(*) FROM mysql.webstack_checksum WHERE title LIKE 'drift.%' GROUP BY title")
    counts = {title: int(count) for title, count in cut}
    assert set(counts) == {"drift.numbers", "drift.words", "drift.keyless", "drift.versions"}
    assert counts["drift.numbers"] > 1, "it was not cut"
    assert counts["drift.words"] > 1, "it was not cut"
    for name, rows in (("numbers", 5000), ("words", 3000), ("keyless", 3)):
        summed = sql(DB2, f"SELECT SUM(here_rows) FROM mysql.webstack_checksum WHERE title = 'drift.{name}'")
        assert int(summed[0][0]) == rows, name


@pytest.mark.parametrize(
    ("change", "back", "title"),
    [
        ("UPDATE numbers SET price = price + 0.00000001 WHERE id = 4001", "price - 0.00000001", "drift.numbers"),
        ("UPDATE numbers SET body = '' WHERE id = 7", "NULL", "drift.numbers"),
        ("DELETE FROM words WHERE name = 'wört ''3' LIMIT 1", "", "drift.words"),
        ("INSERT INTO keyless VALUES (2, 'x')", "", "drift.keyless"),
    ],
    ids=["a digit", "NULL or empty", "a row less", "a row more"],
)
def test_one_row_that_was_changed_past_replication_is_found(change: str, back: str, title: str) -> None:
    sql(DB2, f"USE drift; {SECRET}{change}")
    compare()
    assert found(DB2) == {title: 1}
    assert found(DB1) == {}, "the writer's rows are the measure"
    seen = json.loads(on(DB2, "webstack", "status", "--json", check=False).stdout)
    assert [(p["tier"], p["what"]) for p in seen["problems"] if p["what"] == "drift"] == [("db", "drift")]
    # Mended from the writer: the table is written anew by rows that replicate.
    sql(
        DB1,
        f"USE drift; CREATE TABLE fresh LIKE {title}; INSERT INTO fresh SELECT * FROM {title};"
        f" DROP TABLE {title}; RENAME TABLE fresh TO {title}",
    )
    compare()
    assert found(DB2) == {}


def test_writes_meanwhile_are_no_difference() -> None:
    end = threading.Event()

    def write() -> None:
        while not end.wait(0.2):
            sql(
                DB1,
                "USE drift; UPDATE numbers SET ratio = ratio + 1 ORDER BY RAND() LIMIT 20;"
                " INSERT INTO numbers (body) VALUES ('new'); DELETE FROM numbers ORDER BY RAND() LIMIT 1",
            )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        compare()
    finally:
        end.set()
        writer.join()
    assert (found(DB1), found(DB2)) == ({}, {})


def test_a_replica_compares_nothing_and_its_log_does_not_move() -> None:
    before = gtid(DB2)
    assert "this server is a replica" in on(DB2, "webstack", "db", "drift").stdout
    assert gtid(DB2) == before


def test_a_replica_that_does_not_follow_is_no_equal_one() -> None:
    sql(DB2, "STOP SLAVE SQL_THREAD")
    try:
        done = on(DB1, "webstack", "db", "drift", check=False)
    finally:
        sql(DB2, "START SLAVE SQL_THREAD")
    assert done.returncode == 1
    assert "does not follow this server, so nothing can be compared" in done.stderr


def test_it_runs_every_night() -> None:
    for host in (DB1, DB2):
        assert on(host, "systemctl", "is-active", "webstack-db-drift.timer").stdout.strip() == "active"
        assert on(host, "systemctl", "is-enabled", "webstack-db-drift.timer").stdout.strip() == "enabled"
        on(host, "systemctl", "start", "webstack-db-drift.service")

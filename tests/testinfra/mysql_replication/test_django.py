"""What Django's notes on MySQL ask of the server (Databases, "MySQL notes"), each with what it is for."""

from __future__ import annotations

import pytest
from test_mysql_replication import DB1, DB2, client, converge, count_changed, said, sql, table, until

__all__ = ["table"]


@pytest.mark.parametrize("host", [DB1, DB2])
def test_time_zones_are_known_by_name(host: str) -> None:
    """With USE_TZ `__date` and `__month` convert in the database, and an unknown zone is NULL: no row, no error."""
    asked = sql(host, "SELECT CONVERT_TZ('2026-07-01 22:30:00', 'UTC', 'Europe/Berlin')")
    assert asked == [["2026-07-02 00:30:00"]]
    assert int(sql(host, "SELECT COUNT(*) FROM mysql.time_zone_name")[0][0]) > 400


def test_a_query_by_date_finds_its_rows_as_the_application() -> None:
    client("CREATE TABLE IF NOT EXISTS site.entry (at DATETIME(6)); TRUNCATE TABLE site.entry")
    assert client("INSERT INTO site.entry VALUES ('2026-07-01 22:30:00.123456')").returncode == 0
    found = client("SELECT COUNT(*) FROM site.entry WHERE DATE(CONVERT_TZ(at, 'UTC', 'Europe/Berlin')) = '2026-07-02'")
    assert found.stdout.strip() == "1", found.stderr


def test_time_zones_are_loaded_without_a_transaction_and_only_when_they_differ() -> None:
    positions = [sql(h, "SELECT @@gtid_binlog_state") for h in (DB1, DB2)]
    # As after a restore of a copy that had none, and on a server with those of an older tzdata.
    sql(DB1, "SET SESSION sql_log_bin = 0; TRUNCATE TABLE mysql.time_zone_name")
    sql(DB2, "SET SESSION sql_log_bin = 0; ALTER TABLE mysql.time_zone_name COMMENT 'Time zones'")
    result = converge()
    assert result.returncode == 0, result.stdout
    assert f"load the time zones on {DB1}" in said(result)
    assert f"load the time zones on {DB2}" in said(result)
    test_time_zones_are_known_by_name(DB1)
    # Zones that are there are no reason to change anything.
    assert count_changed(converge("-e", '{"mysql_replication_time_zones": ["Europe/Berlin", "UTC"]}')) == 0
    assert [sql(h, "SELECT @@gtid_binlog_state") for h in (DB1, DB2)] == positions


def test_schemas_take_every_character() -> None:
    """The notes ask for CREATE DATABASE ... CHARACTER SET utf8mb4."""
    schema = "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA"
    for name in ("site", "other_site"):
        assert sql(DB1, f"{schema} WHERE SCHEMA_NAME = '{name}'") == [["utf8mb4", "utf8mb4_unicode_ci"]]
    client("CREATE TABLE IF NOT EXISTS site.word (text VARCHAR(255) UNIQUE)")
    assert client("INSERT IGNORE INTO site.word VALUES (_utf8mb4 x'F09F90AC')").returncode == 0
    assert client("SELECT HEX(text) FROM site.word").stdout.strip() == "F09F90AC"


@pytest.mark.parametrize("host", [DB1, DB2])
def test_the_server_is_as_the_notes_want_it(host: str) -> None:
    settings = dict(
        zip(
            ("engine", "mode", "format", "case", "charset", "wait"),
            sql(
                host,
                "SELECT @@GLOBAL.default_storage_engine, @@GLOBAL.sql_mode, @@GLOBAL.binlog_format,"
                " @@GLOBAL.lower_case_table_names, @@GLOBAL.character_set_server, @@GLOBAL.wait_timeout",
            )[0],
            strict=True,
        )
    )
    # Transactions, savepoints and foreign keys.
    assert settings["engine"] == "InnoDB"
    # Without it values are cut to fit, and Django warns: mysql.W002.
    assert "STRICT_TRANS_TABLES" in settings["mode"]
    # Django reads committed, which statement format cannot log.
    assert settings["format"] == "ROW"
    # The same on both, or a table is found on one only.
    assert settings["case"] == "0"
    assert settings["charset"] == "utf8mb4"
    # Longer than was_django_database_connection_seconds.
    assert int(settings["wait"]) > 600


def test_locks_isolation_savepoints_and_fractions_work_as_the_application() -> None:
    client("CREATE TABLE IF NOT EXISTS site.entry (at DATETIME(6))")
    answer = client(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; TRUNCATE TABLE site.entry; BEGIN;"
        " INSERT INTO site.entry VALUES ('2026-01-01 00:00:00.000001'); SAVEPOINT s1; DELETE FROM site.entry;"
        " ROLLBACK TO SAVEPOINT s1; SELECT at FROM site.entry FOR UPDATE SKIP LOCKED; COMMIT;"
        " SELECT at FROM site.entry FOR UPDATE NOWAIT"
    )
    assert answer.stdout.split("\n")[:2] == ["2026-01-01 00:00:00.000001"] * 2, answer.stderr
    until(lambda: sql(DB2, "SELECT at FROM site.entry") == [["2026-01-01 00:00:00.000001"]], 10)

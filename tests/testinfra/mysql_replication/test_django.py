"""What Django's notes on MySQL ask of the server (Databases, "MySQL notes"), each with what it is for."""

from __future__ import annotations

import pytest
from test_mysql_replication import DB1, DB2, assert_time_zones, client, sql, table, until

__all__ = ["table"]


@pytest.mark.parametrize("host", [DB1, DB2])
def test_time_zones_are_known_by_name(host: str) -> None:
    """With USE_TZ `__date` and `__month` convert in the database, and an unknown zone is NULL: no row, no error."""
    assert_time_zones(host)


def test_a_query_by_date_finds_its_rows_as_the_application() -> None:
    client("CREATE TABLE IF NOT EXISTS site.entry (at DATETIME(6)); TRUNCATE TABLE site.entry")
    assert client("INSERT INTO site.entry VALUES ('2026-07-01 22:30:00.123456')").returncode == 0
    found = client("SELECT COUNT(*) FROM site.entry WHERE DATE(CONVERT_TZ(at, 'UTC', 'Europe/Berlin')) = '2026-07-02'")
    assert found.stdout.strip() == "1", found.stderr


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

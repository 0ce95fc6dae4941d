"""Settings reach the server in its own words, or are refused before they are written."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from rerun import assert_refused
from test_mysql_replication import DB1, DB2, converge, count_changed, is_pair, on, said, sql, status, table, until

__all__ = ["table"]
FILE = "/etc/mysql/mariadb.conf.d/70-webstack.cnf"


def run(**settings: Any) -> Any:
    return converge("-e", json.dumps({"mysql_replication_settings": settings}))


def files() -> list[str]:
    return [on(host, "cat", FILE).stdout for host in (DB1, DB2)]


def pids() -> list[str]:
    # One that does not run has none.
    return [on(host, "cat", "/run/mysqld/mysqld.pid", check=False).stdout for host in (DB1, DB2)]


def test_what_is_refused_is_never_written(tmp_path: pathlib.Path) -> None:
    before = files()
    own = {
        # The option file would take it for off.
        "boolean value 'maybe' wasn't recognized": {"slow_query_log": "maybe"},
        # It would start with a hundredth of that.
        "unsigned value 9999999 adjusted to 100000": {"max_connections": 9999999},
        # Only the running server looks at these.
        "the server refuses slow_query_log_file": {"long_query_time": 3, "slow_query_log_file": "/nowhere/slow.log"},
        "the server refuses default_storage_engine": {"default_storage_engine": "nonsense"},
        # The role's own rules.
        "mysql_replication_settings.read_only": {"read_only": False},
        "mysql_replication_settings.init_connect is a mapping": {"init_connect": {"a": "b"}},
        "mysql_replication_settings.default_time_zone": {"default_time_zone": "Europe/Berlin"},
    }
    boss = {"name": "boss", "password": "x" * 20, "privileges": [{"target": "*.*", "grant": ["ALL"]}]}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mysql_replication_settings": settings}, message) for message, settings in own.items()
    ]
    cases += [
        ({"mysql_replication_accounts": [boss]}, "mysql_replication_accounts: boss gets ALL on *.*"),
        ({"mysql_replication_collation": "latin1_bin"}, "mysql_replication_collation is 'latin1_bin'"),
        (
            {"mysql_replication_time_zones": ["Europe/Berlin", "Europe/Atlantis", "Europe"]},
            f"{DB1}: mysql_replication_time_zones has Europe/Atlantis, Europe, which tzdata on this host lacks",
        ),
    ]
    assert_refused("mysql_replication", DB1, cases, tmp_path)
    assert files() == before
    assert sql(DB1, "SELECT @@slow_query_log, @@default_storage_engine") == [["0", "InnoDB"]]


def test_yaml_booleans_and_settings_that_a_running_server_does_not_take() -> None:
    before = pids()
    result = run(slow_query_log=True, log_slow_verbosity="query_plan,explain", local_infile=False)
    assert result.returncode == 0, result.stdout
    assert "slow_query_log = ON" in files()[0]
    for host in (DB1, DB2):
        assert sql(host, "SELECT @@slow_query_log, @@local_infile, @@log_slow_verbosity") == [
            ["1", "0", "query_plan,explain"]
        ]
    assert pids() == before
    # A replica takes no change of these while it runs: it is restarted, and so is the primary.
    more = {"slave_parallel_threads": 6, "slow_query_log": "off", "init_connect": "SET @site = 'a # b'"}
    result = run(**more)
    assert result.returncode == 0, result.stdout
    for host in (DB1, DB2):
        assert sql(host, "SELECT @@slave_parallel_threads, @@slow_query_log, @@init_connect") == [
            ["6", "0", "SET @site = 'a # b'"]
        ]
    until(lambda: is_pair(DB1, DB2), 10)
    again = run(**more)
    assert count_changed(again) == 0, again.stdout


def test_a_run_after_a_correction_works() -> None:
    """A value that only a start finds wrong stops the replica, never the primary."""
    primary = pids()[0]
    result = run(tmpdir="/nowhere")
    assert result.returncode != 0
    assert "/nowhere" in said(result)
    assert pids()[0] == primary
    assert not status(DB1)["read_only"]
    result = converge()
    assert result.returncode == 0, result.stdout
    until(lambda: is_pair(DB1, DB2), 20)
    assert count_changed(converge()) == 0

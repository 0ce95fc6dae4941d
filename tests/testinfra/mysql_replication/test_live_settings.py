"""Settings reach the server in its own words, or are refused before they are written."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

import pytest
from rerun import assert_refused
from test_mysql_replication import (
    DB1,
    DB2,
    assert_time_zones,
    converge,
    count_changed,
    is_pair,
    on,
    said,
    sql,
    status,
    table,
    until,
)

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
        "unknown variable 'no_such_setting=1'": {"no_such_setting": 1},
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
    assert "no_such_setting" not in before[0]
    assert sql(DB1, "SELECT @@slow_query_log, @@default_storage_engine") == [["0", "InnoDB"]]


def started(host: str) -> int:
    return int(on(host, "systemctl", "show", "mariadb", "-P", "ExecMainStartTimestampMonotonic").stdout)


def logged() -> list[list[list[str]]]:
    return [sql(host, "SELECT @@gtid_binlog_state") for host in (DB1, DB2)]


class Change:
    """A run with other settings, which works, and what it made of the two servers."""

    def __init__(self, settings: dict[str, Any], **inputs: Any) -> None:
        self.inputs = {**inputs, "mysql_replication_settings": settings}
        self.before = pids()
        self.result = converge("-e", json.dumps(self.inputs))
        assert self.result.returncode == 0, self.result.stdout
        self.after = pids()
        self.files = files()
        self.values = [dict(sql(host, "SHOW GLOBAL VARIABLES")) for host in (DB1, DB2)]

    def each(self, *names: str) -> list[list[str]]:
        """The values of these variables on each host."""
        return [[values[name] for name in names] for values in self.values]


@pytest.fixture(scope="module")
def position(table: None) -> list[list[list[str]]]:
    """What each server had logged before the runs of this module that change it."""
    return logged()


@pytest.fixture(scope="module")
def running(position: Any) -> Change:
    """Only what a running server takes, on servers that lack time zones."""
    # As after a restore of a copy that had none, and on a server with those of an older tzdata.
    sql(DB1, "SET SESSION sql_log_bin = 0; TRUNCATE TABLE mysql.time_zone_name")
    sql(DB2, "SET SESSION sql_log_bin = 0; ALTER TABLE mysql.time_zone_name COMMENT 'Time zones'")
    settings = {"slow_query_log": True, "log_slow_verbosity": "query_plan,explain", "local_infile": False}
    done = Change(settings, mysql_replication_max_connections=150)
    assert_time_zones(DB1)
    return done


def pending_restart(host: str, edit: str) -> list[str]:
    """Options that a server would be restarted for, were its file edited so."""
    on(host, "cp", "--preserve", FILE, "/run/webstack.cnf")
    try:
        on(host, "sed", "--in-place", edit, FILE)
        state = json.loads(on(host, "webstack", "db", "status", "--json", "--detail").stdout)
    finally:
        on(host, "mv", "/run/webstack.cnf", FILE)
    return list(state["pending"]["restart"])


@pytest.fixture(scope="module")
def restarted(running: Change) -> Change:
    """What only a start takes: an option that the server reads once, and one that was taken out."""
    assert pending_restart(DB2, "$ a table_open_cache_instances = 4") == ["table_open_cache_instances"]
    assert pending_restart(DB2, "/^log_slow_verbosity/ d") == ["log_slow_verbosity"]
    more = {"slave_parallel_threads": 6, "slow_query_log": "off", "init_connect": "SET @site = 'a # b'"}
    done = Change({**more, "table_open_cache_instances": 4}, mysql_replication_max_connections=150)
    until(lambda: is_pair(DB1, DB2), 5)
    return done


@pytest.fixture(scope="module")
def again(restarted: Change) -> subprocess.CompletedProcess[str]:
    """Once more; zones that are there are no reason to change anything."""
    zones = {"mysql_replication_time_zones": ["Europe/Berlin", "UTC"]}
    return converge("-e", json.dumps({**restarted.inputs, **zones}))


def test_yaml_booleans_and_settings_that_a_running_server_does_not_take(
    running: Change, restarted: Change, again: subprocess.CompletedProcess[str]
) -> None:
    assert "slow_query_log = ON" in running.files[0]
    names = ("slow_query_log", "local_infile", "log_slow_verbosity")
    assert running.each(*names) == [["ON", "OFF", "query_plan,explain"]] * 2
    assert running.after == running.before
    # A replica takes no change of these while it runs: it is restarted, and so is the primary.
    names = ("slave_parallel_threads", "slow_query_log", "init_connect")
    assert restarted.each(*names) == [["6", "OFF", "SET @site = 'a # b'"]] * 2
    assert count_changed(again) == 0, again.stdout


def test_settings_reach_the_servers_in_order_and_with_as_few_restarts_as_they_need(
    running: Change, restarted: Change
) -> None:
    assert running.after == running.before
    assert running.each("max_connections")[1] == ["150"]
    assert not set(restarted.after) & set(restarted.before)
    assert restarted.each("table_open_cache_instances")[0] == ["4"]
    assert started(DB2) < started(DB1)


def test_time_zones_are_loaded_without_a_transaction_and_only_when_they_differ(
    running: Change, again: subprocess.CompletedProcess[str], position: list[list[list[str]]]
) -> None:
    assert f"load the time zones on {DB1}" in said(running.result)
    assert f"load the time zones on {DB2}" in said(running.result)
    assert_time_zones(DB1)
    assert count_changed(again) == 0, again.stdout
    assert logged() == position


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

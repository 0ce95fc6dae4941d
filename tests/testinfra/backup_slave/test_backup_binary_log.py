"""What webstack-backup says to the replica stays out of its binary log, where it would be a transaction of its own."""

from __future__ import annotations

from test_backup_slave import REPLICA, caught_up, notes, on, sql

__all__ = ["notes"]


def test_no_command_is_logged_by_the_replica() -> None:
    caught_up()
    logged = {}
    for command in (
        "status --json --snapshots",
        "list",
        "init",
        "fingerprint",
        "run --kind hourly",
        "prove",
        "pin latest",
        "unpin latest",
        "replication stop",
        "replication start",
        "restore --snapshot latest --target /var/tmp/looked-at",
    ):
        before = sql(REPLICA, "SELECT @@gtid_binlog_pos")
        on(REPLICA, f"webstack backup {command}")
        after = sql(REPLICA, "SELECT @@gtid_binlog_pos")
        if after != before:
            logged[command] = f"{before} -> {after}"
    on(REPLICA, "rm -rf /var/tmp/looked-at")
    assert logged == {}
    caught_up()

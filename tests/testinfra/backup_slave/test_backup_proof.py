"""A backup is called proven when it was restored and compared, and never when the repository is damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from test_backup_slave import PRIMARY, REPLICA, back_up, caught_up, notes, on, snapshots, sql, within_one_hour

__all__ = ["notes"]
STORE = "/var/backups/webstack/restic"


def prove(words: str = "", code: int = 0) -> str:
    done = on(REPLICA, f"webstack backup prove {words}", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def about(snapshot: str) -> dict[str, Any]:
    return next(one for one in snapshots() if one["id"] == snapshot)


def problems() -> list[str]:
    seen = json.loads(on(REPLICA, "webstack status --json", check=False).stdout)
    return sorted(one["what"] for one in seen["problems"] if one["tier"] == "backup")


def left_over() -> str:
    """What a proof may have left behind: data, a server, a unit."""
    units = on(REPLICA, "systemctl list-units --all --plain --no-legend 'webstack-backup-trial*'").stdout
    return (
        units
        + on(
            REPLICA, "ls -d /var/backups/webstack/staging/trial 2>/dev/null; pgrep -f backup-trial", check=False
        ).stdout
    )


@pytest.fixture(scope="module", autouse=True)
def repository(notes: None) -> Iterator[None]:
    """The tests damage the repository; it comes back as it was."""
    on(
        REPLICA,
        f"cp -a {STORE} {STORE}.kept && mkdir -p /var/lib/webstack/backup"
        " && cp -a /var/lib/webstack/backup /var/tmp/backup-state",
    )
    yield
    on(REPLICA, f"rm -rf {STORE} && mv {STORE}.kept {STORE}")
    on(REPLICA, "rm -rf /var/lib/webstack/backup && mv /var/tmp/backup-state /var/lib/webstack/backup")


def test_a_good_backup_is_proven_while_the_site_writes_and_nothing_changes() -> None:
    snapshot = back_up()["snapshot"]
    assert about(snapshot)["proven"] is None
    sql(
        PRIMARY,
        "USE site; INSERT INTO site.notes (text) SELECT CONCAT('after the backup ', seq) FROM seq_1_to_500;"
        " CREATE OR REPLACE TABLE site.later (id INT PRIMARY KEY, at TIMESTAMP) WITH SYSTEM VERSIONING;"
        " INSERT INTO site.later VALUES (1, NOW()); UPDATE site.notes SET text = 'changed' WHERE id % 10 = 0;"
        " DELETE FROM site.notes WHERE id % 11 = 0",
    )
    caught_up()
    before = sql(REPLICA, "SELECT @@gtid_binlog_pos, @@gtid_slave_pos"), on(REPLICA, "pgrep -x mariadbd").stdout
    line = prove()
    after = sql(REPLICA, "SELECT @@gtid_binlog_pos, @@gtid_slave_pos"), on(REPLICA, "pgrep -x mariadbd").stdout
    assert before == after
    assert f"snapshot={snapshot}" in line
    rows = int(sql(REPLICA, "SELECT COUNT(*) FROM site.notes")) + 1
    found = re.search(r" tables=(\d+) rows=(\d+) left_out=nothing ", line)
    assert found and int(found[2]) == rows and int(found[1]) >= 2, line
    assert about(snapshot)["proven"] is True
    assert problems() == []
    assert left_over() == ""
    assert on(REPLICA, "webstack backup list").stdout.splitlines()[-1].endswith("  proven")
    text = on(REPLICA, "cat /var/lib/prometheus/node-exporter/webstack_backup.prom").stdout
    assert "webstack_backup_last_proof_ok 1\n" in text
    sql(PRIMARY, "DROP TABLE site.later")
    caught_up()


def test_a_row_that_the_backup_has_and_the_server_lacks_is_no_proof() -> None:
    (newest,) = [one["id"] for one in snapshots()][-1:]
    kept = sql(REPLICA, "SELECT text FROM site.notes WHERE id = 1")
    sql(REPLICA, "SET SESSION sql_log_bin = 0; UPDATE site.notes SET text = 'astray' WHERE id = 1")
    try:
        line = prove(code=1)
    finally:
        sql(REPLICA, f"SET SESSION sql_log_bin = 0; UPDATE site.notes SET text = '{kept}' WHERE id = 1")
    assert f"backup {newest} is not good: site.notes has" in line
    assert about(newest)["proven"] is False
    assert problems() == ["proof_failed"]
    assert "NOT GOOD" in on(REPLICA, "webstack backup list").stdout
    assert left_over() == ""
    prove()
    assert about(newest)["proven"] is True


#: Each is done to the repository, in a shell.
LARGEST = f"$(find {STORE}/data -type f -printf '%s %p\\n' | sort -n | tail -1 | cut -d' ' -f2)"
DAMAGE = {
    "a pack overwritten": f"f={LARGEST}; dd if=/dev/urandom of=$f bs=4k count=8 conv=notrunc"
    " seek=$(($(stat -c %s $f) / 8192))",
    "a pack cut off": f"f={LARGEST}; truncate -s $(($(stat -c %s $f) / 2)) $f",
    "a pack lost": f"rm -f {LARGEST}",
    "the index lost": f"rm -f {STORE}/index/*",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_damage_is_found_by_the_next_proof(damage: str) -> None:
    on(REPLICA, f"rm -rf {STORE}.good && cp -a {STORE} {STORE}.good")
    try:
        on(REPLICA, f"chmod -R u+w {STORE}; {damage}")
        line = prove(code=1)
        assert re.search(r" is not good: |the repository is damaged|cannot be read", line), line
        assert "proof_failed" in problems()
        assert left_over() == ""
    finally:
        on(REPLICA, f"rm -rf {STORE} && mv {STORE}.good {STORE}")


def test_the_newest_snapshot_lost_is_found() -> None:
    """What the last run stored is not what the repository has."""
    newest = back_up()["snapshot"]
    on(REPLICA, f"mv {STORE}/snapshots/{newest}* /var/tmp/")
    try:
        assert f"{newest}, which the last run stored, is not in the repository" in prove(code=1)
    finally:
        on(REPLICA, f"mv /var/tmp/{newest}* {STORE}/snapshots/")


def test_a_proof_that_was_killed_leaves_nothing_to_the_next() -> None:
    on(
        REPLICA,
        "systemd-run --quiet --collect --unit=killed-proof webstack backup prove; for i in $(seq 300);"
        " do systemctl is-active -q webstack-backup-trial && systemctl kill --signal=KILL killed-proof && break;"
        " sleep 0.2; done; systemctl is-active webstack-backup-trial",
    )
    prove()
    assert left_over() == ""


def test_pinned_and_proven_backups_outlive_the_retention() -> None:
    within_one_hour()
    proven = [one["id"] for one in snapshots() if one["proven"]][-1]
    pinned = back_up("--kind hourly")["snapshot"]
    on(REPLICA, f"webstack backup pin {pinned} --reason 'before the move'")
    # Of those of one hour the last one stays.
    back_up("--kind hourly")
    kept = {one["id"] for one in snapshots()}
    assert {proven, pinned} <= kept
    assert about(pinned)["pinned"] == "before the move"
    on(REPLICA, f"webstack backup unpin {pinned}")
    back_up("--kind hourly")
    assert pinned not in {one["id"] for one in snapshots()}


def test_a_full_repository_makes_room_for_the_next_backup() -> None:
    """Nothing was removed but after a good run, so a full one stayed full."""
    within_one_hour()
    # As after a retention that failed: of one hour the last one would be enough.
    pinned = back_up("--kind hourly")["snapshot"]
    on(REPLICA, f"webstack backup pin {pinned} --reason 'before the move'")
    surplus = back_up("--kind hourly")["snapshot"]
    on(REPLICA, f"webstack backup pin {surplus} --reason later")
    noise = "CREATE OR REPLACE TABLE site.noise AS SELECT seq, RANDOM_BYTES(900) AS b FROM site.seq_1_to_{}"
    sql(PRIMARY, noise.format(10_000))
    caught_up()
    newest = back_up("--kind hourly")["snapshot"]
    on(REPLICA, f"webstack backup unpin {surplus}")
    # A run that failed has left a pack. Without it there is room for the next backup.
    size = int(on(REPLICA, f"du -sk {STORE} | cut -f1").stdout)
    small = f"mount -t tmpfs -o size={size + 26_000}k tmpfs {STORE}.small && cp -a {STORE}/. {STORE}.small"
    on(REPLICA, f"mkdir {STORE}.small && {small} && mount --bind {STORE}.small {STORE}")
    left = "head -c 22000000 /dev/urandom > pack && sum=$(sha256sum < pack | cut -c1-64) && mv pack ${sum:0:2}/$sum"
    on(REPLICA, f"cd {STORE}/data && {left}")
    try:
        sql(PRIMARY, noise.format(10_001))
        caught_up()
        fields = back_up("--kind hourly")
        assert fields["room"] == "made"
        kept = {one["id"] for one in snapshots()}
        assert {pinned, fields["snapshot"]} <= kept
        assert not {surplus, newest} & kept
        assert prove()
        # Now there is nothing that may go. It is said, and no backup is lost by it.
        sql(PRIMARY, noise.format(40_000))
        caught_up()
        for _ in range(2):
            done = on(REPLICA, "webstack backup run --kind hourly", check=False)
            assert done.returncode == 1
            assert "the repository is full, and the retention keeps all that is left" in done.stdout
        assert {pinned, fields["snapshot"]} <= {one["id"] for one in snapshots()}
        sql(PRIMARY, "DROP TABLE site.noise")
        caught_up()
        back_up("--kind hourly")
    finally:
        on(REPLICA, f"umount {STORE}; umount {STORE}.small; rmdir {STORE}.small; webstack backup unpin {pinned}")
        sql(PRIMARY, "DROP TABLE IF EXISTS site.noise")
        caught_up()
    # The others look at the repository that came back, which lacks what the last run stored.
    back_up("--kind hourly")


def test_the_primary_leaves_it_to_the_replica_and_the_timer_waits() -> None:
    done = on(PRIMARY, "webstack backup prove")
    assert done.stdout == "webstack-backup: skipped: this server is the primary\n"
    for host in (PRIMARY, REPLICA):
        assert on(host, "systemctl is-active webstack-backup-proof.timer").stdout.strip() == "active"
    on(REPLICA, "systemctl start webstack-backup-proof.service")


def test_a_disk_without_room_is_said_before_anything_is_written() -> None:
    free = "/etc/webstack/backup.json"
    on(
        REPLICA,
        f'cp {free} /var/tmp/backup.json && sed -i \'s/"free_disk_factor": [0-9.]*/"free_disk_factor": 1e6/\' {free}',
    )
    try:
        line = prove(code=1)
    finally:
        on(REPLICA, f"mv /var/tmp/backup.json {free}")
    assert "bytes free and" in line
    assert "could not be proven" in line
    assert about(snapshots()[-1]["id"])["proven"] is True, "a disk without room says nothing about the backup"
    assert left_over() == ""


def test_no_secret_is_on_a_command_line() -> None:
    secret = on(REPLICA, "cat /etc/webstack/backup/password").stdout.strip()
    seen = on(
        REPLICA,
        "webstack backup prove > /dev/null & while kill -0 $! 2>/dev/null;"
        " do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; sleep 0.2; done",
    ).stdout
    assert "restic" in seen
    assert "mariadbd" in seen
    assert secret not in seen

"""Backups and their restore as an operator, a scheduler and a fault see them.

The tests stop servers, drop a table and restore; they run in the order in which they stand, and each leaves a
working pair behind.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from containers import attempt, docker
from documents import document
from rerun import play

ROOT = pathlib.Path(__file__).resolve().parents[3]
PRIMARY, REPLICA = "backup-db1", "backup-db2"
MARKER = "marker-that-must-never-be-readable"
RESTIC = "RESTIC_PASSWORD_FILE=/etc/webstack/backup/password restic -r /var/backups/webstack/restic --no-cache"


def on(host: str, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = attempt(host, "bash", "-c", command)
    if check:
        assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
    return done


def sql(host: str, statement: str) -> str:
    return on(host, f'mariadb -N -B -e "{statement}"').stdout.strip()


def snapshots(host: str = REPLICA) -> list[dict[str, Any]]:
    return list(document(on(host, "webstack backup list --json").stdout)["snapshots"])


def ids(host: str = REPLICA) -> set[str]:
    """All that the repository holds, whoever made it: restic names a snapshot's file as the snapshot."""
    return {name[:8] for name in on(host, "ls /var/backups/webstack/restic/snapshots").stdout.split()}


def back_up(options: str = "", host: str = REPLICA) -> dict[str, str]:
    """Take a backup that has to succeed; the fields of its line."""
    lines = on(host, f"webstack backup run {options}").stdout.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("webstack-backup: ok "), lines
    return dict(part.split("=", 1) for part in lines[0].split()[2:])


def within_one_hour(seconds: int = 120) -> None:
    """Wait for the next hour where this one ends first: of each hour the retention keeps a backup."""
    left = 3600 - time.time() % 3600
    if left < seconds:
        time.sleep(left + 1)


def role(*extra: str) -> subprocess.CompletedProcess[str]:
    """The role alone, on the replica alone."""
    return play("backup_slave", "--tags=backup_slave", f"--limit={REPLICA}", *extra)


def message(done: subprocess.CompletedProcess[str]) -> str:
    """Output without the line breaks and indentation of the YAML result format."""
    return " ".join((done.stdout + done.stderr).split())


def caught_up() -> None:
    """The replica has everything that the primary has."""
    position = sql(PRIMARY, "SELECT @@gtid_current_pos")
    assert sql(REPLICA, f"SELECT MASTER_GTID_WAIT('{position}', 30)") == "0"


def content(host: str) -> tuple[str, str]:
    return sql(host, "SELECT COUNT(*) FROM site.notes"), sql(host, "CHECKSUM TABLE site.notes EXTENDED")


@contextlib.contextmanager
def stopped(host: str, unit: str) -> Iterator[None]:
    on(host, f"systemctl stop {unit}")
    try:
        yield
    finally:
        on(host, f"systemctl start {unit}")


@contextlib.contextmanager
def tool_replaced(*lines: str) -> Iterator[None]:
    """A script in the place of mariadb-backup."""
    fake = "\\n".join(["#!/bin/sh", *lines, ""])
    on(REPLICA, f"printf '{fake}' > /var/tmp/fake; chmod +x /var/tmp/fake")
    on(REPLICA, "mount --bind /var/tmp/fake /usr/bin/mariadb-backup")
    try:
        yield
    finally:
        on(REPLICA, "umount /usr/bin/mariadb-backup")


@pytest.fixture(scope="module", autouse=True)
def notes() -> None:
    sql(PRIMARY, "CREATE TABLE IF NOT EXISTS site.notes (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(200))")
    rows = f"INSERT INTO site.notes (text) SELECT CONCAT('{MARKER}-', seq) FROM site.seq_1_to_2000"
    sql(PRIMARY, rows)
    caught_up()


# --- schedule ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [PRIMARY, REPLICA])
@pytest.mark.parametrize("kind", ["hourly", "daily"])
def test_the_timer_waits_and_makes_up_for_missed_runs(host: str, kind: str) -> None:
    show = on(host, f"systemctl show webstack-backup-{kind}.timer -p ActiveState,UnitFileState,Persistent,Unit").stdout
    assert set(show.splitlines()) == {
        "ActiveState=active",
        "UnitFileState=enabled",
        "Persistent=yes",
        f"Unit=webstack-backup@{kind}.service",
    }


def test_the_service_backs_up_the_replica_while_the_primary_writes() -> None:
    before = ids()
    writer = subprocess.Popen(
        ["docker", "exec", PRIMARY, "bash", "-c",
         "end=$((SECONDS+600)); while [ $SECONDS -lt $end ] && [ ! -e /run/enough ]; do"
         " echo \"INSERT INTO site.notes (text) VALUES ('written during the backup');\"; sleep 0.05; done | mariadb"],
    )  # fmt: skip
    try:
        time.sleep(0.5)
        on(REPLICA, "systemctl start webstack-backup@hourly.service")
    finally:
        on(PRIMARY, "touch /run/enough")
        assert writer.wait(30) == 0
        on(PRIMARY, "rm /run/enough")
    journal = on(REPLICA, "journalctl -o cat -u webstack-backup@hourly.service").stdout
    assert re.search(
        r"^webstack-backup: ok kind=hourly host=backup-db2 snapshot=\w{8} bytes=\d+ seconds=", journal, re.M
    )
    (new,) = ids() - before
    found = next(one for one in snapshots() if one["id"] == new)
    assert found["kind"] == "hourly"
    assert re.fullmatch(r"0-\d+-\d+", found["gtid"])
    assert found["bytes"] > 1_000_000
    caught_up()


def test_on_the_primary_the_service_skips() -> None:
    on(PRIMARY, "systemctl start webstack-backup@hourly.service")
    journal = on(PRIMARY, "journalctl -o cat -u webstack-backup@hourly.service").stdout
    assert "webstack-backup: skipped: this server is the primary" in journal
    assert snapshots(PRIMARY) == []
    refused = on(PRIMARY, "webstack backup run --require", check=False)
    assert refused.returncode == 1
    assert 'reason="this server is the primary"' in refused.stdout


# --- one at a time, no secret anywhere --------------------------------------------------------------


# Prints each command line of the host once. A secret stays on one as long as its process lives.
WATCH_COMMAND_LINES = """
import pathlib, time
seen, end = set(), time.monotonic() + 120
while time.monotonic() < end and not pathlib.Path("/run/watched-enough").exists():
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = " ".join(path.read_text(errors="replace").split(chr(0))).replace(chr(10), " ")
        except OSError:
            continue  # it has ended
        if words not in seen:
            seen.add(words)
            print(words, flush=True)
    time.sleep(0.05)
"""


def test_two_at_once_and_no_secret_on_a_command_line() -> None:
    password = on(REPLICA, "cat /etc/webstack/backup/password").stdout.strip()
    assert len(password) >= 20
    on(REPLICA, "rm -f /run/watched-enough")
    watcher = subprocess.Popen(
        ["docker", "exec", REPLICA, "python3", "-c", WATCH_COMMAND_LINES], stdout=subprocess.PIPE, text=True
    )
    first = subprocess.Popen(
        ["docker", "exec", REPLICA, "webstack", "backup", "run", "--kind", "hourly"], stdout=subprocess.DEVNULL
    )
    assert watcher.stdout is not None
    seen = ""
    for line in watcher.stdout:
        seen += line
        if "mariadb-backup --backup" in line:
            break
    second = on(REPLICA, "webstack backup run", check=False)
    code = first.wait()
    on(REPLICA, "touch /run/watched-enough")
    seen += watcher.communicate(timeout=20)[0]
    assert code == 0
    assert second.returncode == 75
    holder = r"another run holds the lock \S+ 'run --kind hourly' \(process \d+, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\)"
    assert re.search(holder, second.stdout), second.stdout
    assert "restic backup" in seen
    assert password not in seen
    everywhere = f"grep -rlF '{password}' /var/log /var/lib/webstack/backup /etc /run/log 2>/dev/null; true"
    assert on(REPLICA, everywhere).stdout.split() == ["/etc/webstack/backup/password"]
    assert password not in on(REPLICA, "journalctl --no-pager").stdout
    modes = on(REPLICA, "stat -c '%a %n' /etc/webstack/backup /etc/webstack/backup/*").stdout
    assert all(line.startswith(("600 ", "700 ")) for line in modes.splitlines()), modes


def test_the_repository_is_unreadable_without_the_password() -> None:
    assert on(REPLICA, f"grep -rqF {MARKER} /var/backups/webstack", check=False).returncode == 1
    wrong = on(REPLICA, f"echo wrong > /run/wrong; {RESTIC} --password-file /run/wrong snapshots", check=False)
    assert wrong.returncode != 0
    assert "wrong password" in wrong.stderr


# --- playbooks/backup.yml ---------------------------------------------------------------------------


def test_the_playbook_takes_one_backup_on_the_replica() -> None:
    before = ids()
    done = play("backup_slave", book="playbooks/backup.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    (new,) = ids() - before
    assert done.stdout.count("webstack-backup:") == 1
    assert f"webstack-backup: ok kind=daily host=backup-db2 snapshot={new}" in message(done)


def test_the_playbook_names_who_holds_the_lock() -> None:
    hold = "import fcntl,time; f=open('/run/webstack/backup.lock','r+'); fcntl.flock(f,2); time.sleep(600)"
    on(REPLICA, f'systemd-run --quiet --unit=holder --collect python3 -c "{hold}"')
    try:
        done = play("backup_slave", book="playbooks/backup.yml")
    finally:
        on(REPLICA, "systemctl stop holder")
    assert done.returncode != 0
    assert "another run holds the lock" in message(done)


def test_the_playbook_refuses_when_no_replica_runs() -> None:
    before = ids()
    sql(REPLICA, "STOP SLAVE SQL_THREAD")
    try:
        done = play("backup_slave", book="playbooks/backup.yml")
    finally:
        sql(REPLICA, "START SLAVE")
    assert done.returncode != 0
    assert "replication is not running (sql thread stopped)" in message(done)
    assert ids() == before


# --- failing backups --------------------------------------------------------------------------------


def failing_run() -> str:
    done = on(REPLICA, "webstack backup run", check=False)
    assert done.returncode == 1, done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("webstack-backup: FAILED kind=daily host=backup-db2")
    return done.stdout


def test_failed_runs_leave_the_good_backups_alone() -> None:
    before = ids()
    assert before
    on(REPLICA, "rm -f /run/backup-failed")
    with stopped(REPLICA, "mariadb.service"):
        for _ in range(3):
            assert "the server does not answer" in failing_run()
        assert on(REPLICA, "systemctl start webstack-backup@daily.service", check=False).returncode != 0
    until = time.monotonic() + 20
    while time.monotonic() < until and on(REPLICA, "cat /run/backup-failed", check=False).stdout != "daily\n":
        time.sleep(0.2)
    assert on(REPLICA, "cat /run/backup-failed").stdout == "daily\n"
    sql(REPLICA, "START SLAVE")

    on(REPLICA, "mount -t tmpfs -o size=8m tmpfs /var/backups/webstack/staging")
    try:
        assert "bytes free and" in failing_run()
    finally:
        on(REPLICA, "umount /var/backups/webstack/staging")

    # A tool that leaves half a backup behind and says that all is well, and one that dies.
    for ending in (0, 1):
        half = "touch /var/backups/webstack/staging/data/half"
        with tool_replaced(half, "echo no space left", f"exit {ending}"):
            for _ in range(2):
                assert f"mariadb-backup failed with {ending}: no space left" in failing_run()
    assert on(REPLICA, "ls /var/backups/webstack/staging").stdout == ""
    assert ids() == before


def test_an_interrupted_run_cleans_up_and_frees_the_lock() -> None:
    before = ids()
    # The run is interrupted long before its end.
    with tool_replaced("exec sleep 60"):
        done = on(REPLICA, "timeout --signal=TERM 3 webstack backup run", check=False)
    assert 'reason="interrupted by SIGTERM"' in done.stdout
    assert on(REPLICA, "pgrep -x sleep; ls /var/backups/webstack/staging", check=False).stdout == ""
    assert ids() == before
    caught_up()


# --- retention --------------------------------------------------------------------------------------


def test_what_the_servers_account_links_to_does_not_come_into_a_backup() -> None:
    """mariadb-backup reads as root: the next server on the copy would give the file to its account."""
    before, planted = ids(), "/var/lib/mysql/site/shadow.frm"
    on(REPLICA, f"runuser -u mysql -- ln -s /etc/shadow {planted}")
    try:
        refused = on(REPLICA, "webstack backup run --require", check=False)
        assert refused.returncode == 1
        assert f"{planted} leads to a file that is not the server's" in refused.stdout + refused.stderr
        assert ids() == before
    finally:
        on(REPLICA, f"rm {planted}")
    # No account can lead the lock elsewhere.
    for account in ("mysql", "nobody"):
        assert on(REPLICA, f"runuser -u {account} -- touch /run/webstack/backup.lock", check=False).returncode != 0


def test_retention_keeps_what_it_says_and_nothing_of_others() -> None:
    times = ["2020-01-01 10:00", "2020-01-02 10:00", "2020-01-03 10:00", "2020-01-03 11:00", "2020-01-03 11:20",
             "2020-01-03 12:00"]  # fmt: skip
    for moment in times:
        on(REPLICA, f"cd /etc/apt && {RESTIC} backup --quiet --tag webstack --time '{moment}:00' .")
    on(REPLICA, f"cd /etc/apt && {RESTIC} backup --quiet --tag somebody-else --time '2019-01-01 10:00:00' .")
    new = back_up()["snapshot"]
    left = {one["time"][:16].replace("T", " "): one["id"] for one in snapshots()}
    assert new in left.values()
    # Three hours and two days (inventory): this hour, perhaps the last one, and the latest hours of the latest day.
    old = {moment for moment in left if moment.startswith("2020")}
    assert "2020-01-03 12:00" in old
    assert old <= {"2020-01-03 12:00", "2020-01-03 11:20"}
    assert "somebody-else" in on(REPLICA, f"{RESTIC} snapshots --no-lock").stdout
    on(REPLICA, f"{RESTIC} check --quiet")
    for moment in old:
        on(REPLICA, f"{RESTIC} forget --quiet {left[moment]}")


# --- restore ----------------------------------------------------------------------------------------


def test_a_backup_gives_a_data_directory_to_look_into() -> None:
    # Nothing was written since the last one.
    expected = content(REPLICA)
    new = snapshots()[-1]["id"]
    target = "/var/lib/scratch"
    line = on(REPLICA, f"webstack backup restore --snapshot {new} --target {target}").stdout
    assert line.startswith(f"webstack-backup: ok restored={new} ")
    again = on(REPLICA, f"webstack backup restore --snapshot latest --target {target}", check=False)
    assert again.returncode == 1
    assert "nothing is overwritten" in again.stdout
    server = f"mariadbd --no-defaults --user=mysql --datadir={target} --socket=/run/scratch/s --skip-networking"
    on(REPLICA, f"install -o mysql -d /run/scratch && systemd-run --quiet --unit=scratch --collect {server}")
    try:
        read = "mariadb --socket=/run/scratch/s -N -B -e"
        on(REPLICA, f"for i in $(seq 100); do {read} 'SELECT 1' >/dev/null 2>&1 && break; sleep 0.2; done")
        rows = on(REPLICA, f"{read} 'SELECT COUNT(*) FROM site.notes'").stdout.strip()
        checksum = on(REPLICA, f"{read} 'CHECKSUM TABLE site.notes EXTENDED'").stdout.strip()
    finally:
        on(REPLICA, f"systemctl stop scratch; rm -rf {target}")
    assert (rows, checksum) == expected


def test_restore_refuses_without_confirmation_or_backup() -> None:
    before = sql(PRIMARY, "SELECT @@gtid_current_pos, @@datadir")
    done = play("backup_slave", book="playbooks/restore.yml")
    assert done.returncode != 0
    said = message(done)
    assert "the data of backup-db1 (/var/lib/mysql," in said
    assert "backup-db2 is seeded again" in said
    assert "Nothing was done: backup_slave_restore_confirm=true confirms it." in said
    done = play("backup_slave", "-e", "backup_slave_restore_snapshot=00000000", book="playbooks/restore.yml")
    assert done.returncode != 0
    assert "no database host has the backup 00000000 (backup_slave_restore_snapshot)" in message(done)
    assert sql(PRIMARY, "SELECT @@gtid_current_pos, @@datadir") == before


def number(gtid: str) -> int:
    return int(gtid.rpartition("-")[2])


#: A table that keeps its history, numbers that are given once, and rows that a restart empties.
KINDS = """
    CREATE OR REPLACE TABLE site.prices (id INT PRIMARY KEY, cents INT) WITH SYSTEM VERSIONING;
    INSERT INTO site.prices VALUES (1, 100), (2, 200);
    UPDATE site.prices SET cents = 150 WHERE id = 1;
    CREATE OR REPLACE SEQUENCE site.invoices START WITH 5000;
    SELECT NEXTVAL(site.invoices);
    CREATE OR REPLACE TABLE site.fleeting (id INT PRIMARY KEY) ENGINE = MEMORY;
    INSERT INTO site.fleeting VALUES (1);
    CREATE OR REPLACE TABLE site.ledger (
        id INT PRIMARY KEY, a BIGINT UNSIGNED GENERATED ALWAYS AS ROW START,
        b BIGINT UNSIGNED GENERATED ALWAYS AS ROW END,
        PERIOD FOR SYSTEM_TIME (a, b)) WITH SYSTEM VERSIONING;
    INSERT INTO site.ledger (id) VALUES (1)
"""
LEFT_OUT = ["`site`.`fleeting`: engine MEMORY", "`site`.`ledger`: its history is by transaction"]
HISTORY = "SELECT id, cents, row_start, row_end FROM site.prices FOR SYSTEM_TIME ALL ORDER BY 1, 2, 3"


def test_tables_that_differ_are_seen_whatever_kind_they_are() -> None:
    """And what no two servers have in common makes no difference."""
    sql(PRIMARY, KINDS)
    caught_up()

    def differs() -> list[str]:
        one, two = (document(on(host, "webstack backup fingerprint").stdout) for host in (PRIMARY, REPLICA))
        assert [one["left_out"], two["left_out"]] == [LEFT_OUT] * 2
        assert one["before"] == one["after"], "to read is not to write"
        return [name for name, value in one["tables"].items() if two["tables"][name] != value]

    assert differs() == []
    try:
        sql(REPLICA, "SET sql_log_bin = 0; DO SETVAL(site.invoices, 9000)")
        sql(REPLICA, "SET sql_log_bin = 0; UPDATE site.prices SET cents = 0 WHERE id = 2")
        assert differs() == ["`site`.`prices`", "`site`.`invoices`"]
    finally:
        sql(PRIMARY, KINDS)
        caught_up()
    assert differs() == []


def test_backup_drop_restore_compare() -> None:
    sql(PRIMARY, KINDS)
    caught_up()
    history = sql(PRIMARY, HISTORY)
    expected = content(PRIMARY)
    snapshot = back_up()["snapshot"]
    sql(PRIMARY, "INSERT INTO site.notes (text) VALUES ('written after the backup')")
    sql(
        PRIMARY,
        "CREATE USER later@localhost IDENTIFIED BY 'x'; UPDATE site.notes SET text = 'changed' WHERE id % 7 = 0",
    )
    expected = content(PRIMARY)
    (mark,) = document(on(PRIMARY, "webstack db mark 'before the drop' --json").stdout)["marks"]
    sql(PRIMARY, "DROP TABLE site.notes")
    sql(PRIMARY, "CREATE TABLE site.too_late (id INT PRIMARY KEY)")
    caught_up()
    assert sql(REPLICA, "SHOW TABLES IN site LIKE 'notes'") == ""
    (hit,) = [line for line in on(REPLICA, "webstack backup find 'drop table'").stdout.splitlines() if "notes" in line]
    gtid, moment, text = hit.split("  ", 2)
    # As the replica of a server of 10.11 writes it down.
    assert re.match(r"DROP TABLE (IF EXISTS )?`site`\.`notes`", text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", moment)
    # Two more of the mark's own. A replica marks nothing, and shows what has reached it.
    assert 0 < number(gtid) - number(mark["gtid"]) < 4, (gtid, mark)
    assert document(on(REPLICA, "webstack db mark x --json").stdout)["marks"] == []
    assert document(on(REPLICA, "webstack db marks --json").stdout)["marks"] == [mark]

    started = time.monotonic()
    done = play(
        "backup_slave", "-e", f"backup_slave_restore_before={mark['gtid']}", "-e", "backup_slave_restore_confirm=true",
        book="playbooks/restore.yml",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"restored in {time.monotonic() - started:.1f} s")
    said = message(done)
    assert re.search(rf"webstack-restore: ok snapshot={snapshot} .* primary=backup-db1 seeded=backup-db2 ", said), said
    assert re.search(r"compared=\d+-tables-\d+-rows-equal", said), said

    assert f' not_compared="{"; ".join(LEFT_OUT)}"' in said

    assert content(PRIMARY) == expected
    assert content(REPLICA) == expected
    assert [sql(host, HISTORY) for host in (PRIMARY, REPLICA)] == [history, history]
    assert int(sql(PRIMARY, "SELECT NEXTVAL(site.invoices)")) > 5000, "a number would be given twice"
    assert sql(PRIMARY, "SHOW TABLES IN site LIKE 'too_late'") == ""
    assert sql(REPLICA, "SELECT COUNT(*) FROM mysql.global_priv WHERE User = 'later'") == "1"
    sql(PRIMARY, "DROP USER later@localhost")
    for host, expected_role in ((PRIMARY, "primary"), (REPLICA, "replica")):
        assert document(on(host, "webstack backup status --json").stdout)["role"] == expected_role
        assert "mysql.restore-" not in on(host, "ls -a /var/lib").stdout
        assert on(host, "ls -a /var/backups/webstack | grep restore-", check=False).stdout == ""
    sql(PRIMARY, "INSERT INTO site.notes (text) VALUES ('life goes on')")
    caught_up()
    assert content(REPLICA) == content(PRIMARY)
    # The data that was replaced is still there, the table's last row lost or not.
    (old,) = on(PRIMARY, "ls -d /var/lib/mysql.before-restore-*").stdout.split()
    assert on(PRIMARY, f"test -f {old}/ibdata1")
    assert back_up()["host"] == REPLICA


def restore(*extra: str, inventory: str | pathlib.Path = "") -> subprocess.CompletedProcess[str]:
    return play(
        "backup_slave", "-e", "backup_slave_restore_confirm=true", *extra, book="playbooks/restore.yml",
        inventory=inventory,
    )  # fmt: skip


def test_a_primary_on_a_disk_of_its_own_is_restored_while_the_other_host_is_down() -> None:
    back_up("--allow-primary", host=PRIMARY)
    expected = content(PRIMARY)
    on(REPLICA, "systemctl disable webstack-db mariadb && systemctl stop mariadb")
    docker("stop", "--time=5", REPLICA)
    on(
        PRIMARY,
        "systemctl stop mariadb; cp -a /var/lib/mysql /srv/disk && rm -r /var/lib/mysql && mkdir /var/lib/mysql"
        " && mount --bind /srv/disk /var/lib/mysql && mkdir -p -m 700 /var/lib/mysql/lost+found"
        " && systemctl start mariadb",
    )
    # It waits for its replica.
    on(PRIMARY, "webstack db promote --force")
    sql(PRIMARY, "DROP TABLE site.notes")

    done = restore()
    assert done.returncode == 0, done.stdout + done.stderr
    said = message(done)
    assert "webstack-restore: ok snapshot=" in said
    assert "seeded=none" in said
    assert "compared=no" in said
    assert "seed_again_before_use=backup-db2" in said
    assert "backup-db2 gives no answer and keeps the history that the site leaves" in said
    assert content(PRIMARY) == expected
    (old,) = on(PRIMARY, "ls -d /var/lib/mysql/.webstack/mysql.before-restore-*").stdout.split()
    assert on(PRIMARY, f"test -f {old}/ibdata1 && ls /var/lib/mysql/.webstack").stdout.split() == [old.split("/")[-1]]
    # A backup of such a server holds its data and nothing of what is kept beside it.
    assert int(back_up("--allow-primary", host=PRIMARY)["bytes"]) < 100_000_000

    docker("start", REPLICA)
    on(REPLICA, "until systemctl is-system-running --wait 2>&1 | grep -qE 'running|degraded'; do sleep 0.2; done")
    on(REPLICA, "systemctl enable webstack-db mariadb && systemctl start webstack-db")
    done = play(
        "backup_slave", "-e", f"host={REPLICA}", "-e", "mysql_replication_reseed=true", book="playbooks/reseed.yml"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    caught_up()
    assert content(REPLICA) == expected


def test_a_restore_that_fails_leaves_data_marker_and_replica_as_they_were() -> None:
    """On the data directory that is a mount point still; then that is taken away."""
    expected, marker = content(PRIMARY), on(PRIMARY, "cat /var/lib/webstack/db/primary").stdout
    writer = "/usr/local/lib/webstack/current/webstack/db/writer.py"
    on(PRIMARY, "echo 'raise OSError(\"not today\")' > /var/tmp/no")
    on(PRIMARY, f"mount --bind /var/tmp/no {writer}")
    try:
        done = restore("-e", "backup_slave_restore_compare=false")
    finally:
        on(PRIMARY, f"umount {writer}")
    assert done.returncode != 0
    assert "FAILED on backup-db1 in the step 'Restore_primary | Let it accept writes again'" in message(done)
    assert "The old data is in place again." in message(done)
    assert on(PRIMARY, "cat /var/lib/webstack/db/primary").stdout == marker
    on(PRIMARY, "webstack db settle")
    assert content(PRIMARY) == expected
    caught_up()
    on(
        PRIMARY,
        "systemctl stop mariadb && umount /var/lib/mysql && rm -r /srv/disk/.webstack && rmdir /var/lib/mysql"
        " && cp -a /srv/disk /var/lib/mysql && rm -r /srv/disk && systemctl start mariadb && webstack db settle",
    )
    caught_up()


# --- settings ---------------------------------------------------------------------------------------


def test_bad_input_is_refused_by_name() -> None:
    done = role("-e", "backup_slave_scheduler=at")
    assert done.returncode != 0
    assert "backup_slave_scheduler" in message(done)


def test_a_changed_password_is_refused_and_the_old_one_stays() -> None:
    done = role("-e", "backup_slave_password=9ac1f2e0d7")
    assert done.returncode != 0
    assert "does not open with backup_slave_password" in message(done)
    assert "9ac1f2e0d7" not in message(done)
    assert snapshots()


def test_cron_takes_the_place_of_the_timers_and_gives_it_back() -> None:
    done = role("-e", "backup_slave_scheduler=cron")
    assert done.returncode == 0, done.stdout + done.stderr
    table = on(REPLICA, "cat /etc/cron.d/webstack-backup").stdout
    assert re.search(r"^35 2 \* \* \* root \{ /usr/local/sbin/webstack backup run --kind daily ", table, re.M)
    assert on(REPLICA, "systemctl is-active webstack-backup-daily.timer cron.service", check=False).stdout.split() == [
        "inactive",
        "active",
    ]
    # What cron would run, as cron would run it.
    line = next(line for line in table.splitlines() if "--kind hourly" in line).split(" root ")[1]
    on(PRIMARY, line)
    assert "skipped: this server is the primary" in on(PRIMARY, "journalctl -o cat -t webstack-backup").stdout
    done = role()
    assert done.returncode == 0, done.stdout + done.stderr
    assert on(REPLICA, "test -e /etc/cron.d/webstack-backup", check=False).returncode == 1
    assert on(REPLICA, "systemctl is-active webstack-backup-daily.timer").stdout.strip() == "active"


# --- a site of one database host --------------------------------------------------------------------


def test_a_site_of_one_host_is_backed_up_and_restored(tmp_path: pathlib.Path) -> None:
    """The last one: the pair is none afterwards."""
    site = yaml.safe_load((ROOT / "molecule/backup_slave/inventory.yml").read_text())
    del site["all"]["children"]["db"]["hosts"][REPLICA]
    alone = tmp_path / "inventory.yml"
    alone.write_text(yaml.safe_dump(site))
    on(REPLICA, "systemctl stop mariadb")
    docker("stop", "--time=5", REPLICA)
    done = play("backup_slave", inventory=alone)
    assert done.returncode == 0, done.stdout + done.stderr

    # The schedule takes backups, though there is no replica; so does the playbook.
    before = ids(PRIMARY)
    on(PRIMARY, "systemctl start webstack-backup@daily.service")
    assert len(ids(PRIMARY) - before) == 1
    on(PRIMARY, "systemctl start webstack-backup-proof.service")
    assert [one["proven"] for one in snapshots(PRIMARY)][-1:] == [True]
    expected = content(PRIMARY)
    sql(PRIMARY, "DROP TABLE site.notes")
    done = restore(inventory=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"webstack-restore: ok snapshot=\w+ .* seeded=none .* compared=no", message(done)), message(done)
    assert "RISK" not in message(done)
    assert content(PRIMARY) == expected
    sql(PRIMARY, "INSERT INTO site.notes (text) VALUES ('life goes on')")

    # Nobody to compare with is no trouble either, and neither is nobody to seed from.
    done = play("backup_slave", "-e", f"host={PRIMARY}", book="playbooks/reseed.yml", inventory=alone)
    assert done.returncode != 0
    assert "backup-db1 is the primary: a primary is never seeded" in message(done) or "only database host" in message(
        done
    )
    done = play("backup_slave", inventory=alone, book="playbooks/backup.yml")
    assert done.returncode == 0, done.stdout + done.stderr

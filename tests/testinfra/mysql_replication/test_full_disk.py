"""A primary that cannot write says so, at once and to people and programs alike."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from test_mysql_replication import (
    DB1,
    DB2,
    client,
    converge,
    count_changed,
    is_pair,
    notes,
    on,
    said,
    status,
    table,
    until,
)

__all__ = ["table"]
DATA, KEPT = "/var/lib/mysql", "/var/lib/mysql-kept"


@pytest.fixture(scope="module")
def small_disk(table: None) -> Iterator[None]:
    """The primary's data on a file system of its own, with little room."""
    size = int(on(DB1, "du", "-sm", DATA).stdout.split()[0]) + 40
    on(DB1, "sh", "-ec", f"systemctl stop mariadb; cp -a {DATA} {KEPT}; mount -t tmpfs -o size={size}m tmpfs {DATA};"
       f" cp -a {KEPT}/. {DATA}/; chown mysql:mysql {DATA}; systemctl start mariadb")  # fmt: skip
    until(lambda: is_pair(DB1, DB2))
    yield
    on(DB1, "sh", "-ec", f"rm -f {DATA}/filler; systemctl stop mariadb; rm -rf {KEPT}; cp -a {DATA} {KEPT};"
       f" umount {DATA}; rm -rf {DATA}; mv {KEPT} {DATA}; systemctl start mariadb")  # fmt: skip
    until(lambda: is_pair(DB1, DB2))


def test_a_full_disk_is_seen_at_once(small_disk: None) -> None:
    assert on(DB1, "webstack", "db", "status").returncode == 0
    on(DB1, "sh", "-c", f"cat /dev/zero > {DATA}/filler", check=False)
    try:
        started = time.monotonic()
        seen = on(DB1, "webstack", "db", "status", check=False)
        seconds = time.monotonic() - started
        assert seen.returncode == 2
        assert f"CANNOT WRITE: No space left on device ({DATA})" in seen.stdout
        # At once, on a loaded machine too: no limit of three seconds was used up.
        assert seconds < 6
        answer = on(DB1, "webstack", "db", "status", "--json", check=False)
        assert answer.returncode == 2
        disk = json.loads(answer.stdout)["disk"]
        assert "No space left" in disk["problem"]
        assert disk["free_bytes"] == {DATA: 0}
        # A run has nothing to do here either.
        result = converge()
        assert result.returncode != 0
        assert f"{DB1} cannot write: No space left on device" in said(result)
        assert count_changed(result) == 0
    finally:
        on(DB1, "rm", f"{DATA}/filler")
    assert on(DB1, "webstack", "db", "status").returncode == 0
    assert client("INSERT INTO site.note (text) VALUES ('room again')").returncode == 0
    print(f"figure: full disk: status says so in {seconds:.1f} s")


def test_commits_that_hang_are_seen() -> None:
    hold = ["docker", "exec", "-i", DB1, "mariadb", "--unbuffered", "-N"]
    holder = subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    holder.stdin.write("BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT;"
                       " SELECT 'held';\n")  # fmt: skip
    holder.stdin.flush()
    assert holder.stdout.readline().strip() == "held"
    waiting = subprocess.Popen(["docker", "exec", DB1, "mariadb", "-e", "INSERT INTO site.note (text) VALUES ('late')"])
    try:
        seconds = until(lambda: on(DB1, "webstack", "db", "status", check=False).returncode == 2, 15)
        seen = on(DB1, "webstack", "db", "status", check=False).stdout
        assert "CANNOT WRITE: 1 commits have been waiting for up to" in seen
    finally:
        holder.stdin.close()
        holder.wait(10)
        waiting.wait(20)
    until(lambda: status(DB1)["disk"]["problem"] == "", 5)
    assert notes(DB1)[-1] == "late"
    print(f"figure: hanging commits: seen after {seconds:.1f} s")


def test_a_primary_comes_back_where_its_service_can_write_nothing(table: None) -> None:
    notes_of_it = "/run/webstack/db"
    on(DB1, "sh", "-ec", f"mount -t tmpfs -o size=4k,mode=755 tmpfs {notes_of_it};"
       f" cat /dev/zero > {notes_of_it}/filler 2>/dev/null || true; date +%s > /root/since;"
       " systemctl restart webstack-db mariadb")  # fmt: skip
    try:
        until(lambda: is_pair(DB1, DB2))
        assert client("INSERT INTO site.note (text) VALUES ('no room for notes')").returncode == 0
        # And whoever closes it wants it closed.
        on(DB1, "webstack", "db", "close")
        time.sleep(3)
        assert status(DB1)["read_only"]
        journal = on(DB1, "sh", "-c", "journalctl -u webstack-db --since=@$(cat /root/since) -o cat").stdout
        assert journal.count("not written down, which start of the server was open") == 1, journal
        on(DB1, "webstack", "db", "promote")
    finally:
        on(DB1, "sh", "-ec", f"umount -l {notes_of_it}; rm /root/since; systemctl restart webstack-db mariadb")
    until(lambda: is_pair(DB1, DB2))

"""A restore where agents decide: they stand aside, it begins a new epoch, and the old history is never linked again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from containers import attempt, on
from pair import DATABASES, DB2, ROUNDS, VOTES, agent, other, sql, until, whole, writer
from rerun import ROOT, play

SCENARIO = "failover"
BOOK = "playbooks/restore.yml"
DROPIN = "/run/systemd/system/mariadb.service.d"
#: Of the restore: before each of these a test kills it. `make chaos` takes all of them.
TASKS = [
    "Restore_primary | Hold replication",
    "Restore_primary | Move the old data aside",
    "Restore_start | Start the server",
    "Restore_primary | Let it accept writes again",
    "Restore_primary | Let the agents decide again",
]
CONFIRMED = ("-e", "backup_slave_restore_confirm=true")


@pytest.fixture(autouse=True)
def pair() -> Iterator[None]:
    whole()
    # An agent seeds its host once in ten minutes; here it is to do so for each test.
    for host in DATABASES:
        on(host, "rm", "-f", "/run/webstack/db/seed.json")
    yield
    attempt(writer(), "webstack", "db", "suspend", "off")


def epoch() -> int:
    """Return the epoch in which the pair is whole, which the data of both has to be of."""
    whole()
    number = int(agent(writer())["state"]["epoch"])
    for host in DATABASES:
        assert sql(host, "SELECT epoch FROM mysql.webstack_epoch") == [[str(number)]]
    return number


def backed_up() -> None:
    """One row in a backup, then two more that it lacks."""
    sql(writer(), "CREATE OR REPLACE TABLE site.kept (id INT PRIMARY KEY); INSERT INTO site.kept VALUES (1)")
    until(lambda: rows(other(writer())) == ["1"], 10, "the row on the replica")
    on(other(writer()), "webstack", "backup", "run", "--require")
    sql(writer(), "INSERT INTO site.kept VALUES (2); INSERT INTO site.kept VALUES (3)")


def rows(host: str) -> list[str]:
    return [row[0] for row in sql(host, "SELECT id FROM site.kept ORDER BY id")]


def one_history(wanted: list[list[str]]) -> list[str]:
    """Both hold the same, which is one of these, and go on together."""
    whole(90)
    first = rows(writer())
    assert first in wanted
    sql(writer(), "INSERT INTO site.kept VALUES (9)")
    until(lambda: rows(other(writer())) == [*first, "9"], 10, "the same rows on both")
    sql(writer(), "DELETE FROM site.kept WHERE id = 9")
    return first


def killed_at(task: str) -> None:
    """Run the restore, and kill it without a word when this task is about to begin."""
    command = ["ansible-playbook", "-i", f"molecule/{SCENARIO}/inventory.yml", BOOK, *CONFIRMED]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PY_COLORS"))}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment | {"PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("TASK [") and task in line:
            os.killpg(process.pid, signal.SIGKILL)
            break
    assert process.wait(60) == -signal.SIGKILL, said


def test_the_agents_stand_aside_until_they_are_told_to_go_on() -> None:
    before = writer()
    on(other(before), "webstack", "db", "suspend", "on")
    said = " ".join(attempt(before, "webstack", "status").stdout.split())
    assert f"suspended on {other(before)}: 'webstack db suspend off' ends it" in said
    for words in (["switchover"], ["restart"], ["maintenance", "on"]):
        refused = attempt(before, "webstack", "db", *words)
        assert refused.returncode == 1
        assert f"the agents are suspended, on {other(before)}" in refused.stderr
    # A server that a person stops stays down, and a person starts it, closed.
    on(before, "systemctl", "stop", "mariadb")
    on(before, "systemctl", "restart", "webstack-db")
    until(lambda: agent(before).get("rule") == "suspended", 20, "an agent that knows it again")
    assert attempt(before, "systemctl", "is-active", "mariadb").stdout.strip() == "inactive"
    on(before, "webstack", "db", "start")
    assert sql(before, "SELECT @@read_only") == [["1"]]
    on(other(before), "webstack", "db", "suspend", "off")
    whole()
    assert writer() == before
    refused = attempt(before, "webstack", "db", "start")
    assert "the agent starts this server" in refused.stderr


def test_a_restore_begins_a_new_epoch() -> None:
    before, was = epoch(), writer()
    backed_up()
    done = play(SCENARIO, *CONFIRMED, book=BOOK)
    assert done.returncode == 0, done.stdout
    assert f"primary={was} seeded={other(was)}" in done.stdout
    assert "-rows-equal" in done.stdout
    assert one_history([["1"]]) == ["1"]
    assert epoch() == before + 1
    assert writer() == was


@pytest.mark.parametrize("task", TASKS if ROUNDS > 1 else TASKS[1:2])
def test_a_restore_that_is_killed_leaves_one_history_and_can_be_run_again(task: str) -> None:
    before, was = epoch(), writer()
    backed_up()
    killed_at(task)
    again = play(SCENARIO, *CONFIRMED, "-e", f"backup_slave_restore_host={was}", book=BOOK)
    assert again.returncode == 0, again.stdout
    assert one_history([["1"]]) == ["1"]
    assert epoch() > before


@pytest.mark.parametrize("task", TASKS[2::2] if ROUNDS > 1 else TASKS[2:3])
def test_a_restore_that_is_killed_and_given_up_leaves_one_history(task: str) -> None:
    was = writer()
    backed_up()
    killed_at(task)
    on(was, "webstack", "db", "suspend", "off")
    one_history([["1"], ["1", "2", "3"]])


def test_a_restore_that_fails_puts_everything_back() -> None:
    before, was = epoch(), writer()
    backed_up()
    # A server that does not start on the restored data, and does on the old.
    refuses = "[Service]\nExecStartPre=+/bin/sh -c 'test ! -e /var/lib/mysql/.webstack-unplaced'\n"
    on(was, "sh", "-c", f"mkdir -p {DROPIN}; cat > {DROPIN}/refuses.conf; systemctl daemon-reload", text=refuses)
    try:
        failed = play(SCENARIO, *CONFIRMED, book=BOOK)
    finally:
        on(was, "sh", "-c", f"rm {DROPIN}/refuses.conf; systemctl daemon-reload")
    assert failed.returncode != 0
    assert "The old data is in place again" in failed.stdout
    assert one_history([["1", "2", "3"]])
    assert (epoch(), writer()) == (before, was)


def test_without_the_quorum_nothing_is_stopped() -> None:
    was = writer()
    backed_up()
    process = on(was, "pidof", "mariadbd")
    # A restore that was killed may have left its copy.
    kept = on(was, "ls", "/var/lib")
    for host in (*VOTES, DB2):
        on(host, "systemctl", "stop", "webstack-quorum")
    try:
        failed = play(SCENARIO, *CONFIRMED, book=BOOK)
    finally:
        for host in (*VOTES, DB2):
            on(host, "systemctl", "start", "--no-block", "webstack-quorum")
    assert failed.returncode != 0
    assert "Nothing was stopped or changed" in " ".join(failed.stdout.split())
    assert on(was, "pidof", "mariadbd") == process
    assert one_history([["1", "2", "3"]])
    assert on(was, "ls", "/var/lib") == kept

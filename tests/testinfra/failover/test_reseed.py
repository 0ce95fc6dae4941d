"""A replica whose data cannot be used any more: it gets a fresh copy, without a person or by the playbook."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from containers import attempt, on
from pair import DATA, agent, other, running, sql, until, whole, writer
from rerun import play

SCENARIO = "failover"
RESULT = "/run/webstack/db/seed.json"


@pytest.fixture
def replica() -> Iterator[str]:
    whole()
    host = other(writer())
    sql(writer(), "CREATE OR REPLACE TABLE site.copied (id INT PRIMARY KEY); INSERT INTO site.copied VALUES (1), (2)")
    until(lambda: rows(host) == "2", 10, "the rows on the replica")
    yield host
    running(host, 90)
    assert rows(writer()) == rows(host)
    on(host, "sh", "-c", f"rm -rf {DATA}.20*")


def rows(host: str) -> str:
    return sql(host, "SELECT COUNT(*) FROM site.copied")[0][0]


def long_ago(host: str) -> None:
    """The last seed is no reason to wait."""
    on(host, "rm", "-f", RESULT)


def diverged(host: str) -> None:
    """Its applier fails at what the writer does next."""
    sql(host, "SET sql_log_bin = 0; DELETE FROM site.copied WHERE id = 2")
    sql(writer(), "DELETE FROM site.copied WHERE id = 2; INSERT INTO site.copied VALUES (3)")


def test_a_replica_that_lost_its_data_is_seeded(replica: str) -> None:
    long_ago(replica)
    on(replica, "sh", "-c", f"systemctl stop webstack-db mariadb; rm -rf {DATA}/*; systemctl start webstack-db")
    print(f"figure: an emptied replica is whole after {running(replica, 90):.1f} s")


def test_a_replica_that_diverged_is_seeded_once_in_ten_minutes(replica: str) -> None:
    long_ago(replica)
    diverged(replica)
    until(lambda: agent(replica)["rule"] in ("needs_seed", "seeds"), 20, "a replica that has to be seeded")
    whole(90)
    assert sql(replica, "SELECT GROUP_CONCAT(id ORDER BY id) FROM site.copied") == [["1,3"]]
    assert attempt(replica, "sh", "-c", f"ls -d {DATA}.20*").stdout.count("\n") == 1
    sql(writer(), "INSERT INTO site.copied VALUES (2)")
    until(lambda: rows(replica) == "3", 10, "the row on the replica")
    diverged_again = "SET sql_log_bin = 0; DELETE FROM site.copied WHERE id = 2"
    sql(replica, diverged_again)
    sql(writer(), "DELETE FROM site.copied WHERE id = 2")
    sentence = "the next one begins 10 min after it"
    until(lambda: sentence in agent(replica)["why"], 20, sentence)
    assert sentence in " ".join(attempt(replica, "webstack", "status").stdout.split())
    # A person need not wait.
    done = play(SCENARIO, "-e", f"host={replica}", "-e", "mysql_replication_reseed=true", book="playbooks/reseed.yml")
    assert done.returncode == 0, done.stdout
    print(f"figure: counted on again {whole(30):.1f} s after the playbook reseed")


def test_the_playbook_seeds_a_replica_that_is_fine(replica: str) -> None:
    done = play(SCENARIO, "-e", f"host={replica}", "-e", "mysql_replication_reseed=true", book="playbooks/reseed.yml")
    assert done.returncode == 0, done.stdout
    print(f"figure: counted on again {whole(30):.1f} s after the playbook reseed")

"""What each fault of the pair costs its clients: how long writes stand still, and that nothing acknowledged is lost.

One round of each; `make chaos` repeats them (FAILOVER_ROUNDS=5). The bars are those of docs/database.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from containers import attempt, on
from pair import (
    DATA,
    DATABASES,
    DB2,
    ROUNDS,
    VOTES,
    Heal,
    agent,
    clients,
    cut,
    cut_link,
    freeze,
    hang_server,
    kill,
    kill_server,
    other,
    running,
    sql,
    until,
    whole,
    writer,
)
from rerun import play

LIMITED = "SELECT @@rpl_semi_sync_master_timeout, @@rpl_semi_sync_master_enabled"
ROUND = pytest.mark.parametrize("turn", range(ROUNDS))


def struck(fault: Callable[[str], Heal], host: str, moves: bool, seconds: float = 8) -> float:
    """Strike, heal after a while, and return how long writes stood still; the pair is whole again by itself."""
    before = writer()
    with clients(seconds + 3) as cost:
        heal = fault(host)
        time.sleep(seconds - 3)
        assert (writer_of_the_living(host) != before) == moves
        heal()
        again = whole()
    for one in DATABASES:
        assert cost.lost(one) == set(), f"{one} lacks acknowledged rows"
    assert (writer() != before) == moves, "the role moves once, or not at all"
    name = fault.__name__.replace("_", " ")
    print(
        f"figure: {name} {'writer' if host == before else 'replica'}: {cost.outage:.2f} s without a write,"
        f" {len(cost.refused)} refused, whole {again:.1f} s after its end"
    )
    return cost.outage


def writer_of_the_living(struck_host: str) -> str:
    found = agent(other(struck_host)) or agent(struck_host)
    return str(found["state"]["writer"])


@pytest.fixture(autouse=True)
def pair() -> Iterator[None]:
    whole()
    yield


def test_both_say_what_they_are() -> None:
    for host in DATABASES:
        seen = attempt(host, "webstack", "db", "status")
        assert seen.returncode == 0, seen.stdout + seen.stderr
        assert f"{writer()} writes, {other(writer())} holds every row" in seen.stdout
    assert '"problems": []' in on(writer(), "webstack", "db", "status", "--json")


@pytest.mark.quiet
@ROUND
def test_a_killed_server_is_replaced(turn: int) -> None:
    assert struck(kill_server, writer(), moves=True) <= 3.0


@pytest.mark.quiet
@ROUND
def test_a_killed_host_is_replaced(turn: int) -> None:
    assert struck(kill, writer(), moves=True) <= 4.0


@pytest.mark.quiet
@ROUND
def test_a_frozen_host_is_replaced_and_acknowledges_nothing_when_it_thaws(turn: int) -> None:
    assert struck(freeze, writer(), moves=True) <= 4.0


@pytest.mark.quiet
@ROUND
def test_a_host_that_is_cut_off_is_replaced(turn: int) -> None:
    assert struck(cut, writer(), moves=True) <= 4.0


@pytest.mark.quiet
@ROUND
def test_a_server_that_hangs_is_replaced(turn: int) -> None:
    assert struck(hang_server, writer(), moves=True, seconds=16) <= 4.0


@pytest.mark.quiet
@ROUND
def test_a_cut_between_the_two_leaves_one_writer(turn: int) -> None:
    assert struck(cut_link, writer(), moves=False) <= 2.0


@pytest.mark.quiet
@ROUND
@pytest.mark.parametrize("fault", [kill_server, kill, freeze, cut], ids=lambda fault: fault.__name__)
def test_a_lost_replica_costs_one_short_stall(fault: Callable[[str], Heal], turn: int) -> None:
    assert struck(fault, other(writer()), moves=False) <= 1.5


@pytest.mark.quiet
@ROUND
@pytest.mark.parametrize("members", [VOTES[1:], (*VOTES, DB2)], ids=["one", "all"])
def test_a_lost_quorum_costs_nothing(members: tuple[str, ...], turn: int) -> None:
    before = writer()
    with clients(12) as cost:
        for host in members:
            on(host, "systemctl", "kill", "--signal=KILL", "webstack-quorum")
            on(host, "systemctl", "stop", "webstack-quorum")
        if len(members) == 3:
            sentence = "the quorum does not answer: a lost writer would not be replaced"
            until(lambda: sentence in " ".join(attempt(before, "webstack", "status").stdout.split()), 8, sentence)
        for host in members:
            on(host, "systemctl", "start", "--no-block", "webstack-quorum")
    whole()
    assert cost.outage <= 0.5
    assert not cost.refused
    assert cost.lost(before) == set()
    assert writer() == before


@pytest.mark.quiet
@ROUND
def test_a_planned_move_loses_nothing(turn: int) -> None:
    before = writer()
    with clients(6) as cost:
        on(before, "webstack", "db", "switchover")
    whole()
    assert writer() == other(before)
    for host in DATABASES:
        assert cost.lost(host) == set()
    print(f"figure: planned move: {cost.outage:.2f} s without a write, {len(cost.refused)} refused")
    assert cost.outage <= 0.5


@pytest.mark.quiet
@ROUND
def test_a_restart_of_the_writer_moves_it_first(turn: int) -> None:
    before = writer()
    with clients(10) as cost:
        on(before, "webstack", "db", "restart")
    whole()
    assert writer() == other(before)
    assert cost.lost(writer()) == set()
    print(f"figure: restart of the writer: {cost.outage:.2f} s without a write, {len(cost.refused)} refused")
    assert cost.outage <= 0.8


def fill(host: str) -> Heal:
    """Leave no room where the data lies."""
    on(host, "sh", "-c", f"cat /dev/zero > {DATA}/filler 2>/dev/null || true")
    return lambda: on(host, "rm", "-f", f"{DATA}/filler")


@pytest.fixture
def small_disk() -> Iterator[str]:
    """The writer's data on a file system of its own, with little room."""
    host, kept = writer(), f"{DATA}-kept"
    on(other(host), "webstack", "db", "pause", "on")
    try:
        size = int(on(host, "du", "-sm", DATA).split()[0]) + 120
        on(host, "sh", "-ec", f"systemctl stop webstack-db mariadb; cp -a {DATA} {kept};"
           f" mount -t tmpfs -o size={size}m tmpfs {DATA}; cp -a {kept}/. {DATA}/; chown mysql:mysql {DATA};"
           " systemctl start webstack-db")  # fmt: skip
        running(host)
    finally:
        on(other(host), "webstack", "db", "pause", "off")
    yield host
    on(host, "sh", "-ec", f"systemctl stop webstack-db mariadb; rm -rf {kept}; cp -a {DATA} {kept};"
       f" umount {DATA}; rm -rf {DATA}; mv {kept} {DATA}; systemctl start webstack-db")  # fmt: skip
    running(host)


@pytest.mark.quiet
def test_a_full_disk_moves_the_writer(small_disk: str) -> None:
    if writer() != small_disk:
        on(small_disk, "webstack", "db", "switchover")
        whole()
    assert struck(fill, small_disk, moves=True, seconds=12) <= 10.0


def test_two_faults_in_a_row_never_make_two_writers() -> None:
    """The link first, then the writer: the replica lacks rows, and says that it will not write."""
    before = writer()
    heal_link = cut_link(before)
    until(lambda: agent(before)["state"]["replica"] == "", 10, "the writer goes on alone")
    sql(before, "CREATE OR REPLACE TABLE site.alone (id INT); INSERT INTO site.alone VALUES (1)")
    thaw = freeze(before)
    try:
        until(lambda: "may have acknowledged rows" in agent(other(before))["why"], 15, "a refusal")
        assert sql(other(before), "SELECT @@read_only") == [["1"]]
        forced = attempt(other(before), "webstack", "db", "promote", "--force", "--wait", "3")
        assert forced.returncode == 1
        assert "has not become the writer within 3 s" in forced.stderr
        assert "power it off and say so with --peer-is-off" in forced.stderr
        said = attempt(other(before), "webstack", "status").stdout
        assert "may have acknowledged rows that are not here" in " ".join(said.split())
    finally:
        thaw()
        heal_link()
    whole()
    assert writer() == before
    assert sql(other(before), "SELECT COUNT(*) FROM site.alone") == [["1"]]


def test_events_go_with_the_writer() -> None:
    before = writer()
    sql(before, "SET GLOBAL event_scheduler = ON; CREATE TABLE IF NOT EXISTS site.ticks (at DATETIME(6), server INT);"
        " CREATE OR REPLACE EVENT site.tick ON SCHEDULE EVERY 1 SECOND DO"
        " INSERT INTO site.ticks VALUES (NOW(6), @@server_id)")  # fmt: skip
    on(other(before), "mariadb", "-e", "SELECT 1")
    until(lambda: sql(before, "SELECT COUNT(*) > 1 FROM site.ticks") == [["1"]], 10, "events of the writer")
    sql(other(before), "SET GLOBAL event_scheduler = OFF")
    on(before, "webstack", "db", "switchover")
    whole()
    assert sql(before, "SELECT @@event_scheduler") == [["OFF"]]
    number = sql(writer(), "SELECT @@server_id")[0][0]
    sql(writer(), "SET GLOBAL event_scheduler = ON")
    until(
        lambda: sql(writer(), f"SELECT COUNT(*) > 1 FROM site.ticks WHERE server = {number}") == [["1"]],
        10,
        "events of the new writer",
    )
    sql(writer(), "DROP EVENT site.tick; SET GLOBAL event_scheduler = OFF")


def test_a_run_leaves_the_roles_where_they_are() -> None:
    before = writer()
    result = play("failover")
    assert result.returncode == 0, result.stdout + result.stderr
    recap = result.stdout.partition("PLAY RECAP")[2]
    assert recap.count("changed=0") == 4, result.stdout
    assert writer() == before


def test_rows_written_on_the_replica_are_noticed_and_it_is_not_counted_on() -> None:
    """By an account that read_only does not bind. The writer goes on alone, and the replica gets a fresh copy."""
    before, replica = writer(), other(writer())
    # An agent seeds its host once in ten minutes.
    on(replica, "rm", "-f", "/run/webstack/db/seed.json")
    sql(before, "CREATE OR REPLACE TABLE site.goes_on (id INT)")
    sql(replica, "CREATE TABLE site.astray (id INT)")
    until(lambda: agent(before)["state"]["replica"] == "", 5, "the writer goes on alone")
    sql(before, "INSERT INTO site.goes_on VALUES (1)")
    gone = ("mariadb", "--batch", "-N", "-e", "SHOW TABLES FROM site")
    until(lambda: "goes_on" in (said := attempt(replica, *gone).stdout) and "astray" not in said, 60, "a fresh copy")
    running(replica, 60)
    assert writer() == before
    # Where the writer's next row came first, the applier had stumbled over it.
    journal = on(replica, "journalctl", "--unit=webstack-db", "--output=cat", "--since=-2min")
    assert "was written to: 0-" in journal or "1950" in journal, journal


def test_an_applier_that_somebody_stopped_goes_on() -> None:
    """It would go on acknowledging what it does not apply."""
    replica = other(writer())
    sql(replica, "STOP SLAVE SQL_THREAD")
    until(lambda: agent(replica)["own"]["applying"], 5, "the applier")
    whole()


def test_a_failed_applier_is_let_go_and_said() -> None:
    before, replica = writer(), other(writer())
    sql(before, "CREATE OR REPLACE TABLE site.wrong (id INT PRIMARY KEY)")
    until(lambda: sql(replica, "SHOW TABLES FROM site LIKE 'wrong'") == [["wrong"]], 5, "the table on the replica")
    # Past the binary log, where nobody sees it until it collides.
    sql(replica, "SET sql_log_bin = 0; INSERT INTO site.wrong VALUES (1)")
    sql(before, "INSERT INTO site.wrong VALUES (1)")
    until(lambda: agent(before)["state"]["replica"] == "", 10, "the writer goes on alone")
    said = " ".join(attempt(replica, "webstack", "status").stdout.split())
    assert "error 1062" in said, said
    sql(before, "INSERT INTO site.wrong VALUES (2)")
    # A person mends it, and the pair is whole again by itself.
    sql(replica, "SET sql_log_bin = 0; DELETE FROM site.wrong; START SLAVE SQL_THREAD")
    whole()
    assert sql(replica, "SELECT COUNT(*) FROM site.wrong") == [["2"]]


def test_the_mode_may_change_and_nobody_moves() -> None:
    """While a person decides, the quorum names nobody: what it would say later may have been undone by then."""
    before = writer()
    on(before, "webstack", "db", "switchover")
    whole()
    assert agent(before)["state"]["turn"] > 0
    before = writer()
    for mode, decided in (("manual", False), ("auto", True)):
        result = play("failover", mysql_replication_mode=mode)
        assert result.returncode == 0, result.stdout + result.stderr
        until(lambda: sql(before, "SELECT @@read_only") == [["0"]], 10, "a writer")
        if decided:
            whole()
            assert agent(before)["state"]["turn"] == 0, "it was written down anew"
            assert writer() == before
        else:
            until(lambda: sql(before, LIMITED) == [["2000", "1"]], 10, "a commit that does not wait for ever")

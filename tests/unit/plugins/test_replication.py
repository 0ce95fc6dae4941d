"""The plan of the database pair, and the statements of its accounts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _mysql_accounts as accounts
from ansible_collections.webstack.ha.plugins.module_utils import _replication
from hypothesis import given
from hypothesis import strategies as st

NODES = [
    {"name": "db1", "address": "192.0.2.41", "port": 3306},
    {"name": "db2", "address": "192.0.2.42", "port": 3306},
]
UNITS = {"mariadb.service": {"active": True, "enabled": True}, "webstack-db.service": {"active": True, "enabled": True}}


def server(number: int, **changes: Any) -> dict[str, Any]:
    """A fresh server after its first start."""
    return {
        "configured": True,
        "running": True,
        "server_id": number,
        "server_id_wanted": number,
        "read_only": True,
        "gtid": "",
        "gtid_binlog_state": "",
        "has_source": False,
        "replica": {"io": False, "sql": False, "lag_seconds": None, "error": "", "source": ""},
        "marker": None,
        "schemas": [],
        "pending": {"restart": [], "set": {}, "tls": False},
        "link_current": True,
        "units": UNITS,
        "peer": {},
        **changes,
    }


def primary(number: int, **changes: Any) -> dict[str, Any]:
    base = {"read_only": False, "marker": {"paired": True}, "schemas": ["site"], "gtid": f"0-{number}-9"}
    return server(number, **{**base, **changes})


def replica(number: int, source: str, link: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    running = {"io": True, "io_state": "Yes", "sql": True, "lag_seconds": 0, "error": "", "source": source}
    base = {"has_source": True, "replica": {**running, **(link or {})}, "schemas": ["site"]}
    return server(number, **{**base, **changes})


def plan(first: dict[str, Any], second: dict[str, Any], **options: Any) -> _replication.Plan:
    return _replication.plan(NODES, {"db1": first, "db2": second}, options.pop("initial", "db1"), **options)


def test_an_empty_site_gets_the_initial_primary_and_a_seeded_replica() -> None:
    assert plan(server(1), server(2)).steps == ["bootstrap db1", "seed db2 from db1"]
    assert plan(server(1), server(2), initial="db2").steps == ["bootstrap db2", "seed db1 from db2"]


def test_stopped_servers_are_started_before_anything_is_decided() -> None:
    found = plan(server(1, running=False), primary(2))
    assert found.steps == ["start db1"]
    off = {**UNITS, "webstack-db.service": {"active": False, "enabled": True}}
    assert plan(primary(1, units=off), replica(2, "192.0.2.41")).steps == ["start db1"]


def test_nothing_is_done_to_a_working_pair_whoever_is_primary() -> None:
    for first, second, name in (
        (primary(1), replica(2, "192.0.2.41"), "db1"),
        (replica(1, "192.0.2.42"), primary(2), "db2"),
        (replica(1, "db2"), primary(2), "db2"),
    ):
        found = plan(first, second)
        assert (found.refused, found.steps, found.primary, found.settled) == ("", [], name, True)


def test_a_host_without_the_role_is_waited_for() -> None:
    bare = {"configured": False}
    assert plan(bare, bare).steps == []
    assert plan(server(1), bare).steps == ["bootstrap db1"]
    assert plan(primary(1), bare).steps == []
    assert plan(bare, server(2)).steps == []


def test_a_dead_host_changes_nothing() -> None:
    found = plan(primary(1), {})
    assert (found.refused, found.steps, found.notes) == ("", [], ["db2 does not answer"])
    found = plan({}, replica(2, "192.0.2.41"))
    assert (found.refused, found.steps, found.primary, found.primary_answers) == ("", [], "db1", False)


def test_nobody_is_made_primary_while_somebody_cannot_be_asked() -> None:
    assert "db2 cannot be asked" in plan(server(1), {}).refused
    assert "db2 cannot be asked" in plan(server(1, schemas=["site"], marker={"paired": True}), {}).refused


def test_a_restarted_primary_that_waits_for_its_replica_is_still_the_primary() -> None:
    waiting = primary(1, read_only=True)
    assert plan(waiting, replica(2, "192.0.2.41")).primary == "db1"
    assert plan(waiting, server(2)).steps == ["seed db2 from db1"]


def test_a_server_that_came_before_the_role_keeps_its_data_and_becomes_the_primary() -> None:
    assert plan(server(1), server(2, schemas=["shop"])).steps == ["bootstrap db2", "seed db1 from db2"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (primary(1), primary(2), "db1 and db2 both accept writes"),
        (server(1, schemas=["a"]), server(2, schemas=["b"]), "nobody is the primary"),
        (primary(1), server(2, schemas=["site"]), "db2 holds data (site) and replicates from nobody"),
        (primary(1), replica(2, "192.0.2.99"), "db2 replicates from 192.0.2.99, but the primary is db1"),
        (server(1), replica(2, "192.0.2.99"), "none of db1, db2"),
        (server(1), replica(2, "192.0.2.41"), "db1, which is empty"),
        ({"configured": False}, replica(2, "192.0.2.41"), "where nothing is installed"),
        (server(1, schemas=["site"]), replica(2, "192.0.2.41"), "'webstack db promote' on db1"),
        (replica(1, "192.0.2.42"), replica(2, "192.0.2.41"), "nobody is the primary"),
        (primary(1), replica(2, "192.0.2.41", read_only=False), "db2 replicates from 192.0.2.41 and accepts writes"),
        (server(1), server(1), "both have the server id 1 (mysql_replication_server_id)"),
        (
            primary(1),
            replica(2, "192.0.2.41", {"sql": False, "error": "1062: Duplicate entry"}),
            "replication on db2 stopped with error 1062: Duplicate entry",
        ),
        (
            primary(1),
            replica(2, "192.0.2.41", {"io": False, "io_state": "No", "error": "1236: could not find"}),
            "stopped with error 1236",
        ),
    ],
)
def test_what_a_person_has_to_decide_is_refused(first: dict[str, Any], second: dict[str, Any], words: str) -> None:
    found = plan(first, second)
    assert words in found.refused
    assert found.steps == []


def test_permission_to_reseed_turns_refusals_into_seeds() -> None:
    for second in (
        server(2, schemas=["site"]),
        replica(2, "192.0.2.41", {"sql": False, "error": "1062: Duplicate entry"}),
    ):
        assert plan(primary(1), second, reseed=True).steps == ["seed db2 from db1"]
    assert "both accept writes" in plan(primary(1), primary(2), reseed=True).refused


def test_a_named_replica_is_seeded_and_a_primary_never() -> None:
    pair = (primary(1), replica(2, "192.0.2.41"))
    assert plan(*pair, reseed_node="db2").steps == ["seed db2 from db1"]
    assert "db1 is the primary" in plan(*pair, reseed_node="db1").refused
    assert "database hosts are db1, db2" in plan(*pair, reseed_node="db7").refused


DOWN = {
    "configured": True,
    "running": False,
    "role": "none",
    "read_only": True,
    "gtid": "",
    "replica": {"io": False, "sql": False, "lag_seconds": None, "error": "", "source": ""},
    "marker": None,
    "error": "ERROR 2002 (HY000): Can't connect",
    "schemas": ["site"],
    "units": UNITS,
    "peer": {},
}


def test_a_named_replica_is_seeded_though_it_does_not_start() -> None:
    for down in (DOWN, {**DOWN, "schemas": []}, {**DOWN, "marker": {"paired": True}}):
        found = plan(primary(1), down, reseed_node="db2")
        assert (found.refused, found.steps, found.primary) == ("", ["seed db2 from db1"], "db1")
        # Unnamed it is only started.
        assert plan(primary(1), down).steps == ["start db2"]
    # One that runs and lost its link, or follows a stranger, too.
    for other in (server(2, schemas=["site"]), replica(2, "192.0.2.99"), server(2)):
        assert plan(primary(1), other, reseed_node="db2").steps == ["seed db2 from db1"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (primary(1), {}, "db2 does not answer: the host has to be up; its MariaDB need not run"),
        (primary(1), {"configured": False}, "nothing is installed on db2 yet"),
        ({}, DOWN, "db1 does not answer, and db2 is seeded from there"),
        ({"configured": False}, DOWN, "nothing is installed on db1"),
        (DOWN, replica(2, "192.0.2.41"), "MariaDB does not run on db1"),
        (primary(1), primary(2), "db2 is the primary: a primary is never seeded"),
        (DOWN, primary(2), "db2 is the primary"),
        (primary(1, read_only=True), DOWN, "'webstack db promote --force' on db1 opens it; then run again"),
        (primary(1, read_only=True), replica(2, "192.0.2.41"), "db1 is the primary and read-only"),
        (replica(1, "192.0.2.42"), DOWN, "db1"),
    ],
)
def test_seeding_a_named_replica_is_refused_with_the_next_step(
    first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    found = plan(first, second, reseed_node="db2")
    assert words in found.refused
    assert found.steps == []


def test_a_site_of_one_host_works_and_has_nobody_to_seed() -> None:
    def alone(state: dict[str, Any], **options: Any) -> _replication.Plan:
        return _replication.plan(NODES[:1], {"db1": state}, "db1", **options)

    assert alone(server(1)).steps == ["bootstrap db1"]
    assert alone(primary(1)).settled
    assert "db1 cannot be asked" in alone({}).refused
    assert "db1 is the only database host of this site" in alone(primary(1), reseed_node="db1").refused
    assert "db1 is the only database host of this site" in alone(DOWN, reseed_node="db1").refused


def test_replication_that_somebody_stopped_is_resumed_and_an_old_password_replaced() -> None:
    stopped = {"io": False, "io_state": "No", "sql": False}
    assert plan(primary(1), replica(2, "192.0.2.41", stopped)).steps == ["resume db2"]
    refused = {"io": False, "io_state": "Connecting", "error": "1045: Access denied"}
    assert plan(primary(1), replica(2, "192.0.2.41", refused, link_current=False)).steps == ["link db2 again"]
    found = plan(primary(1), replica(2, "192.0.2.41", refused))
    assert (found.steps, found.settled) == ([], False)
    assert "1045" in found.notes[0]


def test_the_primary_is_restarted_last_and_only_for_what_needs_it() -> None:
    restart = {"pending": {"restart": ["log_bin"], "set": {}, "tls": False}}
    dynamic = {"pending": {"restart": [], "set": {"max_connections": "10"}, "tls": False}}
    assert plan(primary(1, **restart), replica(2, "192.0.2.41", **restart)).restart == ["db2", "db1"]
    assert plan(replica(1, "192.0.2.42", **restart), primary(2, **restart)).restart == ["db1", "db2"]
    found = plan(primary(1, **dynamic), replica(2, "192.0.2.41", **restart))
    assert (found.apply, found.restart) == (["db1"], ["db2"])


def test_transactions_that_the_primary_never_had_are_named() -> None:
    peer = {"reachable": True, "name": "db1", "gtid_binlog_state": "0-1-9", "gtid": "0-1-9"}
    own = replica(2, "192.0.2.41", gtid="0-2-10", gtid_binlog_state="0-1-9,0-2-10", peer=peer)
    assert "0-2-10" in plan(primary(1), own).refused
    assert plan(primary(1), own, reseed=True).seed == "db2"
    behind = replica(2, "192.0.2.41", gtid="0-1-7", gtid_binlog_state="0-1-7", peer=peer)
    assert plan(primary(1), behind).steps == []


GTIDS = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(1, 4)), st.integers(1, 1000))


def text(state: dict[tuple[int, int], int]) -> str:
    return ",".join(f"{d}-{s}-{n}" for (d, s), n in state.items())


@given(GTIDS)
def test_gtids_are_read_as_written(state: dict[tuple[int, int], int]) -> None:
    assert _replication.parse_gtid(text(state)) == state


@given(GTIDS, st.integers(0, 999))
def test_a_replica_that_is_behind_is_never_errant(state: dict[tuple[int, int], int], less: int) -> None:
    behind = {key: max(1, number - less) for key, number in state.items()}
    assert _replication.errant(text(behind), "", text(state), "") == []


@given(GTIDS, st.integers(0, 3), st.integers(1, 4))
def test_a_transaction_above_the_primary_is_always_found(
    state: dict[tuple[int, int], int], domain: int, server_id: int
) -> None:
    top = max((n for (d, _s), n in state.items() if d == domain), default=0) + 1
    assert f"{domain}-{server_id}-{top}" in _replication.errant(text({(domain, server_id): top}), "", text(state), "")


def test_a_bad_gtid_is_said() -> None:
    with pytest.raises(ValueError, match="'0-1' is no GTID"):
        _replication.parse_gtid("0-1")


# --- what the servers know, and whether they can write -----------------------------------------------


def test_the_primary_takes_its_settings_after_the_replica() -> None:
    late = {"restart": ["tmpdir"], "set": {}, "tls": False}
    soon = {"restart": [], "set": {"max_connections": "9"}, "tls": False}
    turn = plan(primary(1, pending=soon), replica(2, "192.0.2.41", pending=late)).as_dict()
    assert (turn["apply"], turn["restart"], turn["in_turn"]) == (["db1"], ["db2"], ["db2", "db1"])


def test_time_zones_are_loaded_where_they_differ_and_come_along_with_a_seed() -> None:
    stale = plan(primary(1, time_zones_current=False), replica(2, "192.0.2.41", time_zones_current=False))
    assert stale.steps == ["load the time zones on db1", "load the time zones on db2"]
    assert stale.as_dict()["changes"]
    # A seed or a restore ends well: who is what does not hang on them.
    assert stale.settled
    fresh = plan(server(1, time_zones_current=False), server(2, time_zones_current=False))
    assert fresh.steps == ["bootstrap db1", "load the time zones on db1", "seed db2 from db1"]
    # A host without zones of its own is no reason to do anything.
    assert plan(primary(1, time_zones_current=None), replica(2, "192.0.2.41", time_zones_current=True)).steps == []


def test_a_primary_that_cannot_write_is_refused_and_a_replica_is_told_of() -> None:
    full = {"disk": {"problem": "No space left on device (/var/lib/mysql)", "free_bytes": {}}}
    refused = plan(primary(1, **full), replica(2, "192.0.2.41"))
    assert refused.refused == "db1 cannot write: No space left on device (/var/lib/mysql)"
    assert refused.steps == []
    told = plan(primary(1, disk={"problem": ""}), replica(2, "192.0.2.41", **full))
    assert told.refused == ""
    assert told.notes == ["db2 cannot write: No space left on device (/var/lib/mysql)"]


# --- accounts ---------------------------------------------------------------------------------------


def account(**changes: Any) -> accounts.Account:
    item = {"name": "site", "password": "pw", "privileges": [{"target": "my_site.*", "grant": ["all"]}], **changes}
    return accounts.wanted(item)


def test_the_hash_is_the_one_that_the_server_stores() -> None:
    # SELECT PASSWORD('mariadb')
    assert accounts.password_hash("mariadb") == "*54958E764CE10E50764C2EECBB71D01F08549980"


def test_a_new_account_needs_two_statements_and_shows_no_password() -> None:
    texts = [statement for statement, _text in accounts.statements(account(), None)]
    assert texts[0].startswith("CREATE USER 'site'@'%' IDENTIFIED VIA mysql_native_password USING '*")
    assert texts[0].endswith("REQUIRE SSL")
    assert texts[1:] == ["GRANT ALL PRIVILEGES ON `my\\_site`.* TO 'site'@'%'"]
    assert "'pw'" not in "".join(texts)


def test_an_account_that_fits_is_left_alone() -> None:
    lines = [
        "GRANT USAGE ON *.* TO `site`@`%` IDENTIFIED BY PASSWORD '*AB' REQUIRE SSL",
        "GRANT ALL PRIVILEGES ON `my\\_site`.* TO `site`@`%`",
    ]
    have = account()
    have.grants = accounts.parse_grants(lines)
    assert accounts.statements(account(), have) == []


def test_only_what_differs_is_changed() -> None:
    have = account(password="old", require_tls=False, privileges=[{"target": "*.*", "grant": ["PROCESS", "SUPER"]}])
    want = account(privileges=[{"target": "*.*", "grant": ["process", "replication  client"]}])
    assert [text for _statement, text in accounts.statements(want, have)] == [
        "set the password of site@%",
        "require SSL of site@%",
        "revoke SUPER on *.* from site@%",
        "grant BINLOG MONITOR on *.* to site@%",
    ]


def test_a_list_replaces_all_privileges() -> None:
    have = account()
    want = account(privileges=[{"target": "my_site.*", "grant": ["SELECT"]}])
    assert [text for _statement, text in accounts.statements(want, have)] == [
        "revoke ALL PRIVILEGES on `my\\_site`.* from site@%",
        "grant SELECT on `my\\_site`.* to site@%",
    ]


def test_grants_of_columns_and_of_granting_are_read() -> None:
    line = "GRANT SELECT (`a`, `b`), INSERT ON `x`.`y` TO `site`@`%` WITH GRANT OPTION"
    assert accounts.parse_grants([line]) == {"`x`.`y`": {"SELECT (`a`, `b`)", "INSERT", "GRANT OPTION"}}


def test_a_target_needs_a_schema_and_a_table() -> None:
    for wrong in ("site", "*.x", ".x", "site."):
        with pytest.raises(ValueError, match="no target"):
            accounts.target(wrong)


@given(st.text(min_size=1))
def test_literals_hold_any_text(value: str) -> None:
    inner = accounts.quote(value)[1:-1]
    assert "'" not in inner.replace("''", "")
    assert inner.replace("''", "'").replace("\\\\", "\\") == value

"""The comparison of the two servers' data: how a table is cut, what is never touched, and what ends it."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Busy, Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.mariadb import ServerGone, SqlError
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import drift, slices
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db.config import Node
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db.slices import Column, Table

ID, NAME, BODY = Column("id", "bigint"), Column("na`me", "varchar"), Column("body", "longtext")
PRIMARY = {"replica": None, "read_only": False, "version": "11.8"}
FOLLOWER = {"replica": {"sql": True, "source": "db1"}, "read_only": True, "version": "11.8"}


def a_table(*key: Column, **changes: Any) -> Table:
    return Table("shop", "orders", (ID, NAME, BODY), key)._replace(**changes)


# --- slices -----------------------------------------------------------------------------------------


def test_slices_leave_nothing_out() -> None:
    table = a_table(ID)
    assert slices.part(table, None, ["5"]) == "((`id` <= 5))"
    assert slices.part(table, ["5"], ["9"]) == "((`id` > 5)) AND ((`id` <= 9))"
    assert slices.part(table, ["9"], None) == "((`id` > 9))"
    assert slices.part(table, None, None) == "TRUE"


def test_a_key_of_two_columns_goes_by_the_first_one_first() -> None:
    table = a_table(ID, NAME)
    assert slices.part(table, ["5", "'b'"], None) == "((`id` > 5) OR (`id` = 5 AND `na``me` > 'b'))"
    assert slices.part(table, None, ["5", "'b'"]) == "((`id` < 5) OR (`id` = 5 AND `na``me` <= 'b'))"


@pytest.mark.parametrize(
    ("kind", "asked", "text", "literal"),
    [
        ("bigint", "`x`", "9007199254740993", "9007199254740993"),
        ("varchar", "HEX(CONVERT(`x` USING utf8mb4))", "C3A4", "_utf8mb4 X'C3A4'"),
        ("binary", "HEX(`x`)", "00FF", "X'00FF'"),
        ("datetime", "`x`", "2026-01-01 00:00:00", "'2026-01-01 00:00:00'"),
    ],
)
def test_a_key_is_written_as_its_type_wants_it(kind: str, asked: str, text: str, literal: str) -> None:
    column = Column("x", kind)
    assert (slices.asked(column), slices.literal(column, text)) == (asked, literal)


def test_a_table_is_cut_by_keys_that_can_be_compared() -> None:
    assert slices.can_cut((ID, NAME))
    assert not slices.can_cut(())
    assert not slices.can_cut((ID, Column("x", "double")))


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (a_table(ID), ""),
        (a_table(rows=slices.WHOLE_ROWS), ""),
        (a_table(rows=slices.WHOLE_ROWS + 1), "has no primary key that could cut its 100001 rows into slices"),
        (a_table(ID, engine="MEMORY"), "engine MEMORY takes no part in transactions"),
    ],
)
def test_what_cannot_be_compared_is_named(table: Table, why: str) -> None:
    assert table.why_not() == why


def test_every_column_is_in_the_sum_and_a_large_one_by_its_own_sum() -> None:
    text = slices.sums(a_table(ID))
    assert "COALESCE(CONCAT(OCTET_LENGTH(`id`), ':', CAST(`id` AS BINARY)), '-')" in text
    assert "OCTET_LENGTH(`na``me`)" in text
    assert "COALESCE(MD5(`body`), '-')" in text


# --- a comparison -----------------------------------------------------------------------------------


class Server:
    """Answers by the words of a statement; `fails` are errors by words, each for once."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.edges: list[str] = []
        self.closed = "0"
        self.fails: list[tuple[str, Exception]] = []
        self.done: list[dict[str, str | None]] = []
        self.different: list[dict[str, str | None]] = []

    def rows(self, statement: str, _seconds: float | None = None) -> list[dict[str, str | None]]:
        self.did.append(statement)
        for index, (words, error) in enumerate(self.fails):
            if words in statement:
                del self.fails[index]
                raise error
        if "FORCE INDEX" in statement:
            return [{"k0": self.edges.pop(0)}] if self.edges else []
        if "here_sum, @@GLOBAL.read_only" in statement:
            return [{"here_rows": "3", "here_sum": "77", "closed": self.closed}]
        if "STATISTICS" in statement:
            return [{"db": "shop", "name": "orders", "col": "id", "part": None}]
        if "information_schema.COLUMNS" in statement:
            base = {"engine": "InnoDB", "guess": "3", "col": "id", "kind": "bigint"}
            return [
                {"db": "mysql", "name": "user", **base},
                {"db": "shop", "name": "lines", **base, "engine": "MEMORY"},
                {"db": "shop", "name": "orders", **base},
                {"db": "shop", "name": "orders", **base, "col": "body", "kind": "longtext"},
            ]
        if "COUNT(*) AS places" in statement:
            return self.different
        return self.done if "AS at FROM" in statement or "SELECT at" in statement else []

    def run(self, *statements: str, seconds: float | None = None) -> None:
        for statement in statements:
            self.rows(statement, seconds)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Server:
    found = Server()
    monkeypatch.setattr(drift, "Session", lambda *_: found)
    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    monkeypatch.setattr(drift.time, "sleep", lambda _: None)
    sees(monkeypatch, PRIMARY, FOLLOWER)
    return found


def sees(monkeypatch: pytest.MonkeyPatch, own: dict[str, Any], other: dict[str, Any] | Problem) -> None:
    answers: list[Any] = [own, other]

    def look(_session: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Problem):
            raise answer
        return answer

    monkeypatch.setattr(drift, "look", look)
    monkeypatch.setattr(drift, "peer_session", lambda _: SimpleNamespace(close=lambda: None))


def config(peer: bool = True) -> Any:
    one, two = Node("db1", "192.0.2.1", 3306), Node("db2", "192.0.2.2", 3306)
    return SimpleNamespace(
        node=one, peer=two if peer else None, socket="s", is_node=lambda node, source: source == node.name
    )


def wrote(statements: Iterable[str]) -> list[str]:
    return [one for one in statements if not one.startswith(("SELECT", "SET", "CREATE"))]


def test_each_slice_is_one_transaction_that_tells_the_writers_sum(server: Server) -> None:
    server.edges = ["100"]
    done = drift.compare(config(), 60)
    assert done == drift.Summary(1, 2, ("shop.lines: engine MEMORY takes no part in transactions",))
    first = wrote(server.did)[:5]
    assert first[0] == "START TRANSACTION"
    assert first[1] == "DELETE FROM mysql.webstack_checksum WHERE title = 'shop.orders' AND slice = 1"
    assert first[2].startswith("INSERT INTO mysql.webstack_checksum")
    assert first[2].endswith("FROM `shop`.`orders` WHERE ((`id` <= 100))")
    assert first[3].startswith("UPDATE mysql.webstack_checksum SET writer_rows = 3, writer_sum = 77 WHERE")
    assert first[4] == "COMMIT"
    assert "((`id` > 100))" in wrote(server.did)[7]
    assert not any("`mysql`" in one or "`lines`" in one for one in server.did)
    end = wrote(server.did)[-2:]
    assert end[0].startswith("DELETE FROM mysql.webstack_checksum WHERE at < ")
    assert end[1].startswith("REPLACE INTO mysql.webstack_checksum (title, slice, place, at) VALUES ('', 0, '', ")


def test_it_runs_as_statements_before_the_first_row(server: Server) -> None:
    drift.compare(config(), 60)
    assert "binlog_format = 'STATEMENT'" in server.did[0]
    assert "sql_log_bin" not in " ".join(server.did)


def test_a_server_that_was_closed_meanwhile_is_not_written_to(server: Server) -> None:
    server.closed = "1"
    with pytest.raises(Problem, match="closed for writes meanwhile"):
        drift.compare(config(), 60)
    assert "COMMIT" not in server.did
    assert not any(one.startswith("UPDATE") for one in server.did)


@pytest.mark.parametrize("number", ["1205", "1213", "1020"])
def test_rows_that_somebody_changes_are_tried_again(server: Server, number: str) -> None:
    server.fails = [("INSERT", SqlError(f"ERROR {number}: x"))] * 2
    assert drift.compare(config(), 60) is not None
    assert server.did.count("ROLLBACK") == 2
    assert server.did.count("COMMIT") == 1


def test_rows_that_are_always_changed_end_it(server: Server) -> None:
    server.fails = [("INSERT", SqlError("ERROR 1205: x"))] * drift.TRIES
    with pytest.raises(Problem, match="ERROR 1205"):
        drift.compare(config(), 60)
    assert not any("VALUES (''" in one for one in server.did), "it is not said to have reached its end"


def test_a_table_that_is_dropped_meanwhile_is_left_out(server: Server) -> None:
    server.fails = [("INSERT", SqlError("ERROR 1146: no such table"))]
    done = drift.compare(config(), 60)
    assert done is not None
    assert done.left_out[-1] == "shop.orders: was changed meanwhile"


def test_any_other_error_ends_it(server: Server) -> None:
    server.fails = [("INSERT", SqlError("ERROR 1142: denied"))]
    with pytest.raises(Problem, match="ERROR 1142"):
        drift.compare(config(), 60)


def test_time_that_is_up_ends_it(server: Server) -> None:
    with pytest.raises(Problem, match=r"not done in time; shop\.orders was not compared whole"):
        drift.compare(config(), -1)
    assert wrote(server.did) == []


@pytest.mark.parametrize(
    ("own", "other", "text"),
    [
        ({**PRIMARY, "read_only": True}, FOLLOWER, "accepts no writes"),
        (PRIMARY, ServerGone("ERROR 2002"), "db2 does not answer, so nothing can be compared: ERROR 2002"),
        (PRIMARY, PRIMARY, "db2 does not follow this server"),
        (PRIMARY, {**FOLLOWER, "replica": {"sql": False, "source": "db1"}}, "db2 does not follow this server"),
        (PRIMARY, {**FOLLOWER, "replica": {"sql": True, "source": "db3"}}, "db2 does not follow this server"),
        (PRIMARY, {**FOLLOWER, "version": "10.11"}, "db2 runs 10.11 and this server 11.8: upgrade it first"),
    ],
)
def test_what_is_refused_is_never_written(
    server: Server, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any], other: Any, text: str
) -> None:
    sees(monkeypatch, own, other)
    with pytest.raises(Problem, match=text):
        drift.compare(config(), 60)
    assert server.did == []


def test_nothing_is_done_where_nothing_can_be(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drift.compare(config(peer=False), 60) is None
    sees(monkeypatch, FOLLOWER, PRIMARY)
    assert drift.compare(config(), 60) is None
    assert capsys.readouterr().out == (
        "there is no other database host: nothing to compare with\n"
        "this server is a replica: the writer's host compares\n"
    )
    assert server.did == []


def test_one_at_a_time(server: Server, tmp_path: pathlib.Path) -> None:
    with lock.hold("drift", "a comparison", 0, tmp_path), pytest.raises(Busy, match="a comparison"):
        drift.compare(config(), 60)
    assert server.did == []


# --- what it found ----------------------------------------------------------------------------------


def test_what_differs_and_when_that_was(server: Server) -> None:
    server.different = [{"title": "shop.orders", "places": "2", "at": "60"}]
    server.done = [{"at": "90"}]
    assert drift.differences(server) == ([drift.Different("shop.orders", 2, 60)], 90)  # type: ignore[arg-type]


def test_before_the_first_comparison_nothing_is_known(server: Server) -> None:
    server.fails = [("SELECT", SqlError("ERROR 1146: no such table"))]
    assert drift.differences(server) == ([], None)  # type: ignore[arg-type]
    server.fails = [("SELECT", SqlError("ERROR 1142: denied"))]
    with pytest.raises(SqlError):
        drift.differences(server)  # type: ignore[arg-type]


def test_the_pauses_leave_the_server_most_of_the_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(drift.time, "sleep", pauses.append)
    now = iter(range(1000))
    monkeypatch.setattr(drift.time, "monotonic", lambda: float(next(now)))
    one = drift.Comparison(server, 1e9)  # type: ignore[arg-type]
    one.slice(a_table(ID), 1, None, None)
    assert pauses == [pytest.approx(4.0)]
    assert one.rows == 200, "a slice that took a second was too large"
    assert time.sleep is not None

"""Marks in the history: who makes one, what stands in it, and what a deploy makes of the answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.derived import database_mark
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import cli, marks

WRITER = {"replica": None, "read_only": False}


class Server:
    """Answers by the words of a statement."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.table = True
        self.place: dict[str, str | None] = {"gtid": "0-1-77", "id": "205"}
        self.held: list[dict[str, str]] = []
        self.closed = False

    def rows(self, statement: str, _seconds: float | None = None) -> list[dict[str, str | None]]:
        self.did.append(statement)
        if "information_schema" in statement:
            return [{"one": "1"}] if self.table else []
        if "@@last_gtid" in statement:
            return [self.place]
        return list(self.held) if statement.startswith("SELECT name") else []  # type: ignore[arg-type]

    def run(self, *statements: str, seconds: float | None = None) -> None:
        self.did += statements

    def close(self) -> None:
        self.closed = True

    def changed(self) -> list[str]:
        return [statement.split()[0] for statement in self.did if not statement.startswith("SELECT")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(marks, "Session", lambda *_: found)
    monkeypatch.setattr(marks, "look", lambda _session: WRITER)
    return found


CONFIG: Any = SimpleNamespace(socket="/none")


def test_a_mark_is_a_transaction_and_the_oldest_go(server: Server) -> None:
    made = marks.mark(CONFIG, "before it's late")
    assert made is not None
    assert (made.name, made.gtid) == ("before it's late", "0-1-77")
    assert server.changed() == ["INSERT", "UPDATE", "DELETE"]
    assert "('before it''s late', '20" in server.did[1]
    assert server.did[-2].endswith("SET gtid = '0-1-77' WHERE id = 205")
    assert server.did[-1].endswith("WHERE id <= 5")
    assert server.closed


def test_the_table_is_made_where_it_is_missing_and_only_there(server: Server) -> None:
    """Even a statement that makes nothing is a transaction."""
    server.table = False
    marks.mark(CONFIG, "first")
    assert server.changed()[0] == "CREATE"


def test_a_replica_marks_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "look", lambda _session: {"replica": {"source": "db1"}, "read_only": True})
    assert marks.mark(CONFIG, "x") is None
    assert server.did == []


def test_a_closed_server_refuses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "look", lambda _session: {"replica": None, "read_only": True})
    with pytest.raises(Problem, match="accepts no writes"):
        marks.mark(CONFIG, "x")
    assert server.did == []


@pytest.mark.parametrize("place", [{"gtid": "", "id": "5"}, {"gtid": None, "id": "5"}, {"gtid": "0-1-7", "id": "0"}])
def test_a_mark_without_a_place_in_the_history_is_none(server: Server, place: dict[str, str | None]) -> None:
    """Without a binary log, or where the connection was lost in between."""
    server.place = place
    with pytest.raises(Problem, match="no place in the binary log"):
        marks.mark(CONFIG, "x")


@pytest.mark.parametrize("name", ["", "a" * 121, "two\nlines", "\x1b[0m"])
def test_a_name_that_nobody_can_read_is_refused(server: Server, name: str) -> None:
    with pytest.raises(Problem, match="a mark has a name of 1 to 120 letters"):
        marks.mark(CONFIG, name)
    assert server.did == []


def test_marks_are_listed_and_none_where_nobody_has_marked(server: Server) -> None:
    server.held = [{"name": "import", "moment": "2026-11-28 10:41:06", "gtid": "0-1-9"}]
    (found,) = marks.marks(CONFIG)
    assert marks.lines([found]) == ["gtid   time (UTC)           mark", "0-1-9  2026-11-28 10:41:06  import"]
    server.table = False
    assert marks.marks(CONFIG) == []


@pytest.mark.parametrize(("words", "changed"), [(["mark", "import", "--json"], True), (["marks", "--json"], False)])
def test_the_commands_answer_in_json(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], changed: bool
) -> None:
    server.held = [{"name": "import", "moment": "2026-11-28 10:41:06", "gtid": "0-1-77"}]
    monkeypatch.setattr(cli, "Config", lambda: CONFIG)
    assert cli.main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["changed"] is changed
    assert [one["gtid"] for one in said["marks"]] == ["0-1-77"]


# --- what a deploy makes of the answers -------------------------------------------------------------


def answer(host: str, **more: Any) -> dict[str, Any]:
    return {"__was_django_mark_host": host, "rc": 0, "stdout": '{"marks": []}', **more}


MARKED = answer("db1", stdout='{"marks": [{"gtid": "0-1-77"}]}')


@pytest.mark.parametrize(
    ("answers", "gtid", "why"),
    [
        ([MARKED, answer("db2")], "0-1-77", "db1: marked; db2: is a replica"),
        ([answer("db1"), answer("db2", unreachable=True)], "", "db1: is a replica; db2: gives no answer"),
        ([answer("db2", unreachable=True), MARKED], "0-1-77", "db2: gives no answer; db1: marked"),
        (
            [answer("db1", rc=1, stdout="", stderr="webstack db mark: this server accepts no writes\n")],
            "", "db1: webstack db mark: this server accepts no writes",
        ),
        ([answer("db1", rc=2, stdout="", stderr="", msg="No such file")], "", "db1: No such file"),
        ([answer("db1", rc=64, stdout="")], "", "db1: exit code 64"),
    ],
)  # fmt: skip
def test_one_mark_is_enough_and_none_is_explained(answers: list[dict[str, Any]], gtid: str, why: str) -> None:
    role: Any = {"__was_django_marked": {"results": answers}}
    assert database_mark.made(role) == {"gtid": gtid, "why": why}

"""What status says of a host where agents decide: each finding, and only where it is one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import metrics, status, summary

STATE = {"epoch": 3, "writer": "db1", "replica": "db2"}
SAYS: dict[str, Any] = {
    "rule": "writes", "why": "with db2", "problem": "", "suspended": "", "read_seconds_ago": 0.1, "paused": False,
    "maintenance": [], "state": STATE, "own": None,
}  # fmt: skip
SERVER: dict[str, Any] = {
    "name": "db1", "running": True, "role": "primary", "read_only": False, "gtid": "0-1-5", "replica": {}, "error": "",
    "disk": {"problem": ""}, "drift": {"tables": [], "compared_at": None}, "peer": {}, "writer_address": "",
    "astray": "",
    "mode": "auto",
}  # fmt: skip


def found(agent: dict[str, Any] | None, **changes: Any) -> tuple[str, list[str]]:
    said = {"at": time.time(), **SAYS, **agent} if agent is not None else {}
    seen = summary.summary_of({**SERVER, "agent": said, **changes})
    return seen.line, [one.what for one in seen.findings]


def test_a_pair_that_is_well() -> None:
    assert found({}) == ("primary, accepts writes, epoch 3", [])


@pytest.mark.parametrize(
    ("agent", "what"),
    [
        ({"at": 0.0}, "agent_silent"),
        (None, "agent_silent"),
        *(({"rule": rule}, f"agent_{rule}") for rule in sorted(summary.SAD)),
        ({"paused": True}, "paused"),
        ({"maintenance": ["db2"]}, "maintenance"),
        ({"read_seconds_ago": None}, "no_quorum"),
        ({"read_seconds_ago": summary.OLD_SECONDS + 0.1}, "no_quorum"),
        ({"problem": "link: ERROR 1201"}, "agent_problem"),
    ],
)
def test_what_a_person_must_know(agent: dict[str, Any] | None, what: str) -> None:
    assert found(agent)[1] == [what]


def test_what_the_agent_says_of_a_server_that_is_down() -> None:
    assert found({"rule": "unfit"}, running=False) == ("does not answer, epoch 3", ["agent_unfit", "silent"])


def test_before_there_is_a_value() -> None:
    assert found({"state": None, "rule": "no_value"}) == ("primary, accepts writes", ["agent_no_value"])


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        ({}, "fail-over auto: epoch 3, db1 writes, db2 holds every row\n  this host writes: with db2"),
        (
            {"state": {**STATE, "replica": ""}, "problem": "full"},
            "epoch 3, db1 writes, alone: no other host holds every row\n  this host writes: with db2\n  problem: full",
        ),
        ({"state": None}, "fail-over auto: nothing known"),
        (
            {"state": {**STATE, "replica": ""}, "alone": {"since": 0, "turn": 1, "from": None, "transactions": None}},
            "db1 writes, alone since 1970-01-01 00:00:00 UTC: no other host holds every row\n",
        ),
        (
            {"state": {**STATE, "replica": ""}, "alone": {"since": 0, "turn": 1, "from": 3, "transactions": 7}},
            "no other host holds every row; 7 transactions are on it only\n",
        ),
        (
            {"last": {"at": 60.0, "from": "db2", "to": "db1", "why": "db2 is silent"}},
            "db2 holds every row\n  last change: 1970-01-01 00:01:00 UTC from db2 to db1: db2 is silent\n",
        ),
    ],
)
def test_the_text_for_people(capsys: pytest.CaptureFixture[str], agent: dict[str, Any], text: str) -> None:
    status.print_status({**SERVER, "agent": {**SAYS, **agent}})
    assert text in capsys.readouterr().out


def test_the_text_before_the_agent_has_spoken(capsys: pytest.CaptureFixture[str]) -> None:
    status.print_status({**SERVER, "agent": {}})
    assert "the agent has said nothing yet (systemctl status webstack-db)" in capsys.readouterr().out
    status.print_status({**SERVER, "agent": {}, "mode": "manual"})
    assert "fail-over" not in capsys.readouterr().out


def counted(agent: dict[str, Any], **changes: Any) -> dict[str, float]:
    text = metrics.metrics({**SERVER, "agent": {"at": time.time(), **SAYS, **agent}, **changes})
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {name.removeprefix("webstack_db_"): float(value) for name, value in lines}


def test_what_a_collector_gets() -> None:
    well = {"up": 1, "writable": 1, "epoch": 3, "unprotected_seconds": 0, "unprotected_transactions": 0}
    assert counted({}) == well
    moved = {"last": {"at": 60.0, "from": "db2", "to": "db1", "why": "x"}}
    assert counted(moved) == {**well, "writer_changed_timestamp_seconds": 60}
    alone = {"since": time.time() - 100, "turn": 1, "from": 3, "transactions": 7}
    seen = counted({"alone": alone})
    assert seen["unprotected_transactions"] == 7
    assert 99 <= seen["unprotected_seconds"] <= 105


def test_what_was_not_seen_has_no_sample() -> None:
    """A 0 would pass for a good one."""
    assert counted({"state": None}, running=False) == {"up": 0}
    elsewhere = {"since": time.time(), "turn": 1, "from": None, "transactions": None}
    assert "unprotected_transactions" not in counted({"alone": elsewhere})
    replica = {"role": "replica", "read_only": True}
    assert counted({}, **replica, replica={"lag_seconds": 4})["lag_seconds"] == 4
    assert "lag_seconds" not in counted({}, **replica, replica={"lag_seconds": None})
    assert counted({"state": None}, mode="manual") == {"up": 1, "writable": 1}


# --- the two servers' data --------------------------------------------------------------------------


def drifted(*titles: str, at: float | None = 60) -> dict[str, Any]:
    return {"tables": [{"title": title, "places": 2, "at": 60} for title in titles], "compared_at": at}


def test_what_differs_is_a_finding_of_the_host_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    assert found({}, drift=drifted("shop.orders", at=now))[1] == ["drift"]
    assert found({}, drift=drifted(at=now))[1] == []
    assert found({}, drift=drifted(at=None))[1] == []
    status.print_status({**SERVER, "agent": {}, "mode": "manual", "drift": drifted("shop.orders")})
    out = capsys.readouterr().out
    assert "  DIFFERS FROM THE WRITER'S: shop.orders, 2 places, at 1970-01-01 00:01:00 UTC\n" in out
    assert "  data compared at 1970-01-01 00:01:00 UTC\n" in out


def test_rows_of_a_replicas_own_are_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    replica = {"role": "replica", "read_only": True, "astray": "was written to: 0-2-9"}
    link = {"source": "db1", "io": True, "sql": True, "lag_seconds": 0, "error": ""}
    assert found({}, **replica, replica=link)[1] == ["astray"]
    status.print_status({**SERVER, **replica, "replica": link, "agent": {}, "mode": "manual"})
    assert "  HAS ROWS OF ITS OWN: it was written to: 0-2-9\n" in capsys.readouterr().out


def test_a_comparison_that_is_days_old_is_a_finding() -> None:
    assert found({}, drift=drifted(at=time.time() - summary.OLD_COMPARISON_SECONDS - 1))[1] == ["drift_unknown"]


def test_of_many_tables_some_are_named() -> None:
    seen = summary.summary_of({**SERVER, "agent": {}, "mode": "manual", "drift": drifted(*"abcdefg", at=time.time())})
    assert [one.text.split(": ")[1] for one in seen.findings] == ["a, b, c, d, e and others (docs/database.md)"]

"""What status says of a host where agents decide: each finding, and only where it is one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import status, summary

STATE = {"epoch": 3, "writer": "db1", "replica": "db2"}
SAYS: dict[str, Any] = {
    "rule": "writes", "why": "with db2", "problem": "", "suspended": "", "read_seconds_ago": 0.1, "paused": False,
    "maintenance": [], "state": STATE, "own": None,
}  # fmt: skip
SERVER: dict[str, Any] = {
    "name": "db1", "running": True, "role": "primary", "read_only": False, "gtid": "0-1-5", "replica": {}, "error": "",
    "disk": {"problem": ""}, "peer": {}, "writer_address": "", "mode": "auto",
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

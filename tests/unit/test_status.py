"""`webstack status`: one form for all tiers, and no answer is never a good one."""

from __future__ import annotations

import importlib
import json
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack import cli, overview
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.config import Settings
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.summary import Finding, Summary, document
from documents import document as one_form

WEBSTACK = overview.__package__


def tier(name: str) -> Any:
    return importlib.import_module(f"{WEBSTACK}.{name}.summary")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A host with these tiers and no others."""

    def has(**tiers: Callable[[], Summary]) -> None:
        for name in cli.TIERS:
            monkeypatch.setattr(tier(name), "lives_here", lambda name=name: name in tiers)
            monkeypatch.setattr(tier(name), "summary", tiers.get(name, lambda: pytest.fail("it does not live here")))

    return has


def bad(line: str, what: str, text: str) -> Summary:
    found = Summary(line)
    found.add(what, text)
    return found


def test_one_screen_of_a_host_that_is_well(host: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    host(lb=lambda: Summary("1 sites, 2 of 2 servers are asked"), vip=lambda: Summary("owns 192.0.2.1"))
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "vip  owns 192.0.2.1",
        "lb   1 sites, 2 of 2 servers are asked",
        "nothing is wrong",
    ]


def test_what_is_wrong_is_said_below_and_ends_with_2(
    host: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    host(db=lambda: bad("primary, accepts writes", "disk", "cannot write: No space left on device"))
    assert cli.main(["status"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "db  primary, accepts writes",
        "! db: cannot write: No space left on device",
    ]


@pytest.mark.parametrize("error", [Problem("the file is broken"), PermissionError(13, "Permission denied", "/etc/x")])
def test_a_tier_that_cannot_be_looked_at_is_not_well(
    host: Callable[..., None], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def broken() -> Summary:
        raise error

    host(cache=broken, media=lambda: Summary("uploads are shared"))
    assert cli.main(["status", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["problems"] == [{"tier": "cache", "what": "no_look", "text": str(error)}]
    assert said["tiers"]["media"] == "uploads are shared"


def test_a_host_of_nobody(host: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    host()
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out == "no tier lives on this host\n"


def test_the_document_has_one_form(host: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    host(db=lambda: bad("x", "disk", "full"), lb=lambda: Summary("y"))
    cli.main(["status", "--json"])
    said = one_form(capsys.readouterr().out)
    assert said["tiers"] == {"db": "x", "lb": "y"}
    said = document({"db": bad("x", "disk", "full"), "lb": Summary("y")})
    assert {key: type(value) for key, value in said.items()} == {
        "format": int, "version": str, "changed": bool, "problems": list,
    }  # fmt: skip
    assert said["problems"] == [{"tier": "db", "what": "disk", "text": "full"}]


@pytest.mark.parametrize("name", sorted(cli.TIERS))
def test_every_tier_has_a_summary_and_knows_a_host_without_it(name: str) -> None:
    assert tier(name).lives_here() is False


# --- each tier ----------------------------------------------------------------------------------------


def said(summary: Summary) -> tuple[str, list[str]]:
    return summary.line, [finding.what for finding in summary.findings]


REPLICA = {"io": True, "sql": True, "lag_seconds": 0, "error": "", "source": "192.0.2.1"}


@pytest.mark.parametrize(
    ("changes", "line", "findings"),
    [
        ({}, "primary, accepts writes", []),
        ({"read_only": True}, "primary, read-only", ["closed"]),
        ({"role": "none", "read_only": True}, "none, read-only", ["no_role"]),
        ({"role": "replica", "read_only": True}, "replica, read-only from 192.0.2.1, lag 0 s", []),
        (
            {"role": "replica", "read_only": True, "replica": {**REPLICA, "sql": False, "error": "1062"}},
            "replica, read-only from 192.0.2.1, lag 0 s",
            ["replication"],
        ),
        ({"disk": {"problem": "full"}}, "primary, accepts writes", ["disk"]),
        ({"running": False, "error": "ERROR 2002"}, "does not answer", ["silent"]),
        ({"peer": {"name": "db2", "reachable": False, "error": "x"}}, "primary, accepts writes", ["peer_silent"]),
    ],
)
def test_the_database(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], line: str, findings: list[str]) -> None:
    state = {
        "running": True, "role": "primary", "read_only": False, "replica": REPLICA, "disk": {"problem": ""},
        "peer": {"name": "db2", "reachable": True}, "error": "", "mode": "manual", "agent": {},
        "drift": {"tables": [], "compared_at": None}, "astray": "",
    }  # fmt: skip
    monkeypatch.setattr(tier("db"), "Config", lambda: None)
    monkeypatch.setattr(tier("db"), "status", lambda *_args, **_more: {**state, **changes})
    assert said(tier("db").summary()) == (line, findings)


def test_the_balancer(monkeypatch: pytest.MonkeyPatch) -> None:
    server = {"name": "was1", "address": "192.0.2.1:80", "asked": True, "drained": False, "state": "up", "reason": "-"}
    away = {**server, "name": "was2", "address": "192.0.2.2:80", "asked": False, "state": "down", "reason": "no answer"}
    out = {**away, "name": "was3", "drained": True}
    site = {"name": "site", "servers": [server, away, out], "fail_open": False, "maintenance": True}
    status = {"time": time.time(), "sites": [site], "error": "emerg"}
    monkeypatch.setattr(tier("lb"), "config", lambda: types.SimpleNamespace(interval_seconds=1, sites=[1]))
    monkeypatch.setattr(tier("lb"), "load", lambda _path: status)
    line, findings = said(tier("lb").summary())
    assert line == "1 sites, 1 of 3 servers are asked, drained: was3, site shows its maintenance page"
    assert findings == ["server_down", "refused"]
    status["time"] = time.time() - 60
    assert said(tier("lb").summary())[1] == ["no_probes"]


def test_the_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"name": "a", "days": 60.2, "problem": ""}, {"name": "b", "days": None, "problem": "cannot be read"}]
    monkeypatch.setattr(tier("tls"), "Balancer", lambda: types.SimpleNamespace(rows=lambda: rows))
    assert said(tier("tls").summary()) == ("2 certificates, the first ends in 60 days", ["certificate"])


@pytest.mark.parametrize(
    ("changes", "findings"),
    [
        ({}, []),
        ({"active": False}, ["apache"]),
        ({"healthy": False}, ["unhealthy"]),
        ({"running": "old"}, ["other_release"]),
        ({"stale": True}, ["stale"]),
    ],
)
def test_the_applications(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], findings: list[str]) -> None:
    state = {"current": "new", "running": "new", "active": True, "healthy": True, "stale": False, **changes}
    monkeypatch.setattr(tier("app"), "names", lambda: ["shop"])
    monkeypatch.setattr(tier("app"), "Site", lambda _name: types.SimpleNamespace(status=lambda *_: state))
    assert said(tier("app").summary()) == ("shop new", findings)


def test_the_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"folder": {"needFiles": 3}, "hosts": {"was2": False}}
    monkeypatch.setattr(tier("media"), "units", lambda: ["x.service"])
    monkeypatch.setattr(tier("media"), "look", lambda _units: (report, []))
    assert said(tier("media").summary()) == ("uploads are shared, 3 files are on their way", ["peer_away"])
    monkeypatch.setattr(tier("media"), "look", lambda _units: ({}, ["x.service is failed"]))
    assert said(tier("media").summary()) == ("uploads are not shared", ["engine"])


def test_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    site = types.SimpleNamespace(engine="ring", sentinel={"name": "redis1"})
    monkeypatch.setattr(tier("cache"), "Site", types.SimpleNamespace(load=lambda: site))
    monkeypatch.setattr(tier("cache"), "inspect", lambda _site: ({"s1": "master"}, ["shard s2 on redis1: no answer"]))
    monkeypatch.setattr(tier("cache"), "todo", lambda _site: {"start": [], "restart": ["redis-server@s1.service"]})
    assert said(tier("cache").summary()) == ("s1 master, a sentinel", ["server", "to_restart"])


def test_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    host = types.SimpleNamespace(unfit=lambda: "")
    view = types.SimpleNamespace(owned=["192.0.2.100"])
    finding = Finding("peer_silent", "lb2: does not answer")
    monkeypatch.setattr(tier("vip"), "Host", types.SimpleNamespace(load=lambda: host))
    monkeypatch.setattr(tier("vip"), "findings", lambda _host: (view, [finding]))
    monkeypatch.setattr(tier("vip"), "flag", lambda _name: True)
    assert said(tier("vip").summary()) == ("owns 192.0.2.100, in maintenance", ["peer_silent"])


def test_the_backups(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {
        "hourly": {"ok": False, "failure": {"reason": "the disk is full"}},
        "daily": {"ok": True, "success": {"finished": time.time() - 7200}},
    }
    monkeypatch.setattr(tier("backup"), "known", lambda: state)
    # Of an earlier version of the role.
    monkeypatch.setattr(tier("backup"), "load", lambda *_: Settings({}, "backup.json"))
    line, findings = said(tier("backup").summary())
    assert line == "last good: hourly never here, daily 2 h ago, none proven here"
    assert findings == ["hourly_failed"]
    settings = Settings({"proof_enabled": True, "proof_alarm_hours": 1}, "backup.json")
    monkeypatch.setattr(tier("backup"), "load", lambda *_: settings)
    state["proof"] = {"since": time.time() - 7200}
    assert said(tier("backup").summary())[1] == ["hourly_failed", "unproven"]

"""What the program of the hosts prints as JSON: one form for every command of every tier."""

from __future__ import annotations

import argparse
import ast
import importlib
import pathlib
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack import cli, overview
from documents import TIERS, document
from host_programs import PACKAGE, Tier

WEBSTACK = overview.__package__


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def offering() -> set[tuple[str, str]]:
    """Every command that offers --json, asked of the parsers themselves."""
    return {
        (tier, name)
        for tier in cli.TIERS
        for name, parser in commands(importlib.import_module(f"{WEBSTACK}.{tier}.cli").parser())
        if any("--json" in action.option_strings for action in parser._actions)
    }


class Host:
    """A host whose tiers have seen these things, one of them wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: pathlib.Path) -> None:
        self.patch, self.home = monkeypatch, home

    def db_status(self) -> list[str]:
        db = Tier("db")
        link = {"io": True, "sql": False, "lag_seconds": 3, "error": "1062", "source": "192.0.2.1"}
        state = {
            "name": "db2",
            "role": "replica",
            "running": True,
            "read_only": True,
            "replica": link,
            "error": "",
            "version": "11",
            "mode": "manual",
            "agent": {},
            "drift": {"tables": [], "compared_at": None},
            "astray": "",
        }
        self.patch.setattr(db, "Config", lambda: None)
        self.patch.setattr(db, "status", lambda *_: {**state, "disk": {"problem": ""}, "peer": {}})
        return ["replication"]

    def db_mark(self) -> list[str]:
        """As a replica, which changes nothing."""
        db = Tier("db")
        self.patch.setattr(db, "Config", lambda: None)
        self.patch.setattr(db, "mark", lambda *_: None)
        return []

    def db_marks(self) -> list[str]:
        db = Tier("db")
        self.patch.setattr(db, "Config", lambda: None)
        self.patch.setattr(db, "marks", lambda _config: [db.Mark("import", "2026-01-01 00:00:00", "0-1-9")])
        return []

    def _backup(self) -> Any:
        backup = Tier("backup")
        config = self.home / "config.json"
        config.write_text('{"proof_enabled": true, "proof_alarm_hours": 27}')
        self.patch.setattr(backup, "CONFIG", str(config))
        one = {"id": "0a1b", "time": "2026-01-01T00:00:00.000Z", "bytes": 5, "kind": "daily", "gtid": "0-1-2"}
        self.patch.setattr(backup.Repository, "known", lambda _self: ([{**one, "host": "db2"}], backup.Notes()))
        return backup

    def backup_list(self) -> list[str]:
        self._backup()
        return []

    def backup_status(self) -> list[str]:
        backup = self._backup()
        seen = {"role": "replica", "running": True, "version": "11.8.1-MariaDB", "datadir": "/var/lib/mysql"}
        self.patch.setattr(backup.Server, "look", lambda _self: dict(seen))
        self.patch.setattr(backup.Server, "disk", lambda _self: {"problem": ""})
        self.patch.setattr(backup, "known", lambda: {"daily": {"ok": False, "failure": {"reason": "no room"}}})
        self.patch.setattr(backup, "where_data_goes", lambda _path: {"datadir_problem": ""})
        return ["daily_failed"]

    def cache_status(self) -> list[str]:
        cache = Tier("cache")
        site = types.SimpleNamespace(me="redis1", engine="ring", sentinel=None)
        self.patch.setattr(cache.Site, "load", lambda: site)
        self.patch.setattr(cache, "todo", lambda _site: {"start": ["x.service"]})
        self.patch.setattr(cache, "inspect", lambda _site: ({"s1": "master"}, ["shard s2 on redis1: no answer"]))
        return ["server"]

    def app_logs(self) -> list[str]:
        app = Tier("app")
        self.patch.setattr(app, "lines", lambda *_: [app.Line("2026-01-01 00:00:00.000000", "said")])
        return []

    def app_releases(self) -> list[str]:
        app = Tier("app")
        self.patch.setattr(app.Application, "__init__", lambda self, name: setattr(self, "name", name))
        one = {"release": "r1", "version": "v1", "state": "current", "healthy": True}
        self.patch.setattr(app, "releases", lambda _site: [one])
        return []

    def app_status(self) -> list[str]:
        app = Tier("app")
        self.patch.setattr(app.Application, "__init__", lambda self, name: setattr(self, "name", name))
        state = {"current": "2", "running": "1", "active": True, "healthy": True, "stale": True, "releases": ["2"]}
        self.patch.setattr(app.Application, "status", lambda *_: state)
        return ["other_release", "stale"]

    def vip_status(self) -> list[str]:
        vip = Tier("vip")
        host = types.SimpleNamespace(name="lb1", engine="keepalived", unfit=lambda: "", connections=lambda: 3)
        view = types.SimpleNamespace(owned=["192.0.2.9"], peers={"lb2": None})
        self.patch.setattr(vip.Host, "load", lambda: host)
        self.patch.setattr(vip, "findings", lambda _host: (view, [vip.Finding("peer_silent", "lb2: no answer")]))
        self.patch.setattr(vip, "flag", lambda _name: False)
        return ["peer_silent"]

    def lb_status(self) -> list[str]:
        lb = Tier("lb")
        server = {"name": "was1", "address": "192.0.2.1:80", "asked": True, "drained": False, "state": "down"}
        site = {"name": "site", "fail_open": True, "maintenance": False, "servers": [{**server, "reason": "dead"}]}
        status = {"time": time.time(), "sites": [site], "old_workers": 0, "reloads": 0, "error": ""}
        self.patch.setattr(lb, "config", lambda: types.SimpleNamespace(interval_seconds=1, sites=[1]))
        self.patch.setattr(lb, "load", lambda _path: status)
        return ["server_down", "fail_open"]

    def tls_status(self) -> list[str]:
        tls = Tier("tls")
        row = {"name": "main", "days": 3.0, "alarmed": True, "problem": "expires soon"}
        self.patch.setattr(tls.Balancer, "__init__", lambda _self: None)
        self.patch.setattr(tls.Balancer, "rows", lambda _self: [row])
        return ["certificate"]

    def media_status(self) -> list[str]:
        media = Tier("media")
        self.patch.setattr(media, "look", lambda _units: ({"units": {}, "hosts": {}}, ["x.service is failed"]))
        self.patch.setattr(media, "last_words", lambda _unit: "journal\n")
        return ["engine"]

    def quorum_status(self) -> list[str]:
        quorum = Tier("quorum")
        one = quorum.Endpoint("q1", "192.0.2.1", 2379)
        settings = quorum.Settings([one], {"q1": "https://192.0.2.1:2380"}, quorum.Tls("ca", "cert", "key"), 1, None)
        self.patch.setattr(quorum, "load", lambda: settings)
        self.patch.setattr(quorum, "certificate_ends", lambda _path: "")
        self.patch.setattr(quorum, "look", lambda *_: [quorum.Heard(one, "cannot be reached")])
        return ["no_quorum", "member_away"]


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch, tmp_path)


def test_every_command_that_offers_json_is_tried_here() -> None:
    assert offering() == {tuple(name.split("_")) for name in vars(Host) if not name.startswith("_")}
    assert {tier for tier, name in offering() if name == "status"} == set(cli.TIERS) == TIERS


@pytest.mark.parametrize(("tier", "name"), sorted(offering()))
def test_a_document_has_the_one_form(host: Host, capsys: pytest.CaptureFixture[str], tier: str, name: str) -> None:
    expected = getattr(host, f"{tier}_{name}")()
    more = {"app": ["shop"]}.get(tier, [])
    cli.main(
        [tier, *more, name, "--json", *{"media": ["x.service"], "db": ["x"] if name == "mark" else []}.get(tier, [])]
    )
    said = document(capsys.readouterr().out)
    assert [problem["what"] for problem in said["problems"]] == expected
    assert {problem["tier"] for problem in said["problems"]} <= {tier}
    assert said["changed"] is False
    assert set(said) > {"format", "version", "changed", "problems"}, "it says something of its own"


def test_no_module_prints_json_of_another_form() -> None:
    """Also what only plays read: whatever a command prints as JSON has come through `core.summary.document`."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "print"):
                continue
            dumps = [
                one for one in ast.walk(node) if isinstance(one, ast.Call) and ast.unparse(one.func) == "json.dumps"
            ]
            wrong += [
                f"{path.relative_to(PACKAGE)}:{node.lineno}"
                for one in dumps
                if not ast.unparse(one.args[0]).startswith("document(") and not isinstance(node.args[0], ast.JoinedStr)
            ]
    assert wrong == []


def test_a_key_of_all_documents_is_nobodys_own() -> None:
    core = importlib.import_module(f"{WEBSTACK}.core.summary")
    with pytest.raises(TypeError, match="version"):
        core.document({}, version="11.8")

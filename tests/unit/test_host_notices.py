"""Metrics and alarms in one way for every tier: who is told, by which unit and which file."""

from __future__ import annotations

import importlib
import json
import pathlib
import re
import stat
from typing import Any

import pytest
import yaml
from ansible_collections.webstack.ha.plugins.module_utils import _files
from ansible_collections.webstack.ha.plugins.module_utils._host_program import notices
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import collect
from ansible_collections.webstack.ha.plugins.module_utils.webstack import cli
from ansible_collections.webstack.ha.plugins.module_utils.webstack import notices as told
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.summary import Summary
from host_programs import ROLES

UNITS = sorted(path for path in ROLES.glob("*/*/*") if re.search(r"\.service(\.j2)?$", path.name))
WANTED = {"tiers": ["lb", "tls"], "metrics_directory": "/var/lib/metrics", "alarm_command": ["mail", "-s", "alarm"]}


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A host whose tiers `db` and `lb` tell."""
    monkeypatch.setattr(told, "SETTINGS", tmp_path)
    monkeypatch.setattr(told, "RUN", tmp_path / "run")
    command = ["sh", "-c", f'echo "$TIER $FINDING $TEXT" >> {tmp_path}/told']
    for tier in ("db", "lb"):
        settings = {"metrics_directory": f"{tmp_path}/metrics", "alarm_command": command}
        (tmp_path / f"notices-{tier}.json").write_text(json.dumps(settings))
    return tmp_path


# --- an alarm -----------------------------------------------------------------------------------------


def test_a_failed_unit_is_told_with_its_tier(host: pathlib.Path) -> None:
    assert cli.main(["alarm", "db:webstack-db"]) == 0
    assert (host / "told").read_text() == "db unit_failed webstack-db failed; journalctl -u webstack-db says why\n"


def test_nobody_is_told_where_nobody_is_named(host: pathlib.Path) -> None:
    (host / "notices-db.json").write_text('{"metrics_directory": "", "alarm_command": []}')
    assert cli.main(["alarm", "db:webstack-db"]) == 0
    assert cli.main(["alarm", "cache:x"]) == 0, "its role has not been here"
    assert not (host / "told").exists()


def test_an_alarm_that_nobody_heard_fails(host: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (host / "notices-db.json").write_text('{"alarm_command": ["false"]}')
    assert cli.main(["alarm", "db:webstack-db"]) == 1
    assert "the alarm command failed: false: exit code 1" in capsys.readouterr().err
    (host / "notices-db.json").write_text("{}")
    assert cli.main(["alarm", "db:webstack-db"]) == 1
    assert "notices-db.json has no 'alarm_command'" in capsys.readouterr().err


def test_an_alarm_names_tier_and_unit() -> None:
    assert cli.main(["alarm", "webstack-db"]) == 64


# --- metrics ------------------------------------------------------------------------------------------


def tier(monkeypatch: pytest.MonkeyPatch, name: str, summary: Any) -> Any:
    module = importlib.import_module(f"{cli.__package__}.{name}.summary")
    monkeypatch.setattr(module, "lives_here", lambda: True)
    monkeypatch.setattr(module, "summary", summary)
    monkeypatch.setattr(module, "own_metrics", lambda: "", raising=False)
    return module


@pytest.mark.parametrize("name", sorted(cli.TIERS))
def test_every_tier_writes_how_it_is(
    host: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    settings = {"metrics_directory": f"{host}/metrics", "alarm_command": []}
    (host / f"notices-{name}.json").write_text(json.dumps(settings))
    found = Summary("x")
    for what in ("disk", "peer", "disk"):
        found.add(what, "text")
    tier(monkeypatch, name, lambda: found)
    assert cli.main(["status", "--metrics", name]) == 0
    lines = (host / f"metrics/webstack_status_{name}.prom").read_text().splitlines()
    assert f'webstack_problems{{tier="{name}"}} 3' in lines
    assert f'webstack_problem{{tier="{name}",what="disk"}} 2' in lines
    assert f'webstack_problem{{tier="{name}",what="peer"}} 1' in lines
    assert any(re.fullmatch(rf'webstack_status_timestamp_seconds{{tier="{name}"}} [0-9]{{10}}', line) for line in lines)
    assert stat.S_IMODE((host / f"metrics/webstack_status_{name}.prom").stat().st_mode) == 0o644
    assert capsys.readouterr().out == ""


def test_a_tier_that_cannot_be_looked_at_is_a_problem_there_too(
    host: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Summary:
        raise OSError("broken")

    tier(monkeypatch, "db", broken)
    assert cli.main(["status", "--metrics", "db"]) == 0
    assert 'webstack_problem{tier="db",what="no_look"} 1' in (host / "metrics/webstack_status_db.prom").read_text()


def test_what_a_tier_counts_itself_stands_beside_it(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tier(monkeypatch, "lb", lambda: Summary("x"))
    monkeypatch.setattr(module, "own_metrics", lambda: "webstack_lb_old_workers 0\n")
    assert cli.main(["status", "--metrics", "lb"]) == 0
    assert (host / "metrics/webstack_status_lb.prom").read_text().endswith("webstack_lb_old_workers 0\n")


def test_nothing_is_written_where_nobody_reads_it(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier(monkeypatch, "db", lambda: Summary("x"))
    (host / "notices-db.json").write_text('{"metrics_directory": "", "alarm_command": []}')
    assert cli.main(["status", "--metrics", "db"]) == 0
    (host / "notices-db.json").unlink()
    assert cli.main(["status", "--metrics", "db"]) == 0
    assert cli.main(["status", "--metrics", "media"]) == 0, "it does not live here"
    assert not (host / "metrics").exists()


def test_a_directory_that_cannot_be_written_is_named(
    host: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tier(monkeypatch, "db", lambda: Summary("x"))
    (host / "metrics").write_text("a file")
    assert cli.main(["status", "--metrics", "db"]) == 1
    assert str(host / "metrics") in capsys.readouterr().err


# --- an alarm for each thing that is wrong --------------------------------------------------------------


def looks(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, *wrong: str) -> str:
    """Look once at a tier with these findings; return what was told."""
    found = Summary("x")
    for what in wrong:
        found.add(what, f"{what} it is")
    tier(monkeypatch, name, lambda: found)
    (host / "told").write_text("")
    assert cli.main(["status", "--metrics", name]) == 0
    return (host / "told").read_text()


def test_each_thing_that_is_wrong_is_told_once_and_when_it_is_over(
    host: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looks(host, monkeypatch, "db", "alone") == "", "it may be a planned move"
    assert looks(host, monkeypatch, "db", "alone", "alone") == "db alone alone it is\n"
    assert looks(host, monkeypatch, "db", "alone", "disk") == ""
    assert looks(host, monkeypatch, "db", "alone", "disk") == "db disk disk it is\n"
    assert looks(host, monkeypatch, "db", "disk") == "db over alone it is\n"
    assert looks(host, monkeypatch, "db") == "db over disk it is\n"
    assert looks(host, monkeypatch, "db") == ""


def test_what_came_and_went_tells_nobody(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (("alone",), (), ("alone",), ()):
        assert looks(host, monkeypatch, "db", *wrong) == ""


def test_what_nobody_heard_is_told_again(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (host / "notices-db.json").read_text()
    (host / "notices-db.json").write_text(json.dumps({"metrics_directory": "", "alarm_command": ["false"]}))
    for _ in range(3):
        looks(host, monkeypatch, "db", "disk")
    (host / "notices-db.json").write_text(settings)
    assert looks(host, monkeypatch, "db", "disk") == "db disk disk it is\n"


def test_what_was_told_is_forgotten_with_a_file_that_cannot_be_read(
    host: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("", "[]", '{"seen": 1, "told": {}}', '{"seen": [], "told": []}'):
        (host / "run").mkdir(exist_ok=True)
        (host / "run/told-db.json").write_text(text)
        assert looks(host, monkeypatch, "db", "disk") == ""
        assert looks(host, monkeypatch, "db", "disk") == "db disk disk it is\n"


def test_the_doctor_of_the_addresses_tells_by_himself(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host / "notices-vip.json").write_text((host / "notices-db.json").read_text())
    for _ in range(3):
        assert looks(host, monkeypatch, "vip", "both") == ""


# --- what roles write -----------------------------------------------------------------------------------


def test_the_settings_of_a_tier_come_with_the_unit_and_the_minute() -> None:
    written = {item["dest"]: item for item in _files.entries(notices(WANTED))}
    assert set(written) == {
        "/etc/systemd/system/webstack-alarm@.service",
        "/etc/webstack/notices-lb.json", "/etc/webstack/notices-tls.json",
        "/etc/cron.d/webstack-lb-metrics", "/etc/cron.d/webstack-tls-metrics",
    }  # fmt: skip
    settings = written["/etc/webstack/notices-lb.json"]
    assert json.loads(settings["content"]) == {key: WANTED[key] for key in ("metrics_directory", "alarm_command")}
    assert (settings["mode"], settings["secret"]) == (0o600, True)
    assert (
        " root /usr/local/sbin/webstack status --metrics tls " in written["/etc/cron.d/webstack-tls-metrics"]["content"]
    )
    alarms = {item["dest"]: item for item in _files.entries(notices({**WANTED, "metrics_directory": ""}))}
    assert "content" in alarms["/etc/cron.d/webstack-lb-metrics"], "the alarms come with the minute, too"
    nobody = {**WANTED, "metrics_directory": "", "alarm_command": []}
    without = {item["dest"]: item for item in _files.entries(notices(nobody))}
    assert without["/etc/cron.d/webstack-lb-metrics"]["state"] == "absent"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics_directory": "metrics"}, "metrics_directory must be an absolute path or empty, got 'metrics'"),
        ({"metrics_directory": "/a b"}, "metrics_directory must be"),
        ({"alarm_command": "mail"}, "alarm_command must be a list of words"),
        ({"alarm_command": [1]}, "alarm_command must be a list of words"),
        ({"more": 1}, "expected a dictionary with alarm_command, metrics_directory, tiers"),
    ],
)
def test_notices_that_cannot_work_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        notices({**WANTED, **change})


def test_preflight_refuses_a_directory_that_is_none() -> None:
    """The rule is every role's, since all come through the one function."""
    for good in ("", "/var/lib/prometheus/node-exporter"):
        assert collect({"some_role_metrics_directory": good}) == []
    for bad in ("metrics", "/a b", "/a/"):
        (problem,) = collect({"some_role_metrics_directory": bad})
        assert (
            problem.text
            == f"some_role_metrics_directory must be an absolute path without spaces, or empty; it is {bad}"
        )


def test_every_tier_is_told_of_by_its_role_with_the_sites_variables() -> None:
    tiers = []
    for path in sorted(ROLES.glob("*/tasks/configure.yml")):
        role = path.parents[1].name
        for task in yaml.safe_load(path.read_text()):
            call = task.get("webstack.ha.files", {})
            if not call.get("host_program"):
                continue
            given = call["notices"]
            if isinstance(given, str):
                given = yaml.safe_load((ROLES / role / "vars/main.yml").read_text())[f"__{role}_notices"]
            tiers += given["tiers"]
            assert given["metrics_directory"] == f"{{{{ {role}_metrics_directory }}}}"
            assert given["alarm_command"] == f"{{{{ {role}_alarm_command }}}}"
            defaults = yaml.safe_load((ROLES / role / "defaults/main.yml").read_text())
            assert "webstack_metrics_directory" in defaults[f"{role}_metrics_directory"]
            assert "webstack_alarm_command" in defaults[f"{role}_alarm_command"]
            install = (ROLES / role / "tasks/install.yml").read_text()
            assert f"['cron'] if {role}_metrics_directory" in install or re.search(
                rf"\['cron'\] if .*{role}_metrics_directory", install
            ), role
    assert sorted(tiers) == sorted(cli.TIERS)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_every_unit_of_ours_tells_when_it_fails(path: pathlib.Path) -> None:
    text = path.read_text()
    if path.name in ("webstack-tls-alarm.service.j2", "webstack-backup-failed@.service.j2"):
        assert "OnFailure" not in text, "it is the alarm"
        return
    own = {
        "webstack-tls.service.j2": "webstack-tls-alarm",
        "webstack-backup@.service.j2": "webstack-backup-failed@%i",
        "webstack-backup-proof.service.j2": "webstack-backup-failed@proof",
    }
    (named,) = re.findall(r"^OnFailure=(.+)\.service$", text, re.MULTILINE)
    if path.name in own:
        assert named == own[path.name]
        # A renewal by hand may last for minutes, and does what the timer wants.
        assert ("SuccessExitStatus=75" in text) == (own[path.name] == "webstack-tls-alarm")
        return
    # %p: each connection has an instance of its own, and an hour is one for all of them.
    word = "%p" if "@" in path.name else "%N"
    match = re.fullmatch(rf"webstack-alarm@(\w+):{word}", named)
    assert match and match[1] in cli.TIERS, named
    assert text.index("OnFailure=") < text.index("[Service]")


@pytest.mark.parametrize(
    ("script", "older", "alarm"),
    [
        ("lb_nginx/templates/tls-alarm.sh.j2", "lb_nginx_tls_alarm_command", "tls:webstack-tls"),
        (
            "backup_slave/templates/on-failure.sh.j2",
            "backup_slave_failure_command",
            '"backup:webstack-backup@$1"',
        ),
    ],
)
def test_an_older_command_of_a_role_still_runs_in_place_of_the_sites(script: str, older: str, alarm: str) -> None:
    last = (ROLES / script).read_text().splitlines()[-1]
    assert last == f"{{{{ {older} or 'exec /usr/local/sbin/webstack alarm {alarm}' }}}}"

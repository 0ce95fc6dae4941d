"""Which servers nginx may ask: the verdicts of the probes, the operator's wishes, and the lists made of both."""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import time
import types
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Busy, Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done
from documents import document
from host_programs import Tier

tool = Tier("lb")

GOOD = tool.Answer("up", "answers 200")
BAD = tool.Answer("down", "refused")
BUSY = tool.Answer("leaving", "answers 503")
RULES = tool.Rules()


def site(*names: str, **more: Any) -> Any:
    servers = tuple(tool.Server(name, f"192.0.2.{number}", 8000) for number, name in enumerate(names or "abc", 1))
    return tool.Site("site", servers, 10, "/-/health", "www.example.com", **more)


def states(a_site: Any, **by_name: str) -> dict[str, str]:
    return {a_site.target(server): by_name.get(server.name, "up") for server in a_site.servers}


# --- verdicts ------------------------------------------------------------------------------------------------


def heard(answers: str, verdict: Any = None, seconds: float = 1, start: float = 1000) -> list[str]:
    """Let a verdict hear g(ood), b(ad) and l(eaving) answers; return the state after each."""
    verdict = verdict or tool.Verdict()
    kinds = {"g": GOOD, "b": BAD, "l": BUSY}
    seen = []
    for number, letter in enumerate(answers):
        verdict.hear(kinds[letter], start + number * seconds, RULES)
        seen.append(verdict.state)
    return seen


def test_two_bad_answers_take_a_server_out_and_two_good_ones_bring_it_back() -> None:
    assert heard("gbgbbgbggg") == ["up", "up", "up", "up", "down", "down", "down", "down", "up", "up"]


def test_a_503_is_a_wish_to_be_left_alone() -> None:
    assert heard("llbgg") == ["up", "leaving", "down", "down", "up"]


def test_only_changes_between_in_and_out_are_news() -> None:
    verdict = tool.Verdict()
    news = [verdict.hear(answer, 1.0, RULES) for answer in (GOOD, BUSY, BUSY, BAD, BUSY, GOOD, GOOD, GOOD)]
    assert news == [False, False, True, False, False, False, True, False]


@pytest.mark.parametrize(
    ("answers", "silence"),
    [
        (["unreachable", "unreachable"], "unreachable"),
        (["silent", "unreachable"], "silent"),
        (["", "unreachable"], ""),
        (["unreachable", "unreachable", "silent"], "silent"),
        (["unreachable", "unreachable", ""], ""),
    ],
)
def test_the_least_silence_in_a_row_counts(answers: list[str], silence: str) -> None:
    verdict = tool.Verdict()
    for second, answer in enumerate(answers):
        verdict.hear(tool.Answer("down", "so it is", 1, answer), float(second), RULES)
    assert (verdict.state, verdict.silence) == ("down", silence)


def test_a_server_that_comes_and_goes_is_slowed_down() -> None:
    """Each return takes twice as many good answers: an hour of flapping costs a handful of reloads."""
    verdict = tool.Verdict()
    changes = 0
    for second in range(3600):
        # Two seconds bad, four seconds good, and so on.
        changes += verdict.hear(GOOD if second % 6 >= 2 else BAD, float(second), RULES)
    assert changes <= 8
    assert verdict.needed > 4


def test_a_server_that_stayed_well_is_trusted_again() -> None:
    verdict = tool.Verdict()
    heard("bbgg" * 3 + "bbgggggggg", verdict)
    assert verdict.needed > RULES.rise
    heard("g" * 30, verdict, start=2000)
    assert heard("bbgg", verdict, start=5000)[-1] == "up", "ten minutes later it takes two good answers again"


def test_the_wait_has_an_end() -> None:
    verdict = tool.Verdict()
    for number in range(30):
        heard("bb" + "g" * 64, verdict, start=1000 + 100 * number)
        assert verdict.state == "up"


# --- lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "drained", "out"),
    [
        ({}, [], set()),
        ({"a": "down"}, [], {"a"}),
        ({"a": "leaving", "b": "down"}, [], {"a", "b"}),
        ({"a": "down", "b": "down", "c": "leaving"}, [], set()),
        ({}, ["a"], {"a"}),
        ({"a": "up"}, ["a"], {"a"}),
        ({"b": "down", "c": "down"}, ["a"], {"a"}),
        ({}, ["a", "b", "c"], {"a", "b", "c"}),
        ({}, ["unknown"], set()),
    ],
    ids=["well", "one", "two", "all-is-none", "drained", "drain-beats-health", "the-rest-is-all", "forced", "gone"],
)
def test_who_is_left_out(found: dict[str, str], drained: list[str], out: set[str]) -> None:
    one = site()
    assert tool.excluded(one, states(one, **found), drained) == out


def test_a_list_is_what_nginx_reads() -> None:
    one = tool.Site("site", (tool.Server("a", "192.0.2.1", 80), tool.Server("b", "2001:db8::1", 80)), 10, "/", "h")
    assert tool.server_lines(one, {"b"}, 1) == (
        "server 192.0.2.1:80 max_fails=1 fail_timeout=10s; # a\n"
        "server [2001:db8::1]:80 max_fails=1 fail_timeout=10s down; # b\n"
    )


def test_the_marks_name_all_lists() -> None:
    one = site()
    marks = {
        tool.includes([one], states(one, **found), drained, shown)["marks"]
        for found, drained, shown in (({}, [], []), ({"a": "down"}, [], []), ({}, ["b"], []), ({}, [], ["site"]))
    }
    assert len(marks) == 4


def test_maintenance_is_the_operators_or_the_roles() -> None:
    files = [
        tool.includes([site(maintenance=role)], {}, [], wish)["site.maintenance"]
        for role, wish in ((False, []), (True, []), (False, ["site"]))
    ]
    assert files == ["", tool.MAINTENANCE, tool.MAINTENANCE]


# --- files ---------------------------------------------------------------------------------------------------


class Host:
    """The files of a balancer in a folder, and a nginx that accepts or refuses them."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.refuse, self.commands = folder, "", []
        for name in ("CONFIG", "WISHES", "INCLUDES", "FOUND", "STATUS", "METRICS"):
            monkeypatch.setattr(tool, name, folder / name.lower())
        monkeypatch.setattr(lock, "FOLDER", folder)
        monkeypatch.setattr(tool, "run", self.run)
        monkeypatch.setattr(tool, "running_marks", lambda *_: self.answered)
        self.answered = ""
        self.configure("a", "b")

    def configure(self, *names: str, closes: str = "unreachable") -> None:
        servers = [{"name": name, "address": f"192.0.2.{n}", "port": 80} for n, name in enumerate(names, 1)]
        entry = {"name": "site", "servers": servers, "fail_timeout_seconds": 9}
        health = {"interval_seconds": 1, "timeout_seconds": 1, "fall": 2, "rise": 2, "close_connections": closes}
        data = {
            "sites": [entry | {"health_path": "/h", "health_host": "example.com"}],
            "health": health,
            "local": "127.0.0.1:1",
            "cache_directory": str(self.folder / "cache"),
        }
        tool.CONFIG.write_text(json.dumps(data))

    def run(self, *command: str, **_limits: Any) -> Any:
        self.commands.append(command)
        problem = self.refuse if command[0] == "nginx" else ""
        if command[:2] == ("systemctl", "reload"):
            self.answered = self.marks()
        return Done(command, int(bool(problem)), "", problem)

    def marks(self) -> str:
        return (tool.INCLUDES / "marks").read_text().split('"')[1]

    def reloads(self) -> int:
        return sum(command[:2] == ("systemctl", "reload") for command in self.commands)

    def lists(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in tool.INCLUDES.iterdir()}


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def command(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = tool.main(words)
    said = document(capsys.readouterr().out)
    kept = {key: value for key, value in said.items() if key not in ("format", "version")}
    return code, kept if kept["problems"] else {key: value for key, value in kept.items() if key != "problems"}


def refusal(text: str) -> dict[str, Any]:
    return {"changed": False, "problems": [{"tier": "lb", "what": "refused", "text": text}]}


def refused_for(said: dict[str, Any]) -> str:
    (problem,) = said["problems"]
    return str(problem["text"])


def test_nginx_is_reloaded_once_for_a_change_and_never_without(host: Host) -> None:
    assert tool.apply() is True
    assert tool.apply() is False
    assert host.reloads() == 1


def test_a_reload_that_did_not_happen_is_made_up_for(host: Host) -> None:
    tool.refresh()
    assert host.reloads() == 0
    assert tool.apply() is True
    assert host.reloads() == 1


@pytest.mark.parametrize(
    ("closes", "silence", "closed"),
    [
        ("unreachable", "unreachable", True),
        ("unreachable", "silent", False),
        ("silent", "silent", True),
        ("silent", "", False),
        ("never", "unreachable", False),
    ],
)
def test_connections_to_a_silent_server_are_closed(host: Host, closes: str, silence: str, closed: bool) -> None:
    host.configure("a", "b", closes=closes)
    (one,) = tool.config().sites
    tool.FOUND.write_text(json.dumps({one.target(one.servers[0]): {"state": "down", "silence": silence}}))
    tool.apply()
    ends = [command for command in host.commands if command[0] == "ss"]
    assert ends == ([("ss", "-H", "-n", "-t", "-K", "state", "established", "dst", "192.0.2.1:80")] if closed else [])
    # After the reload: what waited must not be asked of the same server.
    assert not closed or host.commands.index(ends[0]) > host.commands.index(("systemctl", "reload", "nginx.service"))


def test_a_silence_of_all_closes_nothing(host: Host) -> None:
    (one,) = tool.config().sites
    entry = {"state": "down", "silence": "unreachable"}
    tool.FOUND.write_text(json.dumps({one.target(server): entry for server in one.servers}))
    tool.apply()
    assert not [command for command in host.commands if command[0] == "ss"]


def test_refused_lists_leave_the_good_ones(host: Host) -> None:
    tool.apply()
    before = host.lists()
    host.configure("a", "b", "c")
    host.refuse = "nginx: [emerg] no"
    with pytest.raises(Problem, match="emerg"):
        tool.apply()
    assert host.lists() == before
    assert host.reloads() == 1


def test_a_full_disk_leaves_the_good_lists(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.apply()
    before = host.lists()
    host.configure("a", "b", "c")
    written = []

    def write(path: pathlib.Path, text: str) -> None:
        # The second file finds no room; putting the first one back does.
        written.append(path)
        if len(written) == 2:
            raise Problem("No space left on device")
        path.write_text(text)

    monkeypatch.setattr(tool, "write", write)
    with pytest.raises(Problem, match="No space"):
        tool.apply()
    assert host.lists() == before


def test_a_drain_is_kept_and_an_undrain_forgets_it(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("drain", "a", "--wait", capsys=capsys) == (
        0,
        {"changed": True, "connections": 0},
    )
    assert "192.0.2.1:80 max_fails=1 fail_timeout=9s down" in host.lists()["site.servers"]
    host.configure("a", "b", "c")
    tool.refresh()
    assert " down; # a" in host.lists()["site.servers"], "a run of the role keeps it"
    assert command("drain", "a", capsys=capsys)[1]["changed"] is True, "the new list is applied"
    assert command("drain", "a", capsys=capsys)[1]["changed"] is False
    assert command("undrain", "a", capsys=capsys) == (0, {"changed": True})
    assert "down" not in host.lists()["site.servers"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["drain", "z"], "z is no application server of this balancer; known are a, b"),
        (["undrain", "z"], "z is no application server of this balancer; known are a, b"),
        (["maintenance", "on", "blog"], "blog is no site of this balancer; known are site"),
    ],
)
def test_unknown_names_are_refused(
    host: Host, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*words, capsys=capsys) == (1, refusal(message))
    assert not tool.WISHES.exists()


@pytest.mark.parametrize("why", ["drained", "down"])
def test_the_last_server_is_kept_unless_forced(
    host: Host, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "drained":
        command("drain", "a", capsys=capsys)
    else:
        one = tool.config().sites[0]
        tool.FOUND.write_text(json.dumps({one.target(one.servers[0]): {"state": "down"}}))
    code, said = command("drain", "b", capsys=capsys)
    assert (code, refused_for(said)) == (1, "b is the last server that works for site; --force drains it all the same")
    assert command("drain", "b", "--dry-run", capsys=capsys)[0] == 1
    assert command("drain", "b", "--force", capsys=capsys)[0] == 0


def test_what_nginx_refuses_is_not_kept(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.apply()
    host.refuse = "nginx: [emerg] no"
    assert command("drain", "a", capsys=capsys) == (1, refusal("nginx: [emerg] no"))
    assert tool.wishes()["drained"] == []


def test_drain_waits_for_the_last_connection(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 1, 0])
    monkeypatch.setattr(tool, "open_connections", lambda *_: next(counts))
    assert command("drain", "a", "--wait", capsys=capsys)[1]["connections"] == 0
    monkeypatch.setattr(tool, "open_connections", lambda *_: 2)
    code, said = command("drain", "a", "--wait", "--timeout", "0", capsys=capsys)
    assert (code, refused_for(said)) == (1, "a is drained, but 2 connections are still open after 0 s")


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("0100007F:1F40", ("127.0.0.1", 8000)),
        ("B80D0120000000000000000001000000:0050", ("2001:db8::1", 80)),
    ],
)
def test_the_kernels_addresses_are_read(text: str, end: tuple[str, int]) -> None:
    assert tool.far_end(text) == end


@pytest.mark.parametrize(("prefix", "left"), [("", 0), ("https://a/news/", 2), ("https://b", 2), ("https://c", 3)])
def test_purge_takes_a_prefix_of_the_key(
    host: Host, prefix: str, left: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "OPEN_FILE_SECONDS", 0.0)
    for number, key in enumerate(("https://a/news/1", "https://a/", "https://b/news/1")):
        path = tmp_path / "cache" / str(number) / "entry"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\5\0\0\0binary\nKEY: " + key.encode() + b"\nHTTP/1.1 200 OK\r\n\r\nbody")
    assert tool.purge(argparse.Namespace(prefix=prefix))["removed"] == 3 - left
    assert len([*(tmp_path / "cache").rglob("entry")]) == left


@pytest.mark.usefixtures("host")
def test_a_cache_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tool.purge(argparse.Namespace(prefix=""))["removed"] == 0
    (tmp_path / "cache/1").mkdir(parents=True)

    def scandir(_folder: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        tool.purge(argparse.Namespace(prefix=""))


@pytest.mark.parametrize("code", [1, 4, 127])
def test_a_systemd_that_does_not_answer_is_no_nginx_that_stands(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    done = Done([], code, "", "")
    monkeypatch.setattr(tool, "run", lambda *_command, **_limits: done)
    with pytest.raises(Problem, match=f"is-active nginx.service: exit code {code}"):
        tool.reload(None, "digest")
    monkeypatch.setattr(tool, "run", lambda *_command, **_limits: Done([], 3, "", ""))
    assert tool.reload(None, "digest") is False


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_wish_brings_no_drained_server_back(
    host: Host, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.WISHES.write_text(text)
    with pytest.raises(Problem, match="is broken: remove it"):
        tool.apply()
    code, said = command("drain", "a", capsys=capsys)
    assert code == 1
    assert "is broken" in refused_for(said)
    # The probes go on.
    assert tool.overview(tool.config(), {})["sites"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["local"], None, "has no 'local'"),
        (["health", "rise"], None, "health has no 'rise'"),
        (["health", "fall"], "two", "health: 'fall' has to be a whole number"),
        (["health", "close_connections"], "always", "has to be one of never, unreachable, silent, it is 'always'"),
        (["sites", 0, "health_path"], None, "sites[0] has no 'health_path'"),
        (["sites", 0, "servers", 1, "port"], None, "sites[0], servers[1] has no 'port'"),
    ],
)
def test_settings_that_are_not_whole_are_named_and_change_nothing(
    host: Host, path: list[Any], value: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.apply()
    before = host.lists()
    data = json.loads(tool.CONFIG.read_text())
    entry = functools.reduce(lambda table, key: table[key], path[:-1], data)
    entry.pop(path[-1])
    if value is not None:
        entry[path[-1]] = value
    tool.CONFIG.write_text(json.dumps(data))
    for words in (["drain", "a"], ["apply"]):
        code, answer = command(*words, capsys=capsys)
        assert code == 1 and str(tool.CONFIG) in refused_for(answer) and said in refused_for(answer)
    assert (host.lists(), host.reloads(), tool.WISHES.exists()) == (before, 1, False)


def test_who_changes_the_lists_holds_the_lock_and_says_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def run(*command: str, **_limits: Any) -> Any:
        with pytest.raises(Busy) as busy, lock.hold("lb", "another", 0):
            pass
        said.append(str(busy.value))
        return host.run(*command)

    monkeypatch.setattr(tool, "run", run)
    assert tool.main(["drain", "a"]) == 0
    assert said and all("busy: a change of the server lists (process" in text for text in said)


def test_who_holds_the_lists_too_long_is_named(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "LOCK_SECONDS", 0.1)
    with lock.hold("lb", "somebody's long change", 0):
        for words in (["apply"], ["drain", "a"], ["maintenance", "on"]):
            code, answer = command(*words, capsys=capsys)
            assert code == 75 and "somebody's long change (process" in refused_for(answer), words
        for word in ("refresh", "generation"):
            with pytest.raises(Busy, match="somebody's long change"):
                tool.main([word])
    assert not tool.WISHES.exists() and host.reloads() == 0


# --- the service ---------------------------------------------------------------------------------------------


def test_a_restart_starts_where_it_ended(host: Host) -> None:
    one = tool.config().sites[0]
    target = one.target(one.servers[0])
    tool.FOUND.write_text(json.dumps({target: {"state": "down", "needed": 8, "since": 5.0}, "gone": {"state": "down"}}))
    service = tool.Service(tool.config())
    assert (service.verdicts[target].state, service.verdicts[target].needed) == ("down", 8)
    assert set(service.verdicts) == {one.target(server) for server in one.servers}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": {"state": "down"}}', '{"192.0.2.1:80 example.com /h": 5}'])
def test_a_broken_record_is_no_reason_to_stop(host: Host, text: str) -> None:
    tool.FOUND.write_text(text)
    service = tool.Service(tool.config())
    assert {verdict.state for verdict in service.verdicts.values()} == {"up"}
    assert tool.states(tool.config()).get("y") is None


@pytest.mark.usefixtures("host")
def test_the_status_is_never_older_than_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.time()
    tool.WISHES.write_text("{}")
    os.utime(tool.WISHES, (clock, clock))
    tool.STATUS.write_text(json.dumps({"time": clock - 0.5}))
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            tool.STATUS.write_text(json.dumps({"time": clock + 0.5}))

    monkeypatch.setattr(tool, "time", types.SimpleNamespace(sleep=wait, time=lambda: clock + sum(waits)))
    assert tool.last_status() == ({"time": clock + 0.5}, True)
    assert len(waits) == 3
    # A service that is dead writes nothing more.
    tool.STATUS.write_text(json.dumps({"time": clock - 0.5}))
    assert tool.last_status() == ({"time": clock - 0.5}, False)
    assert sum(waits) == pytest.approx(3, abs=0.1)


def test_a_service_that_has_not_written_since_a_drain_does_not_hide_it(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowded host: it probes, but its last word is older than the drain."""
    settings = tool.config()
    one = settings.sites[0]
    verdicts = {one.target(s): tool.Verdict(state="down" if s.name == "b" else "up") for s in one.servers}
    old = tool.overview(settings, verdicts) | {"reloads": 0, "error": ""}
    tool.STATUS.write_text(json.dumps(old))
    tool.FOUND.write_text(json.dumps({target: vars(verdict) for target, verdict in verdicts.items()}))
    tool.WISHES.write_text(json.dumps({"drained": ["a"], "maintenance": []}))
    later = old["time"] + 1
    os.utime(tool.WISHES, (later, later))
    monkeypatch.setattr(tool, "time", types.SimpleNamespace(sleep=lambda _: None, time=lambda: later + 3))
    assert tool.main(["status", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    servers = {server["name"]: server for server in seen["sites"][0]["servers"]}
    assert (servers["a"]["drained"], servers["a"]["asked"], servers["b"]["state"]) == (True, False, "down")
    assert seen["probing"]


def test_metrics_and_table_say_the_same(host: Host) -> None:
    one = tool.config().sites[0]
    verdicts = {one.target(s): tool.Verdict(state="down" if s.name == "a" else "up") for s in one.servers}
    status = tool.overview(tool.config(), verdicts) | {"reloads": 3, "error": ""}
    text = tool.metrics(status)
    assert 'webstack_lb_server_up{site="site",server="a"} 0' in text
    assert 'webstack_lb_server_asked{site="site",server="b"} 1' in text
    assert "webstack_lb_reloads_total 3" in text
    rows = [line.split() for line in tool.as_text(status).splitlines()]
    assert [(row[1], row[3], row[4]) for row in rows[1:3]] == [("a", "down", "no"), ("b", "up", "yes")]

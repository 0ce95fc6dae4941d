"""The pure parts of the command webstack vip: what the doctor judges, what goes over the wire, the drain's rules."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import signal
import threading
import time
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import systemd
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.config import Settings
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.run import Done
from host_programs import Tier

vip = Tier("vip")
MINE, THEIRS, ALIEN = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
ADDRESS = "192.0.2.100"
NEWER = "speaks format 2 and this host 1"


def config(**changes: Any) -> Settings:
    settings = {
        "host": "lb1",
        "engine": "keepalived",
        "interface": "eth0",
        "own": "192.0.2.11",
        "addresses": [f"{ADDRESS}/24", "2001:DB8::0100/64"],
        "peers": [{"name": "lb2", "address": "192.0.2.12"}],
        "port": 8112,
        "service": "nginx.service",
        "check": ["true"],
        "drain_seconds": 30,
        "doctor_seconds": 10,
        "metrics_file": "/nowhere",
        "alarm": [],
        "hook": {},
        **changes,
    }
    return Settings(settings, "config.json")


def peer(*owns: str, **changes: Any) -> dict[str, Any]:
    return {"host": "lb2", "owns": list(owns), "mac": THEIRS, "unfit": "", "heard": 5, **changes}


def view(**changes: Any) -> Any:
    good = {"mac": MINE, "owned": [ADDRESS], "answers": {}, "peers": {"lb2": peer()}, "heard_more": {"lb2": True}}
    return vip.View(**{**good, **changes})


def kinds(**changes: Any) -> list[str]:
    return [finding.what for finding in vip.judge(view(**changes), [ADDRESS])]


# --- Doctor -----------------------------------------------------------------------------------------


def test_a_healthy_pair_has_no_finding() -> None:
    assert kinds() == []
    assert kinds(owned=[], answers={ADDRESS: {THEIRS}}, peers={"lb2": peer(ADDRESS)}) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"peers": {"lb2": peer(ADDRESS)}},
        {"answers": {ADDRESS: {THEIRS}}},
        # The peer is silent and its MAC unknown: a MAC that answers for an address of ours is its own.
        {"answers": {ADDRESS: {THEIRS}}, "peers": {"lb2": None}},
    ],
    ids=["says-so", "answers", "silent-but-answers"],
)
def test_two_owners_are_found(changes: dict[str, Any]) -> None:
    assert "both" in kinds(**changes)


def test_the_own_answer_is_no_second_owner() -> None:
    assert kinds(answers={ADDRESS: {MINE}}) == []


def test_no_owner_is_found() -> None:
    assert kinds(owned=[]) == ["none"]


def test_a_stranger_is_no_balancer() -> None:
    found = vip.judge(view(answers={ADDRESS: {ALIEN}}), [ADDRESS])
    assert [f.what for f in found] == ["stranger"]
    assert ALIEN in found[0].text


def test_peers_that_are_silent_unfit_or_deaf() -> None:
    assert kinds(peers={"lb2": None}) == ["peer_silent"]
    assert kinds(peers={"lb2": peer(unfit="it is in maintenance")}) == ["peer_unfit"]
    assert kinds(heard_more={"lb2": False}) == ["peer_deaf"]
    # Who owns nothing sends nothing that a peer could hear.
    assert kinds(owned=[], peers={"lb2": peer(ADDRESS)}, heard_more={"lb2": False}) == []


def test_new_and_over() -> None:
    one, two = vip.Finding("both", "x"), vip.Finding("none", "y")
    assert vip.compare([one], [two]) == ([two], [one])
    assert vip.compare([one], [one]) == ([], [])


def test_an_alarm_names_the_host_as_the_inventory_does(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(_seconds: float) -> None:
        raise KeyboardInterrupt

    command = ["sh", "-c", f'echo "$HOST $TIER $FINDING $TEXT" > {tmp_path}/alarm']
    host = vip.Host(config(alarm=command, metrics_file=str(tmp_path / "metrics")))
    monkeypatch.setattr(vip, "findings", lambda _: (view(), [vip.Finding("none", "nobody owns it")]))
    monkeypatch.setattr(time, "sleep", looked)
    with pytest.raises(KeyboardInterrupt):
        vip.doctor_loop(host)
    assert (tmp_path / "alarm").read_text() == "lb1 vip none nobody owns it\n"


def test_metrics_name_every_kind() -> None:
    host = vip.Host(config())
    text = vip.metrics(host, view(), [vip.Finding("both", "x")])
    assert f'webstack_vip_owner{{address="{ADDRESS}"}} 1' in text
    assert 'webstack_vip_owner{address="2001:db8::100"} 0' in text
    values = {kind: f'webstack_vip_finding{{kind="{kind}"}} {int(kind == "both")}' for kind in vip.KINDS}
    assert all(line in text.splitlines() for line in values.values())


# --- The wire ---------------------------------------------------------------------------------------


def test_arp_says_who_sends_and_is_read_back() -> None:
    frame = vip.arp(1, MINE, "192.0.2.11", ADDRESS)
    assert len(frame) == 42
    assert frame[:6] == b"\xff" * 6
    assert vip.parse_arp(frame) == ("192.0.2.11", MINE)
    assert vip.parse_arp(frame[:41]) is None
    assert vip.parse_arp(b"\0" * 60) is None


def test_neighbour_advertisement_is_read_back() -> None:
    assert vip.parse_advertisement(vip.advertisement(MINE, "2001:db8::100")) == ("2001:db8::100", MINE)
    assert vip.parse_advertisement(vip.solicitation(MINE, "2001:db8::100")) is None
    assert vip.parse_advertisement(b"") is None


def test_the_link_is_read_with_the_address_that_never_moves() -> None:
    entry = {
        "address": MINE,
        "addr_info": [{"local": a} for a in ("192.0.2.11", ADDRESS, "2001:db8::11", "2001:db8::100", "fe80::1")],
    }
    assert vip.parse_link(entry, [ADDRESS, "2001:db8::100", "192.0.2.101"]) == (
        MINE,
        (ADDRESS, "2001:db8::100"),
        "fe80::1",
    )


def test_a_client_that_is_gone_holds_up_no_drain() -> None:
    """As `ss -o` prints them: four that live and a handshake that just began; four that nobody answers."""
    sockets = """\
ESTAB      0 0     192.0.2.100:443 198.51.100.1:40000
ESTAB      0 0     192.0.2.100:443 198.51.100.1:40001 timer:(keepalive,1min4sec,0)
ESTAB      0 90000 192.0.2.100:443 198.51.100.1:40002 timer:(persist,26sec,0)
ESTAB      0 1200  192.0.2.100:443 198.51.100.1:40003 timer:(on,204ms,4)
ESTAB      0 1200  192.0.2.100:443 198.51.100.2:40000 timer:(on,12sec,6)
FIN-WAIT-1 0 1     [2001:db8::100]:80 [2001:db8::1]:47008 timer:(persist,1.912sec,5)
LAST-ACK   0 1     192.0.2.100:80  198.51.100.2:40001 timer:(on,,5)
SYN-RECV   0 0     192.0.2.100:80  198.51.100.2:40002 timer:(on,1.2sec,1)
SYN-RECV   0 0     192.0.2.100:80  198.51.100.2:40003 timer:(on,3.1sec,2)
"""
    assert vip.living(sockets) == 5
    assert vip.living("") == 0


def test_addresses_have_one_spelling() -> None:
    assert vip.Host(config()).addresses == [ADDRESS, "2001:db8::100"]


# --- Drain ------------------------------------------------------------------------------------------


def test_rules_are_for_the_moved_addresses_and_never_send_back() -> None:
    rules = vip.forwarding_rules([ADDRESS, "2001:db8::100"], "eth0", THEIRS, "192.0.2.12", "fe80::2")
    four, six = rules.split("table ip6 webstack_drain")
    assert f"ip daddr != {{ {ADDRESS} }} accept" in four
    assert 'dup to 192.0.2.12 device "eth0"' in four
    assert 'dup to fe80::2 device "eth0"' in six
    for part in (four, six):
        assert (
            part.index(f"ether saddr {THEIRS} accept")
            < part.index("socket wildcard 0 accept")
            < part.index("ct state invalid goto back")
        )
        assert "expiration" not in part


@pytest.mark.parametrize(
    ("limits", "ended"),
    [
        ({"time_wait": 120, "close": 10, "established": 432000, "unacknowledged": 300}, 120),
        ({"time_wait": 120, "close": 10, "established": 90, "unacknowledged": 300}, 0),
        ({}, 0),
    ],
)
def test_a_port_that_is_used_again_is_not_taken_for_the_connection_that_ended(
    limits: dict[str, int], ended: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vip, "CONNTRACK", tmp_path)
    for name, seconds in limits.items():
        (tmp_path / f"nf_conntrack_tcp_timeout_{name}").write_text(f"{seconds}\n")
    assert vip.ended_seconds() == ended
    rules = vip.forwarding_rules([ADDRESS], "eth0", THEIRS, "192.0.2.12", "", ended=ended)
    assert ("ct state established ct expiration <= 120s goto only_back" in rules) == bool(ended)


def test_a_family_without_a_way_to_the_peer_has_no_rules() -> None:
    assert "ip6" not in vip.forwarding_rules([ADDRESS, "2001:db8::100"], "eth0", THEIRS, "192.0.2.12", "")


@pytest.mark.parametrize(
    ("mac", "address", "way"),
    [("02:00; drop", ADDRESS, "192.0.2.12"), (THEIRS, "0/0", "192.0.2.12"), (THEIRS, ADDRESS, "x; flush ruleset")],
)
def test_nothing_from_the_wire_becomes_a_rule_unread(mac: str, address: str, way: str) -> None:
    with pytest.raises((Problem, ValueError)):
        vip.forwarding_rules([address], "eth0", mac, way, "")


class Recorder(vip.Forwarder):  # type: ignore[misc,name-defined]
    """A forwarder that touches no firewall."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ends: list[str] = []

    def set_up(self, rules: str) -> None:
        self.loads.append(rules)

    def take_down(self) -> None:
        pass

    def stop(self, reason: str = "") -> None:
        super().stop(reason)
        self.ends.append(reason)


def test_the_settings_of_conntrack_come_back(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by an agent that starts after one that was killed, and after two requests."""
    monkeypatch.setattr(vip, "RUN", tmp_path)
    monkeypatch.setattr(vip, "CONNTRACK", tmp_path)
    monkeypatch.setattr(vip, "run", lambda *_, **_more: None)
    before = {"nf_conntrack_tcp_loose": "1", "nf_conntrack_tcp_be_liberal": "0"}
    for name, value in before.items():
        (tmp_path / name).write_text(f"{value}\n")
    killed = vip.Forwarder()
    killed.set_up("")
    killed.set_up("")
    assert {name: (tmp_path / name).read_text() for name in before} == vip.Forwarder.SETTINGS
    assert sorted(os.listdir(tmp_path)) == ["conntrack.json", *sorted(before)]
    vip.Forwarder().stop()
    assert {name: (tmp_path / name).read_text() for name in before} == before
    assert sorted(os.listdir(tmp_path)) == sorted(before)


def test_saved_settings_of_conntrack_are_whole_or_not_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file would keep every later agent from starting."""
    monkeypatch.setattr(vip, "RUN", tmp_path)
    monkeypatch.setattr(vip, "CONNTRACK", tmp_path)
    monkeypatch.setattr(vip, "run", lambda *_, **_more: None)
    for name in vip.Forwarder.SETTINGS:
        (tmp_path / name).write_text("1\n")

    def cut_off(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", cut_off)
        with pytest.raises(Problem, match=r"conntrack.json cannot be written: No space left"):
            vip.Forwarder().set_up("")
    assert not (tmp_path / "conntrack.json").exists()
    vip.Forwarder().stop()


DRAIN = {"ask": "drain", "addresses": [ADDRESS], "mac": THEIRS, "address6": "fe80::2"}


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Any:
    host = vip.Host(config())
    monkeypatch.setattr(host, "unfit", lambda: "")
    return host


def test_a_drain_lives_by_its_heartbeats(fit: Any) -> None:
    forwarder = Recorder()
    assert vip.serve(fit, forwarder, "lb2", DRAIN) == {"refused": ""}
    forwarder.tick()
    assert forwarder.peer == "lb2"
    forwarder.until = time.monotonic() - 0.01
    forwarder.tick()
    assert (forwarder.peer, forwarder.ends) == ("", ["is silent"])


def test_a_drain_ends_when_the_peer_is_done(fit: Any) -> None:
    forwarder = Recorder()
    vip.serve(fit, forwarder, "lb2", DRAIN)
    vip.serve(fit, forwarder, "lb2", {"ask": "drained"})
    assert (forwarder.peer, forwarder.ends) == ("", ["is done"])


def test_who_is_unfit_takes_nothing_over(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "unfit", lambda: "it is in maintenance")
    forwarder = Recorder()
    assert vip.serve(fit, forwarder, "lb2", DRAIN) == {"refused": "it is in maintenance"}
    assert forwarder.peer == ""


def test_in_a_drain_that_nobody_planned_the_address_is_here_already(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "unfit", lambda: pytest.fail("this takes too long"))
    forwarder = Recorder()
    assert vip.serve(fit, forwarder, "lb2", {**DRAIN, "planned": False}) == {"refused": ""}
    assert forwarder.peer == "lb2"


def test_an_address_that_follows_joins_those_before(fit: Any) -> None:
    forwarder = Recorder()
    for addresses in ([ADDRESS], [ADDRESS], ["2001:db8::100"], [ADDRESS], ["2001:db8::dead"]):
        forwarder.start(fit, "lb2", {**DRAIN, "addresses": addresses})
    assert len(forwarder.loads) == 2
    assert all(text in forwarder.loads[1] for text in (ADDRESS, "2001:db8::100"))
    forwarder.stop()
    forwarder.start(fit, "lb2", DRAIN)
    assert "2001:db8::100" not in forwarder.loads[2]


# --- An address that two own ------------------------------------------------------------------------


@pytest.fixture
def owner(fit: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(vip, "RUN", tmp_path)
    monkeypatch.setattr(vip, "HEARTBEAT", 0)
    monkeypatch.setattr(fit, "link", lambda: vip.Link(MINE, (ADDRESS, "2001:db8::100"), "fe80::1"))
    return fit


def test_two_owners_send_each_other_what_they_do_not_know(owner: Any) -> None:
    forwarder = Recorder()
    theirs = {**DRAIN, "ask": "share"}
    assert vip.serve(owner, forwarder, "lb2", theirs) == {"addresses": [ADDRESS], "mac": MINE, "address6": "fe80::1"}
    assert (forwarder.peer, forwarder.addresses) == ("lb2", {ADDRESS})


@pytest.mark.parametrize("leaves", ["maintenance", "leaving"])
def test_who_hands_over_shares_nothing(owner: Any, leaves: str) -> None:
    vip.set_flag(leaves, True)
    forwarder = Recorder()
    said = vip.serve(owner, forwarder, "lb2", {**DRAIN, "ask": "share"})
    assert (said["addresses"], forwarder.peer) == ([], "")


def test_a_new_owner_shares_for_as_long_as_the_other_owns_the_address(
    owner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [{**DRAIN, "addresses": [ADDRESS]}, {**DRAIN, "addresses": [ADDRESS]}, {**DRAIN, "addresses": []}]
    asked = []

    def ask(_host: Any, peer: str, question: dict[str, Any]) -> dict[str, Any]:
        asked.append((peer, question))
        return answers.pop(0)

    monkeypatch.setattr(vip, "ask", ask)
    forwarder = Recorder()
    vip.share(owner, forwarder)
    mine = {"addresses": [ADDRESS, "2001:db8::100"], "mac": MINE, "address6": "fe80::1"}
    assert asked == [("lb2", {"ask": "share", **mine})] * 3
    assert (forwarder.peer, forwarder.addresses, len(forwarder.loads)) == ("lb2", {ADDRESS}, 1)


def test_of_two_other_owners_one_is_sent_what_is_unknown(owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    owner.peers["lb3"] = "192.0.2.13"
    answers = [*[{**DRAIN, "addresses": [ADDRESS]}] * 4, *[{**DRAIN, "addresses": []}] * 2]
    monkeypatch.setattr(vip, "ask", lambda *_: answers.pop(0))
    forwarder = Recorder()
    vip.share(owner, forwarder)
    vip.serve(owner, forwarder, "lb3", {**DRAIN, "ask": "share"})
    assert (forwarder.peer, len(forwarder.loads), answers) == ("lb2", 1, [])


def test_a_peer_that_is_dead_shares_nothing(owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vip, "ask", lambda *_: None)
    forwarder = Recorder()
    vip.share(owner, forwarder)
    assert forwarder.peer == ""


def test_rules_that_cannot_be_loaded_end_in_a_message(
    owner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vip, "ask", lambda *_: {**DRAIN, "mac": "x; flush ruleset"})
    vip.share(owner, Recorder())
    assert "connections of another owner cannot be forwarded to it: 'x; flush ruleset' is no MAC address" in (
        capsys.readouterr().err
    )


class Loser:
    """A balancer with connections that just lost its address, and what it tells its peer."""

    def __init__(self, host: Any, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, self.said, self.left, self.owned = host, [], [2, 2, 2, 1, 1, 0], [[]]
        self.newer = threading.Event()
        monkeypatch.setattr(vip, "RUN", folder)
        monkeypatch.setattr(vip, "HEARTBEAT", 0)
        monkeypatch.setattr(systemd, "run", lambda *command, **_limits: self.said.append(command[0]))
        monkeypatch.setattr(vip, "ask", self.ask)
        monkeypatch.setattr(host, "link", lambda: vip.Link(MINE, (), "fe80::1"))
        monkeypatch.setattr(host, "owned", lambda: self.owned.pop(0) if len(self.owned) > 1 else self.owned[0])
        monkeypatch.setattr(host, "connections", lambda: self.left.pop(0) if len(self.left) > 1 else self.left[0])

    def ask(self, _host: Any, peer: str, question: dict[str, Any]) -> dict[str, Any] | None:
        assert (question["mac"], question["planned"]) == (MINE, False)
        self.said.append(question["ask"])
        return {"refused": ""}


@pytest.fixture
def loser(fit: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Loser:
    return Loser(fit, tmp_path, monkeypatch)


def test_what_runs_here_is_kept_after_a_loss(loser: Loser) -> None:
    vip.keep(loser.host, loser.newer)
    assert loser.said[-1] == "drained"
    # The first reads of the connections are whether there are any, and how many at first.
    assert loser.said == ["drain"] * 5 + ["drained"]
    assert loser.left == [0]


def test_nothing_is_kept_where_nothing_runs(loser: Loser) -> None:
    loser.left = [0]
    vip.keep(loser.host, loser.newer)
    assert loser.said == []


@pytest.mark.parametrize("file", ["maintenance", "leaving"])
def test_a_planned_move_keeps_by_itself(loser: Loser, file: str) -> None:
    vip.set_flag(file, True)
    vip.keep(loser.host, loser.newer)
    assert loser.said == []


def test_a_dead_web_server_keeps_nothing(loser: Loser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loser.host, "unfit", lambda: "its web server does not answer")
    vip.keep(loser.host, loser.newer)
    assert loser.said == ["drain", "drained"]


def test_a_peer_that_is_cut_off_keeps_nothing(loser: Loser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vip, "ask", lambda *_: None)
    vip.keep(loser.host, loser.newer)
    assert len(loser.left) == 5, "asked for its connections once"


def test_an_address_that_comes_back_ends_it(loser: Loser) -> None:
    loser.owned, loser.left = [[], [], [ADDRESS]], [2]
    vip.keep(loser.host, loser.newer)
    assert loser.said == ["drain", "drain", "drained"]


def test_a_newer_loss_takes_over(loser: Loser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loser.host, "unfit", lambda: loser.newer.set() or "")
    vip.keep(loser.host, loser.newer)
    assert loser.said == ["drain"], "the newer one says when it is over"


def test_connections_that_do_not_end_are_asked_to(loser: Loser) -> None:
    loser.left, loser.host.drain_seconds = [2], 0.2
    vip.keep(loser.host, loser.newer)
    assert loser.said.count("systemctl") == 1
    assert loser.said[-1] == "drained"


def test_unknown_questions_get_no_answer(fit: Any) -> None:
    assert vip.serve(fit, Recorder(), "lb2", {"ask": "sing"}) is None


# --- Hook -------------------------------------------------------------------------------------------


def test_pauses_double_up_to_a_limit() -> None:
    assert list(itertools.islice(vip.delays(), 8)) == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_command_that_works_has_no_error() -> None:
    assert vip.try_hook(["sh", "-c", '[ "$ADDRESS" = a ]'], {"ADDRESS": "a", "PATH": "/usr/bin:/bin"}, 5) == ""


def test_a_command_that_fails_says_its_last_line() -> None:
    said = vip.try_hook(["sh", "-c", "echo one; echo two >&2; exit 3"], {"PATH": "/usr/bin:/bin"}, 5)
    assert said == "exit code 3: two"


def test_a_command_that_hangs_ends_with_its_children(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "late"
    started = time.monotonic()
    said = vip.try_hook(["sh", "-c", f"(sleep 1; touch {mark}) & sleep 60"], {"PATH": "/usr/bin:/bin"}, 0.3)
    assert said == "no end within 0.3 s"
    assert time.monotonic() - started < 5
    time.sleep(1.2)
    assert not mark.exists(), "a child went on"


@pytest.mark.parametrize("code", [0, 3])
def test_what_a_command_left_in_the_background_ends_with_it(tmp_path: pathlib.Path, code: int) -> None:
    """Otherwise the next try runs beside it, which is never to happen."""
    mark = tmp_path / "late"
    script = f"(sleep 0.5; touch {mark}) >/dev/null 2>&1 & exit {code}"
    assert vip.try_hook(["sh", "-c", script], {"PATH": "/usr/bin:/bin"}, 5) == (f"exit code {code}" if code else "")
    time.sleep(0.8)
    assert not mark.exists(), "a child went on"


@pytest.mark.parametrize("works", [True, False])
def test_a_master_ends_when_its_settings_change(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """systemd starts it anew: also one whose command fails, which new settings may mend."""
    settings, calls = tmp_path / "config.json", tmp_path / "calls"
    settings.write_text("{}")
    monkeypatch.setattr(vip, "RUN", tmp_path)
    monkeypatch.setattr(vip, "CONFIG", settings)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    script = f"echo $STATE $TRY >> {calls}; rm -f {settings}; echo '{{}}' > {settings}; exit {int(not works)}"
    hook = {"command": ["sh", "-c", script], "timeout_seconds": 5, "refresh_seconds": 60}
    assert vip.move(vip.Host(config(hook=hook, addresses=[f"{ADDRESS}/24"]))) == 0
    assert calls.read_text() == "master 1\n"
    assert json.loads((tmp_path / "hook.json").read_text())[ADDRESS]["moved"] is works


@pytest.mark.parametrize(
    ("carries", "state", "told"),
    [
        ("127.112.0.51", "inactive", "start"),
        ("127.112.0.51", "failed", "start"),
        ("127.112.0.51", "deactivating", "start"),  # the stop of the change before
        ("127.112.0.51", "active", ""),
        ("127.112.0.51", "activating", ""),
        ("192.0.2.100", "active", "stop"),  # the copy on the loopback says nothing
        ("192.0.2.100", "activating", "stop"),  # it failed and would start again
        ("192.0.2.100", "deactivating", ""),
        ("192.0.2.100", "inactive", ""),
    ],
)
def test_the_command_runs_where_keepalived_is_master(
    monkeypatch: pytest.MonkeyPatch, carries: str, state: str, told: str
) -> None:
    words: list[str] = []
    shown = json.dumps([{"ifname": "lo", "addr_info": [{"local": "127.0.0.1"}, {"local": carries}]}])
    monkeypatch.setattr(vip, "run", lambda *_, **__: Done([], 0, shown, ""))
    monkeypatch.setattr(systemd, "show", lambda *_: {"ActiveState": state})
    monkeypatch.setattr(systemd, "tell", lambda *said, **_: words.extend(said))
    host = vip.Host(config(engine="hook", hook={"master_address": "127.112.0.51"}))
    assert vip.follow(host) is not bool(told)
    assert words == ([told, "webstack-vip-move.service"] if told else [])


@pytest.mark.parametrize("silent", ["ip", "systemctl"])
def test_who_cannot_tell_its_state_neither_starts_nor_stops_the_command(
    monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    def run(*words: str, **_: object) -> Done:
        assert words[:2] in (("systemctl", "show"), ("ip", "-json")), words
        if words[0] == silent:
            raise Problem("no answer")
        return Done(words, 0, "ActiveState=inactive" if words[0] == "systemctl" else "[]", "")

    monkeypatch.setattr(vip, "run", run)
    monkeypatch.setattr(systemd, "run", run)
    with pytest.raises(Problem, match="no answer"):
        vip.follow(vip.Host(config(engine="hook", hook={"master_address": "127.112.0.51"})))


def test_flags_are_what_keepalived_tracks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vip, "RUN", tmp_path / "run")
    assert not vip.flag("maintenance")
    vip.set_flag("maintenance", True)
    assert (tmp_path / "run/maintenance").read_text() == "1\n"
    assert vip.flag("maintenance")
    vip.set_flag("maintenance", False)
    assert not vip.flag("maintenance")


def test_settings_are_json(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vip, "CONFIG", tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(dict(config())))
    assert vip.Host.load().peers == {"lb2": "192.0.2.12"}


@pytest.mark.parametrize("key", sorted(config()))
def test_a_setting_that_is_missing_is_named(key: str) -> None:
    some = {name: value for name, value in config().items() if name != key}
    with pytest.raises(Problem, match=f"config.json has no '{key}'"):
        vip.Host(Settings(some, "config.json"))


# --- Two versions -----------------------------------------------------------------------------------


def test_a_question_of_the_first_version_has_no_number(fit: Any) -> None:
    assert vip.serve(fit, Recorder(), "lb2", {**DRAIN, "format": 1}) == {"refused": ""}
    assert vip.serve(fit, Recorder(), "lb2", DRAIN) == {"refused": ""}


@pytest.mark.parametrize("number", [2, "2", None])
def test_a_newer_question_is_refused_by_name(fit: Any, number: Any) -> None:
    forwarder = Recorder()
    said = vip.serve(fit, forwarder, "lb2", {**DRAIN, "format": number})
    assert said == {"refused": f"lb2 speaks format {number} and this host 1: run the role on all balancers"}
    assert not forwarder.peer


class Line:
    """A socket whose peer gives one answer."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.sent = json.dumps(answer).encode(), b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def settimeout(self, _seconds: float) -> None:
        pass

    def sendto(self, data: bytes, _target: Any) -> None:
        self.sent = data

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[str, int]]:
        return self.answer, ("192.0.2.12", 8112)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"format": 1, "unfit": ""}, {"format": 1, "unfit": ""}),
        ({"unfit": ""}, {"unfit": ""}),
        ({"format": 2, "unfit": ""}, {"refused": f"{NEWER}: run the role on all balancers"}),
    ],
)
def test_a_newer_answer_is_a_refusal_by_name(
    fit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: Any, told: Any
) -> None:
    line = Line(answer)
    monkeypatch.setattr(vip, "datagram_socket", lambda _own: line)
    assert vip.ask(fit, "lb2", {"ask": "state"}) == told
    assert json.loads(line.sent) == {"format": 1, "ask": "state"}
    assert (f"lb2 {NEWER}" in capsys.readouterr().err) == ("refused" in told)


def test_a_peer_with_a_newer_format_is_named_wherever_it_is_asked(
    owner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vip, "datagram_socket", lambda _own: Line({"format": 2, "owns": [ADDRESS], "mac": THEIRS}))
    with pytest.raises(Problem, match=rf"no balancer can take over \(lb2: {NEWER}"):
        vip.successors(owner)
    said = vip.Drain(owner, ["lb2"], [ADDRESS], planned=True).tell("drain")
    assert said == [f"lb2: {NEWER}: run the role on all balancers"]
    vip.share(owner, Recorder())
    assert f"cannot be forwarded to it: lb2: {NEWER}" in capsys.readouterr().err
    # It may own the address: whoever answers for it is no stranger.
    seen = view(owned=[], peers={"lb2": vip.ask_state(owner, "lb2")}, answers={ADDRESS: {THEIRS}})
    assert [finding.text for finding in vip.judge(seen, [ADDRESS])] == [
        f"lb2: could not take over: {NEWER}: run the role on all balancers"
    ]


def test_an_older_peer_that_refuses_a_question_is_named(
    owner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vip, "ask", lambda *_: {"format": 1, "refused": "lb1 speaks format 2 and this host 1"})
    vip.share(owner, Recorder())
    assert "cannot be forwarded to it: lb2: lb1 speaks format 2 and this host 1" in capsys.readouterr().err


def test_a_peer_that_cannot_tell_its_state_takes_nothing_over(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vip, "ask", lambda *_: {"refused": "ip: no such device"})
    assert vip.ask_state(fit, "lb2")["unfit"] == "ip: no such device"
    with pytest.raises(Problem, match=r"no balancer can take over \(lb2: ip: no such device\)"):
        vip.successors(fit)

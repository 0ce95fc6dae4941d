"""Three members: one is killed, cut off, replaced; certificates are renewed and refused; a store comes back."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _pki
from containers import attempt, on
from rerun import play as play_scenario

HOSTS = ["quorum1", "quorum2", "quorum3"]
UNIT = "webstack-quorum.service"
WRITER = (pathlib.Path(__file__).parent / "writer.py").read_text(encoding="utf-8")
CLIENT = """
import sys; sys.path.insert(0, "/usr/local/lib/webstack/current")
from webstack.quorum import config, gateway, store as module
from webstack.core.errors import Problem
store = module.connect()
"""


def ask(host: str, script: str) -> str:
    """Run a script with the client on a host, and return what it printed."""
    return on(host, "python3", "-", text=CLIENT + script).strip()


def status(host: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(attempt(host, "webstack", "quorum", "status", "--json").stdout)
    return found


def states(host: str) -> dict[str, str]:
    return {one["name"]: one["state"] for one in status(host)["members"]}


def leader() -> str:
    return next(name for name, state in states("quorum1").items() if state == "leads")


def until(condition: Callable[[], object], limit: float, what: str) -> None:
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            words = [on(host, "journalctl", "--no-pager", "-n", "30", "-u", "webstack-quorum*") for host in HOSTS]
            pytest.fail(f"not within {limit} s: {what}\n" + "\n".join(words))
        time.sleep(0.3)


def well() -> bool:
    return all(sorted(states(host).values()) == ["follows", "follows", "leads"] for host in HOSTS)


@pytest.fixture(autouse=True)
def all_is_well() -> None:
    until(well, 40, "three members that work")


def play(*options: str, **variables: Any) -> str:
    done = play_scenario("quorum", *options, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def writing(host: str) -> Iterator[dict[str, Any]]:
    """Write from a host meanwhile; what it says stands in the dictionary afterwards."""
    command = ["docker", "exec", "--interactive", host, "python3", "-", host]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(WRITER)
    process.stdin.close()
    assert process.stdout.readline() == "begun\n"
    said: dict[str, Any] = {}
    try:
        yield said
    finally:
        on(host, "touch", "/tmp/written")
    said.update(json.loads(process.stdout.read()))
    assert process.wait(10) == 0
    now = int(ask(host, "print(store.get('/lab/number').text)").split()[0])
    # What was acknowledged is there: the number only grows by one at a time.
    assert now == said["number"]


def test_members_run_under_our_unit_and_listen_on_their_own_address() -> None:
    for number, host in enumerate(HOSTS, 1):
        listening = on(host, "sh", "-c", "ss -Hltn 'sport >= 2379 and sport <= 2381' | awk '{print $4}'").split()
        assert sorted(listening) == [f"10.77.13.1{number}:2379", f"10.77.13.1{number}:2380", "127.0.0.1:2381"]
        assert attempt(host, "systemctl", "is-enabled", "etcd.service").stdout.strip() == "masked"
        assert not on(host, "find", "/var/lib/etcd", "-mindepth", "1")
        assert "etcd_server_has_leader 1" in on(host, "curl", "-s", "http://127.0.0.1:2381/metrics")
        assert on(host, "stat", "-c", "%U %a", "/etc/webstack/quorum/key.pem").strip() == "root 640"
        wrong = [one["what"] for one in status(host)["problems"]]
        assert wrong == []


def test_a_host_that_is_no_member_asks_and_is_told_so() -> None:
    assert ask("quorum-asker", "print(store.get('/lab/nothing').text)") == "None"
    found = status("quorum-asker")
    assert found["problems"] == []
    whole = json.loads(on("quorum-asker", "webstack", "status", "--json"))
    assert whole["tiers"]["quorum"].startswith("no member, 3 of 3 members work")
    done = attempt("quorum-asker", "webstack", "quorum", "snapshot")
    assert (done.returncode, "this host is no member" in done.stderr) == (1, True)
    assert on("quorum-asker", "stat", "-c", "%U %a", "/etc/webstack/quorum/key.pem").strip() == "root 600"
    assert attempt("quorum-asker", "which", "etcd").returncode != 0


def test_values_leases_and_waiting() -> None:
    script = """
import threading, time
key = "/lab/one"
seen = store.get(key)
first = store.swap(seen, "mine 1")
assert first.done and not store.swap(seen, "theirs 1").done
assert store.swap(first.now, None).done and store.get(key).text is None
lease = store.grant(1)
held = store.swap(store.get(key), "held", lease)
assert held.done and held.now.lease == lease and store.keep(lease) == 1
began = time.monotonic()
now = store.changed(held.now, 5)
print(f"{time.monotonic() - began:.2f}")
assert now.text is None, now
try:
    store.keep(lease)
except module.Gone:
    print("gone")
other = module.connect()
threading.Timer(0.5, lambda: other.swap(other.get(key), "woken")).start()
began = time.monotonic()
assert store.changed(store.get(key), 5).text == "woken"
print(f"{time.monotonic() - began:.2f}")
"""
    ended, gone, woken = ask("quorum2", script).split()
    assert gone == "gone"
    print(
        f"figure: a lease of 1 s ended {ended} s after its last renewal; a change woke its reader after {woken} s (0.5)"
    )
    assert 0.5 < float(ended) < 3
    assert float(woken) < 1.5


@pytest.mark.quiet
def test_the_leader_is_killed_and_writing_goes_on() -> None:
    victim = leader()
    with writing("quorum-asker") as said:
        time.sleep(1)
        on(victim, "systemctl", "kill", "--signal=KILL", UNIT)
        time.sleep(3)
    print(f"figure: leader killed: a writer paused for {said['longest'] * 1000:.0f} ms, with {said['unknown']} errors")
    assert said["unknown"] == 0
    assert said["longest"] < 3


def test_one_that_is_cut_off_says_so_and_the_others_go_on() -> None:
    victim = leader()
    others = [host for host in HOSTS if host != victim]
    on(victim, "ip", "link", "set", "eth0", "down")
    try:
        until(lambda: sorted(states(others[0]).values()) == ["away", "follows", "leads"], 15, "a new leader")
        script = """
try:
    print("VALUE", store.get("/lab/number"))
except module.Unknown as problem:
    print(problem)
"""
        said = ask(victim, script)
        assert said.startswith("no member of the quorum answers within 3 s: ")
        # Its own member answers nothing, since it would not be sure; the others are named, too.
        assert all(f"{name} (10.77.13.1" in said for name in HOSTS)
        with writing(others[0]) as wrote:
            time.sleep(1)
        assert wrote["unknown"] == 0
        done = attempt(victim, "webstack", "quorum", "status")
        assert done.returncode == 1
        assert "no member knows a leader" in done.stdout
        assert f"! {victim} (" in on_degraded(others[0])
    finally:
        on(victim, "ip", "link", "set", "eth0", "up")


def on_degraded(host: str) -> str:
    done = attempt(host, "webstack", "quorum", "status")
    assert done.returncode == 2
    return done.stdout


def certificate(host: str) -> str:
    return on(host, "sha256sum", "/etc/webstack/quorum/cert.pem").split()[0]


def pid(host: str) -> str:
    return on(host, "systemctl", "show", "--property=MainPID", "--value", UNIT).strip()


def served(host: str) -> str:
    """The digest of the certificate that a member shows at a new connection."""
    script = f"""
import hashlib, ssl
settings = config.load()
place = settings.endpoint({host!r})
link = gateway.Gateway([place], settings.tls)._open(place, 2)
print(hashlib.sha256(ssl.DER_cert_to_PEM_cert(link.sock.getpeercert(True)).encode()).hexdigest())
"""
    return ask("quorum1", script)


def pki() -> pathlib.Path:
    folder = os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY")
    return pathlib.Path(folder) / "pki" if folder else pathlib.Path()


def test_a_member_that_lost_its_data_joins_anew_with_a_new_certificate() -> None:
    """One run for what happens to a host that is installed anew."""
    victim = "quorum2"
    before = {one["name"]: one["id"] for one in status("quorum1")["members"]}
    running = {host: pid(host) for host in HOSTS}
    ask("quorum1", "assert store.swap(store.get('/lab/kept'), 'kept').done")
    for name in ("crt", "key"):
        (pki() / f"quorum3-quorum.{name}").unlink()
    old = certificate("quorum3")
    on(victim, "systemctl", "stop", UNIT)
    on(victim, "sh", "-c", "rm -rf /var/lib/webstack/quorum/data/* /etc/webstack/quorum* /run/webstack/quorum")
    play()
    now = {one["name"]: one["id"] for one in status("quorum1")["members"]}
    assert {name for name in HOSTS if now[name] != before[name]} == {victim}
    assert ask(victim, "print(store.get('/lab/kept').text)") == "kept"
    # The certificate is another one, the member runs on, and new connections get it.
    assert certificate("quorum3") != old
    assert served("quorum3") == certificate("quorum3")
    assert {host for host in HOSTS if pid(host) != running[host]} == {victim}


def test_without_data_a_member_does_not_start() -> None:
    on("quorum3", "systemctl", "stop", UNIT)
    on("quorum3", "mv", "/var/lib/webstack/quorum/data/member", "/var/lib/webstack/quorum/data/hidden")
    try:
        on("quorum3", "systemctl", "start", "--no-block", UNIT)
        time.sleep(3)
        assert "has no data, so this member does not start" in on("quorum3", "journalctl", "-n", "20", "-u", UNIT)
        assert "no_data" in [one["what"] for one in status("quorum3")["problems"]]
        assert states("quorum1")["quorum3"] == "away"
    finally:
        on("quorum3", "mv", "/var/lib/webstack/quorum/data/hidden", "/var/lib/webstack/quorum/data/member")


def test_only_certificates_of_the_authority_are_let_in_and_only_members_are_members() -> None:
    authority = _pki.load((pki() / "ca.crt").read_bytes(), (pki() / "ca.key").read_bytes(), "ca.crt", "ca.key")
    now = datetime.datetime.now(datetime.UTC)
    names = _pki.alternative_names(["quorum1"], ["10.77.13.11"])
    ours = _pki.issue(authority, "quorum1", names, 30, now)
    theirs = _pki.issue(_pki.issue_ca(now), "quorum1", names, 30, now)
    for pair, accepted in ((ours, True), (theirs, False)):
        on("quorum1", "sh", "-c", "cat > /tmp/cert.pem", text=pair.certificate_pem)
        on("quorum1", "sh", "-c", "cat > /tmp/key.pem", text=pair.key_pem)
        script = """
settings = config.load()
tls = gateway.Tls(settings.tls.ca, "/tmp/cert.pem", "/tmp/key.pem")
try:
    gateway.Gateway(settings.endpoints, tls, 2).call("kv/range", {"key": "YQ=="})
    print("answered")
except module.Unknown as problem:
    print(problem)
"""
        said = ask("quorum1", script)
        assert (said == "answered") == accepted, said
        if not accepted:
            assert "does not accept our certificate /tmp/cert.pem" in said or "Broken pipe" in said, said
            continue
        # The site's other certificates make no member: with a member's own the same question is answered.
        for folder, known in (("/etc/webstack/quorum", True), ("/tmp", False)):
            options = ["--cacert", "/etc/webstack/quorum/ca.pem", "--cert", f"{folder}/cert.pem"]
            options += ["--key", f"{folder}/key.pem", "https://10.77.13.11:2380/members"]
            done = attempt("quorum1", "curl", "-sS", "--http1.1", "-m", "5", *options)
            assert ("peerURLs" in done.stdout, done.returncode == 0) == (known, known), done.stdout + done.stderr


@pytest.mark.quiet
def test_new_settings_go_from_member_to_member_while_somebody_writes() -> None:
    with writing("quorum1") as said:
        play(quorum_history_hours=2)
    print(f"figure: settings changed: the longest pause of a writer {said['longest'] * 1000:.0f} ms")
    assert said["unknown"] == 0
    assert said["longest"] < 3
    for host in HOSTS:
        assert status(host)["problems"] == []
    play()


def test_a_store_comes_back_from_a_snapshot_as_another_store() -> None:
    ask("quorum1", "store.swap(store.get('/lab/saved'), 'saved')")
    old = status("quorum1")["members"][0]["store"]
    on("quorum1", "systemctl", "start", "webstack-quorum-tidy.service")
    for host in ("quorum1", "quorum-asker"):
        on(host, "webstack", "status", "--metrics", "quorum")
        told = on(host, "cat", "/var/lib/prometheus/node-exporter/webstack_status_quorum.prom")
        assert 'webstack_problems{tier="quorum"} 0' in told
        assert 'webstack_quorum_member_up{member="quorum3"} 1' in told
    on("quorum1", "webstack", "quorum", "snapshot")
    newest = on("quorum1", "sh", "-c", "ls /var/lib/webstack/quorum/snapshots/*.db | tail -n 1").strip()
    refused = attempt("quorum1", "webstack", "quorum", "restore", newest)
    assert refused.returncode == 1
    assert "the quorum works (quorum1, quorum2, quorum3)" in refused.stderr
    for host in HOSTS:
        on(host, "systemctl", "stop", UNIT)
    on("quorum1", "webstack", "quorum", "restore", newest)
    until(lambda: states("quorum1")["quorum1"] == "leads", 20, "a store of one")
    # And once more without a snapshot, with what the member itself has.
    ask("quorum1", "assert store.swap(store.get('/lab/later'), 'later').done")
    on("quorum1", "systemctl", "stop", UNIT)
    on("quorum1", "webstack", "quorum", "restore", "/var/lib/webstack/quorum/data/member/snap/db")
    until(lambda: states("quorum1")["quorum1"] == "leads", 20, "another store of one")
    play(quorum_discard_data=True)
    until(well, 40, "three members of the new store")
    for host in HOSTS:
        assert ask(host, "print(*(store.get(f'/lab/{name}').text for name in ('saved', 'later')))") == "saved later"
    new = {one["store"] for one in status("quorum2")["members"]}
    assert len(new) == 1
    assert old not in new
    # Whoever knows the old one is not answered by the new one.
    script = f"""
try:
    module.connect(1, cluster={old!r}).get("/lab/saved")
except module.Unknown as problem:
    print(problem)
"""
    assert f"belongs to another store ({new.pop()}, not {old})" in ask("quorum2", script)


def test_a_second_run_changes_nothing_in_check_mode_and_without() -> None:
    for options in (["--check", "--diff"], []):
        said = play(*options)
        assert said.count("changed=0") == 4
        # One question answers for all that could be left to do.
        assert "See that this member works" not in said

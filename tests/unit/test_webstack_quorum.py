"""The members of the quorum: how one begins, what it never does, and what status finds."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack import cli
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.quorum import summary
from documents import document
from host_programs import Tier

tool = Tier("quorum")
PEERS = {f"q{number}": f"https://192.0.2.{number}:2380" for number in (1, 2, 3)}
MEMBERS = [{"name": name, "address": url[8:-5], "port": 2379} for name, url in PEERS.items()]
ENDPOINTS = {one["name"]: tool.Endpoint(one["name"], one["address"], one["port"]) for one in MEMBERS}


def listed(name: str, started: bool = True, url: str = "") -> Any:
    place = url or PEERS[name]
    return tool.Listed(f"id-{name}", name, place, place.replace("2380", "2379") if started else "")


ALL = [listed(name) for name in PEERS]


def heard(name: str, leader: str = "id-q1", entries: Sequence[Any] = ALL, **more: Any) -> Any:
    return tool.Heard(ENDPOINTS[name], id=f"id-{name}", cluster="c", leader=leader, listed=entries, **more)


def away(name: str) -> Any:
    return tool.Heard(ENDPOINTS[name], "cannot be reached: Connection refused")


# --- how a host without data begins -------------------------------------------------------------------------


def test_a_new_store_is_formed_when_every_member_said_that_it_has_no_data() -> None:
    assert tool.plan("q1", PEERS, [away("q2"), away("q3")], ["q1", "q2", "q3"]) == tool.Plan("new")


@pytest.mark.parametrize("empty", [[], ["q1"], ["q1", "q2"]])
def test_who_was_not_asked_may_have_data_and_nothing_is_formed(empty: list[str]) -> None:
    missing = ", ".join(name for name in ("q2", "q3") if name not in empty)
    with pytest.raises(Problem, match=f"nobody answers for the quorum, and {missing} may have data"):
        tool.plan("q1", PEERS, [away("q2"), away("q3")], empty)


@pytest.mark.parametrize("empty", [[], ["q1", "q2", "q3"]])
def test_a_store_without_a_leader_is_never_formed_over(empty: list[str]) -> None:
    with pytest.raises(Problem, match=r"the quorum has no leader: too few members run\. With data: q2"):
        tool.plan("q1", PEERS, [heard("q2", leader="0"), away("q3")], empty)


@pytest.mark.parametrize("empty", [[], ["q1"], ["q1", "q2", "q3"]])
def test_a_host_that_lost_its_data_is_somebody_new(empty: list[str]) -> None:
    """Whatever this run was told: who works is joined."""
    found = tool.plan("q1", PEERS, [heard("q2"), away("q3")], empty)
    assert found == tool.Plan("existing", (listed("q1"),), add=True)


def test_one_that_was_added_and_never_started_is_not_added_again() -> None:
    entries = [listed("q1", started=False), listed("q2"), listed("q3")]
    assert tool.plan("q1", PEERS, [heard("q2", entries=entries)], []) == tool.Plan("existing")


def test_a_host_of_another_name_takes_the_place_of_a_dead_one() -> None:
    old = listed("old", url="https://192.0.2.9:2380")
    seen = [heard("q2", entries=[old, listed("q2"), listed("q3")])]
    assert tool.plan("q1", PEERS, seen, []) == tool.Plan("existing", (old,), add=True)


def test_a_living_member_that_the_inventory_does_not_name_is_not_thrown_out() -> None:
    old = listed("old", url="https://192.0.2.9:2380")
    with pytest.raises(Problem, match="old is a member that quorum_members does not name, and it answers"):
        tool.plan("q1", PEERS, [heard("q2", entries=[old, *ALL[1:]])], [], [old.peer_url])


def test_two_stores_are_not_chosen_between() -> None:
    other = tool.Heard(ENDPOINTS["q3"], id="x", cluster="d", leader="x", listed=ALL)
    with pytest.raises(Problem, match="there is more than one store: q2, q3 do not belong together"):
        tool.plan("q1", PEERS, [heard("q2"), other], [])


def test_etcd_is_told_the_members_with_our_names() -> None:
    assert tool.cluster("q1", PEERS) == ",".join(f"{name}={url}" for name, url in PEERS.items())
    entries = [tool.Listed("7", "", PEERS["q1"], ""), listed("q2"), tool.Listed("8", "", "https://192.0.2.9:2380", "")]
    said = f"q1={PEERS['q1']},q2={PEERS['q2']},unnamed-8=https://192.0.2.9:2380"
    assert tool.cluster("q1", PEERS, entries) == said
    with pytest.raises(Problem, match="q3 is not in the list"):
        tool.cluster("q3", PEERS, entries)


OLD, NEW = "etcd Version: 3.4.23\nGit SHA: x\n", "etcd Version: 3.5.16\n"


@pytest.mark.parametrize(
    ("own", "theirs"), [(OLD, "3.4.23"), (NEW, "3.4.23"), (NEW, "3.5.16"), (OLD, ""), ("?", "3.5.1")]
)
def test_an_etcd_that_is_no_older_than_all_others_may_join(own: str, theirs: str) -> None:
    tool.fits("q1", own, [heard("q2", version=theirs), heard("q3", version="3.5.16" if theirs else "")])


def test_one_that_is_older_than_all_others_is_refused() -> None:
    words = r"q1 has etcd 3\.4\.23 and the members that work \(q2, q3\) have 3\.5\.16.*Debian 13"
    with pytest.raises(Problem, match=words):
        tool.fits("q1", OLD, [heard("q2", version="3.5.16"), heard("q3", version="3.10.1")])


# --- the host -----------------------------------------------------------------------------------------------


class Host:
    """A member's files, and a systemd that only writes down what it is told."""

    def __init__(self, folder: pathlib.Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.told = folder, []  # type: tuple[pathlib.Path, list[tuple[str, ...]]]
        self.active = False
        self.seen: dict[str, Any] = {name: away(name) for name in PEERS}
        self.file = folder / "quorum.env"
        self.file.write_text("ETCD_NAME=q1\n")
        (folder / "data").mkdir()
        self.write()
        patch.setattr(tool, "CONFIG", folder / "quorum.json")
        patch.setattr(tool, "RUN", folder / "run")
        patch.setattr(tool.systemd, "tell", lambda *words, **_: self.told.append(words))
        patch.setattr(tool.systemd, "is_active", lambda _unit: self.active)
        patch.setattr(tool, "hear", lambda _settings, endpoint, *_: self.seen.get(endpoint.name, away("q1")))
        patch.setattr(tool, "SECONDS", 0.2)
        self.version, self.words = NEW, ""
        patch.setattr(tool, "run", self.run)
        from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock

        patch.setattr(lock, "FOLDER", folder)

    def write(self, member: bool = True, **more: Any) -> None:
        own = {
            "name": "q1",
            "data": str(self.folder / "data"),
            "snapshots": str(self.folder / "snapshots"),
            "snapshot_hours": 24,
            "snapshot_keep": 2,
            "quota_bytes": 1000,
            "files": [str(self.file)],
            **more,
        }
        tls = {name: str(self.folder / name) for name in ("ca", "certificate", "key")}
        settings = {"members": MEMBERS, "peer_port": 2380, "tls": tls, "answer_seconds": 1}
        if member:
            settings["member"] = own
        (self.folder / "quorum.json").write_text(json.dumps(settings))

    def run(self, program: str, *_words: str, **_more: Any) -> Any:
        return type("Done", (), {"out": self.version if program == "etcd" else self.words})()

    @property
    def settings(self) -> Any:
        return tool.load()

    def data(self) -> None:
        wal = self.folder / "data/member/wal"
        wal.mkdir(parents=True)
        (wal / "0.wal").write_text("promises")

    def runs(self) -> None:
        """As it does after a good start."""
        self.data()
        tool.guard(self.settings)
        self.active = True
        self.seen["q1"] = heard("q1")


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_a_member_without_data_does_not_start(host: Host) -> None:
    with pytest.raises(Problem, match=r"/data has no data, so this member does not start.*run the role quorum"):
        tool.guard(host.settings)
    (host.folder / "data/member/wal").mkdir(parents=True)
    with pytest.raises(Problem, match="has no data"):
        tool.guard(host.settings)
    assert not (host.folder / "run/started").exists()


def test_one_with_data_starts_and_its_files_are_remembered(host: Host) -> None:
    host.data()
    tool.guard(host.settings)
    assert not tool.outdated(host.settings.member)
    host.file.write_text("ETCD_NAME=other\n")
    assert tool.outdated(host.settings.member)


def test_one_that_joins_may_start_without(host: Host) -> None:
    tool.allow("q1=x", "existing", "t")
    tool.guard(host.settings)


def test_a_host_that_is_no_member_is_told_who_is(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.write(member=False)
    for words in (["guard"], ["look"], ["snapshot"], ["tidy"], ["settle"], ["restore", "/x"]):
        assert cli.main(["quorum", *words]) == 1
        assert "this host is no member of the quorum: q1, q2, q3 are" in capsys.readouterr().err


def test_a_name_that_is_no_member_is_refused(host: Host) -> None:
    host.write(name="q9")
    with pytest.raises(Problem, match=r"quorum\.json.*q9 is not among the members: run the role quorum again"):
        assert host.settings


def test_the_role_is_told_what_this_member_has(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quorum", "look"]) == 0
    first = document(capsys.readouterr().out)
    assert (first["name"], first["data"], first["formed"]) == ("q1", False, False)
    tool.allow("q1=x", "new", "webstack-7")
    host.data()
    cli.main(["quorum", "look"])
    said = document(capsys.readouterr().out)
    assert (said["name"], said["data"], said["token"], said["formed"]) == ("q1", True, "webstack-7", True)
    assert said["changed"] is False


def test_what_runs_with_its_newest_files_is_left_alone(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.runs()
    assert cli.main(["quorum", "settle"]) == 0
    said = document(capsys.readouterr().out)
    assert (said["changed"], said["done"]) == (False, [])
    assert host.told == []
    host.active = False
    assert cli.main(["quorum", "settle"]) == 0
    said = document(capsys.readouterr().out)
    assert (said["changed"], said["done"]) == (True, ["started"])


def test_new_files_mean_a_restart_when_the_others_fill_its_place(host: Host) -> None:
    host.runs()
    host.seen |= {"q2": heard("q2"), "q3": heard("q3")}
    host.file.write_text("new\n")
    assert tool.settle(host.settings, [], "") == ["restarted with its new settings"]
    assert ("--no-block", "restart", "webstack-quorum.service") in host.told


def test_and_none_when_that_would_end_the_quorum(host: Host) -> None:
    host.runs()
    host.seen["q2"] = heard("q2")
    host.file.write_text("new\n")
    with pytest.raises(Problem, match=r"its restart would end the quorum: q3 \(192\.0\.2\.3:2379\) cannot be reached"):
        tool.settle(host.settings, [], "")
    assert host.told == []


def test_one_that_works_with_nobody_may_be_restarted(host: Host) -> None:
    """New certificates for all of them, say: nothing is lost that is there."""
    host.runs()
    host.seen["q1"] = heard("q1", leader="0")
    host.file.write_text("new\n")
    assert tool.settle(host.settings, [], "") == ["restarted with its new settings"]


def test_a_member_that_stands_still_is_started(host: Host) -> None:
    host.data()
    assert tool.settle(host.settings, [], "") == ["started"]


def test_once_it_works_nothing_allows_it_to_begin_again(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    tool.allow("q1=x", "new", "t")
    assert cli.main(["quorum", "ready"]) == 1
    assert "q1 does not work after" in capsys.readouterr().err
    assert (host.folder / "run/start.env").exists()
    host.runs()
    assert cli.main(["quorum", "ready"]) == 0
    assert not (host.folder / "run/start.env").exists()


def test_one_question_says_whether_anything_is_left_to_do(host: Host) -> None:
    words = ["quorum", "look", "--settled"]
    assert cli.main(words) == 2
    host.runs()
    assert cli.main(words) == 0
    host.seen["q1"] = heard("q1", leader="0")
    assert cli.main(words) == 2
    host.seen["q1"] = heard("q1")
    tool.allow("q1=x", "new", "t")
    assert cli.main(words) == 2
    tool.permit().unlink()
    host.file.write_text("new\n")
    assert cli.main(words) == 2


def test_a_first_run_forms_with_the_token_of_all(host: Host) -> None:
    assert tool.settle(host.settings, ["q1", "q2", "q3"], "webstack-7") == ["formed a new store with the others"]
    assert (host.folder / "run/start.env").read_text().splitlines() == [
        f"ETCD_INITIAL_CLUSTER={','.join(f'{name}={url}' for name, url in PEERS.items())}",
        "ETCD_INITIAL_CLUSTER_STATE=new",
        "ETCD_INITIAL_CLUSTER_TOKEN=webstack-7",
    ]
    with pytest.raises(Problem, match="needs --token"):
        tool.settle(host.settings, ["q1", "q2", "q3"], "")


def test_a_run_of_one_host_forms_nothing_and_touches_nothing(host: Host) -> None:
    with pytest.raises(Problem, match="q2, q3 may have data"):
        tool.settle(host.settings, ["q1"], "webstack-7")
    assert host.told == []
    assert not (host.folder / "run/start.env").exists()


class Cluster:
    """The list of members that the others keep."""

    def __init__(self, *refusals: Any) -> None:
        self.refusals = list(refusals)
        self.added = False
        self.asked: list[tuple[str, Any]] = []

    def __call__(self, endpoints: Any, *_more: Any) -> Cluster:
        self.endpoints = [one.name for one in endpoints]
        return self

    def call(self, path: str, body: Any, _seconds: float = 0) -> Any:
        entries = [{"ID": "2", "name": "q2", "peerURLs": [PEERS["q2"]]}]
        if path == "cluster/member/list":
            entries += [{"ID": "9", "peerURLs": [PEERS["q1"]]}] if self.added else []
            return tool.Answer({"members": entries}, ENDPOINTS["q2"])
        self.asked.append((path, body))
        # What comes from a fake that was lost took effect all the same.
        no = self.refusals.pop(0) if self.refusals else None
        self.added |= path.endswith("add") and (no is None or isinstance(no, tool.Unknown))
        if no:
            raise no
        return tool.Answer({"members": entries}, ENDPOINTS["q2"])

    def close(self) -> None:
        pass


def join(host: Host, patch: pytest.MonkeyPatch, *refusals: Any) -> tuple[Cluster, list[str]]:
    others = Cluster(*refusals)
    patch.setattr(tool, "Gateway", others)
    host.seen["q2"] = heard("q2")

    def tell(*words: str, **_more: Any) -> None:
        host.told.append(words)
        if "start" in words:
            assert "ETCD_INITIAL_CLUSTER_STATE=existing" in (host.folder / "run/start.env").read_text()
            host.seen["q1"] = heard("q1")

    patch.setattr(tool.systemd, "tell", tell)
    return others, tool.settle(host.settings, ["q1"], "")


def test_a_fresh_host_joins_through_those_that_work(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    others, done = join(host, monkeypatch)
    assert others.endpoints == ["q2"]
    assert others.asked == [
        ("cluster/member/remove", {"ID": "id-q1"}),
        ("cluster/member/add", {"peerURLs": [PEERS["q1"]]}),
    ]
    assert done == ["took the lost member q1 out of the list", "joined the others"]
    # What allows a start without data is there for this one start.
    assert not (host.folder / "run/start.env").exists()


def test_an_old_etcd_is_refused_before_the_list_changes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    others = Cluster()
    monkeypatch.setattr(tool, "Gateway", others)
    host.version = OLD
    host.seen["q2"] = heard("q2", version="3.5.16")
    with pytest.raises(Problem, match=r"q1 has etcd 3\.4\.23"):
        tool.settle(host.settings, ["q1"], "")
    assert (others.asked, host.told) == ([], [])


def test_a_question_that_was_asked_twice_is_no_failure(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tool.Refused("q2 refuses: etcdserver: member not found", 5)
    there = tool.Unknown("q2 says: etcdserver: re-configuration failed due to not enough started members")
    assert join(host, monkeypatch, gone, there)[1][-1] == "joined the others"


@pytest.mark.parametrize("number", [0, 1], ids=["remove", "add"])
def test_a_list_that_refuses_leaves_this_host_as_it_was(
    host: Host, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    no = tool.Refused("q2 refuses: etcdserver: re-configuration failed", 9)
    with pytest.raises(tool.Refused):
        join(host, monkeypatch, *([None] * number), no)
    assert host.told == []


def test_one_that_does_not_come_up_says_why(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.data()
    host.seen["q2"] = heard("q2")
    host.words = "the member has been permanently removed from the cluster\n"
    with pytest.raises(Problem, match=r"q1 does not work.*replaced while it was away.*quorum_discard_data=true"):
        tool.settle(host.settings, [], "")


def test_of_its_journal_only_what_says_something_is_shown(host: Host) -> None:
    noise = [f"recognized and used environment variable ETCD_{number}=x" for number in range(9)]
    fatal = {"level": "fatal", "msg": "discovery failed", "error": "incompatible", "stacktrace": "go.etcd.io/etcd"}
    host.words = "\n".join(["first", json.dumps(fatal), '{"level":', *noise, "last"])
    with pytest.raises(Problem) as caught:
        tool.ready(host.settings)
    assert str(caught.value).splitlines()[1:] == ["first", "fatal: discovery failed: incompatible", '{"level":', "last"]


def test_data_are_moved_aside_only_when_told_and_never_of_one_that_works(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.runs()
    assert tool.settle(host.settings, [], "", discard=True) == []
    assert host.settings.member.has_data()
    host.seen["q1"] = away("q1")
    with pytest.raises(Problem, match="q1 keeps its data: no other member works"):
        tool.settle(host.settings, [], "", discard=True)
    assert host.settings.member.has_data()
    host.seen["q2"] = heard("q2")
    monkeypatch.setattr(tool, "Gateway", Cluster())
    monkeypatch.setattr(tool, "ready", lambda *_: None)
    done = tool.settle(host.settings, [], "", discard=True)
    (aside,) = (host.folder / "data").glob("aside-*")
    assert (aside / "wal/0.wal").read_text() == "promises"
    assert done == [f"moved its old data to {aside}", "took the lost member q1 out of the list", "joined the others"]


# --- snapshots ----------------------------------------------------------------------------------------------


def whole(content: bytes = b"database" * 100) -> bytes:
    return content + hashlib.sha256(content).digest()


def streaming(content: bytes) -> Callable[..., Any]:
    parts = [content[at : at + 500] for at in range(0, len(content), 500)]
    lines = [{"result": {"blob": base64.b64encode(part).decode()}} for part in parts]
    return lambda *_words: type("Stream", (), {"stream": lambda *_more: iter(lines)})()


def test_a_snapshot_is_whole_and_only_the_newest_are_kept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "Gateway", streaming(whole()))
    times = iter(["20260101T000001", "20260101T000002", "20260101T000003"])
    monkeypatch.setattr(tool.time, "strftime", lambda _form: next(times))
    for _ in range(3):
        place = tool.take(host.settings)
    assert place.read_bytes() == whole()
    assert oct(place.stat().st_mode & 0o777) == "0o600"
    kept = sorted(path.name for path in (host.folder / "snapshots").iterdir())
    assert kept == ["quorum-20260101T000002.db", "quorum-20260101T000003.db"]


def test_a_member_that_waits_for_the_others_says_what_to_do(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "Gateway", streaming(b""))
    with pytest.raises(Problem, match=r"q1 gives no snapshot: .*webstack quorum restore .*/data/member/snap/db"):
        tool.take(host.settings)
    assert not (host.folder / "snapshots").exists()


@pytest.mark.parametrize("content", [whole()[:-1], whole()[500:], b"x" * 32])
def test_half_a_snapshot_is_none(host: Host, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(tool, "Gateway", streaming(content))
    with pytest.raises(Problem, match="the snapshot of q1 is not complete"):
        tool.take(host.settings)
    assert not (host.folder / "snapshots").exists()


def test_a_restore_is_refused_while_anybody_works(host: Host) -> None:
    (host.folder / "copy.db").write_bytes(whole())
    host.seen["q3"] = heard("q3")
    with pytest.raises(Problem, match=r"the quorum works \(q3\): a restore would throw away what it holds"):
        tool.restore(host.settings, host.folder / "copy.db")
    assert host.told == []


def test_a_member_that_is_left_begins_again_with_its_own_data(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.data()
    own = host.folder / "data/member/snap/db"
    own.parent.mkdir()
    own.write_bytes(b"no checksum")
    host.active = True
    with pytest.raises(Problem, match=r"/snap/db is in use: stop the member first"):
        tool.restore(host.settings, own)
    host.active = False
    given: list[tuple[str, ...]] = []

    def run(*words: str, **_more: Any) -> Any:
        given.append(words)
        if words[0] == "etcdctl":
            (pathlib.Path(words[words.index("--data-dir") + 1]) / "member").mkdir(parents=True)

    monkeypatch.setattr(tool, "run", run)
    assert "a new store was begun" in tool.restore(host.settings, own)
    assert (given[0][:4], given[0][-1]) == (("etcdctl", "snapshot", "restore", str(own)), "--skip-hash-check")
    (aside,) = (host.folder / "data").glob("aside-*")
    assert (aside / "snap/db").read_bytes() == b"no checksum"
    assert host.told == [
        ("stop", "webstack-quorum.service"),
        ("stop", "webstack-quorum.service"),
        ("enable", "webstack-quorum.service"),
        ("--no-block", "start", "webstack-quorum.service"),
    ]


def test_a_restore_of_what_is_no_snapshot_is_refused(host: Host) -> None:
    with pytest.raises(Problem, match=r"none\.db cannot be read: No such file"):
        tool.restore(host.settings, host.folder / "none.db")
    (host.folder / "copy.db").write_bytes(b"something else")
    with pytest.raises(Problem, match=r"copy\.db is not complete"):
        tool.restore(host.settings, host.folder / "copy.db")
    assert host.told == []


def test_a_snapshot_is_due_when_there_is_none_or_an_old_one(host: Host) -> None:
    assert tool.due(host.settings)
    (host.folder / "snapshots").mkdir()
    copy = host.folder / "snapshots/quorum-20260101T000001.db"
    copy.write_bytes(b"")
    assert not tool.due(host.settings)
    os.utime(copy, (time.time() - 90000,) * 2)
    assert tool.due(host.settings)
    host.write(snapshot_hours=0)
    assert not tool.due(host.settings)


# --- status -------------------------------------------------------------------------------------------------


def wrong(host: Host, *seen: Any) -> dict[str, str]:
    tool.certificate_ends = lambda _path: ""
    try:
        return {finding.what: finding.text for finding in tool.summary_of(host.settings, seen).findings}
    finally:
        del tool.certificate_ends


EVERYBODY = [heard(name) for name in PEERS]


def test_a_quorum_that_works_has_nothing_wrong(host: Host) -> None:
    host.runs()
    assert wrong(host, *EVERYBODY) == {}
    assert tool.summary_of(host.settings, EVERYBODY).line == "q1, 3 of 3 members work, q1 leads"


@pytest.mark.parametrize(
    ("seen", "what", "text"),
    [
        (
            [heard("q1"), heard("q2"), away("q3")],
            "member_away",
            "q3 (192.0.2.3:2379) does not answer: cannot be reached",
        ),
        ([heard("q1"), heard("q2"), heard("q3", leader="0")], "member_alone", "q3 (192.0.2.3:2379) knows no leader"),
        ([heard("q1", leader="0"), away("q2"), away("q3")], "no_quorum", "no member knows a leader"),
        ([*EVERYBODY[:2], heard("q3", alarms=["alarm:NOSPACE"])], "alarm", "q3 (192.0.2.3:2379): alarm:NOSPACE"),
        ([heard(name, entries=ALL[:2]) for name in PEERS], "not_listed", "q3 is not in the list of members"),
        (
            [heard(name, entries=[*ALL, listed("old", url="https://192.0.2.9:2380")]) for name in PEERS],
            "stranger",
            "old is a member that the inventory does not name: stop it there",
        ),
        (
            [*EVERYBODY[:2], tool.Heard(ENDPOINTS["q3"], id="x", cluster="d", leader="x", listed=ALL)],
            "two_stores",
            "members belong to different stores: q1 c, q2 c, q3 d",
        ),
        ([heard("q1", used=900), *EVERYBODY[1:]], "space", "900 bytes of 1000 bytes are used"),
    ],
)
def test_what_is_wrong_is_said(host: Host, seen: Any, what: str, text: str) -> None:
    host.runs()
    assert wrong(host, *seen)[what].startswith(text)


def test_data_that_are_gone_are_said_where_they_were(host: Host) -> None:
    said = wrong(host, away("q1"), *EVERYBODY[1:])
    assert "data has no data, so the member of this host does not start" in said["no_data"]
    host.data()
    assert "no_data" not in wrong(host, away("q1"), *EVERYBODY[1:])


def test_the_size_of_one_that_does_not_answer_is_not_known(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["quorum", "status"])
    assert "bytes" not in capsys.readouterr().out


def test_files_that_wait_for_a_restart_are_said(host: Host) -> None:
    host.runs()
    host.file.write_text("new")
    assert "run the role quorum" in wrong(host, *EVERYBODY)["restart_due"]


def test_old_snapshots_are_said(host: Host) -> None:
    host.runs()
    (host.folder / "snapshots").mkdir()
    copy = host.folder / "snapshots/quorum-20260101T000001.db"
    copy.write_bytes(b"")
    os.utime(copy, (time.time() - 3 * 86400,) * 2)
    assert "the newest snapshot is 3 d old" in wrong(host, *EVERYBODY)["snapshot"]


def test_a_certificate_that_cannot_be_read_is_said(host: Host) -> None:
    assert "holds no certificate: run the role quorum" in tool.certificate_ends(str(host.folder / "certificate"))


def test_an_answer_that_is_none_is_not_read_as_a_member(host: Host) -> None:
    for status, entries in (({}, {"members": [{}]}), ({"header": {"cluster_id": "1"}}, {})):
        assert tool.heard(ENDPOINTS["q1"], status, entries).problem == "answers in a way that is not known"


def test_status_is_for_machines_too(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.runs()
    host.seen |= {name: heard(name) for name in ("q2", "q3")}
    (host.folder / "certificate").write_text("")
    assert cli.main(["quorum", "status", "--json"]) == 2
    said = document(capsys.readouterr().out)
    assert [one["state"] for one in said["members"]] == ["leads", "follows", "follows"]
    assert [one["what"] for one in said["problems"]] == ["certificate"]
    host.seen = {name: away(name) for name in PEERS}
    assert cli.main(["quorum", "status"]) == 1
    assert "! q2 (192.0.2.2:2379) does not answer" in capsys.readouterr().out


def test_metrics_say_who_works(host: Host) -> None:
    (host.folder / "snapshots").mkdir()
    (host.folder / "snapshots/quorum-20260101T000001.db").write_bytes(b"")
    os.utime(host.folder / "snapshots/quorum-20260101T000001.db", (7, 7))
    host.seen["q1"] = heard("q1", size=20, used=10)
    text = summary.own_metrics()
    assert 'webstack_quorum_member_up{member="q1"} 1' in text
    assert 'webstack_quorum_member_up{member="q2"} 0' in text
    assert 'webstack_quorum_member_leads{member="q1"} 1' in text
    assert 'webstack_quorum_bytes_used{member="q1"} 10' in text
    assert 'bytes{member="q2"}' not in text, "of one that does not answer nothing is known"
    assert "webstack_quorum_snapshot_timestamp_seconds 7" in text
    host.write(member=False)
    assert 'webstack_quorum_member_up{member="q1"} 1' in summary.own_metrics()
    (host.folder / "quorum.json").write_text("{")
    assert summary.own_metrics() == ""


# --- free space ---------------------------------------------------------------------------------------------


def test_only_a_half_empty_file_of_some_size_is_defragmented() -> None:
    large = tool.LEAST
    assert tool.wasteful(heard("q1", size=large, used=large // 2 - 1))
    assert not tool.wasteful(heard("q1", size=large, used=large // 2))
    assert not tool.wasteful(heard("q1", size=large - 1, used=0))


def test_nothing_is_defragmented_while_a_member_is_away(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.write(snapshot_hours=0)
    waste = {"size": tool.LEAST, "used": 1}
    monkeypatch.setattr(tool, "defragment", lambda _settings: ["done"])
    host.seen |= {"q1": heard("q1", **waste), "q2": heard("q2")}
    assert tool.tidy(host.settings) == []
    host.seen["q3"] = heard("q3")
    assert tool.tidy(host.settings) == ["done"]


def test_a_snapshot_that_fails_keeps_nothing_else_from_being_done(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.seen = {name: heard(name, size=tool.LEAST, used=1) for name in PEERS}
    monkeypatch.setattr(tool, "Gateway", streaming(b""))
    given_back: list[str] = []
    monkeypatch.setattr(tool, "defragment", lambda settings: given_back.append(settings.member.name) or [])
    with pytest.raises(Problem, match="gives no snapshot"):
        tool.tidy(host.settings)
    assert given_back == ["q1"]

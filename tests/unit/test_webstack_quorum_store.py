"""The client of the quorum: what it asks, what it takes for an answer, and what it never takes for one."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import pathlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _pki
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from host_programs import Tier

tool = Tier("quorum")
KEY = "/db/state"
HEADER = {"cluster_id": "14841639068965178418", "member_id": "77", "revision": "9", "raft_term": "2"}
Reply = tuple[int, Any]


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def entry(text: str, revision: int = 5, lease: int = 0) -> dict[str, Any]:
    """A value as etcd shows it: numbers are texts, and what is zero is left out."""
    shown = {"key": coded(KEY), "value": coded(text), "mod_revision": str(revision), "create_revision": "2"}
    return {**shown, **({"lease": str(lease)} if lease else {})}


@dataclasses.dataclass
class Fake:
    """One member's gateway. What it answers is a list of replies, or a function; the last reply stays."""

    port: int
    replies: list[Any]
    asked: list[tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=list)
    links: int = 0

    def reply(self, path: str, body: dict[str, Any]) -> Any:
        self.asked.append((path, body))
        said = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return said(path, body) if callable(said) else said


class Authority:
    """Certificates as the project's own authority issues them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.now = folder, _pki.now()
        self.ca = _pki.issue_ca(self.now)
        folder.mkdir(exist_ok=True)
        (folder / "ca.pem").write_text(self.ca.certificate_pem)

    def tls(self, name: str) -> Any:
        pair = _pki.issue(self.ca, name, _pki.alternative_names([name], ["127.0.0.1"]), 30, self.now)
        (self.folder / f"{name}.crt").write_text(pair.certificate_pem)
        (self.folder / f"{name}.key").write_text(pair.key_pem)
        return tool.Tls(*(str(self.folder / file) for file in ("ca.pem", f"{name}.crt", f"{name}.key")))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def start(authority: Authority) -> Iterator[Callable[..., Fake]]:
    """Start a member that answers like this."""
    servers: list[http.server.ThreadingHTTPServer] = []
    files = authority.tls("member")

    def begin(*replies: Any) -> Fake:
        fake = Fake(0, list(replies))

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                fake.links += 1

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = fake.reply(self.path.removeprefix("/v3/"), body)
                if said == "cut":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if said == "frozen":
                    time.sleep(1.5)
                    return
                status, content = said
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_words: Any) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_of: Any) -> None:
                """A client that was refused is part of the test."""

        server = Quiet(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
        context.load_cert_chain(files.certificate, files.key)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        fake.port = server.server_address[1]
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return fake

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def store(authority: Authority) -> Iterator[Callable[..., Any]]:
    """Return the client of these members; a number is a port where nobody listens."""
    made: list[Any] = []

    def client(*members: Any, seconds: float = 1.5, tls: Any = None, **more: Any) -> Any:
        ports = [one if isinstance(one, int) else one.port for one in members]
        endpoints = [tool.Endpoint(f"q{number}", "127.0.0.1", port) for number, port in enumerate(ports, 1)]
        made.append(tool.Store(tool.Gateway(endpoints, tls or authority.tls("client"), seconds, **more)))
        return made[-1]

    yield client
    for one in made:
        one.gateway.close()


def nobody() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


NOTHING: Reply = (200, {"header": HEADER})
SOLO: Reply = (200, {"header": HEADER, "kvs": [entry("solo", lease=3)], "count": "1"})


# --- reading ---------------------------------------------------------------------------------------------


def test_a_value_is_read_with_its_revision(start: Any, store: Any) -> None:
    member = start(SOLO)
    assert store(member).get(KEY) == tool.Value(KEY, "solo", 5, 3, 9)
    # Without `serializable`: the member asks the others before it answers.
    assert member.asked == [("kv/range", {"key": coded(KEY)})]


def test_nothing_is_an_answer_too_and_has_the_revision_of_the_store(start: Any, store: Any) -> None:
    assert store(start(NOTHING)).get(KEY) == tool.Value(KEY, None, 0, 0, 9)


def test_an_empty_text_is_not_nothing(start: Any, store: Any) -> None:
    shown = entry("")
    del shown["value"]
    assert store(start((200, {"header": HEADER, "kvs": [shown]}))).get(KEY).text == ""


def test_all_below_a_prefix(start: Any, store: Any) -> None:
    member = start(SOLO)
    assert [one.key for one in store(member).under("/db/")] == [KEY]
    assert member.asked[0][1] == {"key": coded("/db/"), "range_end": coded("/db0")}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((200, {}), "answers in a way that is not known"),
        ((200, {"kvs": []}), "answers in a way that is not known"),
        ((200, {"header": {"cluster_id": "1"}}), "answers in a way that is not known"),
        ((200, []), "answers 200 and no JSON"),
        ((200, b""), "answers 200 and no JSON: nothing"),
        ((200, b"<html>"), "answers 200 and no JSON: <html>"),
        ((502, b"Bad Gateway"), "answers 502 and no JSON: Bad Gateway"),
        ((503, {"code": 14, "message": "etcdserver: no leader"}), "says: etcdserver: no leader"),
        ((504, {"error": "context deadline exceeded", "code": 4}), "says: context deadline exceeded"),
        ((500, {}), "says: HTTP 500"),
        ((200, {"error": {"grpc_code": 14, "message": "gone"}}), "says: gone"),
        ("cut", "breaks off"),
        ("frozen", "gives no answer in time"),
    ],
)
def test_what_is_no_answer_is_unknown_and_never_nothing(start: Any, store: Any, reply: Any, said: str) -> None:
    member = start(reply)
    with pytest.raises(tool.Unknown) as caught:
        store(member, seconds=0.4).get(KEY)
    assert f"q1 (127.0.0.1:{member.port}) " in str(caught.value)
    assert said in str(caught.value)


def test_nobody_there_names_every_member(store: Any) -> None:
    ports = [nobody(), nobody(), nobody()]
    with pytest.raises(tool.Unknown) as caught:
        store(*ports, seconds=0.3).get(KEY)
    for number, port in enumerate(ports, 1):
        assert f"q{number} (127.0.0.1:{port}) cannot be reached: Connection refused" in str(caught.value)


def test_an_unknown_is_a_problem_of_the_operator() -> None:
    assert issubclass(tool.Unknown, Problem) and issubclass(tool.Refused, Problem) and issubclass(tool.Gone, Problem)
    assert not issubclass(tool.Refused, tool.Unknown)


def test_no_members_at_all_is_refused(authority: Authority) -> None:
    with pytest.raises(Problem, match="has no members"):
        tool.Gateway([], authority.tls("client"))


# --- one connection, several members ------------------------------------------------------------------------


def test_the_connection_is_kept(start: Any, store: Any) -> None:
    member = start(SOLO)
    client = store(member)
    for _ in range(5):
        client.get(KEY)
    assert (len(member.asked), member.links) == (5, 1)


def test_a_refusal_keeps_it_too(start: Any, store: Any) -> None:
    member = start((400, {"code": 3, "message": "no"}))
    client = store(member)
    for _ in range(3):
        with pytest.raises(tool.Refused, match=r"q1 \(127\.0\.0\.1:\d+\) refuses: no"):
            client.get(KEY)
    assert member.links == 1


def test_one_that_was_closed_while_idle_is_opened_again(start: Any, store: Any) -> None:
    member = start(SOLO, "cut", SOLO)
    client = store(member)
    assert client.get(KEY).text == client.get(KEY).text == "solo"
    assert member.links == 2


def test_the_next_member_is_asked_and_kept(start: Any, store: Any) -> None:
    good = start(SOLO)
    client = store(nobody(), good)
    client.get(KEY)
    began = time.monotonic()
    client.get(KEY)
    assert time.monotonic() - began < 0.3
    assert good.links == 1


@pytest.mark.parametrize("bad", ["frozen", "cut", (503, {"code": 14, "message": "no leader"})])
def test_a_member_in_trouble_does_not_use_up_the_time_of_the_others(start: Any, store: Any, bad: Any) -> None:
    assert store(start(bad), start(SOLO), seconds=1.2).get(KEY).text == "solo"


def test_an_election_is_waited_for(start: Any, store: Any) -> None:
    without = (503, {"code": 14, "message": "etcdserver: no leader"})
    assert store(start(without, without, without, SOLO)).get(KEY).text == "solo"


@pytest.mark.quiet
def test_the_limit_is_kept_whatever_happens(start: Any, store: Any) -> None:
    client = store(start("frozen"), start("frozen"), start("frozen"))
    began = time.monotonic()
    with pytest.raises(tool.Unknown, match=r"within 0\.6 s"):
        client.get(KEY, seconds=0.6)
    assert 0.5 < time.monotonic() - began < 1.2


def test_a_trickle_is_no_way_around_the_limit(authority: Authority, store: Any) -> None:
    files = authority.tls("slow")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            link = context.wrap_socket(server.accept()[0], server_side=True)
            with link:
                link.recv(4096)
                link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(30):
                    time.sleep(0.1)
                    try:
                        link.sendall(b" ")
                    except OSError:
                        return

        threading.Thread(target=trickle, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(tool.Unknown, match="gives no answer in time"):
            store(server.getsockname()[1], seconds=0.5).get(KEY)
        assert time.monotonic() - began < 1.5


def test_a_store_that_was_formed_anew_is_no_answer(start: Any, store: Any) -> None:
    other = (200, {"header": {**HEADER, "cluster_id": "1"}})
    old, new = start(SOLO, "cut"), start(other)
    client = store(old, new, seconds=0.6)
    assert client.get(KEY).text == "solo"
    with pytest.raises(tool.Unknown, match=r"q2 .* belongs to another store \(1, not 14841639068965178418\)"):
        client.get(KEY)
    with pytest.raises(tool.Unknown, match="belongs to another store"):
        store(start(SOLO), seconds=0.3, cluster="1").get(KEY)


# --- who they are ---------------------------------------------------------------------------------------------


def test_a_member_of_another_authority_is_not_believed(start: Any, store: Any, tmp_path: pathlib.Path) -> None:
    strangers = Authority(tmp_path / "other").tls("client")
    with pytest.raises(tool.Unknown, match=r"q1 .* has a certificate that .*ca\.pem does not vouch for"):
        store(start(SOLO), seconds=0.4, tls=strangers).get(KEY)


def test_a_certificate_that_the_members_do_not_accept_is_named(start: Any, store: Any, tmp_path: pathlib.Path) -> None:
    wrong = Authority(tmp_path / "other").tls("client")
    member = start(SOLO)
    mixed = dataclasses.replace(wrong, ca=member_ca(store))
    with pytest.raises(tool.Unknown, match=r"does not accept our certificate .*client\.crt: .*ALERT"):
        store(member, seconds=0.4, tls=mixed).get(KEY)
    assert member.asked == []


def member_ca(store: Any) -> str:
    return str(store(1).gateway.tls.ca)


def test_files_that_are_missing_are_named_with_the_role(start: Any, store: Any, tmp_path: pathlib.Path) -> None:
    none = tool.Tls(*(str(tmp_path / name) for name in ("ca.pem", "cert.pem", "key.pem")))
    with pytest.raises(Problem, match=r"ca\.pem, .*key\.pem cannot be used \(No such file.*run the role quorum"):
        store(start(SOLO), tls=none).get(KEY)


def test_renewed_files_are_read_at_the_next_connection(start: Any, store: Any, authority: Authority) -> None:
    tls = authority.tls("renewed")
    member = start(SOLO, "cut", SOLO)
    client = store(member, tls=tls)
    client.get(KEY)
    pathlib.Path(tls.certificate).write_text("broken")
    with pytest.raises(Problem, match="cannot be used"):
        client.get(KEY)
    authority.tls("renewed")
    assert client.get(KEY).text == "solo"


# --- exchanging ---------------------------------------------------------------------------------------------


def swapped(old: dict[str, Any] | None = None) -> Reply:
    if old is None:
        put = [{"response_put": {"header": {"revision": "10"}}}]
        return 200, {"header": {**HEADER, "revision": "10"}, "succeeded": True, "responses": put}
    return 200, {"header": HEADER, "responses": [{"response_range": {"kvs": [old]}}]}


def before(revision: int = 5) -> Any:
    return tool.Value(KEY, "sync", revision)


def test_what_was_seen_is_exchanged_and_has_a_new_revision(start: Any, store: Any) -> None:
    member = start(swapped())
    assert store(member).swap(before(), "solo", lease=3) == tool.Swap(True, tool.Value(KEY, "solo", 10, 3, 10))
    path, body = member.asked[0]
    assert path == "kv/txn"
    assert body["compare"] == [{"key": coded(KEY), "target": "MOD", "result": "EQUAL", "mod_revision": "5"}]
    assert body["success"] == [{"request_put": {"key": coded(KEY), "value": coded("solo"), "lease": "3"}}]


def test_what_changed_meanwhile_stays_and_is_shown(start: Any, store: Any) -> None:
    swap = store(start(swapped(entry("theirs", 8)))).swap(before(), "solo")
    assert swap == tool.Swap(False, tool.Value(KEY, "theirs", 8, 0, 9))


def test_what_went_away_meanwhile_is_shown_as_nothing(start: Any, store: Any) -> None:
    gone = (200, {"header": HEADER, "responses": [{"response_range": {"header": {"revision": "9"}}}]})
    assert store(start(gone)).swap(before(), "solo") == tool.Swap(False, tool.Value(KEY, None, 0, 0, 9))


def test_an_equal_text_of_somebody_else_is_not_ours(start: Any, store: Any) -> None:
    assert not store(start(swapped(entry("solo", 8)))).swap(before(), "solo").done


def test_removing_is_an_exchange_too(start: Any, store: Any) -> None:
    member = start(swapped())
    assert store(member).swap(before(), None) == tool.Swap(True, tool.Value(KEY, None, 0, 0, 10))
    assert member.asked[0][1]["success"] == [{"request_delete_range": {"key": coded(KEY)}}]


def test_after_a_lost_answer_our_own_text_counts_as_done(start: Any, store: Any) -> None:
    client = store(start("cut"), start(swapped(entry("solo", 8))))
    assert client.swap(before(), "solo") == tool.Swap(True, tool.Value(KEY, "solo", 8, 0, 9))


@pytest.mark.parametrize(
    "found", [entry("theirs", 8), entry("solo", 8, lease=4)], ids=["another text", "another lease"]
)
def test_after_a_lost_answer_another_text_does_not(start: Any, store: Any, found: Any) -> None:
    assert not store(start("cut"), start(swapped(found))).swap(before(), "solo").done


def test_one_that_never_got_the_question_leaves_no_doubt(start: Any, store: Any) -> None:
    assert not store(nobody(), start(swapped(entry("solo", 8)))).swap(before(), "solo").done


def test_an_exchange_without_an_answer_is_unknown(start: Any, store: Any) -> None:
    with pytest.raises(tool.Unknown):
        store(start("cut"), seconds=0.3).swap(before(), "solo")


@pytest.mark.parametrize("responses", [None, [], [{}], ["x"]])
def test_an_exchange_that_says_neither_is_unknown(start: Any, store: Any, responses: Any) -> None:
    with pytest.raises(tool.Unknown, match="in a way that is not known"):
        store(start((200, {"header": HEADER, "responses": responses}))).swap(before(), "solo")


def test_a_full_store_refuses_by_name(start: Any, store: Any) -> None:
    full = (507, {"code": 8, "message": "etcdserver: mvcc: database space exceeded"})
    with pytest.raises(tool.Refused, match=r"q1 .* refuses: etcdserver: mvcc: database space exceeded"):
        store(start(full)).swap(before(), "solo")


NO_LEASE = (404, {"code": 5, "message": "etcdserver: requested lease not found"})


def test_an_exchange_on_a_lease_that_ended_says_so(start: Any, store: Any) -> None:
    with pytest.raises(tool.Gone, match="lease 63 has ended"):
        store(start(NO_LEASE)).swap(before(), "solo", lease=99)


# --- leases -------------------------------------------------------------------------------------------------


def test_a_lease_is_opened_with_our_number(start: Any, store: Any) -> None:
    member = start((200, {"header": HEADER, "ID": "1", "TTL": "2"}))
    lease = store(member).grant(2)
    assert member.asked == [("lease/grant", {"ID": str(lease), "TTL": "2"})]
    assert 0 < lease < 2**63


def test_one_that_was_opened_without_an_answer_is_ours(start: Any, store: Any) -> None:
    there = (400, {"code": 9, "message": "etcdserver: lease already exists"})
    cut, other = start("cut"), start(there)
    lease = store(cut, other).grant(2)
    assert {body["ID"] for _, body in cut.asked + other.asked} == {str(lease)}


def test_a_lease_that_is_refused_is_none(start: Any, store: Any) -> None:
    with pytest.raises(tool.Refused, match="too large"):
        store(start((400, {"code": 11, "message": "etcdserver: too large lease TTL"}))).grant(10**12)


def test_a_lease_is_renewed(start: Any, store: Any) -> None:
    member = start((200, {"result": {"header": HEADER, "ID": "7", "TTL": "2"}}))
    assert store(member).keep(7) == 2


def test_one_that_has_ended_is_gone_for_sure(start: Any, store: Any) -> None:
    with pytest.raises(tool.Gone, match=r"q1 .* says that lease 7 has ended"):
        store(start((200, {"result": {"header": HEADER, "ID": "7"}}))).keep(7)


@pytest.mark.parametrize("reply", [(200, {"result": {}}), (200, {"ID": "7"}), "cut"])
def test_one_that_nobody_answers_for_is_unknown_not_gone(start: Any, store: Any, reply: Any) -> None:
    with pytest.raises(tool.Unknown):
        store(start(reply), seconds=0.3).keep(7)


def test_a_lease_is_ended_also_when_it_had(start: Any, store: Any) -> None:
    member = start(NOTHING, NO_LEASE)
    client = store(member)
    client.revoke(7)
    client.revoke(7)
    assert member.asked == [("lease/revoke", {"ID": "7"})] * 2


def test_one_that_cannot_be_ended_is_said(start: Any, store: Any) -> None:
    with pytest.raises(tool.Refused):
        store(start((403, {"code": 7, "message": "permission denied"}))).revoke(7)


# --- waiting ------------------------------------------------------------------------------------------------


def watched(event: Any, *values: Reply) -> Callable[..., Any]:
    """A member whose watch says this at once, and whose reads say these."""
    reads = list(values)

    def reply(path: str, _body: Any) -> Any:
        if path != "watch":
            return reads.pop(0) if len(reads) > 1 else reads[0]
        created = json.dumps({"result": {"header": HEADER, "created": True}})
        return 200, f"{created}\n{json.dumps(event)}\n".encode()

    return reply


EVENT = {"result": {"header": HEADER, "events": [{"kv": entry("solo", 5)}]}}


def test_a_change_wakes_and_is_read_anew(start: Any, store: Any) -> None:
    member = start(watched(EVENT, SOLO))
    began = time.monotonic()
    found = store(member).changed(tool.Value(KEY, None, 0, 0, 4), 5)
    assert (found.text, found.revision) == ("solo", 5)
    assert time.monotonic() - began < 1
    assert [path for path, _ in member.asked] == ["watch", "kv/range"]
    # Nothing between the last look and the watch is missed.
    assert member.asked[0][1] == {"create_request": {"key": coded(KEY), "start_revision": "5"}}


def test_without_a_change_the_same_comes_back_in_time(start: Any, store: Any) -> None:
    quiet = watched({"result": {"header": HEADER, "created": True}}, SOLO)
    assert store(start(quiet)).changed(tool.Value(KEY, "solo", 5, 3, 9), 0.5).revision == 5


@pytest.mark.parametrize(
    "event", [{"error": {"grpc_code": 14, "message": "gone"}}, {"result": {"canceled": True, "compact_revision": "8"}}]
)
def test_a_watch_that_breaks_costs_no_news(start: Any, store: Any, event: Any) -> None:
    member = start(watched(event, NOTHING, SOLO))
    assert store(member).changed(tool.Value(KEY, None, 0, 0, 4), 3).text == "solo"


def test_silence_is_not_taken_for_no_change(store: Any) -> None:
    with pytest.raises(tool.Unknown):
        store(nobody(), seconds=0.3).changed(tool.Value(KEY, "solo", 5), 0.3)


# --- what the role wrote ------------------------------------------------------------------------------------


def test_the_client_of_this_host_is_made_of_the_roles_file(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tool, "CONFIG", tmp_path / "quorum.json")
    with pytest.raises(Problem, match=r"quorum\.json is missing: the role quorum writes it"):
        tool.connect()
    tls = {"ca": "/a", "certificate": "/b", "key": "/c"}
    members = [{"name": "q1", "address": "192.0.2.1", "port": 2379}]
    document = {"members": members, "peer_port": 2380, "tls": tls, "answer_seconds": 3}
    (tmp_path / "quorum.json").write_text(json.dumps(document))
    client = tool.connect(cluster="5")
    assert (client.gateway.endpoints[0].address, client.gateway.seconds, client.gateway.cluster) == (
        "192.0.2.1",
        3,
        "5",
    )

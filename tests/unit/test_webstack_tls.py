"""The command webstack tls: who renews when, what replaces what, and what happens when something is refused."""

from __future__ import annotations

import datetime
import functools
import json
import pathlib
import re
import stat
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import lock
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Busy, Problem
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from host_programs import Tier
from hypothesis import given
from hypothesis import strategies as st

tls = Tier("tls")

URL = "https://acme.example/dir"
NAMES = ["www.example.com"]
DAY = 86400.0
NOW = datetime.datetime.now(datetime.UTC).timestamp()
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def when(days: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(NOW + days * DAY, datetime.UTC)


def certificate(key: Any, names: list[str], start: float, end: float) -> str:
    made = (
        x509.CertificateBuilder(name("the authority"), name("leaf"), key.public_key(), 7, when(start), when(end))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .sign(KEYS[2], hashes.SHA256())
    )
    root = x509.CertificateBuilder(name("root"), name("the authority"), KEYS[2].public_key(), 1, when(-999), when(999))
    chain = [made, root.sign(KEYS[2], hashes.SHA256())]
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in chain)


def pem(key: Any) -> str:
    form = serialization.PrivateFormat.PKCS8
    text: str = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    return text


def bundle(
    start: float = -60,
    end: float = 30,
    *,
    names: list[str] | None = None,
    url: str = URL,
    key: int = 0,
    other: int = -1,
) -> Any:
    chain = certificate(KEYS[key], names or NAMES, start, end)
    return tls.Bundle.join(url, pem(KEYS[key if other < 0 else other]), chain)


# --- who renews when --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "asking"),
    [(31, []), (29, [0]), (26, [0]), (24, [0, 1]), (19, [0, 1, 2]), (-1, [0, 1, 2])],
)
def test_further_balancers_wait_some_days_more(left: float, asking: list[int]) -> None:
    present = bundle(left - 90, left)
    ranks = [tls.Patience(rank, 30, 5) for rank in range(3)]
    due = [each.rank for each in ranks if each.why_renew(present, NAMES, URL, NOW, NOW - DAY)]
    assert due == asking


def test_a_short_life_is_renewed_in_its_last_third() -> None:
    patience = tls.Patience(0, 30, 5)
    assert patience.why_renew(bundle(-3, 3), NAMES, URL, NOW, 0) == ""
    assert patience.why_renew(bundle(-4.5, 1.5), NAMES, URL, NOW, 0) == "it expires in 1.5 days"


@given(st.floats(0.1, 1000), st.floats(1, 60), st.integers(0, 3))
def test_nobody_overtakes_those_before(life_days: float, renew_days: float, rank: int) -> None:
    takeover = renew_days / 5
    first, later = tls.Patience(rank, renew_days, takeover), tls.Patience(rank + 1, renew_days, takeover)
    life = life_days * DAY
    assert 0 < later.limit_seconds(life) < first.limit_seconds(life) <= life / 3


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        (None, f"there is no certificate of {URL} yet"),
        (bundle(url="the-internal-CA"), f"there is no certificate of {URL} yet"),
        (bundle(url="https://staging.example/dir"), f"there is no certificate of {URL} yet"),
        (bundle(names=["other.example.com"]), "certificate does not cover www.example.com, only other.example.com"),
    ],
    ids=["none", "the first one", "another authority", "a new name"],
)
def test_what_is_no_certificate_is_due_at_once_and_later_elsewhere(present: Any, reason: str) -> None:
    def why(rank: int, hours: float) -> str:
        text: str = tls.Patience(rank, 30, 5).why_renew(present, NAMES, URL, NOW, NOW - hours * 3600)
        return text

    assert (why(0, 0), why(1, 0.9), why(1, 1.1)) == (reason, "", reason)


# --- what replaces what -----------------------------------------------------------------------------


def test_the_later_one_wins_even_when_it_ends_earlier() -> None:
    old, new = bundle(-60, 30), bundle(-1, 20, key=1)
    assert tls.is_better(new, old, NAMES, URL)
    assert not tls.is_better(old, new, NAMES, URL)
    assert not tls.is_better(old, old, NAMES, URL)


@pytest.mark.parametrize(
    "bad",
    [
        bundle(-1, 80, other=1),
        bundle(-90, -1),
        bundle(1, 90),
        bundle(-1, 80, names=["other.example.com"]),
        bundle(-1, 80, url="https://other.example/dir"),
        tls.Bundle(f"# from {URL}\n"),
        tls.Bundle(""),
    ],
    ids=["another key", "expired", "not yet valid", "another name", "another authority", "empty", "nothing"],
)
def test_a_bad_one_replaces_nothing(bad: Any) -> None:
    assert not tls.is_better(bad, None, NAMES, URL)
    assert not tls.is_better(bad, bundle(-80, 1), NAMES, URL)


@pytest.mark.parametrize("present", [None, bundle(url="the-internal-CA"), bundle(-90, -1)])
def test_a_good_one_replaces_what_is_none(present: Any) -> None:
    assert tls.is_better(bundle(-60, 30), present, NAMES, URL)


# --- on a balancer ----------------------------------------------------------------------------------


@pytest.fixture
def balancer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    live, peer = tmp_path / "main.pem", {"name": "lb2", "address": "192.0.2.2", "port": 8447}
    acme = {"url": URL, "key_type": "ec-p256", "renew_days": 30, "takeover_days": 5, "rank": 0, "peers": [peer]}
    certificates = [{"name": "main", "names": NAMES, "path": str(live)}]
    config = {"certificates": certificates, "port": 443, "alarm_days": 14, "metrics_file": "", "acme": acme}
    (tmp_path / "config.json").write_text(json.dumps(config))
    live.write_text(bundle(-60, 30).text)
    monkeypatch.setattr(tls, "CONFIG", tmp_path / "config.json")
    monkeypatch.setattr(tls, "STATE", tmp_path)
    monkeypatch.setattr(tls, "run", lambda *words, **_limits: None)
    monkeypatch.setattr(tls.Balancer, "is_served", lambda self, name: True)
    monkeypatch.setattr(tls, "exchange", lambda peer, word: b'{"certificates": {}, "account": {}}')
    return tls.Balancer()


def live(balancer: Any) -> str:
    text: str = balancer.paths["main"].read_text()
    return text


def test_a_new_one_is_whole_and_for_root_alone(balancer: Any) -> None:
    new = bundle(-1, 80, key=1)
    balancer.install("main", new)
    assert live(balancer) == new.text
    assert stat.S_IMODE(balancer.paths["main"].stat().st_mode) == 0o600
    assert [path.name for path in balancer.paths["main"].parent.glob(".*")] == []


def test_what_nginx_refuses_is_taken_back(balancer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: str, **_limits: Any) -> None:
        raise Problem("nginx says no")

    before = live(balancer)
    monkeypatch.setattr(tls, "run", refuse)
    with pytest.raises(Problem):
        balancer.install("main", bundle(-1, 80, key=1))
    assert live(balancer) == before


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"null", b'{"certificates": {"main": 7}, "account": {}}', b'{"certificates": []}', b"\xff"],
)
def test_nonsense_of_another_balancer_changes_nothing(
    balancer: Any, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    before = live(balancer)
    monkeypatch.setattr(tls, "exchange", lambda peer, word: answer)
    balancer.take()
    assert live(balancer) == before


def test_certificate_and_account_are_taken_from_another_balancer(
    balancer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    theirs = bundle(-1, 80, key=1).text
    files = {"abc/account_key.pem": "k", "../evil.pem": "x", "abc/../../evil.pem": "x"}
    said = json.dumps({"certificates": {"main": theirs, "unknown": theirs}, "account": files})
    monkeypatch.setattr(tls, "exchange", lambda peer, word: said.encode())
    balancer.take()
    assert live(balancer) == theirs
    assert balancer.account() == {"abc/account_key.pem": "k"}
    assert [path.name for path in tmp_path.rglob("*evil*")] == []
    said = said.replace('"k"', '"other"')
    balancer.take()
    assert balancer.account() == {"abc/account_key.pem": "k"}, "the own account stays"


def test_an_authority_that_fails_leaves_the_certificate(balancer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, name: str) -> Any:
        raise Problem("the authority is down")

    monkeypatch.setattr(tls.Balancer, "issue", fail)
    before = live(balancer)
    assert balancer.run() == 0, "20 days are no reason to call a person"
    assert balancer.run(["main"]) == 1, "what was asked for and not done fails"
    balancer.paths["main"].write_text(bundle(-80, 10).text)
    assert balancer.run() == 1
    assert live(balancer) != before and balancer.rows()[0]["problem"] == "expires soon"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("certificates", "has no 'certificates'"),
        ("certificates/0/path", "certificates[0] has no 'path'"),
        ("alarm_days", "has no 'alarm_days'"),
        ("acme", "has no 'acme'"),
        ("acme/rank", "acme has no 'rank'"),
        ("acme/peers/0/name", "acme, peers[0] has no 'name'"),
        ("acme/peers/0/address", "acme, peers[0] has no 'address'"),
    ],
)
def test_a_setting_that_is_missing_is_named(
    balancer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, key: str, said: str
) -> None:
    config = json.loads(tls.CONFIG.read_text())
    *way, last = [int(word) if word.isdigit() else word for word in key.split("/")]
    del functools.reduce(lambda table, word: table[word], way, config)[last]
    tls.CONFIG.write_text(json.dumps(config))

    def exchange(peer: Any, word: str) -> bytes:
        raise OSError(f"{peer['address']} does not answer {word}")

    monkeypatch.setattr(tls, "exchange", exchange)
    balancer.paths["main"].write_text(before := bundle(-10, 80).text)
    with pytest.raises(Problem, match=re.escape(str(tls.CONFIG))) as caught:
        tls.Balancer().run()
    assert said in str(caught.value)
    assert live(balancer) == before


def test_who_renews_holds_the_lock_and_says_so(
    balancer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    said: list[str] = []

    def run(_self: Any, _names: Any = ()) -> int:
        with pytest.raises(Busy) as busy, lock.hold("tls", "another", 0):
            pass
        said.append(str(busy.value))
        return 0

    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    monkeypatch.setattr(tls.Balancer, "run", run)
    for word in ("run", "renew"):
        assert tls.main([word]) == 0
        assert f"busy: certificates: {word} (process" in said.pop()


def test_who_holds_the_certificates_too_long_is_named(
    balancer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    monkeypatch.setattr(tls, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(tls.Balancer, "run", lambda *_: pytest.fail("two at a time"))
    with lock.hold("tls", "certificates: renew", 0):
        for word in ("run", "renew"):
            with pytest.raises(Busy, match=r"busy: certificates: renew \(process"):
                tls.main([word])


@pytest.mark.parametrize(
    ("present", "problem"),
    [
        (bundle(-60, 30), ""),
        (bundle(-77, 13), "expires soon"),
        (bundle(-3, 3), ""),
        (bundle(-5.5, 0.5), "expires soon"),
        (bundle(-90, -1), "certificate expired on"),
        (bundle(names=["other.example.com"]), "certificate does not cover"),
        (bundle(url="the-internal-CA"), f"there is no certificate of {URL} yet"),
        (tls.Bundle("torn"), "there is no certificate that can be read"),
    ],
)
def test_the_status_says_what_needs_a_person(balancer: Any, present: Any, problem: str) -> None:
    balancer.paths["main"].write_text(present.text)
    (row,) = balancer.rows()
    assert row["problem"].startswith(problem) and row["alarmed"] == bool(problem)
    assert f'webstack_tls_alarm{{certificate="main"}} {int(bool(problem))}' in tls.metrics([row])


def test_metrics_name_the_end(balancer: Any) -> None:
    (row,) = balancer.rows()
    line = next(each for each in tls.metrics([row]).splitlines() if each.startswith("webstack_tls_expiry"))
    assert line.startswith('webstack_tls_expiry_timestamp_seconds{certificate="main"} ')
    assert abs(float(line.split()[-1]) - (NOW + 30 * DAY)) < 2


def test_a_balancer_with_a_newer_format_is_named_and_an_older_one_understood(
    balancer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, theirs = live(balancer), bundle(-1, 80, key=1).text
    said = {"certificates": {"main": theirs}, "account": {"abc/account_key.pem": "k"}}
    questions: list[str] = []

    def exchange(_peer: Any, question: str) -> bytes:
        questions.append(question)
        return json.dumps(said).encode()

    monkeypatch.setattr(tls, "exchange", exchange)
    for number in (2, "x"):
        said |= {"format": number}
        balancer.take()
        balancer.tell()
        told = capsys.readouterr().err
        why = f"speaks format {number} and this host 1: run the role on all balancers"
        assert f"lb2 (192.0.2.2) gives no certificate: {why}" in told
        assert f"lb2 (192.0.2.2) cannot be told of the new certificate: {why}" in told
        assert (live(balancer), balancer.account()) == (before, {})
    # As a host answers from before there was a format, which understands these two questions and no others.
    del said["format"]
    balancer.take()
    assert live(balancer) == theirs
    assert set(questions) == {"get", "look"}


def test_a_question_of_another_format_is_refused_by_name(balancer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(tls.systemd, "tell", lambda *words, **_limits: told.append(words))
    for question in (b"get\n", b"get 1\n"):
        answer = json.loads(tls.answer(question))
        assert answer["format"] == 1 and list(answer["certificates"]) == ["main"]
    assert tls.answer(b"look\n") == b"" and len(told) == 1
    for question, why in (
        (b"get 2\n", "the other balancer speaks format 2 and this host 1: run the role on all balancers"),
        (b"look 2\n", "speaks format 2"),
        (b"get x\n", "speaks format x"),
        (b"put\n", "an unknown word"),
        (b"\xff", "an unknown word"),
    ):
        with pytest.raises(Problem, match=why):
            tls.answer(question)
    assert len(told) == 1


def test_a_refusal_of_another_balancer_is_told(
    balancer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tls, "exchange", lambda *_: b'{"format": 1, "refused": "lb1 speaks format 2"}')
    balancer.take()
    balancer.tell()
    assert capsys.readouterr().err.count("lb1 speaks format 2") == 2
    monkeypatch.setattr(tls, "exchange", lambda *_: b"")
    balancer.tell()
    assert capsys.readouterr().err == ""


def test_only_a_balancers_certificate_is_answered() -> None:
    assert tls.is_balancer({"subjectAltName": (("DNS", tls.CHANNEL_NAME),)})
    assert not tls.is_balancer({"subjectAltName": (("DNS", "redis1"),)})
    assert not tls.is_balancer({})


@pytest.mark.parametrize(("kind", "size"), [("ec-p256", 256), ("ec-p384", 384), ("rsa-2048", 2048)])
def test_keys(kind: str, size: int) -> None:
    assert tls.new_key(kind).key_size == size


def test_a_failure_says_what_the_authority_said() -> None:
    text = '["detail"]\t"DNS problem: NXDOMAIN"\n ERROR: Challenge is invalid! (returned: invalid)\n'
    assert tls.failure(text) == "DNS problem: NXDOMAIN"
    assert tls.failure(r'["detail"] "Get \"http://a/\": refused"') == r"Get \"http://a/\": refused"
    assert tls.failure("a\n  ERROR: curl returned with 7\nb") == "ERROR: curl returned with 7"
    assert tls.failure("") == "no message"

"""Certificates of an authority on two balancers: had, shared, renewed, kept when something fails; and what TLS offers.

The authority is pebble. Its name server sends it to the second balancer, while the first one asks for certificates,
so that each of its questions is answered by the one balancer through the other. The tests go on from each other.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from containers import DEBIAN, docker
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from documents import document
from rerun import assert_refused

ROOT = pathlib.Path(__file__).resolve().parents[3]
BALANCERS = {"tls-lb1": "10.77.12.11", "tls-lb2": "10.77.12.12"}
SITES = {"main": "www.example.test", "shop": "shop.example.test"}
URL = "https://tls-acme:14000/dir"
DAY = datetime.timedelta(days=1)


def on(name: str, command: str, check: bool = True, text: str = "") -> str:
    words = ["docker", "exec", "--interactive", name, "bash", "-c", command]
    done = subprocess.run(words, capture_output=True, check=False, text=True, input=text)
    assert not check or done.returncode == 0, f"{name}: {command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def served(balancer: str, host: str = "www.example.test") -> x509.Certificate:
    """What a client is given."""
    hello = f"openssl s_client -connect {BALANCERS[balancer]}:443 -servername {host} -showcerts </dev/null 2>/dev/null"
    return x509.load_pem_x509_certificate(on("tls-client", hello, check=False).encode())


def issuer(certificate: x509.Certificate) -> str:
    return certificate.issuer.rfc4514_string()


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return sorted(found.get_values_for_type(x509.DNSName))


def run(balancer: str, word: str = "start") -> bool:
    """What the timer does, now; tell whether it is content."""
    on(balancer, "systemctl reset-failed webstack-tls.service webstack-tls-alarm.service", check=False)
    words = ["docker", "exec", balancer, "systemctl", word, "webstack-tls.service"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def journal(balancer: str) -> str:
    return on(balancer, "journalctl --no-pager -o cat -n 30 -u webstack-tls.service")


def logged(balancer: str, path: str) -> list[dict[str, Any]]:
    """Return the entries for a path; nginx writes its buffers, for which it takes a second else, with new files."""
    on(balancer, "kill -USR1 $(cat /run/nginx.pid); sleep 0.5")
    entries = [json.loads(line) for line in on(balancer, "cat /var/log/nginx/access.log").splitlines()]
    return [entry for entry in entries if entry["uri"].startswith(path)]


def wait_for(what: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, journal("tls-lb1") + journal("tls-lb2")
        time.sleep(0.3)


def both_serve_the_same() -> bool:
    return all(served("tls-lb1", host) == served("tls-lb2", host) for host in SITES.values())


def aged(days: float, site: str = "main") -> str:
    """What a balancer would hold of the authority if it had not renewed for long."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subjects = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("old", "old issuer")]
    covered = {"main": ["www.example.test", "example.test"], "shop": ["shop.example.test"]}[site]
    pems = []
    for subject, end in zip(subjects, (days, 900), strict=True):
        start = now + (days - 90) * DAY
        builder = x509.CertificateBuilder(subjects[1], subject, key.public_key(), 7, start, now + end * DAY)
        sans = x509.SubjectAlternativeName([x509.DNSName(name) for name in covered])
        pems.append(builder.add_extension(sans, critical=False).sign(key, hashes.SHA256()))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = b"".join(pem.public_bytes(serialization.Encoding.PEM) for pem in pems)
    return f"# from {URL}\n" + (key.private_bytes(*form) + chain).decode()


def give(balancer: str, text: str, site: str = "main") -> None:
    path = f"/etc/nginx/webstack/acme/{site}.pem"
    on(balancer, f"cat >{path} && chmod 600 {path} && systemctl reload nginx", text=text)


@pytest.fixture(scope="module", autouse=True)
def timers_rest() -> Iterator[None]:
    for name in BALANCERS:
        on(name, "systemctl stop webstack-tls.timer")
    yield
    for name in BALANCERS:
        on(name, "systemctl start webstack-tls.timer")


@pytest.fixture
def authority_returns() -> Iterator[None]:
    # A minute of patience is the right one, but not for a test.
    on("tls-lb1", "sed -i 's/max-time 60/max-time 5/' /etc/webstack/tls/dehydrated.conf")
    yield
    on("tls-lb1", "sed -i 's/max-time 5/max-time 60/' /etc/webstack/tls/dehydrated.conf")
    on("tls-acme", "systemctl kill --signal=CONT pebble")
    management("set-default-ipv4", ip="10.77.12.12")


def management(word: str, **body: Any) -> None:
    """Tell the authority's name server what to answer."""
    on("tls-acme", f"curl -fsS -d '{json.dumps(body)}' http://127.0.0.1:8055/{word}")


# --- having one -------------------------------------------------------------------------------------


def test_nginx_serves_before_there_is_a_certificate() -> None:
    for name in BALANCERS:
        for host in SITES.values():
            assert issuer(served(name, host)).startswith("CN=webstack.ha CA")
        assert "there is no certificate of https://tls-acme:14000/dir yet" in on(name, "webstack tls status", False)


def test_a_first_certificate_that_cannot_be_had_calls_for_a_person() -> None:
    on("tls-lb1", "rm -f /var/tmp/alarms")
    assert not run("tls-lb1")
    wait_for(lambda: "alarmed" in on("tls-lb1", "cat /var/tmp/alarms", check=False))
    assert "issued nothing" in journal("tls-lb1")


def test_one_balancer_asks_and_both_serve() -> None:
    on("tls-acme", f"systemctl start pebble; curl -ksf --retry 30 --retry-connrefused --retry-delay 1 {URL}")
    on("tls-lb2", ": >/var/log/nginx/access.log")
    started = time.monotonic()
    assert run("tls-lb1"), journal("tls-lb1")
    wait_for(both_serve_the_same)
    print(f"figure: two sites: certificates issued and served by both balancers in {time.monotonic() - started:.1f} s")
    assert issuer(served("tls-lb1")).startswith("CN=Pebble Intermediate CA")
    assert names(served("tls-lb2")) == ["example.test", "www.example.test"]
    assert names(served("tls-lb2", "shop.example.test")) == ["shop.example.test"]
    assert isinstance(served("tls-lb1").public_key(), ec.EllipticCurvePublicKey)
    assert "good" in on("tls-lb2", "webstack tls status")
    said = document(on("tls-lb2", "webstack tls status --json"))
    assert {row["name"] for row in said["certificates"]} == set(SITES) and said["problems"] == []


def test_the_authority_asked_the_balancer_that_had_no_answer() -> None:
    asked = logged("tls-lb2", "/.well-known/acme-challenge/")
    assert {entry["client"] for entry in asked} == {"10.77.12.21"}
    assert {(entry["status"], entry["backend"]) for entry in asked} == {("200", "10.77.12.11:80")}


def test_a_question_that_nobody_can_answer_goes_round_once() -> None:
    for name in BALANCERS:
        on(name, ": >/var/log/nginx/access.log")
    ask = "curl -s -o /dev/null -w '%{http_code}' http://www.example.test/.well-known/acme-challenge/nothing"
    assert on("tls-client", ask) == "404"
    for name in BALANCERS:
        assert len(logged(name, "/.well-known/acme-challenge/nothing")) == 1


def test_secrets_are_roots_alone() -> None:
    for name in BALANCERS:
        places = "/etc/nginx/webstack/acme /etc/webstack/tls/channel /var/lib/webstack/tls/accounts"
        found = on(name, f"find {places} -type f -printf '%U:%m %f\\n'").splitlines()
        keys = [line for line in found if line.endswith(("account_key.pem", "main.pem", "shop.pem", ".key"))]
        assert len(keys) >= 4 and all(line.startswith("0:600 ") for line in keys), found


def test_both_balancers_have_the_account() -> None:
    accounts = {on(name, "sha256sum /var/lib/webstack/tls/accounts/*/account_key.pem") for name in BALANCERS}
    assert len(accounts) == 1


def test_a_second_run_asks_for_nothing() -> None:
    before = served("tls-lb1")
    assert run("tls-lb1") and run("tls-lb2")
    assert served("tls-lb1") == served("tls-lb2") == before


# --- keeping one ------------------------------------------------------------------------------------


def test_a_renewal_costs_no_request() -> None:
    before = served("tls-lb1"), served("tls-lb2", "shop.example.test")
    program = (ROOT / "tests/lab/probe.py").read_text()

    def probe(host: str) -> dict[str, Any]:
        words = f"python3 - https://{host}/ --seconds 16 --interval 0.015 --timeout 15"
        result: dict[str, Any] = json.loads(on("tls-client", words, text=program))
        return result

    with ThreadPoolExecutor(2) as pool:
        probes = [pool.submit(probe, host) for host in SITES.values()]
        time.sleep(1)
        on("tls-lb1", "webstack tls renew")
        wait_for(both_serve_the_same)
        results = [each.result() for each in probes]
    assert served("tls-lb1") != before[0] and served("tls-lb2", "shop.example.test") != before[1]
    requests, failed = (sum(result[key] for result in results) for key in ("requests", "failed"))
    slowest = max(result["max_ms"] for result in results)
    print(f"figure: forced renewal on both balancers: {failed} of {requests} requests failed, slowest {slowest:.0f} ms")
    assert requests >= 2000 and failed == 0, results


def test_the_other_one_renews_while_the_first_is_dead() -> None:
    docker("pause", "tls-lb1")
    try:
        give("tls-lb2", aged(27))
        assert run("tls-lb2")
        assert issuer(served("tls-lb2")) == "CN=old issuer", "with 27 days left it is the first one's turn"
        give("tls-lb2", aged(24))
        started = time.monotonic()
        assert run("tls-lb2"), journal("tls-lb2")
        print(f"figure: renewed by the second balancer, the first one frozen: {time.monotonic() - started:.1f} s")
        assert issuer(served("tls-lb2")).startswith("CN=Pebble")
    finally:
        docker("unpause", "tls-lb1")
    wait_for(lambda: run("tls-lb1") and both_serve_the_same())
    assert "main: taken from tls-lb2" in journal("tls-lb1")


@pytest.mark.usefixtures("authority_returns")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("systemctl kill --signal=STOP pebble", "issued nothing"),
        ('curl -fsS -d \'{"ip": "10.77.12.31"}\' http://127.0.0.1:8055/set-default-ipv4', "refused"),
    ],
    ids=["it hangs", "it cannot verify the name"],
)
def test_an_authority_that_fails_leaves_the_old_one(fault: str, said: str) -> None:
    before = served("tls-lb1")
    file = on("tls-lb1", "sha256sum /etc/nginx/webstack/acme/main.pem")
    on("tls-acme", fault)
    failed = on("tls-lb1", "webstack tls renew main", check=False)
    assert said in failed and "stays as it was" in failed, failed
    assert served("tls-lb1") == before
    assert on("tls-lb1", "sha256sum /etc/nginx/webstack/acme/main.pem") == file


def test_a_program_that_answers_rubbish_leaves_the_old_one() -> None:
    """As a broken authority would: what dehydrated prints is no certificate, or one for another key."""
    before = on("tls-lb1", "sha256sum /etc/nginx/webstack/acme/main.pem")
    rubbish = {
        "echo rubbish": "holds no PEM certificate",
        "exit 0": "holds no PEM certificate",
        "cat /etc/webstack/tls/channel/own.crt": "their public keys differ",
    }
    for command, said in rubbish.items():
        on("tls-lb1", f"install -D /dev/stdin /usr/local/bin/dehydrated <<<$'#!/bin/sh\\n{command}'")
        failed = on("tls-lb1", "webstack tls renew main", check=False)
        assert f"issued is refused: certificate {said}" in failed or said in failed, failed
        assert on("tls-lb1", "sha256sum /etc/nginx/webstack/acme/main.pem") == before
    on("tls-lb1", "rm /usr/local/bin/dehydrated")


@pytest.mark.usefixtures("authority_returns")
def test_a_certificate_that_ends_soon_is_shown_and_alarmed() -> None:
    on("tls-acme", "systemctl kill --signal=STOP pebble")
    # The other one is alarmed, too, and has none to give.
    for name in BALANCERS:
        give(name, aged(9))
        on(name, "rm -f /var/tmp/alarms")
    assert not run("tls-lb1")
    wait_for(lambda: "alarmed" in on("tls-lb1", "cat /var/tmp/alarms", check=False))
    assert "main: expires soon" in journal("tls-lb1")
    status = on("tls-lb1", "webstack tls status", check=False)
    assert re.search(r"^main +9 .*expires soon$", status, re.MULTILINE), status
    assert re.search(r"^shop .*good$", status, re.MULTILINE), status
    said = on("tls-lb1", "cat /var/tmp/alarms")
    assert "alarmed: tls unit_failed webstack-tls failed; journalctl -u webstack-tls says why" in said
    metrics = on("tls-lb1", "cat /var/lib/metrics/webstack_tls.prom")
    end = re.search(r'webstack_tls_expiry_timestamp_seconds{certificate="main"} (\d+)', metrics)
    assert end and abs(int(end[1]) - time.time() - 9 * 86400) < 600, metrics
    assert (
        'webstack_tls_alarm{certificate="main"} 1' in metrics and 'webstack_tls_alarm{certificate="shop"} 0' in metrics
    )


def test_all_is_well_again() -> None:
    assert run("tls-lb1"), journal("tls-lb1")
    wait_for(both_serve_the_same)
    assert issuer(served("tls-lb2")).startswith("CN=Pebble")


# --- between the balancers --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given() -> dict[str, str]:
    """What the first balancer answers to those who ask it for its certificates, two seconds each, side by side."""
    on("tls-acme", "cp /etc/pebble/cert.pem /var/tmp/site.crt; cp /etc/pebble/key.pem /var/tmp/site.key")
    askers = {
        "no certificate": ("tls-acme", ""),
        "one of another host of the site": ("tls-acme", "-cert /var/tmp/site.crt -key /var/tmp/site.key"),
        "a balancer": (
            "tls-lb2",
            "-cert /etc/webstack/tls/channel/own.crt -key /etc/webstack/tls/channel/own.key",
        ),
    }

    def ask(asker: tuple[str, str]) -> str:
        name, certificate = asker
        hello = f"(echo get; sleep 2) | openssl s_client -quiet -connect 10.77.12.11:8447 {certificate} 2>&1"
        return on(name, hello, check=False)

    with ThreadPoolExecutor() as pool:
        return dict(zip(askers, pool.map(ask, askers.values()), strict=True))


@pytest.mark.parametrize("asker", ["no certificate", "one of another host of the site"])
def test_only_a_balancer_is_given_the_keys(given: dict[str, str], asker: str) -> None:
    answer = given[asker]
    assert "PRIVATE KEY" not in answer and "certificates" not in answer, answer


def test_a_balancer_is_given_them(given: dict[str, str]) -> None:
    assert "PRIVATE KEY" in given["a balancer"]


def test_a_balancer_of_a_newer_format_is_refused_by_name() -> None:
    channel = "-cert /etc/webstack/tls/channel/own.crt -key /etc/webstack/tls/channel/own.key"
    said = on(
        "tls-lb2", f"(echo get 2; sleep 2) | openssl s_client -quiet -connect 10.77.12.11:8447 {channel} 2>&1", False
    )
    why = "the other balancer speaks format 2 and this host 1: run the role on all balancers"
    assert f'"refused": "{why}"' in said and "PRIVATE KEY" not in said, said
    assert why in on("tls-lb1", "journalctl --no-pager -o cat -n 20 -u 'webstack-tls@*'")


# --- what TLS offers --------------------------------------------------------------------------------


OFFERED = {
    "TLSv1.2": ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"],
    "TLSv1.3": ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"],
}


def test_exactly_the_listed_ciphers_are_offered() -> None:
    """Each cipher that OpenSSL knows, one handshake each."""
    script = """
    for cipher in $(openssl ciphers -s -tls1_2 'ALL:COMPLEMENTOFALL:@SECLEVEL=0' | tr : ' '); do
        openssl s_client -connect 10.77.12.11:443 -servername www.example.test -tls1_2 -cipher "$cipher:@SECLEVEL=0" \
            </dev/null >/dev/null 2>&1 && echo TLSv1.2 $cipher
    done
    for cipher in $(openssl ciphers -s -tls1_3 | tr : ' ') TLS_AES_128_CCM_SHA256; do
        openssl s_client -connect 10.77.12.11:443 -servername www.example.test -tls1_3 -ciphersuites $cipher \
            </dev/null >/dev/null 2>&1 && echo TLSv1.3 $cipher
    done
    for old in tls1 tls1_1; do
        openssl s_client -connect 10.77.12.11:443 -servername www.example.test -$old -cipher ALL:@SECLEVEL=0 \
            </dev/null >/dev/null 2>&1 && echo $old
    done
    true
    """
    offered = {line for line in on("tls-client", script).splitlines() if line.startswith(("TLSv", "tls"))}
    # s_client's option for TLS 1.2 lets names of TLS 1.3 pass, too: those are the other loop's.
    offered -= {line for line in offered if line.startswith("TLSv1.2 TLS_")}
    assert offered == {f"{version} {cipher}" for version, ciphers in OFFERED.items() for cipher in ciphers}


def test_no_session_ticket_and_no_stapled_answer() -> None:
    hello = "openssl s_client -connect 10.77.12.11:443 -servername www.example.test -tls1_2 -status </dev/null 2>&1"
    said = on("tls-client", hello, check=False)
    assert "TLS session ticket:" not in said
    assert "OCSP response: no response sent" in said


def test_an_unknown_name_gets_no_certificate() -> None:
    for name in ("other.example.test", "10.77.12.11"):
        hello = f"openssl s_client -connect 10.77.12.11:443 -servername {name} </dev/null 2>&1"
        assert "no peer certificate available" in on("tls-client", hello, check=False)


HTTP_VERSIONS = [("--http1.1", "1.1"), ("--http2", "2")] + [("--http3-only", "3")] * (DEBIAN > 12)


@pytest.mark.parametrize(("option", "version"), HTTP_VERSIONS)
def test_http_versions(option: str, version: str) -> None:
    # A reload of nginx, which a probe may ask for, ends an HTTP/3 connection: a client connects again.
    again = "--retry 2 --retry-all-errors" if version == "3" else ""
    ask = f"curl -ksS {option} {again} -o /dev/null -D - -w 'version %{{http_version}}' https://www.example.test/"
    said = on("tls-client", ask)
    assert f"version {version}" in said and "200" in said.splitlines()[0]
    assert ('h3=":443"; ma=86400' in said.lower()) == (DEBIAN > 12)
    assert "strict-transport-security: max-age=3600" in said.lower()


# --- refusals ---------------------------------------------------------------------------------------


def test_bad_inputs_are_refused_by_name(tmp_path: pathlib.Path) -> None:
    good = {
        "lb_nginx_tls_mode": "acme",
        "lb_nginx_acme_terms_accepted": True,
        "lb_nginx_acme_mail": "hostmaster@example.com",
    }
    files = {"lb_nginx_server_names": ["www.example.test"], "lb_nginx_tls_mode": "files"}
    text = aged(-1).partition("\n")[2]
    key, chain = text[: text.index("-----BEGIN CERT")], text[text.index("-----BEGIN CERT") :]
    fresh = aged(80).partition("\n")[2]
    fresh_key, fresh_chain = fresh[: fresh.index("-----BEGIN CERT")], fresh[fresh.index("-----BEGIN CERT") :]
    leaf = fresh_chain[: fresh_chain.index("-----END CERTIFICATE-----") + 26]
    for name, content in {
        "old.key": key, "old.crt": chain, "good.key": fresh_key, "good.crt": fresh_chain, "leaf.crt": leaf,
        "rubbish.crt": "rubbish",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(content)

    def pair(certificate: str, key: str, **more: Any) -> dict[str, Any]:
        paths = {"certificate": certificate, "key": key}
        return files | {f"lb_nginx_tls_{kind}_file": str(tmp_path / path) for kind, path in paths.items()} | more

    cases: list[tuple[dict[str, Any], str]] = [
        (good | {"lb_nginx_acme_mail": ""}, "tls-lb1: lb_nginx_acme_mail is empty"),
        (good | {"lb_nginx_acme_terms_accepted": False}, "lb_nginx_acme_terms_accepted must be true"),
        (good | {"lb_nginx_server_names": []}, "lb_nginx_server_names is empty"),
        (good | {"lb_nginx_server_names": ["*.example.test"]}, "*.example.test is a wildcard"),
        (good | {"lb_nginx_acme_address": "192.0.2.1"}, "lb_nginx_acme_balancers lacks lb_nginx_acme_address"),
        (good | {"lb_nginx_acme_ca_file": "/nowhere"}, "lb_nginx_acme_ca_file names no file on the controller"),
        (good | {"lb_nginx_acme_key_type": "dsa"}, "lb_nginx_acme_key_type must be one of"),
        (pair("good.crt", "old.key"), "lb_nginx_tls_key_file does not belong to lb_nginx_tls_certificate_file"),
        (pair("old.crt", "old.key"), "lb_nginx_tls_certificate_file expired on"),
        (pair("rubbish.crt", "good.key"), "lb_nginx_tls_certificate_file holds no PEM certificate"),
        (pair("none.crt", "good.key"), "lb_nginx_tls_certificate_file names no file on the controller"),
        (pair("leaf.crt", "good.key"), "lb_nginx_tls_certificate_file lacks the intermediate certificate"),
        (
            pair("good.crt", "good.key", lb_nginx_server_names=["www.example.test", "new.example.test"]),
            "lb_nginx_tls_certificate_file does not cover new.example.test, only www.example.test, example.test",
        ),
    ]
    assert_refused("lb_nginx", "tls-lb1", cases, tmp_path, scenario="lb_tls")


def test_every_tier_writes_how_it_is_for_a_collector() -> None:
    """What cron does each minute, without the wait for it."""
    assert on("tls-lb2", "systemctl is-active cron").strip() == "active"
    for tier in ("lb", "tls"):
        on("tls-lb2", f"rm -f /var/lib/metrics/webstack_status_{tier}.prom")
        line = on("tls-lb2", f"grep -v '^#' /etc/cron.d/webstack-{tier}-metrics").strip()
        schedule, user, command = line[: len("* * * * *")], *line[len("* * * * * ") :].split(" ", 1)
        assert (schedule, user) == ("* * * * *", "root"), line
        on("tls-lb2", command)
        text = on("tls-lb2", f"cat /var/lib/metrics/webstack_status_{tier}.prom")
        assert f'webstack_problems{{tier="{tier}"}} ' in text and "webstack_status_timestamp_seconds" in text, text
    assert "webstack_lb_server_up" in on("tls-lb2", "cat /var/lib/metrics/webstack_status_lb.prom")


def test_a_unit_that_fails_tells_the_operator() -> None:
    on("tls-lb2", "rm -f /var/tmp/alarms; systemctl reset-failed 'webstack-alarm@*'", check=False)
    # One connection of the agent's, at which the program cannot run.
    on("tls-lb2", "mkdir -p /run/systemd/system/webstack-lb-apply@.service.d")
    drop_in = "/run/systemd/system/webstack-lb-apply@.service.d/broken.conf"
    try:
        on("tls-lb2", f"printf '[Service]\nExecStart=\nExecStart=/bin/false\n' >{drop_in} && systemctl daemon-reload")
        on("tls-lb2", "systemctl restart webstack-lb.service")
        wait_for(
            lambda: "alarmed: lb unit_failed webstack-lb-apply failed" in on("tls-lb2", "cat /var/tmp/alarms", False)
        )
    finally:
        on("tls-lb2", f"rm -f {drop_in} && systemctl daemon-reload && systemctl restart webstack-lb.service")

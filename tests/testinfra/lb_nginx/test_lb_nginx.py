"""The balancer, seen by a client: what it refuses, what it forwards, what it keeps, and what a dead server costs."""

from __future__ import annotations

import datetime
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from balancer import BALANCER, NAME, SERVERS, Answer, executed, facts, generation, get, logged, on, probe, send
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rerun import play

# --- what is refused --------------------------------------------------------------------------------


def test_http_is_sent_to_https() -> None:
    answer = get("/a?b=c", port=80)
    assert (answer["status"], answer["headers"]["location"]) == (
        301,
        f"https://{NAME}/a?b=c",
    )


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_modern_tls_is_spoken(version: str) -> None:
    assert get(version=version)["status"] == 200


@pytest.mark.parametrize(
    "client",
    [
        {"version": "TLSv1"},
        {"version": "TLSv1_1"},
        {"version": "TLSv1_2", "ciphers": "AES128-SHA:@SECLEVEL=0"},
        {
            "version": "TLSv1_2",
            "ciphers": "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:@SECLEVEL=0",
        },
        {"sni": "other.example.test"},
        {"sni": ""},
    ],
    ids=lambda c: "-".join(c.values()).replace(":@SECLEVEL=0", "") or "no-sni",
)
def test_old_tls_and_unknown_names_get_no_handshake(client: Answer) -> None:
    answer = get(**client)
    assert answer["status"] == 0
    assert "SSL" in answer["error"] or "reset" in answer["error"].lower(), answer


@pytest.mark.parametrize("port", [80, 443])
@pytest.mark.parametrize("host", ["other.example.test", BALANCER])
def test_an_unknown_host_is_closed_without_an_answer(port: int, host: str) -> None:
    assert get(port=port, host=host)["status"] == 0


@pytest.mark.parametrize("port", [80, 443])
def test_other_methods_are_closed_without_an_answer(port: int) -> None:
    methods = ["PROPFIND", "MKCOL", "LOCK", "BREW"]
    answers = send(*({"method": m, "port": port, "target": "/refused"} for m in methods))
    assert [(m, a["status"], a["body"]) for m, a in zip(methods, answers, strict=True)] == [(m, 0, "") for m in methods]


def test_trace_is_refused_by_nginx_itself() -> None:
    assert get("/trace", method="TRACE")["status"] == 405


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_what_an_interface_for_programs_asks_with_passes(method: str) -> None:
    asked = facts(get("/form", method=method, body="x" * 100_000))
    assert (asked["method"], asked["body"]) == (method, 100_000)


def test_the_head_of_a_page_is_enough() -> None:
    head = get("/form", method="HEAD")
    assert (head["status"], head["body"]) == (200, "")


# --- what is forwarded ------------------------------------------------------------------------------


def test_forwarded_headers_are_the_balancers_own() -> None:
    lies = {
        "X-Forwarded-For": "192.0.2.1",
        "X-Real-IP": "192.0.2.2",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1",
        "Forwarded": "for=192.0.2.3",
        "Proxy": "http://evil.example",
        "X-Request-ID": "mine",
        "X-Webstack-Balancer": "mine",
    }
    seen = facts(get("/headers", host=f"{NAME}:8443", headers=lies))["headers"]
    assert seen["x-forwarded-for"] == seen["x-real-ip"] == "10.77.1.31"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["host"] == seen["x-forwarded-host"] == f"{NAME}:8443", "the name and port that the client asked for"
    assert seen["x-webstack-balancer"] == "nginx-lb1"
    assert not {"forwarded", "proxy", "x-forwarded-port"} & set(seen)
    entry = logged(seen["x-request-id"])
    assert (entry["uri"], entry["client"], entry["status"]) == (
        "/headers",
        "10.77.1.31",
        "200",
    )


def test_a_second_name_in_the_request_line_does_not_smuggle_a_host() -> None:
    answer = get(f"https://{NAME}/absolute", host="evil.example")
    assert answer["status"] in (0, 400) or facts(answer)["headers"]["host"] == NAME, answer


def test_the_answer_names_the_balancer_when_asked_to() -> None:
    assert get()["headers"]["x-balancer"] == "nginx-lb1"


def test_a_404_below_static_is_asked_again_elsewhere() -> None:
    spread = send(*({"target": "/static/new.css?only=nginx-was2"} for _ in range(10)))
    plain = send(*({"target": "/new.css?only=nginx-was2"} for _ in range(10)))
    assert {a["status"] for a in spread} == {200}
    assert {a["status"] for a in plain} == {200, 404}


# --- what a dead server costs -----------------------------------------------------------------------


def test_both_servers_are_used() -> None:
    answers = send(*({"target": "/spread"} for _ in range(10)))
    assert {facts(a)["server"] for a in answers} == set(SERVERS)


@pytest.mark.usefixtures("failures_forgotten")
def test_a_page_that_fails_everywhere_does_not_take_the_others_down() -> None:
    """A 502 from each server marks them all as failed: all down means all up."""
    prefix = f"open-{time.time():.0f}-"
    numbers = [f"{prefix}{n}" for n in range(6)]
    for _ in range(3):
        assert get("/broken?status=502")["status"] == 502, "the application's own answer"
    answers = send(*({"target": "/healthy"} for _ in range(6)))
    answers += send(*({"method": "POST", "target": f"/write?id={n}", "body": "x"} for n in numbers))
    assert [a["status"] for a in answers] == [200] * 12
    done = executed(prefix)
    assert [done.count(n) for n in numbers] == [1] * 6


def tried(target: str) -> list[str]:
    """The statuses that the servers gave for one GET, in order."""
    answer = get(target)
    statuses: list[str] = logged(answer["headers"]["x-request-id"])["backend_status"].split(", ")
    assert statuses[-1] == str(answer["status"])
    return statuses


@pytest.mark.usefixtures("failures_forgotten")
@pytest.mark.parametrize("status", [500, 503, 504])
@pytest.mark.parametrize("path", ["/late", "/static/late"])
def test_what_the_application_answers_itself_is_executed_once(path: str, status: int) -> None:
    """Its database took too long, say: another server would only wait as long again."""
    assert tried(f"{path}?status={status}") == [str(status)]


@pytest.mark.usefixtures("failures_forgotten")
def test_a_request_that_takes_too_long_is_executed_once() -> None:
    """As much of a limit as the operator gave it: the next server would only take as long."""
    started = time.monotonic()
    assert tried("/impatient/?sleep=3") == ["504"]
    assert time.monotonic() - started < 6


@pytest.mark.usefixtures("failures_forgotten")
def test_a_server_that_did_not_begin_sends_the_get_to_another_one() -> None:
    assert tried("/unloaded?status=502") == ["502", "502"]


# --- how it changes ---------------------------------------------------------------------------------


def test_a_reload_keeps_running_requests_and_a_lost_one_is_made_up_for() -> None:
    """The workers run something else than the files say, as after a run that died before its reload."""
    health = "/etc/nginx/conf.d/webstack-health.conf"
    wanted = generation()
    on(
        "nginx-lb1",
        f"cp -p {health} /tmp/good; sed -i 's/{wanted}/old/' {health}; systemctl reload nginx",
    )
    on("nginx-lb1", f"cp -p /tmp/good {health}; sleep 0.5")
    assert generation() == "old"
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get, "/slow?sleep=1.9&Cache-Control=no-store", timeout=30)
        master = on("nginx-lb1", "cat /run/nginx.pid")
        done = play("lb_nginx", "--limit", "nginx-lb1")
        assert done.returncode == 0, done.stdout
        assert slow.result()["status"] == 200
    assert "changed=1" in done.stdout, done.stdout
    assert generation() == wanted
    assert on("nginx-lb1", "cat /run/nginx.pid") == master, "reloaded, not restarted"


def test_a_reload_under_load_fails_nothing() -> None:
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(get, "/slow?sleep=1.5", timeout=30)
        reads = pool.submit(probe, f"https://{NAME}/reload", "--seconds", "3", "--interval", "0.03")
        time.sleep(0.7)
        for _ in range(3):
            on("nginx-lb1", "systemctl reload nginx; sleep 0.3")
        assert slow.result()["status"] == 200
        seen = reads.result()
    assert seen["failed"] == 0, seen


def pair(folder: pathlib.Path, name: str) -> tuple[str, str]:
    """A certificate and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now, ends)
    alternative = x509.SubjectAlternativeName([x509.DNSName(name)])
    certificate = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    files = (folder / f"{name}.crt", folder / f"{name}.key")
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(private)
    return str(files[0]), str(files[1])


def test_own_certificates_are_checked_then_served(tmp_path: pathlib.Path) -> None:
    certificate, key = pair(tmp_path, NAME)
    _, other_key = pair(tmp_path, "other.example.test")
    settings = {
        "lb_nginx_tls_mode": "files",
        "lb_nginx_tls_certificate_file": certificate,
    }
    refused = play("lb_nginx", "--limit", "nginx-lb1", **settings, lb_nginx_tls_key_file=other_key)
    assert refused.returncode != 0
    assert "nginx-lb1: lb_nginx_tls_key_file does not belong to lb_nginx_tls_certificate_file" in refused.stdout
    assert "changed=0" in refused.stdout, "refused before anything was written"
    served = play("lb_nginx", "--limit", "nginx-lb1", **settings, lb_nginx_tls_key_file=key)
    assert served.returncode == 0, served.stdout
    assert get()["certificate"].split() == pathlib.Path(certificate).read_text().split()
    assert on("nginx-lb1", "stat -c '%U %a' /etc/nginx/webstack/site.key") == "root 600\n"
    assert "PRIVATE KEY" not in served.stdout
    assert play("lb_nginx", "--limit", "nginx-lb1").returncode == 0

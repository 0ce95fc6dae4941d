"""The balancer, seen by a client: what it refuses, what it forwards, what it keeps, and what a dead server costs."""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rerun import play

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent
SCENARIO = ROOT / "molecule/lb_nginx"
BALANCER = "10.77.1.11"
SERVERS = {"nginx-was1": "10.77.1.21", "nginx-was2": "10.77.1.22"}
NAME = "www.example.test"

Answer = dict[str, Any]


def on(name: str, command: str) -> str:
    done = subprocess.run(["docker", "exec", name, "bash", "-c", command], capture_output=True, check=False, text=True)
    assert done.returncode == 0, f"{name}: {command}: {done.stdout}{done.stderr}"
    return done.stdout


def program(path: pathlib.Path, *arguments: str) -> Any:
    command = [
        "docker",
        "exec",
        "--interactive",
        "nginx-client",
        "python3",
        "-",
        *arguments,
    ]
    done = subprocess.run(command, input=path.read_text(), capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def send(*requests: Answer, workers: int = 1) -> list[Answer]:
    full = [{"address": BALANCER, **request} for request in requests]
    answers: list[Answer] = program(HERE / "client.py", json.dumps({"requests": full, "workers": workers}))
    return answers


def get(target: str = "/", **more: Any) -> Answer:
    return send({"target": target, **more})[0]


def facts(answer: Answer) -> Answer:
    assert answer["status"] == 200, answer
    seen: Answer = json.loads(answer["body"])
    return seen


def probe(*arguments: str) -> Answer:
    """Ask steadily, as tests/lab/probe.py does, and say what failed."""
    header = f"Host: {NAME}"
    result: Answer = program(ROOT / "tests/lab/probe.py", *arguments, "--header", header)
    return result


def generation() -> str:
    return on("nginx-lb1", "curl -fsS http://127.0.0.1:8089/generation").strip()


def workers() -> set[str]:
    return set(on("nginx-lb1", "pgrep -f 'nginx: worker process$' || true").split())


@pytest.fixture
def servers_return() -> Iterator[None]:
    yield
    for name in SERVERS:
        on(name, "systemctl kill --signal=CONT backend; systemctl start backend")
    # A server that failed is asked again after fail_timeout; until then answers may come without the cache.
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        answers = send(*({"target": "/settled"} for _ in range(6)))
        good = [json.loads(a["body"])["server"] for a in answers if "x-cache" in a["headers"]]
        if len(good) == len(answers) and set(good) == set(SERVERS):
            return
        time.sleep(0.5)
    pytest.fail("both application servers should be in use again")


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
    methods = ["PUT", "DELETE", "PATCH", "OPTIONS"]
    answers = send(*({"method": m, "port": port, "target": "/refused"} for m in methods))
    assert [(m, a["status"], a["body"]) for m, a in zip(methods, answers, strict=True)] == [(m, 0, "") for m in methods]


def test_trace_is_refused_by_nginx_itself() -> None:
    assert get("/trace", method="TRACE")["status"] == 405


def test_get_head_and_post_pass() -> None:
    posted = facts(get("/form", method="POST", body="x" * 100_000))
    assert (posted["method"], posted["body"]) == ("POST", 100_000)
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
    log = on(
        "nginx-lb1",
        f"sleep 1.5; grep -h {seen['x-request-id']} /var/log/nginx/access.log",
    )
    entry = json.loads(log)
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


FAULTS = {
    "killed": "systemctl kill --signal=KILL backend",
    "frozen": "systemctl kill --signal=STOP backend",
}


@pytest.mark.usefixtures("servers_return")
@pytest.mark.parametrize("fault", FAULTS)
def test_reads_survive_a_server_and_no_write_is_executed_twice(fault: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        reads = pool.submit(
            probe,
            f"https://{NAME}/read",
            "--seconds",
            "5",
            "--interval",
            "0.04",
            "--timeout",
            "9",
            "--by",
            "server",
        )
        numbers = [f"{fault}-{n}" for n in range(150)]
        writes = pool.submit(
            lambda: send(
                *(
                    {
                        "method": "POST",
                        "target": f"/write?id={n}&sleep=0.05",
                        "body": "x",
                    }
                    for n in numbers
                ),
                workers=4,
            )
        )
        time.sleep(1.2)
        on("nginx-was1", FAULTS[fault])
        seen, answers = reads.result(), writes.result()
    on(
        "nginx-was1",
        "systemctl kill --signal=CONT backend; systemctl start backend; sleep 0.7",
    )
    failed = sum(a["status"] != 200 for a in answers)
    print(f"figure: {fault}: {seen['failed']} of {seen['requests']} GETs failed, p99 {seen['p99_ms']} ms")
    print(f"figure: {fault}: {failed} of {len(answers)} POSTs failed")
    assert seen["failed"] == 0, seen
    executed = [
        number
        for address in SERVERS.values()
        for number in json.loads(send({"address": address, "port": 8000, "target": "/posts"})[0]["body"])
        if number.startswith(f"{fault}-")
    ]
    assert len(executed) == len(set(executed)), "a POST was executed twice"
    # Those under way at the moment of the fault: one for each client at most.
    assert failed <= 4


@pytest.mark.usefixtures("servers_return")
def test_a_page_that_fails_everywhere_does_not_take_the_others_down() -> None:
    """A 503 from each server marks them all as failed: all down means all up."""
    numbers = [f"open-{n}" for n in range(6)]
    for _ in range(3):
        assert get("/broken?status=503")["status"] == 503, "the application's own answer"
    answers = send(*({"target": "/healthy"} for _ in range(6)))
    answers += send(*({"method": "POST", "target": f"/write?id={n}", "body": "x"} for n in numbers))
    assert [a["status"] for a in answers] == [200] * 12
    executed = [
        number
        for address in SERVERS.values()
        for number in json.loads(send({"address": address, "port": 8000, "target": "/posts"})[0]["body"])
    ]
    assert [executed.count(n) for n in numbers] == [1] * 6


# --- what is kept -----------------------------------------------------------------------------------


def answered(answer: Answer) -> tuple[str, int]:
    """Which execution of the application an answer comes from."""
    return facts(answer)["server"], facts(answer)["count"]


def two_users(target: str, first: Answer | None = None, second: Answer | None = None) -> tuple[Answer, Answer]:
    """The same address, asked by two people in turn."""
    return get(target, **(first or {})), get(target, **(second or {}))


# The time keeps pages of an earlier run apart.
FRESH = f"run={time.time()}&Cache-Control=" + quote("max-age=60")


def test_what_states_its_freshness_is_kept() -> None:
    one, two = two_users(f"/kept?{FRESH}")
    assert (one["headers"]["x-cache"], two["headers"]["x-cache"]) == ("MISS", "HIT")
    assert answered(one) == answered(two)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "Cache-Control=private",
        "Cache-Control=" + quote("private, max-age=60"),
        "Cache-Control=no-store",
        "Cache-Control=no-cache",
        f"{FRESH}&Set-Cookie=" + quote("sessionid=alice"),
        f"{FRESH}&Vary=*",
    ],
)
def test_what_belongs_to_one_user_is_not(query: str) -> None:
    alice, bob = two_users(f"/own?id={abs(hash(query))}&{query}")
    assert answered(alice) != answered(bob)
    assert bob["headers"]["x-cache"] != "HIT"


@pytest.mark.parametrize(
    "alice",
    [
        {"headers": {"Authorization": "Basic YWxpY2U6eA=="}},
        {"headers": {"Cookie": "sessionid=alice"}},
        {"headers": {"Cookie": "theme=dark; csrftoken=alice"}},
        {"headers": {"Cookie": "messages=hello"}},
    ],
    ids=["authorization", "session", "csrf", "messages"],
)
def test_a_page_asked_with_credentials_reaches_nobody_else(alice: Answer) -> None:
    key = "-".join(f"{k}{v}" for k, v in alice["headers"].items())
    target = f"/personal-{quote(key, safe='')}?{FRESH}"
    hers, his = two_users(target, alice)
    assert facts(hers)["user"] is not None
    assert facts(his)["user"] is None, "another user's page"
    again = get(target, **alice)
    assert again["headers"]["x-cache"] == "BYPASS"
    assert facts(again)["user"] is not None, "the anonymous page came back"


def test_a_harmless_cookie_does_not_hide_the_cache() -> None:
    target = f"/harmless?{FRESH}"
    headers = {"headers": {"Cookie": "theme=dark; mysessionid=1"}}
    assert [a["headers"]["x-cache"] for a in two_users(target, headers, headers)] == [
        "MISS",
        "HIT",
    ]


def test_names_do_not_share_pages() -> None:
    target = f"/names?{FRESH}"
    plain, port = two_users(target, {}, {"host": f"{NAME}:8443"})
    assert facts(plain)["headers"]["host"] != facts(port)["headers"]["host"]


def test_vary_is_heard() -> None:
    target = f"/vary?{FRESH}&Vary=Accept-Language"
    german, english = two_users(
        target,
        {"headers": {"Accept-Language": "de"}},
        {"headers": {"Accept-Language": "en"}},
    )
    assert (
        facts(german)["headers"]["accept-language"],
        facts(english)["headers"]["accept-language"],
    ) == ("de", "en")


@pytest.mark.usefixtures("servers_return")
def test_a_stale_page_is_better_than_none() -> None:
    target = f"/stale?run={time.time()}&Cache-Control=" + quote("max-age=1")
    assert get(target)["headers"]["x-cache"] == "MISS"
    for name in SERVERS:
        on(name, "systemctl stop backend")
    time.sleep(2.2)
    answers = send(*({"target": target} for _ in range(5)))
    assert [(a["status"], a["headers"]["x-cache"]) for a in answers] == [(200, "STALE")] * 5
    assert get("/never-seen")["status"] == 502


# --- how it changes ---------------------------------------------------------------------------------


def test_a_refused_configuration_leaves_the_good_one() -> None:
    before = on("nginx-lb1", "cat /etc/nginx/nginx.conf /etc/nginx/conf.d/*.conf | sha256sum")
    running, processes = generation(), workers()
    done = play("lb_nginx", lb_nginx_extra_site_config="no_such_directive on;", lb_nginx_hsts_seconds=77)
    assert done.returncode != 0
    assert "no_such_directive" in done.stdout, done.stdout
    assert (
        on(
            "nginx-lb1",
            "cat /etc/nginx/nginx.conf /etc/nginx/conf.d/*.conf | sha256sum",
        )
        == before
    )
    assert (generation(), workers()) == (running, processes), "nothing was reloaded"
    on("nginx-lb1", "nginx -t")
    assert get()["status"] == 200


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
        done = play("lb_nginx")
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
    refused = play("lb_nginx", **settings, lb_nginx_tls_key_file=other_key)
    assert refused.returncode != 0
    assert "nginx-lb1: lb_nginx_tls_key_file does not belong to lb_nginx_tls_certificate_file" in refused.stdout
    assert "changed=0" in refused.stdout, "refused before anything was written"
    served = play("lb_nginx", **settings, lb_nginx_tls_key_file=key)
    assert served.returncode == 0, served.stdout
    assert get()["certificate"].split() == pathlib.Path(certificate).read_text().split()
    assert on("nginx-lb1", "stat -c '%U %a' /etc/nginx/webstack/site.key") == "root 600\n"
    assert "PRIVATE KEY" not in served.stdout
    assert play("lb_nginx").returncode == 0


@pytest.mark.parametrize(
    ("variables", "messages"),
    [
        (
            {"lb_nginx_backends": [], "lb_nginx_tls_mode": "files", "lb_nginx_methods": []},
            [
                "nginx-lb1: lb_nginx_backends is empty",
                "lb_nginx_tls_certificate_file names no file",
                "lb_nginx_methods is empty",
            ],
        ),
        (
            {"lb_nginx_tls_mode": "acme", "lb_nginx_backends": [{"name": "a", "port": 1}]},
            ["lb_nginx_tls_mode", "address found in lb_nginx_backends"],
        ),
    ],
    ids=["values", "spec"],
)
def test_bad_input_is_refused_by_name(variables: Answer, messages: list[str]) -> None:
    done = play("lb_nginx", **variables)
    assert done.returncode != 0
    for message in messages:
        assert message in " ".join(done.stdout.split()), done.stdout
    assert "changed=0" in done.stdout

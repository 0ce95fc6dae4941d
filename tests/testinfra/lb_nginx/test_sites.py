"""Several sites on one balancer, what differs below a path, rate limits, headers and the maintenance page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from balancer import NAME, SERVERS, Answer, facts, get, lb, logged, on, send
from documents import document
from rerun import play

BLOG = "blog.example.test"
#: Values with everything that nginx itself reads in a text.
ODD_HEADERS = {
    "Permissions-Policy": 'geolocation=(self "https://maps.example.com"), camera=()',
    "Content-Security-Policy": "default-src 'self'; script-src 'nonce-$request_id' 'sha256-a\\b'; report-uri /$1?${x}",
    "X-Number": 0,
}
APPS = [{"name": name, "address": address, "port": 8000} for name, address in SERVERS.items()]
SITES = [
    {
        "name": "site",
        "server_names": [NAME],
        "backend_read_timeout_seconds": 2,
        "locations": [
            {"path": "/ws/", "websocket": True, "read_timeout_seconds": 3600},
            {"path": "/export/", "read_timeout_seconds": 6},
            {"path": "/upload/", "body_size_max": "2m", "streaming": True},
            {"path": "/micro/", "cache_seconds": 1},
            {"path": "/login/", "rate_limit_per_second": 1, "rate_limit_burst": 2},
        ],
    },
    {
        "name": "blog",
        "server_names": [BLOG],
        "backends": APPS[:1],
        "methods": ["GET", "HEAD", "POST", "DELETE"],
        "body_size_max": "1k",
        "cache_enabled": False,
        "hsts_seconds": 60,
        "security_headers": {"X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", **ODD_HEADERS},
        "rate_limit_per_second": 1000,
    },
]


@pytest.fixture(scope="module", autouse=True)
def sites() -> Iterator[None]:
    done = play("lb_nginx", "--limit", "nginx-lb1", lb_nginx_sites=SITES)
    assert done.returncode == 0, done.stdout
    yield
    assert play("lb_nginx", "--limit", "nginx-lb1").returncode == 0


def blog(target: str = "/", **more: object) -> Answer:
    return get(target, host=BLOG, sni=BLOG, **more)


def test_each_site_has_its_own_servers_and_settings() -> None:
    answers = [facts(blog("/mine")) for _ in range(6)]
    assert {answer["server"] for answer in answers} == {"nginx-was1"}
    assert answers[0]["headers"]["host"] == BLOG
    assert {facts(a)["server"] for a in send(*[{"target": "/mine"}] * 12)} == set(SERVERS)
    assert facts(blog("/post", method="POST", body="x"))["method"] == "POST"
    assert blog("/x", method="PUT")["status"] == 0, "the blog does not take it"
    assert facts(get("/x", method="PUT"))["method"] == "PUT"
    assert blog("/big", method="POST", body="x" * 2000)["status"] == 413
    assert blog("/")["headers"].get("x-cache", "") == ""
    names = {(site["name"], len(site["servers"])) for site in lb("status", "--json")["sites"]}
    assert names == {("site", 3), ("blog", 1)}


def test_a_drain_takes_a_server_out_of_every_site_unless_it_is_the_last_of_one() -> None:
    (problem,) = document(on("nginx-lb1", "webstack lb drain nginx-was1 || true"))["problems"]
    assert problem["text"].startswith("nginx-was1 is the last server that works for blog")


def test_headers_are_added_where_the_application_says_nothing() -> None:
    headers = blog("/headers")["headers"]
    assert (headers["x-frame-options"], headers["referrer-policy"]) == ("DENY", "same-origin")
    assert headers["strict-transport-security"] == "max-age=60"
    assert blog("/headers?Referrer-Policy=no-referrer")["headers"]["referrer-policy"] == "no-referrer"
    site = get("/headers")["headers"]
    assert site["x-content-type-options"] == "nosniff"
    assert "x-frame-options" not in site


def test_a_header_is_sent_as_it_is_written() -> None:
    headers = blog("/headers")["headers"]
    assert {name: headers[name.lower()] for name in ODD_HEADERS} == {n: str(v) for n, v in ODD_HEADERS.items()}


def test_the_request_id_is_one_for_client_application_and_log() -> None:
    answer = get("/id")
    number = facts(answer)["headers"]["x-request-id"]
    assert answer["headers"]["x-request-id"] == number
    assert logged(number)["uri"] == "/id"


def test_a_long_request_is_only_waited_for_where_it_may_be_long() -> None:
    with ThreadPoolExecutor(2) as pool:
        export = pool.submit(get, "/export/?sleep=3", timeout=20)
        page = pool.submit(get, "/page?sleep=9", timeout=20)
        assert export.result()["status"] == 200
        assert page.result()["status"] == 504


def test_bodies_are_limited_by_path() -> None:
    assert facts(get("/upload/", method="POST", body="x", repeat=1_500_000))["body"] == 1_500_000
    assert get("/upload/", method="POST", body="x", repeat=3_000_000)["status"] in (413, 0)


def test_a_web_socket_is_upgraded() -> None:
    upgrade = {"Upgrade": "websocket", "Sec-WebSocket-Key": "x"}
    seen = facts(get("/ws/", headers=upgrade))["headers"]
    assert (seen["upgrade"], seen["connection"]) == ("websocket", "upgrade")
    assert seen["x-forwarded-proto"] == "https", "the other headers are there, too"
    assert "upgrade" not in facts(get("/page", headers=upgrade))["headers"]


def test_a_micro_cache_keeps_a_second_for_strangers_only() -> None:
    target = f"/micro/?run={time.time()}"
    alice = {"headers": {"Cookie": "sessionid=alice"}}
    first, second, hers = send({"target": target}, {"target": target}, {"target": target, **alice})
    assert [a["headers"]["x-cache"] for a in (first, second, hers)] == ["MISS", "HIT", "BYPASS"]
    assert facts(get(target))["user"] is None
    own = f"/micro/?run={time.time()}&Cache-Control=private"
    assert [a["headers"]["x-cache"] for a in send({"target": own}, {"target": own})] == ["MISS", "MISS"]


def test_a_rate_is_limited_where_it_is_said() -> None:
    limited = send(*({"target": "/login/"} for _ in range(8)), workers=8)
    assert {answer["status"] for answer in limited} == {200, 429}
    assert {answer["status"] for answer in send(*({"target": "/free"} for _ in range(8)), workers=8)} == {200}


def test_maintenance_of_one_site_holds_over_a_run_of_the_role() -> None:
    shown = play("lb_nginx", "--limit", "nginx-lb1", book="playbooks/maintenance.yml", switch="on", site="blog")
    assert "changed=1" in shown.stdout, shown.stdout
    try:
        for method in ("GET", "POST"):
            answer = blog("/any", method=method, body="x" if method == "POST" else "")
            assert (answer["status"], answer["headers"]["retry-after"]) == (503, "60")
            assert "Back soon" in answer["body"]
            assert answer["headers"]["cache-control"] == "no-store"
        assert get("/any")["status"] == 200, "the other site goes on"
        role = play("lb_nginx", "--limit", "nginx-lb1", lb_nginx_sites=SITES)
        assert "changed=0" in role.stdout, role.stdout
        assert blog("/any")["status"] == 503
    finally:
        done = play("lb_nginx", "--limit", "nginx-lb1", book="playbooks/maintenance.yml", switch="off")
    assert "changed=1" in done.stdout, done.stdout
    assert blog("/any")["status"] == 200
    assert blog("/.webstack-maintenance")["status"] == 404

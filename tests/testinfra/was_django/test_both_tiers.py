"""nginx of lb_nginx before Apache of was_django: what is said for a site holds through both, and no address changes.

The values are those of the example in lb_nginx's README.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import unquote

import containers
import pytest
from balancer import BALANCER, Answer, send


def on(name: str, command: str, text: str | None = None) -> str:
    return containers.on(name, "bash", "-c", command, text=text)


def seen(answer: Answer) -> Answer:
    assert answer["status"] == 200, answer
    facts: Answer = json.loads(answer["body"])
    return facts


#: Twelve seconds, for Apache's mod_reqtimeout wants the first bytes of a body within 10 s.
RESTING = f"""
import socket, ssl, time
tls = ssl.create_default_context(); tls.check_hostname = False; tls.verify_mode = ssl.CERT_NONE
plain = socket.create_connection(({BALANCER!r}, 443), 60)
with tls.wrap_socket(plain, server_hostname="www.example.test") as connection:
    connection.sendall(b"POST /upload/echo/ HTTP/1.1\\r\\nHost: www.example.test\\r\\nConnection: close\\r\\n"
                       b"Content-Length: 2\\r\\n\\r\\na")
    time.sleep(12)
    connection.sendall(b"b")
    print(connection.recv(100).decode().splitlines()[0])
"""


@pytest.fixture(scope="module", autouse=True)
def resting_body() -> Iterator[Future[str]]:
    """The first line of the answer to a body that rests while the other tests run."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit(on, "django-client", "python3 -", text=RESTING)


# --- addresses --------------------------------------------------------------------------------------

#: The application gets the decoded path of these, as from any other WSGI server.
SAME = [
    "/echo/a%2Fb",
    "/echo/a%2fb%2F",
    "/echo/https:%2F%2Fexample.com%2F",
    "/echo/https://example.com//",
    "//echo//a///b//",
    "///echo",
    "/echo/a%252Fb%2525",
    "/echo/a%20b+c%2Bd",
    "/echo;p=1/a;b=2,c",
    "/echo/%C3%A4%E2%82%AC%F0%9F%90%98",
    "/echo/a%5Cb%7C%22%3C%3E%60%7B%7D",
    "/echo/.a/...b/c./d..",
    "/echo/a%3Fb%23c?a=%2F&b=//c/../d&c=+%20%2B;d&e=%00%0A",
    "/echo/a?b?c",
    "/echo/?",
    "/echo/%0A%0D%09",
    "/echo/~!$&'()*,:@=",
    "/echo/index.php/",
]
#: Sent -> PATH_INFO. To the standard (RFC 3986, 6.2.2) "." and ".." are another way to write the same address, and what
#: is closed on a balancer must not be open by it.
PLAIN = {
    "/echo/%FF%FE": "/echo/%FF%FE",  # Django's way to write what is no UTF-8
    "/echo/./a/.": "/echo/a/",
    "/echo/b/../a": "/echo/a",
    "/b/%2e%2E/echo/%61": "/echo/a",
    "/echo/b%2F..%2Fa": "/echo/a",
    "/echo/b//../a": "/echo/a",
    "/b//..//echo/a": "/echo/a",
    "//b/..//echo//a": "///echo//a",
}


def test_every_address_reaches_the_application_as_it_was_sent() -> None:
    wanted = {target: unquote(target.partition("?")[0]) for target in SAME} | PLAIN
    answers = send(*({"target": target} for target in wanted))
    found = {target: (a["status"], a["status"] == 200 and seen(a)) for target, a in zip(wanted, answers, strict=True)}
    problems = []
    for target, path in wanted.items():
        status, facts = found[target]
        if status != 200 or (facts["PATH_INFO"], facts["REQUEST_URI"], facts["QUERY_STRING"]) != (
            path,
            target,
            target.partition("?")[2],
        ):
            problems.append(f"{target}: {status} {facts}")
    assert problems == []


def test_a_very_long_address_arrives() -> None:
    target = "/echo/" + "a%2F" * 1900 + "?" + "b" * 20_000
    facts = seen(send({"target": target})[0])
    assert (facts["REQUEST_URI"], facts["PATH_INFO"]) == (target, "/echo/" + "a/" * 1900)


@pytest.mark.parametrize("target", ["/echo/%00", "/echo/%2", "/echo/%zz", "/../echo", "/echo/../..%2F../x", "/a b"])
def test_what_is_no_address_is_refused(target: str) -> None:
    assert send({"target": target})[0]["status"] == 400


#: Ways to write /media/private/secret.txt and files outside of the folders that are served.
EVASIONS = [
    "/media/private/secret.txt",
    "/media//private/secret.txt",
    "//media/private/secret.txt",
    "//media//private/secret.txt",
    "/media/private//secret.txt",
    "/media/./private/secret.txt",
    "/media/%2e/private/secret.txt",
    "/media/x/../private/secret.txt",
    "/media/x%2F..%2Fprivate/secret.txt",
    "/media/x//../private/secret.txt",
    "/media/x//..//private/secret.txt",
    "/media/private//../private/secret.txt",
    "/x/..//media/private/secret.txt",
    "/media%2Fprivate%2Fsecret.txt",
    "/media%2F/private/secret.txt",
    "/media/%2Fprivate/secret.txt",
    "/media/%2F%2Fprivate/secret.txt",
    "/media/private%2Fsecret.txt",
    "/media/%0A/..//private/secret.txt",
    "/static/../media/private/secret.txt",
    "/static//../media/private/secret.txt",
    "/static/..%2Fmedia%2Fprivate%2Fsecret.txt",
    "/media/..%2Fmedia//private/secret.txt",
    "/media/%70rivate/secret.txt",
    "/media/private;/../private/secret.txt",
    "/media/private/secret.txt?",
    "/media/..//private/secret.txt",
    "/media\\private\\secret.txt",
    "/static/../../board/secret.txt",
    "/static/..%2F..%2Fboard/secret.txt",
    "/static/%2e%2e/%2e%2e/board/secret.txt",
    "/static/..%5C..%5Cboard/secret.txt",
    "/static/..;/..;/board/secret.txt",
    "/static/%252e%252e/%252e%252e/board/secret.txt",
    "/media/..%252F..%252Fboard/secret.txt",
    "/media/../../../../srv/webstack/board/secret.txt",
    "/media//srv/webstack/board/secret.txt",
    "/static//srv/webstack/board/secret.txt",
]


def test_no_way_to_write_an_address_opens_what_is_closed() -> None:
    for name in ("django-was1", "django-was2"):
        on(
            name,
            "cd /srv/webstack; mkdir -p media/private media/x media/open; "
            "echo lab-secret | tee board/secret.txt media/private/secret.txt; echo lab-open > media/open/file.txt",
        )
    (good,) = send({"target": "/media/open/file.txt"})
    assert (good["status"], good["body"]) == (200, "lab-open\n"), good
    answers = send(*({"target": target} for target in EVASIONS))
    leaks = [(t, a) for t, a in zip(EVASIONS, answers, strict=True) if "lab-secret" in a["body"]]
    assert leaks == []
    odd = [(t, a["status"]) for t, a in zip(EVASIONS, answers, strict=True) if a["status"] not in (400, 403, 404)]
    assert odd == []


# --- limits -----------------------------------------------------------------------------------------


def test_long_headers_and_cookies_pass_in_both_directions() -> None:
    many = {f"X-Lab-{number}": "y" * 20 for number in range(300)}
    sent = [
        {"target": "/echo", "headers": {"X-Lab": "x" * 20_000}},
        {"target": "/echo", "headers": {"Cookie": "; ".join(f"c{n}={'z' * 4000}" for n in range(7))}},
        {"target": "/echo", "headers": many},
        {"target": "/echo?answer=20000"},
    ]
    single, cookies, several, answered = send(*sent)
    assert seen(single)["headers"]["X-Lab"] == 20_000
    assert seen(cookies)["headers"]["Cookie"] > 28_000
    assert len([name for name in seen(several)["headers"] if name.startswith("X-Lab-")]) == len(many)
    assert seen(answered) and len(answered["headers"]["x-long"]) == 20_000


def test_what_is_longer_is_said_by_the_balancer() -> None:
    header, address = send({"target": "/echo", "headers": {"X-Lab": "x" * 33_000}}, {"target": "/echo?" + "x" * 33_000})
    assert (header["status"], address["status"]) == (400, 414)


def test_a_body_of_the_size_in_the_readme_passes_and_a_larger_one_does_not() -> None:
    started = time.monotonic()
    options = f"-sk --max-time 300 --resolve www.example.test:443:{BALANCER} -X POST -H Expect: -w '\n%{{http_code}}'"
    url = "https://www.example.test/upload/echo/"
    sizes = {"full": 2 << 30, "over": (2 << 30) + 1, "elsewhere": 64 << 20}
    script = "".join(f"truncate -s {size} /var/tmp/{name}; " for name, size in sizes.items())
    on("django-client", script)
    full = on("django-client", f"curl {options} -T /var/tmp/full {url}").splitlines()
    assert (full[-1], json.loads(full[0])["body"]) == ("200", 2 << 30), full
    over = on("django-client", f"curl {options} -T /var/tmp/over {url} || true").splitlines()
    assert over[-1] == "413"
    other = on("django-client", f"curl {options} -T /var/tmp/elsewhere {url.replace('upload/', '')}").splitlines()
    assert (other[-1], json.loads(other[0])["body"]) == ("200", 64 << 20), other
    print(f"figure: a body of 2 GiB through both tiers: {time.monotonic() - started:.0f} s")


def test_uploads_are_spooled_to_the_disk() -> None:
    """Debian 13 has /tmp in memory, where a body of 2 GiB has no place."""
    assert seen(send({"target": "/echo"})[0])["temporary"] == "/var/tmp"


def test_a_body_may_rest_as_long_as_the_balancer_lets_it(resting_body: Future[str]) -> None:
    """Apache's mod_reqtimeout wants the first bytes of a body within 10 s, nginx within 30 s."""
    assert resting_body.result().split()[1] == "200"

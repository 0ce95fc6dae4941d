"""What the balancer keeps, and that nobody ever sees a page of somebody else: every header that an application may
send, asked by two users in every way they may be told apart."""

from __future__ import annotations

import itertools
import shlex
import time
from urllib.parse import quote

import pytest
from balancer import NAME, SERVERS, Answer, facts, get, lb, on, send
from rerun import play

ALICE, BOB = "alice", "bob"
# The time keeps pages of an earlier run apart.
RUN = f"run={time.time()}"
FRESH = f"{RUN}&Cache-Control=" + quote("max-age=60")

#: What the application says about its page.
HEADERS = {
    "nothing": "",
    "set-cookie": "Set-Cookie=" + quote("sessionid=new") + "&Cache-Control=" + quote("max-age=60"),
    "private": "Cache-Control=" + quote("private, max-age=60"),
    "no-store": "Cache-Control=" + quote("no-store, max-age=60"),
    "no-cache": "Cache-Control=" + quote("no-cache, max-age=60"),
    "max-age": "Cache-Control=" + quote("max-age=60"),
    "s-maxage": "Cache-Control=" + quote("s-maxage=60"),
    "public": "Cache-Control=" + quote("public, max-age=60"),
    "vary-cookie": "Vary=Cookie&Cache-Control=" + quote("max-age=60"),
    "vary-all": "Vary=*&Cache-Control=" + quote("max-age=60"),
    "vary-authorization": "Vary=Authorization&Cache-Control=" + quote("max-age=60"),
    "expired": "Expires=" + quote("Thu, 01 Jan 1970 00:00:00 GMT"),
}
#: Of these an anonymous page may be kept and given to another anonymous visitor.
KEPT = {"max-age", "s-maxage", "public", "vary-cookie", "vary-authorization"}
#: How a user is known.
KNOWN_BY = {
    "session": lambda user: {"Cookie": f"sessionid={user}"},
    "csrf": lambda user: {"Cookie": f"theme=dark; csrftoken={user}"},
    "messages": lambda user: {"Cookie": f"messages={user}"},
    "basic": lambda user: {"Authorization": f"Basic {user}"},
    "bearer": lambda user: {"Authorization": f"Bearer {user}"},
    "both": lambda user: {"Cookie": f"sessionid={user}", "Authorization": f"Bearer {user}"},
}


#: Whoever comes first may leave something behind for the others.
FIRST = [(ALICE, BOB, ""), (BOB, "", ALICE), ("", ALICE, BOB)]


def who(answer: Answer) -> str:
    """Return the user that a page was made for."""
    user = facts(answer)["user"] or ""
    return next((name for name in (ALICE, BOB) if name in user), "")


@pytest.mark.parametrize("says", HEADERS)
def test_no_user_sees_the_page_of_another(says: str) -> None:
    """Alice, Bob and a stranger ask one address, whoever is first, by GET and HEAD, known in every way."""
    requests, owners = [], []
    for (way, known), order in itertools.product(KNOWN_BY.items(), FIRST):
        target = f"/users/{way}/{'-'.join(order)}?{RUN}&{HEADERS[says]}"
        # Twice: the second turn meets whatever the first one left behind.
        for method, user in itertools.product(["HEAD", "GET", "GET"], order):
            requests.append({"method": method, "target": target, "headers": known(user) if user else {}})
            owners.append(user)
    answers = send(*requests)
    leaks = [
        (request, answer["headers"]["x-cache"])
        for request, owner, answer in zip(requests, owners, answers, strict=True)
        if request["method"] == "GET" and who(answer) != owner
    ]
    assert leaks == []
    for request, owner, answer in zip(requests, owners, answers, strict=True):
        assert answer["status"] == 200
        if owner:
            assert answer["headers"]["x-cache"] == "BYPASS", request


@pytest.mark.parametrize("says", HEADERS)
def test_only_what_states_its_freshness_is_kept(says: str) -> None:
    target = f"/kept/{says}?{RUN}&{HEADERS[says]}"
    first, second = send({"target": target}, {"target": target})
    assert first["headers"]["x-cache"] == "MISS"
    assert (second["headers"]["x-cache"] == "HIT") == (says in KEPT)
    same = (facts(first)["server"], facts(first)["count"]) == (facts(second)["server"], facts(second)["count"])
    assert same == (says in KEPT)


def test_set_cookie_reaches_only_the_one_it_was_sent_to() -> None:
    target = f"/login?{FRESH}&Set-Cookie=" + quote("sessionid=new")
    for _ in range(3):
        answer = get(target)
        assert (answer["headers"]["set-cookie"], answer["headers"]["x-cache"]) == ("sessionid=new", "MISS")


def test_a_post_is_neither_kept_nor_answered_from_what_is() -> None:
    target = f"/form?{FRESH}"
    assert facts(get(target))["method"] == "GET"
    for _ in range(2):
        posted = get(target, method="POST", body="x")
        assert facts(posted)["method"] == "POST"
    assert facts(get(target))["method"] == "GET"


def test_head_and_get_share_a_page_and_head_has_no_body() -> None:
    target = f"/head?{FRESH}"
    head, page, again = send(*({"target": target, "method": method} for method in ("HEAD", "GET", "HEAD")))
    assert [answer["headers"]["x-cache"] for answer in (head, page, again)] == ["MISS", "HIT", "HIT"]
    assert (head["body"], again["body"]) == ("", "")
    assert facts(page)["server"]


def test_every_part_of_the_address_counts() -> None:
    targets = [
        f"/query?{FRESH}",
        f"/query?{FRESH}&page=2",
        f"/query/?{FRESH}",
        f"/Query?{FRESH}",
        f"/query?page=2&{FRESH}",
    ]
    answers = send(*({"target": target} for target in targets))
    assert [answer["headers"]["x-cache"] for answer in answers] == ["MISS"] * len(targets)


def test_a_harmless_cookie_does_not_hide_the_cache() -> None:
    headers = {"Cookie": "theme=dark; mysessionid=1; sessionid_old=2"}
    answers = send(*({"target": f"/harmless?{FRESH}", "headers": headers} for _ in range(2)))
    assert [answer["headers"]["x-cache"] for answer in answers] == ["MISS", "HIT"]


@pytest.mark.parametrize("host", [f"{NAME}:8443", NAME.upper(), "other.example.test", "evil.example", f"{NAME}."])
def test_another_host_neither_reads_nor_poisons_a_page(host: str) -> None:
    target = f"/names-{host}?{FRESH}"
    send({"target": target, "host": host})
    page = get(target)
    assert facts(page)["headers"]["host"] == NAME
    asked = get(target, host=host)
    # One and the same name in capitals is the same page; whatever else is answered at all is a page of its own.
    assert asked["status"] in (0, 400) or facts(asked)["headers"]["host"] in (host.lower(), host.rstrip("."), NAME)
    if asked["status"] == 200 and ":" in host:
        assert facts(asked)["headers"]["host"] == host


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "Forwarded"])
def test_a_header_that_is_not_in_the_key_cannot_poison_a_page(header: str) -> None:
    target = f"/poison-{header}?{FRESH}"
    get(target, headers={header: "evil.example"})
    assert "evil.example" not in facts(get(target))["headers"].values()


def test_vary_is_heard() -> None:
    target = f"/vary?{FRESH}&Vary=Accept-Language"
    german, english = send(*({"target": target, "headers": {"Accept-Language": tongue}} for tongue in ("de", "en")))
    assert [facts(answer)["headers"]["accept-language"] for answer in (german, english)] == ["de", "en"]


@pytest.mark.usefixtures("servers_return")
def test_a_stale_page_is_better_than_none() -> None:
    target = f"/stale?{RUN}&Cache-Control=" + quote("max-age=1")
    assert get(target)["headers"]["x-cache"] == "MISS"
    for name in SERVERS:
        on(name, "systemctl stop backend")
    time.sleep(2.2)
    answers = send(*({"target": target} for _ in range(5)))
    assert [(a["status"], a["headers"]["x-cache"]) for a in answers] == [(200, "STALE")] * 5
    assert get("/never-seen")["status"] == 502


# --- large files ---------------------------------------------------------------------------------------------


def sent() -> int:
    """Return how many bytes of large files the servers have sent."""
    return sum(int(on(name, "curl -fsS http://127.0.0.1:8000/big-sent")) for name in SERVERS)


def kept() -> int:
    return int(on("nginx-lb1", "du -sb /var/cache/nginx/webstack").split()[0])


def fetch(target: str, *options: str) -> tuple[int, int, str]:
    """Return status, length and X-Cache of an answer whose body is thrown away."""
    url = f"https://{NAME}{target}"
    show = "%{http_code} %{size_download} %header{x-cache}"
    words = ["curl", "-sk", "--resolve", f"{NAME}:443:127.0.0.1", "-o", "/dev/null", "-w", show, *options, url]
    # One that gives up has been answered, too.
    status, size, cache = on("nginx-lb1", f"{shlex.join(words)} || true").split(" ")
    return int(status), int(size), cache


@pytest.mark.parametrize("size", [300 << 20, 1 << 20], ids=["large", "small"])
def test_a_part_of_what_is_not_kept_costs_that_part(size: int) -> None:
    target = f"/media/big?{RUN}&size={size}&part"
    before, stored = sent(), kept()
    assert fetch(target, "-r", f"{size - 1000}-{size - 901}")[:2] == (206, 100)
    assert fetch(target, "-r", "0-99")[:2] == (206, 100)
    # A part of 100 bytes, twice. The servers count in steps of 64 KB.
    assert (sent() - before) <= 2 << 16
    assert kept() - stored < 1 << 16


def test_a_large_file_is_handed_through_and_not_kept() -> None:
    size = 100 << 20
    target = f"/media/big?{RUN}&size={size}&whole"
    stored = kept()
    assert fetch(target)[:2] == (200, size)
    assert fetch(target)[:2] == (200, size)
    assert kept() - stored < 1 << 16
    before = sent()
    assert fetch(target, "-I")[0] == 200
    assert fetch(target, "-H", 'If-None-Match: "one"')[0] == 304
    # What was under way when nginx hung up.
    assert sent() - before < 32 << 20


def test_a_file_up_to_the_limit_is_kept_and_its_parts_come_from_the_cache() -> None:
    limit = 32 << 20
    target = f"/media/big?{RUN}&size={limit}&limit"
    assert [fetch(target) for _ in range(2)] == [(200, limit, "MISS"), (200, limit, "HIT")]
    before = sent()
    assert fetch(target, "-r", f"{limit - 100}-") == (206, 100, "HIT")
    assert sent() == before
    over = target.replace(f"size={limit}", f"size={limit + 1}")
    assert [fetch(over)[2] for _ in range(2)] == ["MISS", "MISS"]


def test_a_slow_client_of_a_large_file_fills_no_disk() -> None:
    """Nor does its server wait for it while the balancer drains a copy."""
    target = f"/media/big?{RUN}&size={300 << 20}&slow"
    before = sent()
    assert fetch(target, "--max-time", "2", "--limit-rate", "1M")[0] == 200
    assert sent() - before < 32 << 20


# --- purge ---------------------------------------------------------------------------------------------------


def test_a_purge_by_prefix_takes_only_what_begins_so() -> None:
    news, shop = f"/news/1?{FRESH}", f"/shop/1?{FRESH}"
    send(*[{"target": news}, {"target": shop}] * 2)
    purged = play("lb_nginx", book="playbooks/purge.yml", prefix=f"https://{NAME}/news/")
    assert purged.returncode == 0, purged.stdout
    assert [answer["headers"]["x-cache"] for answer in send({"target": news}, {"target": shop})] == ["MISS", "HIT"]


def test_a_purge_waits_for_no_pipe_and_follows_no_link() -> None:
    """The cache belongs to nginx's workers, and the probes' findings to their account."""
    cache, found = "/var/cache/nginx/webstack", "/var/lib/webstack/lb/probes/found.json"
    plant = f"mkdir {cache}/zz; mkfifo {cache}/zz/pipe; ln -s /etc/passwd {cache}/zz/link"
    plant = f"runuser -u www-data -- bash -ec '{plant}'"
    on("nginx-lb1", plant)
    refused = on("nginx-lb1", "timeout 20 webstack lb purge https://nothing/ 2>&1; echo exit $?")
    assert refused.endswith("exit 1\n"), refused
    assert "pipe is no file" in refused or "link is a link" in refused
    assert lb("purge")["removed"] >= 2
    on("nginx-lb1", f"test -s /etc/passwd && rmdir {cache}/zz")
    # Root reads what the probes found: a link there would be followed, a pipe would never end.
    swap = f"runuser -u webstack-lb -- bash -ec 'while [ ! -L {found} ]; do ln -sf /etc/shadow {found}; done'"
    on("nginx-lb1", "systemctl stop webstack-lb.service")
    try:
        on("nginx-lb1", swap)
        refused = on("nginx-lb1", "timeout 20 webstack lb apply 2>&1; echo exit $?")
        assert refused.endswith("exit 1\n"), refused
        assert f"{found} is a link" in refused
    finally:
        on("nginx-lb1", f"rm -f {found}; systemctl start webstack-lb.service; webstack lb apply")


def test_a_purge_takes_everything_and_nothing_the_second_time() -> None:
    target = f"/purged?{FRESH}"
    # Answered from the file, which stays open in nginx then.
    assert send(*[{"target": target}] * 2)[1]["headers"]["x-cache"] == "HIT"
    assert lb("purge")["removed"] > 0
    assert not lb("purge")["changed"]
    assert [answer["headers"]["x-cache"] for answer in send(*[{"target": target}] * 2)] == ["MISS", "HIT"]

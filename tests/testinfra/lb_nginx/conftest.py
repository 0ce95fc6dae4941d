"""Puts the application servers back after a test that broke them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from balancer import SERVERS, on, until_asked

MEND = "nft flush ruleset; rm -f /run/health; systemctl kill --signal=CONT backend; systemctl start backend"
#: nginx remembers for a while who failed, until it is reloaded; this ends when no worker of before takes requests.
RELOAD = (
    "old=$(pgrep -f 'nginx: worker process$'); systemctl reload nginx; for _ in $(seq 50); do"
    " pgrep -f 'nginx: worker process$' | grep -qxF \"$old\" || break; sleep 0.2; done"
)
# One that came and went before needs more good answers than two; forgetting that is the test's privilege. It ends when
# nginx asks all servers: a reload forgets what they are busy with, and must not come in the middle of the next test.
FORGET = (
    "systemctl stop webstack-lb; rm -f /var/lib/webstack/lb/probes/found.json; systemctl start nginx;"
    f" webstack lb apply | grep -q true || {{ {RELOAD}; }}; systemctl start webstack-lb"
)


def forget(name: str) -> None:
    on(name, FORGET)
    until_asked(set(SERVERS), name=name)


@pytest.fixture
def servers_return() -> Iterator[None]:
    """After a test that took servers away."""
    yield
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: on(name, MEND), SERVERS))
        list(pool.map(forget, ["nginx-lb1", "nginx-lb2"]))


@pytest.fixture
def failures_forgotten() -> Iterator[None]:
    """After a test whose answers may count as failures of servers that are well."""
    yield
    on("nginx-lb1", RELOAD)

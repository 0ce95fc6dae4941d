"""A request that takes long, under way while the tests of several modules run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from balancer import Answer, send
from containers import on

#: Seconds. Apache's own limit was 90 s, and the balancer asked a second server then.
LONG = 95


@pytest.fixture(scope="session")
def long_request() -> Iterator[tuple[int, Future[Answer]]]:
    """How long it takes, and its answer. The path may take 600 s.

    It is the first server's, whose processes nothing may replace until it is over; the second one may restart.
    """
    mark = uuid.uuid4().hex
    request = {"method": "POST", "target": f"/export/echo?sleep={LONG}&mark={mark}", "body": "x", "timeout": LONG + 30}
    journal = ("journalctl", "--no-pager", "--output=cat", "--lines=20", "-t", "board")
    on("django-was2", "systemctl", "stop", "apache2")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(lambda: send(request)[0])
        try:
            while mark not in on("django-was1", *journal):
                assert not answer.done(), answer.result()
                time.sleep(0.3)
        finally:
            on("django-was2", "systemctl", "start", "apache2")
        yield LONG, answer


@pytest.fixture(scope="session", autouse=True)
def begun(request: pytest.FixtureRequest) -> None:
    """The test that waits for it is one of the later ones; without that test nobody asks."""
    if any("long_request" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("long_request")

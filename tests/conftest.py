"""Tests marked `quiet` count milliseconds: none of any other check runs beside them. One that hangs is ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))

from turns import turn

#: The longest takes a minute. One that hangs holds its turn, and so every other check up.
TEST_SECONDS = int(os.environ.get("WEBSTACK_TEST_SECONDS", "420"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quiet: counts milliseconds, and runs beside no other test")


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Let the test fail where it stands once it has taken so long. What cleans up behind it gets as long again."""

    def fail(_number: int, _frame: object) -> None:
        faulthandler.dump_traceback()
        pytest.fail(f"took more than {seconds} s")

    def watch() -> None:
        while not over.wait(seconds):
            # The main thread runs the test, and takes signals. Not SIGALRM: the programs use it themselves.
            os.kill(os.getpid(), signal.SIGUSR2)

    over = threading.Event()
    before = signal.signal(signal.SIGUSR2, fail)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.signal(signal.SIGUSR2, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # Around set-up and tear-down too: a fixture may be what loads the machine, or what counts.
    with turn(alone=item.get_closest_marker("quiet") is not None), time_limit(TEST_SECONDS):
        return (yield)

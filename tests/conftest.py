"""Tests marked `quiet` count milliseconds: none of any other check runs beside them."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))

from turns import turn


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quiet: counts milliseconds, and runs beside no other test")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # Around set-up and tear-down too: a fixture may be what loads the machine, or what counts.
    with turn(alone=item.get_closest_marker("quiet") is not None):
        return (yield)

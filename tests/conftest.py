"""Tests marked `quiet` count milliseconds: each has the machine for itself, whatever else is being checked."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))

from turns import turn


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quiet: counts milliseconds, and has the machine for itself")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # Around set-up and tear-down too: a fixture may be what loads the machine, or what counts.
    with turn(alone=item.get_closest_marker("quiet") is not None):
        return (yield)

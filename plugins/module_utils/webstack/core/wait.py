# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waits for a condition, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .errors import Problem

T = TypeVar("T")


def until(look: Callable[[], T], good: Callable[[T], object], seconds: float, what: str, every: float = 0.2) -> T:
    """Look until it is good, and return what was seen. After the limit a Problem says what was seen last."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if good(seen):
            return seen
        if time.monotonic() >= end:
            raise Problem(f"{what} did not come within {seconds:g} s; seen last: {seen}")
        time.sleep(every)


def turned(condition: Callable[[], object], seconds: float, every: float = 0.2) -> bool:
    """Wait until the condition holds. Return whether it did."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(every)
    return True

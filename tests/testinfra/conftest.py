"""Prints the figures that the tests measured, whether or not they passed."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    lines = [line for r in reports for line in r.capstdout.splitlines() if line.startswith("figure: ")]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line.removeprefix("figure: "))

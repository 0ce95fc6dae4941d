"""Prints the figures that the tests measured, whether or not they passed; makes the collection importable."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

# Molecule installs the checkout there.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / ".cache/collections"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    lines = [line for r in reports for line in r.capstdout.splitlines() if line.startswith("figure: ")]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line.removeprefix("figure: "))

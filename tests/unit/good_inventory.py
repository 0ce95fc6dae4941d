"""The inventory that nothing is wrong with, for tests that put something wrong into it."""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def good() -> dict[str, Any]:
    """Return the inventory with which the refusals of the playbook are tested."""
    spec = importlib.util.spec_from_file_location("refusals", ROOT / "tests/integration/test_refusals.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inventory: dict[str, Any] = module.good()
    return inventory

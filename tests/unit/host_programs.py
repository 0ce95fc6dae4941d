"""The programs that roles put on hosts, as modules for tests."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys
from typing import Any

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"
SHARED = "ansible_collections.webstack.ha.plugins.module_utils"
# What the roles put beside a program on its host, and the collection's module that it is.
BESIDE = {
    "_certificate_problem": "_certificate_problem",
    "data_swap": "_data_swap",
    "hash_ring": "hash_ring",
}


def load(path: str) -> Any:
    """Load a program by its path below roles/. Each call makes a new module, so that no test file sees what another
    one has patched."""
    for name, shared in BESIDE.items():
        sys.modules.setdefault(name, importlib.import_module(f"{SHARED}.{shared}"))
    name = pathlib.Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROLES / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

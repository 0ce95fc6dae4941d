"""The programs that roles put on hosts, as modules for tests."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import pkgutil
import sys
from types import ModuleType
from typing import Any

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"
SHARED = "ansible_collections.webstack.ha.plugins.module_utils"
PACKAGE = ROLES.parent / "plugins/module_utils/webstack"


def load(path: str) -> Any:
    """Load a file by its path below roles/. Each call makes a new module, which nobody has patched."""
    name = pathlib.Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROLES / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def command_line(*words: str) -> list[str]:
    """Return `webstack` with these words as a command of its own, as a host runs it."""
    script = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); from webstack.cli import main; sys.exit(main())"
    return [sys.executable, "-I", "-c", script, *words]


class Tier(ModuleType):
    """All modules of one tier as if they were one: what is patched here is patched wherever it is looked up."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        package = importlib.import_module(f"{SHARED}.webstack.{name}")
        found = [
            importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
        ]
        self.__dict__["undo"] = {}
        self.__dict__["modules"] = found

    def having(self, name: str) -> list[ModuleType]:
        # A module that has imported another one of the tier, under this name, does not have what is meant.
        found = [module for module in self.modules if vars(module).get(name, self.modules[0]) not in self.modules]
        if not found:
            raise AttributeError(name)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.having(name)[0], name)

    def __setattr__(self, name: str, value: Any) -> None:
        changed = [(module, getattr(module, name)) for module in self.having(name)]
        self.undo.setdefault(name, []).append(changed)
        for module, _ in changed:
            setattr(module, name, value)

    def __delattr__(self, name: str) -> None:
        """How monkeypatch takes back what is no entry of this very object."""
        for module, value in self.undo[name].pop():
            setattr(module, name, value)

#!/usr/bin/env python3
"""Which checks can what changed since `main` touch? Prints the stages for tools/check.py, one a line.

A role touches the scenarios that name it, a plugin those of the roles that use it, directly or through others. What
every scenario stands on (the lab, molecule's base, helpers of the tests) touches all.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).resolve().parent.parent
EVERYWHERE = re.compile(
    r"lab/|molecule/shared/|\.config/molecule/|tools/(lab|check|runner|turns)\.|tests/conftest|requirements"
    r"|tests/testinfra/[^/]+$|tests/lab/"
)
PLUGIN = re.compile(
    r"plugins/(?:action|callback|connection|filter|lookup|module_utils|modules|test)/(\w+)\.(?:py|yml)$"
)


def changed(root: pathlib.Path = ROOT) -> list[str]:
    """Files that differ from where this branch left `main`, and those that git does not know yet."""

    def git(*arguments: str) -> list[str]:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=root)
        return done.stdout.splitlines()

    (base,) = git("merge-base", "main", "HEAD")
    return sorted({*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")})


def users(plugin: str, sources: dict[str, str], seen: frozenset[str] = frozenset()) -> set[str]:
    """The roles and playbooks that use a plugin, through other plugins too."""
    word = re.compile(rf"webstack\.ha\.{plugin}\b|module_utils(?:\.| import |/){plugin}\b|\b{plugin}\b.*module_utils")
    found: set[str] = set()
    for path, text in sources.items():
        if not word.search(text):
            continue
        if other := PLUGIN.match(path):
            if other[1] not in seen | {plugin}:
                found |= users(other[1], sources, seen | {plugin})
        else:
            found.add("/".join(path.split("/")[:2]))
    return found


def stages(files: Iterable[str], root: pathlib.Path = ROOT) -> list[str]:
    """Lint and unit for any change, and each scenario that it can touch."""
    files = list(files)
    if not files:
        return []
    scenarios = {
        path.parent.name: "".join(
            p.read_text()
            for folder in (path.parent, root / "tests/testinfra" / path.parent.name)
            for p in folder.glob("*.*")
            if p.suffix in (".yml", ".py")
        )
        for path in root.glob("molecule/*/molecule.yml")
    }
    sources = {
        str(path.relative_to(root)): path.read_text()
        for folder in ("plugins", "roles", "playbooks")
        for path in (root / folder).rglob("*")
        if path.suffix in (".py", ".yml", ".j2") and "/files/" not in str(path)
    }
    touched: set[str] = set()
    wanted = {"lint", "unit"}
    for file in files:
        parts = file.split("/")
        if EVERYWHERE.match(file):
            touched |= set(scenarios)
        elif parts[0] == "molecule" or file.startswith("tests/testinfra/"):
            touched |= {parts[1 if parts[0] == "molecule" else 2]} & set(scenarios)
        elif plugin := PLUGIN.match(file):
            wanted |= {"sanity", "integration"}
            for user in users(plugin[1], sources):
                touched |= of_user(user, scenarios)
        elif parts[0] in ("roles", "playbooks"):
            wanted.add("integration")
            touched |= of_user("/".join(parts[:2]), scenarios)
        elif parts[0] in ("inventories", "examples"):
            wanted.add("integration")
            touched.add("default")
        elif parts[0] == "tests" and parts[1] in ("integration", "equality"):
            wanted.add(parts[1])
    return [*sorted(wanted), *(["images"] if touched else []), *(f"molecule:{name}" for name in sorted(touched))]


def of_user(user: str, scenarios: dict[str, str]) -> set[str]:
    """The scenarios that run a role or a playbook. The whole site runs them all."""
    folder, _, name = user.partition("/")
    name = name.removesuffix(".yml")
    word = re.compile(rf"webstack\.ha\.{name}\b" if folder == "roles" else rf"(?:webstack\.ha\.|playbooks/){name}\b")
    return {"default", *(scenario for scenario, text in scenarios.items() if word.search(text))} & set(scenarios)


if __name__ == "__main__":
    names = stages(changed())
    if not names:
        print("changed: nothing differs from main", file=sys.stderr)
    print("\n".join(names))

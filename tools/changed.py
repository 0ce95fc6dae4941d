#!/usr/bin/env python3
"""Which checks can what changed since `main` touch? Prints the stages for tools/check.py, one a line.

A role touches the scenarios that name it, a plugin those of the roles that use it, directly or through others. A tier
of the host program touches those of the roles and playbooks that call it. What every scenario stands on (the lab,
molecule's base, helpers of the tests, what the tiers share) touches all.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable

ROOT = pathlib.Path(__file__).resolve().parent.parent
EVERYWHERE = re.compile(
    r"lab/|molecule/shared/|\.config/molecule/|tools/(lab|check|runner|turns)\.|tests/\w+\.py$|requirements"
    r"|tests/testinfra/[^/]+$|tests/lab/"
)
PLUGIN = re.compile(
    r"plugins/(?:action|callback|connection|filter|lookup|module_utils|modules|plugin_utils|test)/(\w+)\.(?:py|yml)$"
)

#: A file of the host program, and its folder: a tier, or what the tiers share.
PROGRAM = re.compile(r"plugins/module_utils/webstack/(?:(\w+)/)?\w+\.py$")


def changed(root: pathlib.Path = ROOT) -> list[str]:
    """Files that differ from where this branch left `main`, and those that git does not know yet."""

    def git(*arguments: str) -> list[str]:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=root)
        return done.stdout.splitlines()

    (base,) = git("merge-base", "main", "HEAD")
    return sorted({*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")})


class Project:
    """What the scenarios, roles, playbooks and plugins say, read once."""

    def __init__(self, root: pathlib.Path = ROOT) -> None:
        self.scenarios = {
            path.parent.name: "".join(
                p.read_text()
                for folder in (path.parent, root / "tests/testinfra" / path.parent.name)
                for p in folder.glob("*.*")
                if p.suffix in (".yml", ".py")
            )
            for path in root.glob("molecule/*/molecule.yml")
        }
        self.sources = {
            str(path.relative_to(root)): path.read_text()
            for folder in ("plugins", "roles", "playbooks")
            for path in (root / folder).rglob("*")
            if path.suffix in (".py", ".yml", ".j2") and "/files/" not in str(path)
        }
        self.direct: dict[str, set[str]] = {}
        self.known: dict[str, set[str]] = {}
        self.called: dict[str, set[str]] = {}

    def naming(self, plugin: str) -> set[str]:
        """The files that name a plugin."""
        if plugin not in self.direct:
            word = re.compile(
                rf"webstack\.ha\.{plugin}\b|\b{plugin}\b.*module_utils"
                rf"|(?:module|plugin)_utils(?:\.| import |/){plugin}\b"
            )
            # Most files do not hold the letters at all, which is found sooner.
            self.direct[plugin] = {path for path, text in self.sources.items() if plugin in text and word.search(text)}
        return self.direct[plugin]

    def users(self, plugin: str) -> set[str]:
        """The roles and playbooks that use a plugin, through other plugins too."""
        found: set[str] = set()
        seen, waiting = {plugin}, [plugin]
        while waiting:
            for path in self.naming(waiting.pop()):
                if other := PLUGIN.match(path):
                    if other[1] not in seen:
                        seen.add(other[1])
                        waiting.append(other[1])
                else:
                    found.add("/".join(path.split("/")[:2]))
        return found

    def callers(self, tier: str) -> set[str]:
        """The roles and playbooks that call a tier of the host program, or another tier that imports it."""
        if tier in self.called:
            return self.called[tier]
        imported = re.compile(rf"^from \.\.{tier}\b|^from \.\. import .*\b{tier}\b", re.MULTILINE)
        tiers = {tier} | {
            program[1]
            for path, text in self.sources.items()
            if (program := PROGRAM.match(path)) and imported.search(text)
        }
        # In a line of a shell or a unit, or in the list of a task's words.
        word = re.compile(rf"\bwebstack[\"',]*\s+[\"']?(?:{'|'.join(sorted(tiers))})\b")
        self.called[tier] = {
            "/".join(path.split("/")[:2])
            for path, text in self.sources.items()
            if not path.startswith("plugins/") and word.search(text)
        }
        return self.called[tier]

    def running(self, users: set[str]) -> set[str]:
        """The scenarios that run one of these roles or playbooks, also by another playbook. `default` runs all."""
        if not users:
            return set()
        return {"default"} & set(self.scenarios) | {name for user in users for name in self.of_user(user)}

    def of_user(self, user: str) -> set[str]:
        """The scenarios that name a role or a playbook, or a playbook that names the role."""
        if user not in self.known:
            folder, _, name = user.partition("/")
            name = name.removesuffix(".yml")
            role = rf"webstack\.ha\.{name}\b"
            books = [
                pathlib.Path(path).stem
                for path, text in self.sources.items()
                if folder == "roles" and path.startswith("playbooks/") and re.search(role, text)
            ]
            books += [name] if folder == "playbooks" else []
            word = re.compile("|".join([role, *(rf"(?:webstack\.ha\.|playbooks/){book}\b" for book in books)]))
            self.known[user] = {scenario for scenario, text in self.scenarios.items() if word.search(text)}
        return self.known[user]

    def touched_by(self, file: str) -> set[str]:
        """The scenarios that a file can touch."""
        parts = file.split("/")
        if EVERYWHERE.match(file):
            return set(self.scenarios)
        if parts[0] == "molecule" or file.startswith("tests/testinfra/"):
            return {parts[1 if parts[0] == "molecule" else 2]} & set(self.scenarios)
        if file.startswith("plugins/module_utils/rules/"):
            # Each file has the rules of one role; what else lies there serves all of them.
            role = f"roles/{pathlib.Path(file).stem}"
            return self.running({role}) if f"{role}/tasks/main.yml" in self.sources else set(self.scenarios)
        if program := PROGRAM.match(file):
            if f"plugins/module_utils/webstack/{program[1]}/cli.py" not in self.sources:
                return set(self.scenarios)
            return self.running(self.callers(program[1]))
        if plugin := PLUGIN.match(file):
            return self.running(self.users(plugin[1]))
        if parts[0] in ("roles", "playbooks"):
            return self.running({"/".join(parts[:2])})
        return {"default"} & set(self.scenarios) if parts[0] in ("inventories", "examples") else set()


def stages(files: Iterable[str], root: pathlib.Path = ROOT) -> list[str]:
    """Lint and unit for any change, and each scenario that it can touch."""
    files = list(files)
    if not files:
        return []
    project = Project(root)
    touched: set[str] = set()
    wanted = {"lint", "unit"}
    for file in files:
        touched |= project.touched_by(file)
        parts = file.split("/")
        if parts[0] in ("plugins", "roles", "playbooks", "inventories", "examples"):
            wanted.add("integration")
        elif parts[0] == "tests" and parts[1] in ("integration", "equality"):
            wanted.add(parts[1])
    return [*sorted(wanted), *(["images"] if touched else []), *(f"molecule:{name}" for name in sorted(touched))]


if __name__ == "__main__":
    names = stages(changed())
    if not names:
        print("changed: nothing differs from main", file=sys.stderr)
    print("\n".join(names))

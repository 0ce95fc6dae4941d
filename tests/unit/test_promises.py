"""What the documents name is there: files, chapters, make targets, playbooks, plugins, commands of the host program."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest
import yaml
from ansible_collections.webstack.ha.plugins.module_utils.webstack import cli
from host_programs import command_line

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("roles/*/README.md")),
]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: Plugins and playbooks by their names, which callers put behind webstack.ha.
NAMES = {
    path.stem
    for folder in ("playbooks", "plugins/filter", "plugins/modules", "plugins/action", "plugins/lookup", "plugins/test")
    for path in (ROOT / folder).glob("*.*")
} | {path.name for path in ROOT.glob("roles/*")}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
#: Files that a checkout has only later: made by a run, or the reader's own.
MADE = re.compile(r"^(\.cache|\.pki|\.venv|group_vars|host_vars)/")
#: Where a path in a document may begin: the checkout, a role, the host program.
PLACES = (ROOT, *ROOT.glob("roles/*"), ROOT / "plugins/module_utils")
SPECS = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
VARIABLE = re.compile(rf"\b(?:{'|'.join(path.name for path in ROOT.glob('roles/*'))})_[a-z0-9_]+\b")
VARIABLES = {name for spec in SPECS for entry in spec["argument_specs"].values() for name in entry.get("options", {})}


def names(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: pathlib.Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    found: set[str] = set()
    for line in FENCE.sub("", path.read_text()).splitlines():
        if heading := re.match(r"#+ (.*)", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            found.add(re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_a_link_leads_somewhere(document: pathlib.Path) -> None:
    dead = []
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead, f"{names(document)}: {dead}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_what_a_document_names_is_there(document: pathlib.Path) -> None:
    text = document.read_text()
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *FENCE.findall(text)])
    wrong = [f"make {word}" for word in re.findall(r"^\s*make ([a-z-]+)", code, re.MULTILINE) if word not in TARGETS]
    wrong += [
        f"webstack.ha.{word}"
        for word in re.findall(r"\bwebstack\.ha\.(\w+)", text)
        if word not in NAMES | {"module_utils"}
    ]
    wrong += sorted(set(VARIABLE.findall(code)) - VARIABLES - NAMES)
    for path in re.findall(r"`((?:\w[\w.-]*/)+[\w.-]+\.(?:py|yml|md|sh|j2))(?:::?[\w:]+)?`", text):
        if not MADE.match(path) and not any((place / path).exists() for place in (document.parent, *PLACES)):
            wrong.append(path)
    assert not wrong, f"{names(document)}: {wrong}"


HELP: dict[str, str] = {}


def words_of(tier: str) -> str:
    if tier not in HELP:
        HELP[tier] = subprocess.run(command_line(tier, "--help"), capture_output=True, text=True, check=False).stdout
    return HELP[tier]


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_a_command_of_the_host_program_exists(document: pathlib.Path) -> None:
    text = document.read_text()
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *FENCE.findall(text)])
    wrong = []
    for tier, command in re.findall(r"(?:^|[\s'])webstack ([a-z]+)(?: ([a-z][a-z-]*))?", code, re.MULTILINE):
        if tier == "status":
            continue
        if tier not in cli.TIERS or (command and tier != "app" and not re.search(rf"\b{command}\b", words_of(tier))):
            wrong.append(f"{tier} {command}")
    assert not wrong, f"{names(document)}: {wrong}"

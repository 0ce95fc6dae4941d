"""Rules for the tests that use hosts of a lab; CONTRIBUTING.md has them in words."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests/testinfra").rglob("*.py"))
#: What asks a host or runs something, by the last part of its name.
ASKS = {"on", "docker", "run", "play", "lb", "sql", "query", "cli", "status", "urlopen", "check_output"}


def names(file: pathlib.Path) -> str:
    return str(file.relative_to(ROOT))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2], node


def constant(node: ast.expr) -> float | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) else None


@pytest.mark.parametrize("file", FILES, ids=names)
def test_the_engine_is_called_in_one_way(file: pathlib.Path) -> None:
    """containers.py has it; only what goes on while a test looks (Popen) is started elsewhere."""
    if file.name == "containers.py":
        return
    raw = [
        node.lineno
        for name, node in calls(ast.parse(file.read_text()))
        if name in ("run", "check_output", "check_call", "call")
        and node.args
        and isinstance(node.args[0], ast.List)
        and node.args[0].elts
        and isinstance(node.args[0].elts[0], ast.Constant)
        and node.args[0].elts[0].value == "docker"
    ]
    assert not raw, f"{names(file)}: lines {raw}: use containers.docker or containers.on"


@pytest.mark.parametrize("file", FILES, ids=names)
def test_a_long_sleep_has_its_reason_beside_it(file: pathlib.Path) -> None:
    lines = file.read_text().splitlines()
    bare = []
    for name, node in calls(ast.parse("\n".join(lines))):
        seconds = constant(node.args[0]) if name == "sleep" and node.args else None
        if seconds and seconds > 5 and not any("#" in line for line in lines[node.lineno - 2 : node.lineno]):
            bare.append(node.lineno)
    bare += [
        number
        for number, line in enumerate(lines, 1)
        for seconds in re.findall(r"\bsleep (\d+)", line)
        if int(seconds) > 5
        and "#" not in line
        and "#" not in lines[number - 2]
        and not re.search(r"sleep \d{3,}", line)
    ]
    assert not bare, f"{names(file)}: lines {bare}"


@pytest.mark.parametrize("file", FILES, ids=names)
def test_a_poll_pauses(file: pathlib.Path) -> None:
    busy, text = [], file.read_text()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.While) or "# paces itself" in (ast.get_source_segment(text, node) or ""):
            continue
        inside = dict(calls(node))
        pauses = [constant(call.args[0]) for name, call in calls(node) if name in ("sleep", "wait") and call.args]
        if inside.keys() & ASKS and not any(pause is None or pause >= 0.2 for pause in pauses):
            busy.append(node.lineno)
    assert not busy, f"{names(file)}: lines {busy}: a loop that asks pauses for 0.2 s"


@pytest.mark.parametrize("file", FILES, ids=names)
def test_no_test_installs_packages(file: pathlib.Path) -> None:
    assert "apt-get install" not in file.read_text(), f"{names(file)}: the warm image has what a test needs"

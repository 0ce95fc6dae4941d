"""The examples in the filters' documentation run, and give what is written below them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.webstack.ha.plugins.filter import ring

DIRECTORY = Path(ring.__file__).parent
NAMES = sorted(ring.FilterModule().filters())


def documentation(name: str) -> dict[str, Any]:
    return yaml.safe_load((DIRECTORY / f"{name}.yml").read_text(encoding="utf-8"))


def examples(name: str) -> list[tuple[str, dict[str, Any], str | None]]:
    """Return template, variables and promised result (in YAML, "# -> " and lines after it) of each example."""
    text = documentation(name)["EXAMPLES"]
    found = []
    for block in re.split(r"\n(?=- name)", text):
        (task,) = yaml.safe_load(block)
        arguments = task.get("ansible.builtin.debug") or task["ansible.builtin.copy"]
        promised = re.search(r"^# -> (.*(?:\n# .*)*)", block, re.MULTILINE)
        found.append(
            (
                arguments.get("msg") or arguments["content"],
                task.get("vars", {}),
                promised and re.sub(r"\n#", "\n", promised[1]),
            )
        )
    return found


@pytest.mark.parametrize(
    ("name", "template", "variables", "promised"),
    [(name, *example) for name in NAMES for example in examples(name)],
)
def test_examples_give_what_they_promise(
    name: str, template: str, variables: dict[str, Any], promised: str | None
) -> None:
    assert f"webstack.ha.{name}" in template
    result = Templar(loader=DataLoader(), variables=variables).template(trust_as_template(template))
    if promised is None:
        assert name == "ring_report", "an example without a result, of a filter whose result is short"
        assert result.startswith("<!DOCTYPE html>")
    else:
        assert result == yaml.safe_load(promised)


@pytest.mark.parametrize("name", NAMES)
def test_options_are_those_of_the_function(name: str) -> None:
    described = documentation(name)["DOCUMENTATION"]
    function = getattr(ring, name)
    names = list(function.__annotations__)[1:-1]
    assert ["_input", *names] == list(described["options"])
    assert described.get("positional", "").replace(",", " ").split() == [
        option for option in names if described["options"][option].get("required")
    ]

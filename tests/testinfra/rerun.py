"""Ansible run by a test as an operator runs it: with the project's settings and none of molecule's."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def play(
    scenario: str,
    *options: str,
    book: str | pathlib.Path = "",
    inventory: str | pathlib.Path = "",
    result_format: str = "yaml",
    **variables: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a playbook (a path from the root; else the scenario's own once more), with other inputs, on its hosts."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PY_COLORS"))}
    folder = ROOT / "molecule" / scenario
    command = ["ansible-playbook", "-i", str(inventory or folder / "inventory.yml")]
    command.append(str(ROOT / (book or folder / "converge.yml")))
    if variables:
        command += ["--extra-vars", json.dumps(variables)]
    return subprocess.run(
        [*command, *options],
        capture_output=True,
        check=False,
        text=True,
        cwd=ROOT,
        env=environment | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": result_format},
    )


def refusals(
    role: str,
    host: str,
    inputs: Sequence[dict[str, Any]],
    folder: pathlib.Path,
    scenario: str = "",
    *,
    reworded: int = 0,
) -> list[str]:
    """Give the role of a scenario each bad input in turn, in one play that changes nothing; return what it says.

    `reworded` counts those that the role rescues itself, to say them in other words.
    """
    tasks = [
        {
            "name": f"Case {number}",
            "block": [
                {
                    "name": "Run the role",
                    "ansible.builtin.include_role": {"name": f"webstack.ha.{role}"},
                    "vars": variables,
                }
            ],
            "rescue": [
                {
                    "name": "Show the refusal",
                    "ansible.builtin.debug": {"msg": f"case {number}: {{{{ ansible_failed_result | to_json }}}}"},
                }
            ],
        }
        for number, variables in enumerate(inputs)
    ]
    book = folder / "refusals.yml"
    book.write_text(json.dumps([{"hosts": host, "gather_facts": False, "tasks": tasks}]))
    result = play(scenario or role, book=book, result_format="json")
    assert "changed=0" in result.stdout, result.stdout
    assert f"rescued={len(inputs) + reworded}" in result.stdout, result.stdout
    lines = result.stdout.splitlines()
    return [next(line for line in lines if f"case {number}:" in line) for number in range(len(inputs))]


def assert_refused(
    role: str, host: str, cases: Sequence[tuple[dict[str, Any], str]], folder: pathlib.Path, scenario: str = ""
) -> None:
    """Give the role of a scenario each bad input in turn: it says what is wrong and changes nothing."""
    answers = refusals(role, host, [variables for variables, _message in cases], folder, scenario)
    for said, (_variables, message) in zip(answers, cases, strict=True):
        assert message in said, said

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the database hosts answered when was_django asked them to mark the moment before a migration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.derived import Role


def made(role: Role) -> dict[str, str]:
    """Return the transaction that is the mark, or empty and why there is none."""
    gtid, why = "", []
    for answer in role["__was_django_marked"]["results"]:
        found, said = _read(answer)
        gtid = gtid or found
        why.append(f"{answer['__was_django_mark_host']}: {said}")
    return {"gtid": gtid, "why": "; ".join(why)}


def _read(answer: Mapping[str, Any]) -> tuple[str, str]:
    if answer.get("unreachable"):
        return "", "gives no answer"
    text = str(answer.get("stdout") or "")
    if answer.get("rc") != 0:
        said = f"{text}\n{answer.get('stderr') or answer.get('msg') or ''}".strip()
        return "", said.splitlines()[-1].strip() if said else f"exit code {answer.get('rc')}"
    marks = json.loads(text)["marks"]
    return (str(marks[0]["gtid"]), "marked") if marks else ("", "is a replica")

"""The one form of what the program of the hosts prints as JSON."""

from __future__ import annotations

import json
import re
from typing import Any

TIERS = {"db", "backup", "cache", "app", "vip", "lb", "tls", "media", "quorum"}


def document(text: str) -> dict[str, Any]:
    """Read a document; an AssertionError says what is not as the form has it (docs/host-program.md)."""
    said = json.loads(text)
    assert isinstance(said, dict), said
    assert said["format"] == 1, said
    assert isinstance(said["version"], str) and said["version"], said
    assert isinstance(said["changed"], bool), said
    assert isinstance(said["problems"], list), said
    for problem in said["problems"]:
        assert set(problem) == {"tier", "what", "text"}, problem
        assert problem["tier"] in TIERS, problem
        assert re.fullmatch(r"[a-z][a-z0-9_]*", problem["what"]), problem
        assert isinstance(problem["text"], str) and problem["text"].strip(), problem
    return said

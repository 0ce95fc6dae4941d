# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `webstack status` shows of a tier: one line, and what is wrong. The form is the same for all tiers."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The format of the documents that `--json` prints. A reader refuses a higher number than it knows.
FORMAT = 1


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a word for programs, which never changes, and a sentence for people."""

    what: str
    text: str


@dataclass
class Summary:
    """One line for a person, and what is wrong."""

    line: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, what: str, text: object) -> None:
        """Note what is wrong. An empty text means that nothing is."""
        if text:
            self.findings.append(Finding(what, str(text)))


def newer(message: Mapping[str, Any], known: int) -> str:
    """Say why a balancer's message cannot be understood, or nothing. One without a number is of the first format."""
    number = message.get("format", 1)
    if isinstance(number, int) and number <= known:
        return ""
    return f"speaks format {number} and this host {known}: run the role on all balancers"


def version() -> str:
    """Return the name of the directory that this program runs from: the digest of its content."""
    return pathlib.Path(__file__).resolve().parents[2].name


def document(found: Mapping[str, Summary], changed: bool = False, **more: Any) -> dict[str, Any]:
    """Return what a command prints as JSON: the same keys for all tiers, and its own beside them."""
    problems = [
        {"tier": tier, "what": finding.what, "text": finding.text}
        for tier, summary in found.items()
        for finding in summary.findings
    ]
    return dict(format=FORMAT, version=version(), changed=changed, problems=problems, **more)

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the rules of every role are made of: a problem, and settings of which some may be missing.

Each module beside this one is named after a role and has one function, problems(settings). It needs the standard
library only, and looks at nothing but the settings: what the host is, the role asks the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_DIRECTORY = re.compile(r"(/[^/\s]+)+")
_VARIABLE = re.compile(r"[a-z][a-z0-9_]*")


class Problem(NamedTuple):
    """A setting that cannot work. The text is a sentence that begins with the variable."""

    variable: str
    text: str

    @property
    def message(self) -> str:
        """The text without the variable, for a report that names it already."""
        rest = self.text.removeprefix(self.variable)
        if rest.startswith((",", " and ")):
            return self.text  # it names several variables
        return rest.removeprefix(".").removeprefix(":").strip()


class Missing(KeyError):
    """A setting that is not there, or that is refused already."""


class Settings(Mapping[str, Any]):
    """Settings that tell a missing one from a missing key of a value."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise Missing(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


Rule = Callable[[Settings], Iterable[str]]


def collect(settings: Mapping[str, Any], *rules: Rule) -> list[Problem]:
    """Return what the rules say. A rule ends where a setting is missing: that is reported as itself."""
    known = Settings(settings)
    found: dict[Problem, None] = {}
    for rule in (*rules, _metrics_directory):
        try:
            for text in rule(known):
                found[said(text)] = None
        except Missing:
            continue
    return list(found)


def _metrics_directory(settings: Settings) -> Iterator[str]:
    """Say where no metrics can be written; every role with a tier on the hosts has this setting."""
    for name in settings:
        directory = settings[name]
        if name.endswith("_metrics_directory") and directory and not _DIRECTORY.fullmatch(directory):
            yield f"{name} must be an absolute path without spaces, or empty; it is {directory}"


def said(text: str) -> Problem:
    """Return the problem of a sentence that begins with a variable."""
    match = _VARIABLE.match(text)
    return Problem(match[0] if match else "", text)


def within(settings: Settings, name: str, lowest: float, highest: float) -> Iterator[str]:
    """Say that a number is out of its range."""
    if not lowest <= settings[name] <= highest:
        yield f"{name} is not within {lowest:g}-{highest:g}"


def at_least(settings: Settings, lowest: float, *names: str) -> Iterator[str]:
    """Say which numbers are too small."""
    for name in names:
        if name in settings and not settings[name] >= lowest:
            yield f"{name} must be {lowest:g} or more, not {settings[name]:g}"

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the settings that a role wrote for its tier, and names the file and the key when one is missing."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from . import files
from .errors import Problem

T = TypeVar("T")
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "yes or no", list: "a list", dict: "a table"}
_YES_NO = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_READERS: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: lambda text: _YES_NO[text.lower()]}


class Missing(Problem, KeyError):
    """The key does not exist. `get` returns its default then."""

    __str__ = Exception.__str__


class Settings(Mapping[str, Any]):
    """A table of settings. If a key is missing or of the wrong type, a Problem names file and key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self.where = where

    def __getitem__(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            raise Missing(f"{self.where} has no {key!r}: run the role that writes it again") from None

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def typed(self, key: str, kind: type[T]) -> T:
        """Return a value of this type. A whole number is a number too. A text may hold a number, or yes or no.

        INI inventories and Ansible's command line give only texts, and templates pass them on.
        """
        value = self[key]
        if isinstance(value, str) and kind in _READERS:
            with contextlib.suppress(ValueError, KeyError):
                value = _READERS[kind](value.strip())
        if kind is float and type(value) is int:
            value = float(value)
        # In Python True is an int, so a flag would pass as a number.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Problem(f"{self.where}: {key!r} has to be {_WORDS.get(kind, kind.__name__)}, it is {value!r}")
        return value

    def text(self, key: str) -> str:
        return self.typed(key, str)

    def whole(self, key: str) -> int:
        return self.typed(key, int)

    def number(self, key: str) -> float:
        return self.typed(key, float)

    def flag(self, key: str) -> bool:
        return self.typed(key, bool)

    def words(self, key: str) -> list[str]:
        """Return a list of texts."""
        found = self.typed(key, list)
        if not all(isinstance(word, str) for word in found):
            raise Problem(f"{self.where}: {key!r} has to be a list of texts")
        return list(found)

    def table(self, key: str) -> Settings:
        return Settings(self.typed(key, dict), f"{self.where}, {key}")

    def tables(self, key: str) -> list[Settings]:
        found = self.typed(key, list)
        for number, entry in enumerate(found):
            if not isinstance(entry, dict):
                raise Problem(f"{self.where}: {key}[{number}] has to be a table")
        return [Settings(entry, f"{self.where}, {key}[{number}]") for number, entry in enumerate(found)]


def load(path: str | os.PathLike[str], role: str) -> Settings:
    """Read the settings file that this role writes."""
    where = os.fspath(path)
    text = files.read(path)
    if text is None:
        raise Problem(f"{where} is missing: the role {role} writes it")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Problem(f"{where} is broken ({error}): run the role {role} again") from None
    if not isinstance(data, dict):
        raise Problem(f"{where} is no table: run the role {role} again")
    return Settings(data, where)

# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a caller of webstack.ha.files may say, checked on the controller before any host is touched."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

STATES = ("file", "directory", "link", "absent")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

# Which keys mean something in which state; anything else is a typing error worth stopping for.
KEYS: dict[str, frozenset[str]] = {
    "file": frozenset(
        {"dest", "state", "src", "content", "force", "mode", "owner", "group", "validate", "vars", "secret"}
    ),
    "directory": frozenset({"dest", "state", "mode", "owner", "group", "purge"}),
    "link": frozenset({"dest", "state", "src", "owner", "group"}),
    "absent": frozenset({"dest", "state", "recursive", "secret"}),
}
ALL_KEYS = frozenset().union(*KEYS.values())


def boolean(value: Any, where: str) -> bool:
    """Return value as a truth value; a word that is none is an error."""
    if isinstance(value, bool):
        return value
    try:
        return BOOLEANS[str(value).strip().lower()]
    except KeyError:
        raise ValueError(f"{where}: expected true or false, got {value!r}") from None


def command(value: Any, where: str, placeholder: bool) -> list[str]:
    """Return a validation command as a list of words; no shell ever sees it."""
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as exc:
            raise ValueError(f"{where}: {exc} in {value!r}") from exc
    elif isinstance(value, Sequence):
        words = [str(word) for word in value]
    else:
        raise ValueError(f"{where}: expected a command as text or a list of words, got {value!r}")
    if not words or not words[0]:
        raise ValueError(f"{where}: the command is empty")
    if placeholder and not any("%s" in word for word in words):
        raise ValueError(f"{where}: the command needs %s, the name of the copy to check")
    return words


def _mode(value: Any, where: str) -> int:
    # An unquoted 0644 arrives as the number 420 and an unquoted 644 as 644: the second is a mistake
    # that cannot be told from a wish, so numbers are refused altogether.
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3,4}", value):
        raise ValueError(f'{where}: mode must be quoted octal digits such as "0644", got {value!r}')
    return int(value, 8)


def _path(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"{where}: dest must be an absolute path, got {value!r}")
    if ".." in value.split("/"):
        raise ValueError(f"{where}: dest must not contain '..', got {value!r}")
    path = "/" + posixpath.normpath(value).lstrip("/")
    if path == "/":
        raise ValueError(f"{where}: dest must not be the root directory")
    return path


def _name(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or str(value).strip() == "":
        raise ValueError(f"{where}: expected a name or a number, got {value!r}")
    return str(value)


def _patterns(value: Any, where: str) -> list[str]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, Sequence) or not all(isinstance(one, str) and one for one in patterns):
        raise ValueError(f"{where}: expected a pattern of file names or a list of them, got {value!r}")
    for pattern in patterns:
        if "/" in pattern:
            raise ValueError(f"{where}: a pattern fits names in the directory itself, got {pattern!r}")
    return [str(pattern) for pattern in patterns]


def entry(raw: Any, index: int) -> dict[str, Any]:
    """Return one checked entry with every default filled in."""
    where = f"files[{index}]"
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}: expected a dictionary, got {type(raw).__name__}")
    given = {str(key): value for key, value in raw.items() if value is not None}
    if given.get("dest"):
        where = f"files[{index}] ({given['dest']})"

    unknown = sorted(set(map(str, raw)) - ALL_KEYS)
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(ALL_KEYS))}")
    if "dest" not in given:
        raise ValueError(f"{where}: dest is required")
    state = given.get("state", "file")
    if state not in STATES:
        raise ValueError(f"{where}: state must be one of {', '.join(STATES)}, got {state!r}")
    misplaced = sorted(set(given) - KEYS[state])
    if misplaced:
        raise ValueError(f"{where}: {', '.join(misplaced)} means nothing with state {state}")

    item: dict[str, Any] = {"state": state, "dest": _path(given["dest"], where)}
    if state in ("file", "directory"):
        item["mode"] = _mode(given.get("mode", "0755" if state == "directory" else "0644"), where)
    if state != "absent":
        item["owner"] = _name(given.get("owner", "root"), f"{where}: owner")
        item["group"] = _name(given.get("group", "root"), f"{where}: group")
    if state == "absent":
        item["recursive"] = boolean(given.get("recursive", False), f"{where}: recursive")
    if state in ("file", "absent"):
        item["secret"] = boolean(given.get("secret", False), f"{where}: secret")
    if "purge" in given:
        item["purge"] = _patterns(given["purge"], f"{where}: purge")
    if state == "link":
        if not isinstance(given.get("src"), str) or not given["src"]:
            raise ValueError(f"{where}: state link needs src, where the link points to")
        item["target"] = str(given["src"])
    if state == "file":
        if ("src" in given) == ("content" in given):
            raise ValueError(f"{where}: give exactly one of src and content")
        if "src" in given:
            if not isinstance(given["src"], str) or not given["src"]:
                raise ValueError(f"{where}: src must be the name of a file, got {given['src']!r}")
            item["src"] = str(given["src"])
        else:
            content = given["content"]
            if isinstance(content, bool) or not isinstance(content, (str, int, float)):
                raise ValueError(
                    f"{where}: content must be text, got {type(content).__name__}; use to_json or to_nice_yaml"
                )
            item["content"] = str(content)
        item["force"] = boolean(given.get("force", True), f"{where}: force")
        variables = given.get("vars", {})
        if not isinstance(variables, Mapping):
            raise ValueError(f"{where}: vars must be a dictionary, got {type(variables).__name__}")
        item["vars"] = dict(variables)
        if "validate" in given:
            item["validate"] = command(given["validate"], f"{where}: validate", placeholder=True)
    return item


def entries(raw: Any) -> list[dict[str, Any]]:
    """Return the checked entries of a whole call."""
    if isinstance(raw, (str, Mapping)) or not isinstance(raw, Sequence):
        raise ValueError(f"files: expected a list of dictionaries, got {type(raw).__name__}")
    items = [entry(one, index) for index, one in enumerate(raw)]
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        first = seen.setdefault(item["dest"], index)
        if first != index:
            raise ValueError(f"files[{index}] ({item['dest']}): dest stands already in files[{first}]")
    closed = {item["dest"] for item in items if item["state"] in ("absent", "file")}
    for index, item in enumerate(items):
        parent = posixpath.dirname(item["dest"])
        while parent != "/":
            if parent in closed and item["state"] != "absent":
                raise ValueError(
                    f"files[{index}] ({item['dest']}): lies under files[{seen[parent]}] ({parent}),"
                    f" which is no directory"
                )
            parent = posixpath.dirname(parent)
    return items


def settled(raw: Any) -> dict[str, Any]:
    """Return what has to hold on a host on which nothing is left to do: states of units, and commands that succeed."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"settled: expected a dictionary, got {type(raw).__name__}")
    unknown = sorted(set(map(str, raw)) - {"units", "commands"})
    if unknown:
        raise ValueError(f"settled: unknown key {', '.join(unknown)}; known are commands, units")
    units = raw.get("units") or []
    commands = raw.get("commands") or []
    for name, value in (("units", units), ("commands", commands)):
        if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
            raise ValueError(f"settled.{name}: expected a list, got {type(value).__name__}")
    return {
        "units": [_unit(unit, f"settled.units[{index}]") for index, unit in enumerate(units)],
        "commands": [
            command(words, f"settled.commands[{index}]", placeholder=False) for index, words in enumerate(commands)
        ],
    }


def _unit(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}: expected a dictionary, got {type(raw).__name__}")
    unknown = sorted(set(map(str, raw)) - {"name", "enabled", "running"})
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; known are enabled, name, running")
    name = raw.get("name")
    if not isinstance(name, str) or "." not in name or name.startswith("-"):
        raise ValueError(f"{where}: name must be a unit with its ending, such as nginx.service, got {name!r}")
    # Not said is not asked.
    wanted = {key: boolean(raw[key], f"{where}: {key}") for key in ("enabled", "running") if raw.get(key) is not None}
    return {"name": str(name), **wanted}

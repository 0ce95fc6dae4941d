# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Says whether two releases ask for the very same packages, so that the newer one may copy those of the older one."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Sequence

from ..core.errors import Problem

#: Options of pip that may stand in a file of requirements, and change nothing in what is asked for at another time.
VALUED = (
    "-i|--index-url|--extra-index-url|-f|--find-links|--trusted-host|--only-binary|--no-binary|--retries|--timeout"
    "|--cert|--use-feature"
)
FLAGS = "--no-index|--pre|--prefer-binary|--require-hashes|--no-cache-dir"
SETTINGS = re.compile(rf"(?:{VALUED}|{FLAGS})(?:[= ]|$)")
OTHER_FILE = re.compile(r"(?:-r|-c|--requirement|--constraint)[= ]?\s*(\S+)$")
#: One package by its name, with its extras, its versions, its marker and its hashes.
NAMED = re.compile(
    r"(?!\S*\.(?:whl|zip|t?[gbx]z2?)\b)[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[[^\]@/]*\])?\s*(?:[(<>=!~;][^@/]*)?$"
)


def digest(python: str, words: Sequence[str], source: pathlib.Path) -> str:
    """Return a name for what is asked for, or nothing where the same words may mean other packages another time.

    `python` is what the environment is made of, `words` are those of `pip install`, whose files lie in `source`. A
    path, an address or a project of the release itself is built anew each time.
    """
    lines = list(_lines_of_words(words, source))
    if None in lines:
        return ""
    return hashlib.sha256(json.dumps([python, *lines]).encode()).hexdigest()


def _lines_of_words(words: Sequence[str], source: pathlib.Path) -> Iterator[str | None]:
    value = False
    for word in words:
        if value:
            value = False
            yield word
        elif re.fullmatch(VALUED, word):
            value = True
            yield word
        else:
            yield from _line(word, source, source, frozenset())


def _line(
    line: str, folder: pathlib.Path, source: pathlib.Path, within: frozenset[pathlib.Path]
) -> Iterator[str | None]:
    if found := OTHER_FILE.match(line):
        yield from _file(folder / found[1], source, within)
    elif SETTINGS.match(line) or NAMED.match(re.sub(r"\s--hash=\S+", "", line)):
        yield line
    else:
        yield None


def _file(path: pathlib.Path, source: pathlib.Path, within: frozenset[pathlib.Path]) -> Iterator[str | None]:
    """Yield the lines of a file of requirements and of those that it names. One outside of the release may change."""
    path = path.resolve()
    if not path.is_relative_to(source.resolve()) or not path.is_file():
        yield None
        return
    if path in within:
        raise Problem(f"{path.relative_to(source.resolve())} names itself")
    # A line that ends with a backslash goes on.
    text = re.sub(r"\\\r?\n", " ", path.read_text(errors="replace"))
    for raw in text.splitlines():
        if line := " ".join(re.sub(r"(^|\s)#.*", "", raw).split()):
            yield from _line(line, path.parent, source, within | {path})

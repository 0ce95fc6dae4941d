"""The documents use the words of docs/glossary.md, and none that it says are not ours."""

from __future__ import annotations

import ast
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs/glossary.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("roles/*/README.md")]
PROGRAM = [*ROOT.glob("plugins/module_utils/webstack/**/*.py")]
ROW = re.compile(r"^\| (?P<word>[^|]+?) \|[^|]+\|(?P<other>[^|]*)\|$", re.MULTILINE)
_HEAD, *ROWS = [
    (row["word"], [other.strip() for other in row["other"].split(",") if other.strip()])
    for row in ROW.finditer(GLOSSARY.read_text())
]
WORDS = [word for word, _ in ROWS]
OTHERS = [other for _, others in ROWS for other in others]


def prose(text: str) -> str:
    """Return a document without its code and without the targets of its links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)


def said(source: str) -> str:
    """Return the docstrings and comments of a module, without the lines that list its commands."""
    lines = [
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
        for line in (ast.get_docstring(node) or "").splitlines()
        if not line.startswith("  webstack ")
    ]
    comments = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return "\n".join([*lines, *comments])


TEXTS = {path: prose(path.read_text()) for path in DOCUMENTS if path != GLOSSARY}
COMMENTS = {path: prose(said(path.read_text())) for path in PROGRAM}


def found(word: str, text: str) -> bool:
    """Say whether a word stands in a text, in the plural too, over a line break too. VIP is not `vip`."""
    parts = r"\s+".join(re.escape(part) for part in word.split())
    return re.search(rf"\b{parts}(?:e?s)?\b", text, 0 if word.isupper() else re.IGNORECASE) is not None


def test_the_words_stand_once_and_in_order() -> None:
    assert sorted(set(WORDS)) == WORDS
    assert len(WORDS) > 30 and len(OTHERS) > 8
    assert not set(WORDS) & set(OTHERS)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_used(word: str) -> None:
    assert any(found(word, text) for text in TEXTS.values()), f"no document uses '{word}'"


@pytest.mark.parametrize("other", OTHERS)
def test_a_word_that_is_not_ours_stands_nowhere(other: str) -> None:
    where = [str(path.relative_to(ROOT)) for path, text in {**TEXTS, **COMMENTS}.items() if found(other, text)]
    assert not where, f"'{other}': see docs/glossary.md"


def test_it_is_linked_where_a_reader_begins() -> None:
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text()
    assert "(glossary.md)" in (ROOT / "docs/architecture.md").read_text()

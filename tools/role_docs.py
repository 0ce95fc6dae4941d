#!/usr/bin/env python3
"""Write what is known about variables from the specifications, so that each is described once.

tools/role_docs.py            tables between the markers in every role's README.md and docs/architecture.md, and the
                              comments in every role's defaults/main.yml
tools/role_docs.py --check    write nothing, exit 1 when one is out of date
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN = "<!-- variables:begin -->"
END = "<!-- variables:end -->"
#: A default longer than this is shown below the table's line, in the description.
LONGEST_DEFAULT = 60
#: Of a comment in the defaults.
WIDTH = 118
#: A line of the defaults that begins an input. One without a default is commented out.
INPUT = re.compile(r"(?:# ?)?([a-z][a-z0-9_]*):(?:\s|$)")
SECTION = "# ---"

Spec = Mapping[str, Any]


def plain(text: Any) -> str:
    """Return a description in Markdown, on one line: Ansible's C(x), B(x) and the like become code and bold."""
    parts = text if isinstance(text, list) else [text or ""]
    line = " ".join(" ".join(str(part).split()) for part in parts)
    line = re.sub(r"\b[COVEP]\(((?:[^()\\]|\\.)*)\)", r"`\1`", line)
    line = re.sub(r"\bB\(([^()]*)\)", r"**\1**", line)
    line = re.sub(r"\bI\(([^()]*)\)", r"*\1*", line)
    line = re.sub(r"\bM\(([^()]*)\)", r"`\1`", line)
    line = re.sub(r"\bU\(([^()]*)\)", r"<\1>", line)
    return line


def cell(text: str) -> str:
    """Return text that cannot end a table's cell."""
    return text.replace("|", "\\|")


def literal(value: Any) -> str:
    """Return a value as a person writes it in YAML, on one line."""
    if isinstance(value, str) and value == "":
        return '""'
    if isinstance(value, str):
        return " ".join(value.split())
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def kind(spec: Spec) -> str:
    """Return the type, with that of the elements."""
    name = str(spec.get("type", "str"))
    return f"{name} of {spec['elements']}" if name == "list" and "elements" in spec else name


def code(text: str) -> str:
    """Return inline code, with a fence that the text does not contain."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def meaning(spec: Spec) -> str:
    """Return the description, with the choices."""
    text = plain(spec.get("description"))
    if spec.get("choices"):
        text += " One of " + ", ".join(code(literal(choice)) for choice in spec["choices"]) + "."
    return text


def rows(options: Mapping[str, Spec], parent: str = "") -> Iterator[str]:
    """Yield a line for each option and, below it, for the keys of its mappings."""
    for name, spec in options.items():
        description = meaning(spec)
        if spec.get("required"):
            default = "**required**"
            if spec.get("groups"):
                default += " with " + ", ".join(code(group) for group in spec["groups"])
        elif spec.get("default") is None:
            default = ""
        elif len(literal(spec["default"])) > LONGEST_DEFAULT:
            default = "see right"
            description += f" Default: {code(literal(spec['default']))}"
        else:
            default = code(literal(spec["default"]))
        shown = f"&nbsp;&nbsp;{code(parent + name)}" if parent else code(name)
        if spec.get("no_log"):
            description += " Secret."
        yield f"| {shown} | {kind(spec)} | {cell(default)} | {cell(description)} |"
        if isinstance(spec.get("options"), Mapping):
            # Below a variable its keys show the way from there: `[].nodes[].port`.
            suffix = "[]." if spec.get("type") == "list" else "."
            yield from rows(spec["options"], f"{parent}{name}{suffix}" if parent else suffix)


def table(options: Mapping[str, Spec]) -> str:
    """Return the whole table."""
    head = ["| Variable | Type | Default | Meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows(options)])


def role_tables(specs: Mapping[str, Any]) -> str:
    """Return the table of the main entry point, and one for each other that has inputs of its own."""
    main = (specs.get("main") or {}).get("options") or {}
    texts = [table(main)]
    for name, entry in specs.items():
        own = {key: spec for key, spec in (entry.get("options") or {}).items() if key not in main}
        if name != "main" and own:
            texts.append(f"Only for `tasks_from: {name}` ({plain(entry.get('short_description'))}):\n\n{table(own)}")
    return "\n\n".join(texts)


def filled(text: str, content: str) -> str | None:
    """Return text with content between the markers, or None when it has no markers."""
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        return None
    return f"{text[: start + len(BEGIN)]}\n\n{content}\n\n{text[end:]}"


def keys(spec: Spec) -> str:
    """Return the keys of a mapping, or of each in a list, and of the mappings in it."""
    options: Mapping[str, Spec] = spec.get("options") or {}
    parts = []
    for needed, words in ((True, "has"), (False, "may have")):
        names = []
        for name, inner in options.items():
            if bool(inner.get("required")) == needed:
                own = keys(inner)
                names.append(f"{code(name)} ({own[0].lower()}{own[1:]})" if own else code(name))
        if names:
            parts.append(f"{words} {', '.join(names)}")
    who = "Each" if spec.get("type") == "list" else "It"
    return f"{who} {', and '.join(parts)}" if parts else ""


def comment(spec: Spec) -> list[str]:
    """Return the comment above an input."""
    text = meaning(spec)
    if shape := keys(spec):
        text += f" {shape}."
    if spec.get("no_log"):
        text += " Secret."
    if spec.get("required"):
        text += " Required."
    return textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


def commented(text: str, options: Mapping[str, Spec]) -> str:
    """Return a role's defaults with the comments that the specifications give. Sections and values stay."""
    lines: list[str] = []
    for line in text.splitlines():
        match = INPUT.match(line)
        if line.startswith(SECTION):
            lines += [line] if lines[-1:] == ["---"] else ["", line]
        elif match and match[1] in options:
            lines += ["", *comment(options[match[1]]), line]
        elif match and not line.startswith("#"):
            raise ValueError(f"{match[1]}: no specification")
        elif line and not line.startswith("#"):
            lines.append(line)
    # A first input without a section stands below the head.
    if lines[:2] == ["---", ""]:
        del lines[1]
    return "\n".join(lines) + "\n"


def documents(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, str, str | None]]:
    """Yield each document, its text, and the text that it should have: None when the markers are missing."""
    for path in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        readme, defaults = path.parent.parent / "README.md", path.parent.parent / "defaults/main.yml"
        text = read(readme)
        yield readme, text, filled(text, role_tables(specs))
        text = read(defaults)
        yield defaults, text, commented(text, specs["main"]["options"])
    site = yaml.safe_load(read(root / "meta/site_specs.yml"))
    text = read(root / "docs/architecture.md")
    yield root / "docs/architecture.md", text, filled(text, table(site["options"]))


def read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write or check; return the exit code."""
    parser = argparse.ArgumentParser(description="Write tables and comments from the specifications.")
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing, fail when one is out of date",
    )
    check = parser.parse_args(arguments).check
    bad = 0
    for path, text, wanted in documents(ROOT):
        name = path.relative_to(ROOT)
        if wanted is None:
            print(f"role_docs: {name} has no lines {BEGIN} and {END}", file=sys.stderr)
            bad += 1
        elif wanted != text:
            if check:
                print(
                    f"role_docs: {name} is out of date: run `make docs`",
                    file=sys.stderr,
                )
                bad += 1
            else:
                path.write_text(wanted, encoding="utf-8")
                print(f"role_docs: wrote {name}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

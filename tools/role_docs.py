#!/usr/bin/env python3
"""Write the variable tables between the markers, from the specifications.

tools/role_docs.py            every role's README.md, and docs/architecture.md
tools/role_docs.py --check    write nothing, exit 1 when a table is out of date
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN = "<!-- variables:begin -->"
END = "<!-- variables:end -->"
#: A default longer than this is shown below the table's line, in the description.
LONGEST_DEFAULT = 60

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


def rows(options: Mapping[str, Spec], parent: str = "") -> Iterator[str]:
    """Yield a line for each option and, below it, for the keys of its mappings."""
    for name, spec in options.items():
        description = plain(spec.get("description"))
        if spec.get("choices"):
            description += " One of " + ", ".join(code(literal(choice)) for choice in spec["choices"]) + "."
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


def documents(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Yield each document with its table."""
    for specs in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        data = yaml.safe_load(specs.read_text(encoding="utf-8"))["argument_specs"]
        yield specs.parent.parent / "README.md", role_tables(data)
    site = yaml.safe_load((root / "meta/site_specs.yml").read_text(encoding="utf-8"))
    yield root / "docs/architecture.md", table(site["options"])


def main(arguments: list[str]) -> int:
    """Write or check; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the variable tables from the specifications.")
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing, fail when a table is out of date",
    )
    check = parser.parse_args(arguments).check
    bad = 0
    for path, content in documents(ROOT):
        name = path.relative_to(ROOT)
        if not path.is_file():
            print(f"role_docs: {name} is missing", file=sys.stderr)
            bad += 1
            continue
        text = path.read_text(encoding="utf-8")
        wanted = filled(text, content)
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

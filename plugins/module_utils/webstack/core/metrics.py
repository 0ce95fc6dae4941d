# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Metrics in the text format of Prometheus, for the textfile collector of node_exporter."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from . import files

Labels = Mapping[str, str]
#: What the format escapes in a help text, and in the value of a label.
HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
VALUE = HELP | str.maketrans({'"': r"\""})


@dataclass
class Family:
    """One metric: its name without the prefix, its help text, and a value for each set of labels."""

    name: str
    text: str
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> Family:
        self.samples.append((labels, value))
        return self


def render(prefix: str, families: Iterable[Family]) -> str:
    """Return the text. A name that ends in _total is a counter; every other one is a gauge."""
    lines = []
    for family in families:
        name = f"{prefix}_{family.name}"
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {family.text.translate(HELP)}", f"# TYPE {name} {kind}"]
        for labels, value in family.samples:
            inside = ",".join(f'{key}="{word.translate(VALUE)}"' for key, word in labels.items())
            # Whole numbers of any size stay exact.
            number = str(int(value)) if float(value).is_integer() else repr(float(value))
            lines.append(f"{name}{{{inside}}} {number}" if inside else f"{name} {number}")
    return "\n".join(lines) + "\n"


def publish(file: str, text: str) -> None:
    """Write metrics to a file, and make its directory where there is none; an empty name means nowhere."""
    if file:
        folder = pathlib.Path(file).parent
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(0o755)
        files.write(file, text)

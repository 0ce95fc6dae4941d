# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A ring, or a change of it, for people: one HTML page with pictures, and a table for the console.

Pure: no Ansible import, no I/O. Errors are ValueError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from html import escape

from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.ring import SPACE, Ring, arcs

Figures = Mapping[str, Mapping[str, float]]

# The circle of the picture is divided into so many parts, finer than a pixel of a large screen.
PARTS = 36_000
# Colours that people tell apart whatever their eyesight; the style sheet has one more, for all other shards.
COLOURS = 7
# With more shards than that the arcs of one are too small for a ring of its own beside its name.
SMALL_RINGS = 12
RATES = ("hit_rate", "hit_rate_after")
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
MEASURES = ("keys", "keys_after", "memory", "memory_after", "maxmemory", *RATES)


@dataclass
class Row:
    """One shard, before and after."""

    name: str
    weights: tuple[int | None, int | None]
    shares: tuple[Fraction, Fraction]
    due: Fraction
    """What its weight would give it on a perfectly even ring, after the change; before it for a removed shard."""
    figures: Mapping[str, float]
    owned: tuple[list[tuple[int, int]], list[tuple[int, int]]] = field(default_factory=lambda: ([], []))
    """Its arcs before and after."""
    gains: list[tuple[int, int]] = field(default_factory=list)
    losses: list[tuple[int, int]] = field(default_factory=list)

    @property
    def gained(self) -> Fraction:
        return _length(self.gains)

    @property
    def lost(self) -> Fraction:
        return _length(self.losses)

    @property
    def note(self) -> str:
        """What is done to the shard itself, in words."""
        before, after = self.weights
        if before is None:
            return "added" if after == 1 else f"added, weight {after}"
        if after is None:
            return "removed"
        if before != after:
            return f"weight {before} → {after}"
        return "" if after == 1 else f"weight {after}"

    @property
    def fullness(self) -> float:
        """How many times its due the shard has, after the change."""
        return float(self.shares[1] / self.due) if self.weights[1] is not None else 0.0


@dataclass
class Report:
    """What both forms of the report say."""

    old: Ring
    new: Ring
    rows: list[Row]

    @property
    def changes(self) -> bool:
        return self.old.fingerprint != self.new.fingerprint

    @property
    def moved(self) -> Fraction:
        return sum((row.gained for row in self.rows), Fraction(0))

    @property
    def fullest(self) -> Row:
        return max(self.rows, key=lambda row: row.fullness)

    def has(self, *measures: str) -> bool:
        return any(measure in row.figures for row in self.rows for measure in measures)

    def total(self, measure: str) -> float | None:
        """The sum of a figure; of a rate the mean, each shard counted by its share. None where a shard has none."""
        side = int(measure.endswith("_after") or measure == "maxmemory")
        rows = [row for row in self.rows if row.weights[side] is not None]
        if any(measure not in row.figures for row in rows):
            return None
        if measure in RATES:
            return sum(row.figures[measure] * float(row.shares[side]) for row in rows)
        return sum(row.figures[measure] for row in rows)


def report(old: Ring, new: Ring | None = None, figures: Figures | None = None) -> Report:
    """Put together what is known of the two rings; without a new one, of the old one alone."""
    new = old if new is None else new
    figures = _checked({} if figures is None else figures, {*old.names, *new.names})
    shares = (old.shares(), new.shares())
    rows = {}
    for name in sorted({*old.names, *new.names}, key=_natural):
        last = new if name in new.weights else old
        rows[name] = Row(
            name,
            (old.weights.get(name), new.weights.get(name)),
            (shares[0].get(name, Fraction(0)), shares[1].get(name, Fraction(0))),
            Fraction(last.weights[name], sum(last.weights.values())),
            figures.get(name, {}),
        )
    for start, end, before, after in _unwrapped(arcs(old, new)):
        rows[before].owned[0].append((start, end))
        rows[after].owned[1].append((start, end))
        if before != after:
            rows[before].losses.append((start, end))
            rows[after].gains.append((start, end))
    return Report(old, new, list(rows.values()))


def _natural(name: str) -> list[str | int]:
    """Sort redis10 behind redis9."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name))]


def _unwrapped(found: Iterable[tuple[int, int, str, str]]) -> Iterable[tuple[int, int, str, str]]:
    """Cut the arc that spans the end of the key space there."""
    for start, end, before, after in found:
        if start < 0:
            yield 0, end, before, after
            wrapped = (start + SPACE, SPACE, before, after)
        else:
            yield start, end, before, after
    yield wrapped


def _checked(figures: Figures, names: set[str]) -> dict[str, dict[str, float]]:
    """Return the figures without those that are missing; refuse what is none."""
    if not isinstance(figures, Mapping):
        raise ValueError(f"figures must be a dictionary by shard, not {type(figures).__name__}")
    found: dict[str, dict[str, float]] = {}
    for name, of_shard in figures.items():
        if name not in names:
            raise ValueError(f"figures of {name!r}, which is no shard of either ring")
        if not isinstance(of_shard, Mapping):
            raise ValueError(f"the figures of shard {name!r} must be a dictionary, not {type(of_shard).__name__}")
        found[name] = {}
        for measure, value in of_shard.items():
            if measure not in MEASURES:
                raise ValueError(f"unknown figure {measure!r} of shard {name!r}, known are {', '.join(MEASURES)}")
            if value is None:
                continue
            limit = 1 if measure in RATES else math.inf
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= limit:
                upper = "from 0 to 1" if measure in RATES else "of at least 0"
                raise ValueError(f"{measure} of shard {name!r} must be a number {upper}, not {value!r}")
            found[name][measure] = value
    return found


def _length(some: Iterable[tuple[int, int]]) -> Fraction:
    return Fraction(sum(end - start for start, end in some), SPACE)


# --- Words -----------------------------------------------------------------------------------------


def _percent(value: float | Fraction | None, digits: int = 2) -> str:
    return "-" if value is None else f"{float(value) * 100:.{digits}f} %"


def _rounded(value: float | Fraction | None) -> str:
    return _percent(value, 1)


def _signed(value: Fraction, sign: str) -> str:
    return f"{sign}{_percent(value)}" if value else "-"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _size(value: float | None) -> str:
    if value is None:
        return "-"
    power = min(int(math.log(max(value, 1), 1024)), len(UNITS) - 1)
    return f"{value / 1024**power:.{1 if power else 0}f} {UNITS[power]}"


def _pair(before: str, after: str) -> str:
    """Both, or one where the other is not known or the same."""
    if after in (before, "-"):
        return before
    return f"{before} → {after}"


def _columns(made: Report) -> list[tuple[str, Callable[[Row | None], str]]]:
    """Title and content of each column but the name; the content is the sum of all where no row is given."""

    def figure(row: Row | None, measure: str, words: Callable[[float | None], str]) -> str:
        return words(made.total(measure) if row is None else row.figures.get(measure))

    def both(measure: str, words: Callable[[float | None], str]) -> Callable[[Row | None], str]:
        return lambda row: _pair(figure(row, measure, words), figure(row, f"{measure}_after", words))

    def share(side: int) -> Callable[[Row | None], str]:
        def words(row: Row | None) -> str:
            return _percent(Fraction(1) if row is None else row.shares[side] or None)

        return words

    columns: list[tuple[str, Callable[[Row | None], str]]]
    if made.changes:
        columns = [
            ("before", share(0)),
            ("after", share(1)),
            ("gains", lambda row: _signed(made.moved if row is None else row.gained, "+")),
            ("loses", lambda row: _signed(made.moved if row is None else row.lost, "-")),
        ]
    else:
        columns = [
            ("share", share(1)),
            ("of its due", lambda row: "" if row is None else f"{row.fullness:.2f} x"),
        ]
    if made.has("keys", "keys_after"):
        columns.append(("keys", both("keys", _count)))
    if made.has("memory", "memory_after"):
        columns.append(("memory", both("memory", _size)))
    if made.has("maxmemory"):
        columns.append(("limit", lambda row: figure(row, "maxmemory", _size)))
    if made.has(*RATES):
        columns.append(("hit rate", both("hit_rate", _percent)))
    return columns


def table(made: Report) -> list[str]:
    """Return the report as lines of text."""
    columns = _columns(made)
    cells = [["shard", "", *(title for title, content in columns)]]
    cells += [[row.name, row.note, *(content(row) for title, content in columns)] for row in made.rows]
    cells.append(["all", "", *(content(None) for title, content in columns)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    kept = [place for place, width in enumerate(widths) if width]
    return [
        "  ".join(
            line[place].ljust(widths[place]) if place < 2 else line[place].rjust(widths[place]) for place in kept
        ).rstrip()
        for line in cells
    ]


# --- The page --------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark;
  --page: #fff; --card: #f6f7f9; --text: #16191d; --dim: #59626e; --line: #d5dae0; --rest: #aab2bc; --rest2: #c9cfd6;
  --c0: #0072b2; --c1: #e08e00; --c2: #009e73; --c3: #cc6fa5; --c4: #48a6de; --c5: #d55e00; --c6: #6a51a3; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --card: #1d2126; --text: #eceff3; --dim: #a2abb6; --line: #363d46; --rest: #69727e; --rest2: #4d555f;
  --c0: #3d9be0; --c1: #f0a830; --c2: #1fbf92; --c3: #e08fc0; --c4: #8accf2; --c5: #f07a30; --c6: #a08fd8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(.75rem, 3vw, 2.5rem) 3rem; max-width: 74rem; background: var(--page);
  color: var(--text); font: 15px/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.6rem; margin: 0; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p { margin: .35rem 0; } .dim, footer { color: var(--dim); } code { font: .92em ui-monospace, monospace; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.tile { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.3rem; line-height: 1.25; } .tile span { color: var(--dim); font-size: .87rem; }
.tile b, td, th { overflow-wrap: anywhere; }
.picture { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: center; }
.picture svg { flex: 1 1 20rem; max-width: 34rem; min-width: 0; width: 100%; }
.legend { flex: 1 1 15rem; margin: 0; padding: 0; list-style: none; }
.legend li { display: flex; gap: .6rem; align-items: baseline; padding: .16rem 0; overflow-wrap: anywhere; }
.swatch { flex: none; width: .95rem; height: .95rem; border-radius: .2rem; background: currentColor;
  transform: translateY(.12rem); }
.band { fill: none; } .ring text { fill: var(--text); text-anchor: middle; }
.ring .big { font-size: 26px; font-weight: 700; } .ring .small { font-size: 11.5px; fill: var(--dim); }
.defs { position: absolute; width: 0; height: 0; }
circle.track { fill: none; stroke: var(--line); }
.k0 { color: var(--c0); } .k1 { color: var(--c1); } .k2 { color: var(--c2); } .k3 { color: var(--c3); }
.k4 { color: var(--c4); } .k5 { color: var(--c5); } .k6 { color: var(--c6); }
.rest { color: var(--rest); } .rest.odd { color: var(--rest2); } .moved { color: var(--text); }
use, .bar rect { stroke: currentColor; } .bar rect { stroke: none; fill: currentColor; }
.bar .was { fill: var(--rest2); } .bar line { stroke: var(--text); stroke-width: 2; }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; }
caption { text-align: left; color: var(--dim); padding-bottom: .5rem; }
th, td { text-align: right; padding: .3rem .55rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
thead th { color: var(--dim); font-weight: 500; font-size: .87rem; } tfoot td, tfoot th { font-weight: 700; }
.name { text-align: left; font-weight: 600; min-width: 6rem; } .name small { display: block; color: var(--dim);
  font-weight: 400; }
td.mini { width: 3.6rem; padding: .2rem 0; } .mini:empty { width: 0; }
.mini svg { display: block; width: 3.5rem; height: 3.5rem; } .mini .track { stroke: var(--card); }
td.bar { width: 26%; min-width: 8rem; } td.bar svg { display: block; width: 100%; height: 26px; overflow: visible; }
td.number { white-space: nowrap; }
@media (max-width: 46rem) {
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  table, tbody, tfoot, caption { display: block; }
  tr { display: grid; grid-template-columns: repeat(3, 1fr); gap: .3rem .8rem; padding: .6rem 0;
    border-bottom: 1px solid var(--line); }
  td, th { border: 0; padding: 0; text-align: left; } .mini:empty, tfoot .bar { display: none; }
  .name { grid-column: 2 / -1; align-self: center; } .mini:empty + .name { grid-column: 1 / -1; }
  td.bar { grid-column: 1 / -1; width: auto; }
  td.number::before { content: attr(data-title); display: block; color: var(--dim); font-size: .8rem; } }
"""


def page(made: Report, title: str) -> str:
    """Return the report as an HTML page that needs no other file."""
    kinds = _kinds(made)
    body = [
        f"<h1>{_html(title)}</h1>",
        f'<p class="dim">{_html(_sentence(made))}</p>',
        _tiles(made),
        _definitions(made),
        "<h2>The ring</h2>",
        '<div class="picture">',
        _picture(made, kinds),
        _legend(made, kinds),
        "</div>",
        "<h2>The shards</h2>",
        _shards(made, kinds),
        _footer(made),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html(text: str) -> str:
    """Return text for the page; a percent sign stays with its number."""
    return escape(text).replace(" %", "&nbsp;%")


def _kinds(made: Report) -> list[str]:
    """Return each row's class in the style sheet: a colour for the shards that matter most, grey for the others."""
    if len(made.rows) <= COLOURS:
        return [f"k{place}" for place in range(len(made.rows))]

    def importance(place: int) -> tuple[bool, float]:
        row = made.rows[place]
        return row.weights[0] != row.weights[1], row.fullness

    chosen = sorted(range(len(made.rows)), key=importance, reverse=True)[: COLOURS - 1]
    kinds = [f"rest {'odd' if place % 2 else ''}".strip() for place in range(len(made.rows))]
    for colour, place in enumerate(sorted(chosen)):
        kinds[place] = f"k{colour}"
    return kinds


def _sentence(made: Report) -> str:
    if not made.changes:
        return "The ring as it is. A key belongs to the shard whose arc its hash falls on."
    done: dict[str, list[str]] = {"added": [], "removed": [], "given another weight": []}
    for row in made.rows:
        before, after = row.weights
        if before != after:
            what = "added" if before is None else "removed" if after is None else "given another weight"
            done[what].append(row.name)
    said = [f"{_some(names)} {what}" for what, names in done.items() if names]
    if made.old.points != made.new.points:
        said.append(f"points of a shard {made.old.points} → {made.new.points}")
    return f"{'; '.join(said)}. A key that moves is a miss once."


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"


def _tiles(made: Report) -> str:
    """The figures that decide, before everything else."""
    shards = _pair(str(len(made.old.names)), str(len(made.new.names)))
    tiles = [(shards, "shards")]
    if made.changes:
        tiles.append((_rounded(made.moved), "of the keys move to another shard"))
    full = made.fullest
    tiles.append((f"{full.fullness:.2f} x", f"of its due is on {full.name}, the fullest shard"))
    rates = [made.total(rate) for rate in RATES]
    if rates[0] is not None or rates[1] is not None:
        after = " → right after the change" if rates[1] is not None else ""
        tiles.append((_pair(_rounded(rates[0]), _rounded(rates[1])), f"of the reads hit{after}"))
    filled = [
        (row.figures.get("memory_after", row.figures.get("memory", 0)) / row.figures["maxmemory"], row.name)
        for row in made.rows
        if row.weights[1] is not None and row.figures.get("maxmemory")
    ]
    if filled:
        part, name = max(filled)
        when = "will be used" if made.has("memory_after") else "are used"
        tiles.append((_rounded(part), f"of the memory {when} on {name}, the tightest shard"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{_html(big)}</b><span>{_html(small)}</span></div>' for big, small in tiles)
        + "</div>"
    )


def _dashes(some: Iterable[tuple[int, int]]) -> str:
    """Return arcs, in order, as the dashes of a circle of PARTS that begins with a gap."""
    marks = [0]
    for start, end in some:
        first, last = round(start * PARTS / SPACE), round(end * PARTS / SPACE)
        if first == marks[-1] and len(marks) > 1:
            marks[-1] = last
        elif first < last:
            marks += [first, last]
    lengths = [after - before for before, after in zip(marks, [*marks[1:], PARTS], strict=True)]
    # Dash, gap, dash, gap: an empty dash first.
    return " ".join(map(str, [0, *lengths]))


def _definitions(made: Report) -> str:
    """Every shard's arcs, written once; the pictures use them in several sizes and colours."""
    shapes = []
    for place, row in enumerate(made.rows):
        parts = [("a", row.owned[1])]
        if made.changes:
            parts += [("b", row.owned[0]), ("g", row.gains), ("l", row.losses)]
        for kind, some in parts:
            if some:
                shapes.append(
                    f'<circle id="{kind}{place}" r="100" pathLength="{PARTS}" transform="rotate(-90)"'
                    f' stroke-dasharray="{_dashes(some)}"/>'
                )
    return f'<svg class="defs" aria-hidden="true"><defs>{"".join(shapes)}</defs></svg>'


def _band(uses: Iterable[tuple[str, str]], radius: float, width: float) -> str:
    """Return one band of the picture: definitions with their classes, scaled to a radius."""
    scale = radius / 100
    inner = "".join(f'<use href="#{name}" class="{kind}"/>' for name, kind in uses)
    return f'<g class="band" transform="scale({scale:g})" stroke-width="{width / scale:.3g}">{inner}</g>'


def _picture(made: Report, kinds: Sequence[str]) -> str:
    rows = list(enumerate(made.rows))
    after = [(f"a{place}", kinds[place]) for place, row in rows if row.owned[1]]
    if made.changes:
        label = f"Ring before (inside) and after (outside); {_percent(made.moved)} of it moves"
        bands = [
            _band(after, 178, 34),
            '<circle class="track" r="151" stroke-width="12"/>',
            _band([(f"g{place}", "moved") for place, row in rows if row.gains], 151, 12),
            _band([(f"b{place}", kinds[place]) for place, row in rows if row.owned[0]], 124, 34),
        ]
        words = [("big", -2, _rounded(made.moved)), ("small", 18, "of the keys move")]
    else:
        label = f"Ring of {len(made.new.names)} shards"
        bands = [_band(after, 160, 70)]
        words = [("big", -2, str(len(made.new.names))), ("small", 18, "shard" if len(made.rows) == 1 else "shards")]
    texts = "".join(f'<text class="{kind}" y="{y}">{escape(text)}</text>' for kind, y, text in words)
    return (
        f'<svg class="ring" viewBox="-200 -200 400 400" role="img" aria-label="{label}">{"".join(bands)}{texts}</svg>'
    )


def _legend(made: Report, kinds: Sequence[str]) -> str:
    items = []
    if made.changes:
        items.append(("moved", "keys that move: the band in the middle"))
    for row, kind in zip(made.rows, kinds, strict=True):
        if not kind.startswith("rest"):
            share = _pair(*(_rounded(part or None) for part in row.shares))
            items.append((kind, f"{row.name}{row.note and f' ({row.note})'}: {share}"))
    others = sum(kind.startswith("rest") for kind in kinds)
    if others:
        items.append(("rest", f"{others} other shards, in two greys"))
    lines = "".join(f'<li><span class="swatch {kind}"></span><span>{_html(text)}</span></li>' for kind, text in items)
    circles = "<li>Inside: before. Outside: after.</li>" if made.changes else ""
    return f'<ul class="legend">{circles}{lines}</ul>'


def _mini(made: Report, place: int, kind: str) -> str:
    """One shard's own ring: what it has, and outside of that what it gains, inside what it loses."""
    if len(made.rows) > SMALL_RINGS:
        return ""
    row = made.rows[place]
    has = f"a{place}" if row.owned[1] else f"b{place}"
    parts = ['<circle class="track" r="84" stroke-width="42"/>', _band([(has, kind)], 84, 42)]
    if made.changes and row.gains:
        parts.append(_band([(f"g{place}", "moved")], 118, 18))
    if made.changes and row.losses:
        parts.append(_band([(f"l{place}", "moved")], 50, 18))
    return f'<svg viewBox="-130 -130 260 260" aria-hidden="true">{"".join(parts)}</svg>'


def _bar(made: Report, row: Row, kind: str) -> str:
    """The shares as bars, the thin one before the change, with a line at what the shard is due."""
    widest = float(max(max(*each.shares, each.due) for each in made.rows))
    before, after, due = (float(value) / widest * 100 for value in (*row.shares, row.due))
    parts = []
    if made.changes:
        parts.append(f'<rect class="was" y="1" width="{before:.2f}%" height="8"/>')
    parts.append(f'<rect y="{10 if made.changes else 6}" width="{after:.2f}%" height="14"/>')
    parts.append(f'<line x1="{due:.2f}%" x2="{due:.2f}%" y1="0" y2="26"/>')
    return f'<svg class="{kind.removesuffix(" odd")}" aria-hidden="true">{"".join(parts)}</svg>'


def _shards(made: Report, kinds: Sequence[str]) -> str:
    columns = _columns(made)
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title, content in columns)

    def numbers(row: Row | None) -> str:
        return "".join(
            f'<td class="number" data-title="{title}">{_html(content(row)).replace(" → ", "<br>→ ")}</td>'
            for title, content in columns
        )

    lines = [
        f'<tr><td class="mini">{_mini(made, place, kind)}</td>'
        f'<th class="name" scope="row"><bdi>{escape(row.name)}</bdi><small>{escape(row.note)}</small></th>'
        f'<td class="bar">{_bar(made, row, kind)}</td>{numbers(row)}</tr>'
        for place, (row, kind) in enumerate(zip(made.rows, kinds, strict=True))
    ]
    bars = "thin bar: before, thick bar: after, " if made.changes else ""
    rings = ""
    if made.changes and len(made.rows) <= SMALL_RINGS:
        rings = "; small rings: what the shard gains is outside, what it loses inside"
    return (
        f'<div class="scroll"><table><caption>Share of the keys; {bars}line: what the weight is due{rings}.</caption>'
        f'<thead><tr><th></th><th class="name" scope="col">shard</th><th></th>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody>"
        '<tfoot><tr><td class="mini"></td><th class="name" scope="row">all</th><td class="bar"></td>'
        f"{numbers(None)}</tr></tfoot></table></div>"
    )


def _footer(made: Report) -> str:
    prints = _pair(made.old.fingerprint, made.new.fingerprint)
    points = _pair(str(made.old.points), str(made.new.points))
    return (
        f"<footer><p>Fingerprint <code>{prints}</code>; {points} points for a weight of 1. Shares are exact, from the "
        "arcs of the ring. Shards keep their keys as long as names and weights stay, wherever they run.</p></footer>"
    )

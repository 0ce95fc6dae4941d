"""The page and the table about a ring: what they say, that they need nothing else, that no name breaks them."""

from __future__ import annotations

import re
import time
from fractions import Fraction
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.webstack.ha.plugins.filter.ring import FilterModule
from ansible_collections.webstack.ha.plugins.module_utils import _ring_report
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.ring import SPACE, Ring, moved

FILTERS = FilterModule().filters()
THREE = [{"name": f"redis{n}"} for n in (1, 2, 3)]
FOUR = [*THREE, {"name": "redis4"}]
FIGURES: dict[str, dict[str, Any]] = {
    "redis1": {"keys": 1000, "keys_after": 800, "memory": 100 << 20, "memory_after": 80 << 20, "maxmemory": 1 << 30},
    "redis4": {"keys": None, "memory_after": 2048, "maxmemory": 4096, "hit_rate_after": 0.0},
}
VOID = {"meta", "circle", "use", "rect", "line", "br"}


class Page(HTMLParser):
    """Tags with their attributes, and the text; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data.replace("\xa0", " ")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_says_what_moves() -> None:
    move = moved(Ring(dict.fromkeys(["redis1", "redis2", "redis3"], 1)), Ring({f"redis{n}": 1 for n in (1, 2, 3, 4)}))
    page = Page(FILTERS["ring_report"](THREE, FOUR, title="A fourth shard"))
    assert "A fourth shard" in page.text
    assert "redis4 added" in page.text
    assert f"{float(move.moved) * 100:.1f} %" in page.text
    for change in move.shards.values():
        assert not change.lost or f"-{float(change.lost) * 100:.2f} %" in page.text
    assert f"+{float(move.moved) * 100:.2f} %" in page.text


def test_the_picture_shows_the_exact_arcs() -> None:
    page = Page(FILTERS["ring_report"](THREE, FOUR))
    circles = {circle["id"]: circle for circle in page.all("circle") if "id" in circle}
    for side, shards in (("b", THREE), ("a", FOUR)):
        drawn = [0] * len(shards)
        for place, _ in enumerate(shards):
            lengths = [int(length) for length in circles[f"{side}{place}"]["stroke-dasharray"].split()]
            assert len(lengths) % 2 == 0
            assert sum(lengths) == _ring_report.PARTS
            drawn[place] = sum(lengths[::2])
        # Together they are the whole circle, and each is what the shard owns.
        assert sum(drawn) == _ring_report.PARTS
        shares = Ring([(shard["name"], 1) for shard in shards]).shares().values()
        assert [length / _ring_report.PARTS for length in drawn] == pytest.approx([float(s) for s in shares], abs=2e-3)
    used = {str(use["href"]).removeprefix("#") for use in page.all("use")}
    assert used == set(circles)
    # Nothing but the new shard gains, and the others lose.
    assert {name for name in circles if name[0] in "gl"} == {"g3", "l0", "l1", "l2"}


def test_without_a_change_nothing_moves() -> None:
    page = Page(FILTERS["ring_report"](THREE))
    assert page.text == Page(FILTERS["ring_report"](THREE, list(reversed(THREE)))).text
    assert "The ring as it is" in page.text
    assert "move to another" not in page.text
    assert FILTERS["ring_table"](THREE) == FILTERS["ring_table"](THREE, FILTERS["ring"](THREE))


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ([*THREE[:2], {"name": "redis3", "weight": 2}], "redis3 given another weight"),
        (THREE[:2], "redis3 removed"),
        ([{"name": "x"}], "x added; redis1, redis2, redis3 removed"),
        ([*THREE, *({"name": f"n{n}"} for n in range(9))], "n0, n1, n2, n3, n4, n5 and 3 more added"),
        (FILTERS["ring"](THREE, points=320), "points of a shard 160 → 320"),
    ],
)
def test_it_names_what_is_done(new: Any, said: str) -> None:
    assert said in Page(FILTERS["ring_report"](THREE, new)).text


@pytest.mark.parametrize("count", [1, 3, 12, 13, 50, 200])
def test_it_needs_nothing_else_and_stays_small(count: int) -> None:
    shards = [{"name": f"redis{n}"} for n in range(count)]
    started = time.process_time()
    text = FILTERS["ring_report"](shards, [*shards, {"name": "new", "weight": 2}])
    assert time.process_time() - started < 10
    page = Page(text)
    assert len(text) < 20_000 + 4_500 * count
    assert not page.all("script") and not page.all("link") and not page.all("img")
    assert not re.search(r"url\(|@import|https?:", text)
    assert all(str(use["href"]).startswith("#") for use in page.all("use"))
    # Every shard has its line of text, whatever its colour is.
    assert all(f"redis{n}" in page.text for n in range(count))
    assert len(page.all("tr")) == count + 3


def test_it_has_a_light_and_a_dark_form() -> None:
    text = FILTERS["ring_report"](THREE)
    light, _, dark = text.partition("@media (prefers-color-scheme: dark)")
    names = set(re.findall(r"(--[a-z0-9]+):", dark.split("} }")[0]))
    assert names == set(re.findall(r"(--[a-z0-9]+):", light))


NASTY = ["</style><script>alert(1)</script>", "a\"b'c", "<b>", "&amp;", "雪", "x" * 200]


def test_no_name_breaks_the_page() -> None:
    shards = [{"name": name} for name in NASTY]
    harmless = [{"name": f"redis{n}"} for n in range(len(NASTY))]
    page = Page(FILTERS["ring_report"](shards, shards[1:], title=NASTY[0]))
    tags = [tag for tag, _ in Page(FILTERS["ring_report"](harmless, harmless[1:])).tags]
    assert sorted(set(tags)) == sorted({tag for tag, _ in page.tags})
    assert len(page.all("b")) == tags.count("b")
    assert all(name in page.text for name in NASTY)


def test_numbers_sort_as_people_do() -> None:
    lines = FILTERS["ring_table"]([{"name": name} for name in ("redis10", "redis9", "redis1", "b", "10", "9")])
    assert [line.split()[0] for line in lines[1:-1]] == ["9", "10", "b", "redis1", "redis9", "redis10"]


def test_the_table_says_the_same() -> None:
    lines = FILTERS["ring_table"](THREE, FOUR, FIGURES)
    assert lines[0].split() == ["shard", "before", "after", "gains", "loses", "keys", "memory", "limit", "hit", "rate"]
    assert len({len(line) for line in lines}) == 1
    first, new, total = lines[1], lines[4], lines[5]
    assert "1,000 → 800" in first and "100.0 MiB → 80.0 MiB" in first and "1.0 GiB" in first
    assert "added" in new and "- → 2.0 KiB" in new and "4.0 KiB" in new and "- → 0.00 %" in new
    # Not every shard has figures, so there is no sum of them.
    assert total.split()[:5] == ["all", "100.00", "%", "100.00", "%"]
    assert total.split()[-4:] == ["-"] * 4
    assert not [line for line in FILTERS["ring_table"](THREE) if "keys" in line]


def test_sums_are_of_all_shards_and_rates_weigh_by_share() -> None:
    old, new = Ring({"a": 1, "b": 1}), Ring({"a": 1, "b": 1, "c": 1})
    figures = {
        "a": {"keys": 10, "memory": 5, "hit_rate": 1.0, "hit_rate_after": 0.5, "maxmemory": 7},
        "b": {"keys": 20, "memory": 6, "hit_rate": 0.0, "hit_rate_after": 0.5, "maxmemory": 7},
        "c": {"hit_rate_after": 0.5, "maxmemory": 7},
    }
    made = _ring_report.report(old, new, figures)
    assert made.total("keys") == 30
    assert made.total("memory") == 11
    assert made.total("maxmemory") == 21
    assert made.total("hit_rate") == float(old.shares()["a"])
    assert made.total("hit_rate_after") == pytest.approx(0.5)
    assert made.total("keys_after") is None


def test_rows_agree_with_the_ring() -> None:
    old, new = Ring({"a": 1, "b": 2}), Ring({"b": 1, "c": 3}, 40)
    made = _ring_report.report(old, new)
    move = moved(old, new)
    assert made.moved == move.moved
    for row in made.rows:
        assert (row.gained, row.lost) == move.shards[row.name]
        for side, ring in enumerate((old, new)):
            assert row.shares[side] == ring.shares().get(row.name, Fraction(0))
            assert Fraction(sum(end - start for start, end in row.owned[side]), SPACE) == row.shares[side]
            assert all(0 <= start < end <= SPACE for start, end in row.owned[side])


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ([], "figures must be a dictionary by shard, not list"),
        ({"redis9": {}}, "figures of 'redis9', which is no shard"),
        ({"redis1": 5}, "figures of shard 'redis1' must be a dictionary, not int"),
        ({"redis1": {"size": 5}}, "unknown figure 'size' of shard 'redis1'"),
        ({"redis1": {"keys": "5"}}, "keys of shard 'redis1' must be a number of at least 0, not '5'"),
        ({"redis1": {"keys": -1}}, "keys of shard 'redis1'"),
        ({"redis1": {"keys": True}}, "keys of shard 'redis1'"),
        ({"redis1": {"memory": float("nan")}}, "memory of shard 'redis1'"),
        ({"redis1": {"hit_rate": 94}}, "hit_rate of shard 'redis1' must be a number from 0 to 1"),
    ],
)
@pytest.mark.parametrize("name", ["ring_report", "ring_table"])
def test_wrong_figures_are_refused(name: str, figures: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=rf"webstack\.ha\.{name}: .*{message}"):
        FILTERS[name](THREE, FOUR, figures=figures)


def test_a_wrong_title_or_ring_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="title must be a string, not int"):
        FILTERS["ring_report"](THREE, title=5)
    with pytest.raises(AnsibleFilterError, match=r"webstack\.ha\.ring_report: .*at least one shard"):
        FILTERS["ring_report"](THREE, [])

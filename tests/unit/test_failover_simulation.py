"""Fail-over played against faults: schedules without seconds for safety, faults with seconds for the bars.

`make chaos` plays ten times as many schedules, by tests/bench/simulate_failover.py.
"""

from __future__ import annotations

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.failover import decide
from failover_rules import RULES, Without, without
from failover_timing import FAULTS, Fault, gaps, misses, outage, two_faults
from failover_world import Violation, fails, schedule_of, schedules, shortest, story, words_of

PARTS, EACH = 8, 13_000


@pytest.mark.parametrize("seed", range(PARTS))
def test_no_schedule_has_two_writers_or_loses_an_acknowledged_row(seed: int) -> None:
    for schedule, recover in schedules(seed, EACH):
        if found := fails(schedule, decide, recover):
            pytest.fail(f"{found}\n{story(shortest(schedule, decide, recover), decide, recover)}")


def test_enough_schedules_are_played() -> None:
    assert PARTS * EACH >= 100_000


def test_a_schedule_of_the_million_that_once_failed() -> None:
    """The store counted on an open server by its older report; that one is closed, and has lost nothing."""
    schedule = schedule_of(
        "run a 10, ask b 26, run b 7, run a 119, step a 63, expire b 92, run a 21, step a 115, step b 84, step b 69,"
        " run a 118, run a 89, run a 122, run a 73, run a 20, step b 26, step b 112, write b, run b 17"
    )
    assert fails(schedule, decide, recover=True) == ""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
def test_every_rule_is_needed(rule: Without) -> None:
    """Without it the story ends badly, or the fault misses its bar; with it neither does."""
    broken = without(rule)
    if rule.story:
        schedule = schedule_of(rule.story)
        assert fails(schedule, decide, rule.recover) == ""
        assert rule.seen in fails(schedule, broken, rule.recover)
    else:
        fault, seen = FAULTS[rule.fault], ""
        for seed in range(20):
            assert misses(fault, decide, seed) == ""
            seen = seen or missed(fault, broken, seed)
        assert rule.seen in seen


def missed(fault: Fault, broken: object, seed: int) -> str:
    try:
        return misses(fault, broken, seed)  # type: ignore[arg-type]
    except Violation as found:
        return str(found)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_keeps_its_bar(name: str) -> None:
    assert [found for seed in range(40) if (found := misses(FAULTS[name], decide, seed))] == []


def test_any_two_faults_within_ten_seconds_heal() -> None:
    assert [found for seed in range(200) if (found := two_faults(decide, seed))] == []


def test_a_schedule_can_be_written_down_and_read() -> None:
    for schedule, _ in schedules(1, 20):
        assert words_of(schedule_of(words_of(schedule))) == words_of(schedule)


def test_the_simulation_counts_what_clients_miss() -> None:
    _, _, world = outage(FAULTS["nobody reaches the store"], decide, 1)
    world.acks = [1.0, 1.2, 3.0]
    world.now = 3.1
    assert gaps(world, 1.0) == [1.8]

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tiers of this host tell others: metrics for a collector, and an alarm for all that a person must know.

Whom they tell, each role wrote to /etc/webstack/notices-<tier>.json, in the same form for all.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections import Counter
from collections.abc import Sequence

from .core import files, metrics
from .core.alarm import raise_alarm
from .core.arguments import Parser
from .core.config import Settings, load
from .core.errors import FAILED, GOOD
from .core.metrics import Family
from .core.summary import Summary

SETTINGS = pathlib.Path("/etc/webstack")
RUN = pathlib.Path("/run/webstack")


def wanted(tier: str) -> Settings | None:
    """Return whom a tier tells; None where its role has not been."""
    path = SETTINGS / f"notices-{tier}.json"
    return load(path, f"of the tier {tier}") if path.exists() else None


def alarm(arguments: Sequence[str]) -> int:
    """Tell that a unit has failed: webstack-alarm@.service runs this, which each of our units names in OnFailure."""
    parser = Parser("alarm", alarm.__doc__)
    parser.add_argument("unit", metavar="TIER:UNIT")
    tier, _, unit = parser.parse_args(arguments).unit.partition(":")
    if not unit:
        parser.error("which unit of which tier?")
    settings = wanted(tier)
    command = settings.words("alarm_command") if settings is not None else []
    told = raise_alarm(command, tier, "unit_failed", f"{unit} failed; journalctl -u {unit} says why")
    return GOOD if told or not command else FAILED


def publish(tier: str, found: Summary, own: str) -> None:
    """Write how a tier is, and its `own` metrics, to webstack_status_<tier>.prom; nothing where nobody reads it."""
    settings = wanted(tier)
    directory = settings.text("metrics_directory") if settings is not None else ""
    if not directory:
        return
    each = Family("problem", "How many things are wrong, by the word that webstack status --json has for them.")
    for what, count in sorted(Counter(finding.what for finding in found.findings).items()):
        each.add(count, tier=tier, what=what)
    families = [
        Family("problems", "How many things are wrong with a tier.").add(len(found.findings), tier=tier),
        each,
        Family("status_timestamp_seconds", "When the tier was looked at.").add(int(time.time()), tier=tier),
    ]
    metrics.publish(f"{directory}/webstack_status_{tier}.prom", metrics.render("webstack", families) + own)


def tell(tier: str, found: Summary) -> None:
    """Run the alarm command once for each thing that is wrong, and once when it is over.

    What is wrong at one look only tells nobody: a planned move is no alarm. One that nobody heard is told again.
    """
    settings = wanted(tier)
    command = settings.words("alarm_command") if settings is not None else []
    if not command:
        return
    path = RUN / f"told-{tier}.json"
    last, told = _remembered(path)
    now = {finding.what: finding.text for finding in found.findings}
    for what in sorted(now.keys() & last - told.keys()):
        if raise_alarm(command, tier, what, now[what]):
            told[what] = now[what]
    for what in sorted(told.keys() - now.keys()):
        if raise_alarm(command, tier, "over", told[what]):
            del told[what]
    files.folder(RUN)
    files.write(path, json.dumps({"seen": sorted(now), "told": told}))


def _remembered(path: pathlib.Path) -> tuple[set[str], dict[str, str]]:
    """Return what was wrong at the last look, and what was told. Nothing after a boot, or where it cannot be read."""
    try:
        kept = json.loads(path.read_text())
        return set(kept["seen"]), {str(what): str(text) for what, text in kept["told"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set(), {}

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A key with its certificate, and the rule when it has to be renewed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..pure import certificate as judge

HOUR = 3600
DAY = 24 * HOUR
_KEY = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \1-----\n?", re.DOTALL)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_ORIGIN = re.compile(r"^# from (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Bundle:
    """A key, its certificate with the intermediates, and where they come from: one text, as nginx reads it."""

    text: str

    @classmethod
    def join(cls, origin: str, key: str, chain: str) -> Bundle:
        return cls(f"# from {origin}\n{key.strip()}\n{chain.strip()}\n")

    @property
    def origin(self) -> str:
        found = _ORIGIN.search(self.text)
        return found[1] if found else ""

    @property
    def leaf(self) -> Any:
        return judge.certificates(self.text)[0]

    def problem(self, names: Iterable[str] = (), chain_required: bool = True) -> str:
        key = _KEY.search(self.text)
        return str(judge.problem(self.text, key[0] if key else "", names=names, chain_required=chain_required))


def authority_problem(bundle: Bundle | None, names: Sequence[str], url: str) -> str:
    """Return why a bundle is not one of the authority at `url` for these names, or an empty text."""
    if bundle is None or bundle.origin != url:
        return f"there is no certificate of {url} yet"
    return bundle.problem(names)


def is_better(candidate: Bundle, present: Bundle | None, names: Sequence[str], url: str) -> bool:
    """Say whether the other balancer's bundle should replace this one.

    The bundle that was issued later wins, even if it ends sooner: an authority may shorten its certificates' life.
    """
    if authority_problem(candidate, names, url):
        return False
    if present is None or authority_problem(present, names, url):
        return True
    return bool(judge.valid_from(candidate.leaf) > judge.valid_from(present.leaf))


@dataclass(frozen=True)
class Patience:
    """Decides when this balancer asks the authority. Rank 0 comes first."""

    rank: int
    renew_days: float
    takeover_days: float

    def limit_seconds(self, life_seconds: float) -> float:
        """Return the time before the end at which this balancer renews a certificate.

        For a short one it is a third of its life, as authorities recommend.
        """
        share = 1 - self.rank * self.takeover_days / self.renew_days
        return min(self.renew_days * DAY, life_seconds / 3) * share

    def why_renew(self, bundle: Bundle | None, names: Sequence[str], url: str, now: float, since: float) -> str:
        """Return why this balancer should renew now, or an empty text. `since` is when the wish was written down."""
        reason = authority_problem(bundle, names, url)
        if reason or bundle is None:
            return reason if now >= since + self.rank * HOUR else ""
        start, end = judge.valid_from(bundle.leaf).timestamp(), judge.valid_until(bundle.leaf).timestamp()
        if end - now > self.limit_seconds(end - start):
            return ""
        return f"it expires in {(end - now) / DAY:.1f} days"


def expires_soon(leaf: Any, alarm_days: float, now: float) -> bool:
    """Say whether it is time for an alarm. For a short certificate that is the last sixth of its life."""
    start, end = judge.valid_from(leaf).timestamp(), judge.valid_until(leaf).timestamp()
    return bool(end - now < min(alarm_days * DAY, (end - start) / 6))

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the two database hosts keep in the store: one value, what each says about itself, and what people ask for.

docs/fail-over.md has the protocol. The agent reads all of it in one question, so that it never sees a mixture.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import Problem
from ..pure.arbiter import UNREAD, Member, State, Swap, View, Wish, decode, decode_report, encode, encode_report
from ..quorum.store import Gone, Refused, Store, Unknown, Value, connect, is_known

PREFIX = "database/"
STATE, WISH, PAUSED = f"{PREFIX}state", f"{PREFIX}wish", f"{PREFIX}paused"
SUSPENDED = f"{PREFIX}suspended"
#: Who asks the writer for a copy of its data, and of which asking that is.
SEED = f"{PREFIX}seed"
#: When the writer last changed, from whom to whom, and why; for people.
LAST = f"{PREFIX}last"
MEMBERS, MAINTENANCE = f"{PREFIX}members/", f"{PREFIX}maintenance/"
#: Of a question of the agent, over all members. A leader is elected within about a second.
SECONDS = 0.6
#: The report of a host that is gone goes a little after it counts as silent.
LEASE_SECONDS = 2
#: Renewed, and said anew, so often: each question costs all members of the quorum something.
KEEP_SECONDS, SAY_SECONDS = 0.6, 0.35


@dataclass(frozen=True)
class Reading:
    """All that stood in the store at one moment."""

    asked: float
    """When the question was sent, by the monotonic clock."""
    revision: int
    state: State | None
    reports: Mapping[str, Member] = field(default_factory=dict)
    beats: Mapping[str, int] = field(default_factory=dict)
    """The revision of each report: it grows whenever its member says it anew."""
    wish: Wish | None = None
    paused: bool = False
    maintenance: tuple[str, ...] = ()
    suspended: str = ""
    """The host on which somebody suspended the agents."""
    seed: str = ""
    """What stands under SEED."""
    last: str = ""
    """What stands under LAST."""

    def view(self, peer: str, silent: bool = False) -> View:
        age = time.monotonic() - self.asked
        member = None if silent else self.reports.get(peer)
        return View(age, self.revision, self.state, member, self.wish, self.paused, self.maintenance)


NEVER = Reading(-1e9, UNREAD, None)


class Board:
    """The store, as one of the two hosts uses it."""

    def __init__(self, name: str, seconds: float = SECONDS, store: Store | None = None) -> None:
        self.name = name
        self.seconds = seconds
        self.store = store or connect(seconds)
        self.lease = 0
        #: When the lease was renewed, and when we said what; by the monotonic clock.
        self.kept = 0.0
        self.said: tuple[float, Member | None] = (0.0, None)

    def read(self) -> Reading:
        """Return what stands there. An Unknown says that nobody answered."""
        asked = time.monotonic()
        found = {value.key: value for value in self.store.under(PREFIX, self.seconds)}
        state = found.get(STATE)
        try:
            return Reading(
                asked,
                state.revision if state else 0,
                decode(state.text) if state and state.text is not None else None,
                {key.removeprefix(MEMBERS): decode_report(str(v.text)) for key, v in under(found, MEMBERS)},
                {key.removeprefix(MEMBERS): value.revision for key, value in under(found, MEMBERS)},
                wish_of(found[WISH]) if WISH in found else None,
                PAUSED in found,
                tuple(sorted(key.removeprefix(MAINTENANCE) for key, _ in under(found, MAINTENANCE))),
                str(found[SUSPENDED].text) if SUSPENDED in found else "",
                str(found[SEED].text) if SEED in found else "",
                str(found[LAST].text) if LAST in found else "",
            )
        except ValueError as error:
            raise Problem(f"{error}: run the role mysql_replication on both database hosts") from None

    def keep(self) -> None:
        """Renew the lease on which our report hangs, or open one."""
        now = time.monotonic()
        if self.lease and now - self.kept < KEEP_SECONDS:
            return
        if self.lease:
            try:
                self.store.keep(self.lease, self.seconds)
                self.kept = now
                return
            except Gone:
                self.lease = 0
        self.lease = self.store.grant(LEASE_SECONDS, self.seconds)
        self.kept = now

    def publish(self, report: Member, hurry: bool = False) -> None:
        """Say what this host is, for as long as its lease is renewed; how far it has come not at every look."""
        at, last = self.said
        same = last is not None and last == report._replace(received=last.received, applied=last.applied, lag=last.lag)
        if not self.lease or (same and not hurry and time.monotonic() - at < SAY_SECONDS):
            return
        try:
            self.store.put(MEMBERS + self.name, encode_report(report), self.lease, self.seconds)
            self.said = (time.monotonic(), report)
        except Gone:
            self.lease = 0

    def swap(self, swap: Swap, report: Member | None) -> Value | None:
        """Replace the value if nobody else has; return what stands there then, or None.

        What is said of this host goes with it, on a lease: a look at a server that hangs outlasts one, so there may
        have to be a new one first. An Unknown says that it may yet happen.
        """
        text = encode(swap.state, f"{self.name} {secrets.token_hex(8)}")
        for _ in range(2):
            if report and not self.lease:
                self.keep()
            beside = [(MEMBERS + self.name, encode_report(report), self.lease)] if report else []
            try:
                done = self.store.swap(Value(STATE, None, swap.revision), text, 0, self.seconds, beside)
            except Gone:
                self.lease = 0
            except Refused:
                return None
            else:
                return done.now if done.done else None
        return None

    def note_move(self, before: str, after: str, why: str) -> None:
        """Write down for people that the writer changed."""
        told = {"at": round(time.time()), "from": before, "to": after, "why": why}
        self.store.put(LAST, json.dumps(told), 0, self.seconds)

    # --- what people ask for ------------------------------------------------------------------------

    def ask(self, wish: Wish, lease: int) -> None:
        self.store.put(WISH, json.dumps(wish._asdict()), lease)

    def set(self, key: str, wanted: bool) -> None:
        """Have a mark there, or not."""
        if wanted:
            self.store.put(key, self.name)
        else:
            self.store.remove(key)


def under(found: Mapping[str, Value], prefix: str) -> list[tuple[str, Value]]:
    return [(key, value) for key, value in found.items() if key.startswith(prefix)]


def wish_of(value: Value) -> Wish:
    try:
        raw: dict[str, Any] = json.loads(str(value.text))
        return Wish(int(raw["turn"]), str(raw["to"]), raw["force"] is True, raw["peer_is_off"] is True)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{WISH} in the store cannot be read") from None


__all__ = [
    "MAINTENANCE", "NEVER", "PAUSED", "SECONDS", "SEED", "STATE", "SUSPENDED", "Board", "Gone", "Reading", "Unknown",
    "is_known",
]  # fmt: skip

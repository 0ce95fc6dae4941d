# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the two database hosts agree on: the value in the store, what is read beside it, and what a member can do.

docs/fail-over.md explains the protocol; `failover` decides.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, NamedTuple, Union

FORMAT = 1
UNREAD = -1
"""The revision of a view before the store has ever answered."""


class State(NamedTuple):
    """The one value of the site's database, changed by compare-and-swap only."""

    epoch: int
    """Number of the history. Data of another epoch is never linked, only seeded."""
    writer: str
    replica: str = ""
    """Holds every acknowledged row, as long as its life is the one named here. Empty: the writer is alone."""
    life: str = ""
    turn: int = 0
    """Grows whenever the writer changes, so that a wish is for one turn only."""
    opener: str = ""
    """Who opened this epoch by a forced promotion, and may stamp its own data with it."""
    moved: float = 0.0
    """Time of day of the last automatic promotion; for the pause between two of them."""


class Member(NamedTuple):
    """What a member says about itself under its key, and says anew at each look."""

    life: str
    """Changes whenever rows that were received and not applied may be gone: with each start of the server."""
    epoch: int
    fit: bool
    source: str
    received: int
    applied: int
    applying: bool
    lag: float
    broken: str
    suspended: bool = False
    """Its agent neither decides nor acts, since people asked for that. Nothing is decided by this."""


class Wish(NamedTuple):
    """What a person asks for; the key goes with a lease of a few seconds, or as soon as the turn is another."""

    turn: int
    to: str
    force: bool = False
    peer_is_off: bool = False
    """The person says that the other host has no power. Nobody else can know."""


class View(NamedTuple):
    """What was read from the store in one transaction."""

    age: float
    """Seconds since the question was sent that was answered last."""
    revision: int
    state: State | None
    peer: Member | None
    """None: it has not renewed its report for as long as a lease lasts."""
    wish: Wish | None = None
    paused: bool = False
    maintenance: tuple[str, ...] = ()


class Own(NamedTuple):
    """What a member sees of itself. It looks after it has read the store, never before."""

    name: str
    peer: str
    automatic: bool
    """Mode `auto`; in `assisted` a promotion waits for a wish."""
    clock: float
    up: bool
    fit: bool
    """Heartbeat rows are written, the disk has room."""
    life: str
    epoch: int
    open: bool
    address: bool
    semi_sync: bool
    followed: bool
    """The other one receives from this server."""
    stalled: float
    """Seconds for which no acknowledgement of the other one has come, though one is due or it is not connected."""
    source: str
    """Whom the configured link names, connected or not; empty without a link."""
    receiving: bool
    silent: float
    """Seconds since the link last brought anything, heartbeats included."""
    received: int
    applied: int
    applying: bool
    lag: float
    broken: str
    """Why this data can only be seeded: an error of the applier, errant rows, drift."""
    truncated: bool
    """This run of the server began as a replica: what nobody had acknowledged was cut off its binary log."""
    contained: bool | None
    """Whether the writer, asked now, has this server's last row. None: it did not answer."""
    pending: int | None
    """The revision of a swap of ours whose outcome is unknown; after a start of the agent, the first one read."""
    mark: tuple[str, int] | None
    """Life of the replica and own position that were noted since semi-sync was last turned on or off."""
    empty: bool = False
    """There is no data that a server could start on."""


class Do(StrEnum):
    """Acts without parameters.

    The agent carries out a list in order, in one session of the server, and ends it at the first act that fails: what
    is true for one run of the server is not for the next.
    """

    START = "start the server, closed"
    START_AS_REPLICA = "start the server closed, cutting off what nobody acknowledged"
    FENCE = "give the address up and kill the server"
    WITHDRAW = "give the address up"
    CLOSE = "make the server read-only, end its sessions, give the address up"
    OPEN = "forget the link, lift the fence, take the address, run the events"
    SEMI_SYNC_ON = "acknowledge only what the other one has"
    SEMI_SYNC_OFF = "acknowledge alone, also what waits"
    STOP_RECEIVING = "stop receiving, and so acknowledging"
    RECEIVE = "receive again"
    APPLY = "start the applier"
    LINK = "replicate from the writer"
    SEED = "replace the data by a copy of the writer's, and replicate from it"
    NEW_EPOCH = "write the epoch of the store into the data"


class Swap(NamedTuple):
    """Replace the value if it still has this revision. Changing nothing, it makes older swaps fail.

    The same transaction writes the sender's `report` of the look that led to it: who reads the new revision reads that
    too, or a later one. What was written is what the agent has read last, else its older view would depose it.
    """

    revision: int
    state: State


class Note(NamedTuple):
    """Remember this position of ours for this life of the replica; forgotten when semi-sync goes on or off."""

    life: str
    position: int


# Worked out when the module is read, where `|` is not known to every Python that ansible-test asks about.
Action = Union[Do, Swap, Note]  # noqa: UP007


class Decision(NamedTuple):
    rule: str
    """A word that stays the same, for machines and alarms."""
    why: str
    actions: tuple[Action, ...] = ()


class Limits(NamedTuple):
    """Seconds. They time attempts and are never what safety hangs on."""

    tick: float = 0.2
    """Between two looks; and at once when the store's value has changed."""
    hurry: float = 0.05
    """Between two looks while a wish stands."""
    lease: float = 1.5
    degrade: float = 0.7
    silent: float = 1.0
    fresh: float = 1.0
    withdraw: float = 1.5
    lag: float = 1.0
    rest: float = 3600.0


LIMITS = Limits()


def report(own: Own) -> Member:
    """What a member publishes about itself, before it reads the store."""
    return Member(
        own.life,
        own.epoch,
        own.up and own.fit,
        own.source if own.receiving else "",
        own.received,
        own.applied,
        own.applying,
        own.lag,
        own.broken,
    )


def encode(state: State, by: str) -> str:
    """Return the value as text. `by` is different each time, so that its writer knows it from an equal one."""
    return json.dumps({"format": FORMAT, "by": by, **state._asdict()}, sort_keys=True)


def encode_report(member: Member) -> str:
    return json.dumps({"format": FORMAT, **member._asdict()}, sort_keys=True)


def decode_report(text: str) -> Member:
    """Read what a member says about itself; ValueError says what is wrong with it."""
    try:
        found = dict(json.loads(text))
        number = found.pop("format", None)
        if number != FORMAT:
            raise ValueError(f"a member's report has format {number!r}, this program reads {FORMAT}")
        return Member(**found)
    except TypeError as error:
        raise ValueError(f"a member's report cannot be read: {error}") from None


def decode(text: str) -> State:
    """Read the value; ValueError says what is wrong with it."""
    try:
        found: dict[str, Any] = dict(json.loads(text))
    except (TypeError, ValueError):
        raise ValueError("the database's value in the store is not a JSON object") from None
    number = found.pop("format", None)
    if number != FORMAT:
        raise ValueError(f"the database's value in the store has format {number!r}, this program reads {FORMAT}")
    found.pop("by", None)
    types: dict[str, type | tuple[type, ...]] = {"epoch": int, "turn": int, "moved": (int, float)}
    if wrong := sorted(set(State._fields) ^ set(found)):
        raise ValueError(f"the database's value in the store lacks or does not know: {', '.join(wrong)}")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, types.get(name, str)):
            raise ValueError(f"the database's value in the store has a wrong {name}: {value!r}")
    state = State(**found)
    if not state.writer or state.replica == state.writer or bool(state.replica) != bool(state.life):
        raise ValueError("the database's value in the store contradicts itself")
    return state

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known about single backups: which are pinned, and which were proven. It lies in the repository itself.

So every host that uses the repository knows it, and it goes where the backups go.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import Problem

FORMAT = 1


@dataclass
class Notes:
    """By the id of a backup."""

    pins: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Why somebody wants it kept, and since when."""
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """When it was last restored as a trial, whether that was good, and how long it took."""

    @classmethod
    def decode(cls, text: str) -> Notes:
        try:
            found = json.loads(text)
            if found["format"] > FORMAT:
                raise Problem(f"the repository's notes have format {found['format']}, this program reads {FORMAT}")
            return cls(dict(found["pins"]), dict(found["proofs"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Problem(f"the repository's notes of pins and proofs cannot be read: {error}") from None

    def encode(self) -> str:
        return json.dumps({"format": FORMAT, "pins": self.pins, "proofs": self.proofs})

    def pin(self, snapshot: str, reason: str, host: str) -> None:
        self.pins[snapshot] = {"reason": reason, "host": host, "at": int(time.time())}

    def proven(self, snapshot: str, ok: bool, host: str, **more: Any) -> None:
        self.proofs[snapshot] = {"ok": ok, "host": host, "at": int(time.time()), **more}

    def only(self, snapshots: Iterable[str]) -> None:
        """Forget what was known about backups that are gone."""
        there = set(snapshots)
        self.pins = {one: note for one, note in self.pins.items() if one in there}
        self.proofs = {one: note for one, note in self.proofs.items() if one in there}

    def kept(self, snapshots: Sequence[Mapping[str, Any]]) -> set[str]:
        """Return the backups that no retention removes: pinned ones, and the newest that is proven."""
        good = [str(one["id"]) for one in snapshots if self.proofs.get(one["id"], {}).get("ok")]
        return {str(one["id"]) for one in snapshots if one["id"] in self.pins} | set(good[-1:])

    def about(self, snapshot: str) -> dict[str, Any]:
        """Return what a listing says of one backup."""
        proof = self.proofs.get(snapshot)
        return {
            "proven": None if proof is None else bool(proof["ok"]),
            "pinned": self.pins.get(snapshot, {}).get("reason"),
        }

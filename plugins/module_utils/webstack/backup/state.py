# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remembers how the last runs went, for people, for node_exporter, and for the next run."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..core import files, lock, metrics
from ..core.config import Settings
from ..core.errors import Busy

STATE = pathlib.Path("/var/lib/webstack/backup")
# Not in /run/lock, where every account may put a link.
LOCK = pathlib.Path("/run/webstack/backup.lock")
KINDS = ("hourly", "daily")
#: The key under which the proofs of this host stand beside the kinds of backups.
PROOF = "proof"


@contextlib.contextmanager
def alone(name: str, wait: float) -> Iterator[int]:
    """Let only one run at a time go on here. Yields the handle of the lock."""
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(lock.hold(LOCK.stem, f"'{name}'", wait, LOCK.parent))
        except Busy as busy:
            raise Busy(f"another run holds the lock {LOCK}: {str(busy).removeprefix('busy: ')}") from None
        yield handle


def keep_log(name: str, text: str) -> None:
    """Keep the output of a tool, so that a person can see why it failed."""
    files.write(files.folder(STATE, 0o700) / name, text, 0o600)


def known() -> dict[str, Any]:
    """Return for each kind of run whether the last one was good, and when the last success and failure were."""
    try:
        return dict(json.loads(files.read(STATE / "state.json") or "{}"))
    except ValueError:
        return {}


def next_part(parts: int) -> int:
    """Return the number of the part of the repository that is read next. It goes on when the proof has failed, too."""
    state = known()
    part = int(state.get(PROOF, {}).get("part", 0)) % parts + 1
    state.setdefault(PROOF, {})["part"] = part
    keep_log("state.json", json.dumps(state, indent=2) + "\n")
    return part


def skip(kind: str) -> None:
    """Write down that there was nothing to do here: another host does it now."""
    state = known()
    state.setdefault(kind, {})["skipped"] = int(time.time())
    keep_log("state.json", json.dumps(state, indent=2) + "\n")


def record(config: Settings, kind: str, ok: bool, fields: Mapping[str, Any]) -> None:
    """Write down how a run went."""
    state = known()
    entry = state.setdefault(kind, {})
    entry["ok"] = ok
    entry["success" if ok else "failure"] = dict(fields)
    entry.pop("skipped", None)
    # From the first backup on, one has to be proven.
    state.setdefault(PROOF, {}).setdefault("since", int(time.time()))
    keep_log("state.json", json.dumps(state, indent=2) + "\n")
    directory = config.text("textfile_directory")
    if directory:
        metrics.publish(f"{directory}/webstack_backup.prom", render(state))


def render(state: Mapping[str, Any]) -> str:
    """Return the metrics."""
    families = []
    for name, key, text in (
        ("last_success_timestamp_seconds", "finished", "When the last good backup ended."),
        ("last_success_bytes", "bytes", "Size of the last good backup before compression."),
        ("last_success_duration_seconds", "seconds", "How long the last good backup took."),
    ):
        family = metrics.Family(name, text)
        for kind in KINDS:
            if last := state.get(kind, {}).get("success"):
                family.add(last[key], kind=kind)
        families.append(family)
    families.append(metrics.Family("last_run_ok", "Whether the last run took a good backup."))
    for kind in KINDS:
        if "ok" in state.get(kind, {}):
            families[-1].add(state[kind]["ok"], kind=kind)
    proof = state.get(PROOF, {})
    if last := proof.get("success"):
        text = "When a backup was last restored as a trial, and was good."
        families.append(metrics.Family("last_proof_timestamp_seconds", text).add(last["finished"]))
        families.append(metrics.Family("last_proof_duration_seconds", "How long that took.").add(last["seconds"]))
    if "ok" in proof:
        families.append(metrics.Family("last_proof_ok", "Whether the last proof was good.").add(proof["ok"]))
    return metrics.render("webstack_backup", families)

"""Whose turn it is on this machine: what counts milliseconds runs while nothing else does.

Every test holds its turn with others. One that is marked `quiet` waits for them to end, runs while no other test does,
and lets none begin meanwhile. Hosts that are being built beside it do not count: that would take minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator

FOLDER = pathlib.Path(__file__).resolve().parent.parent / ".cache/check"


@contextlib.contextmanager
def turn(alone: bool, folder: pathlib.Path = FOLDER) -> Iterator[None]:
    """Hold the machine together with others, or alone."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (folder / "turn.gate").open("w") as gate, (folder / "turn").open("w") as machine:
        # Whoever waits for the machine holds the gate: newcomers do not pass a quiet test one after another.
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        # The time that others took is no time of the check: tools/check.py adds it to the limit.
        if counts := os.environ.get("WEBSTACK_COUNTS"):
            with pathlib.Path(counts).open("a") as file:
                file.write(f"waited:{time.monotonic() - began:.2f}\n")
        yield

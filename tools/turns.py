"""Whose turn it is on this machine: what counts milliseconds runs while nothing else does.

Every test and every noisy step of a check holds its turn with others. A test marked `quiet` waits for all of them to
end, holds the machine for itself, and lets nobody new begin meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator

FOLDER = pathlib.Path(__file__).resolve().parent.parent / ".cache/check"


@contextlib.contextmanager
def turn(alone: bool, folder: pathlib.Path = FOLDER) -> Iterator[None]:
    """Hold the machine together with others, or alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "turn.gate").open("w") as gate, (folder / "turn").open("w") as machine:
        # Whoever waits for the machine holds the gate: newcomers do not pass a quiet test one after another.
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield

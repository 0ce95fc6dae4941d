# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Calls the programs that make backups, and picks the useful line from their output."""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from ..core.config import Settings
from ..core.errors import Problem
from ..core.run import LANGUAGE, SEARCH_PATH, Done, run
from .state import keep_log


class Interrupted(Problem):
    """A signal or the time limit ended a command; what it looked at is as good or bad as before."""


class Damage(Problem):
    """What a backup has is not what it should have."""


#: Seconds for a question to a program that answers at once.
SHORT = 60
# The database server comes before its backup.
GENTLE = ("nice", "-n", "10", "ionice", "-c", "2", "-n", "7")


class Tools:
    """Runs the programs. They inherit the lock, so if this process is killed it stays locked until they end."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        #: The handle of the lock, while it is held.
        self.lock: int | None = None

    def run(
        self,
        *command: str,
        seconds: float = SHORT,
        text: str | None = None,
        more: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
    ) -> Done:
        """Run a program and return its result, also if it fails. `more` is added to its bare environment."""
        return run(
            *command,
            seconds=seconds,
            text=text,
            check=False,
            env={"PATH": SEARCH_PATH, "HOME": "/root", **LANGUAGE, **(more or {})},
            cwd=cwd,
            # They clean up on SIGTERM: restic removes its lock, and the server ends its backup stage.
            grace=30,
            keep=() if self.lock is None else (self.lock,),
        )

    def gently(
        self,
        *command: str,
        more: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
        text: str | None = None,
    ) -> Done:
        """Run a program that works for long, with a low priority."""
        seconds = self.config.whole("timeout_seconds")
        return self.run(*GENTLE, *command, seconds=seconds, more=more, cwd=cwd, text=text)

    def mariadb_backup(self, log: str, *words: str) -> None:
        """Run mariadb-backup and keep its output under this name. It succeeded only if it says so at its end."""
        done = self.gently("mariadb-backup", *words)
        output = done.out + done.err
        keep_log(log, output)
        if done.code != 0 or "completed OK!" not in output[-500:]:
            what = "mariadb-backup --prepare" if "--prepare" in words else "mariadb-backup"
            raise Problem(f"{what} failed with {done.code}: {last_message(output)}")


def last_message(log: str) -> str:
    """Return the most useful line of mariadb-backup's or restic's output."""
    lines = [re.sub(r"^\[\d+\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line).strip() for line in log.splitlines()]
    lines = [line for line in lines if line]
    telling = [
        line for line in lines if re.search(r"error|fatal|fail|no space|can't|cannot|denied", line, re.IGNORECASE)
    ]
    return (telling or lines or ["no output"])[-1][:300]


def summary(word: str, fields: Mapping[str, object]) -> str:
    """Return `webstack-backup: ok kind=daily ...` in one line. A value with spaces is quoted."""
    parts = []
    for key, value in fields.items():
        text = " ".join(str(value).split()).replace('"', "'")
        parts.append(f'{key}="{text}"' if " " in text or not text else f"{key}={text}")
    return " ".join([f"webstack-backup: {word}", *parts])


def stamp(moment: float | None = None) -> str:
    """Return a time in the form that is used in names."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))


def surplus(names: Iterable[str], keep: int) -> list[str]:
    """Return the names to delete, so that the newest `keep` remain. With 0 all remain."""
    ordered = sorted(names)
    return ordered[:-keep] if keep > 0 else []


def need_room(path: pathlib.Path, size: int, factor: float, earlier: Sequence[pathlib.Path] = ()) -> None:
    """Refuse a path if its file system has no room for data of this size."""
    status = os.statvfs(next(there for there in (path, *path.parents) if there.exists()))
    free = status.f_bavail * status.f_frsize
    if free < size * factor:
        text = f"{path} has {free} bytes free and {int(size * factor)} are needed ({factor} x {size} bytes of data)"
        if earlier:
            text += f"; copies that nobody may need any more: {', '.join(map(str, earlier))}"
        raise Problem(text)

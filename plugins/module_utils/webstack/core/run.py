# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs other programs: in a fixed language, with a time limit. At the limit all that they started ends, too."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import Problem

#: Where root's programs are. The PATH of a login or a unit does not count.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LANGUAGE = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Done:
    """The result of a command that ended."""

    command: Sequence[str]
    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """Return the last thing that it said, for a message."""
        said = self.err.strip() or self.out.strip()
        return said.splitlines()[-1].strip() if said else f"exit code {self.code}"


class Failed(Problem):
    """The command failed; `done` has all that it said."""

    def __init__(self, done: Done) -> None:
        super().__init__(f"{named(done.command)}: {done.why}")
        self.done = done


class TooSlow(Problem):
    """The command took too long. It was killed with all that it started."""


def named(command: Sequence[str]) -> str:
    """Return the name of a command in messages: its first words."""
    return " ".join(command[:3])


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of this process with our language and our search path."""
    return {**os.environ, "PATH": SEARCH_PATH, **LANGUAGE, **(more or {})}


def run(
    *command: str,
    seconds: float,
    text: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    account: tuple[str, str] | None = None,
    grace: float = 0,
    keep: Sequence[int] = (),
    alone: bool = False,
) -> Done:
    """Run a command and return what it said. `text` is its standard input, `env` its whole environment. `account` is
    the user and the group that it runs as, without any other group.

    After `seconds`, or when we are stopped ourselves, it gets a SIGTERM, and after `grace` seconds more it is killed.
    It inherits the open files in `keep`, for example a lock that has to last as long as the command. With `alone`,
    whatever it started in the background is killed when it ends.

    Raises Failed if it fails (unless `check` is false), TooSlow if it does not end in time, and Problem if it cannot be
    started. In all three cases nobody knows what the answer would have been.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() if env is None else dict(env),
            cwd=cwd,
            text=True,
            errors="replace",
            start_new_session=True,
            user=account and account[0],
            group=account and account[1],
            extra_groups=[] if account else None,
            pass_fds=keep,
        )
    except OSError as error:
        raise Problem(f"{named(command)}: {error.strerror or error}") from error
    try:
        out, err = process.communicate(text, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TooSlow(f"{named(command)}: no end within {seconds:g} s") from None
    finally:
        # Without an exit code it still runs, or its children do. With one, only children without the pipes are left.
        if process.returncode is None or alone:
            _end(process, grace)
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                with contextlib.suppress(OSError):
                    pipe.close()
    done = Done(command, process.returncode, out, err)
    if check and done.code != 0:
        raise Failed(done)
    return done


def _end(process: subprocess.Popen[str], grace: float) -> None:
    """Kill a command and all that it started. With a grace, send them a SIGTERM first."""
    with contextlib.suppress(ProcessLookupError):
        try:
            if grace:
                os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()

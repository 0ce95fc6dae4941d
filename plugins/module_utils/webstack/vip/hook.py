# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The engine `hook`: the operator's command moves the addresses, from the host that keepalived made the master."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core import systemd
from ..core.agent import Version
from ..core.errors import Problem
from ..core.files import write
from ..core.run import TooSlow, run
from ..core.say import say
from ..core.wait import turned
from .host import ADDRESS_NEWS, CONFIG, MOVE, RUN, SECONDS, Host

#: How often the agent looks without any news, for a service that somebody else started or stopped.
LOOK_SECONDS = 5


def delays(first: float = 0.5, most: float = 30) -> Iterable[float]:
    """Yield the pauses between tries: they double up to a limit."""
    pause = first
    while True:
        yield pause
        pause = min(most, pause * 2)


def try_hook(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> str:
    """Run the command once; return why it failed. Neither it nor what it started lives longer than this."""
    try:
        done = run(*command, seconds=seconds, env=environment, check=False, alone=True)
    except TooSlow:
        return f"no end within {seconds:g} s"
    except Problem as problem:
        return str(problem)
    said = f": {done.why}" if done.out.strip() or done.err.strip() else ""
    return "" if done.code == 0 else f"exit code {done.code}{said}"


def move(host: Host) -> int:
    """Run the command for each address until it succeeds, and again now and then, for as long as this host is master.

    Ends when the program or its settings change; systemd starts the new one, which moves the addresses once more.
    """
    version = Version(CONFIG)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    path = RUN / "hook.json"
    reason = "master"
    command, seconds = host.hook.words("command"), host.hook.number("timeout_seconds")
    while True:
        done: dict[str, Any] = {}
        for address in host.addresses:
            environment = {
                **os.environ,
                "ADDRESS": address,
                "HOST": host.name,
                "HOST_ADDRESS": host.own,
                "STATE": reason,
            }
            for tries, pause in enumerate(delays(), 1):
                error = try_hook(command, {**environment, "TRY": str(tries)}, seconds)
                done[address] = {"moved": not error, "tries": tries, "error": error, "at": int(time.time())}
                write(path, json.dumps(done))
                if not error:
                    break
                say(f"{address}: try {tries} failed ({error}); again in {pause:g} s")
                if turned(version.changed, pause):
                    return 0
            if reason == "master" or tries > 1:
                say(f"{address}: moved here, try {tries}")
        reason = "refresh"
        if turned(version.changed, host.hook.number("refresh_seconds")):
            return 0


def follow(host: Host) -> bool:
    """Run the service that moves the addresses where keepalived is master, and nowhere else. Return whether it was so.

    By what is, and not by what keepalived tells at a change: of two commands in a row the later may overtake the other.
    """
    # One that systemd is about to start again runs, too.
    ended = systemd.show(MOVE, "ActiveState")["ActiveState"] in ("inactive", "failed", "deactivating")
    if host.is_master() != ended:
        return True
    systemd.tell("start" if ended else "stop", MOVE, seconds=SECONDS)
    return False


def follow_loop(host: Host) -> None:
    """Follow keepalived whenever the kernel tells that an address came or went."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news:
        news.bind((0, ADDRESS_NEWS))
        news.settimeout(LOOK_SECONDS)
        said = ""
        while True:
            try:
                while not follow(host):
                    pass
                said = ""
            except Problem as problem:
                if said != str(problem):
                    said = str(problem)
                    say(f"cannot follow keepalived: {said}")
                time.sleep(1)
                continue
            with contextlib.suppress(OSError):  # no news, or some were lost
                news.recv(65536)

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service, without any rights: asks every server for its health, and has root update nginx's lists."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import sys
import time
from typing import Any

from ..core import systemd
from ..core.agent import Version
from ..core.errors import Problem
from ..core.files import write
from ..core.say import ERROR, say
from .model import DOWN, LEAVING, SILENT, SPEAKS, UNREACHABLE, UP, Answer, Server, Site, Verdict
from .state import CONFIG, FOUND, METRICS, STATUS, Config, found
from .status import metrics, overview

APPLY_SOCKET = "/run/webstack/lb-apply.sock"


async def probe(server: Server, host: str, path: str, limit: float) -> Answer:
    """Ask a server for its health, as the balancer would."""
    started = time.monotonic()
    silence, lack = UNREACHABLE, "connection"
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_connection(server.address, server.port)
            silence, lack = SILENT, "answer"
            try:
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: https\r\n"
                    "User-Agent: webstack-lb\r\nConnection: close\r\n\r\n".encode()
                )
                line = (await reader.readline()).decode("ascii", "replace").split()
            finally:
                writer.close()
    except TimeoutError:
        return Answer(DOWN, f"no {lack} within {limit:g} s", limit, silence)
    except (OSError, ValueError) as problem:
        # With this error the kernel says that no host has the address.
        silence = UNREACHABLE if getattr(problem, "errno", None) == errno.EHOSTUNREACH else SPEAKS
        reason = getattr(problem, "strerror", None) or str(problem)
        return Answer(DOWN, reason, time.monotonic() - started, silence)
    seconds = time.monotonic() - started
    status = line[1] if len(line) > 1 and line[0].startswith("HTTP/") else ""
    if status == "503":
        return Answer(LEAVING, "answers 503", seconds)
    # A redirect or a 404 comes from something else than the application's health page.
    return Answer(UP if status.startswith("2") else DOWN, f"answers {status or 'no HTTP'}", seconds)


async def ask_for_apply() -> tuple[bool, str]:
    """Have root take over what was found; say whether that changed anything, and what went wrong."""
    try:
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_unix_connection(APPLY_SOCKET)
            try:
                said = json.loads(await reader.read())
                return bool(said["changed"]), "; ".join(str(problem["text"]) for problem in said["problems"])
            finally:
                writer.close()
    except (OSError, ValueError, TypeError, KeyError, TimeoutError) as problem:
        return False, f"{type(problem).__name__}: {problem}"


class Service:
    """Probes every server, and has nginx's lists updated."""

    def __init__(self, settings: Config) -> None:
        self.settings = settings
        self.verdicts: dict[str, Verdict] = {}
        self.targets: dict[str, tuple[Server, Site]] = {}
        kept_of = found(settings)
        names = {field.name for field in dataclasses.fields(Verdict)}
        for site in settings.sites:
            for server in site.servers:
                target = site.target(server)
                self.targets[target] = (server, site)
                kept = {key: value for key, value in kept_of.get(target, {}).items() if key in names}
                self.verdicts[target] = Verdict(**kept or {"since": time.time()})
        # Apply once at the start: the service may have crashed after it found something and before nginx knew it.
        self.news = asyncio.Event()
        self.news.set()
        self.reloads = 0
        self.error = ""
        self.version = Version(CONFIG)

    async def watch(self, target: str, delay: float) -> None:
        """Probe one server for ever, at a steady pace."""
        server, site = self.targets[target]
        verdict, settings = self.verdicts[target], self.settings
        await asyncio.sleep(delay)
        while True:
            started = time.monotonic()
            answer = await probe(server, site.health_host, site.health_path, settings.timeout_seconds)
            if verdict.hear(answer, time.time(), settings.rules):
                say(f"{server.name} ({server.endpoint}) is {verdict.state}: {answer.reason}")
                self.news.set()
            await asyncio.sleep(max(0.0, started + settings.interval_seconds - time.monotonic()))

    async def follow(self) -> None:
        """Have news applied, at most once an interval. After a failure try again, more and more slowly."""
        pause = 1.0
        while True:
            await self.news.wait()
            self.news.clear()
            try:
                write(FOUND, json.dumps({key: dataclasses.asdict(value) for key, value in self.verdicts.items()}))
                changed, self.error = await ask_for_apply()
            except (Problem, OSError) as problem:
                changed, self.error = False, str(problem)
            if self.error:
                say(f"nginx did not take the server lists: {self.error}", ERROR)
                asyncio.get_running_loop().call_later(pause, self.news.set)
                pause = min(2 * pause, 60.0)
            else:
                self.reloads += changed
                pause = 1.0
            await asyncio.sleep(self.settings.interval_seconds)

    async def show(self) -> None:
        """Write the status and the metrics every second, and tell systemd that this process is alive."""
        systemd.notify("READY=1")
        while True:
            status = self.status()
            with contextlib.suppress(Problem):
                for path, text in ((STATUS, json.dumps(status)), (METRICS, metrics(status))):
                    write(path, text)
            systemd.notify("WATCHDOG=1")
            if self.version.changed():
                # End, and systemd starts the service again, with the new program and the new servers.
                say("changed on disk, starting again")
                sys.exit(0)
            await asyncio.sleep(1)

    def status(self) -> dict[str, Any]:
        return overview(self.settings, self.verdicts) | {"reloads": self.reloads, "error": self.error}

    async def run(self) -> None:
        # Spread the probes over the interval, so that those of many servers do not start at the same moment.
        pace = self.settings.interval_seconds / max(1, len(self.targets))
        async with asyncio.TaskGroup() as group:
            for number, target in enumerate(self.targets):
                group.create_task(self.watch(target, number * pace))
            group.create_task(self.follow())
            group.create_task(self.show())

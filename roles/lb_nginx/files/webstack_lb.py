#!/usr/bin/python3
# Written by the role lb_nginx.
"""Which application servers nginx may ask.

  webstack-lb status [--json]             the servers as this balancer sees them
  webstack-lb drain NAME [--wait] [...]   send a server no new request, until undrain; over reboots, too
  webstack-lb undrain NAME
  webstack-lb maintenance on|off [SITE]   answer with the maintenance page; without SITE on every site
  webstack-lb purge [PREFIX]              drop kept answers: all, or those whose key begins with PREFIX
  webstack-lb apply                       write the server lists, test them, reload nginx if they changed

nginx has no active health checks. `run`, an unprivileged service, asks every server for its health and writes down
what it found. `apply`, as root, turns that and the operator's wishes into the server lists of nginx, and closes the
connections to servers whose hosts are gone, so that what waits for them is asked elsewhere. A server's name, address
and port only ever come from the role's file, so the service can take servers out and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import ipaddress
import json
import os
import pathlib
import pwd
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIG = pathlib.Path("/etc/nginx/webstack/balancer.json")
#: Of root: what the operator asked for, and what nginx includes.
WISHES = pathlib.Path("/var/lib/webstack-lb/wishes.json")
INCLUDES = pathlib.Path("/var/lib/webstack-lb/nginx")
#: Of the service: what the probes found, kept so that a restart starts where it ended.
FOUND = pathlib.Path("/var/lib/webstack-lb/probes/found.json")
STATUS = pathlib.Path("/run/webstack-lb/status.json")
METRICS = pathlib.Path("/run/webstack-lb/metrics.prom")
LOCK = pathlib.Path("/run/webstack-lb.lock")
APPLY_SOCKET = "/run/webstack-lb-apply.sock"
# How long nginx uses a file that it holds open without a look whether it is still there (open_file_cache_valid).
OPEN_FILE_SECONDS = 1.0

#: nginx comes here a second time, for the page.
MAINTENANCE = "if ($uri != /.webstack-maintenance) { return 503; }\n"

UP, LEAVING, DOWN = "up", "leaving", "down"

#: How a server does not answer, the lesser silence first: it connects and says nothing, as one without a free worker
#: does, too; its host accepts no connection.
SPEAKS, SILENT, UNREACHABLE = SILENCES = ("", "silent", "unreachable")
#: What the role's `lb_nginx_probe_close_connections` stands for.
CLOSES: Mapping[str, Sequence[str]] = {"never": (), UNREACHABLE: (UNREACHABLE,), SILENT: (UNREACHABLE, SILENT)}


class Refusal(Exception):
    """What the operator asked for is not done, and why."""


# --- What the probes say: pure ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """How many answers in a row change a verdict, and how a server that comes and goes is slowed down."""

    fall: int = 2
    rise: int = 2
    #: Falling again this soon after a return doubles the good answers that the next return takes.
    damping_seconds: float = 600
    damping_most: int = 64


@dataclass(frozen=True)
class Answer:
    """What one probe heard: `up`; `leaving`, a 503, by which a server asks to be left alone; or `down`."""

    state: str
    reason: str
    seconds: float = 0.0
    silence: str = SPEAKS


@dataclass
class Verdict:
    """What is believed of one server."""

    state: str = UP
    since: float = 0.0
    reason: str = "not asked yet"
    #: Answers in a row that contradict the state.
    streak: int = 0
    #: Good answers in a row that bring the server back.
    needed: int = 0
    failures: int = 0
    seconds: float = 0.0
    #: The least silence of the answers in a row.
    silence: str = SPEAKS

    def hear(self, answer: Answer, now: float, rules: Rules) -> bool:
        """Take an answer in; say whether nginx has to know."""
        self.seconds, self.reason = answer.seconds, answer.reason
        self.silence = min(answer.silence, self.silence, key=SILENCES.index) if self.streak else answer.silence
        good = answer.state == UP
        self.failures += not good
        if good == (self.state == UP):
            self.streak = 0
            # Dead or leaving: nginx treats both alike, so this needs no second opinion.
            self.state = answer.state
            return False
        self.streak += 1
        if self.streak < (max(self.needed, rules.rise) if good else rules.fall):
            return False
        if not good:
            again = now - self.since < rules.damping_seconds and self.needed
            self.needed = min(2 * self.needed, rules.damping_most) if again else rules.rise
        self.state, self.since, self.streak = answer.state, now, 0
        return True


@dataclass(frozen=True)
class Server:
    name: str
    address: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Site:
    """One site: its servers, and how their health is asked."""

    name: str
    servers: tuple[Server, ...]
    fail_timeout_seconds: int
    health_path: str
    health_host: str
    maintenance: bool = False

    def target(self, server: Server) -> str:
        """Name what is probed; sites that share a server and its health address share the probe."""
        return f"{server.endpoint} {self.health_host} {self.health_path}"


def excluded(site: Site, states: Mapping[str, str], drained: Sequence[str]) -> set[str]:
    """Return the names of the servers that get no request.

    All down means all up: then the network here is at fault, or the health address is, and asking a server that may
    work is better than asking none. What the operator drained stays out in any case.
    """
    kept = [server for server in site.servers if server.name not in drained]
    sick = {server.name for server in kept if states.get(site.target(server), UP) != UP}
    if len(sick) == len(kept):
        sick = set()
    return sick | (set(drained) & {server.name for server in site.servers})


def server_lines(site: Site, out: set[str], max_fails: int) -> str:
    """Return the body of an upstream."""
    return "".join(
        f"server {server.endpoint} max_fails={max_fails} fail_timeout={site.fail_timeout_seconds}s"
        f"{' down' if server.name in out else ''}; # {server.name}\n"
        for server in site.servers
    )


def includes(
    sites: Sequence[Site], states: Mapping[str, str], drained: Sequence[str], maintenance: Sequence[str]
) -> dict[str, str]:
    """Return every file that nginx includes, by name; the last one names them all, so that workers can be asked."""
    files = {}
    for site in sites:
        out = excluded(site, states, drained)
        files[f"{site.name}.servers"] = server_lines(site, out, 1)
        files[f"{site.name}.any.servers"] = server_lines(site, out, 0)
        shown = site.maintenance or site.name in maintenance
        files[f"{site.name}.maintenance"] = MAINTENANCE if shown else ""
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return files | {"marks": f'location = /marks {{ return 200 "{digest}"; }}\n'}


# --- Files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    sites: tuple[Site, ...]
    rules: Rules
    interval_seconds: float
    timeout_seconds: float
    #: Silences that have the connections to a server closed.
    closes: Sequence[str]
    local: str
    cache_directory: str

    def known(self, name: str) -> list[Site]:
        """Return the sites that a server belongs to; an unknown one is refused."""
        found = [site for site in self.sites if any(server.name == name for server in site.servers)]
        if not found:
            names = sorted({server.name for site in self.sites for server in site.servers})
            raise Refusal(f"{name} is no application server of this balancer; known are {', '.join(names)}")
        return found


def load(path: pathlib.Path) -> dict[str, Any]:
    """Return what a state file holds; one that is absent or broken holds nothing.

    Root reads what the probes' account writes: no link is followed, and no pipe is waited for.
    """
    try:
        text = read_own(path)
        data = json.loads(text) if text is not None else {}
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def read_own(path: str | pathlib.Path, folder: int | None = None, size: int = -1) -> str | None:
    """Return the text of a file, None when it is gone. What is no file is refused: another account put it there."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refusal(
            f"{path} is a link or cannot be read ({error.strerror}); it is not followed: remove it"
        ) from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Refusal(f"{path} is no file: remove it")
        return file.read(size).decode(errors="replace")


def config() -> Config:
    data = json.loads(CONFIG.read_text())
    sites = [
        Site(**site | {"servers": tuple(Server(**server) for server in site["servers"])}) for site in data["sites"]
    ]
    health = data["health"]
    return Config(
        sites=tuple(sites),
        rules=Rules(fall=health["fall"], rise=health["rise"]),
        interval_seconds=health["interval_seconds"],
        timeout_seconds=health["timeout_seconds"],
        closes=CLOSES[health["close_connections"]],
        local=data["local"],
        cache_directory=data["cache_directory"],
    )


def write(path: pathlib.Path, text: str) -> None:
    """Replace a file at once, or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def wishes() -> dict[str, list[str]]:
    """Return what the operator wants. A broken record is an error: as none it would bring drained servers back."""
    none: dict[str, list[str]] = {"drained": [], "maintenance": []}
    try:
        data = json.loads(WISHES.read_text())
    except FileNotFoundError:
        return none
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Refusal(f"{WISHES} is broken: remove it, then drain again what has to be out")
    return none | data


def found(settings: Config) -> dict[str, dict[str, Any]]:
    """Return target -> verdict, as the probes last found; without probes nothing is known of any."""
    return load(FOUND) if settings.interval_seconds else {}


def states(settings: Config) -> dict[str, str]:
    """Return target -> state; a server of which nothing is known is up."""
    return {target: entry.get("state", UP) for target, entry in found(settings).items()}


# --- What root does ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one command at a time change what nginx includes."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nginx() -> None:
    """Let nginx test all its files; its last line only says that they failed."""
    tested = run("nginx", "-t", "-q")
    if tested.returncode:
        said = tested.stderr.strip().splitlines()
        raise Refusal("\n".join(line for line in said if not line.endswith("test failed")))


def running_marks(settings: Config, path: str = "marks") -> str:
    """Return what the workers answer; a nginx that is not there answers nothing."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{settings.local}/{path}", timeout=5) as answer:
        return str(answer.read().decode()).strip()
    return ""


def replace_includes(wanted: Mapping[str, str]) -> bool:
    """Write the files and let nginx test them with everything else; put the old ones back if it refuses."""
    INCLUDES.mkdir(mode=0o755, parents=True, exist_ok=True)
    before = {path.name: path.read_text() for path in INCLUDES.iterdir() if not path.name.startswith(".")}
    if before == wanted:
        return False

    def put(files: Mapping[str, str]) -> None:
        for name, text in files.items():
            write(INCLUDES / name, text)
        for path in INCLUDES.iterdir():
            if path.name not in files:
                path.unlink()

    try:
        put(wanted)
        test_nginx()
    except (Refusal, OSError):
        # Only what differs, and first what needs no room: a full disk must not keep the good files out.
        for name in wanted.keys() - before.keys():
            (INCLUDES / name).unlink(missing_ok=True)
        for name, text in before.items():
            if not (INCLUDES / name).is_file() or (INCLUDES / name).read_text() != text:
                write(INCLUDES / name, text)
        raise
    return True


def refresh() -> bool:
    """Make the files on disk what they should be, and test them. The role validates its own files with this."""
    settings, wish = config(), wishes()
    wanted = includes(settings.sites, states(settings), wish["drained"], wish["maintenance"])
    changed = replace_includes(wanted)
    if not changed:
        test_nginx()
    return changed


def reload(settings: Config, digest: str) -> bool:
    """Have nginx's workers run the lists of a digest, unless they do. One that is stopped reads them when it starts."""
    asked = run("systemctl", "is-active", "--quiet", "nginx.service")
    # 3: it does not run. Anything else is no answer, which is no reason to leave the old lists in use.
    if asked.returncode not in (0, 3):
        raise Refusal(f"systemctl is-active nginx.service: {asked.stderr.strip() or f'exit code {asked.returncode}'}")
    if asked.returncode == 3 or running_marks(settings) == digest:
        return False
    reloaded = run("systemctl", "reload", "nginx.service")
    if reloaded.returncode:
        raise Refusal(reloaded.stderr.strip())
    deadline = time.monotonic() + 10
    while running_marks(settings) != digest:
        if time.monotonic() > deadline:
            raise Refusal("nginx took the reload but its workers do not answer the new server lists; see its error log")
        time.sleep(0.05)
    return True


def close_connections(settings: Config, drained: Sequence[str]) -> None:
    """Close those to servers that are out and too silent: nginx then asks another server, if it was a GET."""
    known, verdicts = states(settings), found(settings)
    closed: set[str] = set()
    for site in settings.sites:
        out = excluded(site, known, drained)
        for server in site.servers:
            silence = verdicts.get(site.target(server), {}).get("silence")
            if server.name in out and silence in settings.closes:
                closed.add(server.endpoint)
    for endpoint in sorted(closed):
        done = run("ss", "-H", "-n", "-t", "-K", "state", "established", "dst", endpoint)
        if done.returncode or done.stderr:
            # A kernel without INET_DIAG_DESTROY: what waits goes on waiting, up to the read timeout.
            print(f"connections to {endpoint} stay: {done.stderr.strip()}", file=sys.stderr)


def apply() -> bool:
    """Make nginx run what it should, and wait until it does; say whether it had to be reloaded."""
    settings, wish = config(), wishes()
    wanted = includes(settings.sites, states(settings), wish["drained"], wish["maintenance"])
    replace_includes(wanted)
    reloaded = reload(settings, wanted["marks"].split('"')[1])
    close_connections(settings, wish["drained"])
    return reloaded


def change_wishes(change: Callable[[dict[str, list[str]]], None]) -> bool:
    """Write down what the operator wants and make it so; what nginx refuses is not kept."""
    with locked():
        before = wishes()
        after = {key: list(values) for key, values in before.items()}
        change(after)
        if after != before:
            write(WISHES, json.dumps(after, sort_keys=True))
        try:
            reloaded = apply()
        except (Refusal, OSError):
            if after != before:
                write(WISHES, json.dumps(before, sort_keys=True))
            raise
    return reloaded or after != before


def connections() -> dict[tuple[str, int], int]:
    """Count nginx's connections by address and port of the far end.

    Idle ones that workers keep open count, too; old workers close theirs as soon as they are told to end, so after a
    reload only requests under way are left. By the owner of the sockets, so that probes do not count.
    """
    try:
        owner = str(pwd.getpwnam("www-data").pw_uid)
    except KeyError:
        return {}
    counts: dict[tuple[str, int], int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table) as file:
            next(file)
            for line in file:
                _, _, far, state, _, _, _, uid, *_ = line.split()
                # ESTABLISHED, SYN_SENT, CLOSE_WAIT
                if uid == owner and state in ("01", "02", "08"):
                    key = far_end(far)
                    counts[key] = counts.get(key, 0) + 1
    return counts


@functools.cache
def far_end(text: str) -> tuple[str, int]:
    """Read `0100007F:1F40`: each group of four bytes in the order of this machine."""
    number, port = text.split(":")
    groups = [bytes.fromhex(number[start : start + 8]) for start in range(0, len(number), 8)]
    packed = b"".join(group[::-1] if sys.byteorder == "little" else group for group in groups)
    return str(ipaddress.ip_address(packed)), int(port, 16)


def open_connections(settings: Config, name: str) -> int:
    counts = connections()
    ends = {
        (str(ipaddress.ip_address(s.address)), s.port)
        for site in settings.sites
        for s in site.servers
        if s.name == name
    }
    return sum(counts.get(end, 0) for end in ends)


def last_one(settings: Config, name: str, drained: Sequence[str]) -> str:
    """Name a site that would be left without a server."""
    known = states(settings)
    for site in settings.known(name):
        others = [s for s in site.servers if s.name != name and s.name not in drained]
        if not any(known.get(site.target(server), UP) == UP for server in others):
            return site.name
    return ""


def drain(options: argparse.Namespace) -> dict[str, Any]:
    settings = config()
    settings.known(options.name)
    already = options.name in wishes()["drained"]
    left = "" if already else last_one(settings, options.name, wishes()["drained"])
    if left and not options.force:
        raise Refusal(f"{options.name} is the last server that works for {left}; --force drains it all the same")
    if options.dry_run:
        return {"changed": not already, "connections": open_connections(settings, options.name)}
    changed = change_wishes(lambda wish: wish.update(drained=sorted({*wish["drained"], options.name})))
    deadline = time.monotonic() + options.timeout
    while (count := open_connections(settings, options.name)) and options.wait:
        if time.monotonic() > deadline:
            raise Refusal(
                f"{options.name} is drained, but {count} connections are still open after {options.timeout:g} s"
            )
        time.sleep(0.2)
    return {"changed": changed, "connections": count}


def undrain(options: argparse.Namespace) -> dict[str, Any]:
    config().known(options.name)
    changed = change_wishes(lambda wish: wish.update(drained=[n for n in wish["drained"] if n != options.name]))
    return {"changed": changed}


def maintenance(options: argparse.Namespace) -> dict[str, Any]:
    every = [site.name for site in config().sites]
    chosen = {options.site} if options.site else set(every)
    if not chosen <= set(every):
        raise Refusal(f"{options.site} is no site of this balancer; known are {', '.join(every)}")

    def change(wish: dict[str, list[str]]) -> None:
        now = set(wish["maintenance"]) & set(every)
        wish["maintenance"] = sorted(now | chosen if options.switch == "on" else now - chosen)

    return {"changed": change_wishes(change)}


def refuse(error: OSError) -> None:
    """For a walk: a folder that cannot be read is not an empty one. One that went meanwhile is."""
    if not isinstance(error, FileNotFoundError):
        raise error


def purge(options: argparse.Namespace) -> dict[str, Any]:
    """Delete kept answers; wait until none of them is served any more.

    nginx takes a file that is gone for a miss and forgets it, so nothing has to be reloaded.
    """
    removed = 0
    if not os.path.lexists(config().cache_directory):
        return {"changed": False, "removed": 0}
    wanted = f"\nKEY: {options.prefix}"
    # By open directories: the cache belongs to the workers' account, which could replace one by a link meanwhile.
    # It may itself be a link of root's, to another disk.
    top = os.path.realpath(config().cache_directory)
    for _, _, names, folder in os.fwalk(top, onerror=refuse, follow_symlinks=False):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                # The key stands in the first kilobytes, behind a binary header.
                if options.prefix and wanted not in (read_own(name, folder, 8192) or ""):
                    continue
                os.unlink(name, dir_fd=folder)
                removed += 1
    if removed:
        time.sleep(OPEN_FILE_SECONDS)
    return {"changed": removed > 0, "removed": removed}


# --- The service -------------------------------------------------------------------------------------------


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
        # So the kernel says that nobody has the address.
        silence = UNREACHABLE if getattr(problem, "errno", None) == errno.EHOSTUNREACH else SPEAKS
        reason = getattr(problem, "strerror", None) or str(problem)
        return Answer(DOWN, reason, time.monotonic() - started, silence)
    seconds = time.monotonic() - started
    status = line[1] if len(line) > 1 and line[0].startswith("HTTP/") else ""
    if status == "503":
        return Answer(LEAVING, "answers 503", seconds)
    # A redirect or a 404 is an answer, but of something that is not the application's health.
    return Answer(UP if status.startswith("2") else DOWN, f"answers {status or 'no HTTP'}", seconds)


async def ask_for_apply() -> dict[str, Any]:
    """Have root take over what was found; say how that went."""
    try:
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_unix_connection(APPLY_SOCKET)
            try:
                return dict(json.loads(await reader.read()))
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError) as problem:
        return {"error": f"{type(problem).__name__}: {problem}"}


def tell_systemd(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(text.encode(), address.replace("@", "\0", 1))


def stamps() -> list[int]:
    return [path.stat().st_mtime_ns for path in (CONFIG, pathlib.Path(__file__)) if path.exists()]


class Service:
    """Probes every server, and has nginx's lists follow."""

    def __init__(self, settings: Config) -> None:
        self.settings = settings
        self.verdicts: dict[str, Verdict] = {}
        self.targets: dict[str, tuple[Server, Site]] = {}
        found = load(FOUND)
        names = {field.name for field in dataclasses.fields(Verdict)}
        for site in settings.sites:
            for server in site.servers:
                target = site.target(server)
                self.targets[target] = (server, site)
                kept = {key: value for key, value in found.get(target, {}).items() if key in names}
                self.verdicts[target] = Verdict(**kept or {"since": time.time()})
        # At the start, too: a crash may have come between what was found and what nginx knows.
        self.news = asyncio.Event()
        self.news.set()
        self.reloads = 0
        self.error = ""
        self.written = stamps()

    async def watch(self, target: str, delay: float) -> None:
        """Probe one server for ever, at a steady pace."""
        server, site = self.targets[target]
        verdict, settings = self.verdicts[target], self.settings
        await asyncio.sleep(delay)
        while True:
            started = time.monotonic()
            answer = await probe(server, site.health_host, site.health_path, settings.timeout_seconds)
            if verdict.hear(answer, time.time(), settings.rules):
                print(f"{server.name} ({server.endpoint}) is {verdict.state}: {answer.reason}", flush=True)
                self.news.set()
            await asyncio.sleep(max(0.0, started + settings.interval_seconds - time.monotonic()))

    async def follow(self) -> None:
        """Hand news over, at most once an interval, and again when that failed, ever more slowly."""
        pause = 1.0
        while True:
            await self.news.wait()
            self.news.clear()
            try:
                write(FOUND, json.dumps({key: dataclasses.asdict(value) for key, value in self.verdicts.items()}))
                answer = await ask_for_apply()
            except OSError as problem:
                answer = {"error": str(problem)}
            self.error = answer.get("error", "")
            if self.error:
                print(f"nginx did not take the server lists: {self.error}", file=sys.stderr, flush=True)
                asyncio.get_running_loop().call_later(pause, self.news.set)
                pause = min(2 * pause, 60.0)
            else:
                self.reloads += bool(answer["changed"])
                pause = 1.0
            await asyncio.sleep(self.settings.interval_seconds)

    async def show(self) -> None:
        """Write the status and the metrics every second, and tell systemd that this process is alive."""
        tell_systemd("READY=1")
        while True:
            status = self.status()
            with contextlib.suppress(OSError):
                for path, text in ((STATUS, json.dumps(status)), (METRICS, metrics(status))):
                    temporary = path.with_suffix(".new")
                    temporary.write_text(text)
                    temporary.replace(path)
            tell_systemd("WATCHDOG=1")
            if stamps() != self.written:
                # systemd starts it again, with the new program and the new servers.
                sys.exit("changed on disk, starting again")
            await asyncio.sleep(1)

    def status(self) -> dict[str, Any]:
        return overview(self.settings, self.verdicts) | {"reloads": self.reloads, "error": self.error}

    async def run(self) -> None:
        # Spread over the interval, so that many servers are no burst.
        pace = self.settings.interval_seconds / max(1, len(self.targets))
        async with asyncio.TaskGroup() as group:
            for number, target in enumerate(self.targets):
                group.create_task(self.watch(target, number * pace))
            group.create_task(self.follow())
            group.create_task(self.show())


# --- What people and machines read -------------------------------------------------------------------------


def old_workers() -> int:
    """Count the workers of earlier configurations, which end when their last request does."""
    count = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            count += path.read_bytes().startswith(b"nginx: worker process is shutting down")
    return count


def overview(settings: Config, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    try:
        wish = wishes()
    except Refusal:
        wish = {"drained": [], "maintenance": []}  # `error` of the status says it; nginx keeps the lists that it has
    counts = connections()
    known = {target: verdict.state for target, verdict in verdicts.items()}
    sites = []
    for site in settings.sites:
        out = excluded(site, known, wish["drained"])
        servers = []
        for server in site.servers:
            verdict = verdicts.get(site.target(server), Verdict(reason="not probed"))
            servers.append(
                {
                    "name": server.name,
                    "address": server.endpoint,
                    "state": verdict.state,
                    "drained": server.name in wish["drained"],
                    "asked": server.name not in out,
                    "connections": counts.get((str(ipaddress.ip_address(server.address)), server.port), 0),
                    "since": verdict.since,
                    "reason": verdict.reason,
                    "probe_seconds": round(verdict.seconds, 4),
                    "failed_probes": verdict.failures,
                    "good_answers_needed": max(verdict.needed, settings.rules.rise),
                }
            )
        everything_down = all(s["drained"] or s["state"] != UP for s in servers)
        sites.append(
            {
                "name": site.name,
                "fail_open": everything_down and any(s["asked"] for s in servers),
                "maintenance": site.maintenance or site.name in wish["maintenance"],
                "servers": servers,
            }
        )
    return {"time": time.time(), "sites": sites, "old_workers": old_workers()}


def metrics(status: Mapping[str, Any]) -> str:
    """Return the status in the text format of Prometheus."""
    per_server: dict[str, tuple[str, Callable[[Mapping[str, Any]], float]]] = {
        "up": ("1 if the health address answers well", lambda s: s["state"] == UP),
        "drained": ("1 if the operator took it out", lambda s: s["drained"]),
        "asked": ("1 if nginx may send it requests", lambda s: s["asked"]),
        "connections": ("open connections of nginx", lambda s: s["connections"]),
        "probe_seconds": ("duration of the last probe", lambda s: s["probe_seconds"]),
        "failed_probes_total": ("probes without a good answer", lambda s: s["failed_probes"]),
    }
    lines: list[str] = []

    def family(name: str, text: str, samples: Sequence[tuple[str, float]]) -> None:
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.extend((f"# HELP webstack_lb_{name} {text}", f"# TYPE webstack_lb_{name} {kind}"))
        lines.extend(f"webstack_lb_{name}{labels} {value:g}" for labels, value in samples)

    for name, (text, value) in per_server.items():
        family(
            f"server_{name}",
            text,
            [
                (f'{{site="{site["name"]}",server="{server["name"]}"}}', float(value(server)))
                for site in status["sites"]
                for server in site["servers"]
            ],
        )
    for name, text in (
        ("fail_open", "1 if no server works and all are asked"),
        ("maintenance", "1 if the operator shows the maintenance page"),
    ):
        family(f"site_{name}", text, [(f'{{site="{site["name"]}"}}', float(site[name])) for site in status["sites"]])
    family("old_workers", "workers of earlier configurations", [("", status["old_workers"])])
    family("reloads_total", "reloads of nginx that the probes caused", [("", status["reloads"])])
    family("apply_failed", "1 if nginx refused the last server lists", [("", float(bool(status["error"])))])
    return "\n".join(lines) + "\n"


def age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def table(status: Mapping[str, Any]) -> str:
    rows = [("site", "server", "address", "state", "asked", "connections", "since", "last probe")]
    for site in status["sites"]:
        for server in site["servers"]:
            state = "drained" if server["drained"] else server["state"]
            if server["drained"] and server["state"] != UP:
                state += f", {server['state']}"
            rows.append(
                (
                    site["name"],
                    server["name"],
                    server["address"],
                    state,
                    "yes" if server["asked"] else "no",
                    str(server["connections"]),
                    age(status["time"] - server["since"]) if server["since"] else "-",
                    f"{server['reason']}, {1000 * server['probe_seconds']:.0f} ms",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for site in status["sites"]:
        if site["fail_open"]:
            lines.append(f"{site['name']}: no server works, so all are asked")
        if site["maintenance"]:
            lines.append(f"{site['name']}: maintenance page")
    if status["old_workers"]:
        lines.append(f"{status['old_workers']} workers of earlier configurations finish their requests")
    if status.get("error"):
        lines.append(f"nginx refused the last server lists: {status['error']}")
    return "\n".join(lines)


def last_status() -> dict[str, Any]:
    """Return what the service wrote last: after a change of wishes, what it wrote since, which takes it up to 1 s."""
    wished = WISHES.stat().st_mtime if WISHES.exists() else 0.0
    status = load(STATUS)
    while status.get("time", 0) < wished <= time.time() < wished + 3:
        time.sleep(0.05)
        status = load(STATUS)
    return status


def show_status(options: argparse.Namespace) -> int:
    settings = config()
    status = last_status()
    alive = not settings.interval_seconds or time.time() - status.get("time", 0) < 5
    if not alive or not settings.interval_seconds:
        known = {target: Verdict(state=state, reason="as last found") for target, state in states(settings).items()}
        status = overview(settings, known) | {"reloads": 0, "error": ""}
    print(json.dumps(status | {"probing": alive}, indent=1) if options.json else table(status))
    if not alive:
        print("webstack-lb.service does not probe: the states are the last that it found", file=sys.stderr)
    return 0 if alive else 1


def answering(act: Callable[[], dict[str, Any]]) -> int:
    """Print the result as JSON; the error too, since the service and the playbooks read it."""
    try:
        print(json.dumps(act()))
    except (Refusal, OSError) as problem:
        print(json.dumps({"error": str(problem)}))
        return 1
    return 0


def generation() -> int:
    """Print the configuration that the workers run, for the role; fail when the files on disk would not start."""
    settings = config()
    with locked():
        refresh()
        lists = (INCLUDES / "marks").read_text()
    marks = running_marks(settings)
    print(running_marks(settings, "generation") if marks and marks in lists else "none")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status").add_argument("--json", action="store_true")
    draining = commands.add_parser("drain")
    draining.add_argument("name", metavar="NAME")
    draining.add_argument("--wait", action="store_true", help="until nginx has no connection to the server")
    draining.add_argument("--timeout", type=float, default=60, help="longest wait, in seconds")
    draining.add_argument("--force", action="store_true", help="also the last server that works")
    draining.add_argument("--dry-run", action="store_true", help="only say whether it would be refused")
    commands.add_parser("undrain").add_argument("name", metavar="NAME")
    switching = commands.add_parser("maintenance")
    switching.add_argument("switch", choices=["on", "off"])
    switching.add_argument("site", nargs="?", metavar="SITE")
    commands.add_parser("purge").add_argument("prefix", nargs="?", default="", metavar="PREFIX")
    for name in ("apply", "refresh", "generation", "run"):
        commands.add_parser(name)
    options = parser.parse_args()
    os.umask(0o022)  # whoever calls: nginx and the probes read what is written here

    def locked_apply() -> dict[str, Any]:
        with locked():
            return {"changed": apply()}

    acts = {"drain": drain, "undrain": undrain, "maintenance": maintenance, "purge": purge}
    if options.command in acts:
        return answering(lambda: acts[options.command](options))
    if options.command == "apply":
        return answering(locked_apply)
    try:
        if options.command == "status":
            return show_status(options)
        if options.command == "run":
            asyncio.run(Service(config()).run())
        elif options.command == "refresh":
            with locked():
                refresh()
        else:
            return generation()
    except (Refusal, OSError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

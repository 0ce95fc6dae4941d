"""Real Redis servers on loopback that can be frozen and killed, and the file that makes a ring of them.

For tests and benches. Needs the program redis-server (or valkey-server); tools/setup.sh gets it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "plugins/module_utils/webstack/pure"))

from ring import ALGORITHM, Ring  # noqa: E402


def program(name: str = "redis-server") -> str:
    """Return the path of a server's program: the machine's own, else the one that setup made."""
    path = f"{os.environ['PATH']}:{ROOT / '.cache/bin'}"
    found = shutil.which(os.environ.get("WEBSTACK_TEST_REDIS", name), path=path)
    if found is None:
        raise FileNotFoundError(f"{name} is missing: run tools/setup.sh, or apt-get install redis-tools")
    return found


#: Below what the kernel gives to connections. Each process of the tests has its own part.
FIRST_PORT, PORTS, PARTS = 10000, 1300, 16
_ports = itertools.count()


@functools.cache
def part() -> int:
    """Take a part of the ports that no other process has, until this one ends.

    Two that look for a port at the same moment would both find it free. One of two servers comes up on it, answers
    both, and is ended by the one while the other still uses it.
    """
    for number in range(PARTS):
        lock = os.open(Path(tempfile.gettempdir(), f"webstack-ports-{number}"), os.O_RDWR | os.O_CREAT)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        os.close(lock)
    raise RuntimeError(f"{PARTS} other processes use the ports of the tests")


def free_port() -> int:
    """Return a port that nobody listens on, and never one that was given before.

    Threads of a client whose test has ended go on asking at its ports: at a server of another test they would stand on
    its roll, and fall silent there.
    """
    for number in itertools.islice(_ports, PORTS):
        port = FIRST_PORT + part() * PORTS + number % PORTS
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no port is free")


class RedisServer:
    """One process. It keeps its port over kill() and start(); its data is gone then, as in a cache tier."""

    def __init__(self, *options: str, sentinel_file: Path | None = None) -> None:
        self.port = free_port()
        self._options = options
        self._sentinel_file = sentinel_file
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [program()]
        if self._sentinel_file is not None:  # it writes what it learns into its file
            command += [str(self._sentinel_file), "--sentinel"]
        else:
            command += ["--save", "", "--appendonly", "no", "--databases", "16", "--repl-diskless-sync-delay", "0"]
        command += ["--port", str(self.port), "--bind", "127.0.0.1", *self._options]
        # A replica writes what its master sends into a file of its directory, which the next server there would load.
        self._directory = tempfile.TemporaryDirectory(prefix="redis-")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=self._directory.name
        )
        end = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{' '.join(command)} did not start")
            time.sleep(0.01)

    def freeze(self) -> None:
        """Let it accept connections and never answer."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._directory.cleanup()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                # A server with a password answers, too.
                return connection.recv(7) in (b"+PONG\r\n", b"-NOAUTH")
        except OSError:
            return False


class Shards:
    """Shards of one server each, and the client's file about them."""

    def __init__(self, directory: Path, names: Iterable[str] = ("redis1", "redis2", "redis3")) -> None:
        self.servers = {name: RedisServer() for name in names}
        self.path = directory / "cache.json"
        self.write()

    def content(self, **changes: Any) -> dict[str, Any]:
        """Return what the file says."""
        return {
            "engine": "ring",
            **ring({name: [server.address] for name, server in self.servers.items()}),
            "sentinels": [],
            **changes,
        }

    def write(self, **changes: Any) -> None:
        # As the role writes it: at once, never in parts.
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.content(**changes)))
        new.rename(self.path)

    def stop(self) -> None:
        for server in self.servers.values():
            server.kill()


def ring(
    shards: Mapping[str, list[str]], weights: Mapping[str, int] | None = None, points: int = 160
) -> dict[str, Any]:
    """Return the part of the file that describes one ring."""
    weights = dict(weights or {})
    made = Ring({name: weights.get(name, 1) for name in shards}, points)
    return {
        "algorithm": ALGORITHM,
        "points": points,
        "fingerprint": made.fingerprint,
        "shards": {name: list(servers) for name, servers in shards.items()},
        "weights": weights,
    }


@contextlib.contextmanager
def running_shards(directory: Path, names: Iterable[str] = ("redis1", "redis2", "redis3")) -> Iterator[Shards]:
    made = Shards(directory, names)
    try:
        yield made
    finally:
        made.stop()

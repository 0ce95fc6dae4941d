#!/usr/bin/python3
"""Run nutcracker in front of the masters of the cache's shards, for programs that are not Django.

usage: webstack-nutcracker ADDRESS:PORT

nutcracker reads once which servers it has. So this program asks the sentinels every second, and starts it again when
a shard has another master or the shards themselves were changed. Where nutcracker would put keys elsewhere than the
ring, and while a change of the ring is under way, it does not run: a refused connection is a miss, a value from the
wrong shard could be an old one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from nutcracker_placement import problems

FILE = Path("/etc/webstack/cache.json")
PERIOD_SECONDS = 1.0
TIMEOUT_SECONDS = 0.5
STATS_PORT = 22222

Masters = dict[str, str]


def configuration(masters: Masters, password: str | None, listen: str) -> str:
    """Return nutcracker's file: a pool that puts each key where the ring of the Django client puts it."""
    lines = [
        "webstack:",
        f"  listen: {listen}",
        "  redis: true",
        "  distribution: ketama",
        "  hash: md5",
        '  hash_tag: "{}"',
        # An ejected shard's keys would go to others, and be found old when it is back.
        "  auto_eject_hosts: false",
        "  timeout: 250",
        *([f"  redis_auth: {json.dumps(password)}"] if password else []),
        "  servers:",
        # The points are made of the name behind the address, so a fail-over moves no key. In the order of the names:
        # on equal points the first one owns.
        *(f"    - {json.dumps(f'{masters[name]}:1 {name}')}" for name in sorted(masters, key=str.encode)),
    ]
    return "\n".join(lines) + "\n"


def place(text: str) -> tuple[str, int]:
    """Return host and port of "192.0.2.1:6379" or "[2001:db8::1]:6379"."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def read_reply(stream: BinaryIO) -> Any:
    """Read one reply of the Redis protocol."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection was closed")
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise ConnectionError(rest)
    if kind == b"$":
        return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [read_reply(stream) for _ in range(int(rest))]
    return rest


def ask(server: str, *commands: list[str]) -> Any:
    """Send commands to a server and return the reply to the last one."""
    request = b"".join(
        b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in command)
        for command in commands
    )
    with socket.create_connection(place(server), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            return [read_reply(stream) for _ in commands][-1]


def hindrances(settings: dict[str, Any]) -> list[str]:
    """Say why nutcracker must not run with this configuration of the clients; empty where it may."""
    weights = {name: settings["weights"].get(name, 1) for name in settings.get("shards", ())}
    found = problems(weights, settings.get("points", 0), settings["engine"], bool(settings.get("tls")))
    return [*found, "the ring is being changed"] if settings.get("next") else found


def masters_of(settings: dict[str, Any]) -> Masters | None:
    """Return the master of each shard by the sentinel that knows the latest fail-over; None where one is not known."""
    if not settings.get("sentinels"):
        return {name: servers[0] for name, servers in settings["shards"].items()}
    login = [["AUTH", *filter(None, [settings.get("username")]), settings["password"]]] if settings["password"] else []
    latest: dict[str, tuple[int, str]] = {}
    for sentinel in settings["sentinels"]:
        try:
            known = ask(sentinel, *login, ["SENTINEL", "MASTERS"])
        except (OSError, ValueError):
            continue
        for flat in known:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            host = f"[{fields['ip']}]" if ":" in fields["ip"] else fields["ip"]
            found = (int(fields["config-epoch"]), f"{host}:{fields['port']}")
            latest[fields["name"]] = max(found, latest.get(fields["name"], found))
    if not set(settings["shards"]) <= set(latest):
        return None
    return {name: latest[name][1] for name in settings["shards"]}


def _pass_on(log: BinaryIO) -> None:
    with log:
        for line in log:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


class Proxy:
    """The process of nutcracker, with the configuration that it was started with."""

    def __init__(self, program: str, directory: Path, listen: str, stats_port: int = STATS_PORT) -> None:
        self._command = [program, "--conf-file", str(directory / "nutcracker.yml")]
        # A pipe, which is passed on: it cannot open the journal's socket, and a file of its own would only grow.
        self._command += ["--output", "/proc/self/fd/2"]
        self._command += ["--stats-addr", "127.0.0.1", "--stats-port", str(stats_port)]
        self._file = directory / "nutcracker.yml"
        self._listen = listen
        self._process: subprocess.Popen[bytes] | None = None
        self._running: str | None = None

    def follow(self, settings: dict[str, Any]) -> None:
        """Make the process what the settings and the sentinels say."""
        if self._process is not None and self._process.poll() is not None:
            raise SystemExit(f"webstack-nutcracker: nutcracker ended with {self._process.returncode}")
        reasons = hindrances(settings)
        if reasons:
            self.stop("; ".join(reasons))
            return
        masters = masters_of(settings)
        if masters is None:  # no sentinel answers: what runs may well be right
            return
        wanted = configuration(masters, settings.get("password"), self._listen)
        if wanted != self._running:
            self.stop("its servers change")
            self._file.touch(mode=0o600)
            self._file.write_text(wanted, encoding="utf-8")
            self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE)
            threading.Thread(target=_pass_on, args=[self._process.stderr], daemon=True).start()
            self._running = wanted
            print(f"webstack-nutcracker: {', '.join(f'{name} at {masters[name]}' for name in masters)}", flush=True)

    def stop(self, reason: str) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            print(f"webstack-nutcracker: stopped nutcracker: {reason}", flush=True)
        self._process = self._running = None


def main() -> None:
    """Follow the file and the sentinels until systemd ends this process, and nutcracker with it."""
    proxy = Proxy("/usr/sbin/nutcracker", Path(os.environ["RUNTIME_DIRECTORY"]), sys.argv[1])
    while True:
        proxy.follow(json.loads(FILE.read_text(encoding="utf-8")))
        time.sleep(PERIOD_SECONDS)


if __name__ == "__main__":
    main()

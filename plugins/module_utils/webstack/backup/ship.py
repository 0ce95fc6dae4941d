# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ships a data directory from one host to another over mutual TLS."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..core.config import Settings
from ..core.errors import Problem
from ..db import data
from .tools import GENTLE

STORED = b"stored\n"


def tls(config: Settings, purpose: ssl.Purpose) -> ssl.SSLContext:
    names = config.table("tls")
    try:
        context = ssl.create_default_context(purpose, cafile=names.text("ca"))
        context.load_cert_chain(names.text("certificate"), names.text("key"))
    except OSError as error:
        raise Problem(f"no TLS with the files of backup_slave_tls_*: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def partial_of(target: pathlib.Path) -> pathlib.Path:
    """Return an empty directory beside `target`. When it is complete it is renamed to that."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    data.make_work(partial, *data.server_account())
    partial.mkdir(mode=0o700)
    return partial


def receive(
    config: Settings, target: pathlib.Path, here: tuple[str, int], sender: str, patience: float
) -> dict[str, Any]:
    """Receive one directory at this address and port from `sender`. Its certificate must name its address."""
    if target.exists():
        raise Problem(f"{target} exists; nothing is overwritten")
    context = tls(config, ssl.Purpose.CLIENT_AUTH)
    partial = partial_of(target)
    try:
        with socket.create_server(here, backlog=1) as listener:
            listener.settimeout(patience)
            try:
                plain, peer = listener.accept()
            except TimeoutError:
                raise Problem(f"{sender} did not connect to port {here[1]} within {patience:.0f} s") from None
            plain.settimeout(60)
            with context.wrap_socket(plain, server_side=True) as stream:
                certificate: Mapping[str, Any] = stream.getpeercert() or {}
                if sender not in [str(value) for _, value in certificate.get("subjectAltName", ())]:
                    raise Problem(f"the certificate of {peer[0]} is not that of {sender}")
                received = unpack(stream, partial, config.whole("timeout_seconds"))
                data.give_to_server(partial)
                partial.rename(target)
                stream.sendall(STORED)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise Problem(f"receiving from {sender} failed: {error}") from error
        raise
    return {"target": target, "bytes": data.size_of(str(target)), "received": received}


@contextlib.contextmanager
def program(seconds: float, *command: str, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program at one end of a pipe. It ends by itself, at the latest some seconds after we are done with it; when we
    fail it ends with us.
    """
    process = subprocess.Popen(command, **pipes)
    try:
        yield process
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Problem(f"{command[0]}: no end within {seconds:g} s") from None
    finally:
        process.kill()
        for pipe in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)


def unpack(stream: socket.socket, directory: pathlib.Path, seconds: float) -> int:
    """Everything up to the marker of length 0; a broken stream never counts as its end."""
    total = 0
    with (
        program(seconds, "zstd", "-dc", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zstd,
        program(seconds, "tar", "-C", str(directory), "-xpf", "-", stdin=zstd.stdout) as tar,
    ):
        assert zstd.stdin is not None and zstd.stdout is not None
        zstd.stdout.close()
        while length := int.from_bytes(exactly(stream, 4), "big"):
            zstd.stdin.write(exactly(stream, length))
            total += length
        zstd.stdin.close()
    if zstd.returncode != 0 or tar.returncode != 0:
        raise Problem("the received stream does not unpack; is the disk full?")
    return total


def send(config: Settings, source: pathlib.Path, address: str, port: int) -> dict[str, Any]:
    """Send a directory to the host that waits for it there."""
    if not source.is_dir():
        raise Problem(f"{source} is not a directory")
    context = tls(config, ssl.Purpose.SERVER_AUTH)
    started = time.monotonic()
    seconds = config.whole("timeout_seconds")
    total = 0
    try:
        plain = connect(address, port, 60)
        with context.wrap_socket(plain, server_hostname=address) as stream:
            with (
                program(seconds, "tar", "-C", str(source), "-cf", "-", ".", stdout=subprocess.PIPE) as tar,
                program(seconds, *GENTLE, "zstd", "-qc", "-1", stdin=tar.stdout, stdout=subprocess.PIPE) as zstd,
            ):
                assert zstd.stdout is not None and tar.stdout is not None
                tar.stdout.close()
                while chunk := zstd.stdout.read(1 << 18):
                    stream.sendall(len(chunk).to_bytes(4, "big") + chunk)
                    total += len(chunk)
            if tar.returncode != 0 or zstd.returncode != 0:
                raise Problem(f"reading {source} failed")
            stream.sendall(bytes(4))
            stream.settimeout(600)
            if stream.recv(16) != STORED:
                raise Problem(f"{address} did not store the data")
    except OSError as error:
        raise Problem(f"sending to {address}:{port} failed: {error}") from error
    return {"bytes": total, "seconds": round(time.monotonic() - started, 1)}


def exactly(stream: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        chunk = stream.recv(length - len(received))
        if not chunk:
            raise Problem("the connection broke off before the end")
        received += chunk
    return bytes(received)


def connect(address: str, port: int, patience: float) -> socket.socket:
    """Connect, and try again for a while: the receiver starts at the same time, so its port may open later."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection((address, port), timeout=60)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)

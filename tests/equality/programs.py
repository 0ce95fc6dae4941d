"""The other programs that know ketama, each behind one method: locate(key: bytes) -> name of the node.

They come from Debian and PyPI when a test first needs one and are unpacked below .cache/equality: nothing is installed
into the machine, so no service of theirs starts. What cannot be had is an error, never a skip.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

from uhashring import HashRing

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "equality"
# Debian 13 renamed the libraries.
DEBIAN = "^(nutcracker|libyaml-0-2|libmemcached11(t64)?|libhashkit2(t64)?)$"
KETAMA = "ketama==0.1.1"


def _program_of_the_role() -> Any:
    path = ROOT / "roles/redis_cluster_client/files/webstack_nutcracker.py"
    specification = importlib.util.spec_from_file_location("webstack_nutcracker", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


role = _program_of_the_role()


# --- Where they come from --------------------------------------------------------------------------


def _run(*command: str, cwd: Path | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr or result.stdout}")
    return result.stdout


def debian() -> Path:
    """Return the directory with the unpacked packages of Debian."""
    done = CACHE / "debian"
    if done.is_dir():
        return done
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise RuntimeError("nutcracker and libmemcached are taken from Debian's packages: run these tests on Debian")

    def names() -> list[str]:
        return [line.split()[0] for line in _run("apt-cache", "search", "--names-only", DEBIAN).splitlines()]

    if len(names()) < 4:
        _run("apt-get", "-qq", "update")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        try:
            _run("apt-get", "-qq", "download", *names(), cwd=Path(directory))
        except RuntimeError:  # the lists are older than the archive
            _run("apt-get", "-qq", "update")
            _run("apt-get", "-qq", "download", *names(), cwd=Path(directory))
        unpacked = Path(directory) / "unpacked"
        for package in Path(directory).glob("*.deb"):
            _run("dpkg-deb", "--extract", str(package), str(unpacked))
        unpacked.rename(done)
    return done


def debian_library(name: str) -> Path:
    return next((debian() / "usr/lib").glob(f"*/{name}"))


def python_packages() -> Path:
    """Return the directory with libketama: PyPI's binding carries Last.fm's ketama.c and compiles it."""
    done = CACHE / f"python{platform.python_version()}"
    if not done.is_dir():
        if not shutil.which("cc"):
            raise RuntimeError("libketama is compiled from its source: apt-get install gcc python3-dev")
        with tempfile.TemporaryDirectory(dir=CACHE.parent) as directory:
            unpacked = Path(directory) / "unpacked"
            _run(
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
                *("--target", str(unpacked), KETAMA),
            )
            CACHE.mkdir(parents=True, exist_ok=True)
            unpacked.rename(done)
    return done


# --- Each behind locate() --------------------------------------------------------------------------


class Uhashring:
    """Keys are text. A point belongs to the node that was added last, so the smaller name must come last."""

    def __init__(self, names: Iterable[str], weights: Mapping[str, int] | None = None) -> None:
        nodes = sorted(names, key=str.encode, reverse=True)
        given = {name: {"weight": weights[name]} for name in nodes} if weights else nodes
        self._ring = HashRing(given, hash_fn="ketama")

    def locate(self, key: bytes) -> str:
        return self._ring.get_node(key.decode())


class Libketama:
    """Names of at most 21 bytes and, because of its 512 KiB of shared memory, at most 117 nodes.

    Closing one takes the memory from all, so have one at a time.
    """

    def __init__(self, names: Sequence[str], directory: Path, weights: Mapping[str, int] | None = None) -> None:
        assert len(names) <= 117 and all(len(name.encode()) <= 21 for name in names)
        packages = str(python_packages())
        if packages not in sys.path:
            sys.path.append(packages)
        from ketama import Ketama

        # The shared memory goes by the file's number and time, and a file of an earlier ring may have had both.
        servers = Path(tempfile.mkstemp(dir=directory, suffix=".servers")[1])
        servers.write_text("".join(f"{name}\t{(weights or {}).get(name, 1)}\n" for name in _in_order(names)))
        self._continuum = Ketama(str(servers))

    def locate(self, key: bytes) -> str:
        return self._continuum.get_server(key)[1]

    def close(self) -> None:
        del self._continuum


class Libmemcached:
    """At most 100 servers. The label of a server on port 11211 is its name alone."""

    _KETAMA_WEIGHTED = 16
    _PORT = 11211

    def __init__(self, names: Sequence[str], weights: Mapping[str, int] | None = None) -> None:
        # It names libhashkit as what it needs, which is not where the linker looks.
        ctypes.CDLL(str(debian_library("libhashkit.so.2")), mode=ctypes.RTLD_GLOBAL)
        self._library = library = ctypes.CDLL(str(debian_library("libmemcached.so.11")))
        library.memcached_create.restype = library.memcached_server_list_append_with_weight.restype = ctypes.c_void_p
        self._handle = ctypes.c_void_p(library.memcached_create(None))
        assert library.memcached_behavior_set(self._handle, self._KETAMA_WEIGHTED, ctypes.c_uint64(1)) == 0
        self._names = _in_order(names)
        # One push: after each push the points are made and sorted anew.
        servers, status = ctypes.c_void_p(None), ctypes.c_int(0)
        for name in self._names:
            servers = ctypes.c_void_p(
                library.memcached_server_list_append_with_weight(
                    servers, name.encode(), self._PORT, (weights or {}).get(name, 1), ctypes.byref(status)
                )
            )
            assert status.value == 0, name
        assert library.memcached_server_push(self._handle, servers) == 0
        library.memcached_server_list_free(servers)

    def locate(self, key: bytes) -> str:
        return self._names[self._library.memcached_generate_hash(self._handle, key, ctypes.c_size_t(len(key)))]

    def close(self) -> None:
        self._library.memcached_free(self._handle)


class _Session(StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2])
            self.wfile.write(self.server.answer(words))  # type: ignore[attr-defined]


class Server(ThreadingTCPServer):
    """Speaks the Redis protocol on a port of its own."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def answer(self, words: list[bytes]) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Backend(Server):
    """Stands for the Redis of one node: it says which node a key went to."""

    def __init__(self, name: str) -> None:
        self.node = name.encode()
        super().__init__()

    def answer(self, words: list[bytes]) -> bytes:
        return b"+OK\r\n" if words[0].lower() == b"auth" else b"$%d\r\n%s\r\n" % (len(self.node), self.node)


class NutcrackerClient:
    """Asks a running nutcracker in whose place the backends answer."""

    def __init__(self, address: str, password: str | None = None) -> None:
        host, _, port = address.rpartition(":")
        for _ in range(250):
            try:
                self._socket = socket.create_connection((host, int(port)), timeout=20)
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        else:
            raise RuntimeError(f"nutcracker does not listen on {address}")
        self._replies = self._socket.makefile("rb")
        if password:
            self._socket.sendall(b"*2\r\n$4\r\nauth\r\n$%d\r\n%s\r\n" % (len(password), password.encode()))
            if self._replies.readline() != b"+OK\r\n":
                raise RuntimeError("nutcracker refuses the password")

    def locate_all(self, keys: Sequence[bytes]) -> list[str]:
        found = []
        for start in range(0, len(keys), 200):
            some = keys[start : start + 200]
            self._socket.sendall(b"".join(b"*2\r\n$3\r\nget\r\n$%d\r\n%s\r\n" % (len(key), key) for key in some))
            for key in some:
                head = self._replies.readline()
                if not head.startswith(b"$"):
                    raise RuntimeError(f"nutcracker answers {head!r} for {key!r}")
                found.append(self._replies.read(int(head[1:]) + 2)[:-2].decode())
        return found

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


def nutcracker() -> tuple[str, dict[str, str]]:
    """Return the program and the environment that it needs."""
    libraries = {"LD_LIBRARY_PATH": str(debian_library("libyaml-0.so.2").parent)}
    return str(debian() / "usr/sbin/nutcracker"), {**os.environ, **libraries}


class Nutcracker:
    """A real process with the role's configuration, in front of one backend a node."""

    def __init__(self, names: Iterable[str], directory: Path) -> None:
        self._backends = [Backend(name) for name in names]
        port, stats = two_free_ports()
        listen = f"127.0.0.1:{port}"
        file = directory / "nutcracker.yml"
        masters = {backend.node.decode(): backend.address for backend in self._backends}
        file.write_text(role.configuration(masters, None, listen), encoding="utf-8")
        program, environment = nutcracker()
        self._process = subprocess.Popen(
            [
                *(program, "--conf-file", str(file), "--output", str(directory / "nutcracker.log")),
                *("--stats-addr", "127.0.0.1", "--stats-port", str(stats)),
            ],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        self._client = NutcrackerClient(listen)
        self.locate_all = self._client.locate_all

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(10)
        for backend in self._backends:
            backend.close()


def two_free_ports() -> tuple[int, int]:
    """Return two ports, which are not the same: both are held until both are known."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _in_order(names: Iterable[str]) -> list[str]:
    """All but uhashring sort points alone; on equal points the node that was named first owns."""
    return sorted(names, key=str.encode)

"""A sentinel that says what the test wants, when the test wants it. For races that real ones lose too seldom."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any


class FakeSentinel:
    """Answers SENTINEL MASTER and REPLICAS, and tells its listeners what it is told to tell."""

    def __init__(self, masters: dict[str, int]) -> None:
        self.masters = {
            name: {"port": port, "flags": "master", "epoch": 1, "replicas": 1} for name, port in masters.items()
        }
        self.questions = 0
        self._running = threading.Event()
        self._running.set()
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def start(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self._port), backlog=64)
        self._port = self._server.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._listeners: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def kill(self) -> None:
        for each in (self._server, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._running.set()

    def freeze(self) -> None:
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    def switch(self, name: str, port: int, tell: bool = True) -> None:
        """Let another server be the master from now on."""
        state = self.masters[name]
        before, state["port"] = state["port"], port
        state["epoch"] += 1
        state |= {"flags": "master", "promoted": None}
        if tell:
            self.tell("+switch-master", f"{name} 127.0.0.1 {before} 127.0.0.1 {port}")

    def lead(self, name: str, port: int, tell: bool = True) -> None:
        """Let it promote a server, and not know yet that it is one."""
        state = self.masters[name]
        state |= {"flags": "s_down,o_down,master,failover_in_progress", "promoted": port}
        if tell:
            told = f"slave 127.0.0.1:{port} 127.0.0.1 {port} @ {name} 127.0.0.1 {state['port']}"
            self.tell("+failover-state-wait-promotion", told)

    def tell(self, channel: str, text: str) -> None:
        message = _array(_bulk("message"), _bulk(channel), _bulk(text))
        for connection in list(self._listeners):
            with contextlib.suppress(OSError):
                connection.sendall(message)

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as stream:
            while line := stream.readline():
                words = []
                for _ in range(int(line[1:])):
                    length = int(stream.readline()[1:])
                    words.append(stream.read(length + 2)[:-2].decode())
                self._running.wait()
                connection.sendall(self._answer(connection, words))
        with contextlib.suppress(ValueError):
            self._listeners.remove(connection)

    def _answer(self, connection: socket.socket, words: list[str]) -> bytes:
        match words:
            case ["SUBSCRIBE", *channels]:
                self._listeners.append(connection)
                return b"".join(_array(_bulk("subscribe"), _bulk(each), b":1\r\n") for each in channels)
            case ["PING"]:
                return _array(_bulk("pong"), _bulk("")) if connection in self._listeners else b"+PONG\r\n"
            case ["SENTINEL", "MASTER", name] if name in self.masters:
                self.questions += 1
                state = self.masters[name]
                pairs: dict[str, Any] = {
                    "name": name,
                    "ip": "127.0.0.1",
                    "port": state["port"],
                    "flags": state["flags"],
                    "config-epoch": state["epoch"],
                    "num-slaves": state.get("replicas", 1),
                }
                return _array(*[_bulk(str(word)) for pair in pairs.items() for word in pair])
            case ["SENTINEL", "REPLICAS", name] if name in self.masters:
                port = self.masters[name].get("promoted")
                words = ["ip", "127.0.0.1", "port", str(port), "flags", "slave,promoted"]
                return _array(*[_array(*map(_bulk, words))] if port else [])
            case ["SENTINEL", *_]:
                return b"-ERR No such master with that name\r\n"
            case _:
                return b"+OK\r\n"


def _bulk(text: str) -> bytes:
    raw = text.encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def _array(*items: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))

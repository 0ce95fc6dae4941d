# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""RESP, the protocol of Redis, Valkey and their sentinels. We send few commands, so we need no client library."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .errors import Problem

#: Seconds. All servers are in one network, and a dead host must not hold up a start.
CONNECT = 0.5


class Unreachable(Problem):
    """No server answers at this address."""


class Denied(Problem):
    """The server answers but does not accept the password."""


class Refusal(Problem):
    """The server answered with an error."""


class Access:
    """How to log in: the account, its possible passwords (during a change there are several), and TLS or not."""

    def __init__(self, username: str, passwords: Sequence[str], authority: str | None) -> None:
        self.username = username
        self.passwords = passwords
        self.tls = ssl.create_default_context(cafile=authority) if authority else None


def _reply(stream: Any) -> Any:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise Unreachable("connection closed")
    kind, rest = line[:1], line[1:-2].decode("utf-8", "replace")
    if kind == b"+":
        return rest
    if kind == b"-":
        return Refusal(rest)
    if kind == b":":
        return int(rest)
    if kind == b"$":
        size = int(rest)
        # A key may be any bytes, and we must be able to send it back unchanged.
        return None if size < 0 else stream.read(size + 2)[:-2].decode("utf-8", "surrogateescape")
    if kind == b"*":
        size = int(rest)
        return None if size < 0 else [_reply(stream) for _ in range(size)]
    raise Unreachable(f"unexpected reply {line!r}")


def _send(link: socket.socket, stream: Any, words: Iterable[str]) -> Any:
    parts = [word.encode("utf-8", "surrogateescape") for word in words]
    link.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    return _reply(stream)


@contextlib.contextmanager
def session(node: Mapping[str, Any], access: Access, seconds: float = CONNECT) -> Iterator[Callable[..., Any]]:
    """Log in. Passwords go through the connection, never through the arguments of a command."""
    try:
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(socket.create_connection((node["address"], node["port"]), seconds))
            link.settimeout(max(seconds, 2.0))
            if access.tls:
                link = stack.enter_context(access.tls.wrap_socket(link, server_hostname=node["address"]))
            stream = stack.enter_context(link.makefile("rb"))
            for password in access.passwords:
                reply = _send(link, stream, ("AUTH", access.username, password))
                if not isinstance(reply, Refusal):
                    break
            else:
                raise Denied(str(reply))

            def command(*words: str) -> Any:
                reply = _send(link, stream, words)
                if isinstance(reply, Refusal):
                    raise reply
                return reply

            yield command
    except OSError as error:
        raise Unreachable(str(error)) from error


def ask(node: Mapping[str, Any], access: Access, *words: str, seconds: float = CONNECT) -> Any:
    """Send one command."""
    with session(node, access, seconds) as command:
        return command(*words)


def pairs(flat: Iterable[str] | None) -> dict[str, str]:
    """Turn the flat name, value, name, value reply of Sentinel into a dictionary."""
    items = list(flat or [])
    return dict(zip(items[::2], items[1::2], strict=False))

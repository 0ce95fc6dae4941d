# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connections to one server: how they are made, kept, and given up at once when another server takes over."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from .configuration import Access, Address

TIMEOUT_SECONDS = 0.25

Command = tuple[Any, ...]

UNREACHABLE = (redis.ConnectionError, redis.TimeoutError)
# Replies of a server that is there but cannot serve now. Any other error reply is a fault of the caller
# or of the configuration, and is raised.
_REFUSALS = ("OOM ", "READONLY ", "MASTERDOWN ", "NOREPLICAS ", "LOADING ")

# redis-py introduces itself on each connection, in two round trips; the option against that was renamed.
_NAMELESS: dict[str, None] = (
    {"driver_info": None} if hasattr(redis, "DriverInfo") else {"lib_name": None, "lib_version": None}
)


def is_refusal(error: BaseException) -> bool:
    """Tell whether a server said that it cannot serve at the moment."""
    # redis-py cuts the code off the text of those errors that have a class of their own.
    return isinstance(error, (redis.OutOfMemoryError, redis.ReadOnlyError)) or (
        isinstance(error, redis.ResponseError) and str(error).startswith(_REFUSALS)
    )


def is_worth_repeating(error: BaseException) -> bool:
    """Tell whether a second attempt may help: after a broken connection yes, after silence never.

    A server that let 250 ms pass would only cost the request another 250 ms.
    """
    return isinstance(error, redis.ConnectionError) and not isinstance(error, MasterNotFoundError)


def pack(commands: Iterable[Command]) -> bytes:
    """Return the commands as they go over the wire. A third of the time that redis-py takes."""
    packed = []
    for command in commands:
        words = [_encode(word) for word in command]
        packed.append(b"*%d\r\n" % len(words))
        packed += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(packed)


def _encode(word: Any) -> bytes:
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, (int, float)):
        return repr(word).encode()
    return bytes(memoryview(word))


class Connection(redis.Connection):
    """redis-py's connection that takes a demoted master for a broken connection, so that the new one is looked for."""

    home: object = None
    """What its pool had for an address when the connection was made."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except redis.ReadOnlyError as exc:
            self.disconnect()
            raise redis.ConnectionError("the master is a replica now") from exc


class TLSConnection(Connection):
    """The same over TLS. redis-py's own reads the authorities again for each connection, the system's as well."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connect(self) -> Any:
        plain = super()._connect()
        try:
            return self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


class Connector:
    """Makes connections, all in the same way."""

    def __init__(self, access: Access, options: Mapping[str, Any]) -> None:
        self._options: dict[str, Any] = {
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "socket_keepalive": True,
            "protocol": 2,
            "username": access.username,
            "password": access.password,
            **_NAMELESS,
            **options,
            # Repeating is decided where it is known which operations may run twice.
            "retry": Retry(NoBackoff(), 0),
        }
        self.database = int(self._options.get("db") or 0)
        self._class: type[Connection] = Connection
        if access.authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the certificate and the address in it
            context.load_verify_locations(cadata=access.authority)
            self._class = TLSConnection
            self._options["tls"] = context

    def make(self, address: Address) -> Connection:
        return self._class(host=address.host, port=address.port, **self._options)

    def of_sentinels(self) -> Connector:
        """Return a connector for servers that have no databases."""
        other = object.__new__(Connector)
        other.database = 0
        other._class = self._class
        other._options = {name: value for name, value in self._options.items() if name != "db"}
        return other


class _Home:
    """An address as a pool had it for a while. Two are never equal, even where the addresses are."""

    __slots__ = ("address",)

    def __init__(self, address: Address | None) -> None:
        self.address = address


_NOWHERE = _Home(None)


class Pool(redis.ConnectionPool):
    """Idle connections to one server, in a list whose operations need no lock, without a limit on their number.

    redis-py's own takes a lock twice and polls the socket for each command, which is half of the time that the
    command takes. Here a connection that broke while idle shows when it is used; see `Shard.call`.
    """

    def __init__(self, connector: Connector, find: Callable[[], Address]) -> None:
        """`find` says where the server is, the first time that somebody needs a connection."""
        super().__init__()
        self.connector = connector
        self._find = find
        self._home: _Home | None = None
        self._idle: list[Connection] = []

    @classmethod
    def to(cls, address: Address, connector: Connector) -> Self:
        """Return a pool of connections to a server that is known."""
        return cls(connector, lambda: address)

    # redis-py 6.0 has neither.
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def block(self) -> None:
        """Make no connection, and give up those that there are, until `move` says where to."""
        self._home = _NOWHERE
        self.drop_idle()

    def move(self, address: Address) -> None:
        """Use this server from now on, and no connection that was made before, be it to the same one.

        Those in use are closed when they are given back. A thread that put one back at this very moment is
        why `get_connection` looks once more.
        """
        self._home = _Home(address)
        self.drop_idle()

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.home is self._home:
                return connection
            connection.disconnect()
        home = self._home
        if home is None:
            address = self._find()
            home = self._home = self._home or _Home(address)
        if home.address is None:
            raise redis.ConnectionError("the server is being looked for")
        connection = self.connector.make(home.address)
        connection.home = home
        connection.connect()
        return connection

    def uses(self, connection: Any) -> bool:
        """Tell whether the connection is to the server that is in use, and not given up since it was made."""
        return connection.home is self._home

    def release(self, connection: Any) -> None:
        if connection._sock is not None:
            self._idle.append(connection)

    def drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    def disconnect(self, inuse_connections: bool = True) -> None:
        self.drop_idle()


def read(connection: Any) -> Any:
    """Return the next reply; an error reply is returned as well, not raised."""
    try:
        return connection.read_response()
    except redis.ResponseError as exc:
        return exc


def ask_each(pool: Pool, *commands: Command) -> list[Any]:
    """Send the commands to a server and return all replies, an error reply in its place."""
    connection = pool.get_connection()
    try:
        connection.send_packed_command([pack(commands)], check_health=False)
        replies = [read(connection) for _ in commands]
    except BaseException:
        connection.disconnect()  # with what was not read
        raise
    pool.release(connection)
    return replies


def ask(pool: Pool, *commands: Command) -> list[Any]:
    """Send the commands to a server and return all replies; the first error reply is raised."""
    replies = ask_each(pool, *commands)
    for reply in replies:
        if isinstance(reply, redis.ResponseError):
            raise reply
    return replies

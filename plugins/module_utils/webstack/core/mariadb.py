# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Statements to a MariaDB server: over its socket, or over TLS. Debian's python3-pymysql speaks the protocol."""

from __future__ import annotations

import contextlib
import ssl
import time
import weakref
from collections.abc import Mapping
from typing import Any

from .errors import Problem

#: Our statements concern one server only. In a replica's binary log they would be transactions that the primary never
#: had, and replication would stop. The second setting lets us write on a server that is closed for all others.
UNLOGGED = "SET SESSION sql_log_bin = 0, tx_read_only = 0"
#: Errors of a server that does not let us in, or not any longer. Numbers from 2000 to 2999 come from the client.
SHUT_OUT = (1045, 1130, 1927)


class ServerGone(Problem):
    """The server does not answer."""


class SqlError(Problem):
    """The server answered with an error. The text begins with `ERROR` and the number."""


def quote(text: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def identifier(name: str | None) -> str:
    return "`" + str(name).replace("`", "``") + "`"


class Session:
    """One connection. The first statement opens it, and so does the first one after it was lost.

    `options` are PyMySQL's; `ssl` names the files ca, cert and key. To connect may take `connect` seconds.
    """

    def __init__(self, options: Mapping[str, Any], seconds: float, connect: float | None = None) -> None:
        self.options, self.seconds, self.connect = options, seconds, connect
        self._connection: Any = None
        self._goodbye: Any = None

    def rows(self, statement: str, seconds: float | None = None) -> list[dict[str, str | None]]:
        """Run one statement and return its rows. All values are texts, as the server writes them; NULL is None."""
        limit = self.seconds if seconds is None else seconds
        end = time.monotonic() + limit
        if self._connection is None:
            self._connection = _connect(self.options, min(limit, self.connect or limit))
            # Without a goodbye the server writes a warning into its log.
            self._goodbye = weakref.finalize(self, _say_goodbye, self._connection)
        # PyMySQL has no other way to give each statement a limit of its own.
        self._connection._read_timeout = self._connection._write_timeout = max(0.1, end - time.monotonic())
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement)
                names = [column[0] for column in cursor.description or ()]
                found = cursor.fetchall() if names else ()
        except Exception as error:
            refusal = _refusal(error, limit)
            if not isinstance(refusal, SqlError):
                self.close()
            raise refusal from None
        return [dict(zip(names, map(_text, row), strict=True)) for row in found]

    def run(self, *statements: str, seconds: float | None = None) -> None:
        for statement in statements:
            self.rows(statement, seconds)

    def close(self) -> None:
        if self._goodbye is not None:
            self._goodbye()
        self._connection = self._goodbye = None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _say_goodbye(connection: Any) -> None:
    # A lost connection may be closed already.
    with contextlib.suppress(Exception):
        connection.close()


def _refusal(error: Exception, limit: float, connected: bool = True) -> Problem:
    """Say in our words what PyMySQL says: a server answered with an error, or there is none (any more)."""
    if isinstance(error, Problem):  # of a signal, which may come at any moment
        return error
    if isinstance(error.__context__, TimeoutError):
        return ServerGone(f"no answer within {limit:g} s")
    if isinstance(error, OSError):
        # PyMySQL says all others in its own way.
        return ServerGone(f"our certificate and its files: {error}")
    number, *words = error.args or ("",)
    if not isinstance(number, int) or not words:
        # Something else than a MariaDB server answers there.
        return ServerGone(str(error) or type(error).__name__)
    answered = connected and (1000 <= number < 2000 or number >= 3000) and number not in SHUT_OUT
    return (SqlError if answered else ServerGone)(f"ERROR {number}: {words[0]}")


def _connect(options: Mapping[str, Any], limit: float) -> Any:
    try:
        # Imported late: a host that only imports this module need not have the package.
        import pymysql
        from pymysql.constants import CLIENT
    except ImportError:
        raise Problem("python3-pymysql is not installed: run the role that installs it again") from None

    class Connection(pymysql.connections.Connection):
        """A connection that refuses a server without TLS. PyMySQL itself would go on in the clear."""

        def _request_authentication(self) -> None:
            if self.ssl and not self.server_capabilities & CLIENT.SSL:
                raise pymysql.OperationalError(2026, "the server offers no TLS")
            super()._request_authentication()

    # The server stores an event together with the character set of the connection. Values are not converted.
    how: dict[str, Any] = {"charset": "utf8mb4", "use_unicode": False, "conv": {}, "autocommit": True, **options}
    try:
        if files := options.get("ssl"):
            how["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the certificate and the address in it
            how["ssl"].minimum_version = ssl.TLSVersion.TLSv1_2
            how["ssl"].load_verify_locations(files["ca"])
            how["ssl"].load_cert_chain(files["cert"], files["key"])
        return Connection(**how, connect_timeout=limit, read_timeout=limit, write_timeout=limit)
    except Exception as error:
        # Also what a server says that lets nobody in: too many connections, a host that is blocked.
        raise _refusal(error, limit, connected=False) from None

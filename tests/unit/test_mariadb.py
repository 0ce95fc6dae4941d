"""Statements to a MariaDB server, with a server that is a fake on a real socket: what it says, and what it does not."""

from __future__ import annotations

import gc
import pathlib
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.webstack.ha.plugins.module_utils import _pki
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import mariadb
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.errors import Problem
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.mariadb import ServerGone, Session, SqlError
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import session as ours
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db import settings
from ansible_collections.webstack.ha.plugins.module_utils.webstack.db.config import Config, Node
from host_programs import PACKAGE

BINARY, UTF8 = 63, 45
TEXT, NUMBER = 253, 3
OK = b"\0\0\0\2\0\0\0"
END = b"\xfe\0\0\2\0"
#: PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION and PLUGIN_AUTH; TLS where the fake has a certificate.
CAPABILITIES, TLS = 1 << 9 | 1 << 13 | 1 << 15 | 1 << 19, 1 << 11


def texts(*values: bytes | None) -> bytes:
    return b"".join(b"\xfb" if value is None else bytes([len(value)]) + value for value in values)


def refusal(number: int, text: str = "no") -> bytes:
    return b"\xff" + struct.pack("<H", number) + b"#HY000" + text.encode()


class Server:
    """Speaks as much of the protocol as PyMySQL hears. `answer` makes packets of a statement; None is silence."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.listener, self.tls = listener, tls
        self.said: list[str] = []
        self.heard = b""
        self.connections = self.goodbyes = 0
        self.shown: list[Any] = []
        self.greeting: bytes | None = None
        self.welcome = OK
        self.answer: Callable[[str], list[bytes] | None] = lambda _statement: [OK]
        self.ended = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=[line], daemon=True).start()

    def talk(self, line: socket.socket) -> None:
        try:
            self.converse(line)
        except (OSError, EOFError):
            line.close()

    def packet(self, line: socket.socket) -> tuple[int, bytes]:
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:3], "little"):
            more = line.recv(4 if len(data) < 4 else 4 + int.from_bytes(data[:3], "little") - len(data))
            if not more:
                raise EOFError
            data += more
        self.heard += data
        return data[3], data[4:]

    def send(self, line: socket.socket, number: int, *packets: bytes) -> None:
        for packet in packets:
            line.sendall(len(packet).to_bytes(3, "little") + bytes([number % 256]) + packet)
            number += 1

    def converse(self, line: socket.socket) -> None:
        if self.greeting is not None:
            line.sendall(self.greeting)
            self.ended.wait()
            return
        able = CAPABILITIES | (TLS if self.tls else 0)
        self.send(
            line,
            0,
            b"\x0a5.5.5-11.8.3-MariaDB\0" + struct.pack("<I", 7) + b"saltsalt\0" + struct.pack("<H", able & 0xFFFF)
            + struct.pack("<BHHB", UTF8, 2, able >> 16, 21) + bytes(10) + b"saltsaltsalt\0mysql_native_password\0",
        )  # fmt: skip
        number, _login = self.packet(line)
        if self.tls:
            line = self.tls.wrap_socket(line, server_side=True)
            self.shown.append(line.getpeercert())
            number, _login = self.packet(line)
        self.send(line, number + 1, self.welcome)
        while True:
            _, words = self.packet(line)
            if words[0] == 1:
                self.goodbyes += 1
                raise EOFError
            self.said.append(words[1:].decode())
            own = ("SET NAMES", "SET SESSION", "COMMIT", "SET AUTOCOMMIT")
            packets = [OK] if self.said[-1].startswith(own) else self.answer(self.said[-1])
            if packets is None:
                self.ended.wait()
                return
            if not packets:
                raise EOFError
            self.send(line, 1, *packets)

    def rows(self, columns: list[tuple[str, int, int]], *rows: bytes) -> None:
        heads = [
            texts(b"def", b"", b"", b"", name.encode(), b"")
            + b"\x0c" + struct.pack("<HIBHB", charset, 99, kind, 0, 0) + b"\0\0"
            for name, kind, charset in columns
        ]  # fmt: skip
        self.answer = lambda _statement: [bytes([len(columns)]), *heads, END, *rows, END]


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        fake = Server(listener)
        yield fake
        fake.ended.set()


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    config = Config.__new__(Config)
    config.socket = server.listener.getsockname()
    made = ours.local_session(config, 5)
    yield made
    made.close()


def until(good: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not good():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- what it says -----------------------------------------------------------------------------------


def test_values_are_texts_as_the_server_writes_them(server: Server, session: Session) -> None:
    server.rows(
        [("name", TEXT, UTF8), ("count", NUMBER, BINARY), ("raw", TEXT, BINARY), ("none", TEXT, UTF8)],
        texts("gr\u00fcn\t\n\\".encode(), b"5", b"a\xffb", None),
        texts(b"NULL", b"0", b"", b""),
    )
    assert session.rows("SELECT 1") == [
        {"name": "gr\u00fcn\t\n\\", "count": "5", "raw": "a\ufffdb", "none": None},
        {"name": "NULL", "count": "0", "raw": "", "none": ""},
    ]
    server.rows([("name", TEXT, UTF8)])
    assert session.rows("SELECT 1 WHERE 0") == []
    server.answer = lambda _statement: [OK]
    session.run("SET GLOBAL read_only = ON", "SET @a = 'x%sy'")
    assert server.said[-2:] == ["SET GLOBAL read_only = ON", "SET @a = 'x%sy'"]
    assert server.connections == 1


def test_nothing_is_said_before_the_binary_log_is_off(server: Server, session: Session) -> None:
    session.run("SET GLOBAL read_only = ON")
    # PyMySQL names the character set, and may end a transaction that never began.
    own = [said for said in server.said if not said.startswith(("SET NAMES", "COMMIT"))]
    assert own == ["SET SESSION sql_log_bin = 0, tx_read_only = 0", "SET GLOBAL read_only = ON"]


def test_an_answer_that_is_an_error_has_its_number_and_the_session_goes_on(server: Server, session: Session) -> None:
    server.answer = lambda _statement: [refusal(1231, "Variable 'sql_mode' can't be set to the value of 'x'")]
    with pytest.raises(SqlError, match=r"^ERROR 1231: Variable 'sql_mode' can't") as caught:
        session.run("SET GLOBAL sql_mode = 'x'")
    assert settings.WRONG_VALUE.match(str(caught.value))
    with pytest.raises(SqlError, match=r"^ERROR 4031: "):
        server.answer = lambda _statement: [refusal(4031)]
        session.run("SELECT 1")
    server.answer = lambda _statement: [OK]
    session.run("SELECT 1")
    assert server.connections == 1


# --- no server --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "^ERROR 2013: Lost connection"),
        ([refusal(1927, "Connection was killed")], "^ERROR 1927: Connection was killed"),
        ([b"\1", b"no column"], "."),
    ],
)
def test_a_connection_that_is_lost_is_a_server_gone_and_the_next_statement_begins_anew(
    server: Server, session: Session, answer: list[bytes], words: str
) -> None:
    session.run("SELECT 1")
    server.answer = lambda _statement: answer
    with pytest.raises(ServerGone, match=words):
        session.run("SELECT 1")
    server.answer = lambda _statement: [OK]
    session.run("SELECT 2")
    assert server.connections == 2
    assert server.said.count(mariadb.UNLOGGED) == 2


def test_silence_ends_with_the_limit_of_the_statement(server: Server, session: Session) -> None:
    session.run("SELECT 1")
    server.answer = lambda _statement: None
    started = time.monotonic()
    with pytest.raises(ServerGone, match=r"^no answer within 0\.3 s$"):
        session.rows("SELECT 1", 0.3)
    assert 0.2 < time.monotonic() - started < 2


@pytest.mark.parametrize(
    "greeting", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x04\0\0\0\x0a5.5"], ids=["silence", "a stranger", "half a word"]
)
def test_whatever_answers_in_the_place_of_a_server_is_none(server: Server, session: Session, greeting: bytes) -> None:
    server.greeting = greeting
    started = time.monotonic()
    with pytest.raises(ServerGone):
        session.rows("SELECT 1", 0.3)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("number", [1040, 1045, 1129, 1130, 1203])
def test_who_is_let_in_by_no_means_has_no_server(server: Server, session: Session, number: int) -> None:
    server.welcome = refusal(number, "not you")
    with pytest.raises(ServerGone, match=f"^ERROR {number}: not you"):
        session.run("SELECT 1")


def test_without_a_socket_there_is_no_server(tmp_path: pathlib.Path) -> None:
    session = Session({"unix_socket": str(tmp_path / "none"), "user": "root"}, 5)
    with pytest.raises(ServerGone, match=r"^ERROR 2003: .*No such file"):
        session.run("SELECT 1")
    session.close()


def test_a_package_that_is_missing_is_no_server_that_is_gone(
    server: Server, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(Problem, match="python3-pymysql is not installed") as caught:
        session.run("SELECT 1")
    # Else a primary would give its address up, and a promotion would take the other server for lost.
    assert not isinstance(caught.value, ServerGone)
    assert server.connections == 0


def test_the_tier_can_be_imported_without_the_package() -> None:
    script = f"import sys; sys.modules['pymysql'] = None; sys.path.insert(0, {str(PACKAGE.parent)!r})"
    script += "; import webstack.db.status, webstack.db.watch, webstack.db.seed"
    subprocess.run([sys.executable, "-I", "-c", script], check=True)


@pytest.mark.parametrize("when", ["during a statement", "while it connects"])
def test_a_signal_of_ours_is_no_server_that_is_gone(server: Server, session: Session, when: str) -> None:
    """A backup's time limit, and whoever ends it: taken for no answer it would go on without one."""

    def ended(_number: int, _frame: object) -> None:
        raise Problem("interrupted by SIGALRM")

    if when == "while it connects":
        server.greeting = b""
    else:
        session.run("SELECT 1")
        server.answer = lambda _statement: None
    before = signal.signal(signal.SIGALRM, ended)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Problem, match=r"^interrupted by SIGALRM$") as caught:
            session.run("SELECT 2")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not isinstance(caught.value, ServerGone | SqlError)
    # What is still to come would be taken for the answer to the next statement.
    assert session._connection is None


# --- the end ----------------------------------------------------------------------------------------


def test_a_session_says_goodbye_when_it_is_closed_and_when_it_is_forgotten(server: Server, session: Session) -> None:
    session.run("SELECT 1")
    session.close()
    session.close()
    until(lambda: server.goodbyes == 1)
    another = Session(session.options, 5)
    another.run("SELECT 1")
    del another
    gc.collect()
    until(lambda: server.goodbyes == 2)


def test_a_program_that_ends_says_goodbye(server: Server) -> None:
    script = f"import sys; sys.path[:0] = [{str(PACKAGE.parent)!r}]; from webstack.core.mariadb import Session\n"
    script += f"s = Session(dict(unix_socket={server.listener.getsockname()!r}, user='root'), 5); s.run('SELECT 1')\n"
    subprocess.run([sys.executable, "-c", script + "sys.exit(3)"], check=False)
    until(lambda: server.goodbyes == 1)


# --- the other server -------------------------------------------------------------------------------


class Pair:
    """Two hosts with certificates of one authority: the fake is db1, at 127.0.0.1; we are db2."""

    def __init__(self, home: pathlib.Path, listener: socket.socket) -> None:
        self.home, self.authority = home, _pki.issue_ca(_pki.now())
        self.tls = self.context("127.0.0.1")
        self.server = Server(listener, self.tls)
        self.config = Config.__new__(Config)
        self.config.node = Node("db2", "192.0.2.42", 3306)
        self.config.peer = Node("db1", "127.0.0.1", listener.getsockname()[1])
        # No Latin-1.
        self.config.user, self.config.password = "replica", "p\u00e4ss \u20ac"
        self.config.tls = self.files("db2", _pki.issue(self.authority, "db2", self.names("192.0.2.42"), 30, _pki.now()))

    def names(self, address: str) -> frozenset[str]:
        return _pki.alternative_names([], [address])

    def files(self, name: str, pair: Any) -> dict[str, str]:
        for kind, text in (
            ("ca", self.authority.certificate_pem),
            ("cert", pair.certificate_pem),
            ("key", pair.key_pem),
        ):
            (self.home / f"{name}.{kind}").write_text(text)
        return {kind: str(self.home / f"{name}.{kind}") for kind in ("ca", "cert", "key")}

    def context(self, address: str) -> ssl.SSLContext:
        files = self.files("db1", _pki.issue(self.authority, "db1", self.names(address), 30, _pki.now()))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(files["cert"], files["key"])
        tls.load_verify_locations(files["ca"])
        tls.verify_mode = ssl.CERT_REQUIRED
        return tls


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Iterator[Pair]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        made = Pair(tmp_path, listener)
        yield made
        made.server.ended.set()


def test_the_other_server_is_asked_over_tls_with_our_certificate(pair: Pair) -> None:
    pair.server.rows([("a", TEXT, UTF8)], texts(b"1"))
    session = ours.peer_session(pair.config)
    assert session.rows("SELECT 1") == [{"a": "1"}]
    assert pair.server.shown[0]["subject"] == ((("commonName", "db2"),),)
    # Its account may not turn the binary log off, and writes nothing.
    assert mariadb.UNLOGGED not in pair.server.said
    assert b"SELECT 1" in pair.server.heard
    session.close()


def test_a_server_without_tls_is_told_nothing(pair: Pair) -> None:
    pair.server.tls = None
    with pytest.raises(ServerGone, match=r"^ERROR 2026: the server offers no TLS$"):
        ours.peer_session(pair.config).run("SELECT 1")
    assert pair.server.heard == b""


@pytest.mark.parametrize("wrong", ["another address", "another authority"])
def test_another_server_in_its_place_is_none(pair: Pair, wrong: str) -> None:
    if wrong == "another authority":
        pair.authority = _pki.issue_ca(_pki.now())
        (pair.home / "db2.ca").write_text(pair.authority.certificate_pem)
    else:
        pair.server.tls = pair.context("127.0.0.2")
    with pytest.raises(ServerGone, match=r"ERROR 2003: .*certificate verify failed"):
        ours.peer_session(pair.config).run("SELECT 1")
    assert pair.server.said == []


def test_a_certificate_of_ours_that_is_missing_is_said(pair: Pair) -> None:
    (pair.home / "db2.cert").unlink()
    with pytest.raises(ServerGone, match=r"^our certificate and its files: .*No such file"):
        ours.peer_session(pair.config).run("SELECT 1")


def test_a_server_that_hangs_is_not_waited_for_long(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "PEER_CONNECT_SECONDS", 0.3)
    pair.server.greeting = b""
    started = time.monotonic()
    with pytest.raises(ServerGone, match=r"^no answer within 0\.3 s$"):
        ours.peer_session(pair.config).run("SELECT 1")
    assert time.monotonic() - started < 2


def test_without_another_host_there_is_no_server(pair: Pair) -> None:
    pair.config.peer = None
    with pytest.raises(ServerGone, match="there is no other database host"):
        ours.peer_session(pair.config)

"""The role's program around nutcracker: the servers are the masters that the sentinels name, or nutcracker is off."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from programs import Backend, NutcrackerClient, Server, nutcracker, role, two_free_ports
from ring import Ring

NAMES = ["redis1", "redis2", "redis3"]
KEYS = [b":1:key:%d" % n for n in range(300)]


class Sentinel(Server):
    """Knows masters (name -> address, config epoch) and one account, as Sentinel does."""

    def __init__(self, masters: dict[str, tuple[str, int]]) -> None:
        self.masters = masters
        self.known = False
        super().__init__()

    def answer(self, words: list[bytes]) -> bytes:
        if words == [b"AUTH", b"application", b"geheim"]:
            self.known = True
            return b"+OK\r\n"
        if not self.known or words != [b"SENTINEL", b"MASTERS"]:
            return b"-NOAUTH Authentication required.\r\n"
        reply = f"*{len(self.masters)}\r\n"
        for name, (address, epoch) in self.masters.items():
            host, _, port = address.rpartition(":")
            flat = ["name", name, "ip", host.strip("[]"), "port", port, "flags", "master", "config-epoch", str(epoch)]
            reply += f"*{len(flat)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in flat)
        return reply.encode()


def settings(addresses: dict[str, str], *sentinels: str, **more: Any) -> dict[str, Any]:
    return {
        "engine": "ring",
        "points": 160,
        "shards": {name: [address, "192.0.2.1:6380"] for name, address in addresses.items()},
        "weights": {},
        "sentinels": list(sentinels),
        "username": "application",
        "password": "geheim",
        **more,
    }


@contextmanager
def running(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    program, environment = nutcracker()
    monkeypatch.setenv("LD_LIBRARY_PATH", environment["LD_LIBRARY_PATH"])
    port, stats = two_free_ports()
    listen = f"127.0.0.1:{port}"
    proxy = role.Proxy(program, directory, listen, stats)
    try:
        yield proxy, listen
    finally:
        proxy.stop("end of the test")


def located(listen: str) -> list[str]:
    with closing(NutcrackerClient(listen, "geheim")) as client:
        return client.locate_all(KEYS)


def refused(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except ConnectionRefusedError:
        return True
    return False


def test_it_follows_the_masters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(dict.fromkeys(NAMES, 1))
    wanted = [ring.locate(key) for key in KEYS]
    with closing(Backend("redis2 after the fail-over")) as other, running(tmp_path, monkeypatch) as (proxy, listen):
        backends = {name: Backend(name) for name in NAMES}
        addresses = {name: backend.address for name, backend in backends.items()}
        with closing(Sentinel({name: (address, 3) for name, address in addresses.items()})) as sentinel:
            # The file still names another intended master for one of them.
            file = settings(
                {**addresses, "redis2": "192.0.2.9:6379"}, "127.0.0.1:1", sentinel.address, password="geheim"
            )
            proxy.follow(file)
            assert located(listen) == wanted
            first = proxy._process.pid
            proxy.follow(file)
            assert proxy._process.pid == first

            sentinel.masters["redis2"] = (other.address, 4)
            proxy.follow(file)
            assert located(listen) == ["redis2 after the fail-over" if name == "redis2" else name for name in wanted]
            second = proxy._process.pid
            assert second != first
        # No sentinel answers: what runs goes on.
        proxy.follow(file)
        assert proxy._process.pid == second
        for backend in backends.values():
            backend.close()
    assert (tmp_path / "nutcracker.yml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"next": {"points": 160, "shards": {"redis1": []}, "weights": {}}},
        {"weights": {"redis1": 2}},
        {"points": 320},
        {"tls": {"ca": "/etc/webstack/cache-ca.pem"}},
        {"engine": "single", "shards": {}},
        {"shards": {f"redis{n}": ["192.0.2.1:6379"] for n in range(25)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_it_is_off_where_keys_would_be_elsewhere(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, monkeypatch) as (proxy, listen):
        backends = {name: Backend(name) for name in NAMES}
        file = settings({name: backend.address for name, backend in backends.items()})
        proxy.follow(file)
        located(listen)
        proxy.follow({**file, **change})
        assert refused(listen)
        assert "stopped nutcracker: " in capsys.readouterr().out
        proxy.follow(file)
        located(listen)
        for backend in backends.values():
            backend.close()


def test_the_latest_fail_over_counts() -> None:
    with closing(Sentinel({"s1": ("192.0.2.1:6379", 1)})) as old, closing(Sentinel({"s1": ("[::1]:6379", 2)})) as new:
        for order in ((old, new), (new, old)):
            file = settings({"s1": "192.0.2.7:6379"}, *(sentinel.address for sentinel in order))
            assert role.masters_of(file) == {"s1": "[::1]:6379"}


def test_without_an_answer_no_master_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Sentinel({"other": ("192.0.2.1:6379", 1)})) as sentinel:
        assert role.masters_of(settings({"s1": "192.0.2.7:6379"}, sentinel.address)) is None
        # A wrong password is no answer either.
        sentinel.masters = {"s1": ("192.0.2.1:6379", 1)}
        sentinel.known = False
        assert role.masters_of(settings({"s1": "192.0.2.7:6379"}, sentinel.address, password="wrong")) is None
    with running(tmp_path, monkeypatch) as (proxy, listen):
        proxy.follow(settings({"s1": "192.0.2.7:6379"}, "127.0.0.1:1"))
        assert refused(listen)
    assert role.masters_of(settings({"s1": "192.0.2.7:6379"})) == {"s1": "192.0.2.7:6379"}


def test_it_ends_with_nutcracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, monkeypatch) as (proxy, _):
        proxy.follow(settings({"s1": "192.0.2.7:6379"}))
        proxy._process.kill()
        deadline = time.monotonic() + 5
        while proxy._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(SystemExit, match="nutcracker ended"):
            proxy.follow(settings({"s1": "192.0.2.7:6379"}))


def test_the_file_is_what_nutcracker_takes() -> None:
    text = role.configuration({"b": "192.0.2.2:6379", "a": "192.0.2.1:6379"}, 'a"b\\c: #d', "127.0.0.1:22121")
    assert text.index(":1 a") < text.index(":1 b")
    assert '  redis_auth: "a\\"b\\\\c: #d"\n' in text
    assert "auto_eject_hosts: false" in text

"""webstack.ha.certificate: the authority, what it issues, and when it issues again."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.webstack.ha.plugins.action import certificate as action
from ansible_collections.webstack.ha.plugins.module_utils import _pki
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

WANTED = _pki.alternative_names(["db1", "*.example.com"], ["192.0.2.1", "2001:db8::1"])


def provide(directory: Path, name: str | None = "db1", writable: bool = True, **more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"wanted": WANTED, "days": 825, "renew_days": 30, **more}
    return action.provide(action.Store(str(directory), writable), name, **arguments)


def later(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    moment = _pki.now() + datetime.timedelta(days=days)
    monkeypatch.setattr(_pki, "now", lambda: moment)


def certificate(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode())


def public(text: str) -> bytes:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate(text).public_key().public_bytes(*form)


def test_first_run_creates_and_second_changes_nothing(tmp_path: Path) -> None:
    where = tmp_path / "site" / "pki"
    first = provide(where)
    assert first["changed"]
    assert first["reasons"] == ["ca: created", "db1: created"]
    files = {path.name: oct(path.stat().st_mode & 0o777) for path in where.iterdir()}
    assert files == {
        "ca.crt": "0o644",
        "ca.key": "0o600",
        "db1.crt": "0o644",
        "db1.key": "0o600",
        ".gitignore": "0o644",
    }
    assert oct(where.stat().st_mode & 0o777) == "0o700"
    assert provide(where) == {**first, "changed": False, "reasons": []}


def test_only_the_authority_without_a_name(tmp_path: Path) -> None:
    result = provide(tmp_path / "pki", None)
    assert set(result) == {"ca", "changed", "reasons"}
    assert sorted(path.name for path in (tmp_path / "pki").iterdir()) == [".gitignore", "ca.crt", "ca.key"]


def test_what_is_issued(tmp_path: Path) -> None:
    result = provide(tmp_path / "pki")
    ca, leaf = certificate(result["ca"]), certificate(result["certificate"])
    leaf.verify_directly_issued_by(ca)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign and usage.crl_sign and not usage.digital_signature
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert _pki.present_names(leaf) == WANTED
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 825
    assert (ca.not_valid_after_utc - ca.not_valid_before_utc).days == 3650


def test_servers_and_clients_accept_each_other(tmp_path: Path) -> None:
    names = {"wanted": _pki.alternative_names(["localhost"], ["127.0.0.1"])}
    for name in ("server", "client"):
        result = provide(tmp_path / "pki", name, **names)
        (tmp_path / f"{name}.pem").write_text(result["certificate"] + result["private_key"])
    (tmp_path / "ca.pem").write_text(result["ca"])

    def context(purpose: ssl.Purpose, name: str) -> ssl.SSLContext:
        found = ssl.create_default_context(purpose, cafile=str(tmp_path / "ca.pem"))
        # What Python 3.13 and later demand of certificates by default.
        found.verify_flags |= ssl.VERIFY_X509_STRICT
        found.verify_mode = ssl.CERT_REQUIRED
        found.load_cert_chain(tmp_path / f"{name}.pem")
        return found

    here, there = socket.socketpair()
    server = context(ssl.Purpose.CLIENT_AUTH, "server")

    def serve() -> None:
        with server.wrap_socket(there, server_side=True) as connection:
            connection.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    client = context(ssl.Purpose.SERVER_AUTH, "client")
    with client.wrap_socket(here, server_hostname="127.0.0.1") as connection:
        assert connection.recv(5) == b"hello"
    thread.join()


def test_renewed_when_it_is_about_to_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = provide(tmp_path)
    later(monkeypatch, 825 - 31)
    assert not provide(tmp_path)["changed"]
    later(monkeypatch, 2)
    second = provide(tmp_path)
    assert "db1: it expires on" in second["reasons"][0]
    assert second["ca"] == first["ca"]
    assert second["private_key"] != first["private_key"]


@pytest.mark.parametrize("wanted", [(["db1"], []), (["db1", "*.example.com"], ["192.0.2.1", "192.0.2.9"])])
def test_issued_again_when_names_change(tmp_path: Path, wanted: tuple[list[str], list[str]]) -> None:
    provide(tmp_path)
    result = provide(tmp_path, wanted=_pki.alternative_names(*wanted))
    assert result["reasons"] == ["db1: its names and addresses are no longer the wanted ones"]


def test_issued_again_by_another_authority(tmp_path: Path) -> None:
    provide(tmp_path)
    (tmp_path / "ca.crt").unlink()
    (tmp_path / "ca.key").unlink()
    assert provide(tmp_path)["reasons"] == ["ca: created", "db1: it was not issued by the present authority"]


def test_the_authority_is_continued_and_what_it_issued_stays_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = provide(tmp_path)
    later(monkeypatch, 3650 - 825 + 1)
    second = provide(tmp_path)
    assert [reason.split(":")[0] for reason in second["reasons"]] == ["ca", "db1"]
    assert public(second["ca"]) == public(first["ca"])
    certificate(first["certificate"]).verify_directly_issued_by(certificate(second["ca"]))
    assert not provide(tmp_path)["changed"]


@pytest.mark.parametrize("suffix", ["crt", "key"])
def test_half_an_authority_is_an_error_and_half_a_certificate_is_not(tmp_path: Path, suffix: str) -> None:
    first = provide(tmp_path)
    (tmp_path / f"db1.{suffix}").unlink()
    second = provide(tmp_path)
    assert "is missing beside" in second["reasons"][0]
    assert second["ca"] == first["ca"]
    (tmp_path / f"ca.{suffix}").unlink()
    with pytest.raises(ValueError, match=rf"ca\.{suffix} is missing beside"):
        provide(tmp_path)


def test_a_damaged_authority_is_named_and_kept(tmp_path: Path) -> None:
    provide(tmp_path)
    (tmp_path / "ca.key").write_text("-----BEGIN PRIVATE KEY-----\nabcdef\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ValueError, match=r"ca\.key holds no PEM private key") as caught:
        provide(tmp_path)
    assert "abcdef" not in str(caught.value)
    other = _pki.issue_ca(_pki.now())
    (tmp_path / "ca.key").write_text(other.key_pem)
    with pytest.raises(ValueError, match="public keys differ"):
        provide(tmp_path)


def test_an_authority_of_ones_own_is_used(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example Ltd")])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example Root")])
    moment = _pki.now()
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(moment)
        .not_valid_after(moment + datetime.timedelta(days=100))
    )
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    own = _pki.Pair(builder.add_extension(constraints, critical=True).sign(key, _pki.hashes.SHA256()), key)
    (tmp_path / "ca.crt").write_text(own.certificate_pem)
    (tmp_path / "ca.key").write_text(own.key_pem)
    result = provide(tmp_path)
    assert result["ca"] == own.certificate_pem
    assert certificate(result["certificate"]).not_valid_after_utc == moment + datetime.timedelta(days=100)
    assert not provide(tmp_path)["changed"]
    (tmp_path / "ca.crt").write_text(result["certificate"])
    (tmp_path / "ca.key").write_text(result["private_key"])
    with pytest.raises(ValueError, match="is no certificate of an authority"):
        provide(tmp_path)


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    result = provide(tmp_path / "pki", writable=False)
    assert result["changed"] and "PRIVATE KEY" in result["private_key"]
    assert not (tmp_path / "pki").exists()
    first = provide(tmp_path / "pki")
    assert provide(tmp_path / "pki", writable=False) == {**first, "changed": False, "reasons": []}
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "pki").iterdir())
    assert provide(tmp_path / "pki", "db2", writable=False)["changed"]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "pki").iterdir()) == before


def test_a_directory_open_to_others_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert "was open to others" in provide(tmp_path)["reasons"][0]
    assert oct(tmp_path.stat().st_mode & 0o777) == "0o700"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Neither into a file that waits under the name of a copy, nor into what a name of the directory leads to."""
    where, victim = tmp_path / "pki", tmp_path / "victim"
    victim.write_text("mine")
    provide(where)
    (where / "db1.crt").unlink()
    (where / "db1.crt").symlink_to(victim)
    (where / f".db1.{os.getpid()}.key").symlink_to(victim)
    provide(where)
    assert victim.read_text() == "mine"
    assert not (where / "db1.crt").is_symlink()
    assert not [path for path in where.iterdir() if path.name.startswith(".db1") and not path.is_symlink()]


def test_files_have_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0, 0o077):
        old = os.umask(umask)
        try:
            provide(tmp_path / f"pki{umask}")
        finally:
            os.umask(old)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / f"pki{umask}").iterdir()}
        assert modes["ca.key"] == modes["db1.key"] == 0o600
        assert modes["ca.crt"] == 0o644


def test_version_control_leaves_the_keys_alone(tmp_path: Path) -> None:
    where = tmp_path / "pki"
    provide(where)
    (tmp_path / "file").touch()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    shown = ["git", "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(shown, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "?? file\n"
    (where / ".gitignore").write_text("# mine\n")
    provide(where, "db2")
    assert (where / ".gitignore").read_text() == "# mine\n"


def _one_of_many(directory: str, name: str, answers: Any) -> None:
    answers.put(provide(Path(directory), name)["ca"])


def test_many_at_once_make_one_authority(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    where = str(tmp_path / "pki")
    workers = [fork.Process(target=_one_of_many, args=(where, f"host{number}", answers)) for number in range(8)]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(found) == 1
    assert len(os.listdir(where)) == 19


def test_names() -> None:
    assert _pki.alternative_names(["WWW.Example.com.", "192.0.2.1", "bücher.example"], ["2001:DB8:0::1"]) == {
        "DNS:www.example.com",
        "IP:192.0.2.1",
        "DNS:xn--bcher-kva.example",
        "IP:2001:db8::1",
    }


class Action(action.ActionModule):
    """The action without a task executor around it."""

    def __init__(self, directory: Any, check_mode: bool = False, **args: Any) -> None:
        self._task = SimpleNamespace(args={"directory": str(directory), **args}, check_mode=check_mode, async_val=0)


@pytest.fixture(autouse=True)
def _no_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})


def test_the_action_hides_its_result(tmp_path: Path) -> None:
    result = Action(tmp_path / "pki", name="db1").run(task_vars={})
    assert result["_ansible_no_log"] is True
    assert _pki.present_names(certificate(result["certificate"])) == {"DNS:db1"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"name": "../x"}, "name: '../x' cannot name"),
        ({"name": "ca"}, "not 'ca'"),
        ({"name": "a" * 65}, "cannot name"),
        ({"name": "a", "dns": "a"}, "dns: expected a list"),
        ({"name": "a", "dns": ["-a"]}, "dns: '-a' is no host name"),
        ({"name": "a", "dns": ["a b"]}, "is no host name"),
        ({"name": "a", "addresses": ["192.0.2.1/24"]}, "addresses: '192.0.2.1/24' is no IP address"),
        ({"dns": ["a"]}, "name: required with dns"),
        ({"name": "a", "days": 4000}, "days: 4000 is not between 1 and 1825"),
        ({"name": "a", "days": 10, "renew_days": 10}, "renew_days: 10 is not between 0 and 9"),
        ({"name": "a", "days": "ten"}, "days: expected a number"),
        ({"directory": ""}, "directory: must name a directory"),
        ({"directory": " "}, "directory: must name a directory"),
        ({"directory": "/pki"}, "lies directly below /: is a variable in it empty"),
        ({"directory": "//pki/"}, "lies directly below /"),
        ({"directory": "/"}, "lies directly below /"),
        ({"directory": "/tmp/../pki"}, "lies directly below /"),
        ({"directory": "/webstack-no-such/pki"}, "there is no /webstack-no-such: is a variable in it empty"),
        ({"directory": "None/.pki"}, "there is no inventory file"),
        ({"directory": "pki"}, "must be an absolute path"),
        ({"directory": "./pki"}, "must be an absolute path"),
        ({"names": ["a"]}, "unknown option names"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_created(tmp_path: Path, args: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleActionFail, match=message):
        Action(**{"directory": tmp_path / "pki", **args}).run(task_vars={})
    assert not (tmp_path / "pki").exists()

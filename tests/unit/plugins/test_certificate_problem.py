"""Why a certificate and a key cannot serve a site."""

from __future__ import annotations

import datetime

import pytest
from ansible_collections.webstack.ha.plugins.module_utils._certificate_problem import (
    problem,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> str:
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, protection).decode()


def certificate(key: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.example.com")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, NOW - DAY, NOW + 30 * DAY)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_a_pair_has_no_problem(key: ec.EllipticCurvePrivateKey) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert problem(certificate(key), pem(key), now=NOW) == ""
    assert problem(certificate(key) + certificate(other), pem(key), now=NOW) == "", "intermediates follow the leaf"


def test_each_problem_names_the_input(key: ec.EllipticCurvePrivateKey) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert problem(certificate(key), pem(other), "crt", "key_file", NOW).startswith("key_file does not belong to crt")
    assert problem("nothing", pem(key), "crt", now=NOW) == "crt holds no PEM certificate"
    assert problem(certificate(key), "nothing", key_name="key_file", now=NOW) == "key_file holds no PEM private key"
    assert "passphrase" in problem(certificate(key), pem(key, b"secret"), now=NOW)
    assert problem(certificate(key), pem(key), "crt", now=NOW + 60 * DAY).startswith("crt expired on 2030-01-31")
    assert problem(certificate(key), pem(key), "crt", now=NOW - 9 * DAY).startswith("crt is not valid before")


def test_the_answer_never_holds_the_key(key: ec.EllipticCurvePrivateKey) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    body = pem(other).splitlines()[1]
    assert body not in problem(certificate(key), pem(other), now=NOW)

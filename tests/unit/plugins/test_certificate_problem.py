"""Why a certificate and a key cannot serve a site."""

from __future__ import annotations

import datetime

import pytest
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure.certificate import (
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


# --- names and chain --------------------------------------------------------------------------------


def issued(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    names: tuple[str, ...] = (),
    *,
    signer: ec.EllipticCurvePrivateKey | None = None,
    days: int = 30,
) -> str:
    said = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (subject, issuer)]
    builder = x509.CertificateBuilder(said[1], said[0], key.public_key(), 7, NOW - DAY, NOW + days * DAY)
    if names:
        sans = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(sans, critical=False)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("covered", "wanted", "missing"),
    [
        (("www.example.com",), ["www.example.com"], ""),
        (("www.example.com",), ["WWW.example.com."], ""),
        (("xn--bcher-kva.example",), ["bücher.example"], ""),
        (("*.example.com",), ["www.example.com", "*.example.com"], ""),
        (("*.example.com",), ["example.com"], "example.com"),
        (("*.example.com",), ["a.b.example.com"], "a.b.example.com"),
        (("www.example.com",), ["example.com", "www.example.com", "x.example.com"], "example.com, x.example.com"),
        ((), ["www.example.com"], "www.example.com"),
    ],
)
def test_every_name_must_be_covered(
    key: ec.EllipticCurvePrivateKey, covered: tuple[str, ...], wanted: list[str], missing: str
) -> None:
    said = problem(issued("a", "a", key, covered), pem(key), "crt", now=NOW, names=wanted)
    assert said.startswith(f"crt does not cover {missing}, only ") if missing else said == ""


def test_a_common_name_covers_nothing(key: ec.EllipticCurvePrivateKey) -> None:
    said = problem(certificate(key), pem(key), "crt", now=NOW, names=["www.example.com"])
    assert said == "crt does not cover www.example.com, only no name"


def test_the_chain(key: ec.EllipticCurvePrivateKey) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    leaf = issued("www", "middle", key, signer=other)
    middle = issued("middle", "root", other)
    assert problem(leaf + middle, pem(key), now=NOW) == ""
    assert problem(leaf, pem(key), "crt", now=NOW).startswith("crt lacks the intermediate certificate CN=middle")
    assert problem(leaf, pem(key), now=NOW, chain_required=False) == ""
    assert "out of order: CN=www is followed by CN=x" in problem(leaf + issued("x", "root", other), pem(key), now=NOW)
    old = issued("middle", "root", other, days=1)
    assert "its intermediate CN=middle expired on" in problem(leaf + old, pem(key), now=NOW + 2 * DAY)
    torn = middle.replace(middle.splitlines()[3], "AAAA")
    assert problem(leaf + torn, pem(key), "crt", now=NOW).startswith("crt holds no PEM certificate that can be read")

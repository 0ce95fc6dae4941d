"""Tells whether a certificate and a private key can serve a site. No Ansible import, no I/O.

A filter on the controller uses it, and so does `webstack tls` on a balancer.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterable
from typing import Any

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:  # the filter runs on the controller, where ansible-core requires it
    x509 = None  # type: ignore[assignment]

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def certificates(pem: str) -> list[Any]:
    """Return the certificates of a PEM text in their order. A ValueError says which one cannot be read."""
    found = []
    for number, block in enumerate(_CERTIFICATE.findall(pem), 1):
        try:
            found.append(x509.load_pem_x509_certificate(block.encode()))
        except ValueError:
            raise ValueError(f"certificate {number} cannot be read") from None
    return found


def valid_from(certificate: Any) -> datetime.datetime:
    return _moment(certificate, "not_valid_before")


def valid_until(certificate: Any) -> datetime.datetime:
    return _moment(certificate, "not_valid_after")


def _moment(certificate: Any, attribute: str) -> datetime.datetime:
    try:
        moment: datetime.datetime = getattr(certificate, f"{attribute}_utc")
    except AttributeError:  # cryptography before 42, as in Debian 12
        moment = getattr(certificate, attribute).replace(tzinfo=datetime.UTC)
    return moment


def covered_names(certificate: Any) -> list[str]:
    """Return the host names and addresses of a certificate, without its common name, which browsers ignore."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)] + addresses


def ascii_name(name: str) -> str:
    """Return a host name as it is written in certificates."""
    plain = name.lower().rstrip(".")
    return plain if plain.isascii() else plain.encode("idna").decode()


def uncovered(certificate: Any, names: Iterable[str]) -> list[str]:
    """Return those of names that a browser would not accept this certificate for."""
    covered = set(covered_names(certificate))

    # A wildcard stands for exactly one label.
    return [name for name in names if not covered & {ascii_name(name), "*." + ascii_name(name).partition(".")[2]}]


def problem(
    certificate_pem: str,
    key_pem: str,
    certificate_name: str = "certificate",
    key_name: str = "key",
    now: datetime.datetime | None = None,
    *,
    names: Iterable[str] = (),
    chain_required: bool = True,
) -> str:
    """Return one sentence that says what is wrong, or an empty text.

    The sentence never holds a part of the key.
    """
    if x509 is None:
        return "the Python library cryptography is missing on the controller"
    try:
        chain = certificates(certificate_pem)
    except ValueError as exc:
        return f"{certificate_name} holds no PEM certificate that can be read: {exc}"
    if not chain:
        return f"{certificate_name} holds no PEM certificate"
    leaf = chain[0]
    try:
        key = serialization.load_pem_private_key(key_pem.strip().encode(), password=None)
    except TypeError:
        return f"{key_name} is protected by a passphrase, which nginx could not ask for"
    except ValueError:
        return f"{key_name} holds no PEM private key"
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        return f"{key_name} does not belong to {certificate_name}: their public keys differ"
    moment = now or datetime.datetime.now(datetime.UTC)
    for certificate in chain:
        what = "" if certificate is leaf else f": its intermediate {certificate.subject.rfc4514_string()}"
        if moment > valid_until(certificate):
            return f"{certificate_name}{what} expired on {valid_until(certificate):%Y-%m-%d}"
        if moment < valid_from(certificate):
            return f"{certificate_name}{what} is not valid before {valid_from(certificate):%Y-%m-%d}"
    missing = uncovered(leaf, names)
    if missing:
        covered = ", ".join(covered_names(leaf)) or "no name"
        return f"{certificate_name} does not cover {', '.join(missing)}, only {covered}"
    for child, issuer in itertools.pairwise(chain):
        if child.issuer != issuer.subject:
            return (
                f"{certificate_name} is out of order: {child.subject.rfc4514_string()} is followed by "
                f"{issuer.subject.rfc4514_string()}, which did not issue it"
            )
    if chain_required and len(chain) == 1 and leaf.issuer != leaf.subject:
        return (
            f"{certificate_name} lacks the intermediate certificate {leaf.issuer.rfc4514_string()}, "
            "without which browsers cannot verify it"
        )
    return ""

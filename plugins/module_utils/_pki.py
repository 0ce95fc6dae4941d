# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The internal certificate authority: issue, renew and judge certificates. No Ansible import, no I/O."""

from __future__ import annotations

import datetime
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:  # on a managed host; these functions run on the controller, where ansible-core requires it
    x509 = None  # type: ignore[assignment]

CA_DAYS = 3650
#: The longest life of a host's certificate: the authority must be able to outlive it.
MAX_DAYS = 1825
#: Clocks of fresh hosts may be behind the controller's.
SKEW = datetime.timedelta(hours=1)

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")
_DNS = re.compile(
    r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: Any
    key: Any

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode("ascii")


def available() -> bool:
    """Say whether the library that does the work is there."""
    return x509 is not None


def now() -> datetime.datetime:
    """Return this moment as certificates count it: whole seconds, UTC."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def check_name(name: str) -> str:
    """Return name if it can name files and a certificate's subject."""
    if not _NAME.fullmatch(name) or name == "ca":
        raise ValueError(
            f"name: {name!r} cannot name a certificate (1-64 letters, digits, dots, hyphens, underscores; not 'ca')"
        )
    return name


def alternative_names(dns: Iterable[str], addresses: Iterable[str]) -> frozenset[str]:
    """Return the wanted subject alternative names as a comparable set: `DNS:www.example.com`, `IP:192.0.2.1`.

    An address among the names counts as an address, since that is how clients look for it.
    """
    wanted: set[str] = set()
    for name in dns:
        try:
            wanted.add(f"IP:{ipaddress.ip_address(name)}")
            continue
        except ValueError:
            pass
        try:
            ascii_name = str(name).rstrip(".").encode("ascii" if str(name).isascii() else "idna").decode("ascii")
        except UnicodeError as exc:
            raise ValueError(f"dns: {name!r} is no host name") from exc
        if not _DNS.fullmatch(ascii_name) or len(ascii_name) > 253:
            raise ValueError(f"dns: {name!r} is no host name")
        wanted.add(f"DNS:{ascii_name.lower()}")
    for address in addresses:
        try:
            wanted.add(f"IP:{ipaddress.ip_address(str(address))}")
        except ValueError:
            raise ValueError(f"addresses: {address!r} is no IP address") from None
    return frozenset(wanted)


def load(certificate_pem: bytes, key_pem: bytes, certificate_name: str, key_name: str) -> Pair:
    """Read a pair; a ValueError names the file at fault and never quotes the key."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError:
        raise ValueError(f"{certificate_name} holds no PEM certificate") from None
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        raise ValueError(f"{key_name} is protected by a passphrase") from None
    except ValueError:
        raise ValueError(f"{key_name} holds no PEM private key") from None
    if _public(certificate.public_key()) != _public(key.public_key()):
        raise ValueError(f"{key_name} does not belong to {certificate_name}: their public keys differ")
    return Pair(certificate, key)


#: Whether a host's certificate comes from an authority that was made here shows in the name of its issuer.
_OWN_ISSUER = "webstack.ha CA "


def identity(certificate: Any) -> str:
    """Name an authority by its key, which outlives its certificate: 16 digits of the key's identifier."""
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest.hex()[:16]


def carried(text: str) -> list[str]:
    """Return the authorities of a file that a host carries: certificates of them, or one that such a one issued.

    A certificate of a host names the authority that issued it. Only one that was made here counts then: the same file
    may hold a certificate that somebody bought.
    """
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise ValueError("no PEM certificate") from None
    found: list[str] = []
    for certificate in certificates:
        if _is_ca(certificate):
            found.append(identity(certificate))
            continue
        issuers = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        if any(str(issuer.value).startswith(_OWN_ISSUER) for issuer in issuers):
            key = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
            found.append((key or b"").hex()[:16])
    return list(dict.fromkeys(found))


def _is_ca(certificate: Any) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _public(key: Any) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_half(key_pem: bytes) -> bytes | None:
    """Return the public half of a private key, None when it cannot be read, for example without its passphrase."""
    try:
        return _public(serialization.load_pem_private_key(key_pem, password=None).public_key())
    except Exception:  # ValueError, TypeError, UnsupportedAlgorithm all mean: no key that could be compared
        return None


def _digest(key: Any) -> Any:
    return None if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()


def _end(certificate: Any) -> datetime.datetime:
    try:
        return certificate.not_valid_after_utc
    except AttributeError:  # cryptography before 42
        return certificate.not_valid_after.replace(tzinfo=datetime.UTC)


def _usage(**true: bool) -> Any:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: true.get(name, False) for name in names})


def issue_ca(moment: datetime.datetime, previous: Pair | None = None) -> Pair:
    """Return a new authority, or one that continues previous: same key and subject, so that what it signed holds."""
    if previous is None:
        key: Any = ec.generate_private_key(ec.SECP256R1())
        # Two authorities of the same name would be confused by whoever trusts both.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_OWN_ISSUER}{secrets.token_hex(4)}")])
    else:
        key, subject = previous.key, previous.certificate.subject
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - SKEW)
        .not_valid_after(moment + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _digest(key))
    )
    return Pair(certificate, key)


def check_ca(ca: Pair, certificate_name: str) -> None:
    """Raise ValueError when a certificate that somebody put there may not sign others."""
    if not _is_ca(ca.certificate):
        raise ValueError(f"{certificate_name} is no certificate of an authority")


def is_own(ca: Pair) -> bool:
    """Say whether the authority signed itself, so that it can be continued here."""
    return bool(ca.certificate.subject == ca.certificate.issuer)


def ca_must_renew(ca: Pair, moment: datetime.datetime, days: int) -> bool:
    """Say whether a certificate issued now would outlive the authority."""
    return _end(ca.certificate) < moment + datetime.timedelta(days=days)


def issue(ca: Pair, name: str, wanted: frozenset[str], days: int, moment: datetime.datetime) -> Pair:
    """Return a certificate for a host, for its server and client side alike."""
    key = ec.generate_private_key(ec.SECP256R1())
    sans: list[Any] = []
    for san in sorted(wanted):
        kind, value = san.split(":", 1)
        sans.append(x509.DNSName(value) if kind == "DNS" else x509.IPAddress(ipaddress.ip_address(value)))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    end = min(moment + datetime.timedelta(days=days), _end(ca.certificate))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.SubjectAlternativeName(sans), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()),
            critical=False,
        )
        .sign(ca.key, _digest(ca.key))
    )
    return Pair(certificate, key)


def present_names(certificate: Any) -> frozenset[str]:
    """Return a certificate's alternative names in the form of alternative_names()."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    found = {f"DNS:{name.lower()}" for name in names.get_values_for_type(x509.DNSName)}
    return frozenset(found | {f"IP:{address}" for address in names.get_values_for_type(x509.IPAddress)})


def why_renew(pair: Pair, ca: Pair, wanted: frozenset[str], renew_days: int, moment: datetime.datetime) -> str:
    """Return why a certificate must be issued again, or an empty text."""
    certificate = pair.certificate
    try:
        certificate.verify_directly_issued_by(ca.certificate)
    except Exception:  # InvalidSignature, ValueError and TypeError all mean: not by this authority
        return "it was not issued by the present authority"
    if present_names(certificate) != wanted:
        return "its names and addresses are no longer the wanted ones"
    if _end(certificate) < moment + datetime.timedelta(days=renew_days):
        return f"it expires on {_end(certificate):%Y-%m-%d}"
    return ""

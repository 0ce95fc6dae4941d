"""Do a certificate and a private key belong together, and is the certificate valid? No Ansible import, no I/O."""

from __future__ import annotations

import datetime

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:  # on a managed host; the filter runs on the controller, where ansible-core requires it
    x509 = None  # type: ignore[assignment]


def problem(
    certificate_pem: str,
    key_pem: str,
    certificate_name: str = "certificate",
    key_name: str = "key",
    now: datetime.datetime | None = None,
) -> str:
    """Return one sentence that says what is wrong, or an empty text.

    The sentence never holds a part of the key.
    """
    if x509 is None:
        return "the Python library cryptography is missing on the controller"
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.strip().encode())
    except ValueError:
        return f"{certificate_name} holds no PEM certificate"
    try:
        key = serialization.load_pem_private_key(key_pem.strip().encode(), password=None)
    except TypeError:
        return f"{key_name} is protected by a passphrase, which nginx could not ask for"
    except ValueError:
        return f"{key_name} holds no PEM private key"
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        return f"{key_name} does not belong to {certificate_name}: their public keys differ"
    moment = now or datetime.datetime.now(datetime.UTC)
    if moment > certificate.not_valid_after_utc:
        return f"{certificate_name} expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if moment < certificate.not_valid_before_utc:
        return f"{certificate_name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return ""

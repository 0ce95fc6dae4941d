# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secrets of the site among the files of a release, by name and by content. No Ansible import, no I/O."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.webstack.ha.plugins.module_utils import _pki
from ansible_collections.webstack.ha.plugins.module_utils._release import Entry

#: A value of so many characters is no word that a source holds by chance.
LONG = 16
#: As many files are named in one message.
NAMED = 8

_VAULT_PASSWORD = re.compile(r"\.?(ansible)?[-_.]?vault[-_]?pass(word|wd|phrase)?([-_]?file)?(\.txt)?", re.IGNORECASE)
_ACCOUNT_KEY = re.compile(r"(.*/)?(account_key\.pem|accounts/.+/private_key\.json)")
_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----([A-Za-z0-9+/=\s\\n]+)-----END \1-----")
_KEY = b"PRIVATE KEY-----"


@dataclass(frozen=True)
class Known:
    """The secrets of this site, as the controller has them."""

    #: Whole files (keys, password files, the file of secrets): what each is, and its content.
    files: Mapping[str, bytes] = field(default_factory=dict)
    #: Variables and their values.
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Variables that playbooks/secrets.yml writes, whatever their value: another site's are no better.
    names: Sequence[str] = ()


def found(entries: Iterable[Entry], known: Known) -> dict[str, str]:
    """Return the files of a release that hold a secret, and which."""
    tests = list(_tests(known))
    public = {key for content in known.files.values() for key in _public_keys(content)}
    hits: dict[str, str] = {}
    for entry in entries:
        if entry.target is not None:
            continue
        what = _by_name(entry) or next((what for what, holds in tests if holds(entry.content)), None)
        if what is None and _KEY in entry.content and not public.isdisjoint(_public_keys(entry.content)):
            what = "a key of this site"
        if what:
            hits[entry.path] = what
    return hits


def message(hits: Mapping[str, str]) -> str:
    """Say what is in the source, and what to do."""
    said = [f"{path} ({what})" for path, what in list(hits.items())[:NAMED]]
    more = f" and {len(hits) - NAMED} more" if len(hits) > NAMED else ""
    return (
        f"the source holds secrets, which everybody on the servers could read: {', '.join(said)}{more}. "
        "Move the inventory out of the source, or leave the files out (was_django_source_exclude). "
        "What a repository or an archive has held is known to whoever has that: make it anew"
    )


def _by_name(entry: Entry) -> str | None:
    parts = entry.path.split("/")
    name = parts[-1]
    if ".pki" in parts[:-1] and not name.endswith(".crt") and name != ".gitignore":
        return "in the directory of an internal authority"
    if name == "ca.key" and _KEY in entry.content:
        return "the key of an authority"
    if parts[-3:-1] == ["group_vars", "all"] and name in ("secrets.yml", "secrets.yaml"):
        return "the secrets of a site"
    if _VAULT_PASSWORD.fullmatch(name):
        return "the password of a vault"
    if _ACCOUNT_KEY.fullmatch(entry.path) and b"KEY" in entry.content.upper():
        return "the key of an ACME account"
    return None


def _tests(known: Known) -> Iterator[tuple[str, _Test]]:
    for what, content in known.files.items():
        needle = _distinct(content)
        if len(needle) >= LONG:
            yield what, _Test(needle)
        elif needle:
            yield what, _Test(re.compile(rb"\s*" + re.escape(needle) + rb"\s*\Z"), whole=True)
    for name, values in known.values.items():
        for value in values:
            if len(value) >= LONG:
                for form in _forms(value):
                    yield f"the value of {name}", _Test(form)
            elif value:
                # A short one counts beside its name only.
                text = re.escape(name) + r"[\"']?\s*[:=]\s*[\"']?" + re.escape(value) + r"[\"']?\s*$"
                yield f"the value of {name}", _Test(re.compile(text.encode(), re.MULTILINE))
    if known.names:
        names = "|".join(map(re.escape, known.names))
        # Not an expression, nor what ansible-vault has encrypted.
        text = (
            rf"(?:^|[{{{{,])[ \t\"']*(?:{names})[\"']?[ \t]*[:=][ \t]*[\"']?(?![\"']?\{{\{{)[^\s\"'!|>#][^\s\"']{{7,}}"
        )
        yield "secrets of a site", _Test(re.compile(text.encode(), re.MULTILINE))


@dataclass(frozen=True)
class _Test:
    needle: bytes | re.Pattern[bytes]
    whole: bool = False

    def __call__(self, content: bytes) -> bool:
        if isinstance(self.needle, bytes):
            return self.needle in content
        found = self.needle.match(content) if self.whole else self.needle.search(content)
        return found is not None


def _forms(value: str) -> set[bytes]:
    """Return a value as it stands in YAML, JSON, Python or INI."""
    return {value.encode(), json.dumps(value)[1:-1].encode(), value.replace("'", "''").encode()}


def _distinct(content: bytes) -> bytes:
    """Return what tells a secret file from any other, in whatever it is copied into.

    Of a private key that is its longest line, since a copy may be indented or stand in one line.
    """
    lines = [line.strip() for line in content.splitlines() if not line.startswith(b"-----")]
    return max(reversed(lines), key=len, default=b"") if _KEY in content else content.strip()


def _public_keys(content: bytes) -> Iterator[bytes]:
    """Return the public halves of the private keys in a text: they stay when a key is written in another form."""
    for kind, body in _PRIVATE_KEY.findall(content):
        try:
            der = base64.b64decode(re.sub(rb"\s|\\n", b"", body), validate=True)
        except binascii.Error:
            continue
        pem = b"-----BEGIN " + kind + b"-----\n" + base64.encodebytes(der) + b"-----END " + kind + b"-----\n"
        half = _pki.public_half(pem)
        if half:
            yield half

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Accounts of a MariaDB server: what is, what shall be, and the statements in between. Pure: no I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.webstack.core.mariadb import identifier, quote

# One privilege, several names; the server prints the second.
SYNONYMS = {
    "ALL": "ALL PRIVILEGES",
    "REPLICATION CLIENT": "BINLOG MONITOR",
    "REPLICATION REPLICA": "REPLICATION SLAVE",
    "REPLICATION REPLICA ADMIN": "REPLICATION SLAVE ADMIN",
    "REPLICA MONITOR": "SLAVE MONITOR",
}
IDENTIFIER = r"(?:`(?:[^`]|``)*`|\*)"
GRANT = re.compile(rf"GRANT (?P<what>.+?) ON (?:TABLE )?(?P<target>{IDENTIFIER}\.{IDENTIFIER}) TO (?P<rest>.*)", re.S)
# Values of `ssl_type` in mysql.global_priv.
TLS_NONE, TLS_ANY, TLS_CERTIFICATE = 0, 1, 2
REQUIRE = {TLS_NONE: "NONE", TLS_ANY: "SSL", TLS_CERTIFICATE: "X509"}

Grants = dict[str, set[str]]


@dataclass
class Account:
    """An account as the server has it, or as it is wanted."""

    name: str
    host: str
    logins: Sequence[str]
    """What the server keeps of each password that it accepts; the first is the account's own."""
    tls: int
    grants: Grants = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name}@{self.host}"

    @property
    def sql(self) -> str:
        return f"{quote(self.name)}@{quote(self.host)}"


def password_hash(password: str) -> str:
    """What mysql_native_password stores. The plain password thus reaches neither a log nor the binary log."""
    inner = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(inner, usedforsecurity=False).hexdigest().upper()


def target(text: str) -> str:
    """`site.*` as the server writes it: names quoted, and the wildcards of a schema's name taken literally."""
    schema, dot, table = text.partition(".")
    if not dot or not schema or not table or (schema == "*" and table != "*"):
        raise ValueError(f"{text!r} is no target of a privilege; *.*, schema.* or schema.table are")
    if schema == "*":
        return "*.*"
    if table == "*":
        return identifier(re.sub(r"([_%])", r"\\\1", schema)) + ".*"
    return f"{identifier(schema)}.{identifier(table)}"


def privileges(words: Iterable[str]) -> set[str]:
    found = {" ".join(word.upper().split()) if "(" not in word else word.strip() for word in words}
    return {SYNONYMS.get(word, word) for word in found} - {"USAGE"}


def parse_grants(lines: Iterable[str]) -> Grants:
    """Lines of SHOW GRANTS -> target -> privileges. Granted roles are not looked at."""
    result: Grants = {}
    for line in lines:
        match = GRANT.match(line)
        if not match:
            continue
        found = privileges(re.split(r",\s*(?![^(]*\))", match["what"]))
        if "WITH GRANT OPTION" in match["rest"]:
            found.add("GRANT OPTION")
        if found:
            result.setdefault(match["target"], set()).update(found)
    return result


def wanted(item: Mapping[str, Any]) -> Account:
    """A caller's dictionary as an account."""
    grants: Grants = {}
    for privilege in item.get("privileges") or []:
        grants.setdefault(target(privilege["target"]), set()).update(privileges(privilege["grant"]))
    tls = TLS_CERTIFICATE if item.get("require_certificate") else TLS_ANY if item.get("require_tls", True) else TLS_NONE
    return Account(
        name=item["name"],
        host=item.get("host") or "%",
        logins=[password_hash(word) for word in (item["password"], *(item.get("password_fallbacks") or []))],
        tls=tls,
        grants={where: what for where, what in grants.items() if what},
    )


def kept_logins(entry: Mapping[str, Any]) -> list[str]:
    """Return the hashes of an account's entry in mysql.global_priv; an empty text for any other way to log in."""
    found = []
    # Of several ways, an empty one stands for what the entry itself has.
    for way in entry.get("auth_or") or [{}]:
        one = way or entry
        native = one.get("plugin") in ("", "mysql_native_password")
        found.append(str(one.get("authentication_string", "")) if native else "")
    return found


def changed_logins(want: Account, have: Account) -> str:
    """Say in words that may be shown which passwords an account gets or loses."""
    if list(have.logins[:1]) != list(want.logins[:1]):
        return f"set the password of {want.label}" + (", and accept former ones" if want.logins[1:] else "")
    count = len(want.logins) - 1
    return f"accept {count} former passwords of {want.label}" if count else f"end the former passwords of {want.label}"


def statements(want: Account, have: Account | None) -> list[tuple[str, str]]:
    """Statements from what is to what is wanted, each with a description that may be shown."""
    steps: list[tuple[str, str]] = []
    login = "IDENTIFIED VIA " + " OR ".join(f"mysql_native_password USING {quote(one)}" for one in want.logins)
    require = f"REQUIRE {REQUIRE[want.tls]}"
    if have is None:
        steps.append((f"CREATE USER {want.sql} {login} {require}", f"create account {want.label}"))
        have = Account(want.name, want.host, want.logins, want.tls)
    if list(have.logins) != list(want.logins):
        steps.append((f"ALTER USER {want.sql} {login}", changed_logins(want, have)))
    if have.tls != want.tls:
        steps.append((f"ALTER USER {want.sql} {require}", f"require {REQUIRE[want.tls]} of {want.label}"))
    for where in sorted({*want.grants, *have.grants}):
        new, old = want.grants.get(where, set()), have.grants.get(where, set())
        # ALL is one word for many: a list cannot be taken out of it, so it goes first as a whole.
        extra = old - new
        missing = new if "ALL PRIVILEGES" in extra else new - old
        if extra:
            words = ", ".join(sorted(extra))
            steps.append((f"REVOKE {words} ON {where} FROM {want.sql}", f"revoke {words} on {where} from {want.label}"))
        if missing - {"GRANT OPTION"} or missing:
            words = ", ".join(sorted(missing - {"GRANT OPTION"})) or "USAGE"
            option = " WITH GRANT OPTION" if "GRANT OPTION" in missing else ""
            steps.append(
                (f"GRANT {words} ON {where} TO {want.sql}{option}", f"grant {words}{option} on {where} to {want.label}")
            )
    return steps

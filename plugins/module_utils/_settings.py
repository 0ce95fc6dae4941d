# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Free-form settings: what YAML made of a value, written the way its target reads it. Pure: no Ansible import, no I/O.

`on` and `no` are booleans before a role sees them, so each target says here how it writes one, or that it cannot know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Fewer characters than RFC 9110 allows: what nginx and every reader take.
HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Dialect:
    """How one kind of configuration is written."""

    #: Of a name.
    name: re.Pattern[str]
    #: Words for true and false; empty where the reader decides, so that only the author of the setting knows.
    booleans: tuple[str, str] | tuple[()] = ()
    #: Between name and value.
    separator: str = "="
    #: A name alone is a setting too: null.
    bare: bool = False
    #: A list becomes one line for each element.
    repeated: bool = False
    #: A line break is a character like any other.
    multiline: bool = False
    #: Text that has to stand in quotes.
    quoted: re.Pattern[str] | None = None


DIALECTS = {
    # A `#` begins a comment and spaces at the ends go, unless they stand in quotes.
    "mariadb": Dialect(
        re.compile(r"[A-Za-z][A-Za-z0-9_-]*"),
        ("ON", "OFF"),
        " = ",
        bare=True,
        repeated=True,
        quoted=re.compile(r"""[#'"\\]|^\s|\s$|^$"""),
    ),
    # A value may be several words, so it is never quoted as a whole.
    "redis": Dialect(re.compile(r"[A-Za-z][A-Za-z0-9-]*"), ("yes", "no"), " ", repeated=True, quoted=re.compile(r"^$")),
    # Whether a program takes `true`, `True`, `1` or `on` for yes stands in its own source.
    "environment": Dialect(re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), multiline=True),
    "header": Dialect(HEADER_NAME, separator=": "),
}

#: Inputs of the roles that hold settings of somebody else's, and who reads them.
FREE_FORM = {
    "backup_slave_environment": "environment",
    "lb_nginx_security_headers": "header",
    "mysql_replication_settings": "mariadb",
    "redis_shard_settings": "redis",
    "vip_failover_hook_environment": "environment",
    "was_django_environment": "environment",
}


def problems(settings: Mapping[str, Any], variable: str, dialect: str) -> list[str]:
    """Say what cannot be written, naming the variable and the setting but no value: it may be a secret."""
    rules = DIALECTS[dialect]
    found = []
    for name, value in settings.items():
        where = f"{variable}.{name}"
        if not isinstance(name, str) or not rules.name.fullmatch(name):
            found.append(f"{where} is no name that its reader knows")
        elif isinstance(value, (list, tuple)):
            if not rules.repeated:
                found.append(f"{where} is a list, and its reader takes one text")
            elif not value:
                found.append(f"{where} is an empty list: leave it out")
            else:
                for element in value:
                    found.extend(_problem(where, element, rules, inside=True))
        else:
            found.extend(_problem(where, value, rules))
    return list(dict.fromkeys(found))


def _problem(where: str, value: Any, rules: Dialect, *, inside: bool = False) -> Iterable[str]:
    if isinstance(value, bool):
        if not rules.booleans:
            word = str(value).lower()
            yield (
                f"{where} is {word}, which YAML also makes of on, yes, off and no, and its reader takes text:"
                ' write the very word in quotes, for example "on"'
            )
    elif value is None:
        if inside or not rules.bare:
            yield f'{where} has no value: write "" for an empty one'
    elif isinstance(value, (Mapping, list, tuple)):
        kind = "a mapping" if isinstance(value, Mapping) else "a list in a list"
        yield f"{where} is {kind}, and its reader takes one text"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is no number that its reader knows"
    elif re.search(r"\x00" if rules.multiline else r"[\x00-\x08\x0a-\x1f\x7f]", str(value)):
        yield f"{where} has a line break or another control character"


def text(value: Any, dialect: str) -> str:
    """Return one value as its reader writes it. `problems` has seen it."""
    rules = DIALECTS[dialect]
    if isinstance(value, bool):
        if not rules.booleans:
            raise ValueError(f"a boolean means nothing in {dialect}")
        return rules.booleans[0 if value else 1]
    plain = str(value)
    if isinstance(value, str) and rules.quoted and rules.quoted.search(plain):
        if len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "'\"":
            return plain  # quoted by its author
        return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return plain


def lines(settings: Mapping[str, Any], dialect: str) -> list[str]:
    """Return the lines of a configuration file."""
    rules = DIALECTS[dialect]
    written = []
    for name, value in settings.items():
        if value is None and rules.bare:
            written.append(name)
            continue
        for element in value if isinstance(value, (list, tuple)) else [value]:
            written.append(f"{name}{rules.separator}{text(element, dialect)}")
    return written

# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role mysql_replication."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _settings
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem, Settings, at_least, collect

#: Settings that are what the server is, or that have an input of their own.
RESERVED = {
    "read_only": "the server boots read-only, and webstack db opens the primary",
    "server_id": "mysql_replication_server_id is the input",
    "port": "mysql_replication_nodes has it",
    "default_time_zone": "with a name the server does not start before its time zones are loaded: take SYSTEM, or an"
    " offset such as +00:00, or leave it out; an application names its own zone",
}
TIME_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Return what cannot work."""
    return collect(
        settings,
        _nodes,
        _own_name,
        _initial_primary,
        _server_id,
        _equal_ids,
        _mode,
        _writer_address,
        _password,
        _names,
        _settings_of_the_server,
        _accounts,
        _numbers,
    )


def _nodes(settings: Settings) -> Iterator[str]:
    nodes = settings["mysql_replication_nodes"]
    names = _host_names(settings)
    if not 1 <= len(nodes) <= 2:
        yield f"mysql_replication_nodes has {len(nodes)} hosts; one or two make a site"
    if len(set(names)) < len(names):
        yield f"mysql_replication_nodes names a host twice: {', '.join(names)}"
    ends = [f"{node['address']}:{node['port']}" for node in nodes]
    if len(set(ends)) < len(ends):
        yield f"mysql_replication_nodes gives one address twice: {', '.join(ends)}"


def _host_names(settings: Settings) -> list[str]:
    return [node["name"] for node in settings["mysql_replication_nodes"]]


def _own_name(settings: Settings) -> Iterator[str]:
    name, names = settings["mysql_replication_node_name"], _host_names(settings)
    if name not in names:
        yield f"mysql_replication_node_name is {name!r}; mysql_replication_nodes has {', '.join(names)}"


def _initial_primary(settings: Settings) -> Iterator[str]:
    name, names = settings["mysql_replication_initial_primary"], _host_names(settings)
    if name not in names:
        yield f"mysql_replication_initial_primary is {name!r}; the hosts are {', '.join(names)}"


def _server_id(settings: Settings) -> Iterator[str]:
    number = settings["mysql_replication_server_id"]
    if not 1 <= number < 2**32:
        yield f"mysql_replication_server_id is {number}; 1 to {2**32 - 1} are possible"


def _equal_ids(settings: Settings) -> Iterator[str]:
    name, names = settings["mysql_replication_node_name"], _host_names(settings)
    if name not in names:
        return
    own = settings["mysql_replication_server_id"]
    given = zip(names, settings["mysql_replication_given_server_ids"], strict=False)
    for position, (other, number) in enumerate(given, 1):
        if other != name and (number or position) == own:
            yield f"mysql_replication_server_id is {own} on {name} and on {other}"


def _mode(settings: Settings) -> Iterator[str]:
    mode, count = settings.get("mysql_replication_mode", "manual"), len(settings["mysql_replication_nodes"])
    if mode != "manual" and count != 2:
        yield f"mysql_replication_mode is {mode!r}, which needs two servers; mysql_replication_nodes has {count}"
    if mode != "manual" and not settings.get("mysql_replication_quorum_members"):
        yield (
            f"mysql_replication_mode is {mode!r}, and the site has no quorum that could decide: set"
            " webstack_quorum_enabled: true, or mysql_replication_mode: manual"
        )


def _writer_address(settings: Settings) -> Iterator[str]:
    text = settings["mysql_replication_writer_address"]
    if not text:
        return
    try:
        address = ipaddress.IPv4Interface(text)
    except ValueError:
        yield f"mysql_replication_writer_address is {text!r}; an IPv4 address/prefix is expected"
        return
    if "/" not in text:
        yield f"mysql_replication_writer_address is {text!r}, without a prefix"
    if str(address.ip) in {node["address"] for node in settings["mysql_replication_nodes"]}:
        yield f"mysql_replication_writer_address {address.ip} is the address of a host"


def _password(settings: Settings) -> Iterator[str]:
    password = settings["mysql_replication_password"]
    # The server keeps no more for a replica's login.
    if not 1 <= len(password.encode()) <= 96 or not password.isprintable():
        yield "mysql_replication_password needs 1 to 96 printable characters"
    if not all(settings.get("mysql_replication_password_fallbacks") or []):
        yield "mysql_replication_password_fallbacks has an empty password"


def _names(settings: Settings) -> Iterator[str]:
    for zone in settings.get("mysql_replication_time_zones", ()):
        if not TIME_ZONE.fullmatch(zone):
            yield f"mysql_replication_time_zones has {zone!r}, which is no name such as Europe/Berlin"
    collation = settings["mysql_replication_collation"]
    if not re.fullmatch(r"utf8mb4_[a-z0-9_]+", collation):
        yield f"mysql_replication_collation is {collation!r}; one of utf8mb4 is needed, for example utf8mb4_bin"


def _settings_of_the_server(settings: Settings) -> Iterator[str]:
    variable = "mysql_replication_settings"
    for option, value in settings[variable].items():
        name = re.sub(r"^(loose_)?((skip|disable|enable|maximum)_)?", "", str(option).lower().replace("-", "_"))
        if name == "default_time_zone" and re.fullmatch(r"SYSTEM|[+-]\d{1,2}:\d\d", str(value), re.IGNORECASE):
            continue
        if name in RESERVED:
            yield f"{variable}.{option}: {RESERVED[name]}"
    yield from _settings.problems(settings[variable], variable, "mariadb")


def _accounts(settings: Settings) -> Iterator[str]:
    """Refuse accounts that would write on a server that is closed: read_only does not bind READ ONLY ADMIN."""
    for account in settings["mysql_replication_accounts"]:
        # Which would let anybody in.
        if not all(account.get("password_fallbacks") or []):
            yield f"mysql_replication_accounts: password_fallbacks of {account['name']} has an empty password"
        for privilege in account.get("privileges") or []:
            words = {re.sub(r"[ _]+", " ", word).strip().upper() for word in privilege.get("grant") or []}
            wide = {"ALL", "ALL PRIVILEGES", "READ ONLY ADMIN"} & words
            if wide and re.sub(r"[\s`]", "", privilege["target"]) == "*.*":
                yield (
                    f"mysql_replication_accounts: {account['name']} gets {sorted(wide)[0]} on *.*, which includes"
                    " READ ONLY ADMIN: it would write on a replica and on a closed primary. Grant ALL on its schemas,"
                    " and on *.* the privileges that it needs by name"
                )


def _numbers(settings: Settings) -> Iterator[str]:
    yield from at_least(
        settings,
        0,
        "mysql_replication_binlog_days",
        "mysql_replication_semi_sync_timeout_milliseconds",
        "mysql_replication_failover_rest_seconds",
    )
    yield from at_least(settings, 1, "mysql_replication_max_connections", "mysql_replication_seed_timeout_seconds")

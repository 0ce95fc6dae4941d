# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sites of a balancer: one made of the role's inputs, or several that fall back to them. No I/O."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _settings, _site_checks
from ansible_collections.webstack.ha.plugins.module_utils.webstack.pure import certificate

Site = Mapping[str, Any]

SITE_NAME = re.compile(r"[a-z][a-z0-9_]*")
SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PATH = re.compile(r"/[^\s;{}\"']*")
HEADER_NAME = _settings.HEADER_NAME
SITE_BOOLEANS = ("maintenance_enabled", "tls_chain_required", "cache_enabled")
LOCATION_BOOLEANS = ("websocket", "streaming")
SIZE = re.compile(r"([0-9]+)([kKmMgG]?)")
#: What a header's value cannot hold: controls other than the tab.
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: nginx expands variables everywhere; this one, of site.conf.j2, is a dollar sign.
DOLLAR = "${webstack_dollar}"
#: lb_nginx_backend_read_timeout_seconds of defaults/main.yml, for balancers whose inventory does not say it.
READ_TIMEOUT_SECONDS = 60
#: Of each site, files on the controller.
PEM_FILES = ("tls_certificate_file", "tls_key_file")


def sites(fallback: Site, entries: Sequence[Site]) -> list[dict[str, Any]]:
    """Return the complete sites: what an entry leaves out is taken from fallback, which alone is a site, too."""
    complete = [{**fallback, **entry} for entry in entries] or [dict(fallback)]
    return [_with_booleans(site, SITE_BOOLEANS) for site in complete]


def _with_booleans(entry: Site, keys: Sequence[str]) -> dict[str, Any]:
    """Return an entry whose booleans are some: a text of an INI file or of the command line would always be true."""
    read: dict[str, Any] = {key: _site_checks.boolean(entry[key]) for key in keys if entry.get(key) is not None}
    if entry.get("locations"):
        read["locations"] = [_with_booleans(location, LOCATION_BOOLEANS) for location in entry["locations"]]
    return {**entry, **read}


def problems(
    all_sites: Sequence[Site],
    several: bool,
    existing: Collection[str],
    pairs: Mapping[str, tuple[str, str]] | None = None,
) -> list[str]:
    """Return what cannot work, as sentences that begin with the input at fault.

    existing: those of the named files that are there; pairs: site -> certificate and key, where they are files.
    """
    names = Counter(site["name"] for site in all_sites)
    found = [f"lb_nginx_sites: two sites have the name {name}" for name, count in names.items() if count > 1]
    owners: dict[str, str] = {}
    for site in all_sites:
        at = f"lb_nginx_sites[{site['name']}]." if several else "lb_nginx_"
        for name in site["server_names"]:
            if owners.setdefault(name, site["name"]) != site["name"]:
                found.append(f"{at}server_names: {name} belongs to {owners[name]}, too")
        found += [f"{at}{problem}" for problem in _of_site(site, existing)]
        if pairs is None:
            continue
        missing = [key for key in PEM_FILES if site[key] not in existing]
        found += [f"{at}{key} names no file on the controller: {site[key]!r}" for key in missing]
        if not missing:
            # Empty when there is nothing to say.
            found.append(
                certificate.problem(
                    *pairs[site["name"]],
                    f"{at}tls_certificate_file",
                    f"{at}tls_key_file",
                    names=site["server_names"],
                    chain_required=site["tls_chain_required"],
                )
            )
    return [problem for problem in found if problem]


def _of_site(site: Site, existing: Collection[str]) -> Iterator[str]:
    if not SITE_NAME.fullmatch(site["name"]):
        yield f"name: {site['name']!r} is not made of lower-case letters, digits and _"
    for key in ("server_names", "methods", "backends"):
        if not site[key]:
            yield f"{key} is empty"
    for name, count in Counter(server["name"] for server in site["backends"]).items():
        if count > 1:
            yield f"backends: two servers have the name {name}"
        if not SERVER_NAME.fullmatch(name):
            yield f"backends: the name {name!r} is not made of letters, digits, dots, dashes and _"
    for server in site["backends"]:
        try:
            ipaddress.ip_address(server["address"])
        except ValueError:
            yield f"backends: the address of {server['name']} is no IPv4 or IPv6 address: {server['address']!r}"
        if not 1 <= server["port"] <= 65535:
            yield f"backends: the port of {server['name']} is not between 1 and 65535: {server['port']}"
    paths = [location["path"] for location in site["locations"]]
    for path, count in Counter([*paths, site["probe_path"]]).items():
        if not PATH.fullmatch(path):
            yield f"{'locations' if path in paths else 'probe_path'}: {path!r} is no path that begins with a slash"
        if count > 1 and paths.count(path) > 1:
            yield f"locations: {path} stands more than once"
    if "/" in paths:
        yield "locations: what holds for / is an input of the site"
    for name, value in site["security_headers"].items():
        if not HEADER_NAME.fullmatch(name):
            yield f"security_headers: {name!r} is no name of a header"
        elif CONTROL.search(str(value)):
            yield f"security_headers: {name} has a line break or another control character, which no header can hold"
        else:
            yield from _settings.problems({name: value}, "security_headers", "header")
    if not re.search(r"\$\{?(webstack_)?host\b", site["cache_key"]):
        yield "cache_key lacks $webstack_host: the names would share their pages"
    if "POST" in site["cache_methods"] and "$request_body" not in site["cache_key"]:
        yield "cache_methods has POST, so cache_key needs $request_body"
    if site["maintenance_page_file"] and site["maintenance_page_file"] not in existing:
        yield f"maintenance_page_file names no file on the controller: {site['maintenance_page_file']!r}"


def nginx_text(value: Any) -> str:
    """Return a text as one quoted word of nginx's configuration, which means that text and nothing else."""
    quoted = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", DOLLAR)
    return f'"{quoted}"'


def longer_than(size: Any) -> str:
    """Return a pattern that a number of bytes matches when it is above size, in nginx's notation; 0 is no limit."""
    match = SIZE.fullmatch(str(size))
    if match is None:
        raise ValueError(f"{size!r} is no size in nginx's notation, such as 32m")
    limit = int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2].lower()]
    if limit == 0:
        return "(?!)"
    digits = str(limit)
    larger = [
        f"{digits[:place]}[{int(digit) + 1}-9][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if digit != "9"
    ]
    return f"^(?:[1-9][0-9]{{{len(digits)},}}|{'|'.join(larger)})$" if larger else f"^[1-9][0-9]{{{len(digits)},}}$"


def longest_wait(variables: Site, port: Any, default: int = READ_TIMEOUT_SECONDS) -> int:
    """Return the longest wait for an answer, in seconds, that a balancer's variables say.

    Web sockets do not count: WSGI has none. Neither do sites whose own servers all have another port.
    """
    keys = ("backend_read_timeout_seconds", "locations", "backends")
    given = {key: variables.get(f"lb_nginx_{key}") for key in keys}
    fallback = {"backend_read_timeout_seconds": default, **{k: v for k, v in given.items() if v is not None}}
    longest = 0
    for site in sites(fallback, variables.get("lb_nginx_sites") or []):
        servers = site.get("backends")
        if servers and all(int(server["port"]) != int(port) for server in servers):
            continue
        waits = [
            site["backend_read_timeout_seconds"],
            *(
                location.get("read_timeout_seconds") or 0
                for location in site.get("locations") or []
                if not location.get("websocket")
            ),
        ]
        longest = max(longest, *map(int, waits))
    return longest

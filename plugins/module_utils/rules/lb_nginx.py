# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role lb_nginx."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _acme_problems, _balancer_sites
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import Problem, Settings, at_least, collect

_SIZE = re.compile(r"[0-9]+[kKmMgG]?")
#: Inputs that the entries of lb_nginx_sites fall back to, each with a value that is fine: it stands in for one that is
#: refused already.
_FALLBACK: dict[str, Any] = {
    "server_names": ["stand-in.example"],
    "methods": ["GET"],
    "locations": [],
    "security_headers": {},
    "maintenance_page_file": "",
    "backends": [{"name": "a", "address": "192.0.2.1", "port": 1}],
    "probe_path": "/-/health",
    "tls_certificate_file": None,
    "tls_key_file": None,
    "tls_chain_required": True,
    "cache_key": "$webstack_host$request_body",
    "cache_methods": ["GET"],
}


def problems(settings: Mapping[str, Any], read: Callable[[str], str | None]) -> list[Problem]:
    """Return what cannot work. read: the text of a file on the controller, None where there is none."""
    return collect(
        settings,
        _cache,
        _probes,
        lambda known: _sites(known, read),
        _acme,
        lambda known: _acme_ca_file(known, read),
        _numbers,
    )


def _cache(settings: Settings) -> Iterator[str]:
    size = settings["lb_nginx_cache_answer_size_max"]
    if not _SIZE.fullmatch(size):
        yield f"lb_nginx_cache_answer_size_max is no size in nginx's notation, such as 32m: {json.dumps(size)}"


def _probes(settings: Settings) -> Iterator[str]:
    for names, least in (
        (("lb_nginx_probe_timeout_seconds", "lb_nginx_probe_interval_seconds"), "above 0"),
        (("lb_nginx_probe_fall", "lb_nginx_probe_rise"), "at least 1"),
    ):
        if any(name in settings and not settings[name] > 0 for name in names):
            yield f"{' and '.join(names)} must be {least}"


def _all_sites(settings: Settings) -> list[dict[str, Any]]:
    given = {key: settings.get(f"lb_nginx_{key}", stand_in) for key, stand_in in _FALLBACK.items()}
    return _balancer_sites.sites({"name": "site", **given}, settings["lb_nginx_sites"])


def _sites(settings: Settings, read: Callable[[str], str | None]) -> Iterator[str]:
    sites = _all_sites(settings)
    by_files = settings["lb_nginx_tls_mode"] == "files"
    paths = {site[key] for site in sites for key in (*_balancer_sites.PEM_FILES, "maintenance_page_file") if site[key]}
    texts = {path: text for path in paths if (text := read(path)) is not None}
    pairs = None
    if by_files and all(site[key] is not None for site in sites for key in _balancer_sites.PEM_FILES):
        pairs = {
            site["name"]: (texts.get(site["tls_certificate_file"], ""), texts.get(site["tls_key_file"], ""))
            for site in sites
        }
    yield from _balancer_sites.problems(sites, bool(settings["lb_nginx_sites"]), texts, pairs)


def _acme(settings: Settings) -> Iterator[str]:
    if settings["lb_nginx_tls_mode"] != "acme":
        return
    names = dict.fromkeys(name for site in _all_sites(settings) for name in site["server_names"])
    known = {name: settings[f"lb_nginx_{name}"] for name in _acme_problems.INPUTS}
    yield from _acme_problems.problems(known, list(names))


def _acme_ca_file(settings: Settings, read: Callable[[str], str | None]) -> Iterator[str]:
    path = settings["lb_nginx_acme_ca_file"]
    if settings["lb_nginx_tls_mode"] == "acme" and path and read(path) is None:
        yield f"lb_nginx_acme_ca_file names no file on the controller: {json.dumps(path)}"


def _numbers(settings: Settings) -> Iterator[str]:
    yield from at_least(
        settings, 0, "lb_nginx_rate_limit_per_second", "lb_nginx_rate_limit_burst", "lb_nginx_hsts_seconds"
    )
    yield from at_least(
        settings,
        1,
        "lb_nginx_backend_connect_timeout_seconds",
        "lb_nginx_backend_read_timeout_seconds",
        "lb_nginx_worker_connections",
    )

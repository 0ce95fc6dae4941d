# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role lb_nginx makes of its inputs."""

from __future__ import annotations

import hashlib
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _balancer_sites
from ansible_collections.webstack.ha.plugins.module_utils.derived import File, Role

#: Inputs that make one site, and that the entries of lb_nginx_sites fall back to.
SITE_INPUTS = (
    "server_names",
    "methods",
    "body_size_max",
    "rate_limit_per_second",
    "rate_limit_burst",
    "locations",
    "security_headers",
    "maintenance_enabled",
    "maintenance_page_file",
    "backends",
    "backend_connect_timeout_seconds",
    "backend_read_timeout_seconds",
    "backend_retry_statuses",
    "backend_fail_timeout_seconds",
    "backend_keepalive",
    "probe_path",
    "replicated_paths",
    "tls_certificate_file",
    "tls_key_file",
    "tls_chain_required",
    "hsts_seconds",
    "cache_enabled",
    "cache_key",
    "cache_methods",
    "cache_private_cookies",
    "extra_site_config",
)
#: What nginx is given for a site that has no page of its own.
MAINTENANCE_PAGE = "maintenance.html"
#: Mode of TLS -> certificate and key of a site. With ACME one file has both: it is replaced in one step.
TLS_PATHS = {
    "files": ["%s.crt", "%s.key"],
    "self_signed": ["site.crt", "site.key"],
    "acme": ["acme/%s.pem", "acme/%s.pem"],
}


def sites(role: Role) -> list[dict[str, Any]]:
    """Return one dictionary a site, complete, with its headers as nginx writes them."""
    fallback = {"name": "site", **{name: role[f"lb_nginx_{name}"] for name in SITE_INPUTS}}
    complete = _balancer_sites.sites(fallback, role["lb_nginx_sites"])
    for site in complete:
        headers = site["security_headers"].items()
        site["header_texts"] = {name: _balancer_sites.nginx_text(value) for name, value in headers}
    return complete


def all_server_names(role: Role) -> list[str]:
    """Return the names of all sites."""
    return list(dict.fromkeys(name for site in sites(role) for name in site["server_names"]))


def large_answer(role: Role) -> str:
    """Return the pattern of a Content-Length that is too large for the cache."""
    return _balancer_sites.longer_than(role["lb_nginx_cache_answer_size_max"])


def tls_paths(role: Role) -> list[str]:
    """Return the paths of a site's certificate and key below the role's directory."""
    return TLS_PATHS[role["lb_nginx_tls_mode"]]


def acme_peers(role: Role) -> list[dict[str, Any]]:
    """Return the other balancers."""
    own = role["lb_nginx_acme_address"]
    return [peer for peer in role["lb_nginx_acme_balancers"] if peer["address"] != own]


def generation(role: Role) -> str:
    """Name the configuration as a whole.

    The workers answer it on the health listener, so that a run sees whether they took the files on disk; a lost
    notification cannot leave old workers behind. The server lists are not part of it: they have a name of their own,
    and `webstack lb` sees to them.
    """
    nameless = {"__lb_nginx_generation": ""}
    parts = [role.render("nginx.conf.j2", {}), role.render("site.conf.j2", {}), role.render("health.conf.j2", nameless)]
    parts += [certificate for certificate, _key in _pairs(role, sites(role))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def files(role: Role) -> list[File]:
    """Return all files of a balancer."""
    all_sites = sites(role)
    acme = role["lb_nginx_tls_mode"] == "acme"
    return [
        *_own_files(role),
        *_site_files(role, all_sites),
        *_tls_files(role),
        *(_acme_files(role, all_sites) if acme else _no_acme_files(role)),
    ]


def _pairs(role: Role, all_sites: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return certificate and key of each name that _certified returns."""
    mode = role["lb_nginx_tls_mode"]
    if mode == "files":
        return [(role.read(site["tls_certificate_file"]), role.read(site["tls_key_file"])) for site in all_sites]
    if mode == "self_signed":
        made = role["__lb_nginx_certificate"]
        return [(made["certificate"], made["private_key"])]
    return []


def _certified(role: Role, names: list[str]) -> list[str]:
    """Return what certificates are named after.

    The internal CA's covers all sites. With ACME it is what nginx starts with, and no file here.
    """
    return {"files": names, "self_signed": ["site"], "acme": []}[role["lb_nginx_tls_mode"]]


def _own_files(role: Role) -> list[File]:
    directory, units = role["__lb_nginx_directory"], role["__lb_nginx_units"]
    return [
        {"src": "nginx.conf.j2", "dest": "/etc/nginx/nginx.conf"},
        {"src": "site.conf.j2", "dest": "/etc/nginx/conf.d/webstack-site.conf"},
        {
            "src": "health.conf.j2",
            "dest": "/etc/nginx/conf.d/webstack-health.conf",
            # Once: the template would work it out anew.
            "vars": {"__lb_nginx_generation": role["__lb_nginx_generation"]},
        },
        {"dest": "/etc/nginx/sites-enabled/default", "state": "absent"},
        {"dest": role["lb_nginx_cache_directory"], "state": "directory", "owner": "www-data", "mode": "0700"},
        {"src": "unit.conf.j2", "dest": role["__lb_nginx_unit_path"]},
        {"src": "balancer.json.j2", "dest": "/etc/webstack/lb.json"},
        # What earlier versions put here.
        {"dest": f"{directory}/balancer.json", "state": "absent"},
        {"dest": "/usr/local/sbin/webstack-lb", "state": "absent"},
        {"src": "sysusers.conf", "dest": "/etc/sysusers.d/webstack-lb.conf"},
        {"src": "webstack-lb.service", "dest": f"{units}/webstack-lb.service"},
        {"src": "webstack-lb-apply.socket", "dest": role["__lb_nginx_apply_path"]},
        {"src": "webstack-lb-apply@.service", "dest": f"{units}/webstack-lb-apply@.service"},
    ]


def _site_files(role: Role, all_sites: list[dict[str, Any]]) -> list[File]:
    directory = role["__lb_nginx_directory"]
    pairs = _pairs(role, all_sites)
    certified = _certified(role, [site["name"] for site in all_sites])
    certificates: list[File] = []
    keys: list[File] = []
    for name, (certificate, key) in zip(certified, pairs, strict=True):
        certificates.append({"dest": f"{directory}/{name}.crt", "content": _ended(certificate)})
        keys.append({"dest": f"{directory}/{name}.key", "content": _ended(key), "mode": "0600", "secret": True})
    pages = [
        {"dest": f"{directory}/{site['name']}.html", "src": site["maintenance_page_file"] or MAINTENANCE_PAGE}
        for site in all_sites
    ]
    return certificates + keys + pages


def _ended(text: str) -> str:
    return f"{text.strip()}\n"


def _tls_files(role: Role) -> list[File]:
    """Return what watches the end of certificates, whoever issued them."""
    units, tls = role["__lb_nginx_units"], role["__lb_nginx_tls_directory"]
    return [
        {"dest": "/usr/local/sbin/webstack-tls", "state": "absent"},
        {"dest": "/usr/local/lib/webstack-tls", "state": "absent", "recursive": True},
        {"src": "tls.json.j2", "dest": "/etc/webstack/tls.json"},
        {"dest": f"{tls}/config.json", "state": "absent"},
        {"src": "tls-alarm.sh.j2", "dest": f"{tls}/alarm", "mode": "0700"},
        {"src": "webstack-tls.service.j2", "dest": f"{units}/webstack-tls.service"},
        {"src": "webstack-tls-alarm.service.j2", "dest": f"{units}/webstack-tls-alarm.service"},
        {"src": "webstack-tls.timer", "dest": role["__lb_nginx_tls_timer_path"]},
    ]


def _acme_files(role: Role, all_sites: list[dict[str, Any]]) -> list[File]:
    """Return what has certificates issued, and hands them to the other balancers."""
    directory, units = role["__lb_nginx_directory"], role["__lb_nginx_units"]
    tls = role["__lb_nginx_tls_directory"]
    channel = role["__lb_nginx_channel"]
    found: list[File] = [
        {"src": "dehydrated.conf.j2", "dest": f"{tls}/dehydrated.conf"},
        {"content": channel["ca"], "dest": f"{tls}/channel/ca.crt"},
        {"content": channel["certificate"], "dest": f"{tls}/channel/own.crt"},
        {"content": channel["private_key"], "dest": f"{tls}/channel/own.key", "mode": "0600", "secret": True},
        {"dest": f"{role['__lb_nginx_tls_state']}/challenges", "state": "directory"},
        {"dest": f"{directory}/acme", "state": "directory", "mode": "0700"},
        {"src": "acme-upstream.conf.j2", "dest": "/etc/nginx/conf.d/webstack-acme.conf"},
        {"src": "acme.conf.j2", "dest": f"{directory}/acme.conf"},
        {"src": "webstack-tls.socket.j2", "dest": role["__lb_nginx_tls_socket_path"]},
        {"src": "webstack-tls@.service", "dest": f"{units}/webstack-tls@.service"},
    ]
    authority = role["lb_nginx_acme_ca_file"]
    if authority:
        found.append({"dest": f"{tls}/acme-ca.crt", "content": role.read(authority)})
    # What nginx starts with: the internal CA's certificate, until the authority's first one replaces it.
    first: File = {"src": "acme-first.pem.j2", "mode": "0600", "secret": True, "force": False}
    return found + [{"dest": f"{directory}/acme/{site['name']}.pem", **first} for site in all_sites]


def _no_acme_files(role: Role) -> list[File]:
    """Return what an authority's certificates needed. They and the account stay, for the way back."""
    units, tls = role["__lb_nginx_units"], role["__lb_nginx_tls_directory"]
    gone = [
        "/etc/nginx/conf.d/webstack-acme.conf",
        f"{role['__lb_nginx_directory']}/acme.conf",
        f"{tls}/dehydrated.conf",
        f"{tls}/channel/own.key",
        # Preflight reads here which authority the host carries.
        f"{tls}/channel/ca.crt",
        role["__lb_nginx_tls_socket_path"],
        f"{units}/sockets.target.wants/webstack-tls.socket",
        f"{units}/webstack-tls@.service",
    ]
    return [{"dest": path, "state": "absent"} for path in gone]

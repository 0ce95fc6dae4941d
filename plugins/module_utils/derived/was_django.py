# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role was_django makes of its inputs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _balancer_sites
from ansible_collections.webstack.ha.plugins.module_utils.derived import File, Role, flag

APACHE = "/etc/apache2"
#: A bare IPv6 address, around which Django wants brackets.
BARE_IPV6 = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")


def request_timeout(
    _role: Role,
    *,
    groups: Mapping[str, Any],
    hostvars: Mapping[str, Any],
    port: Any,
    unsaid: int = _balancer_sites.READ_TIMEOUT_SECONDS,
) -> int:
    """Return the seconds that a request may take: as long as the balancers wait, by what the inventory says of them."""
    longest = [0]
    for host in groups.get("lb") or []:
        try:
            longest.append(_balancer_sites.longest_wait(hostvars[host], port, unsaid))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the read timeouts of {host} cannot be read: {error}") from error
    return max(longest) or unsaid


def balancers_wait(role: Role) -> int:
    """Return the same, and 0 where the inventory says nothing: their role may have been given it otherwise."""
    return request_timeout(
        role, groups=role["groups"], hostvars=role["hostvars"], port=role["was_django_port"], unsaid=0
    )


def graceful_seconds(role: Role) -> int:
    """Return how long a release that goes lets its requests end."""
    return max(30, int(role["was_django_request_timeout_seconds"]))


def silence_seconds(role: Role) -> int:
    """Return how long Apache waits: longer than the balancers, so that it is they who say that it took too long."""
    return max(90, int(role["was_django_request_timeout_seconds"]) + 30)


def listen(role: Role) -> list[str]:
    """Return the addresses that Apache listens on."""
    return list(dict.fromkeys([role["was_django_listen_address"], "127.0.0.1"]))


def processes(role: Role) -> int:
    """Return how many daemon processes there are."""
    wanted = int(role["was_django_processes"])
    return wanted if wanted > 0 else max(2, role["__was_django_found"]["processors"])


def tls(role: Role) -> bool:
    """Tell whether the connection to the database is encrypted."""
    return role["was_django_database_engine"] == "mysql" and flag(role, "was_django_database_tls_enabled")


# --- Names ------------------------------------------------------------------------------------------


def allowed_hosts(role: Role) -> list[str]:
    """Return the names as Django writes them.

    What certificates and nginx write as *.example.com is .example.com there, and an IPv6 address has brackets.
    """
    found = []
    for name in role["was_django_allowed_hosts"]:
        text = f".{name[2:]}" if name.startswith("*.") else name
        found.append(f"[{text}]" if BARE_IPV6.fullmatch(text) else text)
    return list(dict.fromkeys(found))


def health_host(role: Role) -> str:
    """Return the name of a request to this host, which a Host header can hold."""
    names = allowed_hosts(role)
    plain = [name for name in names if not name.startswith((".", "*"))]
    below = [f"www{name}" for name in names if name.startswith(".")]
    return [*plain, *below, "localhost"][0]


def environment(role: Role) -> dict[str, Any]:
    """Return the environment of the application.

    What settings modules usually read is there before they are imported; what the user says comes before it. Uploads
    are spooled in TMPDIR: Debian 13 has /tmp in memory.
    """
    key = role["was_django_secret_key"]
    usual = {"SECRET_KEY": key, "DEBUG": "False", "ALLOWED_HOSTS": ",".join(allowed_hosts(role))}
    found = {f"{prefix}{name}": value for name, value in usual.items() for prefix in ("", "DJANGO_")}
    found |= {"TMPDIR": "/var/tmp", **role["was_django_environment"], "WEBSTACK_SECRET_KEY": key}
    if role["was_django_database_engine"] == "mysql":
        found["WEBSTACK_DATABASE_PASSWORD"] = role["was_django_database_password"]
    return found


# --- Files ------------------------------------------------------------------------------------------


def files(role: Role) -> list[File]:
    """Return all files of the application and of Apache."""
    found = _application_files(role)
    if tls(role):
        found.append({"dest": role["__was_django_ca_path"], "content": role["__was_django_certificate"]["ca"]})
    if role["was_django_database_engine"] == "sqlite":
        folder = os.path.dirname(role["was_django_database_sqlite_path"])
        found.append({"dest": folder, "state": "directory", "mode": "0750", **_of_the_application(role)})
    return found + _server_files(role)


def _of_the_application(role: Role) -> File:
    return {"owner": role["__was_django_user"], "group": role["__was_django_group"]}


def _application_files(role: Role) -> list[File]:
    base, configuration = role["__was_django_base"], role["__was_django_configuration"]
    return [
        {"dest": f"{base}/releases", "state": "directory"},
        {"dest": f"{base}/static", "state": "directory"},
        # The same mode as in shared_media, which has this directory too.
        {"dest": role["was_django_media_root"], "state": "directory", "mode": "2775", **_of_the_application(role)},
        {"src": "webstack_start.py.j2", "dest": f"{configuration}/webstack_start.py"},
        {"src": "manage.sh.j2", "dest": role["__was_django_manage_path"], "mode": "0755"},
        {"dest": role["__was_django_media_servers_path"], "content": role["__was_django_media_servers"]},
        # What earlier versions put here.
        {"dest": "/usr/local/sbin/webstack-release", "state": "absent"},
        # Who may not read it cannot hold it; in /run/lock every account could, or put a link in its place.
        {"dest": f"{configuration}/lock", "content": "", "mode": "0600"},
        {
            "dest": f"{configuration}/release.json",
            "content": f"{json.dumps(_release_settings(role), indent=4, sort_keys=True)}\n",
        },
    ]


def _release_settings(role: Role) -> dict[str, Any]:
    """Return what `webstack app` has to know of the application, whatever release runs."""
    configuration = role["__was_django_configuration"]
    return {
        "address": "127.0.0.1",
        "listen": listen(role),
        "port": role["was_django_port"],
        "user": role["__was_django_user"],
        "group": role["__was_django_group"],
        "python_path": role["was_django_python_path"],
        "health_path": role["was_django_health_path"],
        "health_host": health_host(role),
        "health_timeout": role["was_django_health_timeout_seconds"],
        "graceful": graceful_seconds(role),
        "keep": role["was_django_keep_releases"],
        "apache_files": role["__was_django_apache_files"],
        "watch": [
            f"{configuration}/webstack_start.py",
            *role["was_django_python_path"],
            *role["was_django_watched_files"],
        ],
    }


def _server_files(role: Role) -> list[File]:
    site = f"sites-available/{role['was_django_name']}.conf"
    gone = [
        "sites-enabled/000-default.conf",
        "conf-enabled/other-vhosts-access-log.conf",
        "conf-enabled/serve-cgi-bin.conf",
        # It rewrites Vary, which a cache in front has to trust.
        "mods-enabled/deflate.conf",
        "mods-enabled/deflate.load",
        "mods-enabled/autoindex.conf",
        "mods-enabled/autoindex.load",
    ]
    modules = [f"{name}.load" for name in ("headers", "remoteip", "rewrite")]
    return [
        {"src": "apache-global.conf.j2", "dest": f"{APACHE}/conf-available/webstack.conf"},
        _link("../conf-available/webstack.conf", "conf-enabled/webstack.conf"),
        {"src": "site.conf.j2", "dest": f"{APACHE}/{site}"},
        _link(f"../{site}", site.replace("available", "enabled", 1)),
        {"dest": f"{APACHE}/ports.conf", "content": "# Every site says itself where it listens.\n"},
        *({"dest": f"{APACHE}/{name}", "state": "absent"} for name in gone),
        *(_link(f"../mods-available/{name}", f"mods-enabled/{name}") for name in modules),
        # Debian's own would reload Apache every night.
        {"src": "logrotate.conf", "dest": "/etc/logrotate.d/apache2"},
        {"src": "apache2.service.conf", "dest": "/etc/systemd/system/apache2.service.d/webstack.conf"},
    ]


def _link(target: str, name: str) -> File:
    return {"src": target, "dest": f"{APACHE}/{name}", "state": "link"}

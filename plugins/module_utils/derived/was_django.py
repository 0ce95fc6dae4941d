# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role was_django makes of its inputs."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _balancer_sites
from ansible_collections.webstack.ha.plugins.module_utils.derived import File, Role, flag
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import table

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


# --- The release ------------------------------------------------------------------------------------


def release_inputs(role: Role) -> dict[str, Any]:
    """Return what makes a release, beside the files of the application."""
    static = flag(role, "was_django_static_enabled")
    return {
        "requirements": role["was_django_requirement_files"],
        "packages": role["was_django_driver_packages"] + role["was_django_extra_packages"],
        "arguments": role["was_django_pip_arguments"],
        "settings": role["was_django_settings_module"],
        "static": [static, role["was_django_static_url"], role["was_django_static_storage"]],
        "extra": role["was_django_settings_extra"],
    }


def required_files(role: Role) -> list[str]:
    """Return the files without which nothing can work, so that it is noticed before the first change."""
    command = role["was_django_manage_command"]
    return [*role["was_django_requirement_files"], *([] if command == "django-admin" else [command])]


def _release_contents(role: Role) -> dict[str, tuple[str, bool]]:
    """Return the files that a release has beside those of the application, and which of them hold secrets."""
    checks = {
        "health_host": health_host(role),
        "health_path": role["was_django_health_path"],
        "smoke_checks": role["was_django_smoke_checks"],
    }
    # Who runs it, and from where, is no part of a release.
    same = {"ansible_managed": "The role was_django of webstack.ha writes this."}
    return {
        "checks.json": (f"{json.dumps(checks, indent=4, sort_keys=True)}\n", False),
        "environment": (role.render("environment.j2", same), True),
        "manage": (role.render("release_manage.sh.j2", same), False),
        "python/webstack_settings.py": (role.render("webstack_settings.py.j2", same), True),
        "python/webstack_entry.py": (role.render("webstack_entry.py.j2", same), False),
        "python/webstack_django.py": (role.read("webstack_django.py") + "\n", False),
        "python/webstack_overlay.py": (role.read("webstack_overlay.py") + "\n", False),
        "python/webstack_media.py": (role.read("webstack_media.py") + "\n", False),
        "python/webstack_once.py": (role.read("webstack_once.py") + "\n", False),
    }


def release_files(role: Role) -> list[File]:
    """Return the files that a release has beside those of the application. They never change once it is complete."""
    hidden = {"group": role["__was_django_group"], "mode": "0640", "secret": True}
    found: list[File] = [{"dest": f"{role['__was_django_release_path']}/python", "state": "directory"}]
    for name, (content, secret) in _release_contents(role).items():
        more = hidden if secret else {"mode": "0755"} if name == "manage" else {}
        found.append({"dest": f"{role['__was_django_release_path']}/{name}", "content": content, **more})
    return found


def settings_digest(role: Role) -> str:
    """Return the part of a release's name that says with which settings it runs.

    They hold secrets, and everybody may see the name: without the site's key nobody can try what would lead to it.
    """
    contents = json.dumps(sorted(_release_contents(role).items()), separators=(",", ":"))
    return hmac.new(role["was_django_secret_key"].encode(), contents.encode(), hashlib.sha256).hexdigest()[:8]


def build_needed(role: Role) -> bool:
    """Tell whether the host lacks the release."""
    return role["__was_django_release"] not in role["__was_django_found"]["releases"]


def migration_marker(role: Role) -> str:
    """Name the database that was migrated: another one must be migrated too, though the release is the same."""
    engine = role["was_django_database_engine"]
    if engine == "mysql":
        where = [role[f"was_django_database_{part}"] for part in ("host", "port", "name")]
    else:
        where = [role["was_django_database_sqlite_path"]]
    # Nothing has run a command there that is added later.
    where += [json.dumps(one, sort_keys=True) for one in commands_after(role)]
    identity = hashlib.sha256("|".join(map(str, [engine, *where])).encode()).hexdigest()
    return f".migrated-{identity[:12]}"


def migration_needed(role: Role) -> bool:
    """Tell whether this run has to migrate: no host of it knows that this release has migrated this database."""
    if role["was_django_migrate_host"] not in role["ansible_play_hosts"]:
        return False
    marker = f"{role['__was_django_release']}/{migration_marker(role)}"
    known = {one for host in role["ansible_play_hosts"] for one in _seen(role, host).get("migrated") or ()}
    return flag(role, "was_django_migrate_enabled") and marker not in known


def commands_after(role: Role) -> list[dict[str, Any]]:
    """Return the management commands after a migration, and for how long each is done when it was run."""
    found = [("ever", words) for words in role["was_django_once_per_database_commands"]]
    found += [("release", words) for words in role["was_django_after_migrate_commands"]]
    return [{"scope": scope, "words": [str(word) for word in words]} for scope, words in found]


def _seen(role: Role, host: str) -> Mapping[str, Any]:
    return (role["hostvars"][host].get("__was_django_status") or {}).get("state") or {}


def version(role: Role) -> str:
    """Return what people call this release: the version of the source, else its commit."""
    commit = role["__was_django_source"].get("commit") or ""
    named = role["was_django_source"].get("version") or ""
    return " ".join(filter(None, [str(named), commit[:12] if commit != named else ""]))


def rollback_release(role: Role) -> str:
    """Return the release that ran last before the current one, of those that every host of the run has. Else nothing.

    The first host says which, since a roll begins there: all shall run the same one.
    """
    hosts = role["ansible_play_hosts"]
    first = _seen(role, hosts[0])
    everywhere = set.intersection(*(set(_seen(role, host).get("releases") or ()) for host in hosts))
    return next((one for one in first.get("ran") or () if one in everywhere and one != first.get("current")), "")


def plan(role: Role) -> list[str]:
    """Say what a deploy would do on this host."""
    found, wanted = role["__was_django_found"], role["__was_django_release"]
    named = f"{wanted} ({version(role)})" if version(role) else wanted
    said = [f"{found['turn']}: this would be refused"] if found.get("turn") else []
    said.append(f"{named} would be built" if build_needed(role) else f"{named} is built already")
    if migration_needed(role):
        seen = {"ever": ", unless this database has seen it", "release": ""}
        commands = [" ".join(one["words"]) + seen[one["scope"]] for one in commands_after(role)]
        said.append("; then ".join([f"{role['was_django_migrate_host']} would migrate the database", *commands]))
    else:
        said.append("the database would stay as it is")
    if wanted in (found["current"], found["running"]) and found["healthy"]:
        return [*said, "it runs already"]
    pages = [check["path"] for check in role["was_django_smoke_checks"]]
    asked = f"once these pages answer: {', '.join(pages)}" if pages else "without asking for a page"
    return [*said, f"{found['current'] or 'nothing'} runs; {wanted} would be run {asked}"]


def release_table(role: Role) -> list[str]:
    """Return the releases of all hosts of the run as the lines of a table."""
    columns = ("release", "version", "when", "by", "state", "healthy", "why")
    rows = [["host", *columns]]
    for host in role["ansible_play_hosts"]:
        for one in json.loads(role["hostvars"][host]["__was_django_listed"]["stdout"])["releases"]:
            words = {True: "yes", False: "no", None: ""}
            rows.append([host, *(words.get(one[name], one[name]) for name in columns)])
    return table.table(rows).splitlines()


def log_lines(role: Role) -> list[str]:
    """Return what the hosts of the run have in their journals, by time."""
    found = []
    for host in role["ansible_play_hosts"]:
        for line in json.loads(role["hostvars"][host]["__was_django_told"]["stdout"])["lines"]:
            found.append((line["time"], host, line["text"]))
    request = role["__was_django_request"]
    said = f"no journal of {', '.join(role['ansible_play_hosts'])} has a line about the request {request}"
    return ["  ".join(line) for line in sorted(found, key=lambda one: one[0])] or [said if request else "no lines"]


def manage(role: Role) -> str:
    """Return the management program, as manage.sh.j2 calls it."""
    command = role["was_django_manage_command"]
    return "-m django" if command == "django-admin" else f'"$release/src/{command}"'


def pip_command(role: Role) -> list[str]:
    """Return the command that installs what the application requires."""
    program = f"{role['__was_django_release_path']}/venv/bin/pip"
    options = ("install", "--quiet", "--no-input", "--disable-pip-version-check")
    return [*role["__was_django_step"], program, *options, *pip_words(role)]


def pip_words(role: Role) -> list[str]:
    """Return what pip is asked for: what the application requires."""
    return [
        *role["was_django_pip_arguments"],
        *(f"--requirement={name}" for name in role["was_django_requirement_files"]),
        *role["was_django_driver_packages"],
        *role["was_django_extra_packages"],
    ]


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

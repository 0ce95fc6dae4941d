# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The releases of an application: what one is made of, what a deploy has to do, and what the hosts say of them."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils.derived import File, Role, flag, was_django
from ansible_collections.webstack.ha.plugins.module_utils.webstack.core import table

#: What every release has beside the application's own modules, the same in each.
MODULES = ("webstack_django.py", "webstack_media.py", "webstack_once.py", "webstack_overlay.py")


def inputs(role: Role) -> dict[str, Any]:
    """Return what makes a release, beside the files of the application."""
    static = flag(role, "was_django_static_enabled")
    return {
        "requirements": role["was_django_requirement_files"],
        "packages": role["was_django_driver_packages"] + role["was_django_extra_packages"],
        "arguments": role["was_django_pip_arguments"],
        "settings": role["was_django_settings_module"],
        "static": [static, role["was_django_static_url"], role["was_django_static_storage"]],
        "extra": role["was_django_settings_extra"],
        "commands": role["was_django_after_collect_commands"],
    }


def required_files(role: Role) -> list[str]:
    """Return the files without which nothing can work, so that it is noticed before the first change."""
    command = role["was_django_manage_command"]
    return [*role["was_django_requirement_files"], *([] if command == "django-admin" else [command])]


def _release_contents(role: Role) -> dict[str, tuple[str, bool]]:
    """Return the files that a release has beside those of the application, and which of them hold secrets."""
    checks = {
        "health_host": was_django.health_host(role),
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
        **{f"python/{name}": (role.read(name) + "\n", False) for name in MODULES},
    }


def files(role: Role) -> list[File]:
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


def failure(role: Role) -> Mapping[str, Any]:
    """Return what the task that failed said; of a loop, its first bad item. Nothing where another host failed."""
    result: Mapping[str, Any] = role.get("ansible_failed_result", {})
    return next((one for one in result.get("results") or () if one.get("failed")), result)


def release_table(role: Role) -> list[str]:
    """Return the releases of all hosts of the run as the lines of a table."""
    columns = ("release", "version", "when", "by", "state", "healthy", "why")
    words = {True: "yes", False: "no", None: ""}
    rows = [
        [host, *(words.get(one[name], one[name]) for name in columns)]
        for host, one in _told(role, "__was_django_listed", "releases")
    ]
    return table.table([["host", *columns], *rows]).splitlines()


def log_lines(role: Role) -> list[str]:
    """Return what the hosts of the run have in their journals, by time."""
    found = [(line["time"], host, line["text"]) for host, line in _told(role, "__was_django_told", "lines")]
    request = role["__was_django_request"]
    said = f"no journal of {', '.join(role['ansible_play_hosts'])} has a line about the request {request}"
    return ["  ".join(line) for line in sorted(found, key=lambda one: one[0])] or [said if request else "no lines"]


def _told(role: Role, variable: str, key: str) -> Iterator[tuple[str, Any]]:
    """Yield what each host of the run answered to a command with --json."""
    for host in role["ansible_play_hosts"]:
        for one in json.loads(role["hostvars"][host][variable]["stdout"])[key]:
            yield host, one


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

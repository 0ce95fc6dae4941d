# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules of the role was_django."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.webstack.ha.plugins.module_utils import _settings
from ansible_collections.webstack.ha.plugins.module_utils.rules.problem import (
    Problem,
    Settings,
    at_least,
    collect,
)

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
#: A name, a name behind a wildcard, or an address, with brackets or without.
_HOST = re.compile(r"[*]|([*]?[.])?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?")
_HEALTH_PATH = re.compile(r"/[^\s?#]+")
_CHECK_PATH = re.compile(r"/[^\s#]*")
_COMMANDS = tuple(
    f"was_django_{when}_commands"
    for when in ("after_collect", "once_per_database", "after_migrate", "before_switch", "after_switch")
)
# Apache reads these from a line where a blank ends a word.
_PLAIN_URL = re.compile(r'/[^\s"]+/')
_PLAIN_PATH = re.compile(r'/[^\s"]+')
_SECRET_KEY_LENGTH = 32
# A tier of the host program keeps its own things in a directory of this name beside those of the sites.
_TIERS = frozenset({"backup", "cache", "db", "lb", "media", "quorum", "tls", "vip"})


def problems(settings: Mapping[str, Any]) -> list[Problem]:
    """Return what cannot work."""
    return collect(
        settings,
        _names,
        _secret_key,
        _database,
        _allowed_hosts,
        _numbers,
        _health,
        _smoke_checks,
        _commands,
        _static,
        _media,
        _media_servers,
        _hashes,
        _environment,
    )


def _names(settings: Settings) -> Iterator[str]:
    name = settings["was_django_name"]
    if not _NAME.fullmatch(name):
        yield f"was_django_name must be a short name of a-z, 0-9, - and _, got '{name}'"
    elif name in _TIERS:
        yield f"was_django_name may not be {name}: /etc/webstack/{name} belongs to the tier of that name"
    if "was_django_settings_module" in settings and not _MODULE.fullmatch(settings["was_django_settings_module"]):
        yield f"was_django_settings_module must be the name of a module, got '{settings['was_django_settings_module']}'"


def _secret_key(settings: Settings) -> Iterator[str]:
    if len(settings["was_django_secret_key"]) < _SECRET_KEY_LENGTH:
        yield f"was_django_secret_key must have at least {_SECRET_KEY_LENGTH} characters"


def _database(settings: Settings) -> Iterator[str]:
    if settings["was_django_database_engine"] != "mysql":
        return
    for name, source in (
        ("was_django_database_host", "webstack_database_address"),
        ("was_django_database_password", "webstack_database_password"),
    ):
        if settings.get(name) == "":
            yield f"{name} is not set (needed by was_django_database_engine: mysql); it follows {source}"


def _allowed_hosts(settings: Settings) -> Iterator[str]:
    names = settings["was_django_allowed_hosts"]
    if not names:
        yield "was_django_allowed_hosts is empty (it follows webstack_server_names)"
    wrong = [name for name in names if not _HOST.fullmatch(name)]
    if wrong:
        yield (
            "was_django_allowed_hosts must hold names without scheme, port or path, or *.example.com, got "
            + ", ".join(wrong)
        )


def _numbers(settings: Settings) -> Iterator[str]:
    yield from at_least(
        settings,
        0,
        "was_django_database_connect_timeout_seconds",
        "was_django_database_read_timeout_seconds",
        "was_django_command_database_timeout_seconds",
        "was_django_migrate_database_timeout_seconds",
        "was_django_database_connection_seconds",
        "was_django_processes",
        "was_django_restart_pause_seconds",
    )
    yield from at_least(
        settings,
        1,
        "was_django_request_timeout_seconds",
        "was_django_health_timeout_seconds",
        "was_django_keep_releases",
        "was_django_lock_seconds",
        "was_django_threads",
        "was_django_access_log_files",
    )
    for name in ("was_django_port", "was_django_database_port"):
        if name in settings and not 1 <= settings[name] <= 65535:
            yield f"{name} must be 1 to 65535, got {settings[name]}"


def _health(settings: Settings) -> Iterator[str]:
    path = settings["was_django_health_path"]
    if not _HEALTH_PATH.fullmatch(path):
        yield f"was_django_health_path must begin with / and have no query, got '{path}'"


def _smoke_checks(settings: Settings) -> Iterator[str]:
    for check in settings["was_django_smoke_checks"]:
        path, status = check["path"], check.get("status")
        if not _CHECK_PATH.fullmatch(path):
            yield f"was_django_smoke_checks: path must begin with / and have no blanks, got '{path}'"
        elif path == settings["was_django_health_path"]:
            yield (
                f"was_django_smoke_checks: {path} is was_django_health_path, which says only that the application is "
                "loaded: name a page of its own"
            )
        if status is not None and not 100 <= status <= 599:
            yield f"was_django_smoke_checks: status of {path} must be 100 to 599, got {status}"
        if check.get("seconds") is not None and check["seconds"] < 1:
            yield f"was_django_smoke_checks: seconds of {path} must be 1 or more, got {check['seconds']}"


def _commands(settings: Settings) -> Iterator[str]:
    for name in _COMMANDS:
        for command in settings[name]:
            # Ansible itself would take a text for a list of one word.
            words = [command] if isinstance(command, str) else [str(word) for word in command]
            if not words or not all(words):
                yield f"{name}: a command has an empty word: {words}"
            elif isinstance(command, str) or (len(words) == 1 and " " in words[0]):
                yield (
                    f"{name}: each command is a list of words, for example "
                    f"[{', '.join(words[0].split())}]; got the text '{words[0]}'"
                )


def _static(settings: Settings) -> Iterator[str]:
    url = settings["was_django_static_url"]
    if not _PLAIN_URL.fullmatch(url):
        yield f"was_django_static_url must begin and end with / and have no blanks, got '{url}'"


def _media(settings: Settings) -> Iterator[str]:
    if "was_django_media_url" in settings:
        url = settings["was_django_media_url"]
        if url and not _PLAIN_URL.fullmatch(url):
            yield f"was_django_media_url must begin and end with / and have no blanks, or be empty, got '{url}'"
    root = settings["was_django_media_root"]
    releases = f"/srv/webstack/{settings['was_django_name']}/releases/"
    if not _PLAIN_PATH.fullmatch(root) or f"{root}/".startswith(releases):
        yield f"was_django_media_root must be an absolute path without blanks, outside of the releases, got '{root}'"


def _media_servers(settings: Settings) -> Iterator[str]:
    ends = [f"{one['address']}:{one['port']}" for one in settings["was_django_media_servers"]]
    for one in settings["was_django_media_servers"]:
        if not one["address"] or re.search(r"[\s/@\[\]]", one["address"]):
            yield f"was_django_media_servers: {one['name']} needs an address, got '{one['address']}'"
        if not 1 <= one["port"] <= 65535:
            yield f"was_django_media_servers: {one['name']} needs a port within 1-65535, got {one['port']}"
    if len(set(ends)) < len(ends):
        yield f"was_django_media_servers gives one address twice: {', '.join(ends)}"


def _hashes(settings: Settings) -> Iterator[str]:
    packages = [*settings["was_django_driver_packages"], *settings["was_django_extra_packages"]]
    if "--require-hashes" in settings["was_django_pip_arguments"] and packages:
        yield (
            "was_django_pip_arguments has --require-hashes, so every package needs one: put those of "
            f"was_django_driver_packages and was_django_extra_packages ({', '.join(packages)}) into a requirement "
            "file, with hashes, and set both to []"
        )


def _environment(settings: Settings) -> Iterator[str]:
    name = "was_django_environment"
    yield from _settings.problems(settings[name], name, "environment")

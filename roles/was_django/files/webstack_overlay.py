"""Load an application's settings so that what the stack decides holds while they are worked out, not only afterwards.

A key that the application derives from SECRET_KEY, or a path from MEDIA_ROOT, is derived from the stack's value.
Structures are merged: what the stack does not decide in DATABASES, CACHES or STORAGES stays the application's.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from types import CodeType, ModuleType
from typing import Any

import django
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.signals import connection_created

Decisions = Mapping[str, Callable[[Any], Any]]

#: Set by the WSGI entry: this process answers requests. Every other one runs a command.
serves_requests = False

#: Of an application's database, what would lead to another server or account than the stack's, and its time limits.
STACKS_OPTIONS = frozenset(
    {
        *("host", "port", "user", "password", "passwd", "db", "database", "unix_socket", "service"),
        *("connect_timeout", "read_timeout", "write_timeout"),
    }
)


# --- what the database has to know -----------------------------------------------------------------------


@checks.register(checks.Tags.database)
def unknown_time_zone(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Refuse a time zone that the server answers with NULL: `__date` and `__month` would find nothing, and say nothing.

    Django runs this before it migrates.
    """
    problems: list[checks.CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        zone = settings.TIME_ZONE
        if connection.vendor != "mysql" or not settings.USE_TZ or zone == connection.timezone_name:
            continue
        with connection.cursor() as cursor:
            cursor.execute("SELECT CONVERT_TZ('2000-01-01 00:00:00', %s, %s)", [connection.timezone_name, zone])
            if cursor.fetchone()[0] is None:
                problems.append(
                    checks.Error(
                        f"TIME_ZONE is {zone!r}, which the server of the database {alias!r} does not know.",
                        hint="Load its time zones (mysql_tzinfo_to_sql); the role mysql_replication does.",
                        id="webstack.E001",
                    )
                )
    return problems


# --- what is decided -----------------------------------------------------------------------------------


def given(value: Any) -> Callable[[Any], Any]:
    """The stack's value in place of the application's; a path stays a path where the application has one."""

    def decide(own: Any) -> Any:
        if isinstance(own, os.PathLike) and isinstance(value, str):
            return pathlib.Path(value)
        # A copy, because the application may go on to change it.
        return copy.deepcopy(value)

    return decide


def _family(engine: object) -> str:
    return str(engine).rpartition(".")[2]


def database(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Callable[[Any], Any]:
    """The stack's server and account in DATABASES["default"]; its `defaults` only where the application says nothing.

    An engine of the application that speaks to the same kind of server stays, and so do its OPTIONS.
    """

    def decide(own: Any) -> Any:
        databases = dict(own or {})
        before = dict(databases.get("default") or {})
        same = _family(before.get("ENGINE", "")) == _family(values["ENGINE"])
        options = {
            name: value for name, value in (before.get("OPTIONS") or {}).items() if same and name not in STACKS_OPTIONS
        }
        options = {**defaults.get("OPTIONS", {}), **options, **values.get("OPTIONS", {})}
        merged = {**defaults, **before, **values, "OPTIONS": options}
        if same:
            merged["ENGINE"] = before["ENGINE"]
        databases["default"] = merged
        return databases

    return decide


def caches(values: Mapping[str, Mapping[str, Any]]) -> Callable[[Any], Any]:
    """The stack's caches beside the application's others; prefix, time limit and version stay as it has them."""

    def decide(own: Any) -> Any:
        merged = dict(own or {})
        for alias, cache in values.items():
            before = dict(merged.get(alias) or {})
            if before.get("BACKEND") != cache.get("BACKEND"):
                before.pop("OPTIONS", None)  # they are the other backend's
            options = {**(before.get("OPTIONS") or {}), **(cache.get("OPTIONS") or {})}
            before.pop("LOCATION", None)
            merged[alias] = {**before, **copy.deepcopy(dict(cache)), **({"OPTIONS": options} if options else {})}
        return merged

    return decide


def storages(backend: str) -> Callable[[Any], Any]:
    """Another storage of static files; the storage of uploads and all others stay."""

    def decide(own: Any) -> Any:
        merged = dict(own or {})
        merged.setdefault("default", {"BACKEND": "django.core.files.storage.FileSystemStorage"})
        before = dict(merged.get("staticfiles") or {})
        merged["staticfiles"] = before if before.get("BACKEND") == backend else {"BACKEND": backend}
        return merged

    return decide


def uploads(settings: Mapping[str, Any], backend: str) -> dict[str, Any]:
    """The settings by which uploads go through `backend`, where the application has no storage of its own for them."""
    plain = {
        "django.core.files.storage.FileSystemStorage",
        "django.core.files.storage.filesystem.FileSystemStorage",
    }
    # Django before 5.1 refuses both spellings together; from there on it reads the newer one alone.
    older = {"DEFAULT_FILE_STORAGE", "STATICFILES_STORAGE"} & set(settings) and "STORAGES" not in settings
    if django.VERSION < (4, 2) or (django.VERSION < (5, 1) and older):
        own = settings.get("DEFAULT_FILE_STORAGE", min(plain))
        return {"DEFAULT_FILE_STORAGE": backend} if own in plain else {}
    storages = dict(settings.get("STORAGES") or {})
    before = dict(storages.get("default") or {})
    if before.get("BACKEND", min(plain)) not in plain:
        return {}
    storages.setdefault("staticfiles", {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"})
    return {"STORAGES": {**storages, "default": {**before, "BACKEND": backend}}}


def middleware(own: Any) -> list[str]:
    """The stack's classes: one outside of all others, so that it sees their failures too, one in place of Django's."""
    ours = "webstack_django.DatabaseUnavailable"
    names = [name for name in own or [] if name != ours]
    django, session = "django.contrib.sessions.middleware.SessionMiddleware", "webstack_django.SessionMiddleware"
    return [ours, *(session if name == django else name for name in names)]


def with_app(name: str) -> Callable[[Any], Any]:
    def decide(own: Any) -> list[str]:
        return [*(own or []), *([] if name in (own or []) else [name])]

    return decide


# --- limits --------------------------------------------------------------------------------------------


def statement_seconds(requests: int, commands: int, migrations: int) -> int:
    """How long a statement of this process may take; 0 is no limit."""
    if serves_requests:
        return requests
    return migrations if sys.argv[1:2] == ["migrate"] else commands


def mysql_timeouts(seconds: int) -> dict[str, int]:
    """What the driver gets, and a limit of the server's own for each connection to the default database.

    The driver only stops waiting; without the server's limit the statement would run on. The server's comes first, a
    tenth earlier, so that the connection and its transaction stay usable.
    """
    if seconds <= 0:
        return {}

    def limit(connection: Any, **_: Any) -> None:
        if connection.alias != "default" or connection.vendor != "mysql":
            return
        driver = connection.connection
        if "mariadb" in str(driver.get_server_info()).lower():
            statement = f"SET SESSION max_statement_time = {seconds * 0.9:.1f}"
        else:  # MySQL, in milliseconds, and for SELECT alone
            statement = f"SET SESSION max_execution_time = {seconds * 900}"
        with driver.cursor() as cursor:
            cursor.execute(statement)

    connection_created.connect(limit, weak=False, dispatch_uid="webstack_overlay")
    return {"read_timeout": seconds, "write_timeout": seconds}


# --- the application's settings ------------------------------------------------------------------------


class _Assignments(MutableMapping[str, Any]):
    """The names of a module while it runs: what it assigns to a decided one is decided at once."""

    def __init__(self, names: dict[str, Any], decisions: Decisions) -> None:
        self.names = names
        self.decisions = decisions

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def __setitem__(self, name: str, value: Any) -> None:
        decide = self.decisions.get(name)
        self.names[name] = decide(value) if decide else value

    def __delitem__(self, name: str) -> None:
        del self.names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, decisions: Decisions) -> None:
        super().__init__(fullname, path)
        self.decisions = decisions

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(module.__name__)
        assert isinstance(code, CodeType)
        exec(code, module.__dict__, _Assignments(module.__dict__, self.decisions))


class _Finder(importlib.abc.MetaPathFinder):
    """Loads the settings module, and those that it takes settings from, with the decisions in force."""

    def __init__(self, name: str, decisions: Decisions) -> None:
        self.names = {name}
        self.decisions = decisions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return spec
        spec.loader = loader = _Loader(fullname, spec.loader.path, self.decisions)
        package = fullname if spec.submodule_search_locations is not None else fullname.rpartition(".")[0]
        self.names |= set(_sources(pathlib.Path(loader.path), package, set(self.decisions)))
        return spec


def _sources(path: pathlib.Path, package: str, decided: set[str]) -> Iterator[str]:
    """The modules from which a module imports everything, or a setting that the stack decides."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # the import itself says what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} & {"*", *decided}:
            relative = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*relative, *([node.module] if node.module else [])])


def load(name: str, decisions: Decisions, afterwards: Decisions) -> dict[str, Any]:
    """Import the application's settings module and return its settings, merged with what the stack decides.

    Raises ImproperlyConfigured, naming the module, when it ends with DEBUG on or with a secret key of its own.
    """
    finder = _Finder(name, decisions)
    sys.meta_path.insert(0, finder)
    try:
        module = importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
    public = getattr(module, "__all__", None)
    settings = {
        key: value
        for key, value in vars(module).items()
        if (key in public if public is not None else not key.startswith("_"))
    }
    if settings.get("DEBUG"):
        raise ImproperlyConfigured(
            f"{name}: DEBUG is {settings['DEBUG']!r}, which counts as on. What the module makes of it while it is "
            "imported cannot be undone, so it does not run here. Give was_django_settings_module a module for "
            'production, or let it read the environment, where DEBUG and DJANGO_DEBUG are "False": '
            'DEBUG = os.environ.get("DEBUG", "True") == "True". Where it reads it otherwise, was_django_environment '
            'has its own word: DEBUG: "0" for int(...), DEBUG: "" for bool(...).'
        )
    if "SECRET_KEY" in decisions and "SECRET_KEY" in settings:
        own = settings["SECRET_KEY"]
        if own != decisions["SECRET_KEY"](own):
            raise ImproperlyConfigured(
                f"{name}: SECRET_KEY is set in a way that was_django_secret_key cannot replace, and what was derived "
                'from it would stay. Write SECRET_KEY = os.environ["SECRET_KEY"] there.'
            )
    for key, decide in {**decisions, **afterwards}.items():
        settings[key] = decide(settings.get(key))
    return settings

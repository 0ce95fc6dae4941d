"""The settings that the role generates, rendered as it does and loaded by Django on top of projects of many kinds."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import rendering

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/was_django"
KEY = "the-key-of-the-site-0123456789-abcdefghijklmnopqrstuvwxyz"

REQUIRED = {"was_django_settings_module": "shop.settings", "was_django_secret_key": KEY}

Variables = dict[str, Any]


def render(name: str, variables: Variables) -> Any:
    return rendering.render("was_django", name, REQUIRED | variables)


def problems(variables: Variables) -> list[str]:
    return rendering.problems("was_django", REQUIRED | variables)


class Project:
    """A Django project with the generated settings beside it, on sqlite unless told otherwise."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        (path / "src/shop").mkdir(parents=True)
        (path / "src/shop/__init__.py").touch()
        self.variables: Variables = {
            "was_django_database_engine": "sqlite",
            "was_django_database_sqlite_path": str(path / "db.sqlite3"),
            "was_django_caches": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
            "was_django_allowed_hosts": ["www.example.com"],
            "was_django_media_root": "/srv/uploads",
        }
        self.environment: dict[str, str] = {}

    def write(self, **modules: str) -> None:
        for name, text in modules.items():
            file = self.path / "src/shop" / f"{name.replace('__', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("import os\nfrom pathlib import Path\n\nBASE_DIR = Path('/base')\nDEBUG = False\n" + text)

    def run(self, code: str, *arguments: str, good: bool = True) -> str:
        python = self.path / "python"
        python.mkdir(exist_ok=True)
        for file in ("webstack_django.py", "webstack_media.py", "webstack_once.py", "webstack_overlay.py"):
            (python / file).write_text((ROLE / "files" / file).read_text())
        (python / "webstack_settings.py").write_text(render("webstack_settings.py.j2", self.variables))
        environment: dict[str, str] = render("__was_django_environment", self.variables)
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{self.path / 'src'}:{python}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "DJANGO_SETTINGS_MODULE": "webstack_settings",
                "WEBSTACK_RELEASE_PATH": str(self.path),
                "WEBSTACK_RELEASE": "release-1",
                **{name: str(value) for name, value in environment.items()},
                **self.environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == good, done.stdout + done.stderr
        return done.stdout + ("" if good else done.stderr)

    def show(self, *expressions: str) -> Any:
        """What Django sees, as JSON."""
        code = "import json; from django.conf import settings; s = settings; import django; django.setup(); "
        return json.loads(self.run(f"{code}print(json.dumps([{', '.join(expressions)}], default=str))"))

    def refused(self) -> str:
        return self.run("import django; django.setup()", good=False)


@pytest.fixture
def project(tmp_path: pathlib.Path) -> Project:
    return Project(tmp_path)


MINIMAL = "SECRET_KEY = 'development'\nALLOWED_HOSTS = []\nINSTALLED_APPS = []\n"


# --- what is there before the import ----------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        "SECRET_KEY = os.environ['SECRET_KEY']\nDEBUG = os.environ.get('DEBUG', 'True') == 'True'",
        "SECRET_KEY = os.environ['DJANGO_SECRET_KEY']\nDEBUG = os.environ.get('DJANGO_DEBUG', '') != 'False'",
        "SECRET_KEY = os.getenv('SECRET_KEY', 'x')\nDEBUG = os.getenv('DEBUG', 'True').lower() in ('1', 'true', 'yes')",
        "SECRET_KEY = 'development'",
        "SECRET_KEY = 'one'\nif DEBUG:\n    SECRET_KEY = 'two'\nSECRET_KEY += ''",
        "for SECRET_KEY in ('one', 'two'): pass",
        "def key():\n    return 'made'\nSECRET_KEY = key()",
        "SECRET_KEY: str = 'development'",
    ],
)
def test_a_key_derived_at_import_comes_from_the_secret_key(project: Project, settings: str) -> None:
    project.write(
        settings=f"""{settings}
import hashlib
ALLOWED_HOSTS = ['*'] if DEBUG else os.environ['ALLOWED_HOSTS'].split(',')
TOKEN_KEY = hashlib.sha256(SECRET_KEY.encode()).hexdigest()
JWT = {{'SIGNING_KEY': SECRET_KEY}}
OPEN_TO_ALL = DEBUG
FIRST = ALLOWED_HOSTS[0]
"""
    )
    import hashlib

    seen = project.show("s.SECRET_KEY", "s.TOKEN_KEY", "s.JWT['SIGNING_KEY']", "s.OPEN_TO_ALL", "s.FIRST", "s.DEBUG")
    assert seen == [KEY, hashlib.sha256(KEY.encode()).hexdigest(), KEY, False, "www.example.com", False]


@pytest.mark.parametrize("how", ["from .base import *", "from shop.base import *", "from .base import SECRET_KEY, JWT"])
def test_a_module_that_another_one_builds_on_has_the_secret_key_too(project: Project, how: str) -> None:
    project.write(
        settings=f"{how}\nINSTALLED_APPS = []\n",
        base="from .defaults import *\nSECRET_KEY = 'development'\nJWT = {'SIGNING_KEY': SECRET_KEY}\n",
        defaults="SECRET_KEY = 'older'\nOTHER = SECRET_KEY\n",
    )
    assert project.show("s.SECRET_KEY", "s.JWT['SIGNING_KEY']") == [KEY, KEY]


def test_split_settings_in_a_package(project: Project) -> None:
    project.variables["was_django_settings_module"] = "shop.settings.production"
    project.write(
        settings__base="SECRET_KEY = 'dev'\nJWT = SECRET_KEY\nROOT = BASE_DIR / 'x'\n",
        settings__production="from .base import *\n",
    )
    (project.path / "src/shop/settings/__init__.py").write_text("from .production import *\n")
    assert project.show("s.JWT", "s.ROOT") == [KEY, "/base/x"]


def test_other_modules_keep_their_names(project: Project) -> None:
    """Only settings are decided: a module that settings merely use has its own SECRET_KEY."""
    project.write(
        settings=f"{MINIMAL}from . import payment\nPAY = payment.SECRET_KEY\n", payment="SECRET_KEY = 'bank'\n"
    )
    assert project.show("s.SECRET_KEY", "s.PAY") == [KEY, "bank"]


def test_what_is_derived_from_paths_addresses_and_hosts_is_the_stacks(project: Project) -> None:
    project.write(
        settings=f"""{MINIMAL}
MEDIA_ROOT = BASE_DIR / 'media'
THUMBNAILS = MEDIA_ROOT / 'thumbnails'
STATIC_URL = 'assets/'
EDITOR = STATIC_URL + 'editor.js'
STATIC_ROOT = os.path.join(BASE_DIR, 'static')
COMPRESSED = os.path.join(STATIC_ROOT, 'compressed')
ALLOWED_HOSTS = ['dev.example.com']
ALLOWED_HOSTS += ['other.example.com']
ALLOWED_HOSTS.append('third.example.com')
COOKIES = SESSION_COOKIE_SECURE = False
SECURE = SESSION_COOKIE_SECURE
"""
    )
    seen = project.show("s.THUMBNAILS", "s.EDITOR", "s.COMPRESSED", "s.ALLOWED_HOSTS", "s.SECURE")
    static = str(project.path / "static")
    assert seen == ["/srv/uploads/thumbnails", "/static/editor.js", f"{static}/compressed", ["www.example.com"], True]


def test_what_the_user_says_in_the_environment_comes_first(project: Project) -> None:
    project.write(settings=f"{MINIMAL}SEEN = [os.environ['DEBUG'], os.environ['SHOP_KEY']]\n")
    project.variables["was_django_environment"] = {"DEBUG": "0", "SHOP_KEY": "a"}
    assert project.show("s.SEEN") == [["0", "a"]]


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ("DEBUG = True", "True"),
        ("DEBUG = bool(os.environ.get('DEBUG'))", "True"),
        ("DEBUG = os.environ.get('DEBUG', True)", "'False'"),
        ("globals()['DEBUG'] = True", "True"),
        ("from .base import *", "True"),
    ],
)
def test_a_module_with_debug_on_is_refused_by_name(project: Project, settings: str, shown: str) -> None:
    project.write(settings=f"{MINIMAL}{settings}\n", base="DEBUG = 1 == 1\n")
    text = project.refused()
    assert f"shop.settings: DEBUG is {shown}" in text
    assert "was_django_settings_module" in text


def test_a_secret_key_that_cannot_be_replaced_is_refused_by_name_and_not_shown(project: Project) -> None:
    project.write(settings=f"{MINIMAL}globals()['SECRET_KEY'] = 'development-secret'\nJWT = SECRET_KEY\n")
    text = project.refused()
    assert "shop.settings: SECRET_KEY is set in a way that was_django_secret_key cannot replace" in text
    assert "ImproperlyConfigured: shop.settings" in text
    assert KEY not in text


def test_a_module_that_is_not_there_is_named(project: Project) -> None:
    assert "No module named 'shop.settings'" in project.refused()


# --- what is merged ---------------------------------------------------------------------------------

ENGINE = "django.db.backends.mysql"


def mysql(project: Project) -> None:
    project.variables |= {
        "was_django_database_engine": "mysql",
        "was_django_database_host": "192.0.2.10",
        "was_django_database_password": "hidden",
        "was_django_database_sqlite_path": "",
    }


def databases(project: Project) -> Any:
    code = "import json, webstack_settings as s; print(json.dumps([s.DATABASES, getattr(s, 'SEEN', None)]))"
    return json.loads(project.run(code))


def test_the_database_keeps_what_the_stack_does_not_decide(project: Project) -> None:
    mysql(project)
    project.write(
        settings=f"""{MINIMAL}
DATABASES = {{
    'default': {{
        'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'dev.sqlite3', 'ATOMIC_REQUESTS': True, 'CONN_MAX_AGE': 5,
        'AUTOCOMMIT': True, 'TIME_ZONE': 'Europe/Berlin', 'TEST': {{'NAME': 'probe'}}, 'OPTIONS': {{'timeout': 20}},
    }},
    'legacy': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'old.sqlite3'}},
}}
DATABASES['reports'] = {{**DATABASES['default'], 'ATOMIC_REQUESTS': False}}
SEEN = DATABASES['default']['HOST']
DATABASES['default']['CONN_HEALTH_CHECKS'] = False
"""
    )
    found, seen = databases(project)
    default = found["default"]
    assert {key: default[key] for key in ("ENGINE", "HOST", "USER", "PASSWORD", "NAME")} == {
        "ENGINE": ENGINE, "HOST": "192.0.2.10", "USER": "site", "PASSWORD": "hidden", "NAME": "site"
    }  # fmt: skip
    assert (default["ATOMIC_REQUESTS"], default["CONN_MAX_AGE"], default["CONN_HEALTH_CHECKS"]) == (True, 5, False)
    assert (default["TIME_ZONE"], default["TEST"]) == ("Europe/Berlin", {"NAME": "probe"})
    assert "timeout" not in default["OPTIONS"], "it is sqlite's"
    assert default["OPTIONS"]["charset"] == "utf8mb4"
    assert found["legacy"]["NAME"] == "old.sqlite3"
    assert found["reports"]["HOST"] == seen == "192.0.2.10"


def test_options_of_the_same_engine_stay_and_lead_nowhere_else(project: Project) -> None:
    mysql(project)
    project.write(
        settings=f"""{MINIMAL}
DATABASES = {{'default': {{
    'ENGINE': 'django_prometheus.db.backends.mysql', 'HOST': 'localhost', 'PASSWORD': 'dev',
    'OPTIONS': {{'isolation_level': 'read committed', 'init_command': "SET sql_mode='ANSI'", 'charset': 'utf8mb3',
                'unix_socket': '/run/dev.sock', 'read_timeout': 999}},
}}}}
"""
    )
    default = databases(project)[0]["default"]
    options = default["OPTIONS"]
    assert default["ENGINE"] == "django_prometheus.db.backends.mysql"
    assert (options["isolation_level"], options["charset"]) == ("read committed", "utf8mb3")
    assert options["init_command"] == "SET sql_mode='ANSI'"
    assert options["read_timeout"] == 3600
    assert "unix_socket" not in options
    assert (default["HOST"], default["PASSWORD"]) == ("192.0.2.10", "hidden")


def test_a_view_that_raises_leaves_no_row(project: Project) -> None:
    """ATOMIC_REQUESTS, from the settings module to the file of the database."""
    project.write(
        settings=f"""{MINIMAL}
DATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'x', 'ATOMIC_REQUESTS': True}}}}
ROOT_URLCONF = 'shop.urls'
""",
        urls="""
from django.db import connection
from django.urls import path

def write(request):
    connection.cursor().execute("INSERT INTO rows VALUES (1)")
    raise ValueError("no")

urlpatterns = [path("write", write)]
""",
    )
    code = """
import django; django.setup()
from django.db import connection
from django.test import Client
connection.cursor().execute("CREATE TABLE rows (n INTEGER)")
assert Client(raise_request_exception=False).get("/write", headers={"Host": "www.example.com"}).status_code == 500
print(connection.cursor().execute("SELECT COUNT(*) FROM rows").fetchone()[0])
"""
    assert project.run(code).strip() == "0"


def test_caches_keep_prefix_time_limit_and_other_aliases(project: Project) -> None:
    project.variables["was_django_caches"] = {
        "default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "/var/tmp/x"}
    }
    project.write(
        settings=f"""{MINIMAL}
CACHES = {{
    'default': {{'BACKEND': 'django.core.cache.backends.locmem.LocMemCache', 'LOCATION': 'dev', 'KEY_PREFIX': 'shop',
                'TIMEOUT': 7, 'VERSION': 3, 'OPTIONS': {{'MAX_ENTRIES': 5}}}},
    'pages': {{'BACKEND': 'django.core.cache.backends.dummy.DummyCache'}},
}}
CACHES['sessions'] = dict(CACHES['default'], KEY_PREFIX='sessions')
"""
    )
    default, pages, sessions = project.show("s.CACHES['default']", "s.CACHES['pages']", "s.CACHES['sessions']")
    backend = "django.core.cache.backends.filebased.FileBasedCache"
    kept = {"BACKEND": backend, "LOCATION": "/var/tmp/x", "KEY_PREFIX": "shop", "TIMEOUT": 7, "VERSION": 3}
    assert default == kept
    assert pages == {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
    assert sessions == kept | {"KEY_PREFIX": "sessions"}


def test_storages_middleware_templates_logging_and_apps_are_merged(project: Project) -> None:
    project.variables |= {
        "was_django_static_storage": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage",
        "was_django_caches": {
            "default": {"BACKEND": "webstack_cache.RingCache", "LOCATION": "/etc/webstack/cache.json"}
        },
    }
    project.write(
        settings=f"""{MINIMAL}
INSTALLED_APPS = ['django.contrib.sessions', 'webstack_cache']
STORAGES = {{
    'default': {{'BACKEND': 'shop.Uploads', 'OPTIONS': {{'a': 1}}}}, 'backup': {{'BACKEND': 'shop.Backup'}},
    'staticfiles': {{'BACKEND': 'shop.Static', 'OPTIONS': {{'b': 2}}}},
}}
MIDDLEWARE = ('django.contrib.sessions.middleware.SessionMiddleware',)
MIDDLEWARE = ('shop.First', *MIDDLEWARE)
TEMPLATES = [{{'BACKEND': 'django.template.backends.django.DjangoTemplates', 'OPTIONS': {{'builtins': ['shop.tags']}}}}]
LOGGING = {{'version': 1, 'loggers': {{'shop': {{'level': 'INFO'}}}}}}
"""
    )
    code = (
        "import json, webstack_settings as s; "
        "print(json.dumps([s.STORAGES, s.MIDDLEWARE, s.TEMPLATES, s.LOGGING, s.INSTALLED_APPS]))"
    )
    storages, middleware, templates, logging, apps = json.loads(project.run(code))
    assert storages == {
        "default": {"BACKEND": "shop.Uploads", "OPTIONS": {"a": 1}},
        "backup": {"BACKEND": "shop.Backup"},
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
    }
    assert middleware == ["webstack_django.DatabaseUnavailable", "shop.First", "webstack_django.SessionMiddleware"]
    assert templates[0]["OPTIONS"] == {"builtins": ["shop.tags"]}
    assert logging == {"version": 1, "loggers": {"shop": {"level": "INFO"}}}
    assert apps == ["django.contrib.sessions", "webstack_cache"]


@pytest.mark.parametrize(
    ("zone", "answer", "found"),
    [("Europe/Berlin", None, ["webstack.E001"]), ("Europe/Berlin", "2000-01-01 01:00:00", []), ("UTC", None, [])],
)
def test_a_time_zone_that_the_server_does_not_know_is_refused(
    project: Project, zone: str, answer: str | None, found: list[str]
) -> None:
    project.write(settings=f"{MINIMAL}USE_TZ = True\nTIME_ZONE = '{zone}'\n")
    code = f"""
import contextlib, json, types
import django
django.setup()
import webstack_overlay
from django.core.checks.registry import registry
cursor = types.SimpleNamespace(execute=lambda *_: None, fetchone=lambda: ({answer!r},))
server = types.SimpleNamespace(vendor="mysql", timezone_name="UTC", cursor=lambda: contextlib.nullcontext(cursor))
webstack_overlay.connections = {{"default": server}}
check, = (c for c in registry.registered_checks if c.__name__ == "unknown_time_zone")
print(json.dumps([[p.id for p in check(app_configs=None, databases=["default"])], check(app_configs=None)]))
"""
    assert json.loads(project.run(code)) == [found, []]


def test_the_users_own_lines_have_the_last_word(project: Project) -> None:
    project.write(settings=MINIMAL)
    project.variables["was_django_settings_extra"] = "STATIC_URL = '/other/'\nCACHES['default']['TIMEOUT'] = 9\n"
    assert project.show("s.STATIC_URL", "s.CACHES['default']['TIMEOUT']") == ["/other/", 9]


def test_the_demo_site_runs_on_its_own_and_on_the_stack() -> None:
    source = (ROOT / "examples/demo_site/demo_site/settings.py").read_text()
    names: dict[str, Any] = {"__file__": "/x/demo_site/settings.py"}
    exec(source, names)
    assert (names["DEBUG"], names["SECRET_KEY"]) == (True, "for development only")


# --- limits of statements ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "seconds"),
    [
        ("import webstack_overlay; webstack_overlay.serves_requests = True", 10),
        ("import sys; sys.argv = ['manage.py', 'report']", 3600),
        ("import sys; sys.argv = ['manage.py', 'migrate', '--noinput']", None),
        ("", 3600),
    ],
)
def test_requests_commands_and_migrations_have_limits_of_their_own(
    project: Project, before: str, seconds: int | None
) -> None:
    mysql(project)
    own = "DATABASES = {'default': {'ENGINE': 'django.db.backends.mysql', 'OPTIONS': {'read_timeout': 1}}}"
    project.write(settings=f"{MINIMAL}{own}\n")
    options = "s.DATABASES['default']['OPTIONS']"
    code = (
        f"{before}\nimport webstack_settings as s; print({options}.get('read_timeout'), {options}.get('write_timeout'))"
    )
    assert project.run(code).split() == [str(seconds)] * 2


@pytest.mark.parametrize(
    ("server", "statement"),
    [
        ("11.8.3-MariaDB-deb13", "SET SESSION max_statement_time = 9.0"),
        ("5.5.5-10.11.4-MariaDB", "SET SESSION max_statement_time = 9.0"),
        ("8.4.2", "SET SESSION max_execution_time = 9000"),
    ],
)
def test_the_server_has_the_limit_too(project: Project, server: str, statement: str) -> None:
    mysql(project)
    project.write(settings=MINIMAL)
    code = f"""
import webstack_overlay
webstack_overlay.serves_requests = True
import webstack_settings
from unittest import mock
from django.db.backends.signals import connection_created
for alias, vendor in (("default", "mysql"), ("other", "mysql"), ("default", "sqlite")):
    connection = mock.MagicMock(alias=alias, vendor=vendor)
    connection.connection.get_server_info.return_value = {server!r}
    connection_created.send(sender=object, connection=connection)
    print([call.args[0] for call in connection.connection.cursor().__enter__().execute.call_args_list])
"""
    assert project.run(code).splitlines() == [str([statement]), "[]", "[]"]


# --- names in several dialects ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "hosts", "origins", "health"),
    [
        (["www.shop.test"], ["www.shop.test"], ["https://www.shop.test"], "www.shop.test"),
        (["*.shop.test"], [".shop.test"], ["https://*.shop.test"], "www.shop.test"),
        (["*.a.test", "a.test"], [".a.test", "a.test"], ["https://*.a.test", "https://a.test"], "a.test"),
        ([".shop.test"], [".shop.test"], ["https://*.shop.test"], "www.shop.test"),
        (["*"], ["*"], [], "localhost"),
        (["2001:db8::5"], ["[2001:db8::5]"], ["https://[2001:db8::5]"], "[2001:db8::5]"),
    ],
)  # fmt: skip
def test_a_name_is_written_as_each_program_wants_it(
    given: list[str], hosts: list[str], origins: list[str], health: str
) -> None:
    variables = {"was_django_allowed_hosts": given}
    assert render("__was_django_allowed_hosts", variables) == hosts
    assert render("was_django_csrf_trusted_origins", variables) == origins
    assert render("__was_django_health_host", variables) == health
    assert problems(variables | PRESENT) == []


def test_django_accepts_a_name_below_a_wildcard(project: Project) -> None:
    project.variables["was_django_allowed_hosts"] = ["*.shop.test"]
    project.write(settings=MINIMAL)
    code = """
import django; django.setup()
from django.conf import settings
from django.http.request import validate_host
from django.middleware.csrf import CsrfViewMiddleware
print([validate_host(name, settings.ALLOWED_HOSTS) for name in ("a.shop.test", "evil.test", "a.shop.test.evil.test")])
print(dict(CsrfViewMiddleware(lambda r: None).allowed_origin_subdomains))
"""
    assert project.run(code).splitlines() == ["[True, False, False]", "{'https': ['.shop.test']}"]


PRESENT = {
    "was_django_source": {},
    "was_django_database_host": "192.0.2.10",
    "was_django_database_password": "x",
}


@pytest.mark.parametrize(
    "name",
    ["https://www.shop.test", "www.shop.test:8000", "shop.test/", "www.*", "*shop.test", "shop.test.", "", "a b"],
)
def test_a_name_that_no_host_header_can_be_is_refused(name: str) -> None:
    found = problems(PRESENT | {"was_django_allowed_hosts": [name]})
    assert len(found) == 1
    assert found[0].startswith("was_django_allowed_hosts must hold names")


def test_a_limit_below_zero_is_refused() -> None:
    variables = PRESENT | {"was_django_allowed_hosts": ["a.test"], "was_django_migrate_database_timeout_seconds": -1}
    found = problems(variables)
    assert "was_django_migrate_database_timeout_seconds" in found[0]


@pytest.mark.parametrize(
    ("address", "listen"), [("192.0.2.7", "192.0.2.7:8000"), ("2001:db8::7", "[2001:db8::7]:8000")]
)
def test_apache_listens_on_either_kind_of_address(address: str, listen: str) -> None:
    variables = {
        "was_django_listen_address": address,
        "was_django_allowed_hosts": ["a.test"],
        "__was_django_processes": 2,
    }
    assert f"Listen {listen}\n" in render("site.conf.j2", variables)


OURS = {"BACKEND": "webstack_media.UploadStorage"}
DJANGOS = "django.core.files.storage.FileSystemStorage"
STATIC = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}


@pytest.mark.parametrize(
    ("own", "default"),
    [
        ("", OURS),
        (f"STORAGES = {{'default': {{'BACKEND': '{DJANGOS}'}}}}", OURS),
        ("STORAGES = {'staticfiles': {'BACKEND': 'shop.Static'}}", OURS),
        (
            "STORAGES = {'default': {'BACKEND': 'django.core.files.storage.filesystem.FileSystemStorage',"
            " 'OPTIONS': {'base_url': '/files/'}}}",
            {**OURS, "OPTIONS": {"base_url": "/files/"}},
        ),
        ("STORAGES = {'default': {'BACKEND': 'storages.backends.s3.S3Storage'}}", "its own"),
    ],
)
def test_uploads_go_through_the_stacks_storage_where_the_application_has_none(
    project: Project, own: str, default: Any
) -> None:
    project.write(settings=f"{MINIMAL}{own}")
    seen, files = project.show("s.STORAGES", "s.WEBSTACK_MEDIA_SERVERS_FILE")
    assert seen["default"] == ({"BACKEND": "storages.backends.s3.S3Storage"} if default == "its own" else default)
    assert seen.get("staticfiles", STATIC) == ({"BACKEND": "shop.Static"} if "shop.Static" in own else STATIC)
    assert files == "/etc/webstack/site/media.json"
    project.variables["was_django_media_storage_enabled"] = False
    seen = project.show("s.STORAGES")[0]
    assert OURS["BACKEND"] not in json.dumps(seen)


def test_an_application_can_use_that_storage(project: Project) -> None:
    """Django makes it, and a field's file gets a name of its own."""
    root = project.path / "uploads"
    project.variables["was_django_media_root"] = str(root)
    project.write(settings=f"{MINIMAL}INSTALLED_APPS = ['django.contrib.staticfiles']\n")
    project.run(
        "import django; django.setup()\n"
        "from django.core.files.base import ContentFile\n"
        "from django.core.files.storage import default_storage as s\n"
        "from django.contrib.staticfiles.storage import staticfiles_storage\n"
        "staticfiles_storage.url('a.css')\n"
        "print(s.save(s.generate_filename('a.png'), ContentFile(b'x')))"
    )
    (name,) = [path.name for path in root.iterdir()]
    assert re.fullmatch(r"a_[A-Za-z0-9]{7}\.png", name)


@pytest.mark.parametrize(
    ("version", "own", "wanted"),
    [
        ((4, 1), {}, {"DEFAULT_FILE_STORAGE": OURS["BACKEND"]}),
        ((4, 1), {"DEFAULT_FILE_STORAGE": "shop.Uploads"}, {}),
        ((4, 2), {}, {"STORAGES": {"default": OURS, "staticfiles": STATIC}}),
        ((4, 2), {"STATICFILES_STORAGE": "shop.Static"}, {"DEFAULT_FILE_STORAGE": OURS["BACKEND"]}),
        ((5, 0), {"DEFAULT_FILE_STORAGE": "shop.Uploads"}, {}),
        ((5, 0), {"DEFAULT_FILE_STORAGE": DJANGOS}, {"DEFAULT_FILE_STORAGE": OURS["BACKEND"]}),
        # From here on the older spelling is not read.
        ((5, 1), {"STATICFILES_STORAGE": "shop.Static"}, {"STORAGES": {"default": OURS, "staticfiles": STATIC}}),
    ],
)
def test_each_django_reads_the_spelling_of_its_time(
    project: Project, version: tuple[int, int], own: Variables, wanted: Variables
) -> None:
    project.write(settings=MINIMAL)
    said = project.run(
        f"import json, django, webstack_overlay as o; django.VERSION = {version!r}; "
        f"print(json.dumps(o.uploads({own!r}, {OURS['BACKEND']!r})))"
    )
    assert json.loads(said) == wanted


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"was_django_media_servers": [{"name": "a", "address": "", "port": 80}]}, "a needs an address, got ''"),
        ({"was_django_media_servers": [{"name": "a", "address": "h", "port": 0}]}, "a needs a port within 1-65535"),
        (
            {"was_django_media_servers": [{"name": n, "address": "h", "port": 80} for n in "ab"]},
            "was_django_media_servers gives one address twice: h:80, h:80",
        ),
        ({"was_django_environment": {"A": ["x"], "B": "y"}}, "was_django_environment.A is a list"),
        ({"was_django_environment": {"A": {"b": 1}}}, "was_django_environment.A is a mapping"),
        ({"was_django_environment": {"A": None}}, "was_django_environment.A has no value"),
        ({"was_django_environment": {"A": True}}, "was_django_environment.A is true"),
        ({"was_django_pip_arguments": ["--require-hashes"]}, "--require-hashes, so every package needs one"),
        ({"was_django_static_url": "/my files/"}, "was_django_static_url"),
        ({"was_django_media_url": '/"/'}, "was_django_media_url"),
        ({"was_django_media_root": "/srv/my media"}, "was_django_media_root"),
    ],
)
def test_what_a_program_further_on_would_misread_is_refused(inputs: Variables, words: str) -> None:
    found = problems(PRESENT | {"was_django_allowed_hosts": ["a.test"]} | inputs)
    assert len(found) == 1
    assert words in found[0]


def test_good_inputs_are_no_problem() -> None:
    inputs = {
        "was_django_allowed_hosts": ["a.test"],
        "was_django_environment": {"A": "True", "B": 1, "C": "x y", "D": ""},
        "was_django_pip_arguments": ["--require-hashes"],
        "was_django_driver_packages": [],
    }
    assert problems(PRESENT | inputs) == []


def test_both_tiers_have_one_health_address() -> None:
    shared = {"webstack_health_path": "/up"}
    assert render("was_django_health_path", shared) == "/up"
    assert rendering.render("lb_nginx", "lb_nginx_probe_path", shared) == "/up"
    assert (
        rendering.render("lb_nginx", "lb_nginx_probe_path", {}) == render("was_django_health_path", {}) == "/-/health"
    )


# --- the WSGI entry ---------------------------------------------------------------------------------


def entry(project: Project) -> str:
    """The entry as Apache loads it, with this project's paths, and a request to it."""
    text = render("webstack_entry.py.j2", project.variables)
    environment = project.path / "environment"
    environment.touch()
    text = text.replace("/etc/webstack/site/environment", str(environment))
    text = text.replace("sys.prefix", repr(str(project.path / "venv")))
    (project.path / "python").mkdir(exist_ok=True)
    (project.path / "python/entry.py").write_text(text)
    return """
import io, entry
def ask(path):
    told = []
    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET", "HTTP_HOST": "www.example.com", "SERVER_NAME": "x",
               "SERVER_PORT": "80", "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http"}
    list(entry.application(environ, lambda status, headers: told.append(status[:3])))
    return told[0]
print(ask("/-/health"), ask("/page"))
"""


def test_an_application_that_does_not_load_sends_reads_to_another_server(project: Project) -> None:
    project.write(settings="raise RuntimeError('broken')\n")
    assert project.run(entry(project)).split() == ["503", "502"]


def test_an_application_that_loads_answers_itself_with_the_limits_of_requests(project: Project) -> None:
    mysql(project)
    project.write(settings=f"{MINIMAL}ROOT_URLCONF = 'shop.urls'\n", urls="urlpatterns = []\n")
    project.variables["was_django_database_read_timeout_seconds"] = 7
    code = entry(project) + (
        "import webstack_overlay as o; from django.conf import settings as s; "
        "print(o.serves_requests, s.DATABASES['default']['OPTIONS']['read_timeout'])"
    )
    assert project.run(code).split() == ["200", "404", "True", "7"]


# --- what is done once ------------------------------------------------------------------------------


#: A management program that writes down what it was asked, and fails if it is told to.
PROGRAM = """
import os, sys
with open(os.environ["RAN"], "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("CODE", "0")))
"""


class Once:
    """A database of a project, and what was run for it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.ran = project.path / "ran"
        project.write(settings=MINIMAL)
        (project.path / "program.py").write_text(PROGRAM)
        project.environment["RAN"] = str(self.ran)

    def run(self, *words: str, scope: str = "ever", release: str = "r1", code: int = 0) -> str:
        self.project.environment |= {"WEBSTACK_RELEASE": release, "CODE": str(code)}
        call = (
            "import sys, webstack_once; "
            f"sys.exit(webstack_once.main([{scope!r}, {str(self.project.path / 'program.py')!r}, '--', *sys.argv[1:]]))"
        )
        return self.project.run(call, *words, good=code == 0)

    def lines(self) -> list[str]:
        return self.ran.read_text().splitlines()


def test_a_command_is_run_once_for_a_database(project: Project) -> None:
    once = Once(project)
    for release in ("r1", "r1", "r2"):
        once.run("loaddata", "a b.json", release=release)
    assert once.lines() == ["loaddata a b.json"]
    assert once.run("loaddata", "a b.json") == "loaddata a b.json: was done already\n"
    # Other words are another command, also when a blank is all that differs.
    once.run("loaddata", "a", "b.json")
    assert len(once.lines()) == 2
    (project.path / "db.sqlite3").unlink()
    once.run("loaddata", "a b.json")
    assert len(once.lines()) == 3, "another database has not seen it"


def test_a_command_of_a_release_is_run_once_for_each(project: Project) -> None:
    once = Once(project)
    for release in ("r1", "r1", "r2", "r2", "r1"):
        once.run("index", scope="release", release=release)
    assert len(once.lines()) == 3, "of an earlier release nobody remembers it"
    once.run("index")
    assert len(once.lines()) == 4, "once for ever is another thing"


def test_a_command_that_failed_is_run_again(project: Project) -> None:
    once = Once(project)
    once.run("loaddata", code=3)
    once.run("loaddata")
    once.run("loaddata")
    assert once.lines() == ["loaddata", "loaddata"]


def test_a_database_that_does_not_answer_runs_nothing(project: Project) -> None:
    once = Once(project)
    (project.path / "db.sqlite3").mkdir()
    call = "import sys, webstack_once; sys.exit(webstack_once.main(['ever', 'program.py', '--', 'loaddata']))"
    assert "unable to open database file" in project.run(call, good=False)
    assert not once.ran.exists()

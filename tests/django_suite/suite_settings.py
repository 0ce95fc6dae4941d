"""Settings of Django's own test-suite, with the ring as the default cache."""

from __future__ import annotations

import os
import tempfile

RING = {"BACKEND": "webstack_cache.RingCache", "LOCATION": os.environ["WEBSTACK_SUITE_FILE"]}

CACHES = {"default": RING}
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3"},
    "other": {"ENGINE": "django.db.backends.sqlite3"},
}
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sites",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "cache",
    "sessions_tests",
    "webstack_cache",
]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [], "APP_DIRS": True}]
SECRET_KEY = "the suite's own, protects nothing"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
LANGUAGE_CODE = "en"
SITE_ID = 1
STATIC_URL = "static/"
USE_TZ = False
SESSION_FILE_PATH = tempfile.gettempdir()
MIGRATION_MODULES = {"auth": None, "contenttypes": None, "sessions": None}

"""Settings of the test's project; the environment says which cache file, and whether the app is installed."""

import os
import sys

sys.path.insert(0, "/opt/webstack/python")

SECRET_KEY = "only-for-this-lab"
INSTALLED_APPS = ["django.contrib.sessions"]
if os.environ.get("RINGC_APP", "yes") == "yes":
    INSTALLED_APPS.append("webstack_cache")
CACHES = {
    "default": {
        "BACKEND": "webstack_cache.RingCache",
        "LOCATION": os.environ.get("RINGC_FILE", "/etc/webstack/cache.json"),
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/srv/ringc/db.sqlite3"}}
USE_TZ = True

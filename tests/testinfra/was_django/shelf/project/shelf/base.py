"""Settings as many projects split them: development values here, derived at once."""

import hashlib

SECRET_KEY = "development"
TOKEN_KEY = hashlib.sha256(SECRET_KEY.encode()).hexdigest()
INSTALLED_APPS = ["django.contrib.sessions", "django.contrib.staticfiles"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
ROOT_URLCONF = "shelf.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "dev.sqlite3", "ATOMIC_REQUESTS": True}}
USE_TZ = True

import environ

from .base import *  # noqa: F403

env = environ.Env()
DEBUG = env.bool("DEBUG", default=True)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS")
OPEN_TO_ALL = DEBUG
FEATURES = {"debug": DEBUG, "hosts": list(ALLOWED_HOSTS)}

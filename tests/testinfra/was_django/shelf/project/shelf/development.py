from .production import *  # noqa: F403

DEBUG = True

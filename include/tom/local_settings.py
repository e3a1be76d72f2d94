"""What this TOM changes in TOM Toolkit's own settings; those settings import this file at their end.

Runs in the TOM's own environment. The folder and the secret come from the environment variables
``TOM_HOME`` and ``TOM_SECRET_KEY``.
"""

from __future__ import annotations

import os

from tom_common.default_settings import TOMTOOLKIT_INSTALLED_APPS, TOMTOOLKIT_MIDDLEWARE

_HOME = os.environ["TOM_HOME"]

SECRET_KEY = os.environ["TOM_SECRET_KEY"]
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "tom_urls"

# the template names an app of custom code, and there is none
INSTALLED_APPS = list(TOMTOOLKIT_INSTALLED_APPS)
# the files of the pages (style sheets, scripts) come from the packages as they are
MIDDLEWARE = [
    TOMTOOLKIT_MIDDLEWARE[0],
    "whitenoise.middleware.WhiteNoiseMiddleware",
    *TOMTOOLKIT_MIDDLEWARE[1:],
]
WHITENOISE_USE_FINDERS = True
STATICFILES_DIRS: list[str] = []
STATIC_ROOT = None

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(_HOME, "db.sqlite3"),
        # readers go on while one writes, and a second writer waits its turn from the start
        "OPTIONS": {
            "timeout": 30,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": os.path.join(_HOME, "cache"),
    }
}
MEDIA_ROOT = os.path.join(_HOME, "data")

"""Django's settings; a fixture connects the databases."""

from typing import Any
from urllib.parse import urlsplit

SETTINGS_MODULE = __name__
SECRET_KEY = "of no use"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "support.django_shop.urls"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "support.django_shop",
    "workflow_engine.django",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


DATABASES = {alias: {"ENGINE": "django.db.backends.postgresql"} for alias in ("default", "other")}


def database(url: str) -> dict[str, Any]:
    """Return what `DATABASES` has of a database."""
    parts = urlsplit(url)
    return {
        "NAME": parts.path[1:],
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
    }

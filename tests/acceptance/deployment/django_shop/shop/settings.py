"""Django's settings, Celery's among them, and those of the engine."""

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

if os.environ.get("SHOP_DRIVER") == "psycopg2":
    sys.modules["psycopg"] = None  # as where it is not installed

BASE_DIR = Path(__file__).parents[1]
SECRET_KEY = "of no use"
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASE_URL = os.environ["DATABASE_URL"]
REDIS_URL = os.environ["REDIS_URL"]
_database = urlsplit(DATABASE_URL)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.path[1:],
        "USER": _database.username,
        "PASSWORD": _database.password or "",
        "HOST": _database.hostname,
        "PORT": _database.port,
    }
}

CELERY_BROKER_URL = REDIS_URL
CELERY_RESULT_BACKEND = REDIS_URL
# Messages of a killed worker are redelivered after seconds instead of an hour.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 4,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "global_keyprefix": "shop:",
}
CELERY_BEAT_SCHEDULE = {"count": {"task": "shop.tasks.count_orders", "schedule": 1.0}}

os.environ.setdefault("WORKFLOW_ENGINE_DATABASE_URL", DATABASE_URL)
os.environ.setdefault("WORKFLOW_ENGINE_REDIS_URL", REDIS_URL)
os.environ.setdefault("WORKFLOW_ENGINE_IMPORTS", "shop.nodes")

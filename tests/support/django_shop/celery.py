"""The project's Celery app, where Celery's guide for Django has it."""

import os

from celery import Celery

app = Celery(
    "django_shop", broker=os.environ.get("DJANGO_SHOP_BROKER", "redis://127.0.0.1:1/0"), set_as_current=False
)
app.conf.task_default_queue = "shop"

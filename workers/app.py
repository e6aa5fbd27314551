"""The Celery app of the engine's own workers."""

from celery import Celery

app = Celery("workers", include=["workers.tasks"])
app.config_from_object("celeryconfig")

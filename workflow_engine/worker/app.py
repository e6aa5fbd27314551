"""The Celery app of the engine's own workers."""

from celery import Celery

from workflow_engine.flower import add_pages_if_flower_starts

app = Celery("workers", include=["workflow_engine.worker.tasks"])
app.config_from_object("workflow_engine.worker.configuration")

add_pages_if_flower_starts()

"""The Celery app of the engine's own workers."""

from celery import Celery

app = Celery("workers", include=["workflow_engine.worker.tasks"])
app.config_from_object("workflow_engine.worker.configuration")

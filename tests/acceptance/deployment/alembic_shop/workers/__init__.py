"""The team's Celery app, in a package called like the one of the engine's checkout."""

from celery import Celery

app = Celery("shop", include=["workers.tasks", "workflow_engine.worker.tasks"])
app.config_from_object("celeryconfig")

"""The ready-made fleet of this repository and its image: `celery -A workers worker` runs nodes.

An installed engine has the same as `celery -A workflow_engine.worker worker`; this package is not installed.
The settings stand in `celeryconfig.py`, where a deployment changes them.
"""

from celery import Celery

from workflow_engine.flower import add_pages_if_flower_starts

app = Celery("workers", include=["workflow_engine.worker.tasks"])
app.config_from_object("celeryconfig")

add_pages_if_flower_starts()

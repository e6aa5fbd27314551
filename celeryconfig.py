"""Celery's settings for the ready-made fleet: the engine's own, which a deployment may override below."""

from workflow_engine.worker.configuration import *  # noqa: F403 - every setting, each with its reason there

"""The app that a project installs: takes its settings, and its client for canvases, when Django starts."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.signals import setting_changed

from workflow_engine.canvas.clients import use_client_of_project
from workflow_engine.django import client
from workflow_engine.django.configuration import SETTING, engine_settings
from workflow_engine.settings import get_settings, read_project_settings


class WorkflowEngineConfig(AppConfig):
    """`INSTALLED_APPS += ["workflow_engine.django"]`."""

    name = "workflow_engine.django"
    label = "workflow_engine"
    verbose_name = "Workflow engine"

    def ready(self) -> None:
        """Have the engine use the project's settings; nothing is connected, and no Celery app is loaded."""
        read_project_settings(engine_settings)
        use_client_of_project(client)
        setting_changed.connect(_forget_settings, dispatch_uid="workflow_engine.settings")


def _forget_settings(*, setting: str, **_: Any) -> None:
    """Read the settings again after a test has changed them."""
    if setting in (SETTING, "DATABASES", "INSTALLED_APPS"):
        get_settings.cache_clear()
        client.cache_clear()

"""The app that a project installs: takes its settings, and its client for canvases, when Django starts."""

from __future__ import annotations

import sys
from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.core.signals import setting_changed
from django.db.models.signals import post_migrate

from workflow_engine.canvas.clients import use_client_of_project
from workflow_engine.django import client
from workflow_engine.django.checks import check_settings
from workflow_engine.django.configuration import SETTING, database_alias, engine_settings, given
from workflow_engine.django.connections import close_unusable_connections
from workflow_engine.runner.surroundings import CALLED_AROUND_NODES
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
        if close_unusable_connections not in CALLED_AROUND_NODES:
            CALLED_AROUND_NODES.append(close_unusable_connections)
        register(check_settings)
        post_migrate.connect(_deploy, sender=self, dispatch_uid="workflow_engine.deploy")
        setting_changed.connect(_forget_settings, dispatch_uid="workflow_engine.settings")


def _deploy(*, using: str, verbosity: int = 1, **_: Any) -> None:
    """Deploy the definitions of the installed apps, all or none, if the project asks for it."""
    if given().get("DEPLOY_AFTER_MIGRATE") and using == database_alias():
        from workflow_engine.django.discovery import deploy_definitions

        for each in deploy_definitions():
            if verbosity and not each.was_current:
                sys.stdout.write(f"  Deployed workflow {each.workflow_id} version {each.version}\n")


def _forget_settings(*, setting: str, **_: Any) -> None:
    """Read the settings again after a test has changed them."""
    if setting in (SETTING, "DATABASES", "INSTALLED_APPS"):
        get_settings.cache_clear()
        client.cache_clear()

"""A Django project that has the engine among its apps, set up in the process of a test that imports it.

WORKFLOW_ENGINE_TEST_DJANGO_DRIVER=psycopg2 has Django use that driver in this process, as where psycopg 3 is
not installed. Django cannot be set up twice; what it does to the engine is undone, and a fixture does it
again for each test.
"""

from __future__ import annotations

import os
import sys

import django
from django import conf

from support.django_shop import settings as project
from workflow_engine.canvas.clients import use_client_of_project
from workflow_engine.runner.surroundings import CALLED_AROUND_NODES
from workflow_engine.settings import get_settings, read_project_settings


def leave_the_project() -> None:
    """Let the tests that follow in this process read the environment alone."""
    use_client_of_project(None)
    CALLED_AROUND_NODES.clear()
    read_project_settings(dict)
    get_settings.cache_clear()


if not conf.settings.configured and "DJANGO_SETTINGS_MODULE" not in os.environ:
    if os.environ.get("WORKFLOW_ENGINE_TEST_DJANGO_DRIVER") == "psycopg2":
        sys.modules["psycopg"] = None  # type: ignore[assignment]
    conf.settings.configure(**{name: getattr(project, name) for name in dir(project) if name.isupper()})
    django.setup()
    leave_the_project()

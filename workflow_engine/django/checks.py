"""What `manage.py check` says about the settings of the engine, before anything is connected."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error

from workflow_engine.django.configuration import database_alias, encoder
from workflow_engine.errors import SettingsInvalid


def check_settings(**_: Any) -> list[CheckMessage]:
    """Return an error for each setting that is wrong."""
    try:
        database_alias()
        encoder()
    except SettingsInvalid as error:
        return [Error(str(error), id="workflow_engine.E001")]
    return []

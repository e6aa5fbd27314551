"""The tables' history. Within a minor release migrations only add, so old and new workers can overlap."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from workflow_engine.database import engine_errors

_one_at_a_time = threading.Lock()
"""Alembic keeps the migration that is running in variables of the process."""


def _config(url: str, schema: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes.update(url=url, schema=schema)
    return config


def upgrade(url: str, schema: str = "public", revision: str = "head") -> None:
    """Bring the tables to the newest form, or to `revision`. Several callers at once wait for each other."""
    with _one_at_a_time, engine_errors():
        command.upgrade(_config(url, schema), revision)


def current_revision(url: str, schema: str = "public") -> str | None:
    """The revision the tables have, None if there are none."""
    with engine_errors(), create_engine(url, poolclass=NullPool).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": schema})
        return context.get_current_revision()


def newest_revision() -> str | None:
    """The revision this release needs."""
    return ScriptDirectory.from_config(_config("", "public")).get_current_head()

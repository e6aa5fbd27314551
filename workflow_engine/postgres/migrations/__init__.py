"""The history of the tables.

- `env`: runs the migrations in `versions/`
- `online_checks` and `online_indexes`: the constraints that are validated, and the indexes that are built,
  while workers write

Within a minor release they only add, so that old and new workers can overlap.

Their revision is kept in a table of the engine's own. So a team's Alembic, which keeps its revision in
`alembic_version`, can work in the same database and schema.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from workflow_engine.errors import MigrationRefused
from workflow_engine.postgres.connections.connection import UTF8
from workflow_engine.postgres.driver_errors import engine_errors
from workflow_engine.postgres.migrations.online_checks import validate_checks
from workflow_engine.postgres.migrations.online_indexes import build_missing
from workflow_engine.postgres.tables import tables

VERSION_TABLE = "workflow_engine_version"
"""Holds the revision of the engine's tables, in their schema."""

OWN_TABLES = frozenset({VERSION_TABLE, *(table.name for table in tables("any").tables.values())})
"""The names of all tables that the engine makes."""

_one_at_a_time = threading.Lock()
"""Alembic keeps the migration that is running in variables of the process."""


def upgrade(url: str, schema: str = "public", revision: str = "head") -> None:
    """Upgrade the tables to the newest revision, or to `revision`. Concurrent callers wait for each other.

    Raises `MigrationRefused` if the database cannot hold the engine's tables, if other tables have their
    names, or if a newer release has made them; nothing is changed then. Raises `DatabaseUnavailable`.
    """
    with _one_at_a_time, _refusals(schema):
        command.upgrade(_config(url, schema), revision)
        if revision == "head":
            engine = create_engine(url, poolclass=NullPool, connect_args=UTF8)
            validate_checks(engine, schema, OWN_TABLES)
            build_missing(engine, schema)


def current_revision(url: str, schema: str = "public") -> str | None:
    """Return the revision that the tables have, None if there are none.

    Raises `MigrationRefused` if the version table is unusable.
    """
    engine = create_engine(url, poolclass=NullPool, connect_args=UTF8)
    with _refusals(schema), engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "version_table_schema": schema}
        return MigrationContext.configure(connection, opts=options).get_current_revision()


def newest_revision() -> str | None:
    """Return the revision that this release needs."""
    return _scripts().get_current_head()


def is_known(revision: str | None) -> bool:
    """Return whether this release knows a revision. It does not know those of newer releases."""
    return revision is None or revision in all_revisions()


def all_revisions() -> set[str]:
    """Return the revisions that this release has."""
    return {script.revision for script in _scripts().walk_revisions()}


def includes(current: str | None, revision: str) -> bool:
    """Return whether tables at revision `current` have `revision`; not, if this release knows neither."""
    if current is None or not is_known(current):
        return False
    return revision in {script.revision for script in _scripts().iterate_revisions(current, "base")}


def include_object(object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Keep the engine's tables out of a team's autogenerate, which would drop tables without models.

    Pass it to `context.configure(include_object=…)` in a team's `env.py`, or to Flask-Migrate. A table of the
    same name that the team has a model of is the team's.
    """
    return not (type_ == "table" and reflected and compare_to is None and name in OWN_TABLES)


def _config(url: str, schema: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes.update(url=url, schema=schema)
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config("", "public"))


@contextmanager
def _refusals(schema: str) -> Iterator[None]:
    """Turn the errors of Alembic, and those of Postgres other than outages, into `MigrationRefused`."""
    try:
        with engine_errors():
            yield
    except CommandError as error:
        raise MigrationRefused(
            f"the table {VERSION_TABLE} in schema {schema!r} is unusable: {error}"
        ) from error
    except DBAPIError as error:
        raise MigrationRefused(
            f"Postgres refuses to make the tables in schema {schema!r}: {str(error.orig).strip()}"
        ) from error

"""AlembicRevision: a migration of Django that is a revision of the engine's own migrations.

There is one truth about the tables, `postgres/migrations`, and `manage.py migrate` runs it. It takes a
connection of its own, since a revision is a transaction under a lock that `workflow-engine db upgrade` takes
as well. So tables that one of the two has made are found as they are by the other.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation

from workflow_engine.django.configuration import database_alias, database_url, schema
from workflow_engine.errors import WorkflowEngineError
from workflow_engine.settings import Settings


class AlembicRevision(Operation):
    """Upgrades the tables to a revision in the database that has them, and does nothing in any other."""

    reversible = False
    reduces_to_sql = False

    def __init__(self, revision: str) -> None:
        self.revision = revision

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change nothing: Django does not manage these tables."""

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append(f"-- {self.describe()}, by Alembic")
            return
        try:
            if has_the_tables(schema_editor.connection, app_label):
                upgrade(schema_editor.connection, self.revision)
        except WorkflowEngineError as error:
            raise CommandError(str(error)) from error

    def describe(self) -> str:
        return f"Upgrade the engine's tables to revision {self.revision}"


def has_the_tables(connection: BaseDatabaseWrapper, app_label: str) -> bool:
    """Return whether the engine's tables are in this database. Raises `SettingsInvalid`."""
    is_theirs: bool = connection.alias == database_alias()
    return is_theirs and bool(router.allow_migrate(connection.alias, app_label))


def upgrade(connection: BaseDatabaseWrapper, revision: str) -> None:
    """Upgrade the tables to a revision, unless they have it. Raises as `migrations.upgrade` does."""
    from workflow_engine.postgres import migrations

    # As `Settings` spells it, with the driver of the engine.
    url = Settings(database_url=database_url(connections[connection.alias].settings_dict)).database_url
    if revision == migrations.newest_revision():
        migrations.upgrade(url, schema())  # which also builds what is built while workers write
    elif not migrations.includes(migrations.current_revision(url, schema()), revision):
        migrations.upgrade(url, schema(), revision)

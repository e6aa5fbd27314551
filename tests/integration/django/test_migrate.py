"""`manage.py migrate` makes the engine's tables, by the engine's own migrations, where they belong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import StringIO

import psycopg2
import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings

from support.django_shop import settings as project
from workflow_engine.postgres import migrations


@contextmanager
def database(url: str) -> Iterator[None]:
    """Have the alias `default` lead to another database."""
    connection = connections["default"]
    before = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(project.database(url))
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict.update(before)


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[str]:
    with database(empty_database_url):
        yield empty_database_url


def migrate(*arguments: str) -> str:
    out = StringIO()
    call_command("migrate", *arguments, stdout=out, verbosity=1)
    return out.getvalue()


def tables_of(alias: str = "default") -> set[str]:
    with connections[alias].cursor() as cursor:
        return set(connections[alias].introspection.table_names(cursor))


def test_both_ways_make_the_same_schema(empty: str, database_url: str) -> None:
    migrate()

    assert migrations.current_revision(empty) == migrations.newest_revision()
    assert schema_of(empty) == schema_of(database_url)


def schema_of(url: str) -> dict[str, object]:
    """Return what Postgres's catalogue has of tables, indexes, constraints, functions and views."""
    queries = {
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'public'",
        "indexes": "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
        "FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
        "functions": "SELECT proname, pg_get_functiondef(oid) FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace",
        "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
        "triggers": "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger "
        "WHERE NOT tgisinternal",
    }
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection:
        cursor = connection.cursor()
        found = {}
        for what, query in queries.items():
            cursor.execute(query)
            rows = sorted(
                row for row in cursor.fetchall() if not str(row[0]).startswith(("django_", "auth_"))
            )
            assert rows or what == "triggers"
            found[what] = rows
        return found


def test_a_second_run_changes_nothing(empty: str) -> None:
    migrate()

    assert "No migrations to apply" in migrate()


def test_tables_that_the_command_line_has_made_are_taken_over(empty: str) -> None:
    migrations.upgrade(empty)

    assert "Applying workflow_engine.0002_functions... OK" in migrate("workflow_engine")
    assert "No migrations to apply" in migrate("workflow_engine")


def test_tables_that_django_has_made_are_current_for_the_command_line(empty: str) -> None:
    migrate("workflow_engine")

    migrations.upgrade(empty)
    assert migrations.current_revision(empty) == migrations.newest_revision()


def test_a_single_revision_is_as_far_as_django_was_asked_to_go(empty: str) -> None:
    migrate("workflow_engine", "0001")
    assert migrations.current_revision(empty) == "0001"
    migrations.upgrade(empty)

    migrate("workflow_engine")
    assert migrations.current_revision(empty) == migrations.newest_revision()


def test_tables_of_other_origin_are_refused_and_stay_as_they_are(empty: str) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("CREATE TABLE executions (id int)")

    with pytest.raises(CommandError, match="has executions already"):
        migrate("workflow_engine")
    assert "workflows" not in tables_of()


def test_no_other_database_gets_the_tables(empty: str) -> None:
    with database(empty), override_settings(WORKFLOW_ENGINE={"DATABASE": "other"}):
        migrate("workflow_engine")

    assert "executions" not in tables_of()


def test_a_router_that_refuses_them_is_obeyed(empty: str) -> None:
    with override_settings(DATABASE_ROUTERS=[NoEngine()]):
        migrate("workflow_engine")

    assert "executions" not in tables_of()


class NoEngine:
    """A router that keeps the engine's tables out of every database."""

    def allow_migrate(self, db: str, app_label: str, **_: object) -> bool:
        return app_label != "workflow_engine"


def test_django_would_make_no_migration_of_its_own() -> None:
    call_command("makemigrations", "workflow_engine", check=True, dry_run=True, verbosity=0)

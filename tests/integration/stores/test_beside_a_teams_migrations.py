"""The engine's migrations and a team's own work in one schema without noticing each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from click.testing import Result
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine, inspect, text

from workflow_engine.errors import MigrationRefused
from workflow_engine.postgres import migrations
from workflow_engine.postgres.migrations import include_object

ENV = """
from alembic import context
from sqlalchemy import create_engine
with create_engine(context.config.attributes["url"]).begin() as connection:
    context.configure(connection=connection)
    context.run_migrations()
"""

REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "{revision}", {before}
def upgrade(): op.create_table("{table}", sa.Column("id", sa.Integer, primary_key=True))
def downgrade(): op.drop_table("{table}")
"""


@pytest.fixture
def team(tmp_path: Path, empty_database_url: str) -> Config:
    """Return a team's Alembic with two revisions, of which the first has the name of one of the engine's."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV)
    for revision, before, table in (("0001", None, "orders"), ("c4f", "0001", "invoices")):
        content = REVISION.format(revision=revision, before=repr(before), table=table)
        (tmp_path / "versions" / f"{revision}.py").write_text(content)
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.attributes["url"] = empty_database_url
    return config


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Engine]:
    engine = create_engine(empty_database_url)
    yield engine
    engine.dispose()


def tables_of(database: Engine) -> set[str]:
    return set(inspect(database).get_table_names())


@pytest.mark.parametrize("first", ["team", "engine"])
def test_either_may_be_first_and_each_goes_its_own_way(
    team: Config, empty_database_url: str, database: Engine, first: str
) -> None:
    if first == "team":
        command.upgrade(team, "0001")
    migrations.upgrade(empty_database_url)
    command.upgrade(team, "head")
    migrations.upgrade(empty_database_url)
    assert tables_of(database) == migrations.OWN_TABLES | {"alembic_version", "orders", "invoices"}
    assert migrations.current_revision(empty_database_url) == migrations.newest_revision()

    command.downgrade(team, "base")

    assert tables_of(database) == migrations.OWN_TABLES | {"alembic_version"}
    assert migrations.current_revision(empty_database_url) == migrations.newest_revision()


def differences(database: Engine, metadata: MetaData, **options: Any) -> list[str]:
    """Return what autogenerate of a team with these models would write into its next migration."""
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        found = compare_metadata(context, metadata)
    flat = [each for change in found for each in (change if isinstance(change, list) else [change])]
    return sorted(f"{change[0]} {change[1].name}" for change in flat)


@pytest.mark.parametrize("schema", ["public", "engine"])
def test_autogenerate_leaves_the_engines_tables_alone(
    empty_database_url: str, database: Engine, schema: str
) -> None:
    migrations.upgrade(empty_database_url, schema)
    metadata = MetaData()
    Table("orders", metadata, Column("id", Integer, primary_key=True))
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE left_over (id integer)"))
    options: dict[str, Any] = {"include_schemas": schema != "public"}

    without = differences(database, metadata, **options)
    found = differences(database, metadata, include_object=include_object, **options)

    assert "remove_table executions" in without
    assert found == ["add_table orders", "remove_table left_over"]


def test_a_teams_own_table_of_the_same_name_is_still_compared(
    empty_database_url: str, database: Engine
) -> None:
    migrations.upgrade(empty_database_url, "engine")
    metadata = MetaData()
    Table("workflows", metadata, Column("id", Integer, primary_key=True), Column("new", Integer))
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE workflows (id integer PRIMARY KEY)"))

    options: dict[str, Any] = {"include_schemas": True, "include_object": include_object}
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        ((operation, _, table, column),) = compare_metadata(context, metadata)

    assert (operation, table, column.name) == ("add_column", "workflows", "new")


# -- what is refused ---------------------------------------------------------------------------------------


def refused(url: str, database: Engine, schema: str = "public") -> str:
    """Return why an upgrade is refused, after checking that it changed nothing."""
    before = tables_of(database)
    with pytest.raises(MigrationRefused) as refusal:
        migrations.upgrade(url, schema)
    assert tables_of(database) == before
    return str(refusal.value)


def test_a_table_of_the_teams_with_one_of_the_engines_names_is_reported(
    empty_database_url: str, database: Engine
) -> None:
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE workflows (id integer); CREATE TABLE triggers (id integer)"))

    why = refused(empty_database_url, database)

    assert "'public' has triggers, workflows already" in why
    assert "WORKFLOW_ENGINE_DATABASE_SCHEMA" in why
    migrations.upgrade(empty_database_url, "engine")


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["9999"], "at revision '9999', which this release does not know"),
        (["0001", "0002"], "workflow_engine_version.* is unusable.*more than one"),
    ],
    ids=["of a newer release", "two"],
)
def test_a_revision_that_is_unknown_is_reported_by_every_command(
    empty_database_url: str,
    database: Engine,
    run_on: Callable[..., Result],
    rows: list[str],
    why: str,
) -> None:
    migrations.upgrade(empty_database_url)
    with database.begin() as connection:
        connection.execute(text("DELETE FROM workflow_engine_version"))
        for row in rows:
            connection.execute(text("INSERT INTO workflow_engine_version VALUES (:row)"), {"row": row})

    with pytest.raises(MigrationRefused, match=why):
        migrations.upgrade(empty_database_url)
    for command_line in (["db", "upgrade"], ["db", "status"], ["doctor"]):
        result = run_on(empty_database_url, *command_line)
        assert isinstance(result.exception, SystemExit), command_line
        assert result.exit_code != 0
        assert re.search("9999|more than one", " ".join(result.output.split()))


def test_an_alembic_that_has_left_another_revision_in_the_schema_is_not_the_engines(
    empty_database_url: str, database: Engine
) -> None:
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0002')"))

    assert migrations.current_revision(empty_database_url) is None
    migrations.upgrade(empty_database_url)

    with database.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "0002"

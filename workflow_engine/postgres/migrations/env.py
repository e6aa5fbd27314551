"""Alembic's entry point: runs the migrations in one transaction, in the given schema."""

from alembic import context
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from workflow_engine.errors import MigrationRefused
from workflow_engine.postgres.connections.connection import UTF8
from workflow_engine.postgres.migrations import OWN_TABLES, VERSION_TABLE, current_revision, is_known
from workflow_engine.postgres.tables import tables

UPGRADE_LOCK = 0x776F726B666C6F77
"""Key of the advisory lock that lets one migration run at a time; the bytes spell "workflow"."""

RELATIONS = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(:schema)"


def run() -> None:
    url, schema = context.config.attributes["url"], context.config.attributes["schema"]
    with create_engine(url, poolclass=NullPool, connect_args=UTF8).begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        _check_encoding(connection)
        _check_tables(connection, url, schema)
        # IF NOT EXISTS would require the right to make schemas even where there is one.
        if connection.scalar(text("SELECT to_regnamespace(:schema)"), {"schema": f'"{schema}"'}) is None:
            connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        context.configure(
            connection=connection,
            target_metadata=tables(schema),
            version_table=VERSION_TABLE,
            version_table_schema=schema,
            include_schemas=False,
        )
        context.run_migrations()


def _check_encoding(connection: Connection) -> None:
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise MigrationRefused(
            f"the database has the encoding {encoding}, in which not every text can be stored; make another "
            "with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in "
            "WORKFLOW_ENGINE_DATABASE_URL"
        )


def _check_tables(connection: Connection, url: str, schema: str) -> None:
    present = set(connection.scalars(text(RELATIONS), {"schema": f'"{schema}"'}))
    if VERSION_TABLE in present:
        if not is_known(revision := current_revision(url, schema)):
            raise MigrationRefused(
                f"the tables in schema {schema!r} are at revision {revision!r}, which this release does not "
                "know: a newer one has made them; update the package here"
            )
    elif foreign := sorted(OWN_TABLES & present):
        raise MigrationRefused(
            f"schema {schema!r} has {', '.join(foreign)} already, and not from this engine's migrations; "
            "give the engine a schema of its own with WORKFLOW_ENGINE_DATABASE_SCHEMA"
        )


run()

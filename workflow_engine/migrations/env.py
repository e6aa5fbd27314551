"""Alembic's entry: runs the migrations in one transaction, in the schema it was given."""

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from workflow_engine.models import tables

UPGRADE_LOCK = 0x776F726B666C6F77
"""Key of the advisory lock that lets one migration run at a time; the bytes spell "workflow"."""


def run() -> None:
    url, schema = context.config.attributes["url"], context.config.attributes["schema"]
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
        context.configure(
            connection=connection,
            target_metadata=tables(schema),
            version_table_schema=schema,
            include_schemas=False,
        )
        context.run_migrations()


run()

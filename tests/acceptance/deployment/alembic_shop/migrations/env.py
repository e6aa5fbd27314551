"""The environment of Alembic, with the line that the engine's documentation requires."""

import os

from alembic import context
from models import metadata
from sqlalchemy import create_engine

from workflow_engine.postgres.migrations import include_object

with create_engine(os.environ["DATABASE_URL"]).connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, include_object=include_object)
    with context.begin_transaction():
        context.run_migrations()

"""Rows of pure nodes are committed together, and a context says whether its execution has breakpoints."""

from __future__ import annotations

from alembic import context, op

from workflow_engine.postgres import functions

revision = "0004"
down_revision = "0003"

NAMES = ("commit_nodes_v1", "load_snapshot_v2")


def upgrade() -> None:
    connection = op.get_bind().execution_options(no_parameters=True)
    for name in NAMES:
        connection.exec_driver_sql(functions.definition(name, context.config.attributes["schema"]))

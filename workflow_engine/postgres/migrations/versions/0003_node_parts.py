"""The parts of a node's work that are done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

from workflow_engine.postgres import functions

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    op.create_table(
        "node_parts",
        sa.Column(
            "execution_id",
            sa.Uuid(),
            sa.ForeignKey(f"{schema}.executions.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("visit", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("value", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "node_id", "visit", "place", name="node_parts_pkey"),
        schema=schema,
    )
    connection = op.get_bind().execution_options(no_parameters=True)
    connection.exec_driver_sql(functions.definition("save_part_v1", schema))

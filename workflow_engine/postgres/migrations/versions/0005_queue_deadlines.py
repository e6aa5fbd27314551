"""Until when nodes with a `queueTimeout` have to begin."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

from workflow_engine.postgres import functions

revision = "0005"
down_revision = "0004"

# Revision 0002 makes them with this text. In tables from before the first release they have an older one, or
# are missing.
REPLACED = (
    "queues/begin_queue_time_v1",
    "queues/restart_queue_time_v1",
    "limits/grant_slots_v1",
    "pause_at_breakpoint_v1",
    "starts/start_execution_v1",
    "children/go_on_with_children_v1",
    "end_execution_v1",
    "commit_node_v1",
    "move_execution_v1",
)


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    op.create_table(
        "queue_deadlines",
        sa.Column(
            "execution_id",
            sa.Uuid(),
            sa.ForeignKey(f"{schema}.executions.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("look_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("execution_id", "node_id", name="queue_deadlines_pkey"),
        schema=schema,
    )
    op.create_index(
        "queue_deadlines_due",
        "queue_deadlines",
        ["look_at"],
        schema=schema,
        postgresql_where=sa.text("look_at IS NOT NULL"),
    )
    connection = op.get_bind().execution_options(no_parameters=True)
    for name in REPLACED:
        statement = functions.definition(name, schema)
        connection.exec_driver_sql(statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))

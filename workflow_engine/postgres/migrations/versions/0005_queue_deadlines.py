"""Until when nodes with a `queueTimeout` have to begin."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0005"
down_revision = "0004"


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

"""Workflows, their versions and their triggers."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from workflow_engine.execution.states import (
    TriggerState,
    WorkflowState,
)
from workflow_engine.postgres.tables.columns import (
    NOW,
    one_of,
)


def add_workflows(metadata: MetaData) -> None:
    """Add the tables of workflows to those of a schema."""
    schema = str(metadata.schema)
    timestamp = DateTime(timezone=True)

    Table(
        "workflows",
        metadata,
        Column("id", Text, primary_key=True),
        Column("name", Text),
        Column("current_version", Integer, nullable=False),
        # Those of all executions that start.
        Column("breakpoints", ARRAY(Text)),
        # What an operator made of it, and who, when and why.
        Column("state", Text, nullable=False, server_default=text("'ACTIVE'")),
        Column("state_since", timestamp),
        Column("state_by", Text),
        Column("state_reason", Text),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        Column("updated_at", timestamp, nullable=False, server_default=NOW),
        CheckConstraint(one_of("state", WorkflowState), name="workflows_state"),
    )
    # What operators did to workflows and to their triggers; `execution_events` is the same for executions.
    Table(
        "workflow_events",
        metadata,
        Column("id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
        Column("workflow_id", Text, ForeignKey(f"{schema}.workflows.id", ondelete="CASCADE"), nullable=False),
        Column("node_id", Text),
        Column("type", Text, nullable=False),
        Column("actor", Text),
        Column("reason", Text),
        Column("payload", JSONB),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        PrimaryKeyConstraint("workflow_id", "created_at", "id"),
    )
    Table(
        "workflow_versions",
        metadata,
        Column("workflow_id", Text, ForeignKey(f"{schema}.workflows.id"), primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("definition", JSONB, nullable=False),
        Column("content_hash", Text, nullable=False),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        UniqueConstraint("workflow_id", "content_hash", name="workflow_versions_content"),
        CheckConstraint("version > 0", name="workflow_versions_version"),
    )
    Table(
        "triggers",
        metadata,
        Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
        Column("workflow_id", Text, ForeignKey(f"{schema}.workflows.id"), nullable=False),
        Column("node_id", Text, nullable=False),
        Column("sub_type", Text, nullable=False),
        Column("config", JSONB, nullable=False),
        # The queue of executions that its schedule starts: that of the app that deployed the workflow.
        Column("queue", Text, nullable=False),
        # False once the current version of the workflow has no such trigger any more.
        Column("active", Boolean, nullable=False, server_default=text("true")),
        # Whether it may start anything, and who decided it, when and why.
        Column("state", Text, nullable=False, server_default=text("'ACTIVE'")),
        Column("state_since", timestamp),
        Column("state_by", Text),
        Column("state_reason", Text),
        # Of a schedule: its first due time that has not been fired, and until when a worker has claimed it.
        # It has none while it is paused or its workflow is not ACTIVE.
        Column("next_due", timestamp),
        Column("claimed_until", timestamp),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        Column("updated_at", timestamp, nullable=False, server_default=NOW),
        CheckConstraint(one_of("state", TriggerState), name="triggers_state"),
        UniqueConstraint("workflow_id", "node_id", name="triggers_node"),
        Index("triggers_due", "next_due", postgresql_where=text("active AND next_due IS NOT NULL")),
    )

"""The tables of the first release, and the view that shows execution contexts as JSON."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

EXECUTION_CONTEXTS = """
CREATE VIEW "{s}".execution_contexts AS
SELECT e.id AS execution_id, jsonb_build_object(
    'executionId', e.id,
    'workflowId', concat_ws('#', e.workflow_id, e.body),
    'triggerId', e.trigger_id,
    'triggerNodeId', e.trigger_node_id,
    'currentNodeId', journal.current_node_id,
    'nodeOutputs', journal.node_outputs,
    'variables', coalesce(variables.variables, '{{}}'),
    'metadata', e.metadata || jsonb_build_object('executionPath', journal.execution_path)
) AS context
FROM "{s}".executions e
CROSS JOIN LATERAL (
    -- A visit may have several rows, one for each attempt or wait; it stands in the path once.
    SELECT
        coalesce(jsonb_object_agg(n.node_id, n.output_data ORDER BY n.seq)
            FILTER (WHERE n.output_data IS NOT NULL), '{{}}') AS node_outputs,
        jsonb_agg(n.node_id ORDER BY n.seq) FILTER (WHERE n.first_of_visit) AS execution_path,
        (array_agg(n.node_id ORDER BY n.seq DESC))[1] AS current_node_id
    FROM (
        SELECT node_id, output_data, seq,
            row_number() OVER (PARTITION BY node_id, visit ORDER BY seq) = 1 AS first_of_visit
        FROM "{s}".node_executions
        WHERE execution_id = e.id AND superseded_by IS NULL
    ) n
) journal
CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(v.key, v.value ORDER BY n.seq) AS variables
    FROM "{s}".node_executions n CROSS JOIN LATERAL jsonb_each(n.variables) v
    WHERE n.execution_id = e.id AND n.superseded_by IS NULL
) variables
"""


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    op.create_table(
        "idempotency_keys",
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "key"),
        schema=schema,
    )
    op.create_table(
        "workflows",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("current_version", sa.Integer(), nullable=False),
        sa.Column("breakpoints", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("state", sa.Text(), server_default=sa.text("'ACTIVE'"), nullable=False),
        sa.Column("state_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state_by", sa.Text(), nullable=True),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('ACTIVE', 'ARCHIVED', 'DEACTIVATED')", name="workflows_state"),
        sa.PrimaryKeyConstraint("id"),
        schema=schema,
    )
    op.create_table(
        "workflow_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("payload", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_id"],
            [f"{schema}.workflows.id"],
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("workflow_id", "created_at", "id"),
        schema=schema,
    )
    op.create_table(
        "triggers",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("sub_type", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'ACTIVE'"), nullable=False),
        sa.Column("state_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state_by", sa.Text(), nullable=True),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("next_due", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["workflow_id"],
            [f"{schema}.workflows.id"],
        ),
        sa.CheckConstraint("state IN ('ACTIVE', 'ERROR', 'PAUSED')", name="triggers_state"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("workflow_id", "node_id", name="triggers_node"),
        schema=schema,
    )
    op.create_index(
        "triggers_due",
        "triggers",
        ["next_due"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("active AND next_due IS NOT NULL"),
    )
    op.create_table(
        "workflow_versions",
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("definition", postgresql.JSONB(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("version > 0", name="workflow_versions_version"),
        sa.ForeignKeyConstraint(
            ["workflow_id"],
            [f"{schema}.workflows.id"],
        ),
        sa.PrimaryKeyConstraint("workflow_id", "version"),
        sa.UniqueConstraint("workflow_id", "content_hash", name="workflow_versions_content"),
        schema=schema,
    )
    op.create_table(
        "executions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("workflow_version", sa.Integer(), nullable=False),
        sa.Column("trigger_id", sa.Uuid(), nullable=False),
        sa.Column("trigger_node_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("fence", sa.Uuid(), nullable=False),
        # The fence that the last retry or rerun gave.
        sa.Column("epoch_fence", sa.Uuid()),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("context", postgresql.JSONB(), nullable=False),
        sa.Column("trigger_data", postgresql.JSONB(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=True),
        sa.Column("due_queue", sa.Text(), nullable=True),
        sa.Column("due_priority", sa.SmallInteger(), nullable=True),
        sa.Column("wake_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("nodes_executed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crashes", postgresql.JSONB(), nullable=True),
        sa.Column("recovered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recoveries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("recoveries_seq", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_details", postgresql.JSONB(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("parent_execution_id", sa.Uuid(), nullable=True),
        sa.Column("parent_node_id", sa.Text(), nullable=True),
        sa.Column("parent_visit", sa.Integer(), nullable=True),
        sa.Column("parent_seq", sa.Integer(), nullable=True),
        sa.Column("parent_index", sa.Integer(), nullable=True),
        sa.Column("root_execution_id", sa.Uuid(), nullable=True),
        sa.Column("depth", sa.SmallInteger(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("user_metadata", postgresql.JSONB(), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("breakpoints", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("format", sa.SmallInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("timeout_left", sa.Double(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(status IN ('CANCELLED', 'COMPLETED', 'FAILED')) = (completed_at IS NOT NULL)",
            name="executions_finished",
        ),
        sa.CheckConstraint("status <> 'FAILED' OR error IS NOT NULL", name="executions_error"),
        sa.CheckConstraint(
            "status IN ('CANCELLED', 'COMPLETED', 'FAILED', 'PAUSED', 'PENDING', 'RUNNING', 'WAITING')",
            name="executions_status",
        ),
        sa.CheckConstraint("status <> 'RUNNING' OR started_at IS NOT NULL", name="executions_started"),
        sa.CheckConstraint("seq > 0 AND nodes_executed >= 0", name="executions_counts"),
        sa.ForeignKeyConstraint(
            ["trigger_id"],
            [f"{schema}.triggers.id"],
        ),
        sa.ForeignKeyConstraint(
            ["workflow_id", "workflow_version"],
            [f"{schema}.workflow_versions.workflow_id", f"{schema}.workflow_versions.version"],
            name="executions_version",
        ),
        sa.PrimaryKeyConstraint("id"),
        schema=schema,
    )
    op.execute(f'ALTER TABLE "{schema}".executions SET (fillfactor = 70)')
    op.create_index(
        "executions_expiring",
        "executions",
        ["expires_at"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index(
        "executions_active",
        "executions",
        ["id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("status IN ('PENDING', 'RUNNING')"),
    )
    op.create_index(
        "executions_by_workflow",
        "executions",
        ["workflow_id", "status", "id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("parent_execution_id IS NULL"),
    )
    op.create_index(
        "executions_by_status",
        "executions",
        ["status", "id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("parent_execution_id IS NULL"),
    )
    op.create_index(
        "executions_children",
        "executions",
        ["parent_execution_id", "parent_seq", "parent_index"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("parent_execution_id IS NOT NULL"),
    )
    op.create_index(
        "executions_descendants",
        "executions",
        ["root_execution_id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("root_execution_id IS NOT NULL"),
    )
    op.create_index(
        "executions_ended",
        "executions",
        ["completed_at", "id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    op.create_index(
        "executions_metadata",
        "executions",
        ["user_metadata"],
        unique=False,
        schema=schema,
        postgresql_using="gin",
        postgresql_ops={"user_metadata": "jsonb_path_ops"},
        postgresql_where=sa.text("user_metadata IS NOT NULL"),
    )
    op.create_index(
        "executions_tags",
        "executions",
        ["tags"],
        unique=False,
        schema=schema,
        postgresql_using="gin",
        postgresql_where=sa.text("tags IS NOT NULL"),
    )
    op.create_index(
        "executions_error_words",
        "executions",
        [sa.text("to_tsvector('simple', error)")],
        unique=False,
        schema=schema,
        postgresql_using="gin",
        postgresql_where=sa.text("error IS NOT NULL"),
    )
    op.create_index(
        "executions_key",
        "executions",
        ["idempotency_key"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "execution_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("correlation_id", sa.Text(), nullable=True),
        sa.Column("payload", postgresql.JSONB(), nullable=True),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("consumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "execution_id IS NOT NULL OR correlation_id IS NOT NULL", name="execution_events_belongs"
        ),
        sa.ForeignKeyConstraint(["execution_id"], [f"{schema}.executions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        schema=schema,
    )
    op.create_index(
        "execution_events_by_execution",
        "execution_events",
        ["execution_id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("execution_id IS NOT NULL"),
    )
    op.create_index(
        "execution_events_id",
        "execution_events",
        ["event_id"],
        unique=True,
        schema=schema,
        postgresql_where=sa.text("event_id IS NOT NULL"),
    )
    op.create_index(
        "execution_events_kept",
        "execution_events",
        ["correlation_id", "name", "created_at"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("type = 'EVENT' AND consumed_at IS NULL"),
    )
    op.create_index(
        "execution_events_kept_for",
        "execution_events",
        ["execution_id", "name", "created_at"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("type = 'EVENT' AND consumed_at IS NULL AND execution_id IS NOT NULL"),
    )
    op.create_index(
        "execution_events_kept_since",
        "execution_events",
        [sa.text("GREATEST(created_at, released_at)"), "id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("type = 'EVENT' AND consumed_at IS NULL"),
    )
    op.create_table(
        "execution_wait_states",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("visit", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("wait_type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'WAITING'"), nullable=False),
        sa.Column("correlation_id", sa.Text(), nullable=True),
        sa.Column("resume_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_events", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("details", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("waited_before", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("needs", sa.Text(), nullable=True),
        sa.Column("needed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("children", postgresql.JSONB(), nullable=True),
        sa.Column("children_due", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resumed_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('CANCELLED', 'COMPLETED', 'RESUMING', 'TIMEOUT', 'WAITING')",
            name="execution_wait_states_status",
        ),
        sa.CheckConstraint(
            "wait_type IN ('CHILDREN', 'CODE', 'DELAY', 'EVENTS', 'LIMIT', 'RETRY')",
            name="execution_wait_states_type",
        ),
        sa.CheckConstraint(
            "wait_type NOT IN ('DELAY', 'RETRY') OR resume_at IS NOT NULL", name="execution_wait_states_time"
        ),
        sa.ForeignKeyConstraint(["execution_id"], [f"{schema}.executions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        schema=schema,
    )
    op.create_index(
        "execution_wait_states_correlation",
        "execution_wait_states",
        ["correlation_id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("status IN ('WAITING', 'RESUMING') AND correlation_id IS NOT NULL"),
    )
    op.create_index(
        "execution_wait_states_events",
        "execution_wait_states",
        [sa.text("(details->'events')")],
        unique=False,
        schema=schema,
        postgresql_using="gin",
        postgresql_where=sa.text("status = 'WAITING' AND wait_type = 'EVENTS'"),
    )
    op.create_index(
        "execution_wait_states_due",
        "execution_wait_states",
        [sa.text("LEAST(resume_at, expires_at)")],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("status = 'WAITING'"),
    )
    op.create_index(
        "execution_wait_states_claimed",
        "execution_wait_states",
        ["claimed_until"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("status = 'RESUMING' AND needs IS NULL"),
    )
    op.create_index(
        "execution_wait_states_needing",
        "execution_wait_states",
        ["needs", "claimed_until"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("status = 'RESUMING' AND needs IS NOT NULL"),
    )
    op.create_index(
        "execution_wait_states_needed",
        "execution_wait_states",
        ["needed_until"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("status = 'RESUMING' AND needs IS NOT NULL"),
    )
    op.create_index(
        "execution_wait_states_by_execution",
        "execution_wait_states",
        ["execution_id", "node_id", "visit", "wait_type", "seq"],
        unique=False,
        schema=schema,
    )
    op.create_index(
        "execution_wait_states_open",
        "execution_wait_states",
        ["execution_id", "node_id", "visit"],
        unique=True,
        schema=schema,
        postgresql_where=sa.text("status IN ('RESUMING', 'WAITING')"),
    )
    op.create_index(
        "execution_wait_states_children",
        "execution_wait_states",
        ["children_due"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("children_due IS NOT NULL"),
    )
    op.create_table(
        "node_executions",
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("sub_type", sa.Text(), nullable=False),
        sa.Column("visit", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("handles", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("variables", postgresql.JSONB(), nullable=True),
        sa.Column("token", sa.Uuid(), nullable=False),
        sa.Column("superseded_by", sa.Integer(), nullable=True),
        sa.Column("superseded_for", sa.Text(), nullable=True),
        sa.Column("input_data", postgresql.JSONB(), nullable=True),
        sa.Column("output_data", postgresql.JSONB(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_details", postgresql.JSONB(), nullable=True),
        sa.Column("retry_details", postgresql.JSONB(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        # What the node has logged, where that is kept.
        sa.Column("logs", postgresql.JSONB(), nullable=True),
        sa.CheckConstraint("status <> 'FAILED' OR error IS NOT NULL", name="node_executions_error"),
        sa.CheckConstraint(
            "status IN ('CANCELLED', 'COMPLETED', 'FAILED', 'RETRYING', 'WAITING')",
            name="node_executions_status",
        ),
        sa.CheckConstraint(
            "status NOT IN ('COMPLETED', 'FAILED') OR completed_at IS NOT NULL",
            name="node_executions_completed",
        ),
        sa.CheckConstraint("seq > 0 AND visit > 0 AND attempt > 0", name="node_executions_counts"),
        sa.CheckConstraint("superseded_by IS NULL OR superseded_by > seq", name="node_executions_superseded"),
        sa.CheckConstraint(
            "(superseded_by IS NULL) = (superseded_for IS NULL) AND (superseded_for IN ('RERUN', 'RETRY'))",
            name="node_executions_superseded_for",
        ),
        sa.ForeignKeyConstraint(["execution_id"], [f"{schema}.executions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("execution_id", "seq"),
        schema=schema,
    )
    op.create_index(
        "node_executions_final",
        "node_executions",
        ["execution_id", "node_id", "visit"],
        unique=True,
        schema=schema,
        postgresql_where=sa.text("status IN ('COMPLETED', 'FAILED') AND superseded_by IS NULL"),
    )
    op.create_table(
        "limit_slots",
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column("rate", sa.Integer(), nullable=True),
        sa.Column("rate_seconds", sa.Double(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("is_in_line", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("arrived_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("held_since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True),
        sa.Column("token", sa.Uuid(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("NOT is_in_line OR status = 'LIMITED'", name="limit_slots_line"),
        sa.CheckConstraint("status IN ('HELD', 'LIMITED')", name="limit_slots_status"),
        sa.ForeignKeyConstraint(["execution_id"], [f"{schema}.executions.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("execution_id", "node_id", "key"),
        schema=schema,
    )
    op.create_index(
        "limit_slots_held",
        "limit_slots",
        ["key"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("status = 'HELD'"),
    )
    op.create_index(
        "limit_slots_line",
        "limit_slots",
        ["key", "arrived_at", "execution_id", "node_id"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("is_in_line"),
    )
    op.create_index(
        "limit_slots_leased",
        "limit_slots",
        ["leased_until"],
        unique=False,
        schema=schema,
        postgresql_where=sa.text("leased_until IS NOT NULL"),
    )
    op.create_table(
        "limit_overrides",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column("rate", sa.Integer(), nullable=True),
        sa.Column("rate_seconds", sa.Double(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "concurrency >= 0 AND rate >= 0 AND rate_seconds > 0", name="limit_overrides_numbers"
        ),
        sa.CheckConstraint("(rate IS NULL) = (rate_seconds IS NULL)", name="limit_overrides_rate"),
        sa.PrimaryKeyConstraint("key"),
        schema=schema,
    )
    op.create_table(
        "limit_windows",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("part", sa.BigInteger(), nullable=False),
        sa.Column("counts", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        schema=schema,
    )
    op.create_index("limit_windows_ended", "limit_windows", ["ends_at"], unique=False, schema=schema)
    op.execute(EXECUTION_CONTEXTS.format(s=schema))

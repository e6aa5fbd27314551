"""The tables, as `migrations` makes them; a test holds the two against each other.

`executions` is what an execution is now, `node_executions` is its journal: what it did, in the order
it was committed. A hop appends one row to the second and changes one row of the first, and no index
covers a column that every hop changes, so that the change stays within the page.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.elements import TextClause

from workflow_engine.states import (
    ACTIVE,
    FINAL,
    FINISHED,
    ExecutionStatus,
    NodeStatus,
    SupersededFor,
    WaitStatus,
    WaitType,
)

NOW = text("now()")


def one_of(column: str, values: object) -> TextClause:
    """A condition that a text column holds one of an enumeration's values."""
    names = ", ".join(f"'{value}'" for value in sorted(values))  # type: ignore[call-overload]
    return text(f"{column} IN ({names})")


def tables(schema: str) -> MetaData:
    """The tables in the given schema."""
    metadata = MetaData(schema=schema)
    timestamp = DateTime(timezone=True)

    Table(
        "workflows",
        metadata,
        Column("id", Text, primary_key=True),
        Column("name", Text),
        Column("current_version", Integer, nullable=False),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        Column("updated_at", timestamp, nullable=False, server_default=NOW),
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
        # False once the current version of the workflow has no such trigger any more.
        Column("active", Boolean, nullable=False, server_default=text("true")),
        # Of a schedule: its first due time that has not been fired, and until when somebody is at it.
        Column("next_due", timestamp),
        Column("claimed_until", timestamp),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        Column("updated_at", timestamp, nullable=False, server_default=NOW),
        UniqueConstraint("workflow_id", "node_id", name="triggers_node"),
        Index("triggers_due", "next_due", postgresql_where=text("active AND next_due IS NOT NULL")),
    )
    Table(
        "idempotency_keys",
        metadata,
        Column("workflow_id", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("execution_id", Uuid, nullable=False),
        Column("fingerprint", Text, nullable=False),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
    )
    Table(
        "executions",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("workflow_id", Text, nullable=False),
        Column("workflow_version", Integer, nullable=False),
        Column("trigger_id", Uuid, ForeignKey(f"{schema}.triggers.id"), nullable=False),
        Column("trigger_node_id", Text, nullable=False),
        Column("status", Text, nullable=False, server_default=text("'PENDING'")),
        Column("fence", Uuid, nullable=False),
        Column("seq", Integer, nullable=False),
        Column("context", JSONB, nullable=False),
        Column("trigger_data", JSONB, nullable=False),
        Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
        Column("priority", SmallInteger),
        Column("attention", Boolean, nullable=False, server_default=text("false")),
        Column("nodes_executed", Integer, nullable=False, server_default=text("0")),
        Column("losses", Integer, nullable=False, server_default=text("0")),
        Column("losses_seq", Integer),
        Column("last_loss", Text),
        # When it was last brought back by somebody who found it standing still, and how often since its
        # last commit.
        Column("recovered_at", timestamp),
        Column("recoveries", Integer, nullable=False, server_default=text("0")),
        Column("recoveries_seq", Integer),
        Column("error", Text),
        Column("error_details", JSONB),
        Column("idempotency_key", Text),
        Column("parent_execution_id", Uuid),
        Column("format", SmallInteger, nullable=False),
        Column("expires_at", timestamp),
        Column("started_at", timestamp),
        Column("completed_at", timestamp),
        Column("duration_ms", BigInteger),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        Column("updated_at", timestamp, nullable=False, server_default=NOW),
        ForeignKeyConstraint(
            ["workflow_id", "workflow_version"],
            [f"{schema}.workflow_versions.workflow_id", f"{schema}.workflow_versions.version"],
            name="executions_version",
        ),
        CheckConstraint(one_of("status", ExecutionStatus), name="executions_status"),
        CheckConstraint("seq > 0 AND nodes_executed >= 0 AND losses >= 0", name="executions_counts"),
        CheckConstraint(
            text(f"({one_of('status', FINISHED).text}) = (completed_at IS NOT NULL)"),
            name="executions_finished",
        ),
        CheckConstraint("status <> 'FAILED' OR error IS NOT NULL", name="executions_error"),
        CheckConstraint(
            "status NOT IN ('RUNNING', 'COMPLETED') OR started_at IS NOT NULL", name="executions_started"
        ),
        Index("executions_by_workflow", "workflow_id", "id"),
        Index(
            "executions_expiring",
            "expires_at",
            postgresql_where=text(f"expires_at IS NOT NULL AND NOT ({one_of('status', FINISHED).text})"),
        ),
        Index("executions_active", "id", postgresql_where=one_of("status", ACTIVE)),
        postgresql_with={"fillfactor": "70"},
    )
    Table(
        "node_executions",
        metadata,
        Column(
            "execution_id", Uuid, ForeignKey(f"{schema}.executions.id", ondelete="CASCADE"), primary_key=True
        ),
        Column("seq", Integer, primary_key=True),
        Column("node_id", Text, nullable=False),
        Column("label", Text),
        Column("type", Text, nullable=False),
        Column("sub_type", Text, nullable=False),
        Column("visit", Integer, nullable=False, server_default=text("1")),
        Column("attempt", Integer, nullable=False, server_default=text("1")),
        Column("status", Text, nullable=False),
        Column("handles", ARRAY(Text), nullable=False, server_default=text("'{}'")),
        Column("variables", JSONB),
        Column("token", Uuid, nullable=False),
        Column("superseded_by", Integer),
        Column("superseded_for", Text),
        Column("input_data", JSONB),
        Column("output_data", JSONB),
        Column("error", Text),
        Column("error_details", JSONB),
        Column("retry_details", JSONB),
        Column("worker", Text),
        Column("started_at", timestamp, nullable=False),
        Column("completed_at", timestamp),
        Column("duration_ms", BigInteger),
        CheckConstraint(
            one_of("status", set(NodeStatus) - {"RUNNING", "SKIPPED"}), name="node_executions_status"
        ),
        CheckConstraint("seq > 0 AND visit > 0 AND attempt > 0", name="node_executions_counts"),
        CheckConstraint("superseded_by IS NULL OR superseded_by > seq", name="node_executions_superseded"),
        CheckConstraint(
            text(
                "(superseded_by IS NULL) = (superseded_for IS NULL) AND "
                f"({one_of('superseded_for', SupersededFor).text})"
            ),
            name="node_executions_superseded_for",
        ),
        CheckConstraint("status <> 'FAILED' OR error IS NOT NULL", name="node_executions_error"),
        CheckConstraint(
            "status NOT IN ('COMPLETED', 'FAILED') OR completed_at IS NOT NULL",
            name="node_executions_completed",
        ),
        Index(
            "node_executions_final",
            "execution_id",
            "node_id",
            "visit",
            unique=True,
            postgresql_where=text(f"{one_of('status', FINAL).text} AND superseded_by IS NULL"),
        ),
    )
    Table(
        "execution_wait_states",
        metadata,
        Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
        Column(
            "execution_id", Uuid, ForeignKey(f"{schema}.executions.id", ondelete="CASCADE"), nullable=False
        ),
        Column("node_id", Text, nullable=False),
        Column("seq", Integer, nullable=False),
        Column("visit", Integer, nullable=False, server_default=text("1")),
        Column("wait_type", Text, nullable=False),
        Column("status", Text, nullable=False, server_default=text("'WAITING'")),
        Column("correlation_id", Text),
        Column("resume_at", timestamp),
        Column("expires_at", timestamp),
        Column("received_events", JSONB, nullable=False, server_default=text("'{}'")),
        Column("details", JSONB, nullable=False, server_default=text("'{}'")),
        Column("claimed_until", timestamp),
        Column("resumed_at", timestamp),
        Column("resumed_by", Text),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        CheckConstraint(one_of("wait_type", WaitType), name="execution_wait_states_type"),
        CheckConstraint(one_of("status", WaitStatus), name="execution_wait_states_status"),
        CheckConstraint(
            "wait_type NOT IN ('DELAY', 'RETRY') OR resume_at IS NOT NULL", name="execution_wait_states_time"
        ),
        Index("execution_wait_states_by_execution", "execution_id"),
        Index(
            "execution_wait_states_open",
            "execution_id",
            "node_id",
            "visit",
            unique=True,
            postgresql_where=one_of("status", {"WAITING", "RESUMING"}),
        ),
        Index(
            "execution_wait_states_due",
            text("LEAST(resume_at, expires_at)"),
            postgresql_where=text("status = 'WAITING'"),
        ),
        Index(
            "execution_wait_states_claimed",
            "claimed_until",
            postgresql_where=text("status = 'RESUMING'"),
        ),
        Index(
            "execution_wait_states_correlation",
            "correlation_id",
            postgresql_where=text("status IN ('WAITING', 'RESUMING') AND correlation_id IS NOT NULL"),
        ),
    )
    Table(
        "execution_events",
        metadata,
        Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
        # An event that was sent by correlation id belongs to no execution until it is consumed.
        Column("execution_id", Uuid, ForeignKey(f"{schema}.executions.id", ondelete="CASCADE")),
        Column("type", Text, nullable=False),
        Column("name", Text),
        Column("correlation_id", Text),
        Column("payload", JSONB),
        # Given by the sender: the same id twice is one event.
        Column("event_id", Text),
        # When a wait took it; seq is that of the wait. An EVENT without it is kept for a wait to come.
        Column("consumed_at", timestamp),
        Column("seq", Integer),
        Column("actor", Text),
        Column("reason", Text),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        CheckConstraint(
            "execution_id IS NOT NULL OR correlation_id IS NOT NULL", name="execution_events_belongs"
        ),
        Index(
            "execution_events_by_execution", "execution_id", postgresql_where=text("execution_id IS NOT NULL")
        ),
        Index("execution_events_id", "event_id", unique=True, postgresql_where=text("event_id IS NOT NULL")),
        Index(
            "execution_events_kept",
            "correlation_id",
            "created_at",
            postgresql_where=text("type = 'EVENT' AND consumed_at IS NULL"),
        ),
    )
    return metadata

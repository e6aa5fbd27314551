"""Executions, their journal, and what they wait for."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from workflow_engine.execution.states import (
    ACTIVE,
    FINAL,
    WaitStatus,
    WaitType,
)
from workflow_engine.postgres.tables.columns import (
    BUILT_ONLINE,
    EXECUTION_RULES,
    JOURNAL_RULES,
    NOW,
    create,
    keep_room_for_updates,
    one_of,
    rules,
)


def add_executions(metadata: MetaData) -> None:
    """Add the tables of executions to those of a schema."""
    schema = str(metadata.schema)
    timestamp = DateTime(timezone=True)

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
        Column("epoch_fence", Uuid),
        Column("seq", Integer, nullable=False),
        Column("context", JSONB, nullable=False),
        Column("trigger_data", JSONB, nullable=False),
        Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
        # For the messages of nodes that name no queue or priority of their own.
        Column("queue", Text, nullable=False),
        Column("priority", SmallInteger),
        # Of the node that is due next, if it names any.
        Column("due_queue", Text),
        Column("due_priority", SmallInteger),
        # Waits are over; the holder of the lock is to enqueue their nodes. Only `request_wake` sets it.
        Column("wake_requested", Boolean, nullable=False, server_default=text("false")),
        Column("nodes_executed", Integer, nullable=False, server_default=text("0")),
        # Runs of nodes that ended without a commit, by node id; a node's commit removes its own.
        Column("crashes", JSONB),
        # When it was last rescued as stalled, and how often since its last commit.
        Column("recovered_at", timestamp),
        Column("recoveries", Integer, nullable=False, server_default=text("0")),
        Column("recoveries_seq", Integer),
        Column("error", Text),
        Column("error_details", JSONB),
        Column("idempotency_key", Text),
        # Of a child: the wait of its parent that it was started for, and which of its children it is.
        # `parent_seq` is the journal row that opened the wait. The root is an execution without a parent.
        Column("parent_execution_id", Uuid),
        Column("parent_node_id", Text),
        Column("parent_visit", Integer),
        Column("parent_seq", Integer),
        Column("parent_index", Integer),
        Column("root_execution_id", Uuid),
        Column("depth", SmallInteger),
        # The node of its workflow whose body it runs, if it runs one: a path of node ids, joined by "#".
        Column("body", Text),
        # The caller's notes about it, to find it again; `metadata` is the engine's own.
        Column("user_metadata", JSONB),
        Column("tags", ARRAY(Text)),
        # The nodes before which it is paused when they become due.
        Column("breakpoints", ARRAY(Text)),
        Column("format", SmallInteger, nullable=False),
        # When its timeout ends. While it is paused there are only the seconds left of it.
        Column("expires_at", timestamp),
        Column("timeout_left", Double),
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
        CheckConstraint(rules(schema, "check_execution_v1", EXECUTION_RULES), name="executions_rules"),
        # Lists show roots: a child is found by its parent.
        Index(
            "executions_by_workflow",
            "workflow_id",
            "status",
            "id",
            postgresql_where=text("parent_execution_id IS NULL"),
        ),
        Index("executions_by_status", "status", "id", postgresql_where=text("parent_execution_id IS NULL")),
        # Not unique, which it could not be in a table divided by time: the lock of the parent's row keeps an
        # item of a loop from being started twice.
        Index(
            "executions_children",
            "parent_execution_id",
            "parent_seq",
            "parent_index",
            postgresql_where=text("parent_execution_id IS NOT NULL"),
        ),
        # For lists with children. Those at work are left out, since no commit may get dearer for a list.
        Index(
            "executions_children_at_rest",
            "workflow_id",
            "status",
            "id",
            postgresql_where=text("parent_execution_id IS NOT NULL AND status NOT IN ('PENDING', 'RUNNING')"),
            info=BUILT_ONLINE,
        ),
        Index(
            "executions_descendants",
            "root_execution_id",
            postgresql_where=text("root_execution_id IS NOT NULL"),
        ),
        Index("executions_ended", "completed_at", "id", postgresql_where=text("completed_at IS NOT NULL")),
        Index(
            "executions_expiring",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL"),
        ),
        Index("executions_active", "id", postgresql_where=one_of("status", ACTIVE)),
        Index(
            "executions_metadata",
            "user_metadata",
            postgresql_using="gin",
            postgresql_ops={"user_metadata": "jsonb_path_ops"},
            postgresql_where=text("user_metadata IS NOT NULL"),
        ),
        Index("executions_tags", "tags", postgresql_using="gin", postgresql_where=text("tags IS NOT NULL")),
        Index(
            "executions_error_words",
            text("to_tsvector('simple', error)"),
            postgresql_using="gin",
            postgresql_where=text("error IS NOT NULL"),
        ),
        Index("executions_key", "idempotency_key", postgresql_where=text("idempotency_key IS NOT NULL")),
        # `postgresql_with` would do, but SQLAlchemy takes it for a table only since 2.1.
        listeners=[
            ("before_create", create("check_execution_v1")),
            ("after_create", keep_room_for_updates),
        ],
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
        # What the node has logged, where that is kept.
        Column("logs", JSONB),
        CheckConstraint(
            rules(schema, "check_node_execution_v1", JOURNAL_RULES), name="node_executions_rules"
        ),
        Index(
            "node_executions_final",
            "execution_id",
            "node_id",
            "visit",
            unique=True,
            postgresql_where=text(f"{one_of('status', FINAL).text} AND superseded_by IS NULL"),
        ),
        listeners=[("before_create", create("check_node_execution_v1"))],
    )
    # Until when nodes have to begin that may not stand in their queue for longer; null while it is paused.
    Table(
        "queue_deadlines",
        metadata,
        Column(
            "execution_id", Uuid, ForeignKey(f"{schema}.executions.id", ondelete="CASCADE"), primary_key=True
        ),
        Column("node_id", Text, primary_key=True),
        Column("seconds", Double, nullable=False),
        Column("expires_at", timestamp),
        # When a timekeeper is to look at it; later than `expires_at` while one does.
        Column("look_at", timestamp),
        Index("queue_deadlines_due", "look_at", postgresql_where=text("look_at IS NOT NULL")),
    )
    # What the parts of a node's work have returned, until the node commits all of it.
    Table(
        "node_parts",
        metadata,
        Column(
            "execution_id", Uuid, ForeignKey(f"{schema}.executions.id", ondelete="CASCADE"), primary_key=True
        ),
        Column("node_id", Text, primary_key=True),
        Column("visit", Integer, primary_key=True),
        Column("place", Integer, primary_key=True),
        # That of the run which has done it.
        Column("token", Text, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("value", JSONB, nullable=False),
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
        # Seconds that the attempt of the node had waited before this wait.
        Column("waited_before", Double, nullable=False, server_default=text("0")),
        Column("claimed_until", timestamp),
        # The node type or function that a worker lacked. No worker tries again before `claimed_until`; then
        # workers that know it do. At `needed_until` any worker takes it, and fails the node.
        Column("needs", Text),
        Column("needed_until", timestamp),
        # Of a wait for children: what they are started with, and when the timekeeper has to see to them.
        Column("children", JSONB),
        Column("children_due", timestamp),
        Column("resumed_at", timestamp),
        Column("resumed_by", Text),
        Column("created_at", timestamp, nullable=False, server_default=NOW),
        CheckConstraint(one_of("wait_type", WaitType), name="execution_wait_states_type"),
        CheckConstraint(one_of("status", WaitStatus), name="execution_wait_states_status"),
        CheckConstraint(
            "wait_type NOT IN ('DELAY', 'RETRY') OR resume_at IS NOT NULL", name="execution_wait_states_time"
        ),
        Index("execution_wait_states_by_execution", "execution_id", "node_id", "visit", "wait_type", "seq"),
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
            postgresql_where=text("status = 'RESUMING' AND needs IS NULL"),
        ),
        Index(
            "execution_wait_states_needing",
            "needs",
            "claimed_until",
            postgresql_where=text("status = 'RESUMING' AND needs IS NOT NULL"),
        ),
        Index(
            "execution_wait_states_needed",
            "needed_until",
            postgresql_where=text("status = 'RESUMING' AND needs IS NOT NULL"),
        ),
        Index(
            "execution_wait_states_correlation",
            "correlation_id",
            postgresql_where=text("status IN ('WAITING', 'RESUMING') AND correlation_id IS NOT NULL"),
        ),
        # To find the executions that wait for an event, by its name alone.
        Index(
            "execution_wait_states_events",
            text("(details->'events')"),
            postgresql_using="gin",
            postgresql_where=text("status = 'WAITING' AND wait_type = 'EVENTS'"),
        ),
        Index(
            "execution_wait_states_children",
            "children_due",
            postgresql_where=text("children_due IS NOT NULL"),
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
        # When a wait took it; seq is that of the wait. An EVENT without it is kept for a later wait.
        Column("consumed_at", timestamp),
        # When a retry or rerun took it back from the wait that had consumed it.
        Column("released_at", timestamp),
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
            "name",
            "created_at",
            postgresql_where=text("type = 'EVENT' AND consumed_at IS NULL"),
        ),
        Index(
            "execution_events_kept_for",
            "execution_id",
            "name",
            "created_at",
            postgresql_where=text("type = 'EVENT' AND consumed_at IS NULL AND execution_id IS NOT NULL"),
        ),
        Index(
            "execution_events_kept_since",
            text("GREATEST(created_at, released_at)"),
            "id",
            postgresql_where=text("type = 'EVENT' AND consumed_at IS NULL"),
        ),
    )

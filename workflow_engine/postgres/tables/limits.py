"""The slots of limits, and what operators have made of them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from workflow_engine.execution.states import (
    SlotStatus,
)
from workflow_engine.postgres.tables.columns import (
    NOW,
    one_of,
)


def add_limits(metadata: MetaData) -> None:
    """Add the tables of limits to those of a schema."""
    schema = str(metadata.schema)
    timestamp = DateTime(timezone=True)

    # The slots of limits: those that executions and attempts of nodes hold, and those that they wait for.
    Table(
        "limit_slots",
        metadata,
        Column(
            "execution_id", Uuid, ForeignKey(f"{schema}.executions.id", ondelete="CASCADE"), primary_key=True
        ),
        # Empty for the slot of the execution itself.
        Column("node_id", Text, primary_key=True, server_default=text("''")),
        Column("key", Text, primary_key=True),
        # As the definition of the owner has them; the rate is so many per `rate_seconds`.
        Column("concurrency", Integer),
        Column("rate", Integer),
        Column("rate_seconds", Double),
        Column("status", Text, nullable=False),
        # Of the keys that an owner waits for, the one in whose line it stands.
        Column("is_in_line", Boolean, nullable=False, server_default=text("false")),
        Column("arrived_at", timestamp, nullable=False, server_default=NOW),
        Column("held_since", timestamp, server_default=NOW),
        # Of an attempt that a process runs: the claim under which it does, and until when it is believed.
        Column("token", Uuid),
        Column("leased_until", timestamp),
        CheckConstraint(one_of("status", SlotStatus), name="limit_slots_status"),
        CheckConstraint("NOT is_in_line OR status = 'LIMITED'", name="limit_slots_line"),
        Index("limit_slots_held", "key", postgresql_where=text("status = 'HELD'")),
        Index(
            "limit_slots_line",
            "key",
            "arrived_at",
            "execution_id",
            "node_id",
            postgresql_where=text("is_in_line"),
        ),
        Index("limit_slots_leased", "leased_until", postgresql_where=text("leased_until IS NOT NULL")),
    )
    # What operators have set in place of the numbers of the definitions.
    Table(
        "limit_overrides",
        metadata,
        Column("key", Text, primary_key=True),
        Column("concurrency", Integer),
        Column("rate", Integer),
        Column("rate_seconds", Double),
        Column("actor", Text),
        Column("reason", Text),
        Column("updated_at", timestamp, nullable=False, server_default=NOW),
        CheckConstraint(
            "concurrency >= 0 AND rate >= 0 AND rate_seconds > 0", name="limit_overrides_numbers"
        ),
        CheckConstraint("(rate IS NULL) = (rate_seconds IS NULL)", name="limit_overrides_rate"),
    )
    # How many began within the window of a rate: counts by tenths of it, the latest of number `part`.
    Table(
        "limit_windows",
        metadata,
        Column("key", Text, primary_key=True),
        Column("seconds", Double, nullable=False),
        Column("part", BigInteger, nullable=False),
        Column("counts", ARRAY(Integer), nullable=False),
        Column("ends_at", timestamp, nullable=False),
        Index("limit_windows_ended", "ends_at"),
    )

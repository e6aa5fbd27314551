"""Retention: removes what ended long ago, in batches that hold up no other statement.

Each batch is one statement and a transaction of its own, so that an interrupted purge has done part of its
work and a repeated one goes on. It begins in an index where the batch before it ended, so that rows which
stay are not read. Rows that an operator is retrying at that moment are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from workflow_engine.postgres.database import Database
from workflow_engine.postgres.events import IS_KEPT

BATCH = 500
"""Executions or events that one statement removes; with its journal, an execution is some dozens of rows."""

CLOCK_SKEW_MS = 600_000
"""How far the clocks of producers, which make the ids, may be ahead of the database's."""

PAGE = 10_000
"""Executions or events that one statement counts."""

# Read once: executions that end while a purge runs are left to the next one.
CUTOFF = "SELECT now() - %(seconds)s * interval '1 second'"

# Only ended executions have a time of completion. A running parent may still read its children, but none that
# a loop with `while` or `until` has gone past. A child that outlives its parent still looks for it. Most
# executions have no parent, and must not be looked up in a join.
ENDED = """
    SELECT e.id, e.completed_at AS since, e.workflow_id, e.idempotency_key FROM {s}.executions e
    WHERE e.completed_at BETWEEN %(since)s AND %(cutoff)s
        AND (e.completed_at, e.id) > (%(since)s, %(id)s::uuid)
        AND (e.parent_execution_id IS NULL OR NOT EXISTS (
            SELECT FROM {s}.executions p WHERE p.id = e.parent_execution_id
            AND p.completed_at IS NULL)
            OR EXISTS (
            SELECT FROM {s}.execution_wait_states w
            WHERE w.execution_id = e.parent_execution_id AND w.node_id = e.parent_node_id
                AND w.visit = e.parent_visit AND w.wait_type = 'CHILDREN' AND w.seq = e.parent_seq
                AND (w.children->>'first')::int > e.parent_index))
        AND NOT EXISTS (
            SELECT FROM {s}.executions c WHERE c.parent_execution_id = e.id AND c.completed_at IS NULL)
    ORDER BY e.completed_at, e.id LIMIT %(limit)s
"""

UNMATCHED = """
    SELECT e.id, greatest(e.created_at, e.released_at) AS since FROM {s}.execution_events e
    WHERE {is_kept} AND greatest(e.created_at, e.released_at) BETWEEN %(since)s AND %(cutoff)s
        AND (greatest(e.created_at, e.released_at), e.id) > (%(since)s, %(id)s::uuid)
    ORDER BY greatest(e.created_at, e.released_at), e.id LIMIT %(limit)s
""".replace("{is_kept}", IS_KEPT)

COUNT = "WITH chosen AS ({chosen}) SELECT (SELECT count(*) FROM chosen), {last}"

REMOVE_EXECUTIONS = """
WITH chosen AS ({chosen} FOR UPDATE OF e SKIP LOCKED), keys AS (
    DELETE FROM {s}.idempotency_keys k USING chosen
    WHERE k.workflow_id = chosen.workflow_id AND k.key = chosen.idempotency_key
        AND k.execution_id = chosen.id
), removed AS (
    DELETE FROM {s}.executions WHERE id = ANY(ARRAY(SELECT id FROM chosen)) RETURNING id
)
SELECT (SELECT count(*) FROM removed), {last}
"""

REMOVE_EVENTS = """
WITH chosen AS ({chosen} FOR UPDATE OF e SKIP LOCKED), removed AS (
    DELETE FROM {s}.execution_events WHERE id = ANY(ARRAY(SELECT id FROM chosen)) RETURNING id
)
SELECT (SELECT count(*) FROM removed), {last}
"""

# By the settings of the current version of each workflow. A root goes after its descendants, in as many
# batches as they need. An execution whose row is locked is being retried.
REMOVE_OUTLIVED = """
WITH kept AS MATERIALIZED (
    SELECT w.id AS workflow_id, each.status, now() - each.age::interval AS cutoff
    FROM {s}.workflows w
    JOIN {s}.workflow_versions v ON v.workflow_id = w.id AND v.version = w.current_version
    CROSS JOIN LATERAL (VALUES
        ('COMPLETED', v.definition->'settings'->'keep'->>'completed'),
        ('FAILED', v.definition->'settings'->'keep'->>'failed'),
        ('CANCELLED', v.definition->'settings'->'keep'->>'cancelled')) AS each (status, age)
    WHERE each.age IS NOT NULL
), roots AS MATERIALIZED (
    SELECT root.id, root.workflow_id, root.idempotency_key FROM kept CROSS JOIN LATERAL (
        SELECT e.id, e.workflow_id, e.idempotency_key FROM {s}.executions e
        WHERE e.workflow_id = kept.workflow_id AND e.status = kept.status AND e.parent_execution_id IS NULL
            AND e.completed_at <= kept.cutoff
            -- Ids tell the time of the start: so younger ones are not read, however many there are.
            AND e.id < (lpad(to_hex((extract(epoch FROM kept.cutoff) * 1000)::bigint + %(skew)s), 12, '0')
                || repeat('f', 20))::uuid
        ORDER BY e.id LIMIT %(limit)s
        FOR UPDATE OF e SKIP LOCKED
    ) root LIMIT %(limit)s
), doomed AS MATERIALIZED (
    (SELECT c.id, c.workflow_id, c.idempotency_key FROM {s}.executions c
    WHERE c.root_execution_id = ANY(ARRAY(SELECT id FROM roots)) AND c.completed_at IS NOT NULL
    LIMIT %(limit)s)
    UNION ALL
    SELECT r.id, r.workflow_id, r.idempotency_key FROM roots r
    WHERE NOT EXISTS (SELECT FROM {s}.executions c WHERE c.root_execution_id = r.id)
), keys AS (
    DELETE FROM {s}.idempotency_keys k USING doomed
    WHERE k.workflow_id = doomed.workflow_id AND k.key = doomed.idempotency_key AND k.execution_id = doomed.id
), removed AS (
    DELETE FROM {s}.executions WHERE id = ANY(ARRAY(SELECT id FROM doomed)) RETURNING id
)
SELECT count(*) FROM removed
"""

LAST = "since, id::text FROM chosen ORDER BY since DESC, id DESC LIMIT 1"

BEFORE_ALL = ("-infinity", "00000000-0000-0000-0000-000000000000")


@dataclass(frozen=True)
class Purged:
    """The numbers of executions and events removed, or to be removed."""

    executions: int
    events: int


class Retention:
    """Removes what has ended. Methods may raise `DatabaseUnavailable`, after some of the batches."""

    def __init__(self, database: Database, *, event_retention: float) -> None:
        self._database = database
        self._event_retention = event_retention

    def count(self, older_than: float) -> Purged:
        """Count what `purge` would remove."""
        executions = sum(self._batches(COUNT, ENDED, older_than, PAGE))
        return Purged(executions, sum(self._batches(COUNT, UNMATCHED, self._event_retention, PAGE)))

    def purge(
        self,
        older_than: float,
        *,
        batch: int = BATCH,
        progress: Callable[[Purged], None] = lambda purged: None,
    ) -> Purged:
        """Remove executions that ended more than `older_than` seconds ago, with their rows in other tables.

        Their idempotency keys go with them, and can be used again. Events that no wait took within
        `event_retention` are removed, too. After each batch `progress` is called with the sums so far.
        """
        executions = events = 0
        for removed in self._batches(REMOVE_EXECUTIONS, ENDED, older_than, batch):
            executions += removed
            progress(Purged(executions, events))
        for removed in self._batches(REMOVE_EVENTS, UNMATCHED, self._event_retention, batch):
            events += removed
            progress(Purged(executions, events))
        return Purged(executions, events)

    def remove_outlived(self, *, batch: int = BATCH) -> int:
        """Remove one batch of the executions that have outlived the `keep` of their workflow's settings.

        Return the number removed; as long as it is not 0, there may be more.
        """
        ((removed,),) = self._database.rows(REMOVE_OUTLIVED, limit=batch, skew=CLOCK_SKEW_MS)
        return int(removed)

    def _batches(self, statement: str, chosen: str, seconds: float, limit: int) -> Iterator[int]:
        """Execute a statement batch by batch; yield the number of rows of each."""
        statement = statement.replace("{chosen}", chosen).replace("{last}", LAST)
        ((cutoff,),) = self._database.rows(CUTOFF, seconds=seconds)
        since, id = BEFORE_ALL
        while row := self._database.first(statement, cutoff=cutoff, since=since, id=id, limit=limit):
            count, since, id = row
            yield count

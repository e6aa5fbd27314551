"""Events from outside and the waits for them, matched in Postgres: neither can miss the other.

Every event is stored as a row first. The sender of an event and the commit that opens a wait first take the
same advisory lock, in a statement of its own. Their next statements look for each other, and see all that the
other side has committed. Rows are locked in one order everywhere: execution, then its waits.

A wait takes events while it is WAITING, and one of each name, the oldest. A woken wait takes no more: later
events are kept for its execution, in case the node waits again. A kept event is given to one wait, and to
none after its retention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workflow_engine.errors import ExecutionNotFound, InvalidValue
from workflow_engine.execution.bounded_texts import shorten
from workflow_engine.execution.records import DueWait
from workflow_engine.execution.states import FINISHED
from workflow_engine.json_values import check_size, encode, normalise
from workflow_engine.nodes.results import LONGEST_NAME
from workflow_engine.postgres.database import Database, Row, Statements
from workflow_engine.postgres.values import to_jsonb

FOR_EVER = 3e9
"""A retention of about a century, in seconds."""

# Sorted, so that transactions that need the same locks cannot deadlock.
LOCK = """
SELECT pg_advisory_xact_lock(key) FROM (
    SELECT DISTINCT hashtextextended('workflow_engine.events.' || meeting_point, 0) AS key
    FROM unnest(%(meeting_points)s::text[]) AS meeting_point ORDER BY key
) AS keys
"""

IS_ENOUGH = """
    CASE w.details->>'required'
        WHEN 'all' THEN {received} ?& ARRAY(SELECT jsonb_array_elements_text(w.details->'events'))
        WHEN 'any' THEN {received} ?| ARRAY(SELECT jsonb_array_elements_text(w.details->'events'))
        ELSE {received} ?& ARRAY(SELECT jsonb_array_elements_text(w.details->'required'))
    END"""

WOKEN_IF_ENOUGH = """
    status = CASE WHEN {is_enough} THEN 'RESUMING' ELSE w.status END,
    claimed_until = CASE WHEN {is_enough} THEN clock_timestamp() + %(lease)s * interval '1 second' END"""

IS_KEPT = "e.type = 'EVENT' AND e.consumed_at IS NULL"

# An event that a retry or rerun took back from a wait counts as kept from then on.
IS_PAST_RETENTION = (
    "greatest(e.created_at, e.released_at) <= clock_timestamp() - %(retention)s * interval '1 second'"
)

# -- the side that waits ---------------------------------------------------------------------------------

TAKE_KEPT = (
    """
WITH wait AS (
    SELECT id, execution_id, node_id, visit, seq, correlation_id, details, received_events
    FROM {s}.execution_wait_states
    WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s
        AND wait_type = 'EVENTS' AND status = 'WAITING'
), earlier AS (
    -- The latest of them: each has what those before it received.
    SELECT before.received_events AS events
    FROM (
        SELECT before.execution_id, before.seq, before.received_events
        FROM wait JOIN {s}.execution_wait_states before USING (execution_id, node_id, visit)
        WHERE before.wait_type = 'EVENTS' AND before.seq < wait.seq
        ORDER BY before.seq DESC LIMIT 1
    ) AS before
    JOIN {s}.node_executions n ON n.execution_id = before.execution_id AND n.seq = before.seq
    WHERE n.superseded_by IS NULL
), present AS (
    -- The wait has events of its own if the commit is repeated, or if an operator has reopened it.
    SELECT coalesce((SELECT events FROM earlier), '{}') || wait.received_events AS events FROM wait
), oldest AS (
    SELECT (
        SELECT id FROM (
            (SELECT e.id, e.created_at FROM {s}.execution_events e
            WHERE e.correlation_id = wait.correlation_id AND e.execution_id IS NULL
                AND e.name = awaited.name AND {is_kept} AND NOT {is_past_retention}
            ORDER BY e.created_at LIMIT 1)
            UNION ALL
            (SELECT e.id, e.created_at FROM {s}.execution_events e
            WHERE e.execution_id = wait.execution_id
                AND coalesce(e.correlation_id, wait.correlation_id) = wait.correlation_id
                AND e.name = awaited.name AND {is_kept} AND NOT {is_past_retention}
            ORDER BY e.created_at LIMIT 1)
        ) AS either ORDER BY created_at LIMIT 1) AS id
    FROM wait CROSS JOIN present
    CROSS JOIN LATERAL jsonb_array_elements_text(wait.details->'events') AS awaited (name)
    WHERE NOT present.events ? awaited.name
), kept AS (
    UPDATE {s}.execution_events e
    SET execution_id = wait.execution_id, seq = wait.seq, consumed_at = clock_timestamp()
    FROM wait
    WHERE e.id = ANY(ARRAY(SELECT id FROM oldest))
    RETURNING e.name, e.payload
), received AS MATERIALIZED (
    SELECT present.events || coalesce((SELECT jsonb_object_agg(name, payload) FROM kept), '{}') AS events
    FROM present
), filled AS (
    UPDATE {s}.execution_wait_states w SET received_events = received.events, {woken_if_enough}
    FROM wait, received
    WHERE w.id = wait.id AND received.events <> '{}'
    RETURNING w.execution_id, w.status
)
-- A commit whose result was lost is repeated, and then finds the wait woken already.
SELECT EXISTS (
    SELECT FROM {s}.request_wake_v1(ARRAY(SELECT execution_id FROM filled WHERE status = 'RESUMING'))
) OR EXISTS (
    SELECT FROM {s}.execution_wait_states
    WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s
        AND wait_type = 'EVENTS' AND status = 'RESUMING')
""".replace("{woken_if_enough}", WOKEN_IF_ENOUGH)
    .replace("{is_enough}", IS_ENOUGH.format(received="received.events"))
    .replace("{is_kept}", IS_KEPT)
    .replace("{is_past_retention}", IS_PAST_RETENTION)
)


def lock_events(transaction: Statements, *meeting_points: str) -> None:
    """Lock executions and correlation ids. Must be the first statement of its transaction."""
    transaction.rows(LOCK, meeting_points=list(meeting_points))


def take_kept(
    transaction: Statements, execution_id: str, node_id: str, *, lease: float, retention: float = FOR_EVER
) -> bool:
    """Give a wait that this transaction opened, under `lock_events`, the events kept for it.

    Of each name it gets the oldest event younger than `retention` seconds, unless an earlier wait of the same
    visit received one. It also gets the events that the earlier wait received. Return True if they are
    enough: the wait is then claimed for `lease` seconds, its wake is requested, and the caller enqueues its
    node.
    """
    ((is_enough,),) = transaction.rows(
        TAKE_KEPT, execution_id=execution_id, node_id=node_id, lease=lease, retention=retention
    )
    return bool(is_enough)


# -- the side that sends ---------------------------------------------------------------------------------

STATUS = "SELECT status FROM {s}.executions WHERE id = %(execution_id)s FOR NO KEY UPDATE"

STORE = """
INSERT INTO {s}.execution_events AS e (
    execution_id, type, name, correlation_id, payload, event_id, actor, created_at)
VALUES (%(execution_id)s, 'EVENT', %(name)s, %(correlation_id)s, %(payload)s::jsonb, %(event_id)s, %(actor)s,
    clock_timestamp())
-- An event past its retention is as good as purged: the same id is then another event.
ON CONFLICT (event_id) WHERE event_id IS NOT NULL DO UPDATE SET
    execution_id = excluded.execution_id, name = excluded.name, correlation_id = excluded.correlation_id,
    payload = excluded.payload, actor = excluded.actor, created_at = excluded.created_at, released_at = NULL
WHERE {is_kept} AND {is_past_retention}
RETURNING e.id::text
""".replace("{is_kept}", IS_KEPT).replace("{is_past_retention}", IS_PAST_RETENTION)

SENT_BEFORE = "SELECT execution_id::text FROM {s}.execution_events WHERE event_id = %(event_id)s"

BY_CORRELATION = "w.correlation_id = %(correlation_id)s"
BY_EXECUTION = "w.execution_id = %(execution_id)s"

LISTENING = """
FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
WHERE {addressed} AND w.wait_type = 'EVENTS' AND w.status IN ('WAITING', 'RESUMING')
    AND w.details->'events' ? %(name)s
"""

# The youngest first: a child, whose end locks its parent's row after its own, is younger than that.
LOCK_EXECUTIONS = "SELECT e.id {listening} ORDER BY e.id DESC FOR NO KEY UPDATE OF e"

DELIVER = """
WITH listening AS (
    SELECT w.id, w.execution_id, w.seq, w.status, w.received_events ? %(name)s AS has_it {listening}
), taken AS (
    UPDATE {s}.execution_wait_states w SET received_events = {received}, {woken_if_enough}
    FROM listening
    WHERE w.id = listening.id AND listening.status = 'WAITING' AND NOT listening.has_it
    RETURNING w.id, w.execution_id, w.node_id, w.status
), requested AS (
    SELECT * FROM {s}.request_wake_v1(ARRAY(SELECT execution_id FROM taken WHERE status = 'RESUMING'))
), recipients AS (
    SELECT execution_id, seq, has_it OR status = 'WAITING' AS is_consumed,
        row_number() OVER (ORDER BY execution_id, seq) AS place
    FROM listening
), first AS (
    UPDATE {s}.execution_events event SET execution_id = recipient.execution_id,
        seq = CASE WHEN is_consumed THEN recipient.seq END,
        consumed_at = CASE WHEN is_consumed THEN clock_timestamp() END
    FROM recipients AS recipient
    WHERE event.id = %(id)s AND recipient.place = 1
), others AS (
    INSERT INTO {s}.execution_events (
        execution_id, type, name, correlation_id, payload, actor, seq, consumed_at)
    SELECT execution_id, 'EVENT', %(name)s, %(correlation_id)s, %(payload)s::jsonb, %(actor)s,
        CASE WHEN is_consumed THEN seq END, CASE WHEN is_consumed THEN clock_timestamp() END
    FROM recipients WHERE place > 1
)
SELECT listening.execution_id::text, listening.has_it, taken.id IS NOT NULL, taken.status = 'RESUMING',
    requested.workflow_id, requested.workflow_version, taken.node_id, requested.seq, requested.priority,
    now(), requested.queue, NULL, requested.traceparent
FROM listening LEFT JOIN taken USING (id) LEFT JOIN requested ON requested.id = taken.execution_id
ORDER BY listening.execution_id, listening.seq
""".replace("{woken_if_enough}", WOKEN_IF_ENOUGH).replace("{is_enough}", IS_ENOUGH)

WITH_THE_EVENT = "(jsonb_build_object(%(name)s::text, %(payload)s::jsonb) || w.received_events)"
"""A wait's events with this one added; one of the same name that it has already stays."""


@dataclass(frozen=True)
class SentEvent:
    """The result of sending an event."""

    accepted: Literal["delivered", "kept", "duplicate", "finished"]
    """`delivered`: a wait took it. `kept`: no wait needs it yet. `duplicate`: ignored, as this id was
    sent before, or every wait for it has one of this name. `finished`: ignored, as the execution is over."""
    executions: tuple[str, ...] = ()
    """The executions that have it."""
    woken: tuple[DueWait, ...] = ()
    """The nodes that can go on with it; the sender enqueues them."""


class Events:
    """Events from outside, in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(
        self, database: Database, *, claim_lease: float, event_retention: float, payload_limit: int
    ) -> None:
        self._database = database
        self._lease = claim_lease
        self._retention = event_retention
        self._payload_limit = payload_limit

    def send(
        self,
        name: str,
        payload: Any = None,
        *,
        correlation_id: str | None = None,
        execution_id: str | None = None,
        event_id: str | None = None,
        actor: str | None = None,
    ) -> SentEvent:
        """Store an event and give it to every open wait for it; keep it if no wait takes it.

        It goes to the waits of the given correlation id or execution. `payload` is any JSON value. The same
        `event_id` twice is one event, so a sender may safely repeat.

        Raises `InvalidValue` and `ExecutionNotFound`; nothing is stored then.
        """
        encoded = encode(normalise(payload, "payload"))
        check_size(encoded, self._payload_limit, "payload")
        if (correlation_id is None) == (execution_id is None):
            raise InvalidValue("correlation_id", "give either a correlation id or an execution id")
        event = {
            "name": _check_text(name, "name"),
            "correlation_id": _check_text(correlation_id, "correlation_id"),
            "execution_id": execution_id,
            "event_id": _check_text(event_id, "event_id"),
            "payload": to_jsonb(encoded),
            "actor": actor and shorten(normalise(actor, "actor")),
            "lease": self._lease,
            "retention": self._retention,
        }
        with self._database.transaction() as transaction:
            lock_events(transaction, correlation_id or str(execution_id))
            return _deliver(transaction, event)


def _deliver(transaction: Statements, event: dict[str, Any]) -> SentEvent:
    if (execution_id := event["execution_id"]) is not None:
        if (found := transaction.first(STATUS, execution_id=execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        if found[0] in FINISHED:
            return SentEvent("finished", (execution_id,))
    if (stored := transaction.first(STORE, **event)) is None:
        before = transaction.first(SENT_BEFORE, event_id=event["event_id"])
        return SentEvent("duplicate", before[:1] if before and before[0] else ())
    addressed = BY_CORRELATION if execution_id is None else BY_EXECUTION
    listening = LISTENING.replace("{addressed}", addressed)
    transaction.rows(LOCK_EXECUTIONS.replace("{listening}", listening), **event)
    statement = DELIVER.replace("{listening}", listening).replace("{received}", WITH_THE_EVENT)
    return _outcome(transaction.rows(statement, **event, id=stored[0]))


def _outcome(rows: Sequence[Row]) -> SentEvent:
    taken = [row[0] for row in rows if row[2]]
    if taken:
        woken = tuple(DueWait(row[0], *row[4:]) for row in rows if row[3])
        return SentEvent("delivered", _unique(taken), woken)
    kept_for = [row[0] for row in rows if not row[1]]
    if kept_for or not rows:
        return SentEvent("kept", _unique(kept_for))
    return SentEvent("duplicate", _unique(row[0] for row in rows))


def _unique(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ids))


def _check_text(text: str | None, what: str) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_NAME:
        raise InvalidValue(what, f"must be text of 1 to {LONGEST_NAME} characters")
    normalise(text, what)
    return text

"""Events from outside and the waits for them, matched in Postgres: neither can miss the other.

An event is a row before anything else. Whoever sends one and whoever begins to wait for one first take the
same advisory lock, as a statement of its own, and then look for each other: the statement after it sees all
that the other side has committed. Rows are locked in one order everywhere: execution, then its waits.

A wait takes events while it is WAITING, and of each name the first. One that has been woken takes no more:
what comes then is kept for its execution, in case the node waits again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Engine

from workflow_engine.database import to_jsonb, transaction
from workflow_engine.errors import ExecutionNotFound, InvalidValue
from workflow_engine.execution_records import DueWait
from workflow_engine.json_values import check_size, encode, normalise
from workflow_engine.settings import Settings
from workflow_engine.states import FINISHED

LONGEST_NAME = 200
"""Characters of an event's name, its id and its correlation id."""

# Sorted, so that two who need the same locks wait for each other in one direction only.
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

# -- the side that waits ---------------------------------------------------------------------------------

TAKE_KEPT = """
WITH wait AS (
    SELECT id, execution_id, node_id, visit, seq, correlation_id, details FROM {s}.execution_wait_states
    WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s
        AND wait_type = 'EVENTS' AND status = 'WAITING'
), kept AS (
    UPDATE {s}.execution_events e
    SET execution_id = wait.execution_id, seq = wait.seq, consumed_at = clock_timestamp()
    FROM wait
    WHERE e.type = 'EVENT' AND e.consumed_at IS NULL AND wait.details->'events' ? e.name
        AND (e.execution_id IS NULL AND e.correlation_id = wait.correlation_id
            OR e.execution_id = wait.execution_id
                AND coalesce(e.correlation_id, wait.correlation_id) = wait.correlation_id)
    RETURNING e.name, e.payload, e.created_at
), earlier AS (
    SELECT event.key AS name, event.value AS payload, before.created_at
    FROM wait
    JOIN {s}.execution_wait_states before USING (execution_id, node_id, visit)
    JOIN {s}.node_executions n ON n.execution_id = before.execution_id AND n.seq = before.seq
    CROSS JOIN LATERAL jsonb_each(before.received_events) AS event
    WHERE before.seq < wait.seq AND n.superseded_by IS NULL
), received AS (
    SELECT jsonb_object_agg(name, payload) AS events
    FROM (
        SELECT DISTINCT ON (name) name, payload
        FROM (SELECT *, 1 AS place FROM earlier UNION ALL SELECT *, 2 FROM kept) AS each
        ORDER BY name, place, created_at
    ) AS first_of_each_name
), filled AS (
    UPDATE {s}.execution_wait_states w SET received_events = received.events, {woken_if_enough}
    FROM wait, received
    WHERE w.id = wait.id AND received.events IS NOT NULL
    RETURNING w.execution_id, w.status
), asked AS (
    UPDATE {s}.executions SET attention = true
    WHERE id IN (SELECT execution_id FROM filled WHERE status = 'RESUMING')
)
-- A commit whose answer was lost is repeated, and then finds the wait woken already.
SELECT EXISTS (SELECT FROM filled WHERE status = 'RESUMING') OR EXISTS (
    SELECT FROM {s}.execution_wait_states
    WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s
        AND wait_type = 'EVENTS' AND status = 'RESUMING')
""".replace("{woken_if_enough}", WOKEN_IF_ENOUGH).replace(
    "{is_enough}", IS_ENOUGH.format(received="received.events")
)


def lock_events(connection: Connection, execution_id: str, correlation_id: str) -> None:
    """Take the lock under which a wait for events is stored; the first statement of its transaction."""
    _lock(connection, [execution_id, correlation_id])


def take_kept(connection: Connection, schema: str, execution_id: str, node_id: str, lease: float) -> bool:
    """Give a wait that was stored in this transaction, under `lock_events`, the events kept for it.

    It also gets what earlier waits of the same visit received. True if that is enough: the wait is then
    claimed for `lease` seconds, its execution asks for attention, and its node is to be enqueued.
    """
    parameters = {"execution_id": execution_id, "node_id": node_id, "lease": lease}
    return bool(connection.exec_driver_sql(TAKE_KEPT.format(s=schema), parameters).scalar_one())


# -- the side that sends ---------------------------------------------------------------------------------

STATUS = "SELECT status FROM {s}.executions WHERE id = %(execution_id)s FOR NO KEY UPDATE"

STORE = """
INSERT INTO {s}.execution_events (
    execution_id, type, name, correlation_id, payload, event_id, actor, created_at)
VALUES (%(execution_id)s, 'EVENT', %(name)s, %(correlation_id)s, %(payload)s::jsonb, %(event_id)s, %(actor)s,
    clock_timestamp())
ON CONFLICT (event_id) WHERE event_id IS NOT NULL DO NOTHING
RETURNING id::text
"""

SENT_BEFORE = "SELECT execution_id::text FROM {s}.execution_events WHERE event_id = %(event_id)s"

BY_CORRELATION = "w.correlation_id = %(correlation_id)s"
BY_EXECUTION = "w.execution_id = %(execution_id)s"

LISTENING = """
FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
WHERE {addressed} AND w.wait_type = 'EVENTS' AND w.status IN ('WAITING', 'RESUMING')
    AND w.details->'events' ? %(name)s
"""

LOCK_EXECUTIONS = "SELECT e.id {listening} ORDER BY e.id FOR NO KEY UPDATE OF e"

DELIVER = """
WITH listening AS (
    SELECT w.id, w.execution_id, w.seq, w.status, w.received_events ? %(name)s AS has_it {listening}
), taken AS (
    UPDATE {s}.execution_wait_states w SET received_events = {received}, {woken_if_enough}
    FROM listening
    WHERE w.id = listening.id AND listening.status = 'WAITING' AND NOT listening.has_it
    RETURNING w.id, w.execution_id, w.node_id, w.status
), asked AS (
    UPDATE {s}.executions SET attention = true
    WHERE id IN (SELECT execution_id FROM taken WHERE status = 'RESUMING')
    RETURNING id, workflow_id, workflow_version, seq, priority
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
    asked.workflow_id, asked.workflow_version, taken.node_id, asked.seq, asked.priority, now()
FROM listening LEFT JOIN taken USING (id) LEFT JOIN asked ON asked.id = taken.execution_id
ORDER BY listening.execution_id, listening.seq
""".replace("{woken_if_enough}", WOKEN_IF_ENOUGH).replace("{is_enough}", IS_ENOUGH)

WITH_THE_EVENT = "(jsonb_build_object(%(name)s::text, %(payload)s::jsonb) || w.received_events)"
"""The events of a wait after this one; what is there already stays."""


@dataclass(frozen=True)
class SentEvent:
    """What became of an event."""

    accepted: Literal["delivered", "kept", "duplicate", "finished"]
    """`delivered`: a wait took it. `kept`: nothing waits for it yet. `duplicate`: ignored, as this id was
    sent before, or every wait for it has one of this name. `finished`: ignored, as the execution is over."""
    executions: tuple[str, ...] = ()
    """The executions that have it."""
    woken: tuple[DueWait, ...] = ()
    """The nodes that can go on with it; whoever sent it enqueues them."""


class Events:
    """Events from outside, in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._schema = settings.database_schema
        self._lease = settings.claim_lease
        self._payload_limit = settings.output_limit

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
        """Store an event and give it to every open wait for it; one that none takes is kept.

        It goes to the waits of a correlation id or of one execution, whichever is given. `payload` is any
        JSON value. The same `event_id` twice is one event, so that a sender may safely repeat.

        Raises `InvalidValue` and `ExecutionNotFound`; nothing is stored then.
        """
        encoded = encode(normalise(payload, "payload"))
        check_size(encoded, self._payload_limit, "payload")
        if (correlation_id is None) == (execution_id is None):
            raise InvalidValue("correlation_id", "give either a correlation id or an execution id")
        event = {
            "name": _checked_text(name, "name"),
            "correlation_id": _checked_text(correlation_id, "correlation_id"),
            "execution_id": execution_id,
            "event_id": _checked_text(event_id, "event_id"),
            "payload": to_jsonb(encoded),
            "actor": actor,
            "lease": self._lease,
        }
        with transaction(self._engine) as connection:
            _lock(connection, [correlation_id or str(execution_id)])
            return self._deliver(connection, event)

    def _deliver(self, connection: Connection, event: dict[str, Any]) -> SentEvent:
        if (execution_id := event["execution_id"]) is not None:
            status = self._run(connection, STATUS, event).scalar()
            if status is None:
                raise ExecutionNotFound(execution_id)
            if status in FINISHED:
                return SentEvent("finished", (execution_id,))
        stored = self._run(connection, STORE, event).scalar()
        if stored is None:
            before = self._run(connection, SENT_BEFORE, event).scalar()
            return SentEvent("duplicate", (before,) if before else ())
        addressed = BY_CORRELATION if execution_id is None else BY_EXECUTION
        listening = LISTENING.replace("{addressed}", addressed)
        self._run(connection, LOCK_EXECUTIONS.replace("{listening}", listening), event)
        statement = DELIVER.replace("{listening}", listening).replace("{received}", WITH_THE_EVENT)
        return _answer(self._run(connection, statement, {**event, "id": stored}).all())

    def _run(self, connection: Connection, statement: str, event: dict[str, Any]) -> Any:
        return connection.exec_driver_sql(statement.replace("{s}", self._schema), event)


def _lock(connection: Connection, meeting_points: list[str]) -> None:
    connection.exec_driver_sql(LOCK, {"meeting_points": meeting_points})


def _answer(rows: Sequence[Any]) -> SentEvent:
    taken = [row[0] for row in rows if row[2]]
    if taken:
        woken = tuple(DueWait(row[0], *row[4:]) for row in rows if row[3])
        return SentEvent("delivered", _once(taken), woken)
    kept_for = [row[0] for row in rows if not row[1]]
    if kept_for or not rows:
        return SentEvent("kept", _once(kept_for))
    return SentEvent("duplicate", _once(row[0] for row in rows))


def _once(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ids))


def _checked_text(text: str | None, what: str) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_NAME:
        raise InvalidValue(what, f"must be text of 1 to {LONGEST_NAME} characters")
    normalise(text, what)
    return text

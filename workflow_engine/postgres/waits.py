"""Wait states: which of them are over, and which nodes they wake.

A wait is over when its time has come or its events have arrived. It is then claimed, `RESUMING`, and its
node is enqueued; only the commit of the resumed node closes it. A claim is a lease: if the claimer died or
the message was lost, the wait is claimed again, later each time. Waits of paused executions are claimed too,
to be out of the way of others, but wake no node before the execution is resumed.

A node whose code a worker lacks is such a claimed wait too: it `needs` a node type or function. Only
timekeepers of workers that know it claim it, at growing intervals, so that no message circulates. If none has
claimed it by `needed_until`, any timekeeper does, and the node fails where its code is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from workflow_engine.execution.lost_messages import QUICK_TRIES
from workflow_engine.execution.records import DueWait, WokenWait
from workflow_engine.execution.states import WaitType
from workflow_engine.postgres.database import Database
from workflow_engine.postgres.executions.children import CHILDREN_TOTAL
from workflow_engine.postgres.executions.follow_ups import REQUEST_WAKE

FIRST_TRY, LONGEST_TRY = 1.0, 10.0
"""Seconds between two tries to find a worker that knows a node's code; they double. Messages are not
addressed to workers: while there are both kinds, some tries meet one that lacks the code."""

DOUBLINGS = 4
"""How often the lease of a claim doubles at most: a node that runs for hours is sent few messages, and one
that is lost with all of Redis is missed within minutes."""

# Also those of executions that have been reopened, and wait for their slot again.
AT_REST = """(e.status = 'PAUSED' OR EXISTS (SELECT FROM {s}.limit_slots l
        WHERE l.execution_id = e.id AND l.node_id = '' AND l.status = 'LIMITED'))"""

CLAIM_DUE = """
WITH over AS (
    SELECT w.id, {at_rest} AS is_paused, NULL::timestamptz AS woken_before
    FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
    WHERE w.status = 'WAITING' AND LEAST(w.resume_at, w.expires_at) <= now()
    ORDER BY LEAST(w.resume_at, w.expires_at)
    LIMIT %(limit)s
    -- Both, and without waiting for either: a commit takes the execution first and its waits after it.
    FOR NO KEY UPDATE OF e, w SKIP LOCKED
), abandoned AS (
    SELECT w.id, {at_rest} AS is_paused,
        -- When the message was sent that may still be queued; an event wakes a wait without a claim.
        coalesce((w.details->>'wokenAt')::timestamptz,
            w.claimed_until - %(lease)s * interval '1 second') AS woken_before
    FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
    WHERE w.status = 'RESUMING' AND w.needs IS NULL AND w.claimed_until <= now()
    ORDER BY w.claimed_until
    LIMIT %(limit)s - (SELECT count(*) FROM over)
    FOR NO KEY UPDATE OF e, w SKIP LOCKED
), known AS (
    SELECT w.id, {at_rest} AS is_paused, NULL::timestamptz AS woken_before
    FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
    WHERE w.status = 'RESUMING' AND w.needs = ANY(%(known)s::text[]) AND w.claimed_until <= now()
    LIMIT %(limit)s - (SELECT count(*) FROM over) - (SELECT count(*) FROM abandoned)
    FOR NO KEY UPDATE OF e, w SKIP LOCKED
), given_up AS (
    SELECT w.id, {at_rest} AS is_paused, NULL::timestamptz AS woken_before
    FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
    WHERE w.status = 'RESUMING' AND w.needs IS NOT NULL AND w.needed_until <= now()
        AND w.needs <> ALL(%(known)s::text[])
    ORDER BY w.needed_until
    LIMIT %(limit)s - (SELECT count(*) FROM over) - (SELECT count(*) FROM abandoned)
        - (SELECT count(*) FROM known)
    FOR NO KEY UPDATE OF e, w SKIP LOCKED
), due AS (
    SELECT id, CASE WHEN is_paused THEN 'timesSetAside' ELSE 'claims' END AS counter, is_paused, woken_before
    FROM (
        SELECT * FROM over UNION ALL SELECT * FROM abandoned
        UNION ALL SELECT * FROM known UNION ALL SELECT * FROM given_up) AS all_kinds
), claimed AS (
    UPDATE {s}.execution_wait_states w SET
        status = 'RESUMING',
        claimed_until = now() + %(lease)s * interval '1 second'
            * power(2, least(coalesce((w.details->>due.counter)::int, 0),
                CASE WHEN due.is_paused THEN 10 ELSE %(doublings)s END)),
        needs = CASE WHEN due.is_paused THEN w.needs END,
        -- A worker that knows the code restarts the timeout. The next worker reads here that it has ended.
        needed_until = CASE
            WHEN due.is_paused THEN w.needed_until + %(lease)s * interval '1 second'
            WHEN w.needs = ANY(%(known)s::text[]) THEN NULL
            ELSE w.needed_until END,
        details = w.details || jsonb_build_object(
            due.counter, coalesce((w.details->>due.counter)::int, 0) + 1,
            'wokenAt', now(),
            'timedOut', coalesce(
                (w.details->>'timedOut')::boolean, w.wait_type IN ('EVENTS', 'CHILDREN')
                    AND w.status = 'WAITING'))
    FROM due WHERE w.id = due.id
    RETURNING w.execution_id, w.node_id, due.is_paused, due.woken_before
), requested AS (
    SELECT * FROM {s}.request_wake_v1(ARRAY(SELECT execution_id FROM claimed WHERE NOT is_paused))
)
SELECT c.execution_id::text, a.workflow_id, a.workflow_version, c.node_id, a.seq, a.priority, now(), a.queue,
    c.woken_before, a.traceparent
FROM claimed c JOIN requested a ON a.id = c.execution_id
""".replace("{at_rest}", AT_REST)

# Like a rescue: sooner after a claim that followed a lost message, the first few times, then twice as long
# each time; as if for the first time if Redis has lost its data since. An event wakes a wait without a claim.
OVERDUE = """
SELECT w.execution_id::text, concat_ws('#', e.workflow_id, e.body), e.workflow_version, w.node_id, e.seq,
    e.priority, now(), e.queue, woken.at
FROM {s}.execution_wait_states w JOIN {s}.executions e ON e.id = w.execution_id
CROSS JOIN LATERAL (SELECT coalesce((w.details->>'wokenAt')::timestamptz,
    w.claimed_until - %(lease)s * interval '1 second') AS at) AS woken
WHERE w.status = 'RESUMING' AND w.needs IS NULL AND w.claimed_until > now()
    AND e.status IN ('RUNNING', 'WAITING')
    AND woken.at < now() - interval '1 second'
        * CASE WHEN coalesce((w.details->>'claims')::int, 1) <= 1
                OR woken.at < now() - %(kept)s * interval '1 second' THEN %(seconds)s
            ELSE %(again)s * power(2,
                greatest(0, least((w.details->>'claims')::int, 10) - 1 - %(quick_tries)s)) END
ORDER BY w.claimed_until
LIMIT %(limit)s
"""

# As of long ago, so that its message is not looked for in the queue when it is claimed.
END_CLAIM = """
UPDATE {s}.execution_wait_states w SET
    claimed_until = now() - interval '1 day',
    details = w.details - 'wokenAt'
FROM unnest(%(executions)s::uuid[], %(nodes)s::text[], %(woken_before)s::timestamptz[])
    AS given (execution_id, node_id, woken_before)
WHERE w.execution_id = given.execution_id AND w.node_id = given.node_id AND w.status = 'RESUMING'
    AND w.needs IS NULL AND w.claimed_until > now()
    -- Unless another worker has ended the claim, and it was claimed again.
    AND coalesce((w.details->>'wokenAt')::timestamptz,
        w.claimed_until - %(lease)s * interval '1 second') = given.woken_before
RETURNING w.execution_id::text, w.node_id
"""

# The claim no longer counts: its message was not lost.
RENEW = """
UPDATE {s}.execution_wait_states w SET
    claimed_until = now() + %(lease)s * interval '1 second',
    details = w.details || jsonb_build_object(
        'claims', (w.details->>'claims')::int - 1, 'wokenAt', given.woken_before)
FROM unnest(%(executions)s::uuid[], %(nodes)s::text[], %(woken_before)s::timestamptz[])
    AS given (execution_id, node_id, woken_before)
WHERE w.execution_id = given.execution_id AND w.node_id = given.node_id AND w.status = 'RESUMING'
    AND w.details ? 'claims'
"""

NEXT_DUE = """
SELECT least(
    (SELECT LEAST(resume_at, expires_at) FROM {s}.execution_wait_states w
        WHERE status = 'WAITING' AND LEAST(resume_at, expires_at) IS NOT NULL
        ORDER BY LEAST(resume_at, expires_at) LIMIT 1),
    (SELECT claimed_until FROM {s}.execution_wait_states w
        WHERE status = 'RESUMING' AND needs IS NULL AND claimed_until IS NOT NULL
        ORDER BY claimed_until LIMIT 1),
    (SELECT min(needed_until) FROM {s}.execution_wait_states w
        WHERE status = 'RESUMING' AND needs IS NOT NULL),
    -- Where no code is missing, which is nearly always, the names are not looked up one by one.
    CASE WHEN EXISTS (SELECT FROM {s}.execution_wait_states WHERE status = 'RESUMING' AND needs IS NOT NULL)
        THEN (SELECT min(first.claimed_until) FROM unnest(%(known)s::text[]) AS name CROSS JOIN LATERAL (
            SELECT claimed_until FROM {s}.execution_wait_states w
            WHERE status = 'RESUMING' AND needs = name ORDER BY claimed_until LIMIT 1) AS first) END)
"""

WOKEN = """
SELECT w.wait_type, coalesce((w.details->>'timedOut')::boolean, false), w.received_events,
    w.waited_before + extract(epoch FROM now() - w.created_at)::float,
    coalesce(w.needed_until <= now(), false), w.seq,
    CASE WHEN w.wait_type = 'CHILDREN' THEN jsonb_build_object(
        'workflow', concat_ws('#', w.children->'start'->>'workflow_id', w.children->'start'->>'body'),
        'version', w.children->'start'->'version', 'first', w.children->'first',
        'hasItems', w.children ? 'items',
        'total', {children_total}, 'tolerated', w.children->'tolerated',
        'completed', w.details->'completed', 'failed', w.details->'failed') END,
    w.details->>'traceparent'
FROM {s}.execution_wait_states w
WHERE w.execution_id = %(execution_id)s AND w.node_id = %(node_id)s AND w.status = 'RESUMING'
""".replace("{children_total}", CHILDREN_TOTAL)

TAKE_WAKE = "SELECT {s}.take_wake_v1(%(execution_id)s)"

# A wait that a timekeeper with the code has claimed may be served by a worker without it. The lease does not
# grow for that: `claims` counts messages that may have been lost.
PARK = """
UPDATE {s}.execution_wait_states SET
    needs = %(needs)s,
    needed_until = coalesce(needed_until, now() + %(timeout)s * interval '1 second'),
    claimed_until = now() + interval '1 second' * least(
        %(longest)s, %(first)s * power(2, least(coalesce((details->>'tries')::int, 0), 10))),
    details = details - 'claims' - 'wokenAt'
        || jsonb_build_object('tries', coalesce((details->>'tries')::int, 0) + 1)
WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s AND status = 'RESUMING'
"""


class Waits:
    """Wait states in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database, *, claim_lease: float, unknown_type_timeout: float) -> None:
        self._database = database
        self._lease = claim_lease
        self._unknown_type_timeout = unknown_type_timeout

    def claim_due(self, limit: int = 200, known: Collection[str] = ()) -> list[DueWait]:
        """Claim waits that are over, and request their wake; leave out those of paused executions.

        Concurrent claimers get different waits. `known` are the node types and functions of the claiming
        worker: of the nodes whose code other workers lack, it gets those.
        """
        rows = self._database.rows(
            CLAIM_DUE, limit=limit, lease=self._lease, doublings=DOUBLINGS, known=list(known)
        )
        return [DueWait(*row) for row in rows]

    def renew(self, due: Sequence[DueWait], *, lease: float | None = None) -> None:
        """Extend these claims by a lease that does not count: their messages are still queued.

        With a `lease` of 0 they can be claimed again at once.
        """
        if due:
            self._database.rows(
                RENEW,
                executions=[wait.execution_id for wait in due],
                nodes=[wait.node_id for wait in due],
                woken_before=[wait.woken_before for wait in due],
                lease=self._lease if lease is None else lease,
            )

    def overdue(self, seconds: float, again: float, kept: float, limit: int) -> list[DueWait]:
        """Return waits whose nodes were woken `seconds` ago and have not resumed; nothing is claimed.

        A node that was woken several times is given `again` seconds the first few times, then twice as long
        each time. `kept` are the seconds since when the queues have lost nothing. `woken_before` of a wait is
        when it was woken.
        """
        rows = self._database.rows(
            OVERDUE,
            seconds=seconds,
            again=again,
            quick_tries=QUICK_TRIES,
            kept=kept,
            limit=limit,
            lease=self._lease,
        )
        return [DueWait(*row) for row in rows]

    def end_claims(self, lost: Sequence[DueWait]) -> list[DueWait]:
        """End the claims to waits whose messages were lost, so that they are claimed again at once.

        Return those whose claim was ended by this call.
        """
        if not lost:
            return []
        ended = self._database.rows(
            END_CLAIM,
            executions=[wait.execution_id for wait in lost],
            nodes=[wait.node_id for wait in lost],
            woken_before=[wait.woken_before for wait in lost],
            lease=self._lease,
        )
        return [wait for wait in lost if (wait.execution_id, wait.node_id) in {tuple(row) for row in ended}]

    def woken(self, execution_id: str, node_id: str) -> WokenWait | None:
        """Return the wait of a node if it is over, else None."""
        row = self._database.first(WOKEN, execution_id=execution_id, node_id=node_id)
        if row is None:
            return None
        wait_type, timed_out, received, waited, is_given_up, seq, children, traceparent = row
        if wait_type == WaitType.CHILDREN:
            woken_by: Literal["timeout", "children"] = "timeout" if timed_out else "children"
            return WokenWait(WaitType.CHILDREN, woken_by, {}, waited, is_given_up, seq, children, traceparent)
        if wait_type != WaitType.EVENTS:
            return WokenWait(WaitType(wait_type), "time", {}, waited, is_given_up, traceparent=traceparent)
        reason: Literal["timeout", "events"] = "timeout" if timed_out else "events"
        return WokenWait(WaitType.EVENTS, reason, received, waited, is_given_up, traceparent=traceparent)

    def park(self, execution_id: str, node_id: str, needs: str) -> None:
        """Leave a woken node to workers that know the node type or function `needs`.

        The events that its wait has received are kept for them.
        """
        self._database.rows(
            PARK,
            execution_id=execution_id,
            node_id=node_id,
            needs=needs,
            timeout=self._unknown_type_timeout,
            first=FIRST_TRY,
            longest=LONGEST_TRY,
        )

    def request_wake(self, execution_id: str) -> None:
        """Request that the next resumption of this execution enqueues the nodes that were woken."""
        self._database.rows(REQUEST_WAKE, executions=[execution_id])

    def take_wake_request(self, execution_id: str) -> list[str]:
        """Return the nodes of this execution that were woken, and clear the request for their wake."""
        return [row[0] for row in self._database.rows(TAKE_WAKE, execution_id=execution_id)]

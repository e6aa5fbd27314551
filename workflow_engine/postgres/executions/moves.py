"""The moves of operators: one guarded call each, which changes all or nothing.

The guards are the statuses from which the move is possible and, where the journal was consulted, the fence.
The call moves the execution, supersedes journal rows, closes and reopens waits, releases the events that
superseded waits consumed, and leaves a row in `execution_events`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.messages import Route
from workflow_engine.execution.records import FollowUps, NodeCommit
from workflow_engine.execution.states import ExecutionStatus, SupersededFor
from workflow_engine.execution.walk import JournalEntry
from workflow_engine.postgres.database import Database, Row, Statements
from workflow_engine.postgres.events import lock_events, take_kept
from workflow_engine.postgres.executions.commits.documents import commit_document
from workflow_engine.postgres.executions.filters import ExecutionFilter
from workflow_engine.postgres.executions.follow_ups import REQUEST_WAKE, follow_ups_of
from workflow_engine.postgres.values import to_jsonb

MOVE = """
SELECT status_before, moved_seq, follow_ups FROM {s}.move_execution_v1(
    given_execution => %(execution_id)s,
    given_sources => %(sources)s,
    given_status => %(status)s,
    ends => %(ends)s,
    takes_fence => %(takes_fence)s,
    given_fence => %(fence)s,
    given_version => %(version)s,
    given_superseded_for => %(superseded_for)s,
    given_superseded => %(superseded)s,
    given_waiting => %(waiting)s,
    sets_due => %(sets_due)s,
    given_due_queue => %(due_queue)s,
    given_due_priority => %(due_priority)s,
    given_event => %(event)s,
    given_details => %(details)s,
    given_actor => %(actor)s,
    given_reason => %(reason)s)
"""

COMMIT_BY_HAND = """
SELECT status_before, moved_status, moved_seq, follow_ups FROM {s}.commit_by_hand_v1(
    %(commit)s::jsonb, %(sources)s, %(event)s, %(details)s::jsonb, %(actor)s, %(reason)s)
"""

AMEND = """
SELECT status_before, moved_seq FROM {s}.amend_journal_v1(
    %(execution_id)s, %(sources)s, %(fence)s, %(seq)s, %(output)s::jsonb, %(variable)s, %(value)s::jsonb,
    %(event)s, %(details)s::jsonb, %(actor)s, %(reason)s)
"""

SET_BREAKPOINTS = """
WITH before AS (
    SELECT e.id, e.status, e.seq FROM {s}.executions e
    WHERE e.id = %(execution_id)s AND e.status = ANY(%(sources)s) FOR NO KEY UPDATE
), changed AS (
    UPDATE {s}.executions e SET breakpoints = CASE WHEN %(node)s::text IS NOT NULL
        THEN array_append(array_remove(e.breakpoints, %(node)s::text), %(node)s::text) END
    FROM before b WHERE e.id = b.id
), recorded AS (
    INSERT INTO {s}.execution_events (execution_id, type, seq, actor, reason, payload, created_at)
    SELECT b.id, %(event)s, b.seq, %(actor)s, %(reason)s, %(details)s::jsonb, clock_timestamp() FROM before b
)
SELECT status, seq FROM before
"""

REOPENED_FOR_EVENTS = """
SELECT node_id, correlation_id FROM {s}.execution_wait_states
WHERE execution_id = %(execution_id)s AND status = 'CANCELLED' AND wait_type = 'EVENTS'
    AND seq = ANY(%(waiting)s::int[])
"""

EVENTS = """
SELECT id::text, type, name, correlation_id, payload, seq, actor, reason, created_at
FROM {s}.execution_events WHERE execution_id = %(execution_id)s ORDER BY created_at, seq
"""

SELECT = """
SELECT e.id::text FROM {s}.executions e
WHERE e.status = ANY(%(statuses)s) AND {conditions}
ORDER BY e.id
"""


@dataclass(frozen=True)
class ExecutionEvent:
    """A row of `execution_events`: a move of an operator, or an event sent to the execution."""

    id: str
    type: str
    name: str | None
    correlation_id: str | None
    payload: Any
    seq: int | None
    actor: str | None
    reason: str | None
    created_at: datetime


@dataclass(frozen=True)
class Change:
    """The changes of a move."""

    status: ExecutionStatus
    sources: Collection[ExecutionStatus]
    """The statuses from which the move is possible."""
    event: str | None
    """The type of its row in `execution_events`; None: another move of the transaction has one."""
    takes_fence: bool = False
    """Replace the fence, so that a running node is refused when it commits. An end always does."""
    fence: str | None = None
    """The fence that must still hold, where the change was worked out from the journal."""
    version: int | None = None
    """The version of the workflow to continue with; None keeps the present one."""
    superseded: Sequence[JournalEntry] = ()
    superseded_for: SupersededFor | None = None
    waiting: Sequence[int] = ()
    """Journal rows whose waits are open from now on."""
    due: Route | None = None
    """The route of the node that is due next, if the execution goes on."""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CommitByHand:
    """A node's result that an operator gives."""

    commit: NodeCommit
    sources: Collection[ExecutionStatus]
    """The statuses from which the move is possible."""
    event: str
    reopening: Change | None = None
    """What reopens a failed execution first, in the same transaction; it has the fence that must hold."""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Amendment:
    """A change of the journal: the output in one row, or a variable."""

    sources: Collection[ExecutionStatus]
    event: str
    fence: str
    """The fence that must still hold."""
    seq: int | None = None
    output: bytes | None = None
    variable: str | None = None
    value: bytes | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """The result of a move."""

    status_before: ExecutionStatus
    seq: int
    """The execution's, after the move."""
    follow_ups: tuple[FollowUps | None, ...] = ()
    """Of a child's end, or of a parent that goes on."""
    status: ExecutionStatus | None = None
    """The execution's after it, where the move does not decide it alone."""


class OperatorMoves:
    """Moves executions in Postgres. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database, *, claim_lease: float, event_retention: float) -> None:
        self._database = database
        self._claim_lease = claim_lease
        self._event_retention = event_retention

    def write(
        self, execution_id: str, change: Change, *, actor: str | None = None, reason: str | None = None
    ) -> Moved | None:
        """Move an execution; return None if its status or fence is not what the change requires."""
        given = self._given(execution_id, change, actor=actor, reason=reason)
        reopened = self._reopened(given)
        if reopened:
            status_before, seq, returned = self._move_and_reopen(given, reopened)
        else:
            ((status_before, seq, returned),) = self._database.rows(MOVE, **given)
        if status_before is None:
            return None
        return Moved(ExecutionStatus(status_before), seq, (follow_ups_of(returned),))

    def commit(
        self,
        execution_id: str,
        by_hand: CommitByHand,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Moved | None:
        """Append a node's result; return None if the execution's status or fence is not what it requires."""
        reopening = by_hand.reopening
        before, sources = None, by_hand.sources
        follow_ups: tuple[FollowUps | None, ...] = ()
        given = None if reopening is None else self._given(execution_id, reopening, actor=actor)
        waits = () if given is None else self._reopened(given)
        with self._database.transaction() as transaction:
            if given is not None and reopening is not None:
                before, _, returned = self._moved_in(transaction, given, waits)
                if before is None:
                    return None
                sources, follow_ups = (reopening.status,), (follow_ups_of(returned),)
            ((status_before, status, seq, returned),) = transaction.rows(
                COMMIT_BY_HAND,
                commit=commit_document(by_hand.commit, self._claim_lease, names_fence=reopening is None),
                sources=[each.value for each in sources],
                event=by_hand.event,
                details=to_jsonb(dict(by_hand.details)),
                actor=actor,
                reason=reason,
            )
        if status_before is None:
            return None
        return Moved(
            ExecutionStatus(before or status_before),
            seq,
            (*follow_ups, follow_ups_of(returned)),
            ExecutionStatus(status),
        )

    def amend(
        self,
        execution_id: str,
        amendment: Amendment,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Moved | None:
        """Change the journal; return None if the execution's status or fence is not what it requires."""
        ((status_before, seq),) = self._database.rows(
            AMEND,
            execution_id=execution_id,
            sources=[each.value for each in amendment.sources],
            fence=amendment.fence,
            seq=amendment.seq,
            output=to_jsonb(amendment.output),
            variable=amendment.variable,
            value=to_jsonb(amendment.value),
            event=amendment.event,
            details=to_jsonb(dict(amendment.details)),
            actor=actor,
            reason=reason,
        )
        if status_before is None:
            return None
        return Moved(ExecutionStatus(status_before), seq, status=ExecutionStatus(status_before))

    def set_breakpoint(
        self,
        execution_id: str,
        node_id: str | None,
        sources: Collection[ExecutionStatus],
        event: str,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Moved | None:
        """Set a breakpoint before a node, or clear all for None; return None if the status forbids it."""
        row = self._database.first(
            SET_BREAKPOINTS,
            execution_id=execution_id,
            node=node_id,
            sources=[each.value for each in sources],
            event=event,
            details=to_jsonb({"nodeId": node_id} if node_id is not None else None),
            actor=actor,
            reason=reason,
        )
        if row is None:
            return None
        # A worker that walks inline leaves with its next commit.
        self._database.rows(REQUEST_WAKE, executions=[execution_id])
        return Moved(ExecutionStatus(row[0]), row[1], status=ExecutionStatus(row[0]))

    def _given(
        self, execution_id: str, change: Change, *, actor: str | None, reason: str | None = None
    ) -> dict[str, Any]:
        return {
            "execution_id": execution_id,
            "sources": sorted(change.sources),
            "fence": change.fence,
            "status": change.status.value,
            "ends": change.status.is_finished,
            "takes_fence": change.takes_fence,
            "version": change.version,
            "superseded": [row.seq for row in change.superseded],
            "superseded_for": change.superseded_for and change.superseded_for.value,
            "waiting": list(change.waiting),
            "sets_due": change.due is not None,
            "due_queue": change.due and change.due.queue,
            "due_priority": change.due and change.due.priority,
            "event": change.event,
            "details": to_jsonb(dict(change.details) or None),
            "actor": actor,
            "reason": reason,
        }

    def _reopened(self, given: Mapping[str, Any]) -> Sequence[Row]:
        """Return node and correlation id of the waits for events that a move reopens."""
        return self._database.rows(REOPENED_FOR_EVENTS, **given) if given["waiting"] else ()

    def _move_and_reopen(self, given: Mapping[str, Any], waits: Sequence[Row]) -> Row:
        with self._database.transaction() as transaction:
            return self._moved_in(transaction, given, waits)

    def _moved_in(self, transaction: Statements, given: Mapping[str, Any], waits: Sequence[Row]) -> Row:
        """Move an execution, and give its reopened waits the events sent while they were closed."""
        execution_id: str = given["execution_id"]
        if waits:
            lock_events(transaction, execution_id, *(correlation_id or "" for _, correlation_id in waits))
        (moved,) = transaction.rows(MOVE, **given)
        for node_id, _ in waits if moved[0] is not None else ():
            take_kept(
                transaction,
                execution_id,
                node_id,
                lease=self._claim_lease,
                retention=self._event_retention,
            )
        return moved

    def events(self, execution_id: str) -> list[ExecutionEvent]:
        """Return the events of an execution, oldest first; none for one that does not exist."""
        rows = self._database.rows(EVENTS, execution_id=checked_id(execution_id))
        return [ExecutionEvent(*row) for row in rows]

    def select(self, statuses: Sequence[ExecutionStatus], wanted: ExecutionFilter) -> list[str]:
        """Return the ids of the executions in one of these statuses, the oldest first, without children."""
        conditions = [wanted.plain_condition(), wanted.rare_condition()]
        statement = SELECT.replace("{conditions}", " AND ".join(each for each in conditions if each))
        given = {**wanted.parameters(), "statuses": [status.value for status in statuses]}
        return [row[0] for row in self._database.rows(statement, **given)]

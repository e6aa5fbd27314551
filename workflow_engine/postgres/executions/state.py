"""ExecutionStateService: every move of an execution in Postgres, the source of truth.

Each move is one guarded statement. A hop's commit is accepted only from the holder of the execution's
fence, which every commit replaces; a holder with an old fence is refused in the same round trip and
discards its result. So the fence, not the lock in Redis, is why a node's result is committed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson

from workflow_engine.errors import ExecutionNotFound, IllegalMove
from workflow_engine.execution.bounded_texts import shorten
from workflow_engine.execution.records import (
    BegunRun,
    CommitResult,
    Crashes,
    FollowUps,
    NewExecution,
    NodeCommit,
    Settled,
    Snapshot,
    StartedExecution,
)
from workflow_engine.execution.states import (
    ExecutionStatus,
    HistoryLine,
    SlotStatus,
    WaitType,
    legal_sources,
)
from workflow_engine.json_values import decode_jsonb, encode_jsonb, storable_text
from workflow_engine.postgres.connections.sender import AwaitedRows
from workflow_engine.postgres.database import Database, Row, Statements
from workflow_engine.postgres.events import lock_events, take_kept
from workflow_engine.postgres.executions.commits.documents import (
    commit_document,
    commit_result,
    journal_row,
)
from workflow_engine.postgres.executions.commits.group_commit import GroupCommit, may_join_others
from workflow_engine.postgres.executions.creation import ExecutionCreation, Key, UsedKey
from workflow_engine.postgres.executions.follow_ups import follow_ups_of
from workflow_engine.postgres.values import instant, to_jsonb

COMMIT = "SELECT {s}.commit_node_v2(%(commit)s)"
COMMIT_SEVERAL = "SELECT {s}.commit_node_v2(given) FROM jsonb_array_elements(%(commits)s) AS given"
COMMIT_ITERATION = "SELECT {s}.commit_iteration_v1(%(commit)s)"
SNAPSHOT = "SELECT * FROM {s}.load_snapshot_v2(%(execution_id)s, %(with_outputs)s)"

MOVE = """
SELECT status_before, follow_ups FROM {s}.move_execution_v1(
    given_execution => %(execution_id)s, given_sources => %(sources)s, given_status => %(status)s,
    ends => %(ends)s, given_error => %(error)s, given_fence => %(fence)s)
"""

STATUS = "SELECT status FROM {s}.executions WHERE id = %(execution_id)s"

PERSIST = """
UPDATE {s}.executions SET context = context || %(context)s::jsonb
WHERE id = %(execution_id)s AND fence = %(fence)s
RETURNING id
"""

OUTPUT = """
SELECT output_data::text FROM {s}.node_executions
WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s AND superseded_by IS NULL
    AND status IN ('COMPLETED', 'FAILED') AND output_data IS NOT NULL
ORDER BY seq DESC LIMIT 1
"""

LOCK_ROW = "SELECT FROM {s}.executions WHERE id = %(execution_id)s FOR NO KEY UPDATE"

COUNT_CRASH = """
UPDATE {s}.executions e SET
    crashes = coalesce(crashes, '{}') || jsonb_build_object(%(node_id)s::text,
        coalesce(crashes->%(node_id)s, '{}') || jsonb_build_object(
            'count', coalesce((crashes->%(node_id)s->>'count')::int, 0) + 1, 'last', %(what)s::text))
WHERE id = %(execution_id)s AND completed_at IS NULL AND NOT EXISTS (
    SELECT FROM {s}.node_executions n
    WHERE n.execution_id = e.id AND n.seq > %(seq)s AND n.node_id = %(node_id)s)
RETURNING (crashes->%(node_id)s->>'count')::int
"""

# The second part sees the row as it was before the first; where both see no mark, another worker was faster.
MARK_BEGUN = """
WITH marked AS (
    UPDATE {s}.executions e SET
        crashes = coalesce(crashes, '{}') || jsonb_build_object(%(node_id)s::text,
            coalesce(crashes->%(node_id)s, '{}') || jsonb_build_object('begun', %(run)s::jsonb))
    WHERE id = %(execution_id)s AND completed_at IS NULL
        AND NOT EXISTS (SELECT FROM {s}.node_executions n
            WHERE n.execution_id = e.id AND n.seq > %(seq)s AND n.node_id = %(node_id)s)
        AND (crashes->%(node_id)s->'begun' IS NULL
            OR crashes->%(node_id)s->'begun'->>'token' = %(token)s
            OR (crashes->%(node_id)s->'begun'->>'visit')::int < %(visit)s)
    RETURNING id)
SELECT EXISTS (SELECT FROM marked), crashes->%(node_id)s->'begun' FROM {s}.executions
WHERE id = %(execution_id)s
"""

UNMARK_BEGUN = """
UPDATE {s}.executions SET crashes = nullif(CASE
    WHEN (crashes->%(node_id)s) - 'begun' = '{}' THEN crashes - %(node_id)s
    ELSE jsonb_set(crashes, ARRAY[%(node_id)s], (crashes->%(node_id)s) - 'begun') END, '{}')
WHERE id = %(execution_id)s AND crashes->%(node_id)s->'begun'->>'token' = %(token)s
RETURNING id
"""

RECORD_CRASH = """
INSERT INTO {s}.execution_events (execution_id, type, name, seq, reason)
SELECT id, 'LOST', %(node_id)s, seq, %(what)s FROM {s}.executions WHERE id = %(execution_id)s
"""

RECORD = """
INSERT INTO {s}.execution_events (execution_id, type, name, seq, actor, reason)
SELECT e.id, %(type)s, %(node_id)s, e.seq, %(worker)s, %(reason)s FROM {s}.executions e
WHERE e.id = %(execution_id)s AND (%(since)s::int IS NULL OR (
    e.completed_at IS NULL
    AND NOT EXISTS (SELECT FROM {s}.node_executions n
        WHERE n.execution_id = e.id AND n.seq > %(since)s AND n.node_id = %(node_id)s)
    AND NOT EXISTS (SELECT FROM {s}.execution_events o
        WHERE o.execution_id = e.id AND o.type = %(type)s AND o.name IS NOT DISTINCT FROM %(node_id)s::text
            AND o.seq = e.seq AND o.actor IS NOT DISTINCT FROM %(worker)s::text)))
RETURNING id
"""

SECONDS_SINCE_MOVE = """
SELECT extract(epoch FROM now() - updated_at)::float FROM {s}.executions WHERE id = %(execution_id)s
"""

DEFINITION = """
SELECT definition FROM {s}.workflow_versions WHERE workflow_id = %(workflow_id)s AND version = %(version)s
"""


class CommitReply:
    """The reply to commits that were sent in one statement."""

    def __init__(self, commits: Sequence[NodeCommit], rows: AwaitedRows) -> None:
        self._commits = commits
        self._rows = rows

    @property
    def is_here(self) -> bool:
        """True if the reply has come, or its first part has."""
        return self._rows.is_here

    @property
    def socket(self) -> int:
        """The file descriptor that is readable once the reply comes."""
        return self._rows.socket

    def results(self) -> dict[str, CommitResult]:
        """Wait for the results, and return them by execution, once. Raises as `update_execution`.

        An execution that does not exist any more has none.
        """
        rows = zip(self._commits, self._rows.rows(), strict=True)
        return {commit.execution_id: commit_result(commit, row) for commit, row in rows if row[0] is not None}


class ExecutionStateService:
    """Executions and their journal in Postgres. Every method may raise `DatabaseUnavailable`."""

    def __init__(self, database: Database, *, claim_lease: float, event_retention: float) -> None:
        self._database = database
        self._claim_lease = claim_lease
        self._event_retention = event_retention
        self._creation = ExecutionCreation(database)
        self._group_commit = GroupCommit(self._commit_documents)

    def create_execution(self, new: NewExecution, within: Statements | None = None) -> StartedExecution:
        """Write an execution and its trigger's journal row, `within` the caller's transaction if it is given.

        For an idempotency key that was used before, return the execution it started then. Raises
        `IdempotencyConflict` if that start had other data, and `WayInChanged`.
        """
        return self._creation.create(new, within)

    def create_executions(
        self, new: Sequence[NewExecution], within: Statements | None = None
    ) -> list[StartedExecution]:
        """Write executions with one statement: all of them, or none if it raises as `create_execution`."""
        return self._creation.create_many(new, within)

    def used_keys(self, keys: Sequence[Key], within: Statements | None = None) -> dict[str, UsedKey]:
        """Return those of these idempotency keys, all of one workflow, that have started an execution."""
        return self._creation.used_keys(keys, within)

    def started_before(self, key: Key, within: Statements | None = None) -> StartedExecution | None:
        """Return the execution that an equal start with this idempotency key began, if one did.

        Raises `IdempotencyConflict` if the start that used the key had other data.
        """
        return self._creation.started_before(key, within)

    def update_execution(self, commit: NodeCommit) -> CommitResult:
        """Append a node's journal row and move its execution on, if the fence still holds.

        The rows of pure nodes before it come along. One statement, safe to repeat: if the first result was
        lost, the second call finds its own token as the fence and is accepted. Raises `InvalidValue` for
        content that Postgres refuses.
        """
        if commit.opens is not None and commit.opens.type is WaitType.EVENTS:
            return self._commit_waiting_for_events(commit)
        if may_join_others(commit):
            document = commit_document(commit, self._claim_lease)
            return commit_result(commit, self._group_commit.commit(commit.execution_id, document))
        return self._commit(self._database, commit)

    def send_updates(self, commits: Sequence[NodeCommit]) -> CommitReply | None:
        """Send what `update_execution` executes, and return the reply, which has yet to come.

        Several commits are those of different executions that only append: all of them are made, or none.
        Return None if nothing can be sent without waiting. Raises as `update_execution` does.
        """
        if len(commits) == 1:
            statement, document = self._statement(commits[0])
            rows = self._database.send(statement, commit=document)
        else:
            # Transactions that lock several executions do so from the newest to the oldest.
            commits = sorted(commits, key=lambda commit: commit.execution_id, reverse=True)
            documents = ",".join(commit_document(commit, self._claim_lease) for commit in commits)
            rows = self._database.send(COMMIT_SEVERAL, commits=f"[{documents}]")
        return None if rows is None else CommitReply(commits, rows)

    def rest(self) -> None:
        """Close the connection that `send_update` keeps, until it is used again."""
        self._database.rest()

    def _commit(self, statements: Statements, commit: NodeCommit) -> CommitResult:
        statement, document = self._statement(commit)
        (row,) = statements.rows(statement, commit=document)
        return commit_result(commit, row)

    def _statement(self, commit: NodeCommit) -> tuple[str, str]:
        """Return the statement of a commit, and its parameter."""
        statement = COMMIT if commit.iteration is None else COMMIT_ITERATION
        return statement, commit_document(commit, self._claim_lease)

    def _commit_documents(self, documents: Sequence[str]) -> Sequence[Row]:
        if len(documents) == 1:
            return self._database.rows(COMMIT, commit=documents[0])
        return self._database.rows(COMMIT_SEVERAL, commits=f"[{','.join(documents)}]")

    def _commit_waiting_for_events(self, commit: NodeCommit) -> CommitResult:
        """Commit under the lock that senders of events take too, and take the events that came early."""
        correlation_id = commit.opens.correlation_id if commit.opens else None
        with self._database.transaction() as transaction:
            lock_events(transaction, commit.execution_id, correlation_id or "")
            result = self._commit(transaction, commit)
            if result.accepted and take_kept(
                transaction,
                commit.execution_id,
                commit.node_id,
                lease=self._claim_lease,
                retention=self._event_retention,
            ):
                return replace(result, wake_requested=True)
            return result

    def update_execution_status(
        self, execution_id: str, status: ExecutionStatus, *, error: str | None = None
    ) -> FollowUps | None:
        """Move an execution outside of a hop, if the move is legal from its status.

        A move to a finished status takes the fence as well, so that a running node is refused. Return what
        the end of a child leads to.
        Raises `IllegalMove` or `ExecutionNotFound`.
        """
        is_failure = status is ExecutionStatus.FAILED
        ((status_before, returned),) = self._database.rows(
            MOVE,
            execution_id=execution_id,
            sources=sorted(legal_sources(status)),
            status=status.value,
            ends=status.is_finished,
            error=error or "no reason was given" if is_failure else None,
            fence=None,
        )
        if status_before is None:
            raise IllegalMove(execution_id, self.status_of(execution_id).value, status.value)
        return follow_ups_of(returned)

    def settle(self, execution_id: str, status: ExecutionStatus, fence: str) -> Settled | None:
        """Bring a running execution to rest, or to its end, after a commit that left nothing due.

        Return None if it has moved on since the commit that left this fence, or was paused.
        """
        ((status_before, returned),) = self._database.rows(
            MOVE,
            execution_id=execution_id,
            sources=[ExecutionStatus.RUNNING.value],
            status=status.value,
            ends=status.is_finished,
            error=None,
            fence=fence,
        )
        return None if status_before is None else Settled(status, follow_ups_of(returned))

    def status_of(self, execution_id: str) -> ExecutionStatus:
        """Return the status of an execution. Raises `ExecutionNotFound`."""
        if (row := self._database.first(STATUS, execution_id=execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        return ExecutionStatus(row[0])

    def persist_context(self, execution_id: str, fence: str, context: Mapping[str, Any]) -> bool:
        """Write a context's ids, variables and metadata; its outputs and path are the journal.

        False if the execution has moved on since the context was built.
        """
        kept = {key: value for key, value in context.items() if key != "nodeOutputs"}
        return bool(
            self._database.rows(PERSIST, execution_id=execution_id, fence=fence, context=to_jsonb(kept))
        )

    def load_snapshot(self, execution_id: str, *, with_outputs: bool = True) -> Snapshot | None:
        """Return the execution and its journal, superseded rows left out, read by one statement.

        Without outputs and variables it still shows which node is due, however large the outputs are.
        """
        rows = self._database.rows(SNAPSHOT, execution_id=execution_id, with_outputs=with_outputs)
        if not rows:
            return None
        first = rows[0]
        return Snapshot(
            execution_id=execution_id,
            workflow_id=first[0],
            version=first[1],
            trigger_id=first[2],
            trigger_node_id=first[3],
            status=ExecutionStatus(first[4]),
            has_begun=first[5],
            fence=first[6],
            seq=first[7],
            format=first[8],
            queue=first[9],
            priority=first[10],
            crashes=Crashes.from_json(first[11]),
            read_at=instant(first[12]),
            metadata=decode_jsonb(first[13]),
            visits=orjson.loads(first[14] or "{}"),
            slots=SlotStatus(first[15]) if first[15] else None,
            has_breakpoints=first[16],
            journal=tuple(journal_row(row[17:]) for row in rows),
        )

    def load_output(self, execution_id: str, node_id: str) -> bytes | None:
        """Return the output of one node as JSON, or None if it has produced none."""
        row = self._database.first(OUTPUT, execution_id=execution_id, node_id=node_id)
        return encode_jsonb(row[0]) if row else None

    def count_crash(self, execution_id: str, node_id: str, seq: int, what: str) -> Crashes:
        """Count a run of a node, begun on top of `seq`, that ended without a commit; `what` describes how.

        The history gets a line for it. Return the crashes of the node since its last commit; none if it was
        committed after `seq`, or the execution has ended. The node's next commit clears them.
        """
        what = shorten(storable_text(what))
        given = {"execution_id": execution_id, "node_id": node_id, "seq": seq, "what": what}
        with self._database.transaction() as transaction:
            # A statement of its own: the next one then sees the journal of a commit that held the row.
            transaction.rows(LOCK_ROW, execution_id=execution_id)
            row = transaction.first(COUNT_CRASH, **given)
            if row is not None:
                transaction.rows(RECORD_CRASH, **given)
        return Crashes(row[0], what) if row else Crashes()

    def mark_begun(self, execution_id: str, node_id: str, seq: int, run: BegunRun) -> BegunRun | None:
        """Mark a run of a node on top of `seq`, unless an earlier run of the visit is marked.

        Return the run that is marked now: this one, or the earlier one; None if the node was committed after
        `seq`, the execution has ended, or another worker has marked its run at the same moment. The node's
        next commit removes the mark. Safe to repeat.
        """
        is_marked, earlier = self._database.first(
            MARK_BEGUN,
            execution_id=execution_id,
            node_id=node_id,
            seq=seq,
            token=run.token,
            visit=run.visit,
            run=to_jsonb(asdict(run)),
        ) or (False, None)
        if is_marked:
            return run
        return BegunRun(**earlier) if earlier is not None else None

    def unmark_begun(self, execution_id: str, node_id: str, token: str) -> None:
        """Remove the mark of the run with this token, which has not begun after all."""
        self._database.rows(UNMARK_BEGUN, execution_id=execution_id, node_id=node_id, token=token)

    def record(
        self,
        line: HistoryLine,
        execution_id: str,
        node_id: str | None,
        worker: str,
        reason: str | None = None,
        since: int | None = None,
    ) -> None:
        """Record in the execution's history how a run of a node ended without a commit.

        With `since`, the seq on top of which the node was to run, nothing is recorded if it was committed
        after that, if the execution has ended, or if this worker has recorded it before.
        """
        self._database.rows(
            RECORD,
            type=line.value,
            execution_id=execution_id,
            node_id=node_id,
            worker=worker,
            reason=reason,
            since=since,
        )

    def seconds_since_move(self, execution_id: str) -> float:
        """Return the seconds since the last commit, by the database's clock. Raises `ExecutionNotFound`."""
        if (row := self._database.first(SECONDS_SINCE_MOVE, execution_id=execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        return float(row[0])

    def load_definition(self, workflow_id: str, version: int) -> dict[str, Any] | None:
        """Return the stored content of one workflow version; None if it is not deployed."""
        row = self._database.first(DEFINITION, workflow_id=workflow_id, version=version)
        return row[0] if row else None

"""ExecutionStateService: every move of an execution in Postgres, which is where the truth is.

Each move is one guarded statement. A hop's commit is accepted only from the holder of the execution's
fence, which every commit replaces; a holder whose fence is old learns so in the same round trip and
throws its result away. That, not the lock in Redis, is why a node's result is committed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import Connection, Engine

from workflow_engine.database import autocommit, execute, instant, to_jsonb, transaction
from workflow_engine.errors import ExecutionNotFound, IllegalMove
from workflow_engine.events import lock_events, take_kept
from workflow_engine.execution_creation import ExecutionCreation
from workflow_engine.execution_records import (
    CommitAnswer,
    JournalRow,
    Losses,
    NewExecution,
    NewWait,
    NodeCommit,
    Snapshot,
    StartedExecution,
)
from workflow_engine.settings import Settings
from workflow_engine.states import FINISHED, LEGAL_MOVES, ExecutionStatus, NodeStatus, WaitStatus, WaitType
from workflow_engine.walk import JournalEntry

# The functions are in migration 0002.
COMMIT = "SELECT {s}.commit_node(%s)"
SNAPSHOT = "SELECT * FROM {s}.load_snapshot(%s)"

MOVE = """
WITH moved AS (
    UPDATE {s}.executions SET
        status = %(status)s,
        fence = CASE WHEN %(is_finished)s THEN gen_random_uuid() ELSE fence END,
        started_at = CASE WHEN %(status)s IN ('RUNNING', 'COMPLETED') THEN coalesce(started_at, now())
            ELSE started_at END,
        completed_at = CASE WHEN %(is_finished)s THEN now() END,
        duration_ms = CASE WHEN %(is_finished)s THEN
            (extract(epoch FROM now() - coalesce(started_at, now())) * 1000)::bigint END,
        error = CASE WHEN %(status)s = 'FAILED' THEN coalesce(%(error)s, 'no reason was given') END,
        updated_at = now()
    WHERE id = %(execution_id)s AND status = ANY(%(sources)s)
    RETURNING id
), closed AS (
    UPDATE {s}.execution_wait_states w SET status = 'CANCELLED', resumed_at = now()
    FROM moved
    WHERE %(is_finished)s AND w.execution_id = moved.id AND w.status IN ('WAITING', 'RESUMING')
)
SELECT id FROM moved
"""

STATUS = "SELECT status FROM {s}.executions WHERE id = %(execution_id)s"

PERSIST = """
UPDATE {s}.executions SET context = context || %(context)s::jsonb
WHERE id = %(execution_id)s AND fence = %(fence)s
"""

OUTPUT = """
SELECT output_data::text FROM {s}.node_executions
WHERE execution_id = %(execution_id)s AND node_id = %(node_id)s AND superseded_by IS NULL
    AND status IN ('COMPLETED', 'FAILED') AND output_data IS NOT NULL
ORDER BY seq DESC LIMIT 1
"""

COUNT_LOSS = """
UPDATE {s}.executions SET
    losses = CASE WHEN losses_seq = seq THEN losses + 1 ELSE 1 END,
    losses_seq = seq,
    last_loss = %(what)s
WHERE id = %(execution_id)s AND seq = coalesce(%(seq)s, seq)
RETURNING losses
"""

RECORD_INTERRUPTION = """
INSERT INTO {s}.execution_events (execution_id, type, name, seq, actor)
SELECT id, 'INTERRUPTED', %(node_id)s, seq, %(worker)s FROM {s}.executions WHERE id = %(execution_id)s
RETURNING id
"""

SECONDS_SINCE_MOVE = """
SELECT extract(epoch FROM now() - updated_at)::float FROM {s}.executions WHERE id = %(execution_id)s
"""

DEFINITION = """
SELECT definition FROM {s}.workflow_versions WHERE workflow_id = %(workflow_id)s AND version = %(version)s
"""


class ExecutionStateService:
    """Executions and their journal in Postgres. Every method may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self._schema = settings.database_schema
        self._claim_lease = settings.claim_lease
        self._commit = COMMIT.format(s=settings.database_schema)
        self._snapshot = SNAPSHOT.format(s=settings.database_schema)
        self._creation = ExecutionCreation(engine, settings)

    def create_execution(self, new: NewExecution, connection: Connection | None = None) -> StartedExecution:
        """Write an execution and its trigger's journal row, in the caller's transaction if one is given.

        An idempotency key that was used before gives the execution it started then. Raises
        `IdempotencyConflict` if that start had other data.
        """
        return self._creation.create(new, connection)

    def update_execution(self, commit: NodeCommit) -> CommitAnswer:
        """Append a node's journal row and move its execution on, if the fence still holds.

        One statement, safe to repeat: when the first answer was lost, the second finds the fence to
        be its own token and is accepted. Raises `InvalidValue` for content that Postgres refuses.
        """
        if commit.opens is not None and commit.opens.type is WaitType.EVENTS:
            return self._commit_waiting_for_events(commit)
        (row,) = execute(self.engine, self._commit, (_commit_document(commit),))
        return _commit_answer(commit, row)

    def _commit_waiting_for_events(self, commit: NodeCommit) -> CommitAnswer:
        """Commit under the lock that senders of events take too, and look for events that came early."""
        correlation_id = commit.opens.correlation_id if commit.opens else None
        with transaction(self.engine) as connection:
            lock_events(connection, commit.execution_id, correlation_id or "")
            row = connection.exec_driver_sql(self._commit, (_commit_document(commit),)).one()
            answer = _commit_answer(commit, row)
            if answer.accepted and take_kept(
                connection, self._schema, commit.execution_id, commit.node_id, self._claim_lease
            ):
                return replace(answer, attention=True)
            return answer

    def update_execution_status(
        self, execution_id: str, status: ExecutionStatus, *, error: str | None = None
    ) -> None:
        """Move an execution outside of a hop, if the move is legal from where it stands.

        A move to a finished status takes the fence as well, so that a running node is refused.
        Raises `IllegalMove` or `ExecutionNotFound`.
        """
        sources = [source.value for source, targets in LEGAL_MOVES.items() if status in targets]
        parameters = {
            "execution_id": execution_id,
            "status": status.value,
            "is_finished": status in FINISHED,
            "sources": sources,
            "error": error,
        }
        with autocommit(self.engine) as connection:
            moved = connection.exec_driver_sql(MOVE.format(s=self._schema), parameters).first()
        if moved is None:
            raise IllegalMove(execution_id, self.status_of(execution_id).value, status.value)

    def status_of(self, execution_id: str) -> ExecutionStatus:
        """Raises `ExecutionNotFound`."""
        if (row := self._first(STATUS, execution_id=execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        return ExecutionStatus(row[0])

    def persist_context(self, execution_id: str, fence: str, context: Mapping[str, Any]) -> bool:
        """Write a context's ids, variables and metadata; its outputs and path are the journal.

        False if the execution has moved on since the context was built.
        """
        kept = {key: value for key, value in context.items() if key != "nodeOutputs"}
        with autocommit(self.engine) as connection:
            result = connection.exec_driver_sql(
                PERSIST.format(s=self._schema),
                {"execution_id": execution_id, "fence": fence, "context": to_jsonb(kept)},
            )
        return result.rowcount == 1

    def load_snapshot(self, execution_id: str) -> Snapshot | None:
        """The execution and its journal, superseded rows left out, read by one statement."""
        rows = execute(self.engine, self._snapshot, (execution_id,))
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
            fence=first[5],
            seq=first[6],
            format=first[7],
            priority=first[8],
            losses=Losses(first[9], first[10]),
            read_at=instant(first[11]),
            metadata=orjson.loads(first[12]),
            visits=orjson.loads(first[13] or "{}"),
            journal=tuple(_journal_row(row[14:]) for row in rows),
        )

    def load_output(self, execution_id: str, node_id: str) -> bytes | None:
        """The output of one node as JSON, or None if it has produced none."""
        row = self._first(OUTPUT, execution_id=execution_id, node_id=node_id)
        return row[0].encode() if row else None

    def count_loss(self, execution_id: str, seq: int | None, what: str) -> Losses:
        """Note that a process was lost on top of `seq`, and what is known of it; none: it moved on since.

        Without a `seq` it was lost on top of whatever was committed last.
        """
        row = self._first(COUNT_LOSS, execution_id=execution_id, seq=seq, what=what)
        return Losses(row[0], what) if row else Losses()

    def record_interruption(self, execution_id: str, node_id: str, worker: str) -> None:
        """Note in the execution's history that a running node was interrupted."""
        self._first(RECORD_INTERRUPTION, execution_id=execution_id, node_id=node_id, worker=worker)

    def seconds_since_move(self, execution_id: str) -> float:
        """Seconds since the last commit, by the database's clock. Raises `ExecutionNotFound`."""
        if (row := self._first(SECONDS_SINCE_MOVE, execution_id=execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        return float(row[0])

    def load_definition(self, workflow_id: str, version: int) -> dict[str, Any] | None:
        """The stored content of one workflow version."""
        row = self._first(DEFINITION, workflow_id=workflow_id, version=version)
        return row[0] if row else None

    def _first(self, statement: str, **parameters: Any) -> Any:
        with autocommit(self.engine) as connection:
            return connection.exec_driver_sql(statement.format(s=self._schema), parameters).first()


def _commit_document(commit: NodeCommit) -> str:
    """What the function in migration 0002 is given; what there is nothing to say of is left out."""
    is_failed = commit.execution_status is ExecutionStatus.FAILED
    document = {
        "execution_id": commit.execution_id,
        "fence": commit.fence,
        "token": commit.token,
        "execution_status": commit.execution_status,
        "node_id": commit.node_id,
        "label": commit.label,
        "type": commit.type,
        "sub_type": commit.sub_type,
        "visit": commit.visit,
        "attempt": commit.attempt,
        "status": commit.status,
        "handles": _text_array(commit.handles),
        "variables": _encoded(commit.variables),
        "input_data": _encoded(commit.input_data),
        "output": _encoded(commit.output),
        "error": commit.error,
        "error_details": commit.error_details,
        "execution_error": {"nodeId": commit.node_id, **(commit.error_details or {})} if is_failed else None,
        "retry_details": commit.retry_details,
        "worker": commit.worker,
        "duration_ms": commit.duration_ms,
        "context": commit.context,
        "opens": _opened(commit.opens) if commit.opens else None,
        "closes": commit.closes or None,
        "woken_status": commit.woken_status or WaitStatus.CANCELLED if commit.closes else None,
    }
    return orjson.dumps({name: value for name, value in document.items() if value is not None}).decode()


def _encoded(value: bytes | None) -> orjson.Fragment | None:
    return None if value is None else orjson.Fragment(value)


def _text_array(texts: Sequence[str]) -> str:
    """Texts as Postgres writes an array of them, which it reads faster than one in JSON."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _opened(wait: NewWait) -> dict[str, Any]:
    return {
        "type": wait.type,
        "correlation_id": wait.correlation_id,
        "resume_at": wait.resume_at.isoformat() if wait.resume_at else None,
        "resume_in": wait.resume_in,
        "expires_in": wait.expires_in,
        "details": wait.details,
    }


def _commit_answer(commit: NodeCommit, row: Sequence[Any]) -> CommitAnswer:
    if row[0] is None:
        raise ExecutionNotFound(commit.execution_id)
    accepted, seq, status, fence, attention, committed_at = row[0]
    return CommitAnswer(
        accepted == "true",
        int(seq),
        ExecutionStatus(status),
        fence,
        attention == "true",
        instant(int(committed_at)),
    )


def _journal_row(columns: Sequence[Any]) -> JournalRow:
    seq, node_id, visit, attempt, status, handles, output, variables, waits = columns
    entry = JournalEntry(
        seq=seq,
        node_id=node_id,
        visit=visit,
        attempt=attempt,
        status=NodeStatus(status),
        handles=tuple(handles),
        waits=waits,
    )
    return JournalRow(
        entry, None if output is None else output.encode(), variables and orjson.loads(variables)
    )

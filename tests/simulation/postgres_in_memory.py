"""Executions, journal and waits in memory, behind the methods of `ExecutionStateService` and `Waits`.

Only what a hop and its recovery ask for: waits are for times, not for events. There is no unique index on
final rows, which Postgres has as a last resort: here the fence alone keeps results from being repeated.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import orjson

from simulation.steps import Clock, step
from workflow_engine.errors import DatabaseUnavailable, ExecutionNotFound, IllegalMove
from workflow_engine.execution_records import (
    FIRST_SEQ,
    FORMAT,
    CommitAnswer,
    DueWait,
    JournalRow,
    Losses,
    NewExecution,
    NodeCommit,
    Snapshot,
    StartedExecution,
    WokenWait,
)
from workflow_engine.settings import Settings
from workflow_engine.states import ACTIVE, LEGAL_MOVES, ExecutionStatus, NodeStatus, WaitStatus, WaitType
from workflow_engine.walk import JournalEntry

Answer = TypeVar("Answer")

COMMIT = "commit"
"""What the call of a commit is called where processes stop before it."""

OPEN = (WaitStatus.WAITING, WaitStatus.RESUMING)


@dataclass
class WaitRow:
    node_id: str
    seq: int
    visit: int
    type: WaitType
    resume_at: datetime
    attempt: int
    created_at: datetime
    status: WaitStatus = WaitStatus.WAITING
    claimed_until: datetime | None = None
    claims: int = 0


@dataclass
class ExecutionRow:
    new: NewExecution
    fence: str
    metadata: dict[str, Any]
    updated_at: datetime
    seq: int = FIRST_SEQ
    status: ExecutionStatus = ExecutionStatus.PENDING
    attention: bool = False
    losses: dict[int, Losses] = field(default_factory=dict)
    """By the `seq` on top of which they were lost."""
    context: dict[str, Any] = field(default_factory=dict)
    journal: list[JournalRow] = field(default_factory=list)
    believed: list[NodeCommit] = field(default_factory=list)
    """The commits behind the journal, for whoever judges them; the trigger's row has none."""
    waits: list[WaitRow] = field(default_factory=list)


class PostgresInMemory:
    """The tables. `checks_fence=False` believes every commit, to see what the fence is for."""

    def __init__(self, clock: Clock, *, checks_fence: bool = True) -> None:
        self.clock = clock
        self.checks_fence = checks_fence
        self.definitions: dict[tuple[str, int], dict[str, Any]] = {}
        self.executions: dict[str, ExecutionRow] = {}

    def row(self, execution_id: str) -> ExecutionRow:
        if (row := self.executions.get(execution_id)) is None:
            raise ExecutionNotFound(execution_id)
        return row


class StateInMemory:
    """Stands in for `ExecutionStateService`."""

    def __init__(self, database: PostgresInMemory) -> None:
        self._database = database

    def create_execution(self, new: NewExecution, connection: None = None) -> StartedExecution:
        return _step(lambda: self._create(new))

    def _create(self, new: NewExecution) -> StartedExecution:
        now = self._database.clock.now()
        started = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        row = ExecutionRow(new, str(uuid.uuid4()), {**new.metadata, "startedAt": started}, now)
        entry = JournalEntry(FIRST_SEQ, new.trigger_node_id, 1, 1, NodeStatus.COMPLETED, ("",))
        row.journal.append(JournalRow(entry, new.data, orjson.loads(new.variables)))
        self._database.executions[new.execution_id] = row
        return StartedExecution(new.execution_id, True, now)

    def update_execution(self, commit: NodeCommit) -> CommitAnswer:
        return _step(lambda: self._commit(commit), COMMIT)

    def _commit(self, commit: NodeCommit) -> CommitAnswer:
        row = self._database.row(commit.execution_id)
        may_move = commit.fence == row.fence or not self._database.checks_fence
        if may_move and commit.token != row.fence and not row.status.is_finished:
            self._move(row, commit)
        accepted = row.fence == commit.token
        return CommitAnswer(accepted, row.seq, row.status, row.fence, row.attention, row.updated_at)

    def _move(self, row: ExecutionRow, commit: NodeCommit) -> None:
        row.fence, row.seq, row.updated_at = commit.token, row.seq + 1, self._database.clock.now()
        if row.status is not ExecutionStatus.PAUSED or commit.execution_status.is_finished:
            row.status = commit.execution_status
        if commit.context is not None:
            row.context = dict(commit.context)
        waits = bool((commit.retry_details or {}).get("waitMs"))
        entry = JournalEntry(
            row.seq, commit.node_id, commit.visit, commit.attempt, commit.status, commit.handles, waits
        )
        variables = orjson.loads(commit.variables) if commit.variables is not None else None
        row.journal.append(JournalRow(entry, commit.output, variables))
        row.believed.append(commit)
        for wait in _open_waits(row):
            if wait.node_id in commit.closes:
                is_own = wait.node_id == commit.node_id and commit.woken_status is not None
                wait.status = commit.woken_status if is_own else WaitStatus.CANCELLED
        if commit.opens is not None:
            row.waits.append(self._opened(row, commit))

    def _opened(self, row: ExecutionRow, commit: NodeCommit) -> WaitRow:
        opens, now = commit.opens, row.updated_at
        assert opens is not None
        assert opens.type is not WaitType.EVENTS, "events are not simulated"
        resume_at = opens.resume_at or now + timedelta(seconds=opens.resume_in or 0)
        return WaitRow(commit.node_id, row.seq, commit.visit, opens.type, resume_at, commit.attempt, now)

    def update_execution_status(
        self, execution_id: str, status: ExecutionStatus, *, error: str | None = None
    ) -> None:
        _step(lambda: self._put(execution_id, status))

    def _put(self, execution_id: str, status: ExecutionStatus) -> None:
        row = self._database.row(execution_id)
        if status not in LEGAL_MOVES[row.status]:
            raise IllegalMove(execution_id, row.status.value, status.value)
        row.status, row.updated_at = status, self._database.clock.now()
        if status.is_finished:
            row.fence = str(uuid.uuid4())
            for wait in _open_waits(row):
                wait.status = WaitStatus.CANCELLED

    def status_of(self, execution_id: str) -> ExecutionStatus:
        return _step(lambda: self._database.row(execution_id).status)

    def persist_context(self, execution_id: str, fence: str, context: Mapping[str, Any]) -> bool:
        return _step(lambda: self._persist(execution_id, fence, context))

    def _persist(self, execution_id: str, fence: str, context: Mapping[str, Any]) -> bool:
        row = self._database.executions.get(execution_id)
        if row is None or row.fence != fence:
            return False
        row.context.update((key, value) for key, value in context.items() if key != "nodeOutputs")
        return True

    def load_snapshot(self, execution_id: str) -> Snapshot | None:
        return _step(lambda: self._snapshot(execution_id))

    def _snapshot(self, execution_id: str) -> Snapshot | None:
        if (row := self._database.executions.get(execution_id)) is None:
            return None
        return Snapshot(
            execution_id=execution_id,
            workflow_id=row.new.workflow_id,
            version=row.new.version,
            trigger_id=row.new.trigger_id,
            trigger_node_id=row.new.trigger_node_id,
            status=row.status,
            fence=row.fence,
            seq=row.seq,
            format=FORMAT,
            priority=row.new.priority,
            losses=row.losses.get(row.seq, Losses()),
            read_at=self._database.clock.now(),
            metadata=dict(row.metadata),
            visits={},
            journal=tuple(row.journal),
        )

    def load_output(self, execution_id: str, node_id: str) -> bytes | None:
        return _step(lambda: self._output(execution_id, node_id))

    def _output(self, execution_id: str, node_id: str) -> bytes | None:
        row = self._database.executions.get(execution_id)
        found = [
            journalled.output
            for journalled in (row.journal if row is not None else ())
            if journalled.entry.node_id == node_id and journalled.entry.status.is_final and journalled.output
        ]
        return found[-1] if found else None

    def count_loss(self, execution_id: str, seq: int, what: str) -> Losses:
        return _step(lambda: self._counted(execution_id, seq, what))

    def _counted(self, execution_id: str, seq: int, what: str) -> Losses:
        row = self._database.executions.get(execution_id)
        if row is None or row.seq != seq:
            return Losses()
        row.losses[seq] = Losses(row.losses.get(seq, Losses()).count + 1, what)
        return row.losses[seq]

    def record_interruption(self, execution_id: str, node_id: str, worker: str) -> None:
        _step(lambda: None)

    def seconds_since_move(self, execution_id: str) -> float:
        return _step(lambda: self._since_move(execution_id))

    def _since_move(self, execution_id: str) -> float:
        return (self._database.clock.now() - self._database.row(execution_id).updated_at).total_seconds()

    def load_definition(self, workflow_id: str, version: int) -> dict[str, Any] | None:
        return _step(lambda: self._database.definitions.get((workflow_id, version)))


class WaitsInMemory:
    """Stands in for `Waits`."""

    def __init__(self, database: PostgresInMemory, settings: Settings) -> None:
        self._database = database
        self._lease = settings.claim_lease

    def claim_due(self, limit: int = 200) -> list[DueWait]:
        return _step(lambda: self._claimed(limit))

    def _claimed(self, limit: int) -> list[DueWait]:
        now = self._database.clock.now()
        claimed = []
        for execution_id, row in self._database.executions.items():
            for wait in _open_waits(row):
                over_at = wait.resume_at if wait.status is WaitStatus.WAITING else wait.claimed_until
                if over_at is None or over_at > now or len(claimed) == limit:
                    continue
                wait.status = WaitStatus.RESUMING
                wait.claimed_until = now + timedelta(seconds=self._lease * 2**wait.claims)
                wait.claims += 1
                if row.status is not ExecutionStatus.PAUSED:
                    row.attention = True
                    claimed.append(_due(execution_id, row, wait, now))
        return claimed

    def woken(self, execution_id: str, node_id: str) -> WokenWait | None:
        return _step(lambda: self._woken(execution_id, node_id))

    def _woken(self, execution_id: str, node_id: str) -> WokenWait | None:
        row = self._database.executions.get(execution_id)
        for wait in _open_waits(row) if row is not None else ():
            if wait.node_id == node_id and wait.status is WaitStatus.RESUMING:
                began = min(
                    each.created_at
                    for each in row.waits
                    if (each.node_id, each.visit, each.attempt) == (node_id, wait.visit, wait.attempt)
                )
                waited = (self._database.clock.now() - began).total_seconds()
                return WokenWait(wait.type, "time", {}, waited)
        return None

    def take_attention(self, execution_id: str) -> list[str]:
        return _step(lambda: self._attention_taken(execution_id))

    def _attention_taken(self, execution_id: str) -> list[str]:
        if (row := self._database.executions.get(execution_id)) is None:
            return []
        row.attention = False
        return [wait.node_id for wait in row.waits if wait.status is WaitStatus.RESUMING]


def is_active(row: ExecutionRow) -> bool:
    """Whether the look for stalled executions would find it, once it has stood still."""
    return row.status in ACTIVE


def _open_waits(row: ExecutionRow) -> list[WaitRow]:
    return [wait for wait in row.waits if wait.status in OPEN]


def _due(execution_id: str, row: ExecutionRow, wait: WaitRow, now: datetime) -> DueWait:
    new = row.new
    return DueWait(execution_id, new.workflow_id, new.version, wait.node_id, row.seq, new.priority, now)


def _step(call: Callable[[], Answer], what: str = "") -> Answer:
    return step(call, DatabaseUnavailable("simulated"), what)

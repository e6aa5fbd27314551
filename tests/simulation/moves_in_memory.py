"""Operators' moves and timeouts in memory, behind the methods of `OperatorMoves` and `ExecutionTimeouts`."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

import orjson

from simulation.postgres_in_memory import PostgresInMemory, StateInMemory
from simulation.rows import ExecutionRow, context_at_rest, open_waits, put_aside_or_on
from workflow_engine.execution.records import FIRST_SEQ, JournalRow
from workflow_engine.execution.states import ExecutionStatus, SupersededFor, WaitStatus
from workflow_engine.execution.superseding import visits_after
from workflow_engine.postgres.executions.moves import Amendment, Change, CommitByHand, Moved
from workflow_engine.postgres.executions.timeouts import TimedOut


class MovesInMemory:
    """Stands in for `OperatorMoves`."""

    def __init__(self, database: PostgresInMemory) -> None:
        self._database = database

    def write(
        self, execution_id: str, change: Change, *, actor: str | None = None, reason: str | None = None
    ) -> Moved | None:
        row = self._database.executions.get(execution_id)
        if row is None or row.status not in change.sources or change.fence not in (None, row.fence):
            return None
        before = row.status
        follow_ups = None
        if change.status.is_finished:
            follow_ups = self._database.end(
                row, change.status, event=change.event, actor=actor, reason=reason
            )
        else:
            self._go_on(row, change)
            row.history.append((change.event or "", actor, reason))
        return Moved(before, row.seq, (follow_ups,))

    def commit(
        self,
        execution_id: str,
        by_hand: CommitByHand,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Moved | None:
        row = self._database.executions.get(execution_id)
        reopening, commit = by_hand.reopening, by_hand.commit
        if row is None or row.status not in by_hand.sources or commit.fence != row.fence:
            return None
        before = row.status
        if reopening is not None:
            self._go_on(row, reopening)
        result = StateInMemory(self._database).update_execution(replace(commit, fence=row.fence))
        row.history.append((by_hand.event, actor, reason))
        return Moved(before, result.seq, (result.follow_ups,), result.status)

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
        row = self._database.executions.get(execution_id)
        if row is None or row.status not in sources:
            return None
        row.breakpoints = {*row.breakpoints, node_id} if node_id is not None else set()
        row.wake_requested = True
        row.history.append((event, actor, reason))
        return Moved(row.status, row.seq, status=row.status)

    def amend(
        self,
        execution_id: str,
        amendment: Amendment,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Moved | None:
        row = self._database.executions.get(execution_id)
        if row is None or row.status not in amendment.sources or amendment.fence != row.fence:
            return None
        row.journal = [self._amended(each, amendment) for each in row.journal]
        row.context = context_at_rest(row)
        row.history.append((amendment.event, actor, reason))
        return Moved(row.status, row.seq, status=row.status)

    def _amended(self, each: JournalRow, amendment: Amendment) -> JournalRow:
        name, variables = amendment.variable, each.variables or {}
        if name is None:
            return replace(each, output=amendment.output) if each.entry.seq == amendment.seq else each
        if name not in variables and each.entry.seq != FIRST_SEQ:
            return each
        return replace(each, variables={**variables, name: orjson.loads(amendment.value or b"null")})

    def _go_on(self, row: ExecutionRow, change: Change) -> None:
        now = self._database.clock.now()
        if change.takes_fence:
            row.fence = str(uuid.uuid4())
        if change.version is not None:
            row.new = dataclasses.replace(row.new, version=change.version)
        if change.superseded_for is not None:
            self._supersede(row, change)
            row.seq += 1
            row.epoch_fence = row.fence
            row.crashes.clear()
            whole = self._database.definitions[row.new.workflow_id, row.new.version]["settings"]["timeout"]
            row.expires_at, row.timeout_left = now + timedelta(seconds=whole), None
        for wait in row.waits:
            if wait.seq in change.waiting and wait.status in (WaitStatus.CANCELLED, WaitStatus.RESUMING):
                was_woken = wait.claimed_until is not None
                wait.status = WaitStatus.RESUMING if was_woken else WaitStatus.WAITING
                wait.claimed_until = now if was_woken else None
        put_aside_or_on(row, change.status, now)

    def _supersede(self, row: ExecutionRow, change: Change) -> None:
        superseded = {each.seq for each in change.superseded}
        row.journal = [each for each in row.journal if each.entry.seq not in superseded]
        if change.superseded_for is SupersededFor.RERUN:
            row.visits = visits_after(row.visits, change.superseded)
        for wait in open_waits(row):
            if wait.seq in superseded:
                wait.status = WaitStatus.CANCELLED


class TimeoutsInMemory:
    """Stands in for `ExecutionTimeouts`."""

    def __init__(self, database: PostgresInMemory) -> None:
        self._database = database

    def end(self, limit: int = 200) -> list[TimedOut]:
        now = self._database.clock.now()
        overdue = [
            execution_id
            for execution_id, row in self._database.executions.items()
            if row.expires_at is not None and row.expires_at <= now
        ][:limit]
        for execution_id in overdue:
            row = self._database.executions[execution_id]
            error = f"the execution took longer than its timeout of {row.new.timeout:g} s"
            self._database.end(
                row, ExecutionStatus.FAILED, error=error, event="TIMED_OUT", actor="timekeeper", reason=error
            )
        return [TimedOut(execution_id) for execution_id in overdue]

"""Waits and children in memory, behind the methods of `Waits` and `Children`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson

from simulation.postgres_in_memory import PostgresInMemory, database_step
from simulation.rows import ChildrenRow, due_wait, open_waits
from workflow_engine.execution.records import DueWait, EndedChild, WokenWait
from workflow_engine.execution.states import ExecutionStatus, WaitStatus
from workflow_engine.postgres.executions.children import Tended
from workflow_engine.settings import Settings


class WaitsInMemory:
    """Stands in for `Waits`."""

    def __init__(self, database: PostgresInMemory, settings: Settings) -> None:
        self._database = database
        self._lease = settings.claim_lease

    def claim_due(self, limit: int = 200) -> list[DueWait]:
        return database_step(lambda: self._claimed(limit))

    def _claimed(self, limit: int) -> list[DueWait]:
        now = self._database.clock.now()
        claimed = []
        for execution_id, row in self._database.executions.items():
            for wait in open_waits(row):
                over_at = wait.resume_at if wait.status is WaitStatus.WAITING else wait.claimed_until
                if over_at is None or over_at > now or len(claimed) == limit:
                    continue
                wait.status = WaitStatus.RESUMING
                wait.claimed_until = now + timedelta(seconds=self._lease * 2**wait.claims)
                wait.claims += 1
                if row.status is not ExecutionStatus.PAUSED:
                    row.wake_requested = True
                    claimed.append(due_wait(execution_id, row, wait, now))
        return claimed

    def woken(self, execution_id: str, node_id: str) -> WokenWait | None:
        return database_step(lambda: self._woken(execution_id, node_id))

    def _woken(self, execution_id: str, node_id: str) -> WokenWait | None:
        row = self._database.executions.get(execution_id)
        for wait in open_waits(row) if row is not None else ():
            if wait.node_id == node_id and wait.status is WaitStatus.RESUMING:
                began = min(
                    each.created_at
                    for each in row.waits
                    if (each.node_id, each.visit, each.attempt) == (node_id, wait.visit, wait.attempt)
                )
                waited = (self._database.clock.now() - began).total_seconds()
                if wait.children is not None:
                    return WokenWait(
                        wait.type, "children", {}, waited, False, wait.seq, _counts(wait.children)
                    )
                return WokenWait(wait.type, "time", {}, waited)
        return None

    def take_wake_request(self, execution_id: str) -> list[str]:
        return database_step(lambda: self._wake_taken(execution_id))

    def _wake_taken(self, execution_id: str) -> list[str]:
        if (row := self._database.executions.get(execution_id)) is None:
            return []
        row.wake_requested = False
        return [wait.node_id for wait in row.waits if wait.status is WaitStatus.RESUMING]


def _counts(children: ChildrenRow) -> dict[str, Any]:
    plan = children.plan
    return {
        "workflow": "#".join(filter(None, (plan.start.workflow_id, plan.start.body))),
        "version": plan.start.version,
        "first": plan.first,
        "hasItems": plan.has_items,
        "total": plan.total,
        "tolerated": plan.tolerated,
        "completed": children.completed,
        "failed": children.failed,
    }


class ChildrenInMemory:
    """Stands in for `Children`."""

    def __init__(self, database: PostgresInMemory) -> None:
        self._database = database

    def due(self, limit: int = 100) -> list[tuple[str, int]]:
        return database_step(self._due)

    def _due(self) -> list[tuple[str, int]]:
        now = self._database.clock.now()
        return [
            (execution_id, wait.seq)
            for execution_id, row in self._database.executions.items()
            for wait in row.waits
            if wait.children is not None and wait.children.due is not None and wait.children.due <= now
        ]

    def tend(self, execution_id: str, seq: int, batch: int = 500) -> Tended:
        return database_step(lambda: self._tend(execution_id, seq, batch))

    def _tend(self, execution_id: str, seq: int, batch: int) -> Tended:
        row = self._database.row(execution_id)
        wait = next(each for each in row.waits if each.seq == seq)
        if wait.children is None or wait.children.due is None:
            return Tended()
        if wait.status is WaitStatus.WAITING:
            return Tended(self._database.go_on_with_children(row, wait))
        left = [
            child
            for child in self._database.executions.values()
            if child.place is not None
            and (child.place.parent_id, child.place.seq) == (execution_id, seq)
            and not child.status.is_finished
        ]
        for child in left[:batch]:
            self._database.end(child, ExecutionStatus.CANCELLED)
        wait.children.due = None if len(left) <= batch else self._database.clock.now()
        return Tended(cancelled=tuple(child.new.execution_id for child in left[:batch]))

    def ended(
        self,
        execution_id: str,
        seq: int,
        ends: Sequence[str],
        *,
        first: int = 0,
        only_failed: bool = False,
        **_: Any,
    ) -> list[EndedChild]:
        found = database_step(lambda: self._ended(execution_id, seq, ends, only_failed))
        return [child for child in found if child.index >= first]

    def _ended(self, execution_id: str, seq: int, ends: Sequence[str], only_failed: bool) -> list[EndedChild]:
        children = []
        for child_id, row in self._database.executions.items():
            place = row.place
            if place is None or (place.parent_id, place.seq) != (execution_id, seq):
                continue
            if not row.status.is_finished or (only_failed and row.status is ExecutionStatus.COMPLETED):
                continue
            outputs = {
                each.entry.node_id: orjson.loads(each.output)
                for each in row.journal
                if each.output is not None and each.entry.node_id in ends
            }
            children.append(EndedChild(place.index, child_id, row.status, outputs, row.error, {}))
        return sorted(children, key=lambda child: child.index)

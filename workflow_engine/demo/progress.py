"""The producer's side of the demo: it starts orders, and reads back how far their executions are.

All of it goes through `WorkflowClient`, as a shop's own code would. Orders arrive at a steady pace, as in a
shop, so the first are finished before the last come in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflow_engine.client import WorkflowClient
from workflow_engine.demo.payments import PaymentProvider
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.postgres.executions.queries import Execution, NodeExecution

ORDERS_PER_SECOND = 20.0
PAGE = 100


@dataclass
class Progress:
    """Executions of one workflow, from the order that starts each of them to its journal."""

    client: WorkflowClient
    workflow_id: str
    orders: Sequence[dict[str, Any]]
    provider: PaymentProvider
    started: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The order of every execution started, by execution id."""
    executions: dict[str, Execution] = field(default_factory=dict)
    """Each of them as it was read last."""
    journals: dict[str, Sequence[NodeExecution]] = field(default_factory=dict)
    """The journals of those that have ended."""
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """Time from the first order to the last look."""

    def start_orders(self) -> None:
        """Start an execution for every order that has come in by now."""
        arrived = min(len(self.orders), 1 + int((time.monotonic() - self.began) * ORDERS_PER_SECOND))
        for order in self.orders[len(self.started) : arrived]:
            self.provider.take_prepayment(order)
            self.started[self.client.start(self.workflow_id, order).id] = order

    def look(self) -> bool:
        """Read what has changed. Return False if nothing has moved since the last look."""
        before = (len(self.started), self.nodes)
        if moving := [id for id in self.started if id not in self.journals]:
            for execution in executions_since(self.client, self.workflow_id, min(moving)):
                if execution.id in self.started:
                    self.executions[execution.id] = execution
                    if execution.status is ExecutionStatus.WAITING:
                        self.provider.collect(self.started[execution.id])
        for id in moving:
            if id in self.executions and self.executions[id].is_finished:
                self.journals[id] = self.client.journal(id)
        self.seconds = time.monotonic() - self.began
        return before != (len(self.started), self.nodes)

    @property
    def is_complete(self) -> bool:
        return len(self.journals) == len(self.orders)

    @property
    def statuses(self) -> Counter[ExecutionStatus]:
        return Counter(execution.status for execution in self.executions.values())

    @property
    def nodes(self) -> int:
        """Nodes that workers have run so far."""
        return sum(execution.nodes_executed for execution in self.executions.values())

    @property
    def most_travelled(self) -> str:
        """Among executions with a retried node, the one that most processes have run."""

        def travels(id: str) -> tuple[bool, int, int]:
            journal = self.journals[id]
            is_retried = any(row.status is NodeStatus.RETRYING for row in journal)
            return is_retried, len({row.worker for row in journal}), len(journal)

        return max(self.journals, key=travels)

    @property
    def waits(self) -> Counter[str]:
        """How often nodes of each sub type, such as `delay`, have waited."""
        return Counter(row.sub_type for row in self.rows if row.status is NodeStatus.WAITING)

    @property
    def retries(self) -> int:
        """The number of attempts that failed and were followed by another."""
        return sum(row.status is NodeStatus.RETRYING for row in self.rows)

    @property
    def rows(self) -> Iterator[NodeExecution]:
        """The journal rows of all executions that have ended."""
        for journal in self.journals.values():
            yield from journal


def executions_since(client: WorkflowClient, workflow_id: str, oldest: str) -> Iterator[Execution]:
    """Yield the executions of a workflow from the newest back to the one of this id: ids sort by time."""
    before = None
    while page := client.list(workflow_id, limit=PAGE, before=before):
        for execution in page:
            if execution.id < oldest:
                return
            yield execution
        before = page[-1].id

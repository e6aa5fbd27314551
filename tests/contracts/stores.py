"""The stores of one fleet, real or simulated, as the contract uses them."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow_engine.definition.workflow import Edge, Node, Workflow, WorkflowSettings
from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.execution.records import NewExecution, NodeCommit, Snapshot
from workflow_engine.execution.states import ExecutionStatus, NodeStatus, WaitStatus
from workflow_engine.postgres.executions.children import Children
from workflow_engine.postgres.executions.moves import OperatorMoves
from workflow_engine.postgres.executions.state import ExecutionStateService
from workflow_engine.postgres.executions.timeouts import ExecutionTimeouts
from workflow_engine.postgres.waits import Waits
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.lock import DistributedLockService
from workflow_engine.settings import Settings

TIMEOUT = 60
"""Seconds that an execution of it may take."""

WORKFLOW = Workflow(
    id="contract",
    nodes=(
        Node(id="start", type="trigger", sub_type="manual"),
        Node(id="first", type="action", sub_type="function", config={"expression": "{{ 1 }}"}),
        Node(id="second", type="action", sub_type="function", config={"expression": "{{ first }}"}),
    ),
    edges=(Edge(source="start", target="first"), Edge(source="first", target="second")),
    settings=WorkflowSettings(timeout=TIMEOUT),
)


@dataclass(frozen=True)
class Shown:
    """An execution as its tables show it to an operator."""

    status: ExecutionStatus
    error: str | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None
    context: dict[str, Any]
    waits: list[tuple[str, WaitStatus]]
    """Node and status of each wait, in their order."""
    history: list[tuple[str, str | None, str | None]]
    """Type, actor and reason of what operators and timeouts did."""


@dataclass(frozen=True)
class Stores:
    """Postgres and Redis, and what a test may do behind the engine's back."""

    state: ExecutionStateService
    moves: OperatorMoves
    timeouts: ExecutionTimeouts
    waits: Waits
    children: Children
    cache: ExecutionContextCache
    locks: DistributedLockService
    other_locks: DistributedLockService
    """The locks of another process."""
    redis: Any
    """A client."""
    settings: Settings
    pass_time: Callable[[float], None]
    """Lets this many seconds pass for waits and timeouts."""
    show: Callable[[str], Shown]
    trigger_id: str

    def start(self) -> str:
        """Start an execution of `WORKFLOW`, of which only the trigger is done; return its id."""
        new = NewExecution(
            execution_id=str(uuid.uuid4()),
            workflow_id=WORKFLOW.id,
            version=1,
            trigger_id=self.trigger_id,
            trigger_node_id="start",
            trigger_sub_type="manual",
            data=b'{"orderId":42}',
            variables=b'{"currency":"EUR"}',
            queue="orders",
            priority=4,
            timeout=TIMEOUT,
            metadata={"from": "contract"},
        )
        return self.state.create_execution(new).id

    def snapshot(self, execution_id: str) -> Snapshot:
        found = self.state.load_snapshot(execution_id)
        assert found is not None
        return found

    def commit(self, execution_id: str, **changes: Any) -> NodeCommit:
        """Return a commit of the node `first`, with the present fence."""
        plain = NodeCommit(
            execution_id=execution_id,
            fence=self.snapshot(execution_id).fence,
            token=str(uuid.uuid4()),
            execution_status=ExecutionStatus.RUNNING,
            node_id="first",
            type="action",
            sub_type="function",
            status=NodeStatus.COMPLETED,
            worker="here:1",
            handles=("",),
            output=b'{"a":1}',
        )
        return dataclasses.replace(plain, **changes)

    def context(self, execution_id: str) -> dict[bytes, bytes]:
        """Return an execution's context as Redis holds it."""
        return dict(self.redis.hgetall(Keys.of(self.settings).context(execution_id)))

"""The stores of one fleet, real or simulated, as the contract meets them."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workflow_engine.context_cache import ExecutionContextCache
from workflow_engine.definition import Edge, Node, Workflow
from workflow_engine.execution_records import NewExecution, NodeCommit, Snapshot
from workflow_engine.execution_state import ExecutionStateService
from workflow_engine.lock import DistributedLockService
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus, NodeStatus
from workflow_engine.waits import Waits

WORKFLOW = Workflow(
    id="contract",
    nodes=(
        Node(id="start", type="trigger", sub_type="manual"),
        Node(id="first", type="action", sub_type="function", config={"expression": "{{ 1 }}"}),
        Node(id="second", type="action", sub_type="function", config={"expression": "{{ first }}"}),
    ),
    edges=(Edge(source="start", target="first"), Edge(source="first", target="second")),
)


@dataclass(frozen=True)
class Stores:
    """Postgres and Redis, and what a test may do behind the engine's back."""

    state: ExecutionStateService
    waits: Waits
    cache: ExecutionContextCache
    locks: DistributedLockService
    other_locks: DistributedLockService
    """Those of another process."""
    redis: Any
    """A client."""
    settings: Settings
    pass_time: Callable[[float], None]
    """Lets so many seconds pass for waits."""
    trigger_id: str

    def start(self) -> str:
        """The id of an execution of `WORKFLOW` whose trigger alone is done."""
        new = NewExecution(
            execution_id=str(uuid.uuid4()),
            workflow_id=WORKFLOW.id,
            version=1,
            trigger_id=self.trigger_id,
            trigger_node_id="start",
            trigger_sub_type="manual",
            data=b'{"orderId":42}',
            variables=b'{"currency":"EUR"}',
            priority=4,
            metadata={"from": "contract"},
        )
        return self.state.create_execution(new).id

    def snapshot(self, execution_id: str) -> Snapshot:
        found = self.state.load_snapshot(execution_id)
        assert found is not None
        return found

    def commit(self, execution_id: str, **changes: Any) -> NodeCommit:
        """That of the node `first`, with the present fence."""
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
        """What Redis holds of an execution's context."""
        return dict(self.redis.hgetall(self.settings.context_key(execution_id)))

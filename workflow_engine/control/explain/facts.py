"""Facts: what the servers show about one execution at one moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from workflow_engine.broker.queue_looks import QueueLook
from workflow_engine.definition.graph import Graph
from workflow_engine.execution.lost_messages import lost_after, lost_again_after
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.execution.walk import Walk
from workflow_engine.postgres.executions.diagnostics import (
    ExecutionFacts,
    KeptEvent,
    Pause,
    Requeued,
    WaitFacts,
)
from workflow_engine.postgres.limits import SlotStanding
from workflow_engine.redis.lock import Hold
from workflow_engine.redis.running_nodes import Progress
from workflow_engine.redis.worker_heartbeats import WorkerHeartbeat

POSTGRES, REDIS, BROKER = "Postgres", "Redis", "The broker"
"""The servers, as outages name them, too."""


@dataclass(frozen=True)
class Facts:
    """One execution, and what may keep it from moving."""

    execution: ExecutionFacts
    stall_after: float
    """Seconds without a move after which workers rescue an execution."""
    claim_lease: float
    """Seconds after which a woken node is woken again."""
    waits: Sequence[WaitFacts] = ()
    holds: Sequence[Hold] = ()
    """The holders of its lock that run a node."""
    disconnected: Collection[str] = ()
    """Which of their processes have no connection to Redis, by the lives of the holders."""
    pause: Pause | None = None
    requeue: Requeued | None = None
    lacking: Sequence[SlotStanding] = ()
    """The slots of limits that it and its nodes wait for."""
    queues: Mapping[str, QueueLook] = field(default_factory=dict)
    """The queues of its nodes, as far as the broker shows them."""
    queue_of: Mapping[str, str] = field(default_factory=dict)
    """The queue of each node whose wait is over."""
    workers: Sequence[WorkerHeartbeat] | None = None
    """The workers that are alive; None if they are unknown."""
    unasked: Mapping[str, str] = field(default_factory=dict)
    """The servers that could not be asked, each with the reason."""
    # Of an execution that is explained by itself
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """The last report of running nodes, by the token of their claim."""
    kept_events: Sequence[KeptEvent] = ()
    open_children: Mapping[str, tuple[str, ExecutionStatus]] = field(default_factory=dict)
    """The first child, and its status, of each node that waits for children."""
    graph: Graph | None = None
    walk: Walk | None = None

    @property
    def now(self) -> datetime:
        """The database's time."""
        return self.execution.read_at

    @property
    def rescued_at(self) -> datetime:
        """When workers rescue the execution, unless it moves before."""
        execution = self.execution
        look = self.queues.get(execution.due_queue)
        is_shown = look is not None and look.is_searched
        seconds = lost_after(self.stall_after) if is_shown else self.stall_after
        if execution.is_rescued:
            seconds = lost_again_after(self.stall_after, execution.recoveries)
        return execution.moved_at + timedelta(seconds=seconds)

    @property
    def moved_at(self) -> datetime:
        """When the execution was last committed or rescued."""
        return self.execution.moved_at

    def woken_at(self, wait: WaitFacts) -> datetime:
        """Return when a node whose wait is over was last sent to the workers."""
        if wait.woken_at is not None:
            return wait.woken_at
        claimed_until = wait.claimed_until or self.now
        return claimed_until - timedelta(seconds=self.claim_lease)

    def consumers(self, queue: str) -> list[WorkerHeartbeat]:
        """Return the workers that consume a queue."""
        return [worker for worker in self.workers or () if queue in worker.queues]

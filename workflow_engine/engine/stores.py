"""The stores that every step of a hop may use."""

from __future__ import annotations

from dataclasses import dataclass

from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.postgres.executions.children import Children
from workflow_engine.postgres.executions.parts import Parts
from workflow_engine.postgres.executions.queue_deadlines import QueueDeadlines
from workflow_engine.postgres.executions.state import ExecutionStateService
from workflow_engine.postgres.limits import Limits
from workflow_engine.postgres.waits import Waits
from workflow_engine.postgres.workflows.deployments import Deployments
from workflow_engine.redis.lock import DistributedLockService


@dataclass(frozen=True)
class Stores:
    """What Postgres and Redis keep of executions."""

    state: ExecutionStateService
    waits: Waits
    cache: ExecutionContextCache
    locks: DistributedLockService
    children: Children
    deployments: Deployments
    limits: Limits
    parts: Parts
    queue_deadlines: QueueDeadlines

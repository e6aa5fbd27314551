"""One worker of the simulated fleet: a process with the real engine in it, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from unittest.mock import patch

import orjson

from simulation.postgres_in_memory import CHECKS, COMMIT, PostgresInMemory, StateInMemory
from simulation.redis_in_memory import RedisClient, RedisInMemory
from simulation.steps import Fate, Process, step
from simulation.waits_in_memory import ChildrenInMemory, WaitsInMemory
from workflow_engine.broker.dispatcher import Backlog
from workflow_engine.engine.context_cache import ExecutionContextCache
from workflow_engine.engine.executor import WorkflowExecutor
from workflow_engine.engine.publisher import Publisher
from workflow_engine.engine.resumption import Resumption
from workflow_engine.engine.steps.attempts import Attempts
from workflow_engine.engine.stores import Stores
from workflow_engine.errors import (
    BackingServiceUnavailable,
    BrokerUnavailable,
    LeftToOthers,
    Requeue,
    WorkflowNotFound,
)
from workflow_engine.execution.messages import Dispatch, HopMessage, QueuedMessage
from workflow_engine.redis.lock import Claim, DistributedLockService, Holder
from workflow_engine.redis.lock_servers import OneServer
from workflow_engine.redis.running_nodes import RunningNode
from workflow_engine.runner.compiled import CompiledWorkflows
from workflow_engine.settings import Settings

# A node that keeps losing its process fails on purpose, which is another promise.
SETTINGS = Settings(max_recoveries=10_000)


@dataclass(frozen=True)
class Variant:
    """The engine unchanged, or with one of its checks removed."""

    edits: Mapping[str, str] = field(default_factory=dict)
    """Text of Redis scripts, and its replacement."""
    checks: Collection[str] = CHECKS
    """Those of Postgres."""
    queue_is_in_redis: bool = True
    """The broker is the Redis of the contexts, so that one call can leave a node and send the next."""
    executor: type[WorkflowExecutor] = WorkflowExecutor


@dataclass
class World:
    """The parts that the workers of a fleet share."""

    variant: Variant
    workflows: CompiledWorkflows
    redis: RedisInMemory
    database: PostgresInMemory
    queue: Queue
    losses: list[str] = field(default_factory=list)
    """Losses that only recovery can repair."""
    requeued: int = 0
    """Count of requeued messages."""


class Locks(DistributedLockService):
    """The real locks of one process; they are renewed by a move, not by a thread."""

    def keep_renewed(self, claim: Claim) -> None:
        self._held[claim.token] = claim


class NoDeployments:
    """Stands in for `Deployments`: children have bodies, which need none."""

    def starting_point(self, workflow_id: str, version: int | None = None) -> tuple[int, dict[str, str]]:
        raise WorkflowNotFound(workflow_id)


class NoLimits:
    """Stands in for `Limits`: no workflow of the simulation has any."""


class NoParts:
    """Stands in for `Parts`: no node of the simulation has work with parts."""


class NoQueueDeadlines:
    """Stands in for `QueueDeadlines`: no node of the simulation has any."""


class UnwatchedNodes:
    """Stands in for `RunningNodes`: no node reports its progress or is interrupted."""

    @contextmanager
    def running(self, claim: Claim, walked_to: str = "") -> Iterator[RunningNode]:
        yield RunningNode(claim)

    def interrupt(self, execution_id: str, holder: Holder) -> None:
        pass


@dataclass(frozen=True)
class Task:
    """A message as the broker delivers it; delivered again, its id is the same."""

    id: str
    message: HopMessage


class Queue:
    """Stands in for the broker."""

    def __init__(self, *, is_in_redis: bool) -> None:
        self._is_in_redis = is_in_redis
        self.tasks: list[Task] = []
        self._published = 0

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        step(lambda: self._put(dispatches), BrokerUnavailable("simulated"))

    def _put(self, dispatches: Sequence[Dispatch]) -> None:
        for dispatch in dispatches:
            self._append(dispatch.message)

    def queued(self, dispatch: Dispatch) -> QueuedMessage | None:
        return QueuedMessage("queue", orjson.dumps(dispatch.message)) if self._is_in_redis else None

    def push(self, content: bytes) -> None:
        """Append a message, once `queued`, that a script has pushed in Redis."""
        self._append(HopMessage(**orjson.loads(content)))

    def _append(self, message: HopMessage) -> None:
        self._published += 1
        self.tasks.append(Task(f"task-{self._published}", message))

    def executions_in(self, queue: str, priority: int) -> Collection[str] | None:
        return None

    def taken(self) -> Collection[str]:
        return ()

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        return Backlog.UNKNOWN


class Worker:
    """One process of the fleet, and the process that takes its place when it dies."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._born()

    def _born(self) -> None:
        # Hooks for forks would outlive every process of the simulation, by the ten thousand.
        with patch("os.register_at_fork", _ignored):
            self._assemble(self._world)

    def _assemble(self, world: World) -> None:
        client = RedisClient(world.redis)
        servers = OneServer(client, expiry_ms=30_000)
        self._process = Process()
        state, self._waits = StateInMemory(world.database), WaitsInMemory(world.database, SETTINGS)
        self.locks = Locks(client, servers, SETTINGS)
        cache = ExecutionContextCache(client, servers, self.locks, state, SETTINGS)
        self._children = ChildrenInMemory(world.database)
        without = (NoDeployments(), NoLimits(), NoParts(), NoQueueDeadlines())
        stores = Stores(state, self._waits, cache, self.locks, self._children, *without)
        self._publisher = Publisher(stores, world.workflows, world.queue, SETTINGS)
        self._resumption = Resumption(stores, world.workflows, self._publisher, SETTINGS)
        nodes = UnwatchedNodes()
        attempts = Attempts(stores, world.workflows, nodes, SETTINGS)
        self.executor = world.variant.executor(
            stores, world.workflows, attempts, nodes, self._publisher, SETTINGS
        )
        overlap = self.executor._overlap
        overlap.is_brief, overlap.start_looking = _always, _ignored  # type: ignore[method-assign]

    @property
    def is_idle(self) -> bool:
        return self._process.is_idle

    def go(self) -> None:
        self._process.go(Fate.DONE)

    def meet(self, fate: Fate) -> None:
        """Go on with a call that meets this fate."""
        if self.is_idle:
            return
        if fate is not Fate.REPLAYED and self._process.stopped_at != COMMIT:
            # A lock may stay behind, or recovery be cut short; commits are retried until they have a reply.
            self._world.losses.append("a server was unavailable")
        self._process.go(fate)

    def serve(self, task: Task) -> None:
        self._process.begin(lambda: self._serve(task))

    def _serve(self, task: Task) -> None:
        try:
            self.executor.continue_execution(task.message, task.id)
        except Requeue:
            self._world.requeued += 1
            self._world.queue.tasks.append(task)
        except LeftToOthers:
            pass  # recovery finds its execution

    def recover(self, execution_id: str) -> None:
        """Rescue an execution as recovery does, with the real executor in every variant."""
        self._process.begin(lambda: _attempt(lambda: self._resumption.resume(execution_id)))

    def wake(self) -> None:
        """Wake waits that are over and tend children, as a timekeeper does."""
        self._process.begin(lambda: _attempt(self._keep_time))

    def _keep_time(self) -> None:
        self._publisher.wake(self._waits.claim_due())
        for execution_id, seq in self._children.due():
            self._publisher.follow_up(self._children.tend(execution_id, seq).follow_ups)

    def die(self) -> None:
        if not self.is_idle:
            self._world.losses.append("a process died")
            self.end()
            self._born()

    def end(self) -> None:
        self._process.die()


def _ignored(**_: object) -> None:
    pass


def _always(*_: object) -> bool:
    return True


def _attempt(look: Callable[[], object]) -> None:
    with suppress(BackingServiceUnavailable):  # the next round tries again
        look()

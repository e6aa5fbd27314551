"""One worker of the simulated fleet: a process with the real engine in it, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from unittest.mock import patch

import orjson

from simulation.postgres_in_memory import COMMIT, PostgresInMemory, StateInMemory, WaitsInMemory
from simulation.redis_in_memory import RedisClient, RedisInMemory
from simulation.steps import Fate, Process, step
from workflow_engine.context_cache import ExecutionContextCache
from workflow_engine.dispatch import Backlog, Dispatch, HopMessage
from workflow_engine.enqueue import Enqueuer
from workflow_engine.entrance import Entrance
from workflow_engine.errors import BackingServiceUnavailable, BrokerUnavailable, GivenBack
from workflow_engine.executor import WorkflowExecutor
from workflow_engine.lock import Claim, DistributedLockService
from workflow_engine.lock_servers import OneServer
from workflow_engine.plan import Plans
from workflow_engine.queued_message import QueuedMessage
from workflow_engine.running_nodes import RunningNode
from workflow_engine.settings import Settings

# A node that loses its process again and again is failed on purpose, which is another promise.
SETTINGS = Settings(max_recoveries=10_000)


@dataclass(frozen=True)
class Variant:
    """The engine as it is, or with one of its checks taken away."""

    edits: Mapping[str, str] = field(default_factory=dict)
    """Text of Redis scripts, and what stands in its place."""
    checks_fence: bool = True
    queue_is_in_redis: bool = True
    """The broker is the Redis of the contexts, so that one call can leave a node and send the next."""
    cache: type[ExecutionContextCache] = ExecutionContextCache
    executor: type[WorkflowExecutor] = WorkflowExecutor


@dataclass
class World:
    """What the workers of a fleet share."""

    variant: Variant
    plans: Plans
    redis: RedisInMemory
    database: PostgresInMemory
    queue: Queue
    losses: list[str] = field(default_factory=list)
    """What only recovery can make good."""
    given_back: int = 0
    """How often a message was."""


class Locks(DistributedLockService):
    """The real locks of one process; they are renewed by a move, not by a thread."""

    def _start_renewer(self) -> None:
        pass


class NobodyTalks:
    """Stands in for `RunningNodes`: nobody asks how far a node is, nor interrupts it."""

    @contextmanager
    def running(self, claim: Claim) -> Iterator[RunningNode]:
        yield RunningNode(claim)


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
        """Redis has been given a message that was `queued`."""
        self._append(HopMessage(**orjson.loads(content)))

    def _append(self, message: HopMessage) -> None:
        self._published += 1
        self.tasks.append(Task(f"task-{self._published}", message))

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        return Backlog.UNKNOWN


class Worker:
    """One process of the fleet, and the process that takes its place when it dies."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._born()

    def _born(self) -> None:
        world = self._world
        client = RedisClient(world.redis)
        servers = OneServer(client, expiry_ms=30_000)
        self._process = Process()
        state, self._waits = StateInMemory(world.database), WaitsInMemory(world.database, SETTINGS)
        cache = world.variant.cache(client, servers, state, SETTINGS)
        # What is registered there would keep every process of the simulation for ever.
        with patch("os.register_at_fork", _ignored):
            self.locks = Locks(client, servers, SETTINGS)
        self._enqueuer = Enqueuer(state, cache, world.queue, world.plans, self._waits, SETTINGS)
        self._entrance = Entrance(state, cache, self.locks, world.plans, self._waits, self._enqueuer)
        self.executor = world.variant.executor(
            state, cache, self.locks, world.plans, self._entrance, NobodyTalks(), self._enqueuer, SETTINGS
        )

    @property
    def is_idle(self) -> bool:
        return self._process.is_idle

    def go(self) -> None:
        self._process.go(Fate.DONE)

    def meet(self, fate: Fate) -> None:
        """Go on with a call that does not go as it should."""
        if self.is_idle:
            return
        if fate is not Fate.REPLAYED and self._process.stopped_at != COMMIT:
            # A lock may stay behind, or a look be cut short; commits are repeated until they are answered.
            self._world.losses.append("a server was away")
        self._process.go(fate)

    def serve(self, task: Task) -> None:
        self._process.begin(lambda: self._serve(task))

    def _serve(self, task: Task) -> None:
        try:
            self.executor.continue_execution(task.message, task.id)
        except GivenBack:
            self._world.given_back += 1
            self._world.queue.tasks.append(task)

    def recover(self, execution_id: str) -> None:
        """Look after an execution, as recovery does; by the entrance, whatever the executor is."""
        self._process.begin(lambda: _attempt(lambda: self._entrance.resume(execution_id)))

    def wake(self) -> None:
        """Look for waits that are over, as a timekeeper does."""
        self._process.begin(lambda: _attempt(lambda: self._enqueuer.wake(self._waits.claim_due())))

    def die(self) -> None:
        if not self.is_idle:
            self._world.losses.append("a process died")
            self.end()
            self._born()

    def end(self) -> None:
        self._process.die()


def _ignored(**_: object) -> None:
    pass


def _attempt(look: Callable[[], object]) -> None:
    with suppress(BackingServiceUnavailable):  # there will be another look
        look()

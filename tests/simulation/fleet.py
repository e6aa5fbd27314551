"""Two workers, a queue and one execution, moved and disturbed one step at a time, and what became of it.

A test gives a list of moves; whatever they leave undone is then done undisturbed. What is never allowed: an
execution that does not end, a result other than the undisturbed one, a result committed twice, and one more
that is easily missed: standing still although nothing was lost. A message may be dropped only where somebody
else is bound to publish, so recovery, which would hide such a mistake, is called only after a real loss.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from unittest.mock import patch

import orjson

from simulation.postgres_in_memory import COMMIT, PostgresInMemory, StateInMemory, WaitsInMemory, is_active
from simulation.redis_in_memory import RedisClient, RedisInMemory
from simulation.shapes import DATA, SHAPES, TRIGGER, registry
from simulation.steps import Clock, Fate, Process, step
from workflow_engine.context_cache import ExecutionContextCache
from workflow_engine.definition import Workflow
from workflow_engine.dispatch import Backlog, Dispatch, HopMessage
from workflow_engine.enqueue import Enqueuer
from workflow_engine.entrance import Entrance
from workflow_engine.errors import BackingServiceUnavailable, BrokerUnavailable, GivenBack
from workflow_engine.execution_records import NewExecution
from workflow_engine.executor import WorkflowExecutor
from workflow_engine.lock import Claim, DistributedLockService
from workflow_engine.lock_servers import OneServer
from workflow_engine.outages import outages
from workflow_engine.plan import Plans
from workflow_engine.running_nodes import RunningNode
from workflow_engine.settings import Settings
from workflow_engine.states import ExecutionStatus
from workflow_engine.walk import Walk

EXECUTION = "01890000-0000-7000-8000-000000000001"

# A node that loses its process again and again is failed on purpose, which is another promise.
SETTINGS = Settings(max_recoveries=10_000)
LONGER_THAN_ANY_WAIT = 86_400.0
MOST_ROUNDS = 100
MOST_STEPS = 5_000


class Move(NamedTuple):
    """One thing that happens: to a worker, or to a store or the queue; `number` says how much or to which."""

    kind: str
    worker: int = 0
    number: int = 0


@dataclass(frozen=True)
class Variant:
    """The engine as it is, or with one of its checks taken away."""

    edits: Mapping[str, str] = field(default_factory=dict)
    """Text of scripts, and what stands in its place."""
    checks_fence: bool = True
    executor: type[WorkflowExecutor] = WorkflowExecutor


AS_IT_IS = Variant()


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

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self._published = 0

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        step(lambda: self._put(dispatches), BrokerUnavailable("simulated"))

    def _put(self, dispatches: Sequence[Dispatch]) -> None:
        for dispatch in dispatches:
            self._published += 1
            self.tasks.append(Task(f"task-{self._published}", dispatch.message))

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        return Backlog.UNKNOWN


class Worker:
    """One process of the fleet, and the process that takes its place when it dies."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._born()

    def _born(self) -> None:
        fleet = self._fleet
        client = RedisClient(fleet.redis)
        servers = OneServer(client, expiry_ms=30_000)
        self._process = Process()
        self._task: Task | None = None
        state, self._waits = StateInMemory(fleet.database), WaitsInMemory(fleet.database, SETTINGS)
        cache = ExecutionContextCache(client, servers, state, SETTINGS)
        with patch("os.register_at_fork"):  # which would keep every process of the simulation for ever
            self.locks = Locks(client, servers, SETTINGS)
        self._enqueuer = Enqueuer(state, cache, fleet.queue, fleet.plans, self._waits, SETTINGS)
        self._entrance = Entrance(state, cache, self.locks, fleet.plans, self._waits, self._enqueuer)
        self.executor = fleet.variant.executor(
            state, cache, self.locks, fleet.plans, self._entrance, NobodyTalks(), self._enqueuer, SETTINGS
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
            # A lock may stay locked, or a look be cut short. Commits alone are repeated until they are answered.
            self._fleet.lost("a server was away")
        self._process.go(fate)

    def serve(self, task: Task) -> None:
        self._process.begin(lambda: self._serve(task))

    def _serve(self, task: Task) -> None:
        try:
            self.executor.continue_execution(task.message, task.id)
        except GivenBack:
            self._fleet.given_back += 1
            self._fleet.queue.tasks.append(task)

    def recover(self) -> None:
        """Look after the execution, as recovery does; through the entrance, whatever a variant's executor does."""
        self._process.begin(lambda: _attempt(lambda: self._entrance.resume(EXECUTION)))

    def wake(self) -> None:
        """Look for waits that are over, as a timekeeper does."""
        self._process.begin(lambda: _attempt(lambda: self._enqueuer.wake(self._waits.claim_due())))

    def die(self) -> None:
        if not self.is_idle:
            self._fleet.lost("a process died")
        self._process.die()
        self._born()


def _attempt(look: Callable[[], object]) -> None:
    with suppress(BackingServiceUnavailable):  # there will be another look
        look()


class Fleet:
    """The whole simulation of one execution."""

    def __init__(self, shape: str, hops: str, variant: Variant = AS_IT_IS) -> None:
        self.variant = variant
        self.plans = _plans(shape, hops)
        self.clock = Clock()
        self.redis = RedisInMemory(variant.edits)
        self.database = PostgresInMemory(self.clock, checks_fence=variant.checks_fence)
        self.queue = Queue()
        self.losses: list[str] = []
        self.given_back = 0
        self.steps = 0
        self._copies: list[dict[bytes, bytes]] = []
        self.workers = (Worker(self), Worker(self))

    def lost(self, what: str) -> None:
        """Something only recovery can make good."""
        self.losses.append(what)

    # -- what happens ---------------------------------------------------------------------------------

    def start(self) -> None:
        self.workers[0].executor.execute_workflow(
            NewExecution(
                execution_id=EXECUTION,
                workflow_id="simulated",
                version=1,
                trigger_id="01890000-0000-7000-8000-0000000000aa",
                trigger_node_id=TRIGGER,
                trigger_sub_type="manual",
                data=orjson.dumps(DATA),
                variables=b'{"currency":"EUR"}',
            )
        )

    def make(self, move: Move) -> None:
        worker, number = self.workers[move.worker], move.number
        tasks, context = self.queue.tasks, self._context
        match move.kind:
            case "go":
                for _ in range(1 + number):
                    self._go(worker)
            case "unreachable" | "answer lost" | "replayed":
                worker.meet(FATES[move.kind])
            case "die":
                worker.die()
            case "lock expires":
                self.redis.strings.pop(_key(SETTINGS.lock_key), None)
            case "renew":
                worker.locks.renew()
            case "cache forgets":
                self.redis.hashes.pop(_key(SETTINGS.context_key), None)
            case "cache loses a field" if context:
                self.redis.execute("HDEL", _key(SETTINGS.context_key), sorted(context)[number % len(context)])
            case "cache goes back" if self._copies:
                self.redis.hashes[_key(SETTINGS.context_key)] = dict(self._copies[-1 - number % len(self._copies)])
            case "message doubled" if tasks:
                tasks.append(tasks[number % len(tasks)])
            case "message overtakes" if tasks:
                tasks.insert(0, tasks.pop(number % len(tasks)))
            case "message lost" if tasks:
                tasks.pop(number % len(tasks))
                self.lost("a message was lost")
            case "recover" if worker.is_idle:
                worker.recover()
            case "wake" if worker.is_idle:
                self.clock.pass_by(number)
                worker.wake()
        self._remember_context()

    def _go(self, worker: Worker) -> None:
        """One step of a worker; an idle one takes the next message."""
        self.steps += 1
        if not worker.is_idle:
            worker.go()
        elif self.queue.tasks:
            worker.serve(self.queue.tasks.pop(0))
        self._remember_context()

    @property
    def _context(self) -> dict[bytes, bytes]:
        return self.redis.hashes.get(_key(SETTINGS.context_key), {})

    def _remember_context(self) -> None:
        if (context := self._context) and (not self._copies or self._copies[-1] != context):
            self._copies.append(dict(context))

    # -- undisturbed, to the end -----------------------------------------------------------------------

    def settle(self) -> str | None:
        """Let everything go on until the execution has ended; what kept it from ending, if anything did."""
        row = self.database.row(EXECUTION)
        for _ in range(MOST_ROUNDS):
            if not self._drain():
                return "the fleet does not come to rest"
            if row.status.is_finished:
                return None
            # Nobody runs a node: a lock that is still there was left behind, and expires.
            self.redis.strings.pop(_key(SETTINGS.lock_key), None)
            if row.waits:
                self.clock.pass_by(LONGER_THAN_ANY_WAIT)
                self.workers[0].wake()
                self._drain()
            if self._drain_has_work():
                continue
            if row.status.is_finished:
                return None
            if is_active(row):
                if not self.losses:
                    return "the execution stands still although nothing was lost"
                self.workers[1].recover()
        return f"the execution was lost: {row.status}"

    def _drain_has_work(self) -> bool:
        return bool(self.queue.tasks)

    def _drain(self) -> bool:
        """Serve until nobody has anything to do, or messages only come back; False if that never ends."""
        given_back = self.given_back
        last = self.steps + MOST_STEPS
        while self.steps < last:
            busy = [worker for worker in self.workers if not worker.is_idle]
            if not busy and (not self.queue.tasks or self.given_back > given_back + 5):
                return True
            self._go(busy[self.steps % len(busy)] if busy else self.workers[self.steps % 2])
        return False

    # -- the verdict -----------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """The outputs of the nodes that end the workflow, and the variables."""
        row, graph = self.database.row(EXECUTION), self.plans.get("simulated", 1).graph
        variables: dict[str, Any] = {}
        for each in row.journal:
            variables.update(each.variables or {})
        outputs = {
            each.entry.node_id: orjson.loads(each.output)
            for each in row.journal
            if each.output and graph.is_end(each.entry.node_id)
        }
        return {"outputs": outputs, "variables": variables}

    def wrong_with_the_journal(self) -> Iterator[str]:
        row, graph = self.database.row(EXECUTION), self.plans.get("simulated", 1).graph
        entries = [each.entry for each in row.journal]
        finals = Counter((entry.node_id, entry.visit) for entry in entries if entry.status.is_final)
        for (node_id, _), count in finals.items():
            if count > 1:
                yield f"the result of {node_id} was committed {count} times"
        if [entry.seq for entry in entries] != list(range(1, row.seq + 1)):
            yield "the journal has a gap"
        try:
            if not Walk.replay(graph, TRIGGER, entries).is_finished:
                yield "the journal does not come to an end"
        except ValueError as error:
            yield f"the journal cannot be replayed: {error}"


FATES = {"unreachable": Fate.UNREACHABLE, "answer lost": Fate.ANSWER_LOST, "replayed": Fate.REPLAYED}


def problems(shape: str, hops: str, moves: Sequence[Move], variant: Variant = AS_IT_IS) -> list[str]:
    """Run an execution through these moves and to its end; which promises were broken."""
    fleet = Fleet(shape, hops, variant)
    with _quiet(), fleet.clock.running():
        try:
            fleet.start()
            for move in moves:
                fleet.make(move)
            stuck = fleet.settle()
        except Exception as error:  # noqa: BLE001 - whatever it is, a message must not be able to raise it
            return [f"{type(error).__name__}: {error}"]
        finally:
            for worker in fleet.workers:
                worker.die()
    found = [stuck] if stuck else []
    status = fleet.database.row(EXECUTION).status
    if status.is_finished and status is not ExecutionStatus.COMPLETED:
        found.append(f"the execution is {status}")
    if status is ExecutionStatus.COMPLETED:
        found.extend(fleet.wrong_with_the_journal())
        if fleet.result() != undisturbed(shape, hops):
            found.append(f"the result is {fleet.result()}")
    return found


@functools.cache
def undisturbed(shape: str, hops: str) -> dict[str, Any]:
    """The result if nothing happens."""
    fleet = Fleet(shape, hops)
    with _quiet(), fleet.clock.running():
        fleet.start()
        assert fleet.settle() is None
    return fleet.result()


@contextmanager
def _quiet() -> Iterator[None]:
    """What the engine says of the troubles is not read, and would cost more than the simulation."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        outages.forget()


@functools.cache
def _plans(shape: str, hops: str) -> Plans:
    """Plans hold nothing of an execution, so that all processes can share them."""
    stored = SHAPES[shape](hops).to_dict()
    plans = Plans(lambda *_: stored, registry())
    assert plans.get("simulated", 1).workflow == Workflow.from_stored(stored)
    return plans


def _key(name: Callable[[str], str]) -> bytes:
    return name(EXECUTION).encode()

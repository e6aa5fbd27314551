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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from simulation.postgres_in_memory import (
    ExecutionRow,
    PostgresInMemory,
    is_active,
)
from simulation.redis_in_memory import RedisInMemory
from simulation.shapes import DATA, SHAPES, TRIGGER, registry
from simulation.steps import Clock, Fate
from simulation.worker import SETTINGS, Queue, Variant, Worker, World
from workflow_engine.definition import Workflow
from workflow_engine.execution_records import FIRST_SEQ, NewExecution
from workflow_engine.graph import Graph
from workflow_engine.outages import outages
from workflow_engine.plan import Plans
from workflow_engine.states import ExecutionStatus
from workflow_engine.walk import Walk

EXECUTION = "01890000-0000-7000-8000-000000000001"

CONTEXT = SETTINGS.context_key(EXECUTION).encode()
LOCK = SETTINGS.lock_key(EXECUTION).encode()

STEP = 0.1
"""Seconds that each step takes."""

LONGER_THAN_ANY_WAIT = 86_400.0
MOST_ROUNDS = 100
MOST_STEPS = 5_000
MOST_RETURNS = 5

TO_MESSAGES = ("message doubled", "message overtakes")
TO_LOCKS = ("lock expires", "renew")
TO_CONTEXTS = ("cache goes back", "cache forgets", "cache loses a field")
TO_SERVERS = ("answer lost", "unreachable", "replayed")
LOSSES = ("die", "message lost")
LOOKS = ("recover", "wake")
KINDS = (*TO_MESSAGES, *TO_LOCKS, *TO_CONTEXTS, *TO_SERVERS, *LOSSES, *LOOKS)


class Move(NamedTuple):
    """One thing that happens: to a worker, or to a store or the queue; `number` says how much or to which."""

    kind: str
    worker: int = 0
    number: int = 0


def moves_of(kinds: Iterable[str]) -> list[Move]:
    """Moves to choose from, of which half let a worker go on: by few steps, or two would seldom meet."""
    disturbing = [Move(kind, worker, number) for kind in kinds for worker in (0, 1) for number in range(4)]
    going = [Move("go", worker, number) for number in (0, 0, 1, 1, 2, 3, 4) for worker in (0, 1)]
    return going * max(1, round(len(disturbing) / len(going))) + disturbing


AS_IT_IS = Variant()


class Fleet:
    """The whole simulation of one execution."""

    def __init__(self, shape: str, hops: str, variant: Variant = AS_IT_IS) -> None:
        self.clock = Clock()
        self._of = (shape, hops)
        self._plans = _plans(shape, hops)
        self._queue = Queue(is_in_redis=variant.queue_is_in_redis)
        self._redis = RedisInMemory(variant.edits, self._queue.push)
        self._database = PostgresInMemory(self.clock, checks_fence=variant.checks_fence)
        self._world = World(variant, self._plans, self._redis, self._database, self._queue)
        self._copies: list[dict[bytes, bytes]] = []
        self._steps = 0
        self._workers = (Worker(self._world), Worker(self._world))

    # -- what happens ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._workers[0].executor.execute_workflow(
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
        worker, number = self._workers[move.worker], move.number
        match move.kind:
            case "go":
                for _ in range(1 + number):
                    self._go(worker)
            case "unreachable" | "answer lost" | "replayed":
                worker.meet(FATES[move.kind])
            case "die":
                worker.die()
            case "renew":
                worker.locks.renew()
            case "recover" if worker.is_idle:
                worker.recover(EXECUTION)
            case "wake" if worker.is_idle:
                self.clock.pass_by(10 * number)
                worker.wake()
            case _:
                self._disturb(move.kind, number)
        self._remember_context()

    def _disturb(self, kind: str, number: int) -> None:
        tasks, context = self._queue.tasks, self._redis.hashes.get(CONTEXT, {})
        match kind:
            case "lock expires":
                self._redis.strings.pop(LOCK, None)
            case "cache forgets":
                self._redis.hashes.pop(CONTEXT, None)
            case "cache loses a field" if context:
                self._redis.execute("HDEL", CONTEXT, sorted(context)[number % len(context)])
            case "cache goes back" if self._copies:
                self._redis.hashes[CONTEXT] = dict(self._copies[-1 - number % len(self._copies)])
            case "message doubled" if tasks:
                tasks.append(tasks[number % len(tasks)])
            case "message overtakes" if tasks:
                tasks.insert(0, tasks.pop(number % len(tasks)))
            case "message lost" if tasks:
                tasks.pop(number % len(tasks))
                self._world.losses.append("a message was lost")

    def _go(self, worker: Worker) -> None:
        """One step of a worker; an idle one takes the next message."""
        self._steps += 1
        self.clock.pass_by(STEP)
        if not worker.is_idle:
            worker.go()
        elif self._queue.tasks:
            worker.serve(self._queue.tasks.pop(0))
        self._remember_context()

    def _remember_context(self) -> None:
        context = self._redis.hashes.get(CONTEXT)
        if context and (not self._copies or self._copies[-1] != context):
            self._copies.append(dict(context))

    def end(self) -> None:
        """Let go of whatever the workers were doing."""
        for worker in self._workers:
            worker.end()

    # -- undisturbed, to the end -----------------------------------------------------------------------

    def settle(self) -> str | None:
        """Let everything go on until the execution has ended; what kept it from ending, if anything did."""
        for _ in range(MOST_ROUNDS):
            if not self._drain():
                return "the fleet does not come to rest"
            if self.row.status.is_finished:
                return None
            # Nobody runs a node: a lock that is still there was left behind, and expires.
            self._redis.strings.pop(LOCK, None)
            if not self._queue.tasks:
                self._look_after()
            if not self._queue.tasks and is_active(self.row) and not self._world.losses:
                return "the execution stands still although nothing was lost"
        return f"the execution was lost: it is {self.row.status}"

    def _look_after(self) -> None:
        """As time goes by, waits are over, and what stands still is brought back."""
        self.clock.pass_by(LONGER_THAN_ANY_WAIT)
        self._workers[0].wake()
        self._drain()
        if is_active(self.row) and self._world.losses:
            self._workers[1].recover(EXECUTION)

    def _drain(self) -> bool:
        """Serve until nobody has anything to do, or messages only come back; False if that never ends."""
        last, given_back = self._steps + MOST_STEPS, self._world.given_back
        while self._steps < last:
            busy = [worker for worker in self._workers if not worker.is_idle]
            if not busy and (not self._queue.tasks or self._world.given_back > given_back + MOST_RETURNS):
                return True
            self._go(busy[self._steps % len(busy)] if busy else self._workers[self._steps % 2])
        return False

    # -- the verdict -----------------------------------------------------------------------------------

    @property
    def row(self) -> ExecutionRow:
        return self._database.row(EXECUTION)

    def result(self) -> dict[str, Any]:
        """The outputs of the nodes that end the workflow, and the variables."""
        variables: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        for each in self.row.journal:
            variables.update(each.variables or {})
            if each.output and self._graph.is_end(each.entry.node_id):
                outputs[each.entry.node_id] = orjson.loads(each.output)
        return {"outputs": outputs, "variables": variables}

    def broken_promises(self) -> Iterator[str]:
        """What is wrong with an execution that has come to its end, or to where it will not move from."""
        entries = [each.entry for each in self.row.journal]
        finals = Counter((entry.node_id, entry.visit) for entry in entries if entry.status.is_final)
        for (node_id, _), count in finals.items():
            if count > 1:
                yield f"the result of {node_id} was committed {count} times"
        if [entry.seq for entry in entries] != list(range(FIRST_SEQ, self.row.seq + 1)):
            yield "the journal is not numbered without gaps"
        for before, commit in pairwise(self.row.believed):
            if commit.fence != before.token:
                yield f"a commit of {commit.node_id} was believed with an old fence"
        if self.row.status is not ExecutionStatus.COMPLETED:
            yield f"the execution is {self.row.status}"
            return
        if (result := self.result()) != undisturbed(*self._of):
            yield f"the result is {result}"
        try:
            if not Walk.replay(self._graph, TRIGGER, entries).is_finished:
                yield "the journal does not come to an end"
        except ValueError as error:
            yield f"the journal cannot be replayed: {error}"

    @property
    def _graph(self) -> Graph:
        return self._plans.get("simulated", 1).graph


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
        except Exception as error:  # noqa: BLE001 - a hop and a look raise nothing that is not caught above
            stuck = f"{type(error).__name__}: {error}"
        finally:
            fleet.end()
    return [*([stuck] if stuck else []), *fleet.broken_promises()]


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

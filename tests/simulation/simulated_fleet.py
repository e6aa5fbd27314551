"""Two workers, a queue and one execution, moved and disturbed one step at a time, and then checked.

A test gives a list of moves; afterwards the fleet finishes the execution undisturbed. These are broken
promises: an execution that does not end, a result other than the undisturbed one, a result committed twice,
and a stall although nothing was lost. A message may be dropped only where another worker is bound to publish.
Recovery would hide such a mistake, so it is called only after a real loss.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from simulation.postgres_in_memory import PostgresInMemory
from simulation.redis_in_memory import RedisInMemory
from simulation.rows import ExecutionRow, is_active
from simulation.shapes import DATA, DEPEND_ON_ORDER, EFFECTS, RUNS_OF_ONCE, SHAPES, TRIGGER, registry
from simulation.steps import Clock, Fate
from simulation.worker import SETTINGS, Queue, Variant, Worker, World
from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import Workflow
from workflow_engine.engine.steps.attempts import CRASHED
from workflow_engine.execution.records import FIRST_SEQ, NewExecution, NodeCommit
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.execution.walk import Walk
from workflow_engine.outages import outages
from workflow_engine.redis.keys import Keys
from workflow_engine.runner.compiled import CompiledWorkflows

EXECUTION = "01890000-0000-7000-8000-000000000001"


KEYS = Keys.of(SETTINGS)
LOCKS = KEYS.lock("").encode()
"""The beginning of the keys of all locks."""


STEP = 0.03
"""Seconds that each step takes."""

LONGER_THAN_ANY_WAIT = 86_400.0
MOST_ROUNDS = 100
MOST_STEPS = 5_000
MOST_RETURNS = 5

TO_MESSAGES = ("message doubled", "message overtakes")
TO_LOCKS = ("lock expires", "renew")
TO_CONTEXTS = ("cache goes back", "cache loses a context", "cache loses a field")
TO_SERVERS = ("reply lost", "unreachable", "replayed")
TO_DATABASE = ("database goes back",)
LOSSES = ("die", "message lost")
LOOKS = ("recover", "wake")
COMMITS_LOST = "commits were lost"
KINDS = (*TO_MESSAGES, *TO_LOCKS, *TO_CONTEXTS, *TO_SERVERS, *LOSSES, *LOOKS)


class Move(NamedTuple):
    """One event: to a worker, or to a store or the queue; `number` says how much or to which."""

    kind: str
    worker: int = 0
    number: int = 0


def moves_of(kinds: Iterable[str]) -> list[Move]:
    """Return moves to choose from.

    Half of them let a worker go on: by few steps, or two would rarely meet.
    """
    disturbing = [Move(kind, worker, number) for kind in kinds for worker in (0, 1) for number in range(4)]
    going = [Move("go", worker, number) for number in (0, 0, 1, 1, 2, 3, 4) for worker in (0, 1)]
    return going * max(1, round(len(disturbing) / len(going))) + disturbing


AS_IT_IS = Variant()


class SimulatedFleet:
    """The whole simulation of one execution."""

    def __init__(
        self, shape: str, hops: str, variant: Variant = AS_IT_IS, *, keeps_rows: bool = False
    ) -> None:
        self.clock = Clock()
        self._of = (shape, hops)
        self._workflows = _workflows(shape, hops)
        self._queue = Queue(is_in_redis=variant.queue_is_in_redis)
        self._redis = RedisInMemory(variant.edits, self._queue.push, lambda: self.clock.seconds)
        self._database = PostgresInMemory(self.clock, checks=variant.checks)
        self._world = World(variant, self._workflows, self._redis, self._database, self._queue)
        self._copies: dict[bytes, list[dict[bytes, bytes]]] = {}
        self._rows: list[dict[str, ExecutionRow]] = []
        """Earlier states of the executions in the database, since it last went back."""
        self._keeps_rows = keeps_rows
        self._steps = 0
        self._has_lost_a_lock = False
        self._workers = (Worker(self._world), Worker(self._world))

    # -- what happens ---------------------------------------------------------------------------------

    def start(self) -> None:
        RUNS_OF_ONCE.clear()
        EFFECTS.clear()
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
                queue="orders",
            )
        )

    def make(self, move: Move) -> None:
        worker, number = self._workers[move.worker], move.number
        match move.kind:
            case "go":
                for _ in range(1 + number):
                    self._go(worker)
            case "unreachable" | "reply lost" | "replayed":
                worker.meet(FATES[move.kind])
            case "die":
                worker.die()
            case "renew":
                worker.locks.renew()
            case "recover" if worker.is_idle:
                worker.recover(self._one_of_all(number))
            case "wake" if worker.is_idle:
                self.clock.pass_by(10 * number)
                worker.wake()
            case _:
                self._disturb(move.kind, number)
        self._remember_context()

    def _one_of_all(self, number: int) -> str:
        """Return an execution: there is only one, unless it has children."""
        executions = list(self._database.executions)
        return executions[number % len(executions)]

    def _disturb(self, kind: str, number: int) -> None:
        execution_id = self._one_of_all(number)
        key, tasks = _context_key(execution_id), self._queue.tasks
        context, copies = self._redis.hashes.get(key, {}), self._copies.get(key, [])
        match kind:
            case "lock expires":
                locks = sorted(key for key in self._redis.strings if key.startswith(LOCKS))
                if locks:
                    del self._redis.strings[locks[number % len(locks)]]
                    self._has_lost_a_lock = True
            case "cache loses a context":
                self._redis.hashes.pop(key, None)
            case "cache loses a field" if context:
                self._redis.execute("HDEL", key, sorted(context)[number % len(context)])
            case "cache goes back" if copies:
                self._redis.hashes[key] = dict(copies[-1 - number % len(copies)])
            case "database goes back" if self._rows:
                self._database.executions = self._rows[-1 - number % len(self._rows)]
                self._rows.clear()
                self._world.losses.append(COMMITS_LOST)
            case "message doubled" if tasks:
                tasks.append(tasks[number % len(tasks)])
            case "message overtakes" if tasks:
                tasks.insert(0, tasks.pop(number % len(tasks)))
            case "message lost" if tasks:
                tasks.pop(number % len(tasks))
                self._world.losses.append("a message was lost")

    def _go(self, worker: Worker) -> None:
        """Move a worker by one step; an idle one takes the next message."""
        self._steps += 1
        self.clock.pass_by(STEP)
        if not worker.is_idle:
            worker.go()
        elif self._queue.tasks:
            worker.serve(self._queue.tasks.pop(0))
        self._remember_context()

    def _remember_context(self) -> None:
        executions = self._database.executions
        if self._keeps_rows and (not self._rows or _progress(self._rows[-1]) != _progress(executions)):
            self._rows.append(copy.deepcopy(executions))
        for key in map(_context_key, executions):
            context = self._redis.hashes.get(key)
            copies = self._copies.setdefault(key, [])
            if context and (not copies or copies[-1] != context):
                copies.append(dict(context))

    def end(self) -> None:
        """End the processes of the workers."""
        for worker in self._workers:
            worker.end()

    # -- undisturbed, to the end -----------------------------------------------------------------------

    def settle(self) -> str | None:
        """Let everything go on until the execution has ended; return what prevented its end, if anything."""
        for _ in range(MOST_ROUNDS):
            if not self._drain():
                return "the fleet does not come to rest"
            if self.row.status.is_finished:
                self._workers[
                    0
                ].wake()  # what is left is to cancel the children of a branch that was overtaken
                return None if self._drain() else "the fleet does not come to rest"
            # No worker runs a node: a lock that still exists was left behind, and expires.
            for key in [key for key in self._redis.strings if key.startswith(LOCKS)]:
                del self._redis.strings[key]
            if not self._queue.tasks:
                self._look_after()
            if not self._queue.tasks and self._active() and not self._world.losses:
                return "the execution has stalled although nothing was lost"
        return f"the execution was lost: it is {self.row.status}"

    def _look_after(self) -> None:
        """Let time pass, wake waits that are over, and rescue the execution if it has stalled."""
        self.clock.pass_by(LONGER_THAN_ANY_WAIT)
        self._workers[0].wake()
        self._drain()
        for execution_id in self._active() if self._world.losses else ():
            self._workers[1].recover(execution_id)
            self._drain()

    def _active(self) -> list[str]:
        return [each for each, row in self._database.executions.items() if is_active(row)]

    def _drain(self) -> bool:
        """Serve until all workers are idle, or messages are only requeued; False if that never ends."""
        last, requeued = self._steps + MOST_STEPS, self._world.requeued
        while self._steps < last:
            busy = [worker for worker in self._workers if not worker.is_idle]
            if not busy and (not self._queue.tasks or self._world.requeued > requeued + MOST_RETURNS):
                return True
            self._go(busy[self._steps % len(busy)] if busy else self._workers[self._steps % 2])
        return False

    # -- the verdict -----------------------------------------------------------------------------------

    @property
    def row(self) -> ExecutionRow:
        return self._database.row(EXECUTION)

    def result(self) -> dict[str, Any]:
        """Return the outputs of the nodes that end the workflow, and the variables."""
        variables: dict[str, Any] = {}
        outputs: dict[str, Any] = {}
        for each in self.row.journal:
            variables.update(each.variables or {})
            if each.output and self._graph.is_end(each.entry.node_id):
                outputs[each.entry.node_id] = orjson.loads(each.output)
        return {"outputs": outputs, "variables": variables}

    def broken_promises(self) -> Iterator[str]:
        """Yield what is wrong with executions that have ended or will not move any further."""
        yield from self._broken_by_children()
        # A server that has forgotten the mark cannot know of the run.
        if len(RUNS_OF_ONCE) > 1 and COMMITS_LOST not in self._world.losses:
            yield f"the node that must not be repeated ran {len(RUNS_OF_ONCE)} times"
        commits = [each for each in self.row.accepted if isinstance(each, NodeCommit)]
        errors = [commit.error_details or {} for commit in commits]
        may_have_crashed = self._world.losses or self._has_lost_a_lock
        if not may_have_crashed and any(error.get("type") == CRASHED for error in errors):
            yield "a node was taken for crashed although its process lived"
        entries = [each.entry for each in self.row.journal]
        finals = Counter((entry.node_id, entry.visit) for entry in entries if entry.status.is_final)
        for (node_id, _), count in finals.items():
            if count > 1:
                yield f"the result of {node_id} was committed {count} times"
        if [entry.seq for entry in entries] != list(range(FIRST_SEQ, self.row.seq + 1)):
            yield "the journal is not numbered without gaps"
        for before, row in pairwise(self.row.accepted):
            is_shared = isinstance(row, NodeCommit) and row.shared_since is not None
            if not is_shared and row.fence != before.token:
                yield f"a row of {row.node_id} was accepted with an old fence"
        if self.row.status is not ExecutionStatus.COMPLETED:
            yield f"the execution is {self.row.status}"
            return
        yield from self._effects_without_a_cause()
        result = self.result()
        if self._of not in DEPEND_ON_ORDER and result != undisturbed(*self._of):
            yield f"the result is {result}"
        try:
            if not Walk.replay(self._graph, TRIGGER, entries).is_finished:
                yield "the journal does not come to an end"
        except ValueError as error:
            yield f"the journal cannot be replayed: {error}"

    def _effects_without_a_cause(self) -> Iterator[str]:
        """Yield the effects that rest on a result which the journal does not have."""
        if COMMITS_LOST in self._world.losses:
            return
        outputs = {each.entry.node_id: orjson.loads(each.output) for each in self.row.journal if each.output}
        for node_id, causes in EFFECTS:
            for cause, output in causes.items():
                if outputs.get(cause) != output:
                    yield f"an effect of {node_id} rests on {cause}={output}, not {outputs.get(cause)}"

    def _broken_by_children(self) -> Iterator[str]:
        places = Counter(row.place for row in self._database.executions.values() if row.place is not None)
        for place, count in places.items():
            if count > 1:
                yield f"child {place.index} was started {count} times"
            parent, index = self._database.executions[place.parent_id], place.index
            for child in self._database.executions.values():
                if child.place == place and parent.status.is_finished and not child.status.is_finished:
                    yield f"child {index} runs on although its parent has ended"
        for execution_id, row in self._database.executions.items():
            if row.place is not None:
                entries = [each.entry for each in row.journal]
                finals = Counter((entry.node_id, entry.visit) for entry in entries if entry.status.is_final)
                if any(count > 1 for count in finals.values()):
                    yield f"a result of child {execution_id} was committed twice"

    @property
    def _graph(self) -> Graph:
        return self._workflows.get("simulated", 1).graph


def _context_key(execution_id: str) -> bytes:
    return KEYS.context(execution_id).encode()


def _progress(executions: dict[str, ExecutionRow]) -> list[tuple[int, str]]:
    return [(row.seq, row.status) for row in executions.values()]


FATES = {"unreachable": Fate.UNREACHABLE, "reply lost": Fate.REPLY_LOST, "replayed": Fate.REPLAYED}


def problems(shape: str, hops: str, moves: Sequence[Move], variant: Variant = AS_IT_IS) -> list[str]:
    """Run an execution through these moves and to its end; return the promises that were broken."""
    keeps_rows = any(move.kind in TO_DATABASE for move in moves)
    fleet = SimulatedFleet(shape, hops, variant, keeps_rows=keeps_rows)
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
    """Return the result of a run without any disturbance."""
    fleet = SimulatedFleet(shape, hops)
    with _quiet(), fleet.clock.running():
        fleet.start()
        assert fleet.settle() is None
    return fleet.result()


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off the engine's log, which is not read and would cost more than the simulation."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        outages.reset()


@functools.cache
def _workflows(shape: str, hops: str) -> CompiledWorkflows:
    """Return the compiled workflows, which all processes share: they hold no state of an execution."""
    stored = SHAPES[shape](hops).to_dict()
    workflows = CompiledWorkflows(lambda *_: stored, registry())
    assert workflows.get("simulated", 1).workflow == Workflow.from_stored(stored)
    return workflows

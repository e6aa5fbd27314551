"""Random trees of children, disturbed at random: no parent waits for nothing, no child outlives its parent.

Messages are lost and doubled, workers vanish with a lock, operators cancel, pause, retry and rerun executions
on any level, events arrive, time passes, cascades are cut short. In the end everything comes to rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hypothesis
import pytest

from support.broker import Broker, Workers
from support.parents import (
    MISCOUNTED,
    ORPHANS,
    TRIGGER,
    WAITING_FOR_NOTHING,
    body,
    delay,
    function,
    line,
    loop,
    sub_workflow,
)
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ChildNotAwaited, ExecutionMoved, IllegalMove, NodeNotFound
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.postgres.executions.stalled import Front

Sql = Callable[..., Any]

UNFINISHED = "SELECT id::text, status FROM executions WHERE completed_at IS NULL"

LEFT_UNDER_AN_END = """
SELECT c.id FROM executions c JOIN executions p ON p.id = c.parent_execution_id
WHERE c.completed_at IS NULL AND p.completed_at IS NOT NULL
"""

SEEDS = 8 if hypothesis.settings().max_examples <= 30 else 500
"""Trees of a run; of a thorough one, more."""


def event(node_id: str) -> dict[str, Any]:
    config = {"correlationId": "all", "events": [{"name": "go"}], "timeout": 300, "onTimeout": "continue"}
    return {"id": node_id, "type": "logic", "subType": "wait-events", "config": config}


def tree(dice: random.Random, depth: int = 0) -> list[dict[str, Any]]:
    """Return one to three nodes; some of them have bodies of such nodes."""
    nodes: list[dict[str, Any]] = []
    for _ in range(dice.randint(1, 3 if depth == 0 else 2)):
        name = f"n{dice.getrandbits(40):x}"
        inner = body(*tree(dice, depth + 1)) if depth < 3 else {}
        options: dict[str, Any] = dice.choice(
            [
                {},
                {},
                {"onError": "continue"},
                {"timeout": 400},
                {"retry": {"maxAttempts": 2, "waitDuration": 0}},
            ]
        )
        match dice.choice(["leaf", "leaf", "wait", "event", "loop", "group", "until"][: 7 if inner else 4]):
            case "leaf":
                nodes.append(function(name, dice.choice(["{{ 1 }}", "{{ 1 }}", "{{ 1 }}", "{{ 1 / 0 }}"])))
            case "wait":
                nodes.append(delay(name, 100))
            case "event":
                nodes.append(event(name))
            case "loop":
                items = list(range(dice.randint(1, 4)))
                config: dict[str, Any] = {
                    "concurrency": dice.randint(1, 3),
                    "tolerate": dice.choice([0, 0, 1]),
                }
                config |= {"itemVariable": f"i{name}", "indexVariable": f"x{name}"}
                nodes.append(loop(name, options, items=items, body=inner, **config))
            case "group":
                nodes.append(sub_workflow(name, options, body=inner))
            case "until":
                pause = {"duration": 50, "unit": "seconds"}
                nodes.append(loop(name, options, body=inner, until="{{ _index >= 2 }}", wait=pause))
    return nodes


def forked(dice: random.Random) -> dict[str, Any]:
    """Return a workflow of one or two branches, which may run at the same time."""
    settings = {"concurrency": dice.choice([1, 3])}
    definition = line("tree", *tree(dice), settings=settings)
    for _ in range(dice.randint(0, 1)):
        branch = body(TRIGGER, *tree(dice))
        definition["nodes"] += branch["nodes"][1:]
        definition["edges"] += branch["edges"]
    return definition


class Disturbance:
    """Random moves of workers, operators, senders of events and time."""

    def __init__(
        self,
        dice: random.Random,
        client: WorkflowClient,
        engines: tuple[Engine, Engine],
        broker: Broker,
        time_passes: Callable[[float], None],
        sql: Sql,
        redis: Any,
    ) -> None:
        self._redis = redis
        self._dice = dice
        self._client = client
        self._engines = engines
        self._workers = Workers(broker, *engines)
        self._broker = broker
        self._time_passes = time_passes
        self._sql = sql
        self._timekeepers = [Timekeeping(engine) for engine in engines]

    def move(self) -> None:
        kinds = ["hop"] * 8 + ["lose", "double", "shuffle", "vanish", "time", "time", "keep", "keep", "event"]
        kinds += ["cancel", "pause", "resume", "retry", "retry", "rerun", "cut"]
        getattr(self, self._dice.choice(kinds))()

    def hop(self) -> None:
        if self._broker.queue:
            self._workers.hop()

    def lose(self) -> None:
        if self._broker.queue:
            self._broker.take()

    def double(self) -> None:
        if self._broker.queue:
            self._broker.queue.append(self._broker.queue[0])

    def shuffle(self) -> None:
        self._broker.queue.rotate(self._dice.randint(1, 5))

    def vanish(self) -> None:
        """Let a worker take the lock of an execution, and die."""
        engine = self._dice.choice(self._engines)
        if (execution := self._any()) is not None:
            engine.locks.acquire_or_mark_contended(execution)

    def time(self) -> None:
        self._time_passes(self._dice.choice([10, 60, 120]))

    def keep(self) -> None:
        self._dice.choice(self._timekeepers).round()

    def event(self) -> None:
        self._client.send_event("all", "go")

    def cancel(self) -> None:
        self._operate(self._client.control.cancel)

    def pause(self) -> None:
        self._operate(
            lambda execution: self._client.control.pause(execution, children=self._dice.random() < 0.5)
        )

    def resume(self) -> None:
        self._operate(self._client.control.resume)

    def retry(self) -> None:
        self._operate(self._client.control.retry)

    def rerun(self) -> None:
        def rerun(execution: str) -> object:
            rows = self._client.journal(execution)
            return self._client.control.rerun(execution, self._dice.choice(rows).node_id)

        self._operate(rerun)

    def cut(self) -> None:
        """Let an operator's process die right after its move, before the children are seen to."""
        descendants = self._client.control.descendants
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(descendants, "see_to", lambda executions: None)
            self._operate(self._dice.choice([self._client.control.cancel, self._client.control.retry]))

    def rest(self) -> None:
        """Resume what is paused, and let everything come to rest."""
        for _ in range(60):
            for execution, status in self._sql(UNFINISHED):
                if status == "PAUSED":
                    with suppress(IllegalMove):
                        self._client.control.resume(execution)
            for engine in self._engines:
                engine.locks.stop_all_renewing()
            # Time passes for Redis too: locks expire, and messages that were sent long ago count as lost.
            for pattern in ("lock:execution:*", "execution:in-hand:*"):
                for key in self._redis.scan_iter(pattern):
                    self._redis.delete(key)
            self._workers.drain()
            self._time_passes(500)
            for timekeeper in self._timekeepers:
                timekeeper.round()
            for page in self._engines[0].stalled.pages(0, 0, lambda *_: Front(None)):
                for stalled in page:
                    self._engines[0].executor.resume_execution(stalled.id)
            if not self._broker.queue and not self._sql(UNFINISHED):
                return

    def _operate(self, operation: Callable[[str], object]) -> None:
        if (execution := self._any()) is not None:
            with suppress(IllegalMove, ChildNotAwaited, ExecutionMoved, NodeNotFound):
                operation(execution)

    def _any(self) -> str | None:
        found = [row[0] for row in self._sql("SELECT id::text FROM executions ORDER BY id")]
        return self._dice.choice(found) if found else None


@pytest.mark.parametrize("seed", range(SEEDS))
def test_in_a_disturbed_tree_no_parent_waits_for_nothing_and_no_child_is_left_behind(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    time_passes: Callable[[float], None],
    sql: Sql,
    redis_client: Any,
    seed: int,
) -> None:
    dice = random.Random(seed)
    client.deploy(forked(dice))
    for _ in range(2):
        client.start("tree")
    disturbance = Disturbance(dice, client, (engine, second_engine), broker, time_passes, sql, redis_client)

    for _ in range(60):
        disturbance.move()
        assert sql(WAITING_FOR_NOTHING) == []
        assert sql(ORPHANS) == []
        assert sql(MISCOUNTED) == []
    disturbance.rest()

    assert sql(UNFINISHED) == []
    assert sql(LEFT_UNDER_AN_END) == []
    assert {row[0] for row in sql("SELECT DISTINCT status FROM executions")} <= set(ExecutionStatus)

"""Nodes of one execution run at the same time, as many as its workflow allows, and none waits for another."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.redis_keys import let_redis_remember
from support.rescues import rescue
from support.workflows import calling
from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    Settings,
    Workflow,
    WorkflowBuilder,
    WorkflowClient,
    node,
    success,
    waiting,
)
from workflow_engine.control.moving import Move
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.lost_messages import LOST_AFTER
from workflow_engine.execution.walk import Walk
from workflow_engine.maintenance.recovery import TURN
from workflow_engine.redis.keys import Keys

Meanwhile = Callable[[], None]


def fan_out(
    *branches: Callable[..., Any], concurrency: int = 2, join: str = "all", **options: Any
) -> Workflow:
    """Return a workflow of a trigger, a branch for each function, and a merge of all of them."""
    flow = WorkflowBuilder("fan", settings={"concurrency": concurrency})
    start, merge = flow.trigger("start"), flow.merge("joined", join=join)
    for branch in branches:
        start >> calling(flow, branch, **options) >> merge
    return flow.build()


@pytest.fixture
def meanwhile(broker: Broker, second_engine: Engine) -> Meanwhile:
    """Return a function that has another worker serve the next message, while a node runs."""

    def serve() -> None:
        second_engine.executor.continue_execution(broker.take())

    return serve


def a() -> str:
    return "a"


def b() -> str:
    return "b"


def c() -> str:
    return "c"


def committed(client: WorkflowClient, execution: str) -> list[str]:
    return [row.node_id for row in client.journal(execution)]


def test_as_many_nodes_are_sent_as_may_run_at_the_same_time(client: WorkflowClient, broker: Broker) -> None:
    client.deploy(fan_out(a, b, c, concurrency=2))

    client.start("fan")

    assert [message.node_id for message in broker.messages] == ["a", "b"]


def test_a_branch_commits_while_another_runs_and_both_results_count(
    client: WorkflowClient, workers: Workers, meanwhile: Meanwhile
) -> None:
    def slow() -> str:
        meanwhile()
        return "slow"

    client.deploy(fan_out(slow, b))
    execution = client.start("fan").id

    workers.drain()

    assert client.get(execution).result == {"slow": "slow", "b": "b"}
    assert committed(client, execution) == ["start", "b", "slow", "joined"]


def test_the_next_node_is_sent_as_soon_as_a_place_is_free(
    client: WorkflowClient, broker: Broker, workers: Workers, meanwhile: Meanwhile
) -> None:
    sent: list[str] = []

    def slow() -> None:
        meanwhile()
        sent.extend(message.node_id for message in broker.messages)

    client.deploy(fan_out(slow, b, c))
    client.start("fan")

    workers.drain()

    assert sent == ["c"]


def test_variables_of_siblings_are_all_kept_and_the_last_commit_wins(
    client: WorkflowClient, workers: Workers, meanwhile: Meanwhile
) -> None:
    def slow() -> Any:
        meanwhile()
        return success(variables={"by_slow": 1, "last": "slow"})

    def quick() -> Any:
        return success(variables={"by_quick": 2, "last": "quick"})

    client.deploy(fan_out(slow, quick))
    execution = client.start("fan").id

    workers.drain()

    assert client.context(execution).variables == {"by_slow": 1, "by_quick": 2, "last": "slow"}


@pytest.mark.parametrize(("concurrency", "processes"), [(2, 6), (8, 6), (64, 6), (8, 1)])
def test_however_branches_interleave_each_runs_once_and_the_journal_replays(
    client: WorkflowClient,
    broker: Broker,
    engine: Engine,
    new_engine: Callable[..., Engine],
    concurrency: int,
    processes: int,
) -> None:
    runs: Counter[str] = Counter()
    overlapping: list[int] = []
    running: set[str] = set()

    def body(context: ExecutionContext) -> str:
        name = context.current_node_id
        runs[name] += 1
        running.add(name)
        overlapping.append(len(running))
        time.sleep(0.001 * (int(name[1:]) % 3))
        running.discard(name)
        return name

    node("test.body")(body)
    flow = WorkflowBuilder("fan", settings={"concurrency": concurrency})
    start, merge = flow.trigger("start"), flow.merge("joined")
    for number in range(60):
        (
            start
            >> flow.python(f"n{2 * number}", "test.body")
            >> flow.python(f"n{2 * number + 1}", "test.body")
            >> merge
        )
    client.deploy(flow.build())
    execution = client.start("fan").id

    def serve(engine: Engine) -> None:
        while not client.get(execution).is_finished:
            try:
                message = broker.take()
            except IndexError:
                time.sleep(0.001)
            else:
                engine.executor.continue_execution(message)

    engines = [new_engine(database_pool_size=6) for _ in range(processes)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(serve, engines * (6 // processes), timeout=60))

    found = client.get(execution)
    assert found.result == {f"n{number}": f"n{number}" for number in range(1, 120, 2)}
    assert set(runs.values()) == {1}
    assert 1 < max(overlapping) <= concurrency
    snapshot = engine.state.load_snapshot(execution)
    assert snapshot is not None
    graph = engine.workflows.get("fan", 1).graph
    assert Walk.replay(graph, "start", [row.entry for row in snapshot.journal]).is_finished


def test_a_merge_that_goes_on_with_the_first_arrival_ends_a_running_branch(
    client: WorkflowClient, workers: Workers, meanwhile: Meanwhile
) -> None:
    def slow() -> str:
        meanwhile()  # b
        meanwhile()  # the merge, after which nobody needs this node
        return "slow"

    client.deploy(fan_out(slow, b, join="any"))
    execution = client.start("fan").id

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert client.get(execution).result == "b"
    assert committed(client, execution) == ["start", "b", "joined"]


def test_a_failure_ends_the_execution_and_a_retry_runs_the_siblings_that_were_refused(
    client: WorkflowClient, workers: Workers, meanwhile: Meanwhile
) -> None:
    keys: list[str] = []

    def slow(context: ExecutionContext) -> str:
        keys.append(context.idempotency_key)
        if len(keys) == 1:
            meanwhile()
        return "slow"

    def fails() -> str:
        if len(keys) == 1:
            raise RuntimeError("no")
        return "well"

    client.deploy(fan_out(slow, fails))
    execution = client.start("fan").id
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED
    assert committed(client, execution) == ["start", "fails"]

    client.control.retry(execution)
    workers.drain()

    assert client.get(execution).result == {"slow": "slow", "fails": "well"}
    assert keys == [f"{execution}:slow:1"] * 2


def test_an_execution_waits_once_all_branches_do(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    meanwhile: Meanwhile,
    time_passes: Callable[[float], None],
) -> None:
    def slow(context: ExecutionContext) -> Any:
        if context.wake is not None:
            return "slow"
        meanwhile()
        return waiting(seconds=60)

    def quick(context: ExecutionContext) -> Any:
        return waiting(seconds=60) if context.wake is None else "quick"

    client.deploy(fan_out(slow, quick))
    execution = client.start("fan").id
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.WAITING

    time_passes(61)
    engine.publisher.wake(engine.waits.claim_due(10))
    workers.drain()

    assert client.get(execution).result == {"slow": "slow", "quick": "quick"}


def test_a_woken_node_that_finds_all_places_taken_is_sent_by_the_next_that_leaves(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    meanwhile: Meanwhile,
    time_passes: Callable[[float], None],
) -> None:
    overlapping: list[int] = []
    running: set[str] = set()

    def nap(context: ExecutionContext) -> Any:
        if context.wake is None:
            return waiting(seconds=60)
        overlapping.append(len(running) + 1)
        return "nap"

    def one() -> None:
        running.add("one")
        meanwhile()
        running.discard("one")

    def two() -> None:
        running.add("two")
        time_passes(61)
        engine.publisher.wake(engine.waits.claim_due(10))
        broker.queue.rotate(1)
        assert broker.messages[0].node_id == "nap"
        meanwhile()
        running.discard("two")

    client.deploy(fan_out(nap, one, two))
    execution = client.start("fan").id

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert max(overlapping) <= 2


def test_a_lost_message_of_a_branch_is_sent_again_although_its_sibling_commits(
    client: WorkflowClient, broker: Broker, workers: Workers, settings: Settings, redis_client: redis.Redis
) -> None:
    client.deploy(fan_out(a, b, c))
    execution = client.start("fan").id
    workers.hop()
    lost = broker.take()
    assert lost.node_id == "b"
    redis_client.zincrby(Keys.of(settings).in_hand(execution), -settings.stall_after * 1000, "b")

    workers.drain()

    assert client.get(execution).result == {"a": "a", "b": "b", "c": "c"}


def test_a_lost_message_of_a_branch_is_sent_again_after_seconds_although_its_sibling_runs(
    client: WorkflowClient,
    broker: Broker,
    engine: Engine,
    settings: Settings,
    redis_client: redis.Redis,
    sql: Callable[..., Any],
) -> None:
    def slow() -> str:
        seconds = LOST_AFTER + 0.5
        assert seconds < settings.stall_after
        sql("UPDATE executions SET updated_at = updated_at - %s * interval '1 s' RETURNING id", seconds)
        redis_client.zincrby(Keys.of(settings).in_hand(execution), -seconds * 1000, "b")
        let_redis_remember(settings)
        assert rescue(engine) == 1
        return "slow"

    client.deploy(fan_out(slow, b))
    execution = client.start("fan").id
    assert broker.queue.pop().message.node_id == "b"

    Workers(broker, engine).drain()

    assert client.get(execution).result == {"slow": "slow", "b": "b"}


def test_a_branch_that_runs_is_known_again_after_redis_has_lost_its_data(
    client: WorkflowClient,
    broker: Broker,
    engine: Engine,
    settings: Settings,
    redis_client: redis.Redis,
    sql: Callable[..., Any],
) -> None:
    seen: list[tuple[list[str], int, int]] = []

    def slow() -> str:
        redis_client.flushdb()
        engine.locks.renew()
        for _ in range(2):
            sql(
                "UPDATE executions SET updated_at = updated_at - interval '10 s', "
                "recovered_at = recovered_at - interval '10 s' RETURNING id"
            )
            let_redis_remember(settings, 9)
            redis_client.delete(Keys.of(settings).lease(TURN))
            rescued = rescue(engine)
            [(recoveries,)] = sql("SELECT recoveries FROM executions")
            seen.append(([each.node_id for each in engine.locks.holders(execution)], rescued, recoveries))
        return "slow"

    client.deploy(fan_out(slow))
    execution = client.start("fan").id

    Workers(broker, engine).drain()

    assert seen == [(["slow"], 0, 1), (["slow"], 0, 1)], "it is looked at once, and is not rescued"
    assert client.get(execution).result == {"slow": "slow"}


def test_operators_see_and_interrupt_all_nodes_that_run(
    client: WorkflowClient, broker: Broker, engine: Engine, second_engine: Engine
) -> None:
    moves: list[Move] = []

    def outer() -> None:
        second_engine.executor.continue_execution(broker.take(), "task-2")

    def inner(context: ExecutionContext) -> None:
        moves.append(client.control.pause(context.execution_id))
        client.control.resume(context.execution_id)
        moves.append(client.control.cancel(context.execution_id))

    client.deploy(fan_out(outer, inner))
    execution = client.start("fan").id

    engine.executor.continue_execution(broker.take(), "task-1")
    Workers(broker, engine).drain()

    assert [holder.node_id for holder in moves[0].holders] == ["outer", "inner"]
    assert moves[1].interrupted == moves[0].holders
    assert client.get(execution).status is ExecutionStatus.CANCELLED
    assert committed(client, execution) == ["start"]

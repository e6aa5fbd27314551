"""Executions that lost their message or their worker are found, and nothing else is taken for one of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.rescues import one, rescue, two
from support.workflows import line
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage
from workflow_engine.execution.walk import Walk
from workflow_engine.maintenance import recovery as recovery_module
from workflow_engine.maintenance.recovery import Recovery
from workflow_engine.redis.keys import Keys

Sql = Callable[..., list[tuple[Any, ...]]]

pytestmark = pytest.mark.usefixtures("redis_has_kept_its_data")


def test_an_execution_whose_message_was_lost_goes_on(
    client: WorkflowClient,
    workers: Workers,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    stand_still(31)

    assert look() == 1
    workers.drain()

    assert client.get(execution).result == 2


def test_lost_messages_in_the_middle_are_no_losses_of_processes(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    for _ in range(5):
        stand_still(31)
        assert look() == 1
        broker.queue.clear()
    assert sql("SELECT crashes, recoveries FROM executions") == [(None, 5)]

    stand_still(31)
    look()
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_an_execution_that_moved_a_moment_ago_is_left_alone(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(2)

    assert look() == 0
    assert not broker.queue


def test_an_execution_that_was_just_rescued_is_given_time(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(4)

    assert [look(), look()] == [1, 0]
    assert len(broker.queue) == 1


def test_an_execution_whose_second_message_was_lost_too_is_soon_rescued_again(
    broker: Broker, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(4)
    rescued = []
    for seconds in (0, 0.6, 0.6, 0.6, 1.1, 2.1, 3, 1.1):
        stand_still(seconds)
        rescued.append(look())
        broker.queue.clear()

    assert rescued == [1, 1, 1, 1, 1, 1, 0, 1]


def test_a_node_that_runs_for_long_is_left_alone(
    engine: Engine, execution: str, stand_still: Callable[..., None], look: Callable[[], int]
) -> None:
    stand_still(3600)
    claim = engine.locks.acquire_lock(execution, "task")
    assert claim is not None

    assert look() == 0

    engine.locks.release_lock(claim)
    assert look() == 1


def test_a_look_at_many_executions_lets_the_timekeeper_do_its_other_work(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    stand_still: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery_module, "SLICE", 0.0)
    client.deploy(line(one, two))
    started = {client.start("line").id for _ in range(5)}
    broker.queue.clear()
    stand_still(31)
    recovery = Recovery(engine)

    looks = [recovery.rescue_stalled()]
    while recovery.is_looking:
        time.sleep(recovery.seconds_until_look)
        looks.append(recovery.rescue_stalled())

    assert (sum(looks), max(looks)) == (5, 1)
    assert {message.execution_id for message in broker.messages} == started


def test_a_start_that_never_published_is_executed(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    client.deploy(line(one, two))
    broker.is_away = True
    execution = client.start("line").id
    broker.is_away = False
    stand_still(31)

    look()
    workers.drain()

    assert client.get(execution).result == 2


@pytest.mark.parametrize("status", ["pause", "cancel"])
def test_an_execution_that_an_operator_stopped_is_left_alone(
    client: WorkflowClient,
    execution: str,
    status: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    getattr(client.control, status)(execution)
    stand_still(3600)

    assert look() == 0


def _die_with_a_node(engine: Engine, message: HopMessage, redis_client: redis.Redis) -> None:
    """Leave what a worker leaves that was killed while it ran a node, once its lock has expired."""
    plan = engine.workflows.get(message.workflow, message.version)
    claim = engine.locks.new_claim(message.execution_id, "a task", message.node_id)
    engine.cache.enter(claim, message.node_id, message.seq, plan.needs(message.node_id))
    snapshot = engine.state.load_snapshot(message.execution_id)
    assert snapshot is not None
    engine.cache.cache_context(claim, snapshot, Walk.start(plan.graph, snapshot.trigger_node_id).to_json())
    engine.locks.stop_all_renewing()
    redis_client.delete(Keys.of(engine.settings).lock(message.execution_id))


def test_a_worker_that_died_with_a_node_is_counted_and_the_node_fails_after_too_many(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    stand_still: Callable[..., None],
    look: Callable[[], int],
    redis_client: redis.Redis,
) -> None:
    client.deploy(line(one, two))
    execution = client.start("line").id
    for _ in range(engine.settings.max_recoveries + 1):
        engine.executor.resume_execution(execution)
        _die_with_a_node(engine, broker.take(), redis_client)
        broker.queue.clear()
        stand_still(31)
        assert look() == 1

    workers.drain()

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert re.search(r"was lost 4 times, most recently on .+, which started it at 20", failed.error or "")
    assert [row.status for row in client.journal(execution)] == [NodeStatus.COMPLETED, NodeStatus.FAILED]


def test_only_one_worker_looks_at_a_time(
    engine: Engine, second_engine: Engine, broker: Broker, execution: str, stand_still: Callable[..., None]
) -> None:
    stand_still(31)

    assert rescue(engine) == 1
    stand_still(31)
    assert rescue(second_engine) == 0


def test_those_that_have_stood_for_longest_are_rescued_first(
    client: WorkflowClient,
    broker: Broker,
    stand_still: Callable[..., None],
    look: Callable[[], int],
) -> None:
    client.deploy(line(one, two))
    started = [client.start("line").id for _ in range(3)]
    broker.queue.clear()
    for seconds, execution in zip((50, 90, 70), started, strict=True):
        stand_still(seconds, execution)

    assert look() == 3
    assert [message.execution_id for message in broker.messages] == [started[1], started[2], started[0]]

    # A rescue that is lost makes no execution younger.
    broker.queue.clear()
    stand_still(31)
    assert look() == 3
    assert broker.messages[0].execution_id == started[1]


def test_one_execution_that_cannot_be_read_does_not_hold_up_others(
    client: WorkflowClient,
    execution: str,
    stand_still: Callable[..., None],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    client.start("line")
    sql(f"UPDATE executions SET format = 99 WHERE id = '{execution}'")
    stand_still(31)

    assert look() == 1

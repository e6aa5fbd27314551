"""A waiting node holds no worker, no message and no lock, and goes on anywhere once its wait is over."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.nodes.patient import HOUR, before, cool_off, statuses, waits, wakes
from support.polling import poll
from support.redis_keys import keys_in
from support.workflows import line
from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    NodeExecutionResult,
    NodeStatus,
    WorkflowBuilder,
    WorkflowClient,
    success,
    waiting,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.context import Wake
from workflow_engine.execution.records import DueWait
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.registry import FreeConfig, registry
from workflow_engine.postgres.due_times import NextDue
from workflow_engine.redis.keys import Keys

TimePasses = Callable[[float], None]
WakeDue = Callable[[], list[str]]
Sql = Callable[..., Any]


def after(context: ExecutionContext) -> list[str]:
    return [*context.metadata["executionPath"]]


@pytest.fixture
def execution(client: WorkflowClient, workers: Workers) -> str:
    """Return an execution that waits for an hour, with a node before the wait and one after it."""
    client.deploy(line(before, cool_off, after))
    execution_id = client.start("line", {"customer": "ä"}).id
    workers.drain()
    return execution_id


def next_due(engine: Engine) -> NextDue:
    return engine.due_times.next()


# -- while it waits --------------------------------------------------------------------------------------


def test_a_waiting_execution_has_a_row_for_its_wait_and_neither_message_nor_lock(
    client: WorkflowClient,
    broker: Broker,
    redis_client: redis.Redis,
    engine: Engine,
    execution: str,
    sql: Sql,
) -> None:
    assert client.get(execution).status is ExecutionStatus.WAITING
    assert statuses(client, execution) == [
        ("before", NodeStatus.COMPLETED),
        ("cool_off", NodeStatus.WAITING),
    ]
    assert waits(sql) == [("cool_off", "DELAY", "WAITING")]
    assert broker.messages == []
    assert not engine.locks.is_locked(execution)
    assert [key.decode() for key in keys_in(redis_client)] == [Keys.of(engine.settings).context(execution)]


def test_the_context_at_rest_equals_that_before_and_after_the_wait_field_by_field(
    engine: Engine, second_engine: Engine, execution: str, sql: Sql, redis_client: redis.Redis
) -> None:
    cached = engine.cache.load_context(execution).to_dict()
    redis_client.flushdb()
    recovered = second_engine.cache.load_context(execution).to_dict()
    ((at_rest, in_view),) = sql(
        "SELECT e.context, v.context FROM executions e JOIN execution_contexts v ON v.execution_id = e.id"
    )

    assert cached == recovered == in_view
    assert cached["currentNodeId"] == "cool_off"
    assert cached["nodeOutputs"] == {"start": {"customer": "ä"}, "before": {"order": 42}}
    assert cached["variables"] == {"currency": "EUR"}
    assert cached["metadata"]["executionPath"] == ["start", "before", "cool_off"]
    # At rest everything but what is the journal: outputs and path.
    del in_view["nodeOutputs"], in_view["metadata"]["executionPath"]
    assert at_rest == in_view


def test_a_wait_that_is_not_over_is_not_claimed(
    execution: str, time_passes: TimePasses, wake_due: WakeDue
) -> None:
    time_passes(HOUR - 1)

    assert wake_due() == []


def test_the_next_look_is_due_when_the_first_wait_is_over(engine: Engine, execution: str) -> None:
    assert HOUR - 30 < next_due(engine).wait <= HOUR


def test_without_a_wait_there_is_no_next_look(engine: Engine) -> None:
    assert next_due(engine).wait == math.inf


def test_a_message_for_a_node_whose_wait_is_not_over_is_dropped(
    engine: Engine, client: WorkflowClient, broker: Broker, execution: str, log_lines: Callable[[], list[str]]
) -> None:
    log_lines()
    seq = client.get(execution).seq

    engine.publisher.wake([DueWait(execution, "line", 1, "cool_off", seq, None)])
    engine.executor.continue_execution(broker.take())

    assert log_lines() == [
        f"Dropped the message for node cool_off of execution {execution}: the node is neither due nor woken."
    ]
    assert wakes == [None]
    assert broker.messages == []
    assert not engine.locks.is_locked(execution)
    assert client.get(execution).status is ExecutionStatus.WAITING


# -- going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_wiped", [False, True], ids=["cached", "redis wiped"])
def test_the_node_goes_on_once_its_time_has_come(
    client: WorkflowClient,
    workers: Workers,
    execution: str,
    time_passes: TimePasses,
    wake_due: WakeDue,
    redis_client: redis.Redis,
    sql: Sql,
    is_wiped: bool,
) -> None:
    time_passes(HOUR)
    if is_wiped:
        redis_client.flushdb()

    assert wake_due() == ["cool_off"]
    assert wake_due() == []
    workers.drain()

    finished = client.get(execution)
    assert (finished.status, finished.result) == (
        ExecutionStatus.COMPLETED,
        ["start", "before", "cool_off"],
    )
    assert statuses(client, execution) == [
        ("before", NodeStatus.COMPLETED),
        ("cool_off", NodeStatus.WAITING),
        ("cool_off", NodeStatus.COMPLETED),
        ("after", NodeStatus.COMPLETED),
    ]
    begun, woken = wakes
    assert begun is None
    assert woken is not None
    assert (woken.reason, woken.events) == ("time", {})
    assert HOUR <= woken.waited < HOUR + 60
    assert waits(sql) == [("cool_off", "DELAY", "COMPLETED")]
    assert finished.nodes_executed == 3
    assert keys_in(redis_client) == []


def test_the_node_goes_on_in_a_process_that_has_never_seen_it(
    new_engine: Callable[..., Engine],
    broker: Broker,
    client: WorkflowClient,
    execution: str,
    time_passes: TimePasses,
    redis_client: redis.Redis,
) -> None:
    time_passes(HOUR)
    redis_client.flushdb()
    stranger = new_engine()

    stranger.publisher.wake(stranger.waits.claim_due())
    Workers(broker, stranger).drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_wait_until_a_time_in_any_zone_is_over_at_that_time(
    client: WorkflowClient, workers: Workers, sql: Sql, wake_due: WakeDue
) -> None:
    later = datetime(2100, 1, 1, 9, 30, 0, 250_000, tzinfo=UTC).astimezone()

    def until(context: ExecutionContext) -> Any:
        return waiting(until=later) if context.wake is None else "done"

    client.deploy(line(until))
    client.start("line")
    workers.drain()

    assert sql("SELECT resume_at FROM execution_wait_states") == [(later,)]
    assert wake_due() == []


def test_a_wait_until_a_time_that_is_past_is_over_at_once(client: WorkflowClient, workers: Workers) -> None:
    def until(context: ExecutionContext) -> Any:
        return waiting(until=datetime.now(UTC) - timedelta(days=1)) if context.wake is None else "done"

    client.deploy(line(until))
    execution = client.start("line").id

    workers.drain()

    assert client.get(execution).result == "done"


def test_a_node_may_wait_again_with_a_wait_of_its_own_each_time(
    client: WorkflowClient, workers: Workers, time_passes: TimePasses, wake_due: WakeDue, sql: Sql
) -> None:
    def thrice(context: ExecutionContext) -> Any:
        wakes.append(context.wake)
        return waiting(seconds=HOUR) if len(wakes) < 4 else [*context.metadata["executionPath"]]

    client.deploy(line(thrice))
    execution = client.start("line").id
    workers.drain()
    for _ in range(3):
        assert [status for _, _, status in waits(sql)].count("WAITING") == 1
        time_passes(HOUR)
        assert wake_due() == ["thrice"]
        workers.drain()

    finished = client.get(execution)
    assert (finished.status, finished.result) == (ExecutionStatus.COMPLETED, ["start", "thrice"])
    assert statuses(client, execution) == [
        *[("thrice", NodeStatus.WAITING)] * 3,
        ("thrice", NodeStatus.COMPLETED),
    ]
    assert waits(sql) == [("thrice", "DELAY", "COMPLETED")] * 3
    # Counted from the first wait on, not from the last.
    assert [round(wake.waited / HOUR) for wake in wakes if wake is not None] == [1, 2, 3]


class Stages:
    """An executor that records how it was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        self.calls.append("execute")
        return waiting(seconds=HOUR)

    def resume(
        self, node_id: str, node_data: Any, context: ExecutionContext, wake: Wake
    ) -> NodeExecutionResult:
        self.calls.append(f"resume after {wake.reason}")
        return success(node_data["answer"])


@pytest.fixture
def stages() -> Stages:
    executor = Stages()
    registry.add(NodeType("action", "test.stages", executor, FreeConfig))
    return executor


def test_an_executor_is_resumed_with_its_config_evaluated_again(
    client: WorkflowClient, workers: Workers, time_passes: TimePasses, wake_due: WakeDue, stages: Stages
) -> None:
    flow = WorkflowBuilder("stages")
    flow.trigger("start") >> flow.node("staged", "action/test.stages", {"answer": "{{ start.n }}"})
    client.deploy(flow.build())
    execution = client.start("stages", {"n": 7}).id
    workers.drain()
    time_passes(HOUR)
    wake_due()
    workers.drain()

    assert stages.calls == ["execute", "resume after time"]
    assert client.get(execution).result == 7


def test_a_node_that_fails_after_its_wait_closes_it(
    client: WorkflowClient, workers: Workers, time_passes: TimePasses, wake_due: WakeDue, sql: Sql
) -> None:
    def gives_up(context: ExecutionContext) -> Any:
        if context.wake is None:
            return waiting(seconds=HOUR)
        raise TimeoutError("nobody came")

    client.deploy(line(gives_up))
    execution = client.start("line").id
    workers.drain()
    time_passes(HOUR)
    wake_due()
    workers.drain()

    assert client.get(execution).error == "nobody came"
    assert waits(sql) == [("gives_up", "DELAY", "COMPLETED")]


# -- claims ----------------------------------------------------------------------------------------------


def test_of_two_timekeepers_one_gets_a_wait(
    engine: Engine, second_engine: Engine, client: WorkflowClient, workers: Workers, time_passes: TimePasses
) -> None:
    client.deploy(line(cool_off))
    started = {client.start("line").id for _ in range(20)}
    workers.drain()
    time_passes(HOUR)
    claimed: dict[str, list[str]] = {"one": [], "two": []}
    at_once = threading.Barrier(2)

    def claim(name: str, timekeeper: Engine) -> None:
        at_once.wait()
        for _ in range(10):
            claimed[name] += [wait.execution_id for wait in timekeeper.waits.claim_due(limit=3)]

    threads = [
        threading.Thread(target=claim, args=pair) for pair in (("one", engine), ("two", second_engine))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claimed["one"] + claimed["two"]) == sorted(started)


def test_a_claim_that_nothing_came_of_is_repeated_later_each_time(
    engine: Engine, execution: str, time_passes: TimePasses
) -> None:
    lease = engine.settings.claim_lease
    time_passes(HOUR)
    assert len(engine.waits.claim_due()) == 1

    for expected in (lease, 2 * lease, 4 * lease):
        time_passes(expected - 1)
        assert engine.waits.claim_due() == []
        time_passes(1)
        assert len(engine.waits.claim_due()) == 1


def test_a_lease_doubles_a_few_times_at_most(engine: Engine, execution: str, time_passes: TimePasses) -> None:
    time_passes(HOUR)
    for _ in range(10):
        assert len(engine.waits.claim_due()) == 1
        time_passes(16 * engine.settings.claim_lease)


def test_a_claim_whose_message_still_waits_in_its_queue_lasts_on_and_does_not_grow(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    time_passes: TimePasses,
) -> None:
    """No worker serves the queue for ten minutes."""
    lease, timekeeping = engine.settings.claim_lease, Timekeeping(engine)
    time_passes(HOUR)
    timekeeping.round()
    for _ in range(20):
        time_passes(lease)
        broker.grow_old(lease)
        timekeeping.round()
    assert len(broker.queue) == 1

    # Its message is lost at last, and missed within one lease.
    broker.queue.clear()
    time_passes(lease)
    timekeeping.round()
    assert len(broker.queue) == 1
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_claim_that_could_not_be_published_does_not_count(
    new_engine: Callable[..., Engine], broker: Broker, execution: str, time_passes: TimePasses
) -> None:
    timekeeping = Timekeeping(new_engine(claim_lease=0.2))
    time_passes(HOUR)
    broker.is_away = True
    for _ in range(3):
        timekeeping.round()
    broker.is_away = False

    timekeeping.round()

    assert len(broker.queue) == 1


def test_a_claim_whose_message_was_lost_is_claimed_again_and_the_node_goes_on(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    time_passes: TimePasses,
    wake_due: WakeDue,
) -> None:
    time_passes(HOUR)
    wake_due()
    broker.queue.clear()
    time_passes(engine.settings.claim_lease)

    assert wake_due() == ["cool_off"]
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_doubled_wake_message_runs_the_node_once(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    time_passes: TimePasses,
    wake_due: WakeDue,
) -> None:
    time_passes(HOUR)
    wake_due()
    (message,) = broker.messages

    for _ in range(2):
        workers.hop()
        engine.executor.continue_execution(message)
    workers.drain()

    assert len(wakes) == 2
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_the_waits_of_a_paused_execution_come_due_when_it_is_not_paused_any_more(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    execution: str,
    time_passes: TimePasses,
    wake_due: WakeDue,
) -> None:
    client.control.pause(execution)
    time_passes(2 * HOUR)

    for times in range(12):
        assert wake_due() == []
        # They are set aside, for longer and longer, or every timekeeper would pass them by at every look.
        assert next_due(engine).wait > engine.settings.claim_lease * 2 ** min(times, 10) - 5
        time_passes(engine.settings.claim_lease * 2 ** min(times, 10))

    client.control.resume(execution)
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_wake_that_is_lost_after_a_long_pause_is_not_waited_for_longer_than_others(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    time_passes: TimePasses,
    wake_due: WakeDue,
) -> None:
    client.control.pause(execution)
    time_passes(2 * HOUR)
    for times in range(8):
        wake_due()
        time_passes(engine.settings.claim_lease * 2**times)
    client.control.resume(execution)
    broker.queue.clear()

    assert wake_due() == ["cool_off"]
    broker.queue.clear()
    time_passes(engine.settings.claim_lease)
    assert wake_due() == ["cool_off"]
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_wait_that_only_a_newer_worker_can_read_keeps_no_other_waiting(
    client: WorkflowClient,
    new_engine: Callable[..., Engine],
    broker: Broker,
    workers: Workers,
    time_passes: TimePasses,
    sql: Sql,
    log_lines: Callable[[], list[str]],
) -> None:
    client.deploy(line(cool_off, id="newer"))
    client.deploy(line(cool_off, id="known"))
    newer, known = client.start("newer").id, client.start("known").id
    workers.drain()
    sql(
        "UPDATE workflow_versions SET definition = definition || '{\"later\": 1}' WHERE workflow_id = 'newer'"
    )
    time_passes(HOUR)
    older_worker = new_engine()

    older_worker.publisher.wake(older_worker.waits.claim_due())

    assert [message.execution_id for message in broker.messages] == [known]
    assert any(f"Cannot wake a node of execution {newer}" in line for line in log_lines())


def test_a_woken_node_goes_on_though_its_process_is_lost(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    broker: Broker,
    execution: str,
    time_passes: TimePasses,
    wake_due: WakeDue,
) -> None:
    time_passes(HOUR)
    wake_due()
    broker.queue.clear()

    engine.executor.resume_execution(execution)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_what_is_claimed_while_a_request_for_a_wake_is_taken_is_not_missed(
    client: WorkflowClient, engine: Engine, execution: str, time_passes: TimePasses, sql: Sql
) -> None:
    time_passes(HOUR)
    sql("UPDATE executions SET wake_requested = true")
    taken: list[str] = []
    taker = threading.Thread(target=lambda: taken.extend(engine.waits.take_wake_request(execution)))

    with engine.database.transaction() as claimer:
        claimer.rows("UPDATE execution_wait_states SET status = 'RESUMING', claimed_until = now()")
        claimer.rows("UPDATE executions SET wake_requested = true")
        taker.start()
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        poll(lambda: sql(waiting), "the taker waits for the claimer")
    taker.join()

    assert taken == ["cool_off"]


def test_an_execution_that_is_ended_from_outside_leaves_no_open_wait(
    engine: Engine, execution: str, sql: Sql
) -> None:
    engine.state.update_execution_status(execution, ExecutionStatus.CANCELLED)

    assert waits(sql) == [("cool_off", "DELAY", "CANCELLED")]
    assert next_due(engine).wait == math.inf

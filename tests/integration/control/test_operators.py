"""Operators control executions: what they do holds against workers, is recorded, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from support.broker import Broker, Workers
from support.nodes.breakable import during, first, keys, let_wait
from support.redis_keys import keys_in
from support.workflows import line
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowClient, node
from workflow_engine.control.moving import Move
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import InvalidValue
from workflow_engine.execution.states import Operation

Sql = Callable[..., list[tuple[object, ...]]]


# -- pause and resume --------------------------------------------------------------------------------------


def test_a_paused_execution_starts_no_node_and_goes_on_where_it_stood(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.hop()
    before = client.context(execution)

    client.control.pause(execution)
    workers.drain()  # the message for the second node was in the queue

    assert keys == ["first:1"]
    assert client.context(execution) == before
    client.control.resume(execution)
    workers.drain()
    assert keys == ["first:1", "second:1", "third:1"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_what_was_never_begun_is_pending_again_after_a_pause(
    client: WorkflowClient, workers: Workers, broker: Broker, execution: str
) -> None:
    client.control.pause(execution)
    workers.drain()

    assert client.control.resume(execution).status is ExecutionStatus.PENDING
    assert [message.node_id for message in broker.messages] == ["first"]


def test_a_node_that_runs_during_a_pause_is_committed_and_nothing_follows_it(
    client: WorkflowClient, broker: Broker, workers: Workers, execution: str
) -> None:
    during["first"] = lambda: client.control.pause(execution)
    workers.drain()

    assert [(row.node_id, row.status) for row in client.journal(execution)][1:] == [
        ("first", NodeStatus.COMPLETED)
    ]
    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert not broker.queue


def test_a_node_that_runs_during_pause_and_resume_is_followed_by_the_next_once(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    during["first"] = lambda: (client.control.pause(execution), client.control.resume(execution))
    workers.drain()

    assert keys == ["first:1", "second:1", "third:1"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_pause_that_meets_the_last_commit_leaves_it_completed(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    during["third"] = lambda: client.control.pause(execution)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_waits_are_kept_over_a_pause(
    client: WorkflowClient, workers: Workers, execution: str, sql: Sql
) -> None:
    workers.hop()
    let_wait(sql, execution, "second")
    waits = sql("SELECT status, resume_at, claimed_until FROM execution_wait_states")

    client.control.pause(execution)

    assert sql("SELECT status, resume_at, claimed_until FROM execution_wait_states") == waits
    assert client.control.resume(execution).status is ExecutionStatus.WAITING
    assert sql("SELECT status, resume_at, claimed_until FROM execution_wait_states") == waits


def test_a_wait_that_was_woken_before_the_pause_is_due_at_once_after_it(
    client: WorkflowClient, workers: Workers, broker: Broker, execution: str, sql: Sql
) -> None:
    workers.hop()
    let_wait(sql, execution, "second")
    sql("UPDATE execution_wait_states SET status = 'RESUMING', claimed_until = now() + interval '1 hour'")
    client.control.pause(execution)
    broker.queue.clear()

    client.control.resume(execution)

    assert sql("SELECT status, claimed_until <= now() FROM execution_wait_states") == [("RESUMING", True)]
    assert [message.node_id for message in broker.messages] == ["second"]


# -- cancel ------------------------------------------------------------------------------------------------


def test_the_result_of_a_node_that_runs_during_a_cancel_is_refused(
    client: WorkflowClient, broker: Broker, workers: Workers, execution: str
) -> None:
    during["first"] = lambda: client.control.cancel(execution)
    workers.drain()

    assert [row.node_id for row in client.journal(execution)] == ["start"]
    assert client.get(execution).status is ExecutionStatus.CANCELLED
    assert not broker.queue


def test_cancelling_reports_which_task_runs_a_node(
    client: WorkflowClient, engine: Engine, broker: Broker, execution: str
) -> None:
    moves: list[Move] = []
    during["first"] = lambda: moves.append(client.control.cancel(execution))

    engine.executor.continue_execution(broker.take(), "task-7")

    assert moves[0].holders
    assert moves[0].holders[0].task_id == "task-7"


def test_cancelling_an_execution_that_runs_no_node_says_so(client: WorkflowClient, execution: str) -> None:
    assert not client.control.cancel(execution).is_running_a_node


def test_cancelling_closes_waits_and_wakes_callers_that_wait_for_the_end(
    client: WorkflowClient, engine: Engine, workers: Workers, execution: str, sql: Sql
) -> None:
    workers.hop()
    let_wait(sql, execution, "second")

    with engine.cache.finished_signal(execution) as wait_for_signal:
        client.control.cancel(execution, actor="ada")
        wait_for_signal(5)

    assert sql("SELECT status, resumed_by, resumed_at IS NOT NULL FROM execution_wait_states") == [
        ("CANCELLED", "ada", True)
    ]
    cancelled = client.get(execution)
    assert cancelled.completed_at is not None
    assert cancelled.duration_ms is not None


def test_nothing_of_a_cancelled_execution_stays_in_redis(
    client: WorkflowClient, workers: Workers, redis_client: redis.Redis, execution: str
) -> None:
    workers.hop()
    assert keys_in(redis_client)

    client.control.cancel(execution)

    assert not keys_in(redis_client)


# -- without servers, and on lists -------------------------------------------------------------------------


def test_a_move_holds_while_redis_is_away(
    new_engine: Callable[..., Engine], client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.hop()
    without_redis = WorkflowClient(engine=new_engine(redis_url="redis://127.0.0.1:1/0", redis_timeout=1))

    move = without_redis.control.pause(execution)

    assert (move.status, move.holders) == (ExecutionStatus.PAUSED, ())
    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert without_redis.control.resume(execution).status is ExecutionStatus.RUNNING


def test_a_reason_that_postgres_cannot_store_is_refused_before_anything_is_moved(
    client: WorkflowClient, execution: str
) -> None:
    with pytest.raises(InvalidValue, match="reason"):
        client.control.pause(execution, reason="no\0good")

    assert client.get(execution).status is ExecutionStatus.PENDING


def test_candidates_are_those_an_operation_is_possible_for(
    client: WorkflowClient, workers: Workers, execution: str, sql: Sql
) -> None:
    node("test.first")(first)
    client.deploy(line(first, id="other"))
    others = [client.start("other").id for _ in range(2)]
    client.control.cancel(others[0])
    sql("UPDATE executions SET created_at = now() - interval '3 hours' WHERE id = %s", others[1])

    assert set(client.control.candidates(Operation.CANCEL)) == {execution, others[1]}
    assert client.control.candidates(Operation.CANCEL, workflow_id="line") == [execution]
    assert client.control.candidates(Operation.CANCEL, older_than=3600) == [others[1]]
    assert client.control.candidates(Operation.RERUN, statuses=[ExecutionStatus.CANCELLED]) == [others[0]]
    assert client.control.candidates(Operation.CANCEL, statuses=[ExecutionStatus.CANCELLED]) == []


def test_who_and_why_are_kept_within_bounds(client: WorkflowClient, execution: str) -> None:
    client.control.pause(execution, reason="because " * 1_000_000, actor="Ada " * 1_000_000)
    client.send_event(name="paid", execution_id=execution, actor="Ada " * 1_000_000)

    texts = [
        text for event in client.control.audit(execution) for text in (event.reason, event.actor) if text
    ]
    assert len(texts) == 3
    for text in texts:
        assert len(text.encode()) <= 16 * 1024
        assert "bytes omitted" in text

"""Operators steer executions: what they do holds against workers, is recorded, and loses nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import redis
from breakable_nodes import broken, during, first, forget, keys, let_wait, second, third
from fleet_in_process import Broker, Workers, line

from workflow_engine import ExecutionStatus, NodeStatus, WorkflowClient, node
from workflow_engine.engine import Engine
from workflow_engine.errors import ExecutionNotFound, IllegalMove, InvalidValue
from workflow_engine.operators import LEGAL_FROM, Move, Operation

Sql = Callable[..., list[tuple[object, ...]]]


@pytest.fixture(autouse=True)
def _nothing_is_broken() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """A PENDING execution of three nodes in a row, its first message in the broker."""
    client.deploy(line(first, second, third))
    return client.start("line").id


def operate(client: WorkflowClient, operation: Operation, execution: str, from_node: str = "first") -> Move:
    match operation:
        case Operation.PAUSE:
            return client.pause(execution)
        case Operation.RESUME:
            return client.resume(execution)
        case Operation.CANCEL:
            return client.cancel(execution)
        case Operation.RETRY:
            return client.retry(execution)
        case Operation.RERUN:
            return client.rerun(execution, from_node)


# -- the table ---------------------------------------------------------------------------------------------

BECOMES = {
    Operation.PAUSE: ExecutionStatus.PAUSED,
    Operation.RESUME: ExecutionStatus.RUNNING,
    Operation.CANCEL: ExecutionStatus.CANCELLED,
    Operation.RETRY: ExecutionStatus.RUNNING,
    Operation.RERUN: ExecutionStatus.RUNNING,
}


@pytest.fixture
def brought_to(
    client: WorkflowClient, workers: Workers, broker: Broker, sql: Sql, execution: str
) -> Callable[[ExecutionStatus], str]:
    """Brings the execution of three nodes to a status, with `first` done where it can be."""

    def bring(status: ExecutionStatus) -> str:
        if status is ExecutionStatus.PENDING:
            return execution
        workers.hop()
        match status:
            case ExecutionStatus.WAITING:
                let_wait(sql, execution, "second")
                broker.queue.clear()
            case ExecutionStatus.PAUSED:
                client.pause(execution)
            case ExecutionStatus.COMPLETED:
                workers.drain()
            case ExecutionStatus.FAILED:
                broken.add("second")
                workers.drain()
            case ExecutionStatus.CANCELLED:
                client.cancel(execution)
        assert client.get(execution).status is status
        return execution

    return bring


@pytest.mark.parametrize(
    ("status", "operation"), [*itertools.product(ExecutionStatus, Operation)], ids=lambda value: value.value
)
def test_every_operation_is_either_done_and_recorded_or_refused_and_changes_nothing(
    client: WorkflowClient,
    brought_to: Callable[[ExecutionStatus], str],
    sql: Sql,
    status: ExecutionStatus,
    operation: Operation,
) -> None:
    execution = brought_to(status)
    events, rows = len(client.events(execution)), client.journal(execution)
    stored = sql("SELECT * FROM executions")

    if status in LEGAL_FROM[operation]:
        move = operate(client, operation, execution)

        becomes = BECOMES[operation]
        if operation is Operation.RERUN and status is ExecutionStatus.PAUSED:
            becomes = ExecutionStatus.PAUSED
        assert (move.status_before, move.status) == (status, becomes)
        assert client.get(execution).status is becomes
        assert len(client.events(execution)) == events + 1
    else:
        with pytest.raises(IllegalMove) as refusal:
            operate(client, operation, execution)

        assert refusal.value.status == status
        assert set(refusal.value.possible_from) == LEGAL_FROM[operation]
        assert len(client.events(execution)) == events
        assert client.journal(execution) == rows
        assert sql("SELECT * FROM executions") == stored


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("unknown", ["0199c8a0-0000-7000-8000-000000000000", "no-id"])
def test_an_execution_that_does_not_exist_is_told(
    client: WorkflowClient, operation: Operation, unknown: str
) -> None:
    with pytest.raises(ExecutionNotFound):
        operate(client, operation, unknown)
    with pytest.raises(ExecutionNotFound):
        client.history(unknown)


# -- pause and resume --------------------------------------------------------------------------------------


def test_a_paused_execution_starts_no_node_and_goes_on_where_it_stood(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.hop()
    before = client.context(execution)

    client.pause(execution)
    workers.drain()  # the message for the second node was in the queue

    assert keys == ["first:1"]
    assert client.context(execution) == before
    client.resume(execution)
    workers.drain()
    assert keys == ["first:1", "second:1", "third:1"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_what_was_never_begun_is_pending_again_after_a_pause(
    client: WorkflowClient, workers: Workers, broker: Broker, execution: str
) -> None:
    client.pause(execution)
    workers.drain()

    assert client.resume(execution).status is ExecutionStatus.PENDING
    assert [message.node_id for message in broker.messages] == ["first"]


def test_a_node_that_runs_during_a_pause_is_committed_and_nothing_follows_it(
    client: WorkflowClient, broker: Broker, workers: Workers, execution: str
) -> None:
    during["first"] = lambda: client.pause(execution)
    workers.drain()

    assert [(row.node_id, row.status) for row in client.journal(execution)][1:] == [
        ("first", NodeStatus.COMPLETED)
    ]
    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert not broker.queue


def test_a_node_that_runs_during_pause_and_resume_is_followed_by_the_next_once(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    during["first"] = lambda: (client.pause(execution), client.resume(execution))
    workers.drain()

    assert keys == ["first:1", "second:1", "third:1"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_pause_that_meets_the_last_commit_leaves_it_completed(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    during["third"] = lambda: client.pause(execution)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_waits_are_kept_over_a_pause(
    client: WorkflowClient, workers: Workers, execution: str, sql: Sql
) -> None:
    workers.hop()
    let_wait(sql, execution, "second")
    waits = sql("SELECT status, resume_at, claimed_until FROM execution_wait_states")

    client.pause(execution)

    assert sql("SELECT status, resume_at, claimed_until FROM execution_wait_states") == waits
    assert client.resume(execution).status is ExecutionStatus.WAITING
    assert sql("SELECT status, resume_at, claimed_until FROM execution_wait_states") == waits


def test_a_wait_that_was_woken_before_the_pause_is_due_at_once_after_it(
    client: WorkflowClient, workers: Workers, broker: Broker, execution: str, sql: Sql
) -> None:
    workers.hop()
    let_wait(sql, execution, "second")
    sql("UPDATE execution_wait_states SET status = 'RESUMING', claimed_until = now() + interval '1 hour'")
    client.pause(execution)
    broker.queue.clear()

    client.resume(execution)

    assert sql("SELECT status, claimed_until <= now() FROM execution_wait_states") == [("RESUMING", True)]
    assert [message.node_id for message in broker.messages] == ["second"]


# -- cancel ------------------------------------------------------------------------------------------------


def test_the_result_of_a_node_that_runs_during_a_cancel_is_refused(
    client: WorkflowClient, broker: Broker, workers: Workers, execution: str
) -> None:
    during["first"] = lambda: client.cancel(execution)
    workers.drain()

    assert [row.node_id for row in client.journal(execution)] == ["start"]
    assert client.get(execution).status is ExecutionStatus.CANCELLED
    assert not broker.queue


def test_cancelling_tells_which_task_runs_a_node(
    client: WorkflowClient, engine: Engine, broker: Broker, execution: str
) -> None:
    moves: list[Move] = []
    during["first"] = lambda: moves.append(client.cancel(execution))

    engine.executor.continue_execution(broker.take(), "task-7")

    assert moves[0].holder is not None
    assert moves[0].holder.task_id == "task-7"


def test_cancelling_an_execution_that_runs_no_node_says_so(client: WorkflowClient, execution: str) -> None:
    assert not client.cancel(execution).is_running_a_node


def test_cancelling_closes_waits_and_wakes_whoever_waits_for_the_end(
    client: WorkflowClient, engine: Engine, workers: Workers, execution: str, sql: Sql
) -> None:
    workers.hop()
    let_wait(sql, execution, "second")

    with engine.cache.finished_signal(execution) as wait_for_signal:
        client.cancel(execution, actor="ada")
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
    assert redis_client.keys("*")

    client.cancel(execution)

    assert not redis_client.keys("*")


# -- without servers, and on lists -------------------------------------------------------------------------


def test_a_move_holds_while_redis_is_away(
    new_engine: Callable[..., Engine], client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.hop()
    without_redis = WorkflowClient(engine=new_engine(redis_url="redis://127.0.0.1:1/0", redis_timeout=1))

    move = without_redis.pause(execution)

    assert (move.status, move.holder) == (ExecutionStatus.PAUSED, None)
    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert without_redis.resume(execution).status is ExecutionStatus.RUNNING


def test_a_reason_that_postgres_cannot_store_is_refused_before_anything_is_moved(
    client: WorkflowClient, execution: str
) -> None:
    with pytest.raises(InvalidValue, match="reason"):
        client.pause(execution, reason="no\0good")

    assert client.get(execution).status is ExecutionStatus.PENDING


def test_candidates_are_those_an_operation_is_possible_for(
    client: WorkflowClient, workers: Workers, execution: str, sql: Sql
) -> None:
    node("test.first")(first)
    client.deploy(line(first, id="other"))
    others = [client.start("other").id for _ in range(2)]
    client.cancel(others[0])
    sql("UPDATE executions SET created_at = now() - interval '3 hours' WHERE id = %s", others[1])

    assert set(client.candidates(Operation.CANCEL)) == {execution, others[1]}
    assert client.candidates(Operation.CANCEL, workflow_id="line") == [execution]
    assert client.candidates(Operation.CANCEL, older_than=3600) == [others[1]]
    assert client.candidates(Operation.RERUN, statuses=[ExecutionStatus.CANCELLED]) == [others[0]]
    assert client.candidates(Operation.CANCEL, statuses=[ExecutionStatus.CANCELLED]) == []

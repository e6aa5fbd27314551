"""Operators steer executions: what they do holds against workers, is recorded, and loses nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import redis
from fleet_in_process import Broker, Workers, calling, line

from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    NodeStatus,
    WorkflowBuilder,
    WorkflowClient,
    node,
)
from workflow_engine.engine import Engine
from workflow_engine.errors import (
    ExecutionNotFound,
    IllegalMove,
    InvalidValue,
    NodeNotFound,
    VersionDiffers,
    WorkflowNotFound,
)
from workflow_engine.operator_moves import ExecutionEvent
from workflow_engine.operators import LEGAL_FROM, Move, Operation
from workflow_engine.states import SupersededFor

Sql = Callable[..., list[tuple[object, ...]]]

keys: list[str] = []
"""The idempotency keys of the nodes that were run, in order."""
broken: set[str] = set()
"""Nodes that fail."""
during: dict[str, Callable[[], object]] = {}
"""What happens while a node runs, once."""


@pytest.fixture(autouse=True)
def _nothing_is_broken() -> Iterator[None]:
    yield
    keys.clear()
    broken.clear()
    during.clear()


def step(name: str) -> Callable[[ExecutionContext], str]:
    """A node of this name, which notes its idempotency key and fails while it is broken."""

    def run(context: ExecutionContext) -> str:
        keys.append(context.idempotency_key.partition(":")[2])
        during.pop(name, lambda: None)()
        if name in broken:
            raise RuntimeError(f"{name} is broken")
        return f"{name} {len(keys)}"

    run.__name__ = name
    return run


first, second, third = step("first"), step("second"), step("third")


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """A PENDING execution of three nodes in a row, its first message in the broker."""
    client.deploy(line(first, second, third))
    return client.start("line").id


@pytest.fixture
def failed(client: WorkflowClient, workers: Workers, execution: str) -> str:
    """The same, FAILED at its second node."""
    broken.add("second")
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED
    broken.clear()
    return execution


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
                _let_wait(sql, execution, "second")
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


def _let_wait(sql: Sql, execution: str, node_id: str, *, seconds: int = 3600) -> None:
    """Write what a commit of a node that waits for a time writes."""
    sql(
        """
        WITH moved AS (
            UPDATE executions SET status = 'WAITING', seq = seq + 1, fence = gen_random_uuid()
            WHERE id = %s RETURNING id, seq
        ), journalled AS (
            INSERT INTO node_executions
                (execution_id, seq, node_id, type, sub_type, status, token, started_at, duration_ms)
            SELECT id, seq, %s, 'action', 'python', 'WAITING', gen_random_uuid(), now(), 0 FROM moved
        )
        INSERT INTO execution_wait_states (execution_id, node_id, seq, wait_type, resume_at)
        SELECT id, %s, seq, 'DELAY', now() + %s * interval '1 second' FROM moved
        """,
        execution,
        node_id,
        node_id,
        seconds,
    )


@pytest.mark.parametrize(
    ("status", "operation"),
    [*itertools.product(ExecutionStatus, Operation)],
    ids=lambda value: value.value,
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
    _let_wait(sql, execution, "second")
    waits = sql("SELECT status, resume_at, claimed_until FROM execution_wait_states")

    client.pause(execution)

    assert sql("SELECT status, resume_at, claimed_until FROM execution_wait_states") == waits
    assert client.resume(execution).status is ExecutionStatus.WAITING
    assert sql("SELECT status, resume_at, claimed_until FROM execution_wait_states") == waits


def test_a_wait_that_was_woken_before_the_pause_is_due_at_once_after_it(
    client: WorkflowClient, workers: Workers, broker: Broker, execution: str, sql: Sql
) -> None:
    workers.hop()
    _let_wait(sql, execution, "second")
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
    _let_wait(sql, execution, "second")

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


# -- retry -------------------------------------------------------------------------------------------------


def test_a_retry_goes_on_from_the_failed_node_with_the_same_idempotency_key(
    client: WorkflowClient, workers: Workers, failed: str
) -> None:
    move = client.retry(failed)
    reopened = client.get(failed)
    workers.drain()

    assert (reopened.error, reopened.error_details, reopened.completed_at) == (None, None, None)
    assert keys == ["first:1", "second:1", "second:1", "third:1"]
    assert client.get(failed).status is ExecutionStatus.COMPLETED
    assert [
        (row.seq, row.node_id, row.status, row.superseded_by, row.superseded_for)
        for row in client.journal(failed)
    ] == [
        (1, "start", NodeStatus.COMPLETED, None, None),
        (2, "first", NodeStatus.COMPLETED, None, None),
        (3, "second", NodeStatus.FAILED, move.seq, SupersededFor.RETRY),
        (5, "second", NodeStatus.COMPLETED, None, None),
        (6, "third", NodeStatus.COMPLETED, None, None),
    ]


def test_the_number_that_superseded_rows_name_is_that_of_the_operators_event(
    client: WorkflowClient, workers: Workers, failed: str
) -> None:
    client.retry(failed, actor="ada", reason="the shop is up again")
    workers.drain()

    told = [
        (entry.seq, entry.type if isinstance(entry, ExecutionEvent) else entry.node_id)
        for entry in client.history(failed)
    ]
    assert told == [(1, "start"), (2, "first"), (3, "second"), (4, "RETRIED"), (5, "second"), (6, "third")]
    [event] = client.events(failed)
    assert (event.actor, event.reason, event.payload) == (
        "ada",
        "the shop is up again",
        {"nodeId": "second"},
    )


def test_a_retry_may_fail_and_be_retried_again(client: WorkflowClient, workers: Workers, failed: str) -> None:
    broken.add("second")
    client.retry(failed)
    workers.drain()
    assert client.get(failed).error == "second is broken"

    broken.clear()
    client.retry(failed)
    workers.drain()

    assert client.get(failed).status is ExecutionStatus.COMPLETED
    assert keys == ["first:1", "second:1", "second:1", "second:1", "third:1"]


def test_a_retry_supersedes_the_earlier_attempts_of_the_visit_and_begins_with_the_first(
    client: WorkflowClient, workers: Workers, failed: str, sql: Sql
) -> None:
    # The second attempt is what failed; row 3 becomes the first one, after which it was tried again.
    sql("UPDATE node_executions SET seq = 4, attempt = 2 WHERE seq = 3")
    sql("UPDATE executions SET seq = 4")
    sql(
        """
        INSERT INTO node_executions
            (execution_id, seq, node_id, type, sub_type, status, token, started_at, retry_details)
        VALUES (%s, 3, 'second', 'action', 'python', 'RETRYING', gen_random_uuid(), now(), '{"waitMs": 0}')
        """,
        failed,
    )

    client.retry(failed)
    workers.drain()

    second_rows = [row for row in client.journal(failed) if row.node_id == "second"]
    assert [(row.seq, row.attempt, row.superseded_by) for row in second_rows] == [
        (3, 1, 5),
        (4, 2, 5),
        (6, 1, None),
    ]


def test_waits_that_a_failure_cancelled_are_open_again_after_a_retry(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    flow = WorkflowBuilder("fork")
    start = flow.trigger("start")
    start >> calling(flow, first)
    start >> calling(flow, second)
    client.deploy(flow.build())
    execution = client.start("fork").id
    _let_wait(sql, execution, "second")
    broken.add("first")
    workers.drain()
    sql("UPDATE execution_wait_states SET status = 'CANCELLED', resumed_at = now()")  # with the failure
    broken.clear()

    client.retry(execution)
    workers.drain()

    assert sql("SELECT status, resumed_at FROM execution_wait_states") == [("WAITING", None)]
    assert client.get(execution).status is ExecutionStatus.WAITING


# -- rerun -------------------------------------------------------------------------------------------------


def test_a_rerun_runs_the_node_and_all_that_follows_it_as_new_visits(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.drain()

    client.rerun(execution, "second")
    assert client.context(execution).to_dict()["nodeOutputs"].keys() == {"start", "first"}
    workers.drain()

    assert keys == ["first:1", "second:1", "third:1", "second:2", "third:2"]
    finished = client.get(execution)
    assert (finished.status, finished.result) == (ExecutionStatus.COMPLETED, "third 5")
    assert [(row.node_id, row.visit, row.superseded_by) for row in client.journal(execution)] == [
        ("start", 1, None),
        ("first", 1, None),
        ("second", 1, 5),
        ("third", 1, 5),
        ("second", 2, None),
        ("third", 2, None),
    ]


def test_reruns_may_follow_one_another_and_retries(
    client: WorkflowClient, workers: Workers, failed: str
) -> None:
    client.retry(failed)
    workers.drain()
    client.rerun(failed, "second")
    broken.add("third")
    workers.drain()
    broken.clear()
    client.retry(failed)
    workers.drain()
    client.rerun(failed, "third")
    workers.drain()

    assert keys == [
        *("first:1", "second:1"),
        *("second:1", "third:1"),
        *("second:2", "third:2"),
        *("third:2",),
        *("third:3",),
    ]
    assert client.get(failed).status is ExecutionStatus.COMPLETED


def test_a_rerun_of_a_failed_execution_repeats_the_failed_node_too(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("fork")
    start = flow.trigger("start")
    start >> calling(flow, first)
    start >> calling(flow, second)
    client.deploy(flow.build())
    broken.add("second")
    execution = client.start("fork").id
    workers.drain()
    broken.clear()

    client.rerun(execution, "first")
    workers.drain()

    assert keys == ["first:1", "second:1", "first:2", "second:2"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_rerun_from_the_trigger_repeats_everything_with_the_data_of_the_start(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.drain()

    client.rerun(execution, "start")
    workers.drain()

    assert keys == ["first:1", "second:1", "third:1", "first:2", "second:2", "third:2"]


def test_a_rerun_refuses_the_result_of_the_node_that_runs(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    during["second"] = lambda: client.rerun(execution, "first")
    workers.drain()

    # The refused run of `second` was not a visit: nothing of it is in the journal.
    assert keys == ["first:1", "second:1", "first:2", "second:1", "third:1"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_cancelled_execution_can_be_taken_up_from_the_node_it_was_about_to_run(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.hop()
    client.cancel(execution)

    client.rerun(execution, "second")
    workers.drain()

    assert keys == ["first:1", "second:1", "third:1"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_rerun_closes_the_waits_it_supersedes_and_reopens_the_others(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    flow = WorkflowBuilder("fork")
    start = flow.trigger("start")
    start >> calling(flow, first) >> calling(flow, second)
    start >> calling(flow, third)
    client.deploy(flow.build())
    execution = client.start("fork").id
    workers.hop()
    _let_wait(sql, execution, "second")
    _let_wait(sql, execution, "third")
    client.cancel(execution)

    client.rerun(execution, "first")

    waits = sql("SELECT node_id, status FROM execution_wait_states ORDER BY node_id")
    assert waits == [("second", "CANCELLED"), ("third", "WAITING")]


def test_events_that_a_superseded_wait_consumed_are_kept_for_the_next_one(
    client: WorkflowClient, workers: Workers, execution: str, sql: Sql
) -> None:
    workers.hop()
    _let_wait(sql, execution, "second")
    for name, seq in (("paid", 3), ("packed", 2)):
        sql(
            """INSERT INTO execution_events (execution_id, type, name, seq, consumed_at)
            VALUES (%s, 'EVENT', %s, %s, now())""",
            execution,
            name,
            seq,
        )

    client.rerun(execution, "second")

    assert sql(
        "SELECT name, consumed_at IS NULL FROM execution_events WHERE type = 'EVENT' ORDER BY name"
    ) == [
        ("packed", False),
        ("paid", True),
    ]


@pytest.mark.parametrize("node_id", ["nowhere", "third"])
def test_a_rerun_from_a_node_the_execution_has_not_come_to_is_refused(
    client: WorkflowClient, workers: Workers, execution: str, node_id: str
) -> None:
    workers.hop()

    with pytest.raises(NodeNotFound, match=f"{node_id}.*has come to start, first"):
        client.rerun(execution, node_id)

    assert not client.events(execution)


# -- another version ---------------------------------------------------------------------------------------


def test_a_retry_can_go_on_with_a_newer_version(
    client: WorkflowClient, workers: Workers, failed: str
) -> None:
    mended = step("mended")
    client.deploy(line(first, second, third, mended))

    client.retry(failed, version=2)
    workers.drain()

    assert client.get(failed).version == 2
    assert keys[-3:] == ["second:1", "third:1", "mended:1"]
    assert client.events(failed)[0].payload == {"nodeId": "second", "version": 2, "versionBefore": 1}


def _without_first(flow: WorkflowBuilder) -> None:
    flow.trigger("start") >> calling(flow, second)


def _first_of_another_type(flow: WorkflowBuilder) -> None:
    flow.trigger("start") >> flow.function("first", "{{ 1 }}") >> calling(flow, second)


def _first_leads_elsewhere(flow: WorkflowBuilder) -> None:
    flow.trigger("start") >> calling(flow, first) >> calling(flow, third) >> calling(flow, second)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without_first, "first: this node has run and is missing there"),
        (_first_of_another_type, "first: this node has run as action/python and is action/function there"),
        (_first_leads_elsewhere, "first: the edges this node has taken are not the same there"),
    ],
)
def test_a_version_in_which_what_was_done_is_not_the_same_is_refused(
    client: WorkflowClient, failed: str, change: Callable[[WorkflowBuilder], None], told: str
) -> None:
    flow = WorkflowBuilder("line")
    change(flow)
    client.deploy(flow.build())

    with pytest.raises(VersionDiffers, match=told) as refusal:
        client.retry(failed, version=2)

    assert refusal.value.problems
    assert client.get(failed).status is ExecutionStatus.FAILED


def test_a_version_that_does_not_exist_is_told(client: WorkflowClient, failed: str) -> None:
    with pytest.raises(WorkflowNotFound):
        client.retry(failed, version=9)


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

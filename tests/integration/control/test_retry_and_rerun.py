"""Operators take an execution up again: from the node that failed, or from one that has run before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.broker import Workers
from support.nodes.breakable import broken, during, first, keys, let_wait, second, step, third
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.errors import NodeNotFound, VersionDiffers, WorkflowNotFound
from workflow_engine.execution.states import SupersededFor
from workflow_engine.postgres.executions.moves import ExecutionEvent

Sql = Callable[..., list[tuple[object, ...]]]


@pytest.fixture
def failed(client: WorkflowClient, workers: Workers, execution: str) -> str:
    """Return the same execution, FAILED at its second node."""
    broken.add("second")
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.FAILED
    broken.clear()
    return execution


# -- retry -------------------------------------------------------------------------------------------------


def test_a_retry_goes_on_from_the_failed_node_with_the_same_idempotency_key(
    client: WorkflowClient, workers: Workers, failed: str
) -> None:
    move = client.control.retry(failed)
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
    client.control.retry(failed, actor="ada", reason="the shop is up again")
    workers.drain()

    entries = [
        (entry.seq, entry.type if isinstance(entry, ExecutionEvent) else entry.node_id)
        for entry in client.history(failed)
    ]
    assert entries == [(1, "start"), (2, "first"), (3, "second"), (4, "RETRIED"), (5, "second"), (6, "third")]
    [event] = client.control.audit(failed)
    assert (event.actor, event.reason, event.payload) == ("ada", "the shop is up again", {"nodeId": "second"})


def test_a_retry_may_fail_and_be_retried_again(client: WorkflowClient, workers: Workers, failed: str) -> None:
    broken.add("second")
    client.control.retry(failed)
    workers.drain()
    assert client.get(failed).error == "second is broken"

    broken.clear()
    client.control.retry(failed)
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

    client.control.retry(failed)
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
    let_wait(sql, execution, "second")
    broken.add("first")
    workers.drain()
    sql("UPDATE execution_wait_states SET status = 'CANCELLED', resumed_at = now()")  # with the failure
    broken.clear()

    client.control.retry(execution)
    workers.drain()

    assert sql("SELECT status, resumed_at FROM execution_wait_states") == [("WAITING", None)]
    assert client.get(execution).status is ExecutionStatus.WAITING


# -- rerun -------------------------------------------------------------------------------------------------


def test_a_rerun_runs_the_node_and_all_that_follows_it_as_new_visits(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.drain()

    client.control.rerun(execution, "second")
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
    client.control.retry(failed)
    workers.drain()
    client.control.rerun(failed, "second")
    broken.add("third")
    workers.drain()
    broken.clear()
    client.control.retry(failed)
    workers.drain()
    client.control.rerun(failed, "third")
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

    client.control.rerun(execution, "first")
    workers.drain()

    assert keys == ["first:1", "second:1", "first:2", "second:2"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_rerun_from_the_trigger_repeats_everything_with_the_data_of_the_start(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.drain()

    client.control.rerun(execution, "start")
    workers.drain()

    assert keys == ["first:1", "second:1", "third:1", "first:2", "second:2", "third:2"]


def test_a_rerun_refuses_the_result_of_the_node_that_runs(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    during["second"] = lambda: client.control.rerun(execution, "first")
    workers.drain()

    # The refused run of `second` was not a visit: nothing of it is in the journal.
    assert keys == ["first:1", "second:1", "first:2", "second:1", "third:1"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_cancelled_execution_can_be_taken_up_from_the_node_it_was_about_to_run(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    workers.hop()
    client.control.cancel(execution)

    client.control.rerun(execution, "second")
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
    let_wait(sql, execution, "second")
    let_wait(sql, execution, "third")
    client.control.cancel(execution)

    client.control.rerun(execution, "first")

    waits = sql("SELECT node_id, status FROM execution_wait_states ORDER BY node_id")
    assert waits == [("second", "CANCELLED"), ("third", "WAITING")]


def test_events_that_a_superseded_wait_consumed_are_kept_for_the_next_one(
    client: WorkflowClient, workers: Workers, execution: str, sql: Sql
) -> None:
    workers.hop()
    let_wait(sql, execution, "second")
    for name, seq in (("paid", 3), ("packed", 2)):
        sql(
            """INSERT INTO execution_events (execution_id, type, name, seq, consumed_at)
            VALUES (%s, 'EVENT', %s, %s, now())""",
            execution,
            name,
            seq,
        )

    client.control.rerun(execution, "second")

    assert sql(
        "SELECT name, consumed_at IS NULL FROM execution_events WHERE type = 'EVENT' ORDER BY name"
    ) == [("packed", False), ("paid", True)]


@pytest.mark.parametrize("node_id", ["nowhere", "third"])
def test_a_rerun_from_a_node_the_execution_has_not_reached_is_refused(
    client: WorkflowClient, workers: Workers, execution: str, node_id: str
) -> None:
    workers.hop()

    with pytest.raises(NodeNotFound, match=f"{node_id}.*has reached start, first"):
        client.control.rerun(execution, node_id)

    assert not client.control.audit(execution)


# -- another version ---------------------------------------------------------------------------------------


def test_a_retry_can_go_on_with_a_newer_version(
    client: WorkflowClient, workers: Workers, failed: str
) -> None:
    mended = step("mended")
    client.deploy(line(first, second, third, mended))

    client.control.retry(failed, version=2)
    workers.drain()

    assert client.get(failed).version == 2
    assert keys[-3:] == ["second:1", "third:1", "mended:1"]
    assert client.control.audit(failed)[0].payload == {"nodeId": "second", "version": 2, "versionBefore": 1}


def _without_first(flow: WorkflowBuilder) -> None:
    flow.trigger("start") >> calling(flow, second)


def _first_of_another_type(flow: WorkflowBuilder) -> None:
    flow.trigger("start") >> flow.function("first", "{{ 1 }}") >> calling(flow, second)


def _first_leads_elsewhere(flow: WorkflowBuilder) -> None:
    flow.trigger("start") >> calling(flow, first) >> calling(flow, third) >> calling(flow, second)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_without_first, "first: this node has run, but is missing there"),
        (_first_of_another_type, "first: this node has run as action/python, but is action/function there"),
        (_first_leads_elsewhere, "first: the edges that this node has taken differ there"),
    ],
)
def test_a_version_in_which_what_was_done_is_not_the_same_is_refused(
    client: WorkflowClient, failed: str, change: Callable[[WorkflowBuilder], None], problem: str
) -> None:
    flow = WorkflowBuilder("line")
    change(flow)
    client.deploy(flow.build())

    with pytest.raises(VersionDiffers, match=problem) as refusal:
        client.control.retry(failed, version=2)

    assert refusal.value.problems
    assert client.get(failed).status is ExecutionStatus.FAILED


def test_a_version_that_does_not_exist_is_reported(client: WorkflowClient, failed: str) -> None:
    with pytest.raises(WorkflowNotFound):
        client.control.retry(failed, version=9)

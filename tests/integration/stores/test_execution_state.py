"""Postgres accepts the legal moves of an execution from those who may make them, and no others."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ExecutionNotFound, IdempotencyConflict, IllegalMove, InvalidValue
from workflow_engine.execution.ids import new_execution_id
from workflow_engine.execution.records import NewExecution, NodeCommit
from workflow_engine.execution.states import LEGAL_MOVES
from workflow_engine.postgres.executions.state import ExecutionStateService

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def state(engine: Engine) -> ExecutionStateService:
    return engine.state


@pytest.fixture
def new(client: WorkflowClient, engine: Engine) -> Callable[..., NewExecution]:
    """Return a factory of what a start would write, for a workflow that is deployed."""
    flow = WorkflowBuilder("orders")
    flow.trigger("placed") >> flow.function("charge", 1)
    client.deploy(flow.build())
    _, triggers = engine.deployments.starting_point("orders")

    def make(**changes: Any) -> NewExecution:
        plain = NewExecution(
            execution_id=new_execution_id(),
            workflow_id="orders",
            version=1,
            trigger_id=triggers["placed"],
            trigger_node_id="placed",
            trigger_sub_type="manual",
            data=b'{"orderId": 42}',
            variables=b'{"currency": "EUR"}',
            queue="orders",
        )
        return dataclasses.replace(plain, **changes)

    return make


@pytest.fixture
def execution(state: ExecutionStateService, new: Callable[..., NewExecution]) -> str:
    return state.create_execution(new()).id


def commit_of(execution_id: str, fence: str, **changes: Any) -> NodeCommit:
    plain = NodeCommit(
        execution_id=execution_id,
        fence=fence,
        token=str(uuid.uuid4()),
        execution_status=ExecutionStatus.RUNNING,
        node_id="charge",
        type="action",
        sub_type="function",
        status=NodeStatus.COMPLETED,
        worker="here:1",
        handles=("",),
        output=b'{"receipt": "r-1"}',
        duration_ms=12.5,
    )
    return dataclasses.replace(plain, **changes)


def fence_of(state: ExecutionStateService, execution_id: str) -> str:
    snapshot = state.load_snapshot(execution_id)
    assert snapshot is not None
    return snapshot.fence


# -- start ---------------------------------------------------------------------------------------------


def test_a_start_writes_the_execution_and_the_row_of_its_trigger(
    state: ExecutionStateService, execution: str, sql: Sql
) -> None:
    assert sql("SELECT status, seq, nodes_executed, started_at, trigger_data FROM executions") == [
        ("PENDING", 1, 0, None, {"orderId": 42})
    ]
    assert sql(
        "SELECT seq, node_id, type, sub_type, status, handles, variables, output_data FROM node_executions"
    ) == [(1, "placed", "trigger", "manual", "COMPLETED", [""], {"currency": "EUR"}, {"orderId": 42})]
    snapshot = state.load_snapshot(execution)
    assert snapshot is not None
    assert (snapshot.status, snapshot.seq, snapshot.crashes) == (ExecutionStatus.PENDING, 1, {})


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = [new_execution_id() for _ in range(10_000)]

    assert ids == sorted(ids)
    assert {uuid.UUID(made).version for made in ids} == {7}


def test_an_idempotency_key_used_twice_gives_the_first_execution(
    state: ExecutionStateService, new: Callable[..., NewExecution], sql: Sql
) -> None:
    first = state.create_execution(new(idempotency_key="order-42", fingerprint="same"))
    again = state.create_execution(new(idempotency_key="order-42", fingerprint="same"))

    assert (first.is_new, again.is_new) == (True, False)
    assert again.id == first.id
    assert sql("SELECT count(*) FROM executions") == [(1,)]


def test_an_idempotency_key_with_other_data_is_a_conflict(
    state: ExecutionStateService, new: Callable[..., NewExecution], sql: Sql
) -> None:
    first = state.create_execution(new(idempotency_key="order-42", fingerprint="one"))

    with pytest.raises(IdempotencyConflict) as conflict:
        state.create_execution(new(idempotency_key="order-42", fingerprint="other"))

    assert (conflict.value.key, conflict.value.execution_id) == ("order-42", first.id)
    assert sql("SELECT count(*) FROM executions") == [(1,)]


def test_starts_with_one_idempotency_key_at_once_make_one_execution(
    state: ExecutionStateService, new: Callable[..., NewExecution], sql: Sql
) -> None:
    together = threading.Barrier(4)
    started: list[Any] = []

    def start() -> None:
        request = new(idempotency_key="order-42", fingerprint="same")
        together.wait()
        started.append(state.create_execution(request))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({each.id for each in started}) == 1
    assert sorted(each.is_new for each in started) == [False, False, False, True]
    assert sql("SELECT count(*) FROM executions") == [(1,)]


# -- commits -------------------------------------------------------------------------------------------


def test_a_commit_appends_a_row_and_moves_the_execution_on(
    state: ExecutionStateService, execution: str, sql: Sql
) -> None:
    commit = commit_of(execution, fence_of(state, execution), variables=b'{"paid": true}')

    answer = state.update_execution(commit)

    assert (answer.accepted, answer.seq, answer.fence) == (True, 2, commit.token)
    assert (answer.status, answer.wake_requested) == (ExecutionStatus.RUNNING, False)
    assert sql("SELECT status, seq, nodes_executed, fence::text FROM executions") == [
        ("RUNNING", 2, 1, commit.token)
    ]
    assert sql(
        "SELECT seq, node_id, visit, attempt, variables, output_data, token::text, worker, duration_ms "
        "FROM node_executions WHERE seq > 1"
    ) == [(2, "charge", 1, 1, {"paid": True}, {"receipt": "r-1"}, commit.token, "here:1", 12)]


def test_a_commit_with_an_old_fence_changes_nothing(
    state: ExecutionStateService, execution: str, sql: Sql
) -> None:
    old = fence_of(state, execution)
    winner = commit_of(execution, old)
    state.update_execution(winner)
    before = sql("SELECT e::text FROM executions e")

    answer = state.update_execution(commit_of(execution, old, output=b'"other"'))

    assert (answer.accepted, answer.seq, answer.fence) == (False, 2, winner.token)
    assert sql("SELECT e::text FROM executions e") == before
    assert sql("SELECT count(*) FROM node_executions") == [(2,)]


@pytest.mark.parametrize(
    "status", [ExecutionStatus.RUNNING, ExecutionStatus.COMPLETED, ExecutionStatus.FAILED]
)
def test_a_commit_may_be_repeated(
    state: ExecutionStateService, execution: str, sql: Sql, status: ExecutionStatus
) -> None:
    commit = commit_of(
        execution,
        fence_of(state, execution),
        execution_status=status,
        status=NodeStatus.FAILED if status is ExecutionStatus.FAILED else NodeStatus.COMPLETED,
        error="boom" if status is ExecutionStatus.FAILED else None,
    )

    answers = [state.update_execution(commit) for _ in range(3)]

    assert [(answer.accepted, answer.seq, answer.status) for answer in answers] == [(True, 2, status)] * 3
    assert sql("SELECT count(*) FROM node_executions") == [(2,)]


def test_of_many_commits_at_once_exactly_one_is_accepted(
    state: ExecutionStateService, execution: str, sql: Sql
) -> None:
    fence = fence_of(state, execution)
    together = threading.Barrier(4)
    answers: list[bool] = []

    def offer() -> None:
        together.wait()
        answers.append(state.update_execution(commit_of(execution, fence)).accepted)

    threads = [threading.Thread(target=offer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [False, False, False, True]
    assert sql("SELECT count(*) FROM node_executions") == [(2,)]


def test_a_commit_that_ends_the_execution_says_when_and_why(
    state: ExecutionStateService, execution: str, sql: Sql
) -> None:
    state.update_execution(
        commit_of(
            execution,
            fence_of(state, execution),
            execution_status=ExecutionStatus.FAILED,
            status=NodeStatus.FAILED,
            handles=(),
            output=None,
            error="declined",
            error_details={"type": "CardError"},
        )
    )

    assert sql(
        "SELECT status, error, error_details, completed_at >= started_at, duration_ms >= 12 FROM executions"
    ) == [("FAILED", "declined", {"type": "CardError", "nodeId": "charge"}, True, True)]


def test_a_commit_for_an_execution_that_does_not_exist_is_refused(state: ExecutionStateService) -> None:
    with pytest.raises(ExecutionNotFound):
        state.update_execution(commit_of(new_execution_id(), str(uuid.uuid4())))


def test_content_that_postgres_cannot_hold_is_refused_whole(
    state: ExecutionStateService, execution: str, sql: Sql
) -> None:
    with pytest.raises(InvalidValue, match="Postgres refuses it"):
        state.update_execution(
            commit_of(execution, fence_of(state, execution), output=b'"\\u0000"', status=NodeStatus.COMPLETED)
        )

    assert sql("SELECT seq, status FROM executions") == [(1, "PENDING")]


# -- moves ---------------------------------------------------------------------------------------------


def put(sql: Sql, execution: str, status: ExecutionStatus) -> None:
    sql(
        "UPDATE executions SET status = %s, started_at = now(), error = 'x', "
        "completed_at = CASE WHEN %s THEN now() END WHERE id = %s",
        status.value,
        status.is_finished,
        execution,
    )


@pytest.mark.parametrize("status", ExecutionStatus)
def test_an_execution_makes_the_legal_moves_and_no_others(
    state: ExecutionStateService, new: Callable[..., NewExecution], sql: Sql, status: ExecutionStatus
) -> None:
    for wanted in ExecutionStatus:
        execution = state.create_execution(new()).id
        put(sql, execution, status)
        fence = fence_of(state, execution)

        if wanted in LEGAL_MOVES[status]:
            state.update_execution_status(execution, wanted)
            assert state.status_of(execution) is wanted
            assert (fence_of(state, execution) != fence) == wanted.is_finished
        else:
            with pytest.raises(IllegalMove) as refusal:
                state.update_execution_status(execution, wanted)
            assert (refusal.value.status, refusal.value.wanted) == (status, wanted)
            assert (state.status_of(execution), fence_of(state, execution)) == (status, fence)


def test_an_execution_that_never_ran_makes_every_legal_move(
    state: ExecutionStateService, new: Callable[..., NewExecution]
) -> None:
    for status in LEGAL_MOVES[ExecutionStatus.PENDING]:
        execution = state.create_execution(new()).id

        state.update_execution_status(execution, status)

        assert state.status_of(execution) is status


def test_the_reason_of_a_failure_is_kept(state: ExecutionStateService, execution: str, sql: Sql) -> None:
    state.update_execution_status(execution, ExecutionStatus.FAILED, error="took more than an hour")

    assert sql("SELECT status, error FROM executions") == [("FAILED", "took more than an hour")]


def test_moving_an_execution_that_does_not_exist_is_refused(state: ExecutionStateService) -> None:
    with pytest.raises(ExecutionNotFound):
        state.update_execution_status(new_execution_id(), ExecutionStatus.PAUSED)


# -- what the tables refuse ----------------------------------------------------------------------------


IMPOSSIBLE = {
    "UPDATE executions SET status = 'STUCK'": "executions_status",
    "UPDATE executions SET status = 'COMPLETED', started_at = now()": "executions_finished",
    "UPDATE executions SET completed_at = now()": "executions_finished",
    "UPDATE executions SET status = 'FAILED', completed_at = now()": "executions_error",
    "UPDATE executions SET status = 'RUNNING'": "executions_started",
    "UPDATE executions SET seq = 0": "executions_counts",
    "UPDATE executions SET workflow_version = 9": "executions_version",
    "UPDATE node_executions SET status = 'RUNNING'": "node_executions_status",
    "UPDATE node_executions SET status = 'SKIPPED'": "node_executions_status",
    "UPDATE node_executions SET completed_at = NULL": "node_executions_completed",
    "UPDATE node_executions SET status = 'FAILED'": "node_executions_error",
    "UPDATE node_executions SET superseded_by = seq": "node_executions_superseded",
    "UPDATE node_executions SET superseded_by = 9": "node_executions_superseded_for",
    "UPDATE node_executions SET visit = 0": "node_executions_counts",
}


@pytest.mark.usefixtures("execution")
def test_the_tables_refuse_rows_that_cannot_be(engine: Engine) -> None:
    refused_by = {statement: refusing_constraint(engine, statement) for statement in IMPOSSIBLE}

    assert refused_by == IMPOSSIBLE


def refusing_constraint(engine: Engine, statement: str, *parameters: Any) -> str | None:
    connection = engine.database.pool.lend()
    try:
        connection.cursor().execute(statement, parameters or None)
    except psycopg2.IntegrityError as refusal:
        return str(refusal.diag.constraint_name)
    finally:
        engine.database.pool.take_back(connection)
    return None


SECOND_ROW = """
INSERT INTO node_executions
    (execution_id, seq, visit, status, superseded_by, superseded_for, node_id, type, sub_type, token,
     started_at, completed_at)
SELECT id::uuid, seq, visit, status, superseded_by, CASE WHEN superseded_by IS NOT NULL THEN 'RERUN' END,
    'charge', 'action', 'function', gen_random_uuid(), now(), now()
FROM (VALUES (%s, %s, %s, %s, %s::int)) AS row (id, seq, visit, status, superseded_by)
"""


def test_a_visit_of_a_node_has_one_final_row_that_is_not_superseded(
    state: ExecutionStateService, execution: str, sql: Sql, engine: Engine
) -> None:
    sql(SECOND_ROW, execution, 2, 1, "COMPLETED", 9)  # superseded by a rerun
    sql(SECOND_ROW, execution, 3, 1, "RETRYING", None)
    sql(SECOND_ROW, execution, 4, 1, "COMPLETED", None)
    sql(SECOND_ROW, execution, 5, 2, "COMPLETED", None)

    second_final_row = (execution, 6, 1, "COMPLETED", None)
    assert refusing_constraint(engine, SECOND_ROW, *second_final_row) == "node_executions_final"

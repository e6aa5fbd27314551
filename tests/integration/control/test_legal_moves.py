"""An execution makes the moves of one table and no others, by any operation or statement."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.nodes.breakable import broken, first, let_wait, second, third
from support.workflows import line
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowClient
from workflow_engine.control.moving import Move
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ExecutionNotFound, IllegalMove
from workflow_engine.execution.records import NodeCommit
from workflow_engine.execution.states import FINISHED, LEGAL_FROM, LEGAL_MOVES, Operation, legal_sources

Sql = Callable[..., list[tuple[object, ...]]]

BECOMES = {
    Operation.PAUSE: ExecutionStatus.PAUSED,
    Operation.RESUME: ExecutionStatus.RUNNING,
    Operation.CANCEL: ExecutionStatus.CANCELLED,
    Operation.RETRY: ExecutionStatus.RUNNING,
    Operation.RERUN: ExecutionStatus.RUNNING,
    Operation.SKIP: ExecutionStatus.RUNNING,
    Operation.COMPLETE: ExecutionStatus.RUNNING,
}
"""The status after an operation; one that is not here changes none."""

LEAVE_A_PAUSE = {Operation.RERUN, Operation.SKIP, Operation.COMPLETE}

COMMITTED = [
    ExecutionStatus.RUNNING,
    ExecutionStatus.WAITING,
    ExecutionStatus.COMPLETED,
    ExecutionStatus.FAILED,
]
"""The statuses that the commit of a node may lead to."""


def pairs(others: Any) -> pytest.MarkDecorator:
    """Run a test for each status, and for each of the others."""
    every = [*itertools.product(ExecutionStatus, others)]
    return pytest.mark.parametrize(("status", "wanted"), every, ids=lambda value: value.value)


@pytest.fixture
def brought_to(
    client: WorkflowClient, workers: Workers, broker: Broker, sql: Sql
) -> Callable[[ExecutionStatus], str]:
    """Bring an execution of three nodes to a status, with `first` done if possible."""
    client.deploy(line(first, second, third, settings={"timeout": 60}))
    execution = client.start("line").id

    def bring(status: ExecutionStatus) -> str:
        if status is ExecutionStatus.PENDING:
            return execution
        workers.hop()
        match status:
            case ExecutionStatus.WAITING:
                let_wait(sql, execution, "second")
                broker.queue.clear()
            case ExecutionStatus.PAUSED:
                client.control.pause(execution)
            case ExecutionStatus.COMPLETED:
                workers.drain()
            case ExecutionStatus.FAILED:
                broken.add("second")
                workers.drain()
            case ExecutionStatus.CANCELLED:
                client.control.cancel(execution)
        assert client.get(execution).status is status
        return execution

    return bring


@pytest.fixture
def stored(sql: Sql) -> Callable[[], list[Any]]:
    """Return all that Postgres holds of executions."""
    tables = ("executions", "node_executions", "execution_wait_states", "execution_events")
    return lambda: [sql(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


def operate(client: WorkflowClient, operation: Operation, execution: str) -> Move:
    control = client.control
    operations: dict[Operation, Callable[[], Move]] = {
        Operation.PAUSE: lambda: control.pause(execution),
        Operation.RESUME: lambda: control.resume(execution),
        Operation.CANCEL: lambda: control.cancel(execution),
        Operation.RETRY: lambda: control.retry(execution),
        Operation.RERUN: lambda: control.rerun(execution, "first"),
        Operation.SKIP: lambda: control.skip(execution, due_node(client, execution)),
        Operation.COMPLETE: lambda: control.complete(execution, due_node(client, execution)),
        Operation.SET_OUTPUT: lambda: control.set_output(execution, "start", {}),
        Operation.SET_VARIABLE: lambda: control.set_variable(execution, "region", "north"),
        Operation.PAUSE_BEFORE: lambda: control.pause_before(execution, "start"),
        Operation.CLEAR_BREAKPOINTS: lambda: control.clear_breakpoints(execution),
    }
    return operations[operation]()


def due_node(client: WorkflowClient, execution: str) -> str:
    """Return the node that is due, waits or has failed: the first without a final row."""
    done = {row.node_id for row in client.journal(execution) if row.status is NodeStatus.COMPLETED}
    return next((node for node in ("first", "second", "third") if node not in done), "third")


@pairs(Operation)
def test_every_operation_is_either_done_and_recorded_or_refused_and_changes_nothing(
    client: WorkflowClient,
    brought_to: Callable[[ExecutionStatus], str],
    stored: Callable[[], list[Any]],
    sql: Sql,
    status: ExecutionStatus,
    wanted: Operation,
) -> None:
    execution = brought_to(status)
    if wanted is Operation.COMPLETE and status in (ExecutionStatus.RUNNING, ExecutionStatus.PAUSED):
        let_wait(sql, execution, "second")
        sql("UPDATE executions SET status = %s WHERE id = %s", status.value, execution)
    events, before = len(client.control.audit(execution)), stored()

    if status in LEGAL_FROM[wanted]:
        move = operate(client, wanted, execution)

        becomes = BECOMES.get(wanted, status)
        if wanted in LEAVE_A_PAUSE and status is ExecutionStatus.PAUSED:
            becomes = ExecutionStatus.PAUSED
        assert (move.status_before, move.status) == (status, becomes)
        assert client.get(execution).status is becomes
        assert len(client.control.audit(execution)) == events + 1
    else:
        with pytest.raises(IllegalMove) as refusal:
            operate(client, wanted, execution)

        assert refusal.value.status == status
        assert set(refusal.value.possible_from) == LEGAL_FROM[wanted]
        assert stored() == before


@pairs(COMMITTED)
def test_a_commit_moves_what_has_not_ended_and_leaves_a_pause_to_the_operator(
    client: WorkflowClient,
    engine: Engine,
    brought_to: Callable[[ExecutionStatus], str],
    stored: Callable[[], list[Any]],
    status: ExecutionStatus,
    wanted: ExecutionStatus,
) -> None:
    execution = brought_to(status)
    before = stored()

    result = engine.state.update_execution(commit_of_third(engine, execution, wanted))

    becomes = client.get(execution).status
    assert result.status is becomes
    assert result.accepted == (status not in FINISHED)
    if not result.accepted:
        assert stored() == before
    elif status is ExecutionStatus.PAUSED and not wanted.is_finished:
        assert becomes is ExecutionStatus.PAUSED
    else:
        assert becomes is wanted
        assert becomes is status or becomes in LEGAL_MOVES[status]


@pairs(ExecutionStatus)
def test_a_move_outside_of_a_hop_is_made_if_the_table_has_it(
    client: WorkflowClient,
    engine: Engine,
    brought_to: Callable[[ExecutionStatus], str],
    stored: Callable[[], list[Any]],
    status: ExecutionStatus,
    wanted: ExecutionStatus,
) -> None:
    execution = brought_to(status)
    before = stored()

    if wanted in LEGAL_MOVES[status]:
        engine.state.update_execution_status(execution, wanted)
        assert client.get(execution).status is wanted
    else:
        with pytest.raises(IllegalMove) as refusal:
            engine.state.update_execution_status(execution, wanted)
        assert (refusal.value.status, refusal.value.wanted) == (status, wanted)
        assert stored() == before


@pytest.mark.parametrize("status", ExecutionStatus)
def test_a_timeout_ends_what_has_not_ended(
    client: WorkflowClient,
    engine: Engine,
    brought_to: Callable[[ExecutionStatus], str],
    stored: Callable[[], list[Any]],
    sql: Sql,
    status: ExecutionStatus,
) -> None:
    execution = brought_to(status)
    sql("UPDATE executions SET expires_at = now()")  # even where none runs, as of a paused one
    before = stored()

    ended = [each.execution_id for each in engine.timeouts.end()]

    if status in legal_sources(ExecutionStatus.FAILED):
        assert ended == [execution]
        assert client.get(execution).status is ExecutionStatus.FAILED
    else:
        assert ended == []
        assert stored() == before


def test_what_was_paused_before_it_began_is_resumed_as_pending(client: WorkflowClient) -> None:
    client.deploy(line(first))
    execution = client.start("line").id
    client.control.pause(execution)

    assert client.control.resume(execution).status is ExecutionStatus.PENDING
    assert client.get(execution).status is ExecutionStatus.PENDING


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("unknown", ["0199c8a0-0000-7000-8000-000000000000", "no-id"])
def test_an_execution_that_does_not_exist_is_reported(
    client: WorkflowClient, operation: Operation, unknown: str
) -> None:
    with pytest.raises(ExecutionNotFound):
        operate(client, operation, unknown)
    with pytest.raises(ExecutionNotFound):
        client.history(unknown)


def commit_of_third(engine: Engine, execution: str, wanted: ExecutionStatus) -> NodeCommit:
    snapshot = engine.state.load_snapshot(execution)
    assert snapshot is not None
    is_failure = wanted is ExecutionStatus.FAILED
    return NodeCommit(
        execution_id=execution,
        fence=snapshot.fence,
        token=str(uuid.uuid4()),
        execution_status=wanted,
        node_id="third",
        type="action",
        sub_type="python",
        status=NodeStatus.FAILED if is_failure else NodeStatus.COMPLETED,
        error="boom" if is_failure else None,
        worker="here:1",
        handles=() if is_failure else ("",),
    )

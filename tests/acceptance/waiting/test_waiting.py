"""Executions that wait or are paused go on at any worker that lives, also if one began to and died."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import ExecutionStatus, NodeStatus, Settings, WorkflowBuilder
from workflow_engine.engine.assembly import Engine


def deploy_waiting(fleet: Fleet, seconds: float) -> None:
    flow = WorkflowBuilder("waiting")
    pause = flow.python("pause", "test.waits_for_seconds", arguments={"seconds": seconds})
    flow.trigger("begin") >> pause >> flow.python("last", "test.echo", arguments={"value": "{{ pause }}"})
    fleet.client.deploy(flow.build())


def open_waits(fleet: Fleet) -> int:
    statement = "SELECT count(*) FROM execution_wait_states WHERE status IN ('WAITING', 'RESUMING')"
    ((count,),) = fleet.engine.database.rows(statement)
    return int(count)


def context_after(fleet: Fleet, execution_id: str, node_id: str) -> dict[str, Any] | None:
    """Return the context that Redis has; None as long as it is not the one after this node."""
    context = fleet.engine.cache.load_context(execution_id)
    return context.to_dict() if context.current_node_id == node_id else None


def end_waits(fleet: Fleet) -> None:
    fleet.engine.database.rows("UPDATE execution_wait_states SET resume_at = now()")


def test_a_delay_that_began_on_one_worker_ends_on_another(own_fleet: Fleet) -> None:
    own_fleet.add_workers("one")
    deploy_waiting(own_fleet, seconds=3)
    execution_id = own_fleet.start("waiting", {"order": 42})
    own_fleet.begun(execution_id, "pause")
    poll(lambda: open_waits(own_fleet) == 1, "the execution waits")
    before = poll(lambda: context_after(own_fleet, execution_id, "pause"), "Redis has its context, too")

    # Killed: a worker that shuts down takes a while, and would still wake the wait.
    own_fleet.workers[0].container.kill_group(signal.SIGKILL)
    own_fleet.wipe_redis()
    own_fleet.add_workers("two")
    after = own_fleet.engine.cache.load_context(execution_id).to_dict()
    execution = own_fleet.completed(execution_id)

    assert before == after
    assert execution.result == "time"
    runs = own_fleet.runs(execution_id, "pause")
    assert len(runs) == 2
    assert runs[0].key == runs[1].key == f"{execution_id}:pause:1"
    assert runs[1].process in own_fleet.workers[1].pool_pids
    waited, resumed = (row for row in own_fleet.journal(execution_id) if row.node_id == "pause")
    assert (waited.status, resumed.status) == (NodeStatus.WAITING, NodeStatus.COMPLETED)
    assert (resumed.started_at - waited.started_at).total_seconds() >= 3
    poll(lambda: own_fleet.engine_keys() == set(), "Redis holds no key of the execution")


def test_an_execution_paused_on_one_worker_goes_on_at_another(own_fleet: Fleet) -> None:
    own_fleet.add_workers("one")
    flow = WorkflowBuilder("paused")
    first = flow.python("first", "test.gated", arguments={"value": {"lines": [1, 2.5, None, "ü"]}})
    (
        flow.trigger("begin")
        >> first
        >> flow.python("second", "test.outputs", arguments={"of": ["begin", "first"]})
    )
    own_fleet.client.deploy(flow.build())
    execution_id = own_fleet.client.start("paused", {"order": 42}, variables={"currency": "EUR"}).id
    own_fleet.begun(execution_id, "first")

    move = own_fleet.client.control.pause(execution_id, reason="stock-taking", actor="ann")
    own_fleet.open_gate(execution_id, "first")
    poll(lambda: len(own_fleet.journal(execution_id)) == 2, "the node that ran has ended")
    before = own_fleet.client.context(execution_id).to_dict()
    assert move.is_running_a_node
    assert own_fleet.client.get(execution_id).status is ExecutionStatus.PAUSED
    poll(lambda: own_fleet.engine_keys() == set(), "Redis holds no key of the execution")
    assert own_fleet.workers[0].terminate() == 0
    own_fleet.add_workers("two")
    after = own_fleet.client.context(execution_id).to_dict()
    own_fleet.client.control.resume(execution_id)
    execution = own_fleet.completed(execution_id)

    outputs = {"begin": {"order": 42}, "first": {"lines": [1, 2.5, None, "ü"]}}
    assert before == after
    assert before == {
        "executionId": execution_id,
        "workflowId": "paused",
        "triggerId": execution.trigger_id,
        "triggerNodeId": "begin",
        "currentNodeId": "first",
        "nodeOutputs": outputs,
        "variables": {"currency": "EUR"},
        "metadata": {**before["metadata"], "executionPath": ["begin", "first"]},
    }
    assert execution.result == outputs, "the other worker's node sees what the first worker's left"
    (run,) = own_fleet.runs(execution_id, "second")
    assert run.process in own_fleet.workers[1].pool_pids
    assert len(own_fleet.runs(execution_id, "first")) == 1


def test_a_wait_whose_claimer_died_is_claimed_again_by_a_worker(own_fleet: Fleet) -> None:
    deploy_waiting(own_fleet, seconds=3600)
    own_fleet.add_workers("one")
    execution_id = own_fleet.start("waiting")
    poll(lambda: open_waits(own_fleet) == 1, "the execution waits")
    # So that this worker leaves the wait to the claimer that dies.
    own_fleet.workers[0].freeze()
    end_waits(own_fleet)
    claimer = Engine.assemble(Settings(**{**own_fleet.settings.model_dump(), "claim_lease": 1.0}))
    claimed = claimer.waits.claim_due()
    claimed_at = time.monotonic()
    own_fleet.workers[0].thaw()
    assert [wait.execution_id for wait in claimed] == [execution_id]

    # Its message is never sent.
    assert own_fleet.completed(execution_id, timeout=5).result == "time"
    assert time.monotonic() - claimed_at >= 0.9
    assert len(own_fleet.runs(execution_id, "pause")) == 2


def test_waits_that_are_over_in_the_same_second_are_each_published_once_by_two_workers(fleet: Fleet) -> None:
    deploy_waiting(fleet, seconds=3600)
    executions = [fleet.start("waiting") for _ in range(200)]
    poll(lambda: open_waits(fleet) == 200, "all executions wait")
    began = time.monotonic()
    end_waits(fleet)

    for execution_id in executions:
        fleet.completed(execution_id)
    took = time.monotonic() - began

    assert took < 10
    # Begin, resume and the last node: a wait that was published twice would show a fourth task.
    assert {fleet.tasks(execution_id) for execution_id in executions} == {3}
    assert all(len(fleet.runs(execution_id, "pause")) == 2 for execution_id in executions)
    assert open_waits(fleet) == 0


@pytest.mark.parametrize("ended_by", ["its time", "an event"])
def test_a_branch_whose_wait_ends_while_another_runs_goes_on_as_soon_as_that_has_committed(
    fleet: Fleet, ended_by: str
) -> None:
    flow = WorkflowBuilder(f"beside-{ended_by.replace(' ', '-')}")
    begin = flow.trigger("begin")
    is_by_event = ended_by == "an event"
    waiting = (
        flow.wait_events("waiting", ["paid"])
        if is_by_event
        else flow.delay("waiting", duration=0.5, unit="seconds")
    )
    begin >> waiting >> flow.python("beside", "test.echo", arguments={"value": 1})
    begin >> flow.python("long", "test.gated")
    workflow = flow.build()
    fleet.client.deploy(workflow)
    execution_id = fleet.start(workflow.id)
    fleet.begun(execution_id, "long")

    if is_by_event:
        fleet.client.send_event(execution_id=execution_id, name="paid")
    dropped = "Dropped the message for node", execution_id, "the execution is locked"
    poll(lambda: fleet.lines(*dropped), "its wait is over, and the lock is held")
    assert len(fleet.journal(execution_id)) == 2, "nothing was committed while the long node runs"
    fleet.open_gate(execution_id, "long")
    fleet.completed(execution_id, timeout=5)

    rows = {(row.node_id, row.status): row for row in fleet.journal(execution_id)}
    long_ended = rows["long", NodeStatus.COMPLETED].completed_at
    went_on = rows["waiting", NodeStatus.COMPLETED].started_at
    assert 0 <= (went_on - long_ended).total_seconds() < 0.5
    assert fleet.runs(execution_id, "beside")

"""Doubled, late and senseless messages change nothing, and leave one line in a log."""

from __future__ import annotations

import uuid

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import WorkflowBuilder


def test_a_message_delivered_three_times_runs_its_node_once(fleet: Fleet) -> None:
    execution_id = start_two_gated_nodes(fleet, "delivered-thrice")
    fleet.begun(execution_id, "first")

    fleet.deliver(execution_id, "delivered-thrice", "first", seq=1, copies=2)

    dropped = f"Dropped the message for node first of execution {execution_id}: the execution is locked"
    poll(lambda: len(fleet.lines(dropped)) == 2, "each copy is dropped in one line")
    finish(fleet, execution_id)
    assert len(fleet.runs(execution_id, "first")) == 1
    assert [row.node_id for row in fleet.journal(execution_id)] == ["begin", "first", "second"]


def test_copies_that_arrive_at_the_same_moment_run_their_node_once(fleet: Fleet) -> None:
    flow = WorkflowBuilder("at-the-same-moment")
    flow.trigger("begin") >> flow.python("only", "test.echo", arguments={"value": 1}, queue="nobody")
    fleet.client.deploy(flow.build())
    execution_id = fleet.start("at-the-same-moment")

    fleet.deliver(execution_id, "at-the-same-moment", "only", seq=1, copies=8)

    fleet.completed(execution_id)
    poll(lambda: fleet.tasks(execution_id) == 8, "all copies are served")
    assert len(fleet.runs(execution_id, "only")) == 1
    assert len(fleet.journal(execution_id)) == 2


def test_a_late_message_for_a_finished_node_is_dropped(fleet: Fleet) -> None:
    execution_id = start_two_gated_nodes(fleet, "late-message")
    fleet.begun(execution_id, "first")
    fleet.open_gate(execution_id, "first")
    fleet.begun(execution_id, "second")
    finish(fleet, execution_id)

    fleet.deliver(execution_id, "late-message", "first", seq=1)

    line = f"Dropped the message for node first of execution {execution_id}: the execution is COMPLETED."
    poll(lambda: fleet.lines(line), "the message is dropped")
    assert len(fleet.lines(line)) == 1
    assert len(fleet.runs(execution_id, "first")) == 1
    assert len(fleet.journal(execution_id)) == 3


def test_a_late_message_of_an_execution_that_goes_on_is_dropped(fleet: Fleet) -> None:
    flow = WorkflowBuilder("late-in-the-middle")
    (
        flow.trigger("begin")
        >> flow.python("first", "test.echo")
        >> flow.python("last", "test.echo", queue="nobody")
    )
    fleet.client.deploy(flow.build())
    execution_id = fleet.start("late-in-the-middle")
    poll(lambda: len(fleet.journal(execution_id)) == 2, "the first node is committed")

    fleet.deliver(execution_id, "late-in-the-middle", "first", seq=1)

    line = (
        f"Dropped the message for node first of execution {execution_id}: the node is neither due nor woken."
    )
    poll(lambda: fleet.lines(line), "the message is dropped")
    fleet.deliver(execution_id, "late-in-the-middle", "last", seq=2)
    fleet.completed(execution_id)
    assert len(fleet.runs(execution_id, "first")) == 1


def test_messages_for_what_does_not_exist_are_dropped(fleet: Fleet) -> None:
    flow = WorkflowBuilder("exists")
    flow.trigger("begin") >> flow.python("only", "test.echo")
    fleet.client.deploy(flow.build())
    nobody = str(uuid.uuid4())

    fleet.deliver(nobody, "exists", "only", seq=1)
    fleet.deliver(nobody, "exists", "no-such-node", seq=1)
    fleet.deliver(nobody, "no-such-workflow", "only", seq=1)

    poll(lambda: len(fleet.lines("Dropped", nobody)) == 3, "each message is dropped in one line")
    assert len(fleet.lines(nobody, "the workflow has no such node")) == 1
    assert len(fleet.lines(nobody, "version 1 of workflow 'no-such-workflow' is not deployed")) == 1
    assert fleet.keys_of(nobody) == []


def start_two_gated_nodes(fleet: Fleet, workflow_id: str) -> str:
    flow = WorkflowBuilder(workflow_id)
    flow.trigger("begin") >> flow.python("first", "test.gated") >> flow.python("second", "test.gated")
    fleet.client.deploy(flow.build())
    return fleet.start(workflow_id)


def finish(fleet: Fleet, execution_id: str) -> None:
    fleet.open_gate(execution_id, "first")
    fleet.open_gate(execution_id, "second")
    fleet.completed(execution_id)

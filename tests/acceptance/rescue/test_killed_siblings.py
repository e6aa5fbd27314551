"""Of nodes that run at once on real workers, a killed process costs its own, and the others go on."""

from __future__ import annotations

import os
import signal

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import ExecutionStatus, WorkflowBuilder


def start_branches(fleet: Fleet, workflow_id: str, *names: str) -> str:
    """Start an execution whose gated branches may all run at the same time; return its id."""
    flow = WorkflowBuilder(workflow_id, settings={"concurrency": len(names)})
    begin, merge = flow.trigger("begin"), flow.merge("joined")
    for name in names:
        begin >> flow.python(name, "test.gated", arguments={"value": name}) >> merge
    fleet.client.deploy(flow.build())
    return fleet.start(workflow_id)


def test_branches_run_in_several_processes_of_several_workers_at_once(fleet: Fleet) -> None:
    execution_id = start_branches(fleet, "at-once", "a", "b", "c", "d")

    runs = [fleet.begun(execution_id, name) for name in ("a", "b", "c", "d")]
    assert len({run.process for run in runs}) == 4
    for name in ("d", "b", "a", "c"):
        fleet.open_gate(execution_id, name)

    assert fleet.completed(execution_id).result == {name: name for name in ("a", "b", "c", "d")}
    journal = [row.node_id for row in fleet.journal(execution_id)]
    assert sorted(journal[1:-1]) == ["a", "b", "c", "d"]


def test_a_killed_process_costs_the_node_that_it_ran_and_no_sibling(fleet: Fleet) -> None:
    execution_id = start_branches(fleet, "killed", "killed", "sibling")
    killed = fleet.begun(execution_id, "killed")
    fleet.begun(execution_id, "sibling")

    os.kill(killed.process, signal.SIGKILL)
    fleet.begun(execution_id, "killed", times=2)
    fleet.open_gate(execution_id, "sibling")
    poll(lambda: len(fleet.journal(execution_id)) == 2, "the sibling is committed meanwhile")
    fleet.open_gate(execution_id, "killed")

    fleet.completed(execution_id)
    assert len(fleet.runs(execution_id, "sibling")) == 1
    assert len({run.key for run in fleet.runs(execution_id, "killed")}) == 1


def test_a_cancel_interrupts_every_node_that_runs(fleet: Fleet) -> None:
    execution_id = start_branches(fleet, "cancelled", "one", "two", "three")
    for name in ("one", "two", "three"):
        fleet.begun(execution_id, name)

    move = fleet.client.control.cancel(execution_id)

    assert len(move.interrupted) == 3
    interrupted = [
        f"Node {name} of execution {execution_id} was interrupted" for name in ("one", "two", "three")
    ]
    poll(lambda: all(fleet.lines(line) for line in interrupted), "all three are interrupted")
    assert fleet.client.get(execution_id).status is ExecutionStatus.CANCELLED
    assert len(fleet.journal(execution_id)) == 1

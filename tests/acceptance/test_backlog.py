"""What a busy worker keeps at hand: it waits behind no long node, nor is it lost when the worker ends."""

from __future__ import annotations

import pytest
from fleet import Fleet, poll

from workflow_engine import WorkflowBuilder

PATIENCE = 15.0
"""Seconds within which a backlog here is done by far."""

PROCESSES = 4
"""Of the two workers of the fleet that tests share."""


def test_a_short_node_that_was_written_behind_a_long_one_is_run_by_somebody_else(own_fleet: Fleet) -> None:
    fleet = own_fleet
    deploy_short_ones(fleet)
    deploy_a_long_one(fleet)
    before = [fleet.start("short") for _ in range(100)]
    long = fleet.start("long")
    after = [fleet.start("short") for _ in range(200)]
    fleet.add_workers("one")
    fleet.begun(long, "only", timeout=20)

    for execution_id in [*before, *after]:
        fleet.completed(execution_id, timeout=PATIENCE)

    fleet.open_gate(long, "only")
    fleet.completed(long)
    assert all(len(fleet.runs(execution_id)) == 3 for execution_id in after)
    assert fleet.lines("brought back") == []


@pytest.mark.parametrize("short", [5, 20, 50, 100, 200])
def test_long_nodes_behind_short_ones_soon_have_a_process_each(fleet: Fleet, short: int) -> None:
    deploy_short_ones(fleet)
    deploy_a_long_one(fleet)
    executions = [fleet.start("short") for _ in range(short)]
    long = [fleet.start("long") for _ in range(PROCESSES)]

    for execution_id in long:
        fleet.begun(execution_id, "only", timeout=5)

    for execution_id in long:
        fleet.open_gate(execution_id, "only")
    for execution_id in [*executions, *long]:
        fleet.completed(execution_id)


def test_a_worker_that_ends_in_the_middle_of_a_backlog_does_so_in_seconds_and_keeps_nothing(
    own_fleet: Fleet,
) -> None:
    fleet = own_fleet
    deploy_short_ones(fleet)
    executions = [fleet.start("short") for _ in range(300)]
    fleet.add_workers("leaving")
    poll(lambda: len(fleet.journal(executions[50])) == 4, 10, "the worker is busy")

    assert fleet.workers[0].terminate() == 0
    fleet.add_workers("following")

    for execution_id in executions:
        fleet.completed(execution_id, timeout=PATIENCE)


def deploy_a_long_one(fleet: Fleet) -> None:
    flow = WorkflowBuilder("long")
    flow.trigger("begin") >> flow.python("only", "test.gated")
    fleet.client.deploy(flow.build())


def deploy_short_ones(fleet: Fleet) -> None:
    flow = WorkflowBuilder("short")
    last = flow.trigger("begin")
    for node in ("first", "second", "third"):
        last = last >> flow.python(node, "test.echo")
    fleet.client.deploy(flow.build())

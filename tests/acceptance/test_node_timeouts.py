"""A node past its timeout frees its process, whatever it does against it."""

from __future__ import annotations

import time

import pytest
from fleet import Fleet

from workflow_engine import NodeStatus, WorkflowBuilder


@pytest.mark.parametrize(
    ("function", "at_most"),
    [("test.sleeps", 3.0), ("test.ignores_signals", 10.0), ("test.holds_the_interpreter", 10.0)],
)
def test_a_stuck_node_is_failed_and_other_nodes_run_in_its_place(
    fleet: Fleet, function: str, at_most: float
) -> None:
    flow = WorkflowBuilder("stuck")
    flow.trigger("begin") >> flow.python("stuck", function, timeout=1)
    fleet.client.deploy(flow.build())
    quick = WorkflowBuilder("quick")
    quick.trigger("begin") >> quick.python("echo", "test.echo", arguments={"value": 1})
    fleet.client.deploy(quick.build())
    started = time.monotonic()
    # As many as the fleet has processes: nothing else could run if one of them stayed stuck.
    stuck = [fleet.start("stuck") for _ in range(4)]

    failed = [fleet.failed(execution_id, timeout=20) for execution_id in stuck]

    assert time.monotonic() - started < at_most + 2
    assert {execution.error for execution in failed} == {"the node ran for longer than its timeout of 1 s"}
    for execution in failed:
        assert [row.status for row in fleet.journal(execution.id)] == [
            NodeStatus.COMPLETED,
            NodeStatus.FAILED,
        ]
    assert fleet.completed(fleet.start("quick")).result == 1

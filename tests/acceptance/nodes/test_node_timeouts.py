"""A node past its timeout frees its process, however it resists."""

from __future__ import annotations

import time

import pytest

from support.fleet import Fleet
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
    # As many as the fleet has processes: no other node could run if one of them stayed stuck.
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


def test_a_worker_of_threads_keeps_timeouts_and_says_at_start_what_it_cannot_end(own_fleet: Fleet) -> None:
    flow = WorkflowBuilder("slow")
    flow.trigger("begin") >> flow.python("slow", "test.takes", arguments={"seconds": 3}, timeout=1)
    own_fleet.client.deploy(flow.build())
    worker = own_fleet.add_worker("threads", "-P", "threads")
    worker.ready()

    execution = own_fleet.failed(own_fleet.start("slow"))

    assert execution.error == "the node ran for longer than its timeout of 1 s"
    assert execution.error_details["type"] == "TIMEOUT"
    assert len(own_fleet.runs(execution.id)) == 1
    assert worker.lines("under threads", "a node that ignores its timeout fails, but goes on")

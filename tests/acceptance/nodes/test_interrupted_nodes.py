"""An operator's cancel ends the node that runs for it, frees its process, and touches no other node."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import ExecutionStatus, WorkflowBuilder
from workflow_engine.errors import IllegalMove


def test_a_cancelled_node_frees_its_process_for_other_work(fleet: Fleet) -> None:
    flow = WorkflowBuilder("endless")
    flow.trigger("begin") >> flow.python("sleeps", "test.sleeps")
    fleet.client.deploy(flow.build())
    quick = WorkflowBuilder("quick")
    quick.trigger("begin") >> quick.python("echo", "test.echo", arguments={"value": 1})
    fleet.client.deploy(quick.build())
    # As many as the fleet has processes: no other node can run at the same time.
    endless = [fleet.start("endless") for _ in range(4)]
    for execution in endless:
        fleet.begun(execution, "sleeps")

    started = time.monotonic()
    moves = [fleet.client.control.cancel(execution, reason="enough") for execution in endless]
    fleet.completed(fleet.start("quick"))

    assert time.monotonic() - started < 10
    assert all(move.interrupted for move in moves)
    for execution in endless:
        assert fleet.client.get(execution).status is ExecutionStatus.CANCELLED
        poll(
            lambda execution=execution: (
                [event.type for event in fleet.client.control.audit(execution)]
                == ["CANCELLED", "INTERRUPTED"]
            ),
            "the history tells of the interruption",
            timeout=5,
        )


def test_cancels_aimed_at_nodes_that_end_at_that_moment_hit_no_other(fleet: Fleet) -> None:
    flow = WorkflowBuilder("short_nodes")
    trigger = flow.trigger("begin")
    (
        trigger
        >> flow.python("one", "test.takes", arguments={"seconds": 0.5})
        >> flow.python("two", "test.takes", arguments={"seconds": 0.5})
    )
    fleet.client.deploy(flow.build())
    executions = [fleet.start("short_nodes") for _ in range(40)]
    doomed = executions[::2]

    def cancel_as_it_ends(execution: str) -> None:
        fleet.begun(execution, "one", timeout=30)
        # A worker polls two or three times in these seconds; some cancels come just too late for the node.
        time.sleep(random.uniform(0.2, 0.6))
        try:
            fleet.client.control.cancel(execution)
        except IllegalMove:
            assert fleet.client.get(execution).status is ExecutionStatus.COMPLETED

    with ThreadPoolExecutor(len(doomed)) as threads:
        list(threads.map(cancel_as_it_ends, doomed))

    for execution in executions[1::2]:
        fleet.completed(execution, timeout=30)
        assert [run.node_id for run in fleet.runs(execution)] == ["one", "two"]
        assert not fleet.client.history(execution)[3:]
    ended = [fleet.client.get(execution).status for execution in doomed]
    assert ended.count(ExecutionStatus.CANCELLED) > 0
    assert set(ended) <= {ExecutionStatus.CANCELLED, ExecutionStatus.COMPLETED}

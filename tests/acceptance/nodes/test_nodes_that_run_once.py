"""A node with `onCrash: fail` acts exactly once, whatever process dies and whatever is lost with it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from support.fleet import Fleet
from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder


def deploy_transfer(fleet: Fleet, **settings: str) -> None:
    """Deploy a workflow whose transfer must not be repeated; a person asks about one that was lost."""
    flow = WorkflowBuilder("transfer", settings=settings)
    transfer = flow.python(
        "transfer", "test.gated", on_crash="fail", retry={"maxAttempts": 5, "waitDuration": 0}
    )
    asked = flow.function("ask", "{{ transfer.error.type }}")
    flow.trigger("begin") >> flow.function("first", 1) >> transfer >> flow.function("done", 1)
    transfer.on_error >> asked
    fleet.client.deploy(flow.build())


@pytest.mark.parametrize("hops", ["spread", "inline"])
def test_a_killed_process_ends_its_node_at_once_along_the_error_edge(fleet: Fleet, hops: str) -> None:
    deploy_transfer(fleet, hops=hops)
    execution_id = fleet.start("transfer")
    victim = fleet.begun(execution_id, "transfer").process

    os.kill(victim, signal.SIGKILL)
    killed_at = time.monotonic()
    execution = fleet.completed(execution_id)

    assert time.monotonic() - killed_at < 5
    assert execution.result == {"ask": "CRASHED"}
    assert len(fleet.runs(execution_id, "transfer")) == 1
    rows = [(row.node_id, row.status) for row in fleet.journal(execution_id)]
    assert rows[2:] == [("transfer", NodeStatus.FAILED), ("ask", NodeStatus.COMPLETED)]


def test_a_killed_worker_and_an_empty_redis_do_not_make_it_run_again(own_fleet: Fleet) -> None:
    own_fleet.add_workers("one")
    deploy_transfer(own_fleet)
    execution_id = own_fleet.start("transfer")
    own_fleet.begun(execution_id, "transfer")

    own_fleet.workers[0].container.kill_group(signal.SIGKILL)
    own_fleet.wipe_redis()
    own_fleet.add_workers("two")
    own_fleet.resume(execution_id)
    execution = own_fleet.completed(execution_id)

    assert execution.status is ExecutionStatus.COMPLETED
    assert execution.result == {"ask": "CRASHED"}
    assert len(own_fleet.runs(execution_id, "transfer")) == 1


def test_a_node_that_is_left_alone_runs_to_its_end(fleet: Fleet) -> None:
    deploy_transfer(fleet)
    execution_id = fleet.start("transfer")
    fleet.begun(execution_id, "transfer")

    fleet.open_gate(execution_id, "transfer")

    assert fleet.completed(execution_id).result == {"done": 1}
    assert len(fleet.runs(execution_id, "transfer")) == 1

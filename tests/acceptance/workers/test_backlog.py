"""A message that a busy worker has prefetched waits behind no long node, and survives the worker's end."""

from __future__ import annotations

import pytest

from support.fleet import BOTH_WAYS, Fleet
from support.polling import poll
from support.worker_processes import STOP_TIMEOUT
from workflow_engine import WorkflowBuilder
from workflow_engine.maintenance.recovery import TURN

TIMEOUT = 60.0
"""Seconds within which a backlog here is done with a wide margin, even on a busy machine."""

LAST_RESULTS = 30.0
"""Seconds that a process of billiard waits at its end for its parent to read its last result.

Celery's own way forgets a task that it wrote and whose begin it has not read, and then that result, too.
"""

PROCESSES = 4
"""The processes of the two workers of the shared fleet."""


@BOTH_WAYS
def test_a_short_node_that_was_written_behind_a_long_one_is_run_by_somebody_else(own_fleet: Fleet) -> None:
    fleet = own_fleet
    assert fleet.engine.leases.take(TURN, 5 * TIMEOUT), "or a rescue could run it"
    deploy_short_ones(fleet)
    deploy_a_long_one(fleet)
    before = [fleet.start("short") for _ in range(100)]
    long = fleet.start("long")
    after = [fleet.start("short") for _ in range(200)]
    fleet.add_workers("one")
    fleet.begun(long, "only", timeout=20)

    for execution_id in [*before, *after]:
        fleet.completed(execution_id, timeout=TIMEOUT)

    fleet.open_gate(long, "only")
    fleet.completed(long)
    assert all(len(fleet.runs(execution_id)) == 3 for execution_id in after)


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


@BOTH_WAYS
def test_a_worker_that_ends_in_the_middle_of_a_backlog_does_so_in_seconds_and_keeps_nothing(
    own_fleet: Fleet, celery_internals: bool
) -> None:
    fleet = own_fleet
    deploy_short_ones(fleet)
    executions = [fleet.start("short") for _ in range(300)]
    fleet.add_workers("leaving")
    poll(lambda: len(fleet.journal(executions[50])) == 4, "the worker is busy")

    assert fleet.workers[0].terminate(STOP_TIMEOUT + (0 if celery_internals else LAST_RESULTS)) == 0
    fleet.add_workers("following")

    for execution_id in executions:
        fleet.completed(execution_id, timeout=TIMEOUT)


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

"""A producer killed in the middle of `start_many` leaves whole batches, and each execution of these runs."""

from __future__ import annotations

import signal
import sys
from collections import Counter

import pytest

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import WorkflowBuilder
from workflow_engine.engine.starts.starting import BATCH

BATCHES = 8
"""Batches of one call; a producer is killed long before the last one."""

PLACES = "SELECT (trigger_data->>'place')::int FROM executions WHERE trigger_data->>'turn' = %(turn)s::text"
WRITING = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'
    AND query LIKE '%start_execution%'
"""
UNFINISHED = "SELECT count(*) FROM executions WHERE status <> 'COMPLETED'"
RUNS = """
SELECT count(*), count(DISTINCT execution_id) FROM node_executions
WHERE node_id = 'step' AND status = 'COMPLETED'
"""


@pytest.mark.timeout(300)
def test_a_killed_producer_leaves_whole_batches_whose_executions_run(own_fleet: Fleet) -> None:
    flow = WorkflowBuilder("batches")
    flow.trigger("begin") >> flow.function("step", "{{ begin.place }}")
    own_fleet.client.deploy(flow.build())

    # In the first batch, after it, and after the second.
    left = [_left_by_a_producer_killed_after(own_fleet, batches) for batches in range(3)]

    for places in left:
        sizes = Counter(place // BATCH for place in places)
        assert set(sizes.values()) <= {BATCH}, "each batch is there whole, or not at all"
        assert sorted(sizes) == list(range(len(sizes))), "in the order of the call"
        assert len(sizes) < BATCHES, "the producer was killed before its end"
    assert any(left)
    own_fleet.add_worker("one").ready()
    total = sum(map(len, left))
    poll(lambda: _one(own_fleet, UNFINISHED) == (0,), f"{total} executions complete", timeout=200)
    assert _one(own_fleet, RUNS) == (total, total)


def _left_by_a_producer_killed_after(fleet: Fleet, batches: int) -> list[int]:
    """Kill a producer once it has started this many batches; return the places of what it has started."""
    command = [sys.executable, "-m", "support.batch_producer", "batches", str(batches), str(BATCHES * BATCH)]
    producer = fleet.program(f"producer-{batches}", *command)

    def places() -> list[int]:
        return [place for (place,) in fleet.engine.database.rows(PLACES, turn=batches)]

    def is_writing() -> bool:
        return _one(fleet, WRITING) == (True,)

    poll(
        lambda: len(places()) >= batches * BATCH and (places() or is_writing()),
        f"{batches} batches are there, and more is written",
        timeout=60,
    )
    producer.kill_group(signal.SIGKILL)
    producer.wait(20)
    poll(lambda: not is_writing(), "Postgres has ended what the producer had sent")
    return places()


def _one(fleet: Fleet, statement: str) -> tuple[object, ...]:
    (row,) = fleet.engine.database.rows(statement)
    return row

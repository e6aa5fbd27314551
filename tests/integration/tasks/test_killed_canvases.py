"""A canvas gives the value that Celery gives, once, though its workers are killed at every call they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support import shop
from support.broker import Broker
from support.canvases import SHAPES, celerys_value
from support.mortal_worker import MortalWorkers
from workflow_engine import ExecutionStatus, Settings, WorkflowClient, durable

Sql = Callable[..., list[tuple[Any, ...]]]

SAMPLE = ("chord of dates", "map | task", "chunks")

TWICE = """
SELECT execution_id, node_id, visit FROM node_executions
WHERE status IN ('COMPLETED', 'FAILED') AND superseded_by IS NULL
GROUP BY execution_id, node_id, visit HAVING count(*) > 1
"""
UNFINISHED = "SELECT id, status FROM executions WHERE completed_at IS NULL"


@pytest.fixture
def mortal_workers(settings: Settings, broker: Broker) -> Iterator[MortalWorkers]:
    workers = MortalWorkers(settings, broker)
    yield workers
    workers.close()


def survives(name: str, client: WorkflowClient, workers: MortalWorkers, sql: Sql) -> None:
    execution = durable(SHAPES[name][0](), client=client).start()

    workers.drain()

    found = client.get(execution.id)
    assert (found.status, found.result) == (ExecutionStatus.COMPLETED, celerys_value(name)), name
    assert sql(TWICE) == []
    assert sql(UNFINISHED) == []


@pytest.mark.parametrize("name", SAMPLE)
def test_a_canvas_gives_its_value_once_though_workers_are_killed_at_every_call(
    client: WorkflowClient, mortal_workers: MortalWorkers, sql: Sql, name: str
) -> None:
    survives(name, client, mortal_workers, sql)
    assert mortal_workers.deaths > 10


@pytest.mark.long
@pytest.mark.parametrize("name", SHAPES)
def test_every_canvas_gives_its_value_once_though_workers_are_killed_at_every_call(
    client: WorkflowClient, mortal_workers: MortalWorkers, sql: Sql, name: str
) -> None:
    survives(name, client, mortal_workers, sql)


def test_a_kill_repeats_the_member_that_runs_and_no_other(
    client: WorkflowClient, mortal_workers: MortalWorkers
) -> None:
    members = 40
    execution = durable(shop.counted.map(range(members)), client=client).start()

    mortal_workers.drain()

    assert client.get(execution.id).result == list(range(members))
    assert {number for _, number in shop.calls} == set(range(members))
    assert len(shop.calls) <= members + mortal_workers.deaths
    # What the process does between two members is a call, too.
    assert mortal_workers.deaths > members

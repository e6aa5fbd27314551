"""A timekeeper looks again just in time, and nothing that is away for a while ends or overtaxes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.workflows import line
from workflow_engine import ExecutionStatus, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.maintenance.timekeeper import LONGEST_PAUSE, SHORTEST_PAUSE, Timekeeping

HOUR = 3600.0


def pauses() -> Any:
    return waiting(seconds=HOUR)


@pytest.fixture
def execution(client: WorkflowClient, workers: Workers) -> str:
    client.deploy(line(pauses))
    execution_id = client.start("line").id
    workers.drain()
    return execution_id


def test_it_looks_again_when_the_next_wait_is_over_and_once_a_second_at_least(
    engine: Engine, execution: str, time_passes: Callable[[float], None]
) -> None:
    timekeeping = Timekeeping(engine)

    assert timekeeping.round() == LONGEST_PAUSE
    time_passes(HOUR - 0.5)
    assert SHORTEST_PAUSE <= timekeeping.round() <= 0.5


def test_it_does_not_look_more_often_for_waits_that_only_an_operator_can_free(
    engine: Engine, execution: str, time_passes: Callable[[float], None]
) -> None:
    engine.state.update_execution_status(execution, ExecutionStatus.PAUSED)
    time_passes(2 * HOUR)

    first, *others = [Timekeeping(engine).round() for _ in range(3)]

    assert first == SHORTEST_PAUSE
    # The next look for stalled executions may come a little earlier.
    assert all(0.9 * LONGEST_PAUSE < pause <= LONGEST_PAUSE for pause in others)


def test_a_broker_that_is_away_gets_the_woken_node_as_soon_as_it_is_back(
    engine: Engine,
    broker: Broker,
    execution: str,
    time_passes: Callable[[float], None],
    sql: Callable[..., Any],
) -> None:
    time_passes(HOUR)
    broker.is_away = True
    back = threading.Timer(0.3, lambda: setattr(broker, "is_away", False))
    back.start()

    Timekeeping(engine).round()

    back.join()
    assert [message.node_id for message in broker.messages] == ["pauses"]
    assert sql("SELECT details->'claims' FROM execution_wait_states") == [(1,)]


def test_a_database_that_is_away_is_logged_once(
    new_engine: Callable[..., Engine], log_lines: Callable[[], list[str]]
) -> None:
    timekeeping = Timekeeping(new_engine(database_url="postgresql://nobody@127.0.0.1:1/nothing"))

    assert [timekeeping.round() for _ in range(3)] == [LONGEST_PAUSE] * 3

    (line,) = log_lines()
    assert line.startswith("Postgres is unavailable: ")

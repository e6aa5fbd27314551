"""The fault suite counts as a move what an execution really commits, besides what its nodes write down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.record import Record
from support.broker import Workers
from support.workflows import calling
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient


def fails() -> None:
    raise ConnectionError("once more")


def to_a_delay(flow: WorkflowBuilder) -> Any:
    return flow.delay("coolOff", duration=1, unit="hours")


def to_a_retry(flow: WorkflowBuilder) -> Any:
    return calling(flow, fails, retry={"maxAttempts": 2, "waitDuration": 3_600_000})


@pytest.mark.parametrize("leads", [to_a_delay, to_a_retry])
def test_an_execution_that_has_begun_to_wait_has_moved(
    client: WorkflowClient,
    workers: Workers,
    settings: Settings,
    tmp_path: Path,
    leads: Callable[[WorkflowBuilder], Any],
) -> None:
    flow = WorkflowBuilder("waits")
    flow.trigger("begin") >> leads(flow)
    client.deploy(flow.build())
    execution = client.start("waits").id
    workers.drain()

    record = Record.read(settings.database_url, tmp_path)
    began, waits = record.journal[execution]

    assert began.committed_at is not None
    assert waits.status in ("WAITING", "RETRYING")
    assert record.moved_again(execution, began.committed_at) == waits.committed_at
    assert record.moved_again(execution, waits.committed_at or 0.0) is None

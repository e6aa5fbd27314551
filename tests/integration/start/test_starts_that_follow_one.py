"""A process that starts a workflow again reads nothing, and starts only what is deployed and open by now."""

from __future__ import annotations

import pytest

from support.broker import Workers
from support.statements import Sent, recorded_statements
from workflow_engine import (
    IdempotencyConflict,
    TriggerDataInvalid,
    WorkflowBuilder,
    WorkflowClient,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import TriggerPaused, WorkflowInactive

ID = {"type": "object", "required": ["id"]}
NAME = {"type": "object", "required": ["name"]}


def deploy(client: WorkflowClient, schema: dict[str, object] = ID) -> int:
    flow = WorkflowBuilder("orders")
    flow.trigger("placed", schema=schema) >> flow.function("first", "{{ _trigger }}")
    return client.deploy(flow.build()).version


@pytest.fixture
def started(client: WorkflowClient) -> WorkflowClient:
    """Return a client whose process has started the first version of a workflow."""
    deploy(client)
    client.start("orders", {"id": 0})
    return client


@pytest.fixture
def operator(second_engine: Engine) -> WorkflowClient:
    """Return a client of another process, which deploys and operates."""
    return WorkflowClient(engine=second_engine)


@pytest.fixture
def sent(started: WorkflowClient, monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Return the statements since that start."""
    return recorded_statements(monkeypatch)


def test_the_second_start_is_one_statement(started: WorkflowClient, sent: list[Sent]) -> None:
    started.start("orders", {"id": 1})

    assert len(sent) == 1


def test_a_version_that_was_deployed_since_is_started(
    started: WorkflowClient, operator: WorkflowClient, workers: Workers
) -> None:
    newer = deploy(operator, NAME)

    execution = started.start("orders", {"name": "a", "id": 1}).id

    workers.drain()
    assert started.get(execution).version == newer


def test_data_that_only_a_newer_version_accepts_is_started(
    started: WorkflowClient, operator: WorkflowClient
) -> None:
    newer = deploy(operator, NAME)

    execution = started.start("orders", {"name": "a"}).id

    assert started.get(execution).version == newer


def test_data_that_the_newest_version_refuses_is_refused_although_an_older_one_would_take_it(
    started: WorkflowClient, operator: WorkflowClient
) -> None:
    deploy(operator, NAME)

    with pytest.raises(TriggerDataInvalid):
        started.start("orders", {"id": 1})


def test_a_version_that_the_caller_names_is_started_whatever_is_deployed_since(
    started: WorkflowClient, operator: WorkflowClient, sent: list[Sent]
) -> None:
    started.start("orders", {"id": 1}, version=1)
    deploy(operator, NAME)
    sent.clear()

    execution = started.start("orders", {"id": 2}, version=1).id

    assert len(sent) == 1
    assert started.get(execution).version == 1


def test_a_workflow_that_was_deactivated_since_is_refused_and_starts_again_once_it_is_active(
    started: WorkflowClient, operator: WorkflowClient
) -> None:
    operator.control.workflows.deactivate("orders")
    with pytest.raises(WorkflowInactive):
        started.start("orders", {"id": 1}, idempotency_key="one")
    with pytest.raises(WorkflowInactive):
        started.start("orders", {"id": 1}, idempotency_key="one")

    operator.control.workflows.activate("orders")

    assert started.start("orders", {"id": 1}, idempotency_key="one").is_new


def test_a_trigger_that_was_paused_since_is_refused(
    started: WorkflowClient, operator: WorkflowClient
) -> None:
    operator.control.workflows.pause_trigger("orders", "placed")

    with pytest.raises(TriggerPaused):
        started.start("orders", {"id": 1})


def test_a_key_that_was_used_before_returns_its_execution_although_the_workflow_is_closed_by_now(
    started: WorkflowClient, operator: WorkflowClient
) -> None:
    first = started.start("orders", {"id": 1}, idempotency_key="one")
    operator.control.workflows.deactivate("orders")

    again = started.start("orders", {"id": 1}, idempotency_key="one")

    assert (again.id, again.is_new) == (first.id, False)
    with pytest.raises(WorkflowInactive):
        started.start("orders", {"id": 2}, idempotency_key="two")


def test_a_key_that_was_used_with_other_data_is_refused(started: WorkflowClient) -> None:
    started.start("orders", {"id": 1}, idempotency_key="one")

    with pytest.raises(IdempotencyConflict):
        started.start("orders", {"id": 2}, idempotency_key="one")

"""A node that its worker has not run to the end leaves a line in the history, unless it was committed."""

from __future__ import annotations

import pytest

from support.broker import Broker, Workers
from support.workflows import line
from workflow_engine import ExecutionContext, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage
from workflow_engine.maintenance.timekeeper import Timekeeping, UnfinishedNode

WORKER = "celery@host"


def first() -> int:
    return 1


def rests(context: ExecutionContext) -> object:
    return waiting(seconds=60) if context.wake is None else 1


@pytest.fixture
def timekeeping(engine: Engine) -> Timekeeping:
    return Timekeeping(engine)


@pytest.fixture
def message(client: WorkflowClient, broker: Broker) -> HopMessage:
    """Return the message for the first of two nodes."""
    client.deploy(line(first, rests))
    client.start("line")
    return broker.messages[0]


def lines(
    client: WorkflowClient, message: HopMessage
) -> list[tuple[str, str | None, str | None, str | None]]:
    return [
        (each.type, each.name, each.actor, each.reason) for each in client.control.audit(message.execution_id)
    ]


def test_it_was_interrupted_or_its_message_requeued(
    client: WorkflowClient, timekeeping: Timekeeping, message: HopMessage
) -> None:
    timekeeping.record(UnfinishedNode(message, WORKER, has_begun=True))
    timekeeping.record(UnfinishedNode(message, WORKER, has_begun=False))

    assert lines(client, message) == [
        ("INTERRUPTED", "first", WORKER, "the worker ends"),
        ("REQUEUED", "first", WORKER, "the worker ends"),
    ]


def test_a_worker_records_it_once(
    client: WorkflowClient, timekeeping: Timekeeping, message: HopMessage
) -> None:
    for worker in (WORKER, WORKER, "celery@other"):
        timekeeping.record(UnfinishedNode(message, worker, has_begun=False))

    assert [actor for _, _, actor, _ in lines(client, message)] == [WORKER, "celery@other"]


def test_nothing_is_recorded_of_a_node_that_was_committed_or_whose_execution_has_ended(
    client: WorkflowClient, timekeeping: Timekeeping, workers: Workers, message: HopMessage
) -> None:
    workers.drain()
    timekeeping.record(UnfinishedNode(message, WORKER, has_begun=True))
    client.control.cancel(message.execution_id)
    later = HopMessage(message.execution_id, "line", 1, "rests", seq=3)
    timekeeping.record(UnfinishedNode(later, WORKER, has_begun=False))

    assert [kind for kind, *_ in lines(client, message)] == ["CANCELLED"]


def test_an_inline_walk_does_not_record_which_node_ran(
    client: WorkflowClient, timekeeping: Timekeeping, broker: Broker, workers: Workers
) -> None:
    client.deploy(line(first, rests, id="inline", settings={"hops": "inline"}))
    client.start("inline")
    message = broker.messages[0]
    workers.drain()

    timekeeping.record(UnfinishedNode(message, WORKER, has_begun=True))

    assert lines(client, message) == [("INTERRUPTED", None, WORKER, "the worker ends")]


def test_an_execution_that_is_not_there_does_no_harm(timekeeping: Timekeeping, message: HopMessage) -> None:
    missing = HopMessage("0190f5fe-7c00-7a00-8000-000000000000", "line", 1, "first", seq=1)
    timekeeping.record(UnfinishedNode(missing, WORKER, has_begun=True))

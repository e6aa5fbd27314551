"""A node's exception never triggers what it would mean to Celery; Celery sees only a failure."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable

import pytest
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry

from workflow_engine.engine.hop_report import COMPLETED, HopEnd, HopReport
from workflow_engine.errors import NodeFailed
from workflow_engine.execution.states import NodeStatus
from workflow_engine.nodes.results import NodeError, failure_of
from workflow_engine.runner.node_run import Outcome
from workflow_engine.worker.task_outcome import task_outcome


def report_of(
    error: BaseException, status: NodeStatus = NodeStatus.FAILED, wait: int | None = None
) -> HopReport:
    outcome = Outcome(status, error=stored(error), retry_in_ms=wait)
    return HopReport.of("charge", outcome, is_accepted=True)


def stored(error: BaseException) -> NodeError:
    """Return the error of a node that has raised this, with the text that the journal has."""
    failed = failure_of(error).error
    assert failed is not None
    assert failed.raised is not None
    return NodeError(
        failed.type,
        failed.message,
        raised=type(failed.raised)(error, failed.message),
    )


@pytest.mark.parametrize(
    "error",
    [
        Reject("put it back", requeue=True),
        Ignore("say nothing"),
        Retry("again"),
        Terminated(15),
        WorkerLostError("a worker of another app"),
        TimeLimitExceeded(3),
        MemoryError("too much"),
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_means_something_to_celery_is_shown_as_a_failure(error: BaseException) -> None:
    failed = task_outcome(report_of(error), "charge")

    assert type(failed) is NodeFailed
    assert failed.type == type(error).__name__
    assert str(pickle.loads(pickle.dumps(failed))) == str(failed)


@pytest.mark.parametrize("make", [lambda: ZeroDivisionError("by nothing"), lambda: KeyError("sku")])
def test_an_exception_that_means_nothing_to_celery_is_shown_unchanged(make: Callable[[], Exception]) -> None:
    failed = task_outcome(report_of(make()), "charge")

    assert repr(failed) == repr(make())


def test_the_exception_of_an_attempt_that_is_repeated_is_inside_a_retry() -> None:
    failed = task_outcome(report_of(ConnectionError("away"), NodeStatus.RETRYING, wait=1500), "charge")

    assert isinstance(failed, Retry)
    assert str(failed) == "Retry in 1.5s: ConnectionError('away')"
    assert repr(pickle.loads(pickle.dumps(failed)).exc) == "ConnectionError('away')"


def test_an_exception_that_a_node_raises_again_and_again_gets_no_notes_from_us() -> None:
    always_the_same = ValueError("declined")
    earlier = report_of(always_the_same)

    for _ in range(2):
        failed = task_outcome(earlier.followed_by(report_of(always_the_same)), "first")
        assert isinstance(failed, ValueError)
        assert failed.__notes__ == [
            "in node 'charge', which was run inline after 'first'",
            "before it, node 'charge' failed: ValueError: declined",
        ]
    assert not hasattr(always_the_same, "__notes__")


def test_a_failure_stays_one_after_anything_that_follows_it_in_the_same_task() -> None:
    failed = report_of(ValueError("declined"))

    assert failed.followed_by(COMPLETED) is failed
    assert COMPLETED.followed_by(failed) is failed
    assert COMPLETED.followed_by(HopReport(HopEnd.WAITING)).end is HopEnd.WAITING

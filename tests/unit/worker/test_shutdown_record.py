"""A worker that ends names the messages that it holds unserved, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from celery.signals import worker_shutting_down
from celery.worker import state

from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.execution.messages import HopMessage
from workflow_engine.worker.steps import shutdown
from workflow_engine.worker.steps.shutdown import unfinished_nodes

MESSAGE = HopMessage("0190f5fe-7c00-7a00-8000-000000000000", "shop", 1, "charge", 2)


class Request:
    """The parts of Celery's request that show what became of a message."""

    def __init__(
        self,
        id: str,
        *,
        type: str = TASK_NAME,
        kwargs: Any = None,
        time_start: float | None = None,
        acknowledged: bool = False,
    ) -> None:
        self.id = id
        self.type = type
        self.kwargs = asdict(MESSAGE) if kwargs is None else kwargs
        self.time_start = time_start
        self.acknowledged = acknowledged


@pytest.fixture(autouse=True)
def _no_other_requests() -> Iterator[None]:
    _forget_requests()
    yield
    _forget_requests()


def _forget_requests() -> None:
    state.reserved_requests.clear()
    state.revoked.clear()
    shutdown._held.clear()  # other tests of this process may have left requests there


def test_it_lists_nodes_that_run_and_messages_that_have_not_begun() -> None:
    requests = [
        Request("runs", time_start=1.0),
        Request("waits"),
        Request("is requeued", acknowledged=True),  # by the reserve
        Request("has run", time_start=1.0, acknowledged=True),
        Request("is revoked"),
        Request("is a team's own", type="team.greet"),
        Request("is forged", kwargs={"execution_id": "1; DROP TABLE"}),
        Request("has no kwargs", kwargs=[1]),
    ]
    state.reserved_requests.update(requests)
    state.revoked.add("is revoked")

    worker_shutting_down.send(sender="celery@host", sig="SIGTERM", how="Warm", exitcode=0)
    state.reserved_requests.clear()  # as a consumer does that ends
    found = list(unfinished_nodes("celery@host"))

    assert sorted(each.has_begun for each in found) == [False, False, True]
    assert {(each.message, each.worker) for each in found} == {(MESSAGE, "celery@host")}
    assert list(unfinished_nodes("celery@host")) == []

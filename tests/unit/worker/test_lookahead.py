"""A process of Celery's pool sees its next task before it has ended the present one, and still runs it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from billiard.queues import _SimpleQueue
from celery.concurrency.asynpool import Worker

from workflow_engine.broker.wire_format import FORMAT_HEADER, TASK_NAME
from workflow_engine.execution.messages import HopMessage, NextMessage
from workflow_engine.execution.records import FORMAT
from workflow_engine.worker.celery_internals.lookahead import Lookahead

MESSAGE = HopMessage("0f8fad5b-d9cb-469f-a165-70867728950e", "line", 1, "first", 1)


class Pipe:
    """The pipe of a process, and the loop that reads it."""

    def __init__(self) -> None:
        self.pipe = _SimpleQueue()
        self.loop = Worker(self.pipe, _SimpleQueue(), initializer=None)
        self.loop._make_child_methods()
        self.lookahead = Lookahead(self.loop)

    def write(self, name: str = TASK_NAME, body: Any = None, form: object = FORMAT) -> Any:
        """Write a task as Celery's main process does, and return it."""
        text = json.dumps([[], vars(MESSAGE), {}] if body is None else body)
        arguments = (name, "an-id", {FORMAT_HEADER: form}, text, "application/json", "utf-8")
        job = (2, (1, None, len, arguments, {}))
        self.pipe.put(job)
        return job


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def test_the_next_node_is_seen_and_still_run_once(pipe: Pipe) -> None:
    assert pipe.lookahead.next_message() is None

    job = pipe.write()

    assert pipe.lookahead.next_message() == NextMessage(MESSAGE, "an-id")
    assert pipe.lookahead.next_message() == NextMessage(MESSAGE, "an-id")
    assert pipe.loop.wait_for_job() == job
    assert pipe.lookahead.next_message() is None


def test_tasks_come_in_their_order(pipe: Pipe) -> None:
    jobs = [pipe.write(), pipe.write("shop.ship"), pipe.write()]

    assert pipe.lookahead.next_message() is not None
    assert [pipe.loop.wait_for_job() for _ in jobs] == jobs


@pytest.mark.parametrize(
    "task",
    [{"name": "shop.ship"}, {"form": FORMAT + 1}, {"body": [[], {"execution_id": 1}, {}]}, {"body": 1}],
    ids=["a team's task", "a newer form", "another body", "no body"],
)
def test_what_is_no_node_for_this_release_is_left_to_celery(pipe: Pipe, task: dict[str, Any]) -> None:
    job = pipe.write(**task)

    assert pipe.lookahead.next_message() is None
    assert pipe.loop.wait_for_job() == job


def test_the_end_of_the_worker_comes_after_the_present_task(pipe: Pipe) -> None:
    pipe.pipe.put(None)

    assert pipe.lookahead.next_message() is None
    with pytest.raises(SystemExit):
        pipe.loop.wait_for_job()

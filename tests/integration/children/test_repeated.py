"""`logic/loop` with `while` or `until`: iterations that follow one another, and wait without a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from support.parents import body, function, line, loop
from workflow_engine import ExecutionStatus, WorkflowClient

Sql = Callable[..., Any]

COUNT = body(function("count", "{{ (_previous | default(0)) + 1 }}"))


def start(client: WorkflowClient, *nodes: dict[str, Any], data: Any = None) -> str:
    client.deploy(line("parent", *nodes))
    return client.start("parent", data or {}).id


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"until": "{{ _previous >= 3 }}"}, {"endedBy": "until", "iterations": 3, "result": 3}),
        ({"until": "{{ true }}"}, {"endedBy": "until", "iterations": 1, "result": 1}),
        ({"while": "{{ _index < 2 }}"}, {"endedBy": "while", "iterations": 2, "result": 2}),
        ({"while": "{{ false }}"}, {"endedBy": "while", "iterations": 0, "result": None}),
        (
            {"until": "{{ false }}", "maxIterations": 4},
            {"endedBy": "maxIterations", "iterations": 4, "result": 4},
        ),
    ],
)
def test_its_output_says_what_ended_it_and_how_often_it_ran(
    client: WorkflowClient, workers: Workers, condition: dict[str, Any], expected: dict[str, Any]
) -> None:
    execution = start(client, loop("again", body=COUNT, **condition))

    workers.drain()

    assert client.get(execution).result == expected


def test_too_many_iterations_may_fail_the_node(client: WorkflowClient, workers: Workers) -> None:
    config = {"until": "{{ false }}", "maxIterations": 2, "onMaxIterations": "fail"}
    execution = start(client, loop("again", body=COUNT, **config))

    workers.drain()

    ended = client.get(execution)
    assert (ended.status, (ended.error_details or {})["type"]) == (ExecutionStatus.FAILED, "MAX_ITERATIONS")


def test_a_workflow_is_started_with_data_of_its_own_iteration(
    client: WorkflowClient, workers: Workers
) -> None:
    client.deploy(line("page", function("read", "{{ {'next': _trigger.page + 1} }}")))
    execution = start(
        client,
        loop(
            "pages",
            workflow="page",
            until="{{ _previous.next > 2 }}",
            data={"page": "{{ _previous.next | default(0) }}"},
        ),
    )

    workers.drain()

    assert client.get(execution).result == {"endedBy": "until", "iterations": 3, "result": {"next": 3}}


def test_between_two_iterations_it_waits_as_a_row(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], sql: Sql
) -> None:
    config = {"until": "{{ _index >= 5 }}", "wait": {"duration": 5, "unit": "seconds"}}
    execution = start(client, loop("poll", body=COUNT, **config))

    workers.drain()
    assert client.get(execution).status is ExecutionStatus.WAITING
    assert not workers.broker.queue
    assert sql("SELECT count(*) FROM executions WHERE completed_at IS NULL") == [(1,)]
    settle()

    assert client.get(execution).result["iterations"] == 5
    # Not more than two rows for each iteration.
    assert len(client.journal(execution)) == 1 + 5 + 1


def test_a_backoff_makes_each_wait_longer(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], sql: Sql
) -> None:
    backoff = {"duration": 1, "unit": "minutes", "multiplier": 3, "max": 5}
    execution = start(client, loop("poll", body=COUNT, until="{{ _index >= 5 }}", backoff=backoff))
    waits = []

    while workers.drain():
        ((left,),) = sql(
            "SELECT coalesce(max(extract(epoch FROM children_due - now())), 0) FROM execution_wait_states"
        )
        waits.append(round(left / 60))
        settle(rounds=1, seconds=left + 1)

    assert client.get(execution).result["iterations"] == 5
    assert waits == [1, 3, 5, 5, 0]


def test_an_iteration_that_fails_fails_the_node_and_a_retry_repeats_it_alone(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    fails = body(function("count", "{{ 1 / (2 - _index) }}"))
    execution = start(client, loop("again", body=fails, until="{{ _index >= 4 }}"))
    workers.drain()
    assert (client.get(execution).error_details or {})["type"] == "CHILD_FAILED"
    assert len(client.children(execution)) == 3

    client.control.retry(execution)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.FAILED
    assert len(client.children(execution)) == 3


def test_a_timeout_covers_all_iterations(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None]
) -> None:
    poll = loop(
        "poll",
        {"timeout": 100},
        body=COUNT,
        until="{{ false }}",
        wait={"duration": 30, "unit": "seconds"},
    )
    execution = start(client, poll)

    settle(seconds=40)

    ended = client.get(execution)
    assert (ended.status, (ended.error_details or {})["type"]) == (ExecutionStatus.FAILED, "TIMEOUT")
    assert len(client.children(execution)) <= 4

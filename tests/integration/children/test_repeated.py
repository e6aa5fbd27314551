"""`logic/loop` with `while` or `until`: iterations that follow one another, and wait without a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Workers
from support.parents import TRIGGER, body, function, line, loop
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ChildNotAwaited

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


def test_an_iteration_of_one_node_is_two_rows_of_the_journal_and_none_in_its_parent(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], sql: Sql
) -> None:
    config = {"until": "{{ _index >= 5 }}", "wait": {"duration": 5, "unit": "seconds"}}
    execution = start(client, loop("poll", body=COUNT, **config))

    settle()

    assert client.get(execution).result["iterations"] == 5
    rows = [(row.node_id, row.status) for row in client.journal(execution)]
    assert rows == [("start", "COMPLETED"), ("poll", "WAITING"), ("poll", "COMPLETED")]
    assert sql("SELECT count(*) FROM node_executions") == [(3 + 2 * 5,)]
    assert sql("SELECT count(*) FROM execution_wait_states") == [(1,)]


def test_loops_beside_one_another_repeat_on_their_own(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None]
) -> None:
    seconds = {"duration": 5, "unit": "seconds"}
    polls = [loop(f"poll{n}", body=COUNT, until=f"{{{{ _index >= {n} }}}}", wait=seconds) for n in (2, 3, 4)]
    nodes = [*polls, function("beside", "{{ 1 }}")]
    client.deploy(
        {
            "id": "parent",
            "nodes": [TRIGGER, *nodes],
            "edges": [{"source": "start", "target": each["id"]} for each in nodes],
            "settings": {"concurrency": 3},
        }
    )
    execution = client.start("parent", {}).id

    settle()

    ended = client.get(execution)
    assert ended.status is ExecutionStatus.COMPLETED
    assert [ended.result[f"poll{n}"]["iterations"] for n in (2, 3, 4)] == [2, 3, 4]
    assert len(client.journal(execution)) == 1 + 1 + 2 * 3


def test_between_two_iterations_the_context_may_be_lost(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], engine: Engine
) -> None:
    config = {"until": "{{ _index >= limit }}", "wait": {"duration": 5, "unit": "seconds"}}
    execution = start(client, function("limit", "{{ 3 }}"), loop("poll", body=COUNT, **config))

    for _ in range(4):
        settle(rounds=1)
        engine.cache.remove_from_cache(execution)
    settle()

    assert client.get(execution).result == {"endedBy": "until", "iterations": 3, "result": 3}


def test_what_is_shown_of_it_counts_all_iterations(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None]
) -> None:
    config = {"until": "{{ _index >= 5 }}", "wait": {"duration": 5, "unit": "seconds"}}
    execution = start(client, loop("poll", body=COUNT, **config))

    settle(rounds=1, seconds=6)
    workers.drain()

    assert "2 of 3 have ended" in client.explain(execution).sentence
    assert [row.wait.children for row in client.journal(execution) if row.wait] == [3]


def test_an_iteration_that_was_followed_by_another_cannot_be_repeated(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None]
) -> None:
    config = {"until": "{{ _index >= 9 }}", "wait": {"duration": 5, "unit": "seconds"}}
    execution = start(client, loop("poll", body=COUNT, **config))
    settle(rounds=1, seconds=6)
    workers.drain()
    first, second = client.children(execution)

    with pytest.raises(ChildNotAwaited):
        client.control.rerun(first.id, "count")

    assert second.status is ExecutionStatus.COMPLETED


def test_iterations_that_a_running_loop_has_gone_past_are_purged(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], sql: Sql
) -> None:
    config = {"until": "{{ _index >= 5 }}", "wait": {"duration": 5, "unit": "seconds"}}
    execution = start(client, loop("poll", body=COUNT, **config))
    settle(rounds=1, seconds=6)
    workers.drain()
    settle(rounds=1, seconds=6)
    sql("UPDATE executions SET completed_at = completed_at - interval '1 day' WHERE completed_at IS NOT NULL")
    *past, last = client.children(execution)
    assert (len(past), last.status) == (2, ExecutionStatus.PENDING)

    purged = client.purge(3600)

    assert purged.executions == 2
    assert client.children(execution) == [last]
    settle(seconds=6)
    assert client.get(execution).result == {"endedBy": "until", "iterations": 5, "result": 5}


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

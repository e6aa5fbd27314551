"""Redis may lose anything at any moment: the execution goes on from Postgres with the same result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.workflows import calling, line
from workflow_engine import (
    ExecutionStatus,
    Settings,
    WorkflowBuilder,
    WorkflowClient,
    success,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.redis.keys import Keys

INPUT = {"orderId": 42, "items": [1, 2.5, "drei", None, True]}


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def during() -> dict[str, Callable[[], Any]]:
    """Return a dict of actions on Redis, each while the node of this name runs."""
    return {}


@pytest.fixture
def execution(client: WorkflowClient, calls: list[str], during: dict[str, Callable[[], Any]]) -> str:
    """Return an execution of five nodes, of which the last combines each output, a variable and the path."""

    def nothing() -> None:
        pass

    def opening() -> Any:
        calls.append("opening")
        during.get("opening", nothing)()
        return success({"opened": True}, variables={"currency": "EUR"})

    def disturbed() -> Any:
        calls.append("disturbed")
        during.get("disturbed", nothing)()
        return {"amount": 10}

    def closing() -> str:
        calls.append("closing")
        return "closed"

    flow = WorkflowBuilder("orders", variables={"currency": "USD", "tax": 0.19})
    total = flow.function("total", "{{ disturbed.amount * 2 }}")
    summary = flow.function(
        "summary",
        {
            "trigger": "{{ _trigger }}",
            "variables": "{{ [currency, tax] }}",
            "outputs": "{{ [opening, disturbed, total, closing] }}",
            "path": "{{ _metadata.executionPath }}",
        },
    )
    start = flow.trigger("start")
    start >> calling(flow, opening) >> calling(flow, disturbed) >> total >> calling(flow, closing) >> summary
    client.deploy(flow.build())
    return client.start("orders", INPUT).id


SUMMARY = {
    "trigger": INPUT,
    "variables": ["EUR", 0.19],
    "outputs": [{"opened": True}, {"amount": 10}, 20, "closed"],
    "path": ["start", "opening", "disturbed", "total", "closing"],
}


@pytest.fixture
def completes(
    client: WorkflowClient, workers: Workers, calls: list[str], execution: str
) -> Callable[[], None]:
    """Return a function that serves the rest, and checks that nothing is missing or was done twice."""

    def check() -> None:
        workers.drain()
        finished = client.get(execution)
        assert (finished.status, finished.result) == (ExecutionStatus.COMPLETED, SUMMARY)
        assert calls == ["opening", "disturbed", "closing"]
        assert [row.seq for row in client.journal(execution)] == [1, 2, 3, 4, 5, 6]

    return check


# -- between two hops ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", range(5))
def test_a_context_deleted_between_two_hops_is_rebuilt(
    engine: Engine, workers: Workers, execution: str, completes: Callable[[], None], hops: int
) -> None:
    for _ in range(hops):
        workers.hop()
    engine.cache.remove_from_cache(execution)

    completes()


def test_a_context_deleted_before_every_hop_is_rebuilt_every_time(
    engine: Engine, broker: Broker, workers: Workers, execution: str, completes: Callable[[], None]
) -> None:
    while broker.queue:
        engine.cache.remove_from_cache(execution)
        workers.hop()

    completes()


def test_an_older_copy_of_the_context_is_seen_to_be_old(
    settings: Settings,
    workers: Workers,
    execution: str,
    redis_client: redis.Redis,
    completes: Callable[[], None],
) -> None:
    key = Keys.of(settings).context(execution)
    workers.hop()
    for _ in range(3):
        copy = redis_client.dump(key)
        workers.hop()
        redis_client.restore(key, 60_000, copy, replace=True)

    completes()


def test_a_context_that_lost_a_field_is_rebuilt(
    settings: Settings,
    broker: Broker,
    workers: Workers,
    execution: str,
    redis_client: redis.Redis,
    completes: Callable[[], None],
) -> None:
    key = Keys.of(settings).context(execution)
    workers.hop()
    lost = 0
    while broker.queue and lost < len(fields := sorted(redis_client.hkeys(key))):
        redis_client.hdel(key, fields[lost])
        lost += 1
        workers.hop()

    completes()


@pytest.mark.parametrize(
    "field",
    ["seq", "fence", "walk", "variables", "identity", "size", "output:start", "output:opening", "path:2"],
)
def test_no_field_of_a_context_can_be_lost_unnoticed(
    settings: Settings,
    workers: Workers,
    execution: str,
    redis_client: redis.Redis,
    completes: Callable[[], None],
    field: str,
) -> None:
    workers.hop()
    assert redis_client.hdel(Keys.of(settings).context(execution), field) == 1

    completes()


# -- while a node runs ---------------------------------------------------------------------------------


def test_redis_wiped_while_a_node_runs_leaves_no_half_context_behind(
    settings: Settings,
    workers: Workers,
    execution: str,
    redis_client: redis.Redis,
    during: dict[str, Callable[[], Any]],
    completes: Callable[[], None],
) -> None:
    during["disturbed"] = redis_client.flushdb

    workers.hop()
    workers.hop()

    assert redis_client.exists(Keys.of(settings).context(execution)) == 0
    completes()


@pytest.mark.parametrize("field", ["seq", "size", "output:start", "path:1"])
def test_a_field_lost_while_a_node_runs_does_not_stay_lost(
    settings: Settings,
    workers: Workers,
    execution: str,
    redis_client: redis.Redis,
    during: dict[str, Callable[[], Any]],
    completes: Callable[[], None],
    field: str,
) -> None:
    during["disturbed"] = lambda: redis_client.hdel(Keys.of(settings).context(execution), field)

    workers.hop()
    workers.hop()

    assert redis_client.exists(Keys.of(settings).context(execution)) == 0
    completes()


def test_an_older_copy_put_back_while_a_node_runs_is_thrown_away(
    settings: Settings,
    workers: Workers,
    execution: str,
    redis_client: redis.Redis,
    during: dict[str, Callable[[], Any]],
    completes: Callable[[], None],
) -> None:
    key = Keys.of(settings).context(execution)
    copies: list[Any] = []
    during["opening"] = lambda: copies.append(redis_client.dump(key))
    during["disturbed"] = lambda: redis_client.restore(key, 60_000, copies[0], replace=True)

    workers.hop()
    workers.hop()

    assert redis_client.exists(key) == 0
    completes()


def test_the_path_that_a_node_reads_is_never_that_of_an_older_copy(
    client: WorkflowClient, settings: Settings, workers: Workers, redis_client: redis.Redis
) -> None:
    def early() -> None:
        copies.append(redis_client.dump(Keys.of(settings).context(execution)))

    def late(context: Any) -> Any:
        redis_client.restore(Keys.of(settings).context(execution), 60_000, copies[0], replace=True)
        return context.metadata["executionPath"]

    copies: list[Any] = []
    client.deploy(line(early, late))
    execution = client.start("line").id

    workers.drain()

    assert client.get(execution).result == ["start", "early"]


def test_neither_a_wiped_redis_nor_a_lost_message_counts_as_a_lost_process(
    engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    redis_client: redis.Redis,
    during: dict[str, Callable[[], Any]],
    sql: Callable[..., Any],
    completes: Callable[[], None],
) -> None:
    during["disturbed"] = redis_client.flushdb
    workers.hop()
    broker.queue.clear()
    engine.executor.resume_execution(execution)

    completes()

    assert sql("SELECT crashes FROM executions") == [(None,)]

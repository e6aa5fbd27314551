"""A cached context that cannot be read is dropped and rebuilt; its execution goes on at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.redis_keys import keys_in
from support.workflows import calling
from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.redis.keys import Keys

ran: list[str] = []
during: dict[str, Callable[[], object]] = {}


def first() -> dict[str, int]:
    ran.append("first")
    return {"a": 1}


def second(value: int) -> int:
    ran.append("second")
    return value + 1


def third(context: Any) -> Any:
    """Read what the config does not name, so that it is loaded while the node runs."""
    ran.append("third")
    during.get("third", lambda: None)()
    outputs = context.node_outputs
    return [outputs["first"]["a"], outputs["second"], context.metadata["executionPath"]]


RESULT = [1, 2, ["start", "first", "second"]]

Field = tuple[str, str | bytes]

FIELDS: dict[str, Field] = {
    "walk is no JSON": ("walk", "no json"),
    "walk is a list": ("walk", "[]"),
    "walk is of another form": ("walk", '{"due": 5}'),
    "walk names what is unknown": ("walk", '{"due": ["second"], "mood": 1}'),
    "identity is no JSON": ("identity", "no json"),
    "identity is empty": ("identity", "{}"),
    "identity is a list": ("identity", "[]"),
    "variables are no JSON": ("variables", "no json"),
    "variables are a list": ("variables", "[]"),
    "fence is none": ("fence", "no uuid"),
    "fence is no text": ("fence", b"\xff\xfe"),
    "seq is no number": ("seq", "no number"),
    "size is no number": ("size", "no number"),
    "an output is no JSON": ("output:first", "no json"),
}

SOME = {
    how: FIELDS[how]
    for how in ("walk is no JSON", "walk is of another form", "seq is no number", "identity is empty")
}

each_of_some = pytest.mark.parametrize("field", SOME.values(), ids=SOME)


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """Return the id of an execution of three nodes in a row."""
    ran.clear()
    during.clear()
    flow = WorkflowBuilder("line")
    # The second node names the output that it reads, which is then fetched with the context.
    reading = calling(flow, second, arguments={"value": "{{ first.a }}"})
    flow.trigger("start") >> calling(flow, first) >> reading >> calling(flow, third)
    client.deploy(flow.build())
    return client.start("line").id


@pytest.fixture
def damage(execution: str, settings: Settings, redis_client: redis.Redis) -> Callable[[Field], None]:
    """Return a function that writes a field of the cached context of the execution."""
    key = Keys.of(settings).context(execution)

    def write(field: Field) -> None:
        redis_client.hset(key, *field)

    return write


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_the_next_node_runs_at_once_and_no_other_again(
    client: WorkflowClient,
    workers: Workers,
    execution: str,
    redis_client: redis.Redis,
    damage: Callable[[Field], None],
    field: Field,
) -> None:
    workers.hop()
    damage(field)

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert client.get(execution).result == RESULT
    assert ran == ["first", "second", "third"]
    assert keys_in(redis_client) == []


@each_of_some
def test_a_message_that_comes_twice_does_not_get_stuck_on_it(
    client: WorkflowClient,
    engine: Engine,
    workers: Workers,
    execution: str,
    damage: Callable[[Field], None],
    field: Field,
) -> None:
    message = workers.hop()
    damage(field)

    engine.executor.continue_execution(message)  # the context is ahead of it
    workers.drain()

    assert client.get(execution).result == RESULT
    assert ran == ["first", "second", "third"]


def test_a_key_of_another_kind_is_replaced(
    client: WorkflowClient, settings: Settings, workers: Workers, execution: str, redis_client: redis.Redis
) -> None:
    workers.hop()
    redis_client.set(Keys.of(settings).context(execution), "no hash")

    workers.drain()

    assert client.get(execution).result == RESULT
    assert ran == ["first", "second", "third"]


@pytest.mark.parametrize("name", ["output:first", "identity", "path:2"])
def test_what_a_node_reads_while_it_runs_comes_from_the_journal_then(
    client: WorkflowClient, workers: Workers, execution: str, damage: Callable[[Field], None], name: str
) -> None:
    during["third"] = lambda: damage((name, b"\xff no json"))

    workers.drain()

    assert client.get(execution).result == RESULT


@each_of_some
def test_the_whole_context_is_read_from_the_journal_then(
    engine: Engine, workers: Workers, execution: str, damage: Callable[[Field], None], field: Field
) -> None:
    workers.hop()
    damage(field)

    assert engine.cache.load_context(execution).node_outputs["first"] == {"a": 1}


@each_of_some
def test_an_execution_that_stalled_with_it_can_be_resumed(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    damage: Callable[[Field], None],
    field: Field,
) -> None:
    workers.hop()
    broker.queue.clear()
    damage(field)
    damage(("mark", "no json"))

    assert engine.executor.resume_execution(execution)
    workers.drain()

    assert client.get(execution).result == RESULT

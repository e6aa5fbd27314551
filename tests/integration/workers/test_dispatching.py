"""Messages that are published together travel together, and survive what a single one survives."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import redis

from support.wire import Wire, read_redis_commands
from workflow_engine import Settings
from workflow_engine.broker.dispatcher import CeleryDispatcher, producer_app
from workflow_engine.embedded import EmbeddedRedis
from workflow_engine.errors import BrokerUnavailable
from workflow_engine.execution.messages import Dispatch, HopMessage

MANY = [Dispatch(HopMessage(str(uuid4()), "order", 1, "ship", 2), "workflow", 3) for _ in range(100)]
QUEUE = "workflow\x06\x163"
"""kombu's name of the queue of priority 3."""

NOW = datetime.now(UTC)


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """Start a broker that the test may kill."""
    with EmbeddedRedis() as server:
        yield server


def dispatcher_to(url: str) -> CeleryDispatcher:
    return CeleryDispatcher(producer_app(Settings(redis_url=url)))


def waiting_at(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.llen(QUEUE))  # type: ignore[arg-type]


def test_a_hundred_messages_take_one_command_for_each_list_of_kombu(
    redis_url: str, redis_client: redis.Redis
) -> None:
    wire = Wire(redis_url, read_redis_commands)
    dispatcher = dispatcher_to(wire.url)
    dispatcher.publish(MANY[:1])  # connects

    with wire.recorded() as traffic:
        dispatcher.publish([*MANY, replace(MANY[0], priority=0)])

    assert traffic.names == ["LPUSH"] * 2
    assert redis_client.llen(QUEUE) == 101
    assert redis_client.llen("workflow") == 1
    wire.close()


def test_messages_published_together_are_taken_in_their_order(
    redis_url: str, redis_client: redis.Redis
) -> None:
    dispatcher_to(redis_url).publish(MANY)

    taken = [json.loads(redis_client.rpop(QUEUE) or b"") for _ in MANY]  # type: ignore[arg-type]

    assert [each["headers"]["root_id"] for each in taken] == [each.message.execution_id for each in MANY]


def test_messages_published_together_arrive_though_the_broker_was_restarted_in_between(
    own_redis: EmbeddedRedis,
) -> None:
    dispatcher = dispatcher_to(own_redis.url)
    dispatcher.publish(MANY)
    own_redis.kill()
    own_redis.restart()
    assert waiting_at(own_redis.url) == 0

    dispatcher.publish(MANY)

    assert waiting_at(own_redis.url) >= 100


@pytest.mark.parametrize("number", [1, 100])
def test_a_broker_that_is_away_is_reported_as_such_however_many_messages_it_is_to_take(
    own_redis: EmbeddedRedis, number: int
) -> None:
    dispatcher = dispatcher_to(own_redis.url)
    dispatcher.publish(MANY[:number])
    own_redis.kill()

    with pytest.raises(BrokerUnavailable):
        dispatcher.publish(MANY[:number])

    own_redis.restart()
    dispatcher.publish(MANY[:number])
    assert waiting_at(own_redis.url) >= number


def test_a_message_that_is_pushed_or_sent_on_leaving_a_node_is_what_kombu_would_have_sent(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for priority in range(10):
        dispatch = Dispatch(HopMessage(str(uuid4()), "order", 1, "pack", 2), "own", priority, NOW)
        dispatcher = CeleryDispatcher(producer_app(Settings(redis_url=redis_url)), redis_url)
        sent = dispatcher.queued(dispatch)
        assert sent is not None

        dispatcher.publish([dispatch])
        with monkeypatch.context() as patches:
            patches.setattr("workflow_engine.broker.dispatcher.names_its_lists", lambda _: False)
            dispatcher.publish([dispatch])

        pushed, published = (redis_client.rpop(sent.key) or b"" for _ in range(2))
        assert stripped(json.loads(sent.content)) == stripped(json.loads(published))  # type: ignore[arg-type]
        assert stripped(json.loads(pushed)) == stripped(json.loads(published))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [1, 100])
def test_messages_arrive_where_kombus_lists_are_unknown(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("workflow_engine.broker.dispatcher.names_its_lists", lambda _: False)

    dispatcher_to(redis_url).publish(MANY[:number])

    assert redis_client.llen(QUEUE) == number


def stripped(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without the ids that always differ, after checking how they belong together."""
    body = json.loads(base64.b64decode(message.pop("body")))
    properties, headers = message["properties"], message["headers"]
    assert properties["correlation_id"] == headers.pop("id")
    assert len({properties.pop("correlation_id"), properties.pop("delivery_tag")}) in (1, 2)
    return {**message, "body": body}


@pytest.mark.parametrize(
    ("broker", "contexts"),
    [
        ("redis://one.example.com/0", "redis://two.example.com/0"),
        ("redis://one.example.com/0", "redis://one.example.com/1"),
        ("redis://one.example.com/0", "redis://one.example.com:6380/0"),
        ("redis://one.example.com/0;redis://two.example.com/0", "redis://one.example.com/0"),
        ("redis://one.example.com/0", "redis://one.example.com/0?db=1"),
        ("amqp://one.example.com//", "redis://one.example.com/0"),
        ("sentinel://one.example.com:26379?master_name=one", "redis://one.example.com:26379/0"),
    ],
)
def test_no_message_is_sent_on_leaving_a_node_if_its_queue_is_elsewhere(broker: str, contexts: str) -> None:
    app = producer_app(Settings(broker_url=broker, redis_url=contexts))

    assert CeleryDispatcher(app, contexts).queued(MANY[0]) is None

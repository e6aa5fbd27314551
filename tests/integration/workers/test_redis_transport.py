"""Producers and workers publish through one client, which lives as long as its connections do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub
from kombu.transport import redis as kombu_redis

from support.event_loop import turn_until
from workflow_engine import Settings
from workflow_engine.broker.dispatcher import producer_app
from workflow_engine.broker.redis_transport import Channel, Transport


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    """Return a producer's connection to the broker."""
    with producer_app(Settings(redis_url=redis_url)).connection_for_write() as connection:
        yield connection


@pytest.fixture
def channel(connection: Connection) -> Channel:
    assert isinstance(connection.default_channel, Channel)
    return connection.default_channel


def test_all_commands_of_a_channel_go_through_one_client(channel: Channel) -> None:
    with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
        assert first is second


def test_waiting_for_messages_holds_up_no_other_command(channel: Channel) -> None:
    with channel.conn_or_acquire() as shared:
        assert channel.client is not shared
        assert channel.client.connection_pool is not shared.connection_pool


def test_a_client_ends_with_its_connections_and_the_next_works(channel: Channel) -> None:
    with channel.conn_or_acquire() as before:
        before.ping()
    channel._disconnect_pools()

    with channel.conn_or_acquire() as after:
        assert after is not before
        assert after.ping()


def test_a_forked_process_has_a_client_and_connections_of_its_own(channel: Channel) -> None:
    with channel.conn_or_acquire() as parents:
        parents.ping()
    read, write = os.pipe()

    if (child := os.fork()) == 0:
        try:
            channel._after_fork()  # as billiard's pool does in each process
            with channel.conn_or_acquire() as own:
                os.write(write, b"own" if own is not parents and own.ping() else b"shared")
        finally:
            os._exit(0)

    os.waitpid(child, 0)
    assert os.read(read, 100) == b"own"
    assert parents.ping()


def test_a_forked_process_leaves_the_reply_that_its_parent_waits_for(connection: Connection) -> None:
    received: list[str] = []
    channel = connection.default_channel
    with Consumer(channel, Queue("orders"), no_ack=True) as consumer:
        consumer.register_callback(lambda body, message: received.append(body))
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.01)
        connection.clone().Producer(routing_key="orders", auto_declare=False).publish("first")

        if (child := os.fork()) == 0:
            try:
                connection.collect()  # as billiard's pool does in each process with a pool's connections
            finally:
                os._exit(0)
        os.waitpid(child, 0)

        connection.drain_events(timeout=5)
    assert received == ["first"]


def test_the_event_loop_keeps_its_sockets_and_takes_those_of_a_new_connection(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    received: list[str] = []
    producer = connection.Producer(routing_key="orders", auto_declare=False)
    connection.transport.register_with_event_loop(connection.connection, hub)
    with closing(hub), Consumer(connection.default_channel, Queue("orders"), no_ack=True) as consumer:
        consumer.register_callback(lambda body, message: received.append(body))
        producer.publish("first")
        turn_until(hub, lambda: received == ["first"])

        touched: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(hub.poller, "register", lambda socket, _: touched.append(socket))
            for _ in range(3):
                hub.run_once()
        assert touched == []

        connection.default_channel.client.connection.disconnect()
        producer.publish("second")
        turn_until(hub, lambda: received == ["first", "second"])


EIGHT = [f"order {number}" for number in range(1, 9)]

Consuming = Callable[..., AbstractContextManager[list[str]]]


@pytest.fixture
def consuming(connection: Connection, channel: Channel) -> Consuming:
    """Return a context: a worker with room for a number of messages, and eight that are queued for it.

    It yields the list of those that the worker has received; its consumer may fail at one of them.
    """
    producer = connection.clone().Producer(routing_key="orders", auto_declare=False)

    @contextmanager
    def consuming(room: int, fails_at: str = "") -> Iterator[list[str]]:
        received: list[str] = []

        def take(body: str, _: object) -> None:
            if body == fails_at:
                raise ValueError(body)
            received.append(body)

        for body in EIGHT:
            producer.publish(body)
        with Consumer(channel, Queue("orders")) as consumer:
            consumer.register_callback(take)
            consumer.qos(prefetch_count=room)
            yield received

    return consuming


def test_a_worker_takes_one_message_and_as_many_as_half_of_what_is_free_then(
    connection: Connection, channel: Channel, consuming: Consuming
) -> None:
    with consuming(8) as received:
        connection.drain_events(timeout=5)
        assert received == EIGHT[:4], "one, and half of the seven for which there is room"
        assert channel._size("orders") == 4, "for other workers that are idle"

        connection.drain_events(timeout=5)
        assert received == EIGHT[:6]


def test_a_worker_with_room_for_two_takes_one_message_at_a_time(
    connection: Connection, consuming: Consuming
) -> None:
    with consuming(2) as received:
        connection.drain_events(timeout=5)

    assert received == EIGHT[:1]


def test_messages_behind_one_whose_consumer_fails_go_back_to_the_front_of_their_queue(
    connection: Connection, channel: Channel, consuming: Consuming
) -> None:
    with consuming(8, fails_at="order 2") as received:
        with pytest.raises(ValueError, match="order 2"):
            connection.drain_events(timeout=5)
        assert channel._size("orders") == 6

        connection.drain_events(timeout=5)

    assert received == ["order 1", "order 3", "order 4", "order 5"]


class TestWhereRedisRefusesToGiveSeveralMessages:
    """As Redis does before 6.2, and to a user who may not call RPOP: that is what later ones can refuse."""

    @pytest.fixture
    def server(self, redis_url: str) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(redis_url) as client:
            client.execute_command(
                "ACL", "SETUSER", "modest", "reset", "on", ">pw", "~*", "&*", "+@all", "-rpop"
            )
            yield client
            client.execute_command("ACL", "DELUSER", "modest")

    @pytest.fixture
    def connection(self, redis_url: str, server: redis.Redis) -> Iterator[Connection]:
        url = urlsplit(redis_url)
        modest = url._replace(netloc=f"modest:pw@{url.netloc.rpartition('@')[2]}").geturl()
        with producer_app(Settings(redis_url=modest)).connection_for_write() as connection:
            yield connection

    def test_a_worker_asks_once_and_takes_one_message_at_a_time(
        self, connection: Connection, channel: Channel, consuming: Consuming, server: redis.Redis
    ) -> None:
        refused = refusals(server)
        with consuming(8) as received:
            for number in (1, 2, 3):
                connection.drain_events(timeout=5)
                assert received == EIGHT[:number]
                assert channel._size("orders") == 8 - number, "none is lost"

        assert refusals(server) - refused == 1


def refusals(server: redis.Redis) -> int:
    """Return how often a server has refused to run RPOP."""
    stats: Any = server.info("commandstats")
    return int(stats.get("cmdstat_rpop", {}).get("rejected_calls", 0))


def test_the_broker_keeps_its_name_in_logs(connection: Connection) -> None:
    assert isinstance(connection.transport, Transport)
    assert connection.as_uri().startswith("redis://")
    assert connection.clone().as_uri() == connection.as_uri()


@pytest.mark.parametrize(
    "url",
    [
        "rediss://broker.example.com/0",
        "unix:///run/redis.sock",
        "sentinel://a.example.com:26379/0?master_name=main;sentinel://b.example.com:26379/0",
        "redis://a.example.com/0;redis://b.example.com/0",
        "amqp://broker.example.com//",
    ],
)
def test_other_brokers_keep_the_transport_that_kombu_has_for_them(url: str) -> None:
    settings = Settings(broker_url=url)

    transport = producer_app(settings).connection_for_write().transport
    assert type(transport) is not Transport


def test_a_transport_of_ours_is_still_one_of_kombus() -> None:
    assert issubclass(Transport, kombu_redis.Transport)
    assert Transport.driver_type == "redis"

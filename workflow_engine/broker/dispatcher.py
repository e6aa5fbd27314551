"""Dispatching: the messages that ask workers to run nodes, and the only place that makes them.

They are published here, except those that the script which leaves a node can send. Where kombu keeps its
queues as lists of Redis, they are pushed onto these directly. A message is a hint: it carries ids and nothing
else, so that it is small for every workflow, and it may be lost, doubled or late without harm.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from kombu.messaging import Producer
from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import SentinelTransport

from workflow_engine.addresses.redis import DEFAULT_HOST, DEFAULT_PORT, RedisAddress
from workflow_engine.broker.wire_format import (
    committed_at_of,
    execution_of,
    execution_of_taken,
    queued_content,
    task_body,
    task_headers,
)
from workflow_engine.errors import BrokerUnavailable
from workflow_engine.execution.ids import random_uuid
from workflow_engine.execution.messages import Dispatch, QueuedMessage
from workflow_engine.outages import outages
from workflow_engine.settings import Settings

LOOKED_THROUGH = 50
"""Messages at the front of a queue that are searched for one of ours; others may use the queue too."""

LISTED_AT_MOST = 5_000
"""Messages of a queue that are listed; Redis takes some milliseconds to send them."""

TAKEN_AT_MOST = 5_000
"""Messages taken by workers that are searched; reading more takes Redis too long."""

RETRY_POLICY = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}


class Backlog(Enum):
    """The state of a queue without a message whose time is known."""

    NONE = "no message of the engine waits in it"
    UNKNOWN = "this broker does not show its queues, or only foreign messages wait at the front"


class Dispatcher(Protocol):
    """Sends nodes to workers."""

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        """Hand the messages to the broker. Raises `BrokerUnavailable`."""
        ...

    def queued(self, dispatch: Dispatch) -> QueuedMessage | None:
        """Return the message as the Redis of the contexts keeps it; None if its queue is elsewhere.

        This does not send it. Raises `BrokerUnavailable`.
        """
        ...

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        """Return the time of the commit behind the message that is next in line.

        Raises `BrokerUnavailable`.
        """
        ...

    def executions_in(self, queue: str, priority: int) -> Collection[str] | None:
        """Return the executions that have a message in a queue.

        None if the broker does not show its messages, or they are too many. Raises `BrokerUnavailable`.
        """
        ...

    def taken(self) -> Collection[str] | None:
        """Return the executions whose messages workers have taken, and may hold behind others that they run.

        None if that is unknown. Raises `BrokerUnavailable`.
        """
        ...


class CeleryDispatcher:
    """Publishes each node as a Celery task through one producer per thread, kept open.

    `contexts_url` names the Redis that has the contexts, which may be the broker as well. Then messages are
    sent by its client, `contexts`, if there is one.
    """

    def __init__(self, app: Celery, contexts_url: str = "", contexts: Any = None) -> None:
        self._app = app
        self._contexts_url = contexts_url
        self._contexts = contexts
        self._producers = threading.local()

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        with self._refused("the broker accepts no messages"):
            producer = self._producer()
            if not self._push(producer.channel, dispatches):
                for dispatch in dispatches:
                    self._publish_one(producer, dispatch)
        outages.record_reply(BrokerUnavailable)

    def queued(self, dispatch: Dispatch) -> QueuedMessage | None:
        if (queues := self._queues_beside_contexts) is None:
            return None
        return QueuedMessage(queue_key(queues, dispatch.queue, dispatch.priority), _kept_form(dispatch))

    @functools.cached_property
    def _queues_beside_contexts(self) -> RedisChannel | None:
        """The channel that has kombu's names of queues, if they are in the Redis of the contexts."""
        broker = broker_address(self._app)
        if broker is None or not self._contexts_url:
            return None
        if not broker.is_same_database(RedisAddress.parse_several(self._contexts_url)):
            return None
        with self._refused("the broker does not respond"):
            channel = self._producer().channel
        return channel if names_its_lists(channel) else None

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        front = self._front(queue, priority, LOOKED_THROUGH)
        if front is None:
            return Backlog.UNKNOWN
        times = (committed_at_of(message) for message in reversed(front))
        found = next((time for time in times if time is not None), None)
        return found or (Backlog.UNKNOWN if front else Backlog.NONE)

    def executions_in(self, queue: str, priority: int) -> Collection[str] | None:
        messages = self._front(queue, priority, LISTED_AT_MOST + 1)
        if messages is None or len(messages) > LISTED_AT_MOST:
            return None
        return {execution_id for each in messages if (execution_id := execution_of(each)) is not None}

    def _front(self, queue: str, priority: int, count: int) -> Sequence[bytes] | None:
        """Return the messages at the front of a queue, the first one last; None if it is not shown."""
        with self._refused("cannot read the broker's queue"):
            channel = self._producer().channel
            if not names_its_lists(channel):
                return None
            name = queue_key(channel, queue, priority)
            # New messages are pushed on the left; not every command of this client adds the prefix.
            with channel.conn_or_acquire() as client:
                front: Sequence[bytes] = client.execute_command("LRANGE", name, -count, -1)
                return front

    def taken(self) -> Collection[str] | None:
        if self._app.conf.worker_prefetch_multiplier == 1:
            return ()  # a worker takes one message for each process, which begins it at once
        with self._refused("cannot read what workers have taken"):
            channel = self._producer().channel
            if not names_its_lists(channel) or not channel.ack_emulation:
                return None
            key = f"{channel.global_keyprefix}{channel.unacked_key}"
            # Not every command of this client adds the prefix: HLEN does, HVALS does not.
            with channel.conn_or_acquire() as client:
                if client.hlen(channel.unacked_key) > TAKEN_AT_MOST:
                    return None
                messages = client.execute_command("HVALS", key)
        return {execution_id for each in messages if (execution_id := execution_of_taken(each)) is not None}

    @contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        """Raise `BrokerUnavailable` where the broker is away, full or read-only; `what` says what failed."""
        try:
            yield
        except self._refusals as error:
            self._producers.held = None
            raise BrokerUnavailable(f"{what}: {error}") from error

    @functools.cached_property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """The errors of kombu for a broker that is away, and those of a full or read-only one."""
        connection: Connection = self._app.connection_for_write()
        return (OperationalError, *connection.connection_errors, *connection.channel_errors)

    def _push(self, channel: Any, dispatches: Sequence[Dispatch]) -> bool:
        """Push messages as kombu keeps them in Redis, with one command for each of its lists.

        kombu's way through its producer takes several times as long. Return False if the queues are no such
        lists, or the push has failed: kombu connects again, and what has arrived may arrive twice.
        """
        if not names_its_lists(channel):
            return False
        if self._contexts is not None and self._queues_beside_contexts is not None:
            prefix, client = channel.global_keyprefix, nullcontext(self._contexts)
        else:
            prefix, client = "", channel.conn_or_acquire()  # which adds the prefix itself
        lists: dict[str, list[bytes]] = {}
        for dispatch in dispatches:
            key = f"{prefix}{channel._q_for_pri(dispatch.queue, dispatch.priority)}"
            lists.setdefault(key, []).append(_kept_form(dispatch))
        with suppress(*self._refusals), client as connected:
            for key, contents in lists.items():
                connected.lpush(key, *contents)
            return True
        return False

    def _publish_one(self, producer: Producer, dispatch: Dispatch) -> None:
        task_id = _new_task_id()
        producer.publish(
            task_body(dispatch.message),
            exchange="",
            routing_key=dispatch.queue,
            serializer="json",
            headers=task_headers(dispatch, task_id),
            correlation_id=task_id,
            priority=dispatch.priority,
            delivery_mode=2,
            retry=True,
            retry_policy=RETRY_POLICY,
        )

    def _producer(self) -> Producer:
        held: tuple[int, Producer] | None = getattr(self._producers, "held", None)
        if held is None or held[0] != os.getpid():
            connection: Connection = self._app.connection_for_write()
            held = (os.getpid(), Producer(connection.default_channel, auto_declare=False))
            self._producers.held = held
        return held[1]


def _new_task_id() -> str:
    """Return an id that was never used: workers would drop a revoked one for hours."""
    return random_uuid()


def _kept_form(dispatch: Dispatch) -> bytes:
    """Return a message as kombu keeps it in a list of Redis."""
    task_id = _new_task_id()
    body, headers = task_body(dispatch.message), task_headers(dispatch, task_id)
    return queued_content(body, headers, task_id, dispatch.queue, dispatch.priority)


def names_its_lists(channel: object) -> bool:
    """Return whether this is kombu's channel to Redis, with the private method that names its lists."""
    return isinstance(channel, RedisChannel) and hasattr(channel, "_q_for_pri")


def queue_key(channel: RedisChannel, queue: str, priority: int) -> str:
    """Return the list that kombu keeps for a queue and a priority."""
    return f"{channel.global_keyprefix}{channel._q_for_pri(queue, priority)}"


def producer_app(settings: Settings) -> Celery:
    """Return a Celery app that only publishes, for programs that have none of their own."""
    app, broker = Celery("workflow_engine", set_as_current=False), settings.broker_configuration()
    app.conf.update(
        # Not `broker_url`, which a variable CELERY_BROKER_URL in the environment would override.
        broker_write_url=broker["broker_url"],
        broker_read_url=broker["broker_url"],
        broker_use_ssl=broker["broker_use_ssl"],
        broker_transport=broker["broker_transport"],
        broker_transport_options=broker["broker_transport_options"],
        broker_connection_max_retries=None,
        task_send_sent_event=False,
    )
    return app


def broker_address(app: Celery) -> RedisAddress | None:
    """Return the Redis that an app publishes to; None for another broker, for Sentinel and for several."""
    connection: Connection = app.connection_for_write()
    if connection.transport.driver_type != "redis" or len(connection.alt) > 1:
        return None
    if isinstance(connection.transport, SentinelTransport):
        return None
    try:
        if connection.uri_prefix:
            return RedisAddress.parse(f"{connection.uri_prefix}+{connection.hostname}")
        database = int(str(connection.virtual_host).strip("/") or 0)
    except ValueError:
        return None
    return RedisAddress(
        scheme="rediss" if connection.ssl else "redis",
        host=connection.hostname or DEFAULT_HOST,
        port=connection.port or DEFAULT_PORT,
        database=database,
        username=connection.userid,
        password=connection.password,
        tls=connection.ssl if isinstance(connection.ssl, Mapping) else {},
    )

"""Dispatching: the messages that ask workers to run nodes, and the only place that makes them.

They are published here, but for those that the script that leaves a node can send. A message is a hint: it
carries ids and nothing else, so that it is small whatever the workflow, and it may be lost, doubled or late
without harm.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import BatchPublishError, OperationalError
from kombu.messaging import Producer
from kombu.transport.redis import Channel as RedisChannel

from workflow_engine.errors import BrokerUnavailable
from workflow_engine.execution_records import FORMAT
from workflow_engine.outages import outages
from workflow_engine.queued_message import QueuedMessage, queued_content
from workflow_engine.settings import Settings, broker_transport, broker_transport_options, redis_database

TASK_NAME = "workflow_engine.run_node"
FORMAT_HEADER = "workflow_engine_format"
COMMITTED_AT_HEADER = "workflow_engine_committed_at"

LOOKED_THROUGH = 50
"""Messages at the front of a queue, which others may use too, that are looked through for one of ours."""

RETRY_POLICY = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}


@dataclass(frozen=True)
class HopMessage:
    """The body of a message: run this node of this execution, whose journal has come to `seq`."""

    execution_id: str
    workflow: str
    version: int
    node_id: str
    seq: int


@dataclass(frozen=True)
class Dispatch:
    """A message and how it travels."""

    message: HopMessage
    queue: str
    priority: int
    committed_at: datetime | None = None
    """The database's time of the commit, or the wake, that led to this message; tells a backlog from a loss.
    """


class Backlog(Enum):
    """What there is to say of a queue whose oldest message has no time."""

    NONE = "no message of the engine waits in it"
    UNKNOWN = "this broker does not show its queues, or only strange messages wait at the front"


class Dispatcher(Protocol):
    """Sends nodes to workers."""

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        """Hand the messages to the broker. Raises `BrokerUnavailable`."""
        ...

    def queued(self, dispatch: Dispatch) -> QueuedMessage | None:
        """The message as it waits in the Redis of the contexts; None if its queue is elsewhere.

        It is not sent by this. Raises `BrokerUnavailable`.
        """
        ...

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        """When the commit was made that led to the message served next. Raises `BrokerUnavailable`."""
        ...


class CeleryDispatcher:
    """Publishes each node as a Celery task through one producer per thread, kept open.

    `contexts_url` is that of the Redis that has the contexts, and may be the broker as well.
    """

    def __init__(self, app: Celery, contexts_url: str = "") -> None:
        self._app = app
        self._contexts_url = contexts_url
        self._producers = threading.local()

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        try:
            self._publish_all(self._producer(), dispatches)
        except self._refusals as error:
            self._producers.held = None
            raise BrokerUnavailable(f"the broker takes no messages: {error}") from error
        outages.answered(BrokerUnavailable)

    def queued(self, dispatch: Dispatch) -> QueuedMessage | None:
        if (queues := self._queues_beside_contexts) is None:
            return None
        key = _queue_key(queues, dispatch.queue, dispatch.priority)
        task_id = _new_task_id()
        content = queued_content(
            task_body(dispatch.message),
            task_headers(dispatch, task_id),
            task_id,
            dispatch.queue,
            dispatch.priority,
        )
        return QueuedMessage(key, content)

    @functools.cached_property
    def _queues_beside_contexts(self) -> RedisChannel | None:
        """The channel that knows how kombu calls its queues, if they are in the Redis of the contexts."""
        connection: Connection = self._app.connection_for_write()
        place = redis_database(self._contexts_url)
        if place is None or redis_database(connection.as_uri()) != place or len(connection.alt) > 1:
            return None
        try:
            channel = self._producer().channel
        except self._refusals as error:
            raise BrokerUnavailable(f"the broker does not answer: {error}") from error
        return channel if isinstance(channel, RedisChannel) else None

    def oldest(self, queue: str, priority: int) -> datetime | Backlog:
        channel = self._producer().channel
        if not isinstance(channel, RedisChannel):
            return Backlog.UNKNOWN
        name = _queue_key(channel, queue, priority)
        try:
            # New messages are pushed on the left; not every command of this client adds the prefix.
            with channel.conn_or_acquire() as client:
                front = client.execute_command("LRANGE", name, -LOOKED_THROUGH, -1)
        except self._refusals as error:
            self._producers.held = None
            raise BrokerUnavailable(f"the broker does not show its queue: {error}") from error
        times = (_committed_at(message) for message in reversed(front))
        found = next((time for time in times if time is not None), None)
        return found or (Backlog.UNKNOWN if front else Backlog.NONE)

    @functools.cached_property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """What kombu raises for a broker that is away, and what a full or read-only one answers."""
        connection: Connection = self._app.connection_for_write()
        return (OperationalError, *connection.connection_errors, *connection.channel_errors)

    def _publish_all(self, producer: Producer, dispatches: Sequence[Dispatch]) -> None:
        """In one round trip: on a busy machine a hundred wakes would wait a hundred times for their turn."""
        try:
            with producer.batch() if len(dispatches) > 1 else nullcontext():
                for dispatch in dispatches:
                    self._publish_one(producer, dispatch)
        except BatchPublishError:
            # Some may have arrived, and doubled messages do no harm. Singly, kombu connects anew.
            for dispatch in dispatches:
                self._publish_one(producer, dispatch)

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
    """It is never used twice: a revoked one would be dropped by every worker for hours."""
    return str(uuid.uuid4())


def _queue_key(channel: RedisChannel, queue: str, priority: int) -> str:
    """The list that kombu keeps for a queue and a priority."""
    return f"{channel.global_keyprefix}{channel._q_for_pri(queue, priority)}"


def _committed_at(message: bytes) -> datetime | None:
    """The time in the header of a message as kombu keeps it in Redis; None for those of others."""
    try:
        time = json.loads(message)["headers"].get(COMMITTED_AT_HEADER)
        return datetime.fromisoformat(time) if time else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def task_body(message: HopMessage) -> tuple[Any, ...]:
    """Celery's message body, protocol 2: args, kwargs and what a canvas would embed, which is nothing."""
    return ((), vars(message), {})


def task_headers(dispatch: Dispatch, task_id: str) -> dict[str, Any]:
    """Celery's message headers, protocol 2, without those that would only repeat Celery's defaults.

    `shadow` is the name that Flower and its metrics show, `root_id` groups the tasks of an execution,
    and `kwargsrepr` is what Flower searches for an execution's id.
    """
    message = dispatch.message
    return {
        "lang": "py",
        "task": TASK_NAME,
        "shadow": f"{message.workflow}/{message.node_id}",
        "id": task_id,
        "root_id": message.execution_id,
        "kwargsrepr": repr({"execution_id": message.execution_id, "seq": message.seq}),
        "ignore_result": True,
        FORMAT_HEADER: FORMAT,
        COMMITTED_AT_HEADER: dispatch.committed_at.isoformat() if dispatch.committed_at else None,
    }


def producer_app(settings: Settings) -> Celery:
    """A Celery app that only publishes, for programs that have none of their own."""
    app = Celery("workflow_engine", set_as_current=False)
    app.conf.update(
        # Not `broker_url`, which a variable CELERY_BROKER_URL in the environment would override.
        broker_write_url=settings.effective_broker_url,
        broker_read_url=settings.effective_broker_url,
        broker_transport=broker_transport(settings),
        broker_transport_options=broker_transport_options(settings),
        broker_connection_max_retries=None,
        task_send_sent_event=False,
    )
    return app


def connect_to_broker(settings: Settings, timeout: float) -> None:
    """See whether the broker accepts connections. Raises `BrokerUnavailable`."""
    connection = Connection(settings.effective_broker_url, connect_timeout=timeout)
    try:
        with connection:
            connection.connect()
    except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
        raise BrokerUnavailable(f"the broker does not answer: {error}") from error


@dataclass(frozen=True)
class WorkerReport:
    """What a running worker says about itself."""

    name: str
    queues: frozenset[str]
    """Those it consumes."""
    tasks: Mapping[str, Mapping[str, str]]
    """Its tasks by name, each with `acks_late` and `reject_on_worker_lost` as texts."""
    settings: Mapping[str, Any]
    """Celery's settings, defaults included; those that may be secret are masked."""


def ask_workers(settings: Settings, timeout: float) -> list[WorkerReport]:
    """Ask all running workers about themselves; who does not answer in `timeout` seconds is left out.

    Takes at least that long, because nobody knows how many workers there are, and four times as long at most
    for each worker that falls silent in between. Raises `BrokerUnavailable`.
    """
    app = producer_app(settings)
    app.conf.broker_transport_options |= {"socket_connect_timeout": timeout}
    connection: Connection = app.connection_for_write(connect_timeout=timeout)
    try:
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1)
            names = sorted(app.control.inspect(timeout=timeout, connection=connection).ping() or ())
            if not names:
                return []
            ask = app.control.inspect(destination=names, timeout=timeout, connection=connection)
            queues, settings_of = ask.active_queues() or {}, ask.conf(with_defaults=True) or {}
            tasks = ask.registered("acks_late", "reject_on_worker_lost") or {}
    except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
        raise BrokerUnavailable(f"the broker does not answer: {error}") from error
    return [
        WorkerReport(
            name,
            frozenset(queue["name"] for queue in queues.get(name, ())),
            dict(map(_described_task, tasks.get(name, ()))),
            settings_of.get(name, {}),
        )
        for name in names
    ]


def _described_task(description: str) -> tuple[str, dict[str, str]]:
    """Takes Celery's `name [key=value key=value]` to pieces."""
    name, _, details = description.partition(" ")
    return name, dict(pair.split("=", 1) for pair in details.strip("[]").split() if "=" in pair)

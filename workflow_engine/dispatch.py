"""Dispatching: the messages that ask workers to run nodes, and the only place that publishes them.

A message is a hint. It carries ids and nothing else, so that it is small whatever the workflow, and it
may be lost, doubled or late without harm.
"""

from __future__ import annotations

import functools
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from kombu.messaging import Producer

from workflow_engine.errors import BrokerUnavailable
from workflow_engine.execution_records import FORMAT
from workflow_engine.settings import Settings, broker_transport_options

TASK_NAME = "workflow_engine.run_node"
FORMAT_HEADER = "workflow_engine_format"
COMMITTED_AT_HEADER = "workflow_engine_committed_at"

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
    """The database's time of the commit that led to this message; tells a backlog from a loss."""


class Dispatcher(Protocol):
    """Sends nodes to workers."""

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        """Hand the messages to the broker. Raises `BrokerUnavailable`."""
        ...


class CeleryDispatcher:
    """Publishes each node as a Celery task through one producer per thread, kept open."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._producers = threading.local()

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        try:
            producer = self._producer()
            for dispatch in dispatches:
                self._publish_one(producer, dispatch)
        except self._refusals as error:
            self._producers.held = None
            raise BrokerUnavailable(f"the broker takes no messages: {error}") from error

    @functools.cached_property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """What kombu raises for a broker that is away, and what a full or read-only one answers."""
        connection: Connection = self._app.connection_for_write()
        return (OperationalError, *connection.connection_errors, *connection.channel_errors)

    def _publish_one(self, producer: Producer, dispatch: Dispatch) -> None:
        # A task id is never used twice: a revoked one would be dropped by every worker for hours.
        task_id = str(uuid.uuid4())
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


def task_body(message: HopMessage) -> tuple[Any, ...]:
    """Celery's message body, protocol 2: args, kwargs and what a canvas would embed, which is nothing."""
    return ((), asdict(message), {})


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
        broker_transport_options=broker_transport_options(settings),
        broker_connection_max_retries=None,
        task_send_sent_event=False,
    )
    return app


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

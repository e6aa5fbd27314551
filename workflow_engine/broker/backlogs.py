"""Messages that a worker takes beyond its prefetch count, and puts back; with Redis and with RabbitMQ.

Redis has no prefetch count: kombu counts for it, and our transport lets some more through. A message goes
back to the front of its queue.

RabbitMQ counts for each consumer of a quorum queue. So a second consumer of the same queues takes as many
messages again. Its priority is below that of all others, so it gets a message only while every process that
could serve it is busy. What has not begun goes back to its place. What may have begun cannot: RabbitMQ
would deliver it again under its old id. A copy under another id goes to the end of the queue.
"""

from __future__ import annotations

from typing import Any, Protocol

from celery.utils.quorum_queues import detect_quorum_queues
from kombu.entity import Queue
from kombu.messaging import Consumer, Producer

from workflow_engine.broker.redis_transport import Channel

PRIORITY_BELOW_ALL = -1_000
"""Of a consumer; those of Celery have 0, or what a team has given its queues."""


class Backlog(Protocol):
    """The queues of a worker, as long as one connection lasts."""

    @property
    def is_apart(self) -> bool:
        """True if a signal handler may use it: it writes to no connection that the worker reads."""
        ...

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """The errors of a broker that is full or read-only."""
        ...

    def take_ahead(self, number: int) -> None:
        """From now on take up to this number of messages beyond the prefetch count, if they would wait."""
        ...

    def put_back(self, message: Any, new_id: str | None) -> None:
        """Put a message back: as it is, or as a copy if it may run here all the same."""
        ...


def backlog_of(consumer: Any) -> Backlog | None:
    """Return the backlog of Celery's consumer; None if its messages are best taken by Celery alone."""
    tasks = consumer.task_consumer
    if isinstance(tasks.channel, Channel):
        return RedisBacklog(tasks.channel) if not tasks.channel.ack_emulation else None
    app = consumer.app
    # Otherwise Celery lets all consumers of a channel share one prefetch count.
    has_count_per_consumer = (
        app.conf.worker_detect_quorum_queues
        and detect_quorum_queues(app, consumer.connection.transport.driver_type)[0]
    )
    return QuorumBacklog(tasks) if has_count_per_consumer else None


class RedisBacklog:
    """The backlog of a channel of our transport."""

    is_apart = True

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.refusals = (channel.ResponseError,)

    def take_ahead(self, number: int) -> None:
        self._channel.backlog_prefetch = number

    def put_back(self, message: Any, new_id: str | None) -> None:
        self._channel.requeue_at_front(message, new_id or message.headers["id"])


class QuorumBacklog:
    """The backlog of a consumer of quorum queues, which has the prefetch count that its channel was given."""

    is_apart = False
    refusals = ()

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._ahead: Consumer | None = None
        self._queues: list[str] = []

    def take_ahead(self, number: int) -> None:
        # Operators may add and cancel queues at any time.
        queues = [queue.name for queue in self._consumer.queues or ()] if number else []
        if queues == self._queues:
            return
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None
        self._queues = queues
        if queues:
            self._ahead = self._consumer_of(queues)
            self._ahead.consume()

    def _consumer_of(self, queues: list[str]) -> Consumer:
        """Return a consumer that gets what the worker's own does not take."""
        arguments = {"x-priority": PRIORITY_BELOW_ALL}
        return Consumer(
            self._consumer.channel,
            [Queue(name, consumer_arguments=arguments) for name in queues],
            on_message=self._consumer.on_message,
            on_decode_error=self._consumer.on_decode_error,
            accept=self._consumer.accept,
            auto_declare=False,
        )

    def put_back(self, message: Any, new_id: str | None) -> None:
        if new_id is None:
            message.requeue()
            return
        properties = message.properties
        Producer(message.channel, auto_declare=False).publish(
            message.body,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers={**message.headers, "id": new_id},
            correlation_id=new_id,
            priority=properties.get("priority"),
            delivery_mode=properties.get("delivery_mode"),
            exchange=message.delivery_info["exchange"],
            routing_key=message.delivery_info["routing_key"],
        )
        message.ack()

"""What waits in a queue, and whether anything consumes it, as far as the broker shows it.

A look changes nothing and takes a bounded time: it opens a connection of its own, and reads no more than the
front of a queue.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from kombu.transport import virtual

from workflow_engine.broker.dispatcher import names_its_lists, queue_key
from workflow_engine.broker.inspection import connection_with_timeout
from workflow_engine.errors import BrokerUnavailable

Result = TypeVar("Result")

NO_SUCH_QUEUE = "404"
"""The code of AMQP's reply about a queue that does not exist; kombu's own transports give it as text."""

SEARCHED = 1000
"""Messages at the front of a queue that are searched for those of executions."""


@dataclass(frozen=True)
class QueueLook:
    """One queue, as the broker shows it."""

    length: int | None = None
    """Messages that wait in it, of all priorities; None if the broker does not count them."""
    consumers: int | None = None
    """Its consumers, of which a busy worker has two; None if the broker does not count them."""
    ahead: Mapping[str, int] = field(default_factory=dict)
    """Messages that are served before that of an execution, by its id, as far as they were searched."""
    is_searched: bool = False
    """All of its messages were searched."""


class QueueLooks:
    """Looks at the queues of one broker."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def look(self, queues: Sequence[str], timeout: float) -> dict[str, QueueLook]:
        """Look at these queues, waiting `timeout` seconds for each reply. Raises `BrokerUnavailable`."""
        return self._look(_look, queues, timeout)

    def lengths(self, queues: Sequence[str], timeout: float) -> dict[str, int]:
        """Count the messages of these queues, and read none of them. Raises `BrokerUnavailable`."""
        return self._look(_length, queues, timeout)

    def _look(
        self, look: Callable[[Any, str], Result], queues: Sequence[str], timeout: float
    ) -> dict[str, Result]:
        connection = connection_with_timeout(self._app, timeout)
        try:
            with connection:
                connection.ensure_connection(max_retries=1, interval_start=0.1)
                # A channel each: RabbitMQ closes the one on which a queue is missing.
                return {queue: look(connection.channel(), queue) for queue in queues}
        except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
            raise BrokerUnavailable(f"the broker does not respond: {error}") from error


def _length(channel: Any, queue: str) -> int:
    declared = _declared(channel, queue)
    return 0 if declared is None else int(declared.message_count)


def _declared(channel: Any, queue: str) -> Any:
    """Return what the broker says of a queue; None if there is no such queue."""
    try:
        return channel.queue_declare(queue, passive=True)
    except ChannelError as error:
        if str(error.reply_code) == NO_SUCH_QUEUE:
            return None
        raise


def _look(channel: Any, queue: str) -> QueueLook:
    if not isinstance(channel, virtual.Channel):
        declared = _declared(channel, queue)
        if declared is None:
            return QueueLook(0, 0, is_searched=True)
        return QueueLook(declared.message_count, declared.consumer_count)
    length = _length(channel, queue)
    if not names_its_lists(channel):
        return QueueLook(length)
    ahead: dict[str, int] = {}
    place = 0
    for execution_id in _executions(channel, queue):
        if execution_id is not None:
            ahead.setdefault(execution_id, place)
        place += 1
    return QueueLook(length, None, ahead, is_searched=place >= length)


def _executions(channel: Any, queue: str) -> Iterator[str | None]:
    """Yield the execution of each message, in the order in which they are served; None for a foreign one."""
    left = SEARCHED
    with channel.conn_or_acquire() as client:
        for priority in channel.priority_steps:
            # New messages are pushed on the left; not every command of this client adds the prefix.
            front = client.execute_command("LRANGE", queue_key(channel, queue, priority), -left, -1)
            yield from map(_execution_of, reversed(front))
            left -= len(front)
            if left <= 0:
                return


def _execution_of(message: bytes) -> str | None:
    try:
        root_id = json.loads(message)["headers"].get("root_id")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return root_id if isinstance(root_id, str) else None

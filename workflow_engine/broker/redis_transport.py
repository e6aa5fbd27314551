"""kombu's Redis transport with a client that it keeps, and messages taken beyond the prefetch count.

kombu builds a new client for every single command, which takes about as long as the command's round trip on
the same machine, and registers its sockets with the event loop again in every turn. Both are kept here. A
worker with much room takes several messages at a time. It may ask for some beyond its prefetch count, as long
as they wait in the broker. And what is no message is refused, where kombu's error would end the worker.
Connections, their pool and what happens when they break are kombu's.

That rests on what kombu does not document. Where any of it has changed, kombu's own transport takes the place
of this one, and one line in the log says so.

| private attribute | of | why |
|---|---|---|
| `_create_client` | `Channel` | keeps one client |
| `pool` | `Channel` | the client goes with its pool, which kombu replaces after a fork |
| `_brpop_start` | `Channel` | asks the broker without waiting, for a message beyond the prefetch count |
| `_brpop_read` | `Channel` | learns that there was none; refuses what is no message |
| `_in_poll` | `Channel` | a forked process leaves the reply that its parent awaits to its parent |
| `_get_message_priority` | `Channel` | puts a message back under the priority it had |
| `_q_for_pri` | `Channel` | names the list from which a message was taken, for others behind it |
| `_deliver` | `Transport` | tells errors of reading a message from those of its consumer |
| `on_readable` | `Transport` | registers sockets that are new, and no others |
| `on_poll_start` | `MultiChannelPoller` | runs before that, as it does in kombu |
| `fds` | `MultiChannelPoller` | the sockets |
| `_delivered` | `QoS` | counts messages beyond the prefetch count |
| `_dirty` | `QoS` | of these, the ones that are acknowledged |
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any

import kombu
import kombu.connection
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from workflow_engine.addresses.broker import KEEPING_TRANSPORT
from workflow_engine.broker.internals import Internal, a, anything, callable_with, changes
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

# So that logs and `celery inspect` call the broker redis://… as ever; nothing else depends on it.
getattr(kombu.connection, "resolve_aliases", {})[KEEPING_TRANSPORT] = "redis"

INTERNALS = (
    Internal("Channel", "_create_client", callable_with("self", "asynchronous")),
    Internal("Channel", "pool", a(property)),
    Internal("Channel", "_brpop_start", callable_with("self", "timeout")),
    Internal("Channel", "_brpop_read", callable_with("self")),
    Internal("Channel", "_in_poll", a(bool)),
    Internal("Channel", "_get_message_priority", callable_with("self", "message")),
    Internal("Channel", "_q_for_pri", callable_with("self", "queue", "priority")),
    Internal("Transport", "_deliver", callable_with("self", "message", "queue")),
    Internal("Transport", "on_readable", callable_with("self", "descriptor")),
    Internal("MultiChannelPoller", "on_poll_start", callable_with("self")),
    Internal("MultiChannelPoller", "fds", a(property)),
    Internal("QoS", "_delivered", anything),
    Internal("QoS", "_dirty", anything),
)

NO_WAIT = 0.01
"""Seconds to wait for a message beyond the prefetch count; of a thousandth Redis 6 makes zero, which is for
ever."""

LONGEST_REASON = 200
"""Characters that are told of why something in a queue is no message."""


def changes_of_kombu() -> list[str]:
    """Return what kombu has changed of that which the transport uses; usually nothing."""
    owners = {
        "Channel": redis.Channel,
        "Transport": redis.Transport,
        "MultiChannelPoller": redis.MultiChannelPoller,
        "QoS": virtual.QoS,
    }
    return changes(INTERNALS, owners)


@functools.lru_cache(maxsize=1)
def _warn_once(changed: str) -> None:
    log.warning(
        "kombu %s is not the one that this release supports: %s. Its own Redis transport is used: messages "
        "take more processor time, none is taken from a backlog early, and what is no message ends a worker.",
        kombu.__version__,
        changed,
        extra=log_fields(LogEvent.INTERNALS_CHANGED, kombu=kombu.__version__, changed=changed),
    )


class QoS(virtual.QoS):
    """Counts what a channel has delivered, where the broker does not."""

    channel: Channel

    @property
    def is_full(self) -> bool:
        return not super().can_consume()

    @property
    def beyond_prefetch(self) -> int:
        """How many messages there are beyond the prefetch count."""
        return len(self._delivered) - len(self._dirty) - self.prefetch_count if self.is_full else 0

    @property
    def free(self) -> int:
        """How many messages there may still be up to the prefetch count; none without one."""
        return max(0, self.prefetch_count - (len(self._delivered) - len(self._dirty)))

    def can_consume(self) -> bool:
        # What was asked for has to be taken, or it would be lost to everybody.
        channel = self.channel
        return not self.is_full or channel.asks_for_more or self.beyond_prefetch < channel.backlog_prefetch


class Unreadable(ValueError):
    """What was taken from a queue is no message of kombu's."""


class Message(virtual.Message):
    """A message; building it raises `Unreadable` where the content is not in kombu's form."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **options)
            is_readable = isinstance(self.delivery_tag, str) and isinstance(self.headers, dict)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from error
        if not is_readable:
            raise Unreadable("its delivery tag is no text, or its headers are no object")


class Channel(redis.Channel):
    """A channel whose commands share one client, for as long as the pool behind it is the same."""

    Message = Message

    backlog_prefetch = 0
    """So many messages may be taken beyond the prefetch count, but only if they wait in the broker."""

    asks_for_more = False
    """Whether the message that the broker was asked for last is one of these."""

    _kept: Any = None

    _takes_several = True
    """Whether Redis gives several messages at a time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._process = os.getpid()
        if not self.ack_emulation:
            self.QoS = QoS  # type: ignore[assignment]  # kombu does the same with another one

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:  # waits for messages on a connection that it has for itself
            return super()._create_client(True)
        # kombu replaces the pool after a fork and when the channel closes; a client goes with its pool.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    def _brpop_start(self, timeout: float | None = None) -> None:
        self.asks_for_more = isinstance(self.qos, QoS) and self.qos.is_full
        super()._brpop_start(NO_WAIT if self.asks_for_more else timeout)

    def _brpop_read(self, **options: Any) -> Any:
        has_room = not self.asks_for_more
        self._read_one(partial(super()._brpop_read, **options))
        if has_room and (taken := self.connection.delivering) is not None:
            self._take_more(*taken)
        return True

    def _read_one(self, read: Callable[[], Any]) -> None:
        """Read what was taken from a queue, and deliver it; refuse what is no message."""
        transport = self.connection
        transport.delivering = None
        try:
            read()
        except Empty:
            if self.asks_for_more:
                self.backlog_prefetch = 0
            raise
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            # What a consumer raises is not about the content, but for what could not be built.
            if transport.delivering is not None and not isinstance(error, Unreadable):
                raise
            log.warning(
                "Refused what is no message of Celery's: %r",
                str(error)[:LONGEST_REASON],
                extra=log_fields(LogEvent.MESSAGE_REFUSED, error=error),
            )
        finally:
            self.asks_for_more = False

    def _take_more(self, message: Any, queue: str) -> None:
        """Take further messages from the list of one that was delivered, for half of what is free.

        A process or thread is free for each. The other half leaves something to other workers that are idle.
        """
        qos = self.qos
        number = qos.free // 2 if isinstance(qos, QoS) and self._takes_several else 0
        if not number:
            return
        key = self._q_for_pri(queue, self._get_message_priority(message))
        with self.conn_or_acquire() as client:
            try:
                contents = client.rpop(key, number) or []
            except self.ResponseError:  # of Redis before 6.2
                self._takes_several = False
                return
            while contents:
                content = contents.pop(0)
                try:
                    self._read_one(partial(self._deliver_content, content, queue))
                except BaseException:
                    if contents:
                        client.rpush(key, *reversed(contents))
                    raise

    def _deliver_content(self, content: bytes, queue: str) -> None:
        self.connection._deliver(loads(bytes_to_str(content)), queue)

    def close(self) -> None:
        """Close the channel; in a forked process without the reply that its parent waits for.

        kombu closes a pool's connections after a fork, and reads that reply first. The child would take the
        parent's message from the socket that both have, or wait for one that another child has taken.
        """
        if self._process != os.getpid():
            self._in_poll = False
        super().close()

    def requeue_at_front(self, message: virtual.Message, as_id: str) -> None:
        """Put a message where it was taken from, under this id; kombu rejects one to the end of its queue."""
        content = message.serializable()
        content["headers"]["id"] = as_id
        content["properties"] = {**content["properties"], "correlation_id": as_id, "delivery_tag": as_id}
        priority = self._get_message_priority(content)
        with self.conn_or_acquire() as client:
            client.rpush(self._q_for_pri(message.delivery_info["routing_key"], priority), dumps(content))
        self.qos.ack(message.delivery_tag)


class Transport(redis.Transport):
    """What Celery's `broker_transport` names."""

    Channel = Channel

    delivering: tuple[Any, str] | None = None
    """What was taken from a queue last, and that queue, once it has been read and is with its consumer."""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        """Return a transport of kombu's own where kombu is not the one that this module knows."""
        if changed := changes_of_kombu():
            _warn_once("; ".join(changed))
            return redis.Transport(*arguments, **options)
        return super().__new__(cls)

    def _deliver(self, message: Any, queue: str) -> None:
        self.delivering = (message, queue)
        super()._deliver(message, queue)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        loop.on_tick.intersection_update(before)
        loop.on_tick.add(partial(self._before_poll, loop))

    def _before_poll(self, loop: Any) -> None:
        cycle: Any = self.cycle
        cycle.on_poll_start()
        for socket in cycle.fds:
            if loop.readers.get(socket) != (self.on_readable, (socket,)):
                loop.add_reader(socket, self.on_readable, socket)

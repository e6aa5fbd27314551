"""kombu's Redis transport, without two things that it does again and again.

It builds a new client object for every single command, which takes about as long as the command's round trip
on the same machine. And it registers its sockets with the event loop anew in every turn. Everything that
matters to the broker is untouched: connections, their pool, what happens when they break. What it adds is a
reserve of messages, if a worker asks for one.
"""

from __future__ import annotations

from functools import partial
from queue import Empty
from typing import Any

from kombu.connection import resolve_aliases
from kombu.transport import redis, virtual
from kombu.utils.json import dumps

from workflow_engine.settings import KEEPING_TRANSPORT

# So that logs and `celery inspect` call the broker redis://… as ever.
resolve_aliases[KEEPING_TRANSPORT] = "redis"

NO_WAIT = 0.01
"""Seconds to wait for a message that is reserved; of a thousandth Redis 6 makes zero, which is for ever."""


class QoS(virtual.QoS):
    """Counts what a channel has delivered, where the broker does not."""

    channel: Channel

    @property
    def is_full(self) -> bool:
        return not super().can_consume()

    @property
    def in_reserve(self) -> int:
        """How many messages there are beyond the prefetch count."""
        return len(self._delivered) - len(self._dirty) - self.prefetch_count if self.is_full else 0

    def can_consume(self) -> bool:
        # What was asked for has to be taken, or it would be lost to everybody.
        channel = self.channel
        return not self.is_full or channel._asks_for_reserve or self.in_reserve < channel.reserve


class Channel(redis.Channel):
    """A channel whose commands share one client, for as long as the pool behind it is the same."""

    reserve = 0
    """So many messages may be taken beyond the prefetch count, but only if they wait in the broker."""

    _kept: Any = None
    _asks_for_reserve = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not self.ack_emulation:
            self.QoS = QoS  # type: ignore[assignment]  # kombu does the same with another one

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:  # waits for messages on a connection that it has for itself
            return super()._create_client(asynchronous=True)
        # kombu replaces the pool after a fork and when the channel closes; a client goes with its pool.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._asks_for_reserve = isinstance(self.qos, QoS) and self.qos.is_full
        super()._brpop_start(NO_WAIT if self._asks_for_reserve else timeout)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except Empty:
            if self._asks_for_reserve:
                self.reserve = 0
            raise
        finally:
            self._asks_for_reserve = False

    def give_back(self, message: virtual.Message, as_id: str) -> None:
        """Put a message where it was taken from, under this id; kombu rejects one to the end of its queue."""
        content = message.serializable()
        content["headers"]["id"] = as_id
        content["properties"] = {**content["properties"], "correlation_id": as_id, "delivery_tag": as_id}
        priority = self._get_message_priority(content, reverse=False)
        with self.conn_or_acquire() as client:
            client.rpush(self._q_for_pri(message.delivery_info["routing_key"], priority), dumps(content))
        self.qos.ack(message.delivery_tag)


class Transport(redis.Transport):
    """What Celery's `broker_transport` names."""

    Channel = Channel

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

"""kombu's Redis transport, without two things that it does again and again.

It builds a new client object for every single command, which takes about as long as the command's round trip
on the same machine. And it registers its sockets with the event loop anew in every turn. Everything that
matters to the broker is untouched: connections, their pool, what happens when they break.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from kombu.connection import resolve_aliases
from kombu.transport import redis

from workflow_engine.settings import KEEPING_TRANSPORT

# So that logs and `celery inspect` call the broker redis://… as ever.
resolve_aliases[KEEPING_TRANSPORT] = "redis"


class Channel(redis.Channel):
    """A channel whose commands share one client, for as long as the pool behind it is the same."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:  # waits for messages on a connection that it has for itself
            return super()._create_client(asynchronous=True)
        # kombu replaces the pool after a fork and when the channel closes; a client goes with its pool.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept


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

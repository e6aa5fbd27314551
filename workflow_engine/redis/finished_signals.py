"""FinishedSignals: a caller that waits for the end of an execution is woken by Redis.

The connection that has subscribed is kept for the next caller that waits, because a new one takes half a
dozen round trips until it is subscribed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import redis

from workflow_engine.errors import CacheUnavailable
from workflow_engine.redis.client import redis_errors
from workflow_engine.redis.keys import Keys
from workflow_engine.redis.periodic_call import call_in_children

MOST_IDLE = 4
"""Connections that are kept while no caller waits. If more callers wait at once, more are opened."""

_of_parents: list[object] = []
"""The connections of parent processes: one that a child freed would be taken from its parent's pool."""


class FinishedSignals:
    """The ends of executions, as one caller announces them and others wait for them."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._idle: deque[_Listener] = deque()
        call_in_children(self._forget_parent)

    def announce(self, execution_id: str, status: str) -> None:
        """Notify waiting callers that an execution ended outside of a hop. Raises `CacheUnavailable`."""
        with redis_errors():
            self._client.publish(self._keys.finished(execution_id), status)

    @contextmanager
    def of(self, execution_id: str) -> Iterator[Callable[[float], None]]:
        """Subscribe to the end of an execution, and yield a function that waits for it, some seconds at most.

        A caller asks Postgres after subscribing and after every wait: the signal only saves time. While Redis
        is away nothing is raised; the wait then takes its full time.
        """
        listener = self._listener()
        try:
            with suppress(CacheUnavailable), redis_errors():
                listener.listen_to(self._keys.finished(execution_id))
            yield listener.wait
        finally:
            if len(self._idle) < MOST_IDLE:
                self._idle.append(listener)
            else:
                listener.close()

    def _listener(self) -> _Listener:
        with suppress(IndexError):
            while True:
                listener = self._idle.pop()
                if listener.is_alive():
                    return listener
                listener.close()
        return _Listener(self._client)

    def _forget_parent(self) -> None:
        _of_parents.extend(self._idle)
        self._idle = deque()


class _Listener:
    """A connection that is subscribed to the end of one execution at a time."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._pubsub: redis.client.PubSub | None = None
        self._channel = ""

    def is_alive(self) -> bool:
        """Return whether the connection still stands, after reading what came for earlier callers."""
        connection = self._pubsub.connection if self._pubsub is not None else None
        if self._pubsub is None or connection is None:
            return False
        with suppress(CacheUnavailable), redis_errors():
            while connection.can_read(timeout=0):
                self._pubsub.get_message(timeout=0)
            return True
        return False

    def listen_to(self, channel: str) -> None:
        """Subscribe to this channel, and to no other any longer."""
        if self._pubsub is None:
            self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        before, self._channel = self._channel, channel
        self._pubsub.subscribe(channel)
        if before not in ("", channel):
            self._pubsub.unsubscribe(before)

    def wait(self, seconds: float) -> None:
        """Wait until there is a message on the channel, `seconds` at most."""
        deadline = time.monotonic() + seconds
        try:
            with redis_errors():
                while (left := deadline - time.monotonic()) > 0:
                    if self._hears_of_it(left):
                        return
        except CacheUnavailable:
            time.sleep(max(0.0, min(1.0, deadline - time.monotonic())))

    def close(self) -> None:
        if self._pubsub is not None:
            self._pubsub.close()

    def _hears_of_it(self, seconds: float) -> bool:
        if self._pubsub is None:  # no node of a cluster was there to subscribe at
            time.sleep(seconds)
            return False
        message = self._pubsub.get_message(timeout=seconds)
        return message is not None and message["channel"] == self._channel.encode()

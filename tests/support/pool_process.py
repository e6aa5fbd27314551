"""A process of a worker's pool, without Celery: it serves messages with the next one in sight."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import psycopg2
import redis

from support.polling import poll
from support.wire import Wire, read_redis_commands
from workflow_engine import Settings
from workflow_engine.addresses.postgres import libpq_url
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage, NextMessage


class PoolProcess:
    """A process of a worker, which takes its messages from the Redis of this URL."""

    def __init__(self, settings: Settings, queues: str) -> None:
        self._queues = redis.Redis.from_url(queues)
        self.wire = Wire(settings.redis_url, read_redis_commands)
        broker = {"broker_url": queues} if queues != settings.redis_url else {}
        self.engine = Engine.assemble(settings.model_copy(update={"redis_url": self.wire.url, **broker}))

    def take(self) -> NextMessage:
        """Return the message that waits longest; one that was sent ahead may still be under way."""
        return cast(NextMessage, poll(self._take, "a message waits"))

    def _take(self) -> NextMessage | None:
        queues = sorted(self._queues.scan_iter(_type="list", count=100))  # one for each priority
        if not queues:
            return None
        envelope = self._queues.rpop(queues[0])
        assert isinstance(envelope, bytes)
        message = json.loads(envelope)
        _, body, _ = json.loads(base64.b64decode(message["body"]))
        return NextMessage(HopMessage(**body), message["headers"]["id"])

    def serve(self, now: NextMessage, then: NextMessage | None = None) -> None:
        """Serve a message, with the one that is served after it in sight."""
        self.engine.executor.continue_execution(*now, look_ahead=lambda _until: then)

    def drain(self) -> None:
        """Serve all messages, each with the next one in sight, until there are none."""
        now, then = self._take(), None
        while now is not None:
            then = self._take()
            self.serve(now, then)
            now = then or self._take()

    def close(self) -> None:
        self.engine.locks.stop_all_renewing()
        self.engine.database.dispose()
        self.wire.close()
        self._queues.close()


@contextmanager
def held_up(settings: Settings, execution: str) -> Iterator[Callable[[], None]]:
    """Make commits of an execution wait in Postgres. Yield what lets them go on."""
    connection = psycopg2.connect(libpq_url(settings.database_url))
    row = f"SELECT FROM {settings.quoted_schema}.executions WHERE id = %s FOR UPDATE"
    connection.cursor().execute(row, [execution])
    try:
        yield connection.rollback
    finally:
        connection.close()

"""How this process reaches Redis: one client, scripts from files, errors in the engine's words.

A script file's header lists its keys, arguments and answers; the one function that runs it is its only
door. Every script is safe to run twice, because the client repeats a call whose answer was lost.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from importlib import resources
from types import TracebackType
from typing import Any

import redis
from hiredis import pack_command
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from workflow_engine.errors import CacheUnavailable
from workflow_engine.outages import outages
from workflow_engine.settings import Settings

RETRIES = 1
"""How often a call is repeated on connections of the pool, the first time not counted; longer outages are
waited out by giving the message back."""

REPEATED = (RedisConnectionError, RedisTimeoutError, ReadOnlyError)
"""After a failover a connection may live on to what was the primary, and is a replica now."""

EVALSHA = "EVALSHA"


class Client(redis.Redis):
    """A client whose threads keep a connection each, for all but pipelines and subscriptions.

    To lend one from redis-py's pool, look whether it is still alive and account for it takes longer than to
    send a command and read its answer. What fails on a kept connection is repeated as that of the pool is.
    """

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self._kept = threading.local()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        connection = getattr(self._kept, "connection", None)
        if connection is None or connection.pid != os.getpid():
            pool = self.connection_pool
            connection = self._kept.connection = pool.connection_class(**pool.connection_kwargs)
        try:
            # What redis-py looks for in names of two words and in memory views, no script has.
            packed = [pack_command(args)] if args[0] == EVALSHA else connection.pack_command(*args)
            connection.send_packed_command(packed)
            return self.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]
        except REPEATED:
            connection.disconnect()
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except ResponseError:
            raise
        except BaseException:
            # Nobody waits for the answer any more, which would be taken for that to the next command.
            connection.disconnect()
            raise

    def register_script(self, script: Any) -> Script:
        return _Script(self, script)

    def close(self) -> None:
        self._kept = threading.local()
        super().close()


class _Script(Script):
    """A script that goes to its client by the shortest way, unless it is part of a pipeline."""

    def __call__(self, keys: Any = (), args: Any = (), client: Any = None) -> Any:
        if client is None:
            with suppress(NoScriptError):  # then it is loaded first
                run: Callable[..., Any] = self.registered_client.execute_command
                return run(EVALSHA, self.sha, len(keys), *keys, *args)
        return super().__call__(keys, args, client)


def connect_redis(settings: Settings, url: str | None = None) -> redis.Redis:
    """A client that connects at the first use, and anew after a fork."""
    return Client.from_url(
        url or settings.redis_url,
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
        socket_keepalive=True,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
        retry_on_error=list(REPEATED),
    )


def connect_impatiently(url: str, patience: float) -> redis.Redis:
    """A client for a server that others can stand in for: no call is repeated; `patience` is in seconds."""
    return redis.Redis.from_url(
        url,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )


def script_text(name: str) -> str:
    """The source of `scripts/{name}.lua`."""
    return resources.files("workflow_engine").joinpath("scripts", f"{name}.lua").read_text()


def load_script(client: redis.Redis, name: str) -> Script:
    """The script `scripts/{name}.lua`, sent by its hash."""
    return client.register_script(script_text(name))


class _RedisErrors:
    # No generator: every hop comes through here several times.
    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, RedisError):
            raise CacheUnavailable(f"Redis does not do as told: {type(error).__name__}: {error}") from error
        if error is None:
            outages.answered(CacheUnavailable)


def redis_errors() -> AbstractContextManager[None]:
    """Raises `CacheUnavailable` for whatever keeps Redis from doing as told: away, full, read-only."""
    return _redis_errors


_redis_errors = _RedisErrors()

"""How this process reaches Redis: one client, scripts from files, errors of the engine's own types.

A script file's header lists its keys, arguments and results, and exactly one function runs it. Every script
is safe to run twice, because the client repeats a call whose reply was lost.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import resources
from types import TracebackType
from typing import Any, Protocol

import redis
from hiredis import pack_command
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.cluster import REDIS_ALLOWED_KEYS
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from workflow_engine.addresses.redis import SENTINEL, RedisAddress
from workflow_engine.errors import CacheUnavailable, SettingsInvalid
from workflow_engine.outages import outages
from workflow_engine.redis.cluster.client import ClusterClient
from workflow_engine.settings import Settings

RETRIES = 1
"""How often a call is repeated on connections of the pool; longer outages requeue the message."""

REPEATED = (RedisConnectionError, RedisTimeoutError, ReadOnlyError)
"""The errors after which a call is repeated. After a failover, a connection may lead to a former primary."""

READ_ONLY = "READONLY"
"""What a replica says to a script that writes; nothing has been written then."""

EVALSHA = "EVALSHA"


Redis = redis.Redis
"""The type of a client, for other packages."""


class Reply:
    """The reply to a command that was sent ahead. The thread that sent it reads it, once."""

    __slots__ = ("_client", "_connection", "_error", "_result", "_unread")

    def __init__(self, client: Client, connection: Any, unread: deque[Reply]) -> None:
        self._client = client
        self._connection = connection
        self._unread = unread
        self._result: Any = None
        self._error: RedisError | None = None

    def value(self) -> Any:
        """Return the reply, or raise its error; the command may have been carried out all the same."""
        while self in self._unread:
            self._unread.popleft()._read()
        if self._error is not None:
            raise self._error
        return self._result

    def _read(self) -> None:
        try:
            self._result = self._client.parse_response(self._connection, EVALSHA)
        except ResponseError as error:
            self._error = error
        except BaseException as error:
            # No reply after this one arrives, either.
            self._client.drop()
            lost = error if isinstance(error, RedisError) else RedisConnectionError("the reply was not read")
            for reply in (self, *self._unread):
                reply._error = lost
            self._unread.clear()
            if lost is not error:
                raise


class Client(redis.Redis):
    """A client that keeps one connection for each thread, except for pipelines and subscriptions.

    A connection from redis-py's pool has to be taken, checked and returned, which costs more time than a
    command and its reply. A call that fails on a kept connection is repeated on one of the pool.
    """

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self._kept = threading.local()

    def send_ahead(self, commands: Sequence[tuple[Any, ...]]) -> list[Reply]:
        """Send calls of scripts together, and return without waiting for their replies.

        A call whose reply is lost is not repeated: that is up to the caller. Raises as redis-py does.
        """
        try:
            connection = self._connection()
            connection.send_packed_command([b"".join(map(pack_command, commands))])
        except BaseException:
            self.drop()
            raise
        unread: deque[Reply] = self._kept.unread
        replies = [Reply(self, connection, unread) for _ in commands]
        unread.extend(replies)
        return replies

    def _connection(self) -> Any:
        """Return this thread's connection, from which every reply so far has been read."""
        kept = self._kept
        connection = getattr(kept, "connection", None)
        if connection is not None and connection.pid == os.getpid():
            while kept.unread:
                kept.unread.popleft()._read()
            if kept.connection is connection:  # a reply that is lost drops it
                return connection
        pool = self.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        # Sending would connect as well, but only this asks sentinels for the primary.
        connection.connect()
        kept.connection, kept.unread = connection, deque()
        return connection

    def drop(self) -> None:
        """Disconnect this thread's connection; its next call makes another."""
        connection = getattr(self._kept, "connection", None)
        if connection is not None:
            connection.disconnect()
            self._kept.connection = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            connection = self._connection()
            # No script needs what redis-py checks: names of two words, and memory views.
            packed = [pack_command(args)] if args[0] == EVALSHA else connection.pack_command(*args)
            connection.send_packed_command(packed)
            return self.parse_response(connection, args[0], **options)
        except REPEATED:
            self.drop()
            return super().execute_command(*args, **options)
        except ResponseError as error:
            if READ_ONLY not in str(error):
                raise
            # Before Redis 7 this is an error of the script, for which redis-py keeps the connection.
            self.drop()
            self.connection_pool.disconnect(inuse_connections=False)
            return super().execute_command(*args, **options)
        except BaseException:
            # The unread reply would be taken for that of the next command.
            self.drop()
            raise

    def register_script(self, script: Any) -> Script:
        return _Script(self, script)

    def close(self) -> None:
        self._kept = threading.local()
        super().close()


class _Script(Script):
    """A script that calls its client directly, unless it is part of a pipeline."""

    def __call__(self, keys: Any = (), args: Any = (), client: Any = None) -> Any:
        if client is not None:
            return super().__call__(keys, args, client)
        run: Callable[..., Any] = self.registered_client.execute_command
        try:
            return run(*call_of(self, keys, args))
        except NoScriptError:
            # The server keeps it from now on, even if that is another one by the time of this call.
            return run("EVAL", self.script, len(keys), *keys, *args)


def call_of(script: Script, keys: Sequence[Any], args: Sequence[Any]) -> tuple[Any, ...]:
    """Return the command that calls a script by its hash, which the server has to know."""
    return (EVALSHA, script.sha, len(keys), *keys, *args)


class Introduction(Protocol):
    """What a process says of itself to the Redis of the contexts."""

    def __call__(self, connection: Any) -> None:
        """Introduce a new connection, on which nothing but its login was said."""

    def register(self, client: Any) -> None:
        """Register this process with a cluster, whose connections cannot: its key is on one of the nodes."""


def connect_redis(
    settings: Settings,
    address: RedisAddress | None = None,
    introduce: Introduction | None = None,
) -> redis.Redis:
    """Return a client that connects at the first use and again after a fork; by default, to the contexts.

    That of a cluster has the same commands. `introduce` takes each new connection.
    """
    address = address or settings.redis_address
    if address.is_cluster:
        register = introduce.register if introduce is not None else None
        return _cluster(address, settings.redis_timeout, RETRIES, introduce, register)
    introduced = None if introduce is None else _introducing(introduce)
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES)
    others = {"retry_on_error": list(REPEATED), "redis_connect_func": introduced}
    return Client.from_pool(_pool(address, settings.redis_timeout, retry, **others))


def connect_without_retries(address: RedisAddress, timeout: float) -> redis.Redis:
    """Return a client that repeats no call, for one of several servers; `timeout` is in seconds."""
    if address.is_cluster:
        return _cluster(address, timeout, 0)
    return redis.Redis.from_pool(_pool(address, timeout, Retry(NoBackoff(), 0)))


def _introducing(introduce: Introduction) -> Callable[[Any], None]:
    def connect(connection: Any) -> None:
        connection.on_connect()
        introduce(connection)

    return connect


def _cluster(
    address: RedisAddress,
    timeout: float,
    retries: int,
    introduce: Introduction | None = None,
    register: Callable[[Any], None] | None = None,
) -> redis.Redis:
    arguments = _connection_arguments(address, timeout)
    if ignored := sorted(arguments.keys() - set(REDIS_ALLOWED_KEYS)):
        # Among them may be one by which a server has to prove its name.
        raise SettingsInvalid(
            f"the client for clusters of redis-py {redis.__version__} ignores {', '.join(ignored)}; "
            "install a newer one, or leave the option out of WORKFLOW_ENGINE_REDIS_URL"
        )
    if address.tls:
        arguments["ssl"] = True
    if introduce is not None:
        arguments["redis_connect_func"] = introduce  # after the login, which the cluster's client sees to
    return ClusterClient(address, arguments, retries, register)


def _pool(address: RedisAddress, timeout: float, retry: Retry, **others: Any) -> redis.ConnectionPool:
    arguments = {"retry": retry, **others, **_connection_arguments(address, timeout)}
    if address.scheme == SENTINEL:
        sentinels = Sentinel(address.nodes, socket_timeout=timeout, socket_connect_timeout=timeout)
        return SentinelConnectionPool(address.master_name, sentinels, **arguments)
    if address.path:
        del arguments["socket_keepalive"]
        return redis.ConnectionPool(redis.UnixDomainSocketConnection, **arguments)
    return redis.ConnectionPool(redis.SSLConnection if address.tls else redis.Connection, **arguments)


def _connection_arguments(address: RedisAddress, timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        **address.connection_arguments(),
    }


@functools.cache
def script_text(name: str) -> str:
    """Return the source of `scripts/{name}.lua`."""
    return (
        resources.files("workflow_engine.redis")
        .joinpath("scripts", f"{name}.lua")
        .read_text(encoding="utf-8")
    )


def load_script(client: redis.Redis, name: str) -> Script:
    """Return the script `scripts/{name}.lua`, which is sent by its hash."""
    return client.register_script(script_text(name))


def unless_refused(call: Callable[[], Any]) -> Any:
    """Return the result of `call`; None if its command is forbidden to this user or unknown to the server."""
    try:
        return call()
    except NoPermissionError:
        return None
    except ResponseError as error:
        if str(error).lower().startswith("unknown command"):
            return None
        raise


class _RedisErrors:
    # Not a generator, which costs more: every hop runs this several times.
    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, RedisError | RedisClusterException):
            raise CacheUnavailable(f"Redis is unavailable: {type(error).__name__}: {error}") from error
        if error is None:
            outages.record_reply(CacheUnavailable)


def redis_errors() -> AbstractContextManager[None]:
    """Raise `CacheUnavailable` for any error of Redis in the block: it is away, full or read-only."""
    return _redis_errors


_redis_errors = _RedisErrors()

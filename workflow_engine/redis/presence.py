"""Presence: which processes are connected to Redis, so that a dead one is told from a frozen one.

A process that dies loses its connections at once; one that is frozen, or busy with a long computation, keeps
them. Each process names its connections after its *life*, a random word of its own, and registers it. The
value of a lock names the life of its holder. A life that is registered and has no connection at two looks is
over.

In a cluster a process has connections to some of the nodes: one to any of them counts. When a node restarts,
or a replica takes its place, all that is known is forgotten, as after the restart of a single Redis.

A wrong verdict does no harm beyond a side effect that is repeated: the fence refuses the second commit. Where
Redis does not list its connections, nothing is ever found to be over, and locks expire as before.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import redis
from redis.exceptions import ResponseError

from workflow_engine.redis.client import load_script, redis_errors, unless_refused
from workflow_engine.redis.cluster.nodes import primaries_of
from workflow_engine.redis.keys import Keys
from workflow_engine.settings import Settings

MISSING_FOR = 2.0
"""Seconds without a connection, between the first look that missed it and another, after which a life is
over. A process that still lives connects again within a second, at its next renewal."""

OVER = b"over"
"""The mark of a life that is over and whose locks are free."""

DEFAULT_LABEL = "workflow-engine"

NAME = re.compile(rb" name=[^ ]*:([0-9a-f]{16}) ")
"""The part of a line of `CLIENT LIST` that names a life."""


class _Life:
    """The random word of this process; a forked child has another."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self.word = secrets.token_hex(8)


_life = _Life()


def life_of_this_process() -> str:
    """Return the word that names this process, unlike its process id for good."""
    return _life.word


def connection_name(label: str | None) -> str:
    """Return the name of this process's connections; Redis allows no spaces in it."""
    host = re.sub(r"[^!-~]", "-", socket.gethostname())
    return f"{label or DEFAULT_LABEL}:{host}:{os.getpid()}:{life_of_this_process()}"


class Introduction:
    """What every new connection to the Redis of the contexts says first: its name, and the life behind it.

    A server that refuses either serves the connection all the same.
    """

    def __init__(self, settings: Settings) -> None:
        self._key = Keys.of(settings).presence
        self._is_cluster = settings.redis_address.is_cluster
        self._expiry_ms = round(settings.context_expiry * 1000)

    def __call__(self, connection: Any) -> None:
        commands: list[tuple[Any, ...]] = [("CLIENT", "SETNAME", connection_name(connection.client_name))]
        if not self._is_cluster:
            commands += self._registering()
        connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            with suppress(ResponseError):
                connection.read_response()

    def register(self, client: Any) -> None:
        """Register the life of this process, for a client that sends the command to the right node."""
        for command in self._registering():
            with suppress(ResponseError):
                client.execute_command(*command)

    def _registering(self) -> list[tuple[Any, ...]]:
        return [("HSET", self._key, life_of_this_process(), ""), ("PEXPIRE", self._key, self._expiry_ms)]


class NameOnly:
    """The introduction of a client that only looks: the name of its connections; nothing is stored."""

    def __call__(self, connection: Any) -> None:
        connection.send_command("CLIENT", "SETNAME", connection_name(connection.client_name))
        with suppress(ResponseError):
            connection.read_response()

    def register(self, client: Any) -> None:
        """Store nothing."""


class Presence:
    """The lives of this fleet, as the Redis of the contexts has them."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._key = Keys.of(settings).presence
        self._expiry_ms = round(settings.context_expiry * 1000)
        # For longer than any execution is left to a process that may only be frozen.
        self._kept_ms = round(2 * settings.stall_after * 1000)
        self._note = load_script(client, "note_presence")

    def look(self) -> frozenset[str]:
        """Note who is connected, and return the lives that are over. Raises `CacheUnavailable`.

        Those that are over are returned until they are buried. None is over if Redis has restarted since
        the last look, or does not list its connections.
        """
        with redis_errors():
            connected, run = lives_connected(self._client), _run_of(self._client)
            if connected is None or run is None:
                return frozenset()
            times = (self._expiry_ms, round(MISSING_FOR * 1000), self._kept_ms)
            args: list[Any] = [run, *times, *connected]
            over: list[bytes] = self._note(keys=[self._key], args=args)
        return frozenset(life.decode() for life in over)

    def disconnected(self, lives: Collection[str]) -> frozenset[str]:
        """Return those of these lives that are registered and have no connection now; changes nothing.

        None of them if Redis does not list its connections. Raises `CacheUnavailable`.
        """
        if not lives:
            return frozenset()
        with redis_errors():
            connected = lives_connected(self._client)
            registered: Any = self._client.hmget(self._key, list(lives))
        known = {life for life, value in zip(lives, registered, strict=True) if value is not None}
        return frozenset() if connected is None else frozenset(known - {each.decode() for each in connected})

    def bury(self, lives: Collection[str]) -> None:
        """Note that the locks of lives that are over were freed. Raises `CacheUnavailable`.

        They stay known as dead for twice `stall_after`, and are not returned again.
        """
        with redis_errors():
            self._client.hset(self._key, mapping=dict.fromkeys(lives, OVER))

    def buried(self, lives: Collection[str]) -> frozenset[str]:
        """Return those of these lives that were buried. Raises `CacheUnavailable`."""
        if not lives:
            return frozenset()
        with redis_errors():
            registered: Any = self._client.hmget(self._key, list(lives))
        found = zip(lives, registered, strict=True)
        return frozenset(life for life, value in found if value is not None and value.startswith(OVER))


def lives_connected(client: redis.Redis) -> Sequence[bytes] | None:
    """Return the lives with a connection to any node.

    None if a node does not list them, this process's own included.
    """
    found: dict[bytes, None] = {}
    for node in primaries_of(client):
        # As two words, since redis-py would make a dictionary of each line of the one command.
        listed: Any = unless_refused(partial(node.execute_command, "CLIENT", "LIST"))
        lives = dict.fromkeys(NAME.findall(listed)) if isinstance(listed, bytes) else {}
        if life_of_this_process().encode() not in lives:
            return None
        found |= lives
    return list(found)


def lists_connections(client: redis.Redis) -> bool:
    """Name this process's connection, and return whether the server tells who is connected to it."""
    unless_refused(lambda: client.client_setname(connection_name(None)))
    return lives_connected(client) is not None and _run_of(client) is not None


def _run_of(client: redis.Redis) -> str | None:
    """Return what names the server's process since its start; None if Redis does not report it.

    For a cluster, what names those of all nodes. It changes with every restart and failover of one.
    """
    runs = []
    for node in primaries_of(client):
        info: Any = unless_refused(partial(node.info, "server")) or {}
        if (run := info.get("run_id")) is None:
            return None
        runs.append(str(run))
    return ",".join(sorted(runs))

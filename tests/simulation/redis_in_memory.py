"""Redis in memory, as far as the engine's cache and locks use it, with the engine's own Lua scripts.

The scripts run in Lua 5.1, as in Redis. Nothing expires by itself: a test deletes a key that should be
gone. Every command and every script is one step; so is a pipeline, since only its sender can fail in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
import redis
from lupa import lua51

from simulation.steps import step

LUA = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=False)

Command = Callable[[], Any]


class RedisInMemory:
    """The server, which its clients share.

    `edits` replace text in scripts, to see what a check is for. `push` gets each value pushed onto a list:
    there is only one, the queue. `seconds` is the server's clock.
    """

    def __init__(
        self,
        edits: Mapping[str, str] | None = None,
        push: Callable[[bytes], object] = lambda _: None,
        seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._edits = edits or {}
        self._push = push
        self._seconds = seconds
        self.strings: dict[bytes, bytes] = {}
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.sets: dict[bytes, set[bytes]] = {}
        self.sorted_sets: dict[bytes, dict[bytes, float]] = {}
        self._kinds: tuple[dict[bytes, Any], ...] = (self.strings, self.hashes, self.sets, self.sorted_sets)
        self._commands: dict[str | bytes, Callable[..., Any]] = {}
        """Methods by the names of commands, as far as they have been called."""

    def flush(self) -> None:
        for kind in self._kinds:
            kind.clear()

    def script(self, text: str) -> str:
        for before, after in self._edits.items():
            text = text.replace(before, after)
        return text

    def run(self, text: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        # Made for each run: a table that lasted would keep the server for ever, because no collector of
        # garbage sees what Lua and Python hold of each other.
        call = LUA.table_from({b"call": self._called_from_lua, b"pcall": self._called_from_lua})
        keys_, args_ = LUA.table_from(map(_bytes, keys)), LUA.table_from(map(_bytes, args))
        return _from_lua(_compiled(text)(keys_, args_, call, CJSON))

    def _called_from_lua(self, name: bytes, *args: Any) -> Any:
        return _to_lua(self.execute(name, *args))

    def execute(self, name: str | bytes, *args: Any) -> Any:
        """Execute one command, with arguments and replies as in the protocol."""
        if (command := self._commands.get(name)) is None:
            written = name.decode() if isinstance(name, bytes) else name
            command = self._commands[name] = getattr(self, f"_{written.lower()}")
        return command(*map(_bytes, args))

    def _get(self, key: bytes) -> bytes | None:
        return self.strings.get(key)

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bytes | None:
        if b"NX" in options and key in self.strings:
            return None
        self.strings[key] = value
        return b"OK"

    def _mget(self, *keys: bytes) -> list[bytes | None]:
        return [self.strings.get(key) for key in keys]

    def _del(self, *keys: bytes) -> int:
        return sum(any(kind.pop(key, None) is not None for kind in self._kinds) for key in keys)

    def _exists(self, *keys: bytes) -> int:
        return sum(any(key in kind for kind in self._kinds) for key in keys)

    def _time(self) -> list[bytes]:
        seconds = self._seconds()
        return [_bytes(int(seconds)), _bytes(int(seconds % 1 * 1e6))]

    def _sadd(self, key: bytes, member: bytes) -> int:
        members = self.sets.setdefault(key, set())
        added = member not in members
        members.add(member)
        return int(added)

    def _smembers(self, key: bytes) -> list[bytes]:
        return sorted(self.sets.get(key, ()))

    def _zadd(self, key: bytes, *options: bytes) -> int:
        *only, score, member = options
        scores = self.sorted_sets.setdefault(key, {})
        added = member not in scores
        if added or b"NX" not in only:
            scores[member] = float(score)
        return int(added)

    def _zrem(self, key: bytes, member: bytes) -> int:
        removed = self.sorted_sets.get(key, {}).pop(member, None) is not None
        if not self.sorted_sets.get(key):
            self.sorted_sets.pop(key, None)
        return int(removed)

    def _zrange(self, key: bytes, *_: bytes) -> list[bytes]:
        return [member for member, _ in self.by_score(key)]

    def _zrangebyscore(self, key: bytes, _: bytes, most: bytes) -> list[bytes]:
        return [member for member, score in self.by_score(key) if score <= float(most)]

    def by_score(self, key: bytes) -> list[tuple[bytes, float]]:
        """Return the members of a sorted set with their scores."""
        return sorted(self.sorted_sets.get(key, {}).items(), key=lambda entry: (entry[1], entry[0]))

    def _hget(self, key: bytes, field: bytes) -> bytes | None:
        return self.hashes.get(key, {}).get(field)

    def _hexists(self, key: bytes, field: bytes) -> int:
        return int(field in self.hashes.get(key, {}))

    def _hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        found = self.hashes.get(key, {})
        return [found.get(field) for field in fields]

    def _hgetall(self, key: bytes) -> dict[bytes, bytes]:
        return dict(self.hashes.get(key, {}))

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        given = dict(zip(pairs[::2], pairs[1::2], strict=True))
        fields = self.hashes.setdefault(key, {})
        before = len(fields)
        fields.update(given)
        return len(fields) - before

    def _hdel(self, key: bytes, *fields: bytes) -> int:
        found = self.hashes.get(key, {})
        removed = sum(found.pop(field, None) is not None for field in fields)
        if not found:
            self.hashes.pop(key, None)
        return removed

    def _hlen(self, key: bytes) -> int:
        return len(self.hashes.get(key, {}))

    def _pexpire(self, key: bytes, _: bytes) -> int:
        return self._exists(key)

    def _lpush(self, key: bytes, value: bytes) -> int:
        self._push(value)
        return 1

    def _publish(self, *_: bytes) -> int:
        return 0


class RedisClient:
    """Stands in for `redis.Redis`."""

    def __init__(self, server: RedisInMemory) -> None:
        self._server = server

    def register_script(self, text: str) -> Script:
        return Script(self, self._server.script(text))

    def pipeline(self, transaction: bool = True) -> Pipeline:
        return Pipeline(self._server)

    def run(self, text: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        return _step(lambda: self._server.run(text, keys, args))

    def get(self, key: str) -> Any:
        return self._command("GET", key)

    def set(self, key: str, value: Any, px: int | None = None) -> Any:
        return self._command("SET", key, value)

    def mget(self, keys: Sequence[str]) -> Any:
        return self._command("MGET", *keys)

    def time(self) -> tuple[int, int]:
        seconds, microseconds = self._command("TIME")
        return int(seconds), int(microseconds)

    def zadd(self, key: str, scores: Mapping[str, float]) -> Any:
        return [self._command("ZADD", key, score, member) for member, score in scores.items()]

    def zrange(self, key: str, start: int, end: int, withscores: bool = False) -> Any:
        found = _step(lambda: self._server.by_score(_bytes(key)))
        return found if withscores else [member for member, _ in found]

    def delete(self, *keys: str) -> Any:
        return self._command("DEL", *keys)

    def exists(self, *keys: str) -> Any:
        return self._command("EXISTS", *keys)

    def hget(self, key: str, field: str) -> Any:
        return self._command("HGET", key, field)

    def hmget(self, key: str, *fields: str) -> Any:
        return self._command("HMGET", key, *fields)

    def hgetall(self, key: str) -> Any:
        return self._command("HGETALL", key)

    def hset(self, key: str, field: str, value: Any) -> Any:
        return self._command("HSET", key, field, value)

    def hdel(self, key: str, *fields: str) -> Any:
        return self._command("HDEL", key, *fields)

    def publish(self, channel: str, message: str) -> Any:
        return self._command("PUBLISH", channel, message)

    def _command(self, name: str, *args: Any) -> Any:
        return _step(lambda: self._server.execute(name, *args))


class Pipeline:
    """Scripts and commands that are sent together."""

    def __init__(self, server: RedisInMemory) -> None:
        self._server = server
        self._asked: list[Command] = []

    def run(self, text: str, keys: Sequence[Any], args: Sequence[Any]) -> None:
        self._asked.append(lambda: self._server.run(text, keys, args))

    def smembers(self, key: str) -> None:
        self._asked.append(lambda: self._server.execute("SMEMBERS", key))

    def delete(self, *keys: str) -> None:
        self._asked.append(lambda: self._server.execute("DEL", *keys))

    def zadd(self, key: str, scores: Mapping[str, float], nx: bool = False) -> None:
        options = ("NX",) if nx else ()
        for member, score in scores.items():
            self._asked.append(partial(self._server.execute, "ZADD", key, *options, score, member))

    def pexpire(self, key: str, milliseconds: int) -> None:
        self._asked.append(lambda: self._server.execute("PEXPIRE", key, milliseconds))

    def zrange(self, key: str, start: int, end: int) -> None:
        self._asked.append(lambda: self._server.execute("ZRANGE", key, start, end))

    def execute(self) -> list[Any]:
        return _step(lambda: [command() for command in self._asked])


class Script:
    """A script that a client has registered."""

    def __init__(self, client: RedisClient, text: str) -> None:
        self._client = client
        self._text = text

    def __call__(
        self, keys: Sequence[Any], args: Sequence[Any] = (), client: RedisClient | Pipeline | None = None
    ) -> Any:
        return (client or self._client).run(self._text, keys, args)


def _step(command: Command) -> Any:
    return step(command, redis.ConnectionError("simulated"), is_replayed=True)


@functools.cache
def _compiled(text: str) -> Any:
    return LUA.execute(f"return function(KEYS, ARGV, redis, cjson) {text}\nend".encode())


def _bytes(value: Any) -> bytes:
    """Write an argument as a client and as Redis' Lua do."""
    if isinstance(value, bytes):
        return value
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).encode()


def _to_lua(value: Any) -> Any:
    """Convert a value for Lua; None becomes `false`, since a table cannot hold a nil."""
    if value is None:
        return False
    if isinstance(value, list):
        return LUA.table_from([_to_lua(each) for each in value])
    if isinstance(value, dict):
        return LUA.table_from({_bytes(key): _to_lua(each) for key, each in value.items()})
    return value.encode() if isinstance(value, str) else value


def _from_lua(value: Any) -> Any:
    if value is False or value is None:
        return None
    if value is True:
        return 1
    if lua51.lua_type(value) == "table":
        return [_from_lua(value[number]) for number in range(1, len(value) + 1)]
    return int(value) if isinstance(value, float) else value


def _encoded(table: Any) -> bytes:
    return orjson.dumps({_bytes(key).decode(): _bytes(value).decode() for key, value in table.items()})


CJSON = LUA.table_from({b"decode": lambda content: _to_lua(orjson.loads(content)), b"encode": _encoded})
"""As far as the scripts use it: they encode objects of texts."""

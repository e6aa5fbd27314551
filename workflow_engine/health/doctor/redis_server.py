"""Is Redis fit to hold active executions: reachable, of a known version, not full and not evicting keys?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from workflow_engine.addresses.redis import RedisAddress
from workflow_engine.errors import CacheUnavailable
from workflow_engine.health.doctor.finding import Finding, ok, problem, warning
from workflow_engine.redis.client import Redis, connect_redis, redis_errors, unless_refused
from workflow_engine.redis.presence import lists_connections
from workflow_engine.settings import Settings

OLDEST_VERSION = (6, 2)
FULL = 0.8
"""Share of `maxmemory` in use that is worth a warning."""

TRIALS = 3
"""Round trips that are measured; the quickest counts, the others waited for this process or the network."""


@dataclass(frozen=True)
class RedisFacts:
    """What a Redis reports of itself in `INFO` and `HELLO`; None if it does not. Sizes are in bytes."""

    version: str | None
    round_trip_ms: float
    mode: str | None
    """standalone, sentinel or cluster"""
    role: str | None
    """master or slave"""
    policy: str | None
    """`maxmemory-policy`, which decides what is evicted."""
    used_memory: int | None
    max_memory: int | None
    """0: no limit"""
    has_log: bool | None
    """`appendonly` is on."""
    refusal: str = ""
    """Why it refused a key of the engine; "" if it did not."""
    shows_presence: bool = True
    """Whether it tells which processes are connected, this one included."""

    @classmethod
    def of(
        cls,
        hello: Mapping[Any, Any],
        info: Mapping[str, Any],
        round_trip_ms: float,
        refusal: str = "",
        shows_presence: bool = True,
    ) -> RedisFacts:
        """Read the replies to `HELLO` and `INFO`; what `INFO` lacks is taken from `HELLO`."""
        said = {_text(name): _text(value) for name, value in hello.items()}
        log = _number(info.get("aof_enabled"))
        return cls(
            version=_text(info.get("redis_version", said.get("version"))),
            round_trip_ms=round_trip_ms,
            mode=_text(info.get("redis_mode", said.get("mode"))),
            role=_text(info.get("role", said.get("role"))),
            policy=_text(info.get("maxmemory_policy")),
            used_memory=_number(info.get("used_memory")),
            max_memory=_number(info.get("maxmemory")),
            has_log=None if log is None else bool(log),
            refusal=refusal,
            shows_presence=shows_presence,
        )


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def ask_redis(settings: Settings, address: RedisAddress, key_prefix: str) -> RedisFacts:
    """Ask one Redis, and write a key that expires at once. Raises `CacheUnavailable`.

    Commands that this user may not run are left out: many operators forbid INFO and nothing else.
    """
    client = connect_redis(settings, address)
    try:
        return ask_node(client, f"{key_prefix}health")
    finally:
        client.close()


def ask_node(client: Redis, key: str) -> RedisFacts:
    """Ask one server, and write the key, which expires at once. Raises `CacheUnavailable`."""
    command: Callable[..., Any] = client.execute_command
    with redis_errors():
        unless_refused(client.ping)  # connects, so that the round trip does not count it
        round_trip = min(_seconds(lambda: unless_refused(client.ping)) for _ in range(TRIALS))
        hello = _as_mapping(unless_refused(partial(command, "HELLO")) or {})
        info = unless_refused(client.info) or {}
        shows_presence = lists_connections(client)
    refusal = ""
    try:
        with redis_errors():
            client.set(key, 1, px=1000)
    except CacheUnavailable as error:
        refusal = str(error.__cause__)
    return RedisFacts.of(hello, info, round_trip * 1000, refusal, shows_presence)


def _as_mapping(reply: Mapping[Any, Any] | list[Any]) -> Mapping[Any, Any]:
    """Return a reply of names and values, which redis-py before 8 gets as a list of both."""
    return reply if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def judge_contexts(facts: RedisFacts) -> Iterator[Finding]:
    """Yield a finding for each question about the Redis of the contexts."""
    yield from judge_redis(facts)
    yield _presence(facts.shows_presence)


def judge_redis(facts: RedisFacts) -> Iterator[Finding]:
    """Yield a finding for each question about the Redis of contexts or messages."""
    yield from _judge_any_use(facts)
    if facts.has_log is not None:
        yield _persistence(facts.has_log)


def judge_lock_server(facts: RedisFacts, lock_expiry: float) -> Iterator[Finding]:
    """Yield a finding for each question about one of several servers that hold only locks."""
    yield from _judge_any_use(facts)
    yield ok(
        "May it be restarted?",
        f"yes, {lock_expiry:g} s after it stopped, when every lock that it could lose has expired",
    )


def _judge_any_use(facts: RedisFacts) -> Iterator[Finding]:
    yield ok(REACHABLE, f"yes, round trip {facts.round_trip_ms:.1f} ms")
    if facts.version is not None:
        yield _version(facts.version)
    yield _writable(facts)
    if facts.policy is None:
        yield _unreported()
    else:
        yield _eviction(facts.policy)
    if facts.used_memory is not None and facts.max_memory is not None:
        yield _memory(facts.used_memory, facts.max_memory)


REACHABLE = "Can it be reached?"


def unreachable(error: Exception, variable: str) -> Finding:
    """Return the only finding about a Redis that cannot be asked; `variable` is the setting that names it."""
    return problem(REACHABLE, f"no: {error}", f"start it, or correct {variable} (host, port, password)")


def _unreported() -> Finding:
    oldest = ".".join(map(str, OLDEST_VERSION))
    return warning(
        "Does it report how it keeps data?",
        "no, this user may not run INFO, or it reports too little",
        "allow its user +info; or check yourself that maxmemory-policy is noeviction, appendonly is on and "
        f"its version is {oldest} or newer",
    )


def _version(version: str) -> Finding:
    question = "Is its version supported?"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) >= OLDEST_VERSION:
        return ok(question, f"yes, {version}")
    oldest = ".".join(map(str, OLDEST_VERSION))
    return problem(question, f"no, it is {version}", f"upgrade to Redis {oldest} or newer, or to Valkey")


def _writable(facts: RedisFacts) -> Finding:
    question = "Is it writable?"
    if facts.mode == "cluster":
        return problem(
            question,
            "not by this URL, it is a node of a Redis Cluster",
            "for contexts, name it redis+cluster://HOST:PORT; as a broker, use a single primary or Sentinel",
        )
    if facts.role not in ("master", None):
        return problem(question, "no, it is a replica", "name the primary instead")
    if not facts.refusal:
        return ok(question, "yes")
    return problem(
        question,
        f"no: {facts.refusal}",
        "if it is full, make room; if its user lacks permissions (NOPERM), allow it +@read +@write "
        "+@scripting +@pubsub +@connection for the keys and channels of the engine and of Celery",
    )


def _eviction(policy: str) -> Finding:
    question = "Does it keep what it stores?"
    if policy == "noeviction":
        return ok(question, "yes, maxmemory-policy noeviction")
    return problem(
        question,
        f"no, maxmemory-policy is {policy}: queues, locks and contexts may be evicted",
        "give the engine a Redis of its own; or set maxmemory-policy noeviction here, unless it also serves "
        "as a cache, whose writes would fail once it is full",
    )


def _memory(used_memory: int, max_memory: int) -> Finding:
    question = "Does it have memory left?"
    used = _megabytes(used_memory)
    if not max_memory:
        return ok(question, f"{used} used, no limit is set")
    answer = f"{used} of {_megabytes(max_memory)} used"
    if used_memory < FULL * max_memory:
        return ok(question, answer)
    return warning(
        question, answer, "raise maxmemory, or find out what fills it; a full Redis accepts no messages"
    )


def _persistence(has_log: bool) -> Finding:
    question = "Does its data survive a restart?"
    if has_log:
        return ok(question, "yes, appendonly is on")
    return warning(
        question,
        "not all of it, appendonly is off",
        "set appendonly yes; without it executions are rescued from Postgres, but messages of your own tasks "
        "are lost",
    )


def _presence(lists_connections: bool) -> Finding:
    question = "Does it tell which workers are alive?"
    if lists_connections:
        return ok(
            question, "yes, CLIENT LIST has their connections: the nodes of a dead one go on in seconds"
        )
    return warning(
        question,
        "no, this user may not run CLIENT SETNAME, CLIENT LIST and INFO, or a proxy stands in between; the "
        "nodes of a dead worker go on when their locks expire",
        "allow its user +client and +info, or connect without the proxy",
    )


def _megabytes(size: int) -> str:
    return f"{size / 1_048_576:,.1f} MiB"

"""Is Redis fit to hold what is active: reachable, of a known version, and neither full nor forgetful."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workflow_engine.doctor.finding import Finding, ok, problem, warning
from workflow_engine.redis_connection import connect_redis, redis_errors
from workflow_engine.settings import Settings

OLDEST_VERSION = (6, 2)
FULL = 0.8
"""Share of `maxmemory` in use from which on somebody should look."""

TRIALS = 3
"""The quickest of so many round trips counts: the others waited for this process or the network."""


@dataclass(frozen=True)
class RedisFacts:
    """What a Redis says about itself in `INFO`. Sizes are in bytes."""

    version: str
    round_trip_ms: float
    mode: str
    """standalone, sentinel or cluster"""
    role: str
    """master or slave"""
    policy: str
    """of eviction"""
    used_memory: int
    max_memory: int
    """0: no limit"""
    has_log: bool
    """`appendonly` is on."""

    @classmethod
    def of(cls, info: Mapping[str, Any], round_trip_ms: float) -> RedisFacts:
        return cls(
            version=str(info.get("redis_version", "0")),
            round_trip_ms=round_trip_ms,
            mode=str(info.get("redis_mode", "standalone")),
            role=str(info.get("role", "master")),
            policy=str(info.get("maxmemory_policy", "unknown")),
            used_memory=int(info.get("used_memory", 0)),
            max_memory=int(info.get("maxmemory", 0)),
            has_log=bool(int(info.get("aof_enabled", 0))),
        )


def ask_redis(settings: Settings, url: str) -> RedisFacts:
    """Ask one Redis. Raises `CacheUnavailable`."""
    client = connect_redis(settings, url)
    try:
        with redis_errors():
            client.ping()  # the round trip is not to count the connecting
            round_trip = min(_seconds(client.ping) for _ in range(TRIALS))
            return RedisFacts.of(client.info(), round_trip * 1000)
    finally:
        client.close()


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def judge_redis(facts: RedisFacts) -> Iterator[Finding]:
    """What the facts mean."""
    yield from _judge_any_use(facts)
    yield _persistence(facts)


def judge_lock_server(facts: RedisFacts, lock_expiry: float) -> Iterator[Finding]:
    """What the facts mean for one of several servers that hold nothing but locks."""
    yield from _judge_any_use(facts)
    yield ok(
        "May it be restarted?",
        f"yes, {lock_expiry:g} s after it stopped, when it has no lock left that it could forget",
    )


def _judge_any_use(facts: RedisFacts) -> Iterator[Finding]:
    yield ok(REACHABLE, f"yes, in {facts.round_trip_ms:.1f} ms there and back")
    yield _version(facts)
    yield _writable(facts)
    yield _eviction(facts)
    yield _memory(facts)


REACHABLE = "Can it be reached?"


def unreachable(error: Exception, variable: str) -> Finding:
    """The only finding where Redis cannot be asked; `variable` is the one that names it."""
    return problem(REACHABLE, f"no: {error}", f"start it, or correct {variable} (host, port, password)")


def _version(facts: RedisFacts) -> Finding:
    question = "Is its version supported?"
    if tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit()) >= OLDEST_VERSION:
        return ok(question, f"yes, {facts.version}")
    oldest = ".".join(map(str, OLDEST_VERSION))
    return problem(
        question, f"no, it is {facts.version}", f"upgrade to Redis {oldest} or newer, or to Valkey"
    )


def _writable(facts: RedisFacts) -> Finding:
    question = "Can it be written to?"
    if facts.mode == "cluster":
        return problem(question, "not by Celery, it is a Redis Cluster", "use a single primary, or Sentinel")
    if facts.role != "master":
        return problem(question, "no, it is a replica", "name the primary in its place")
    return ok(question, "yes")


def _eviction(facts: RedisFacts) -> Finding:
    question = "Does it keep what it is given?"
    if facts.policy == "noeviction":
        return ok(question, "yes, maxmemory-policy noeviction")
    return problem(
        question,
        f"no, maxmemory-policy is {facts.policy}: queues, locks and contexts may vanish",
        "set maxmemory-policy noeviction (CONFIG SET, and in redis.conf), or use a Redis of its own",
    )


def _memory(facts: RedisFacts) -> Finding:
    question = "Has it memory left?"
    used = _megabytes(facts.used_memory)
    if not facts.max_memory:
        return ok(question, f"{used} used, no limit is set")
    answer = f"{used} of {_megabytes(facts.max_memory)} used"
    if facts.used_memory < FULL * facts.max_memory:
        return ok(question, answer)
    return warning(
        question, answer, "raise maxmemory or find out who fills it; a full Redis takes no messages"
    )


def _persistence(facts: RedisFacts) -> Finding:
    question = "Does it survive a restart?"
    if facts.has_log:
        return ok(question, "yes, appendonly")
    return warning(
        question,
        "not with all it holds, appendonly is off",
        "set appendonly yes; nothing is lost for good without it, but all has to come from Postgres again",
    )


def _megabytes(size: int) -> str:
    return f"{size / 1_048_576:,.1f} MiB"

"""Where locks are kept: beside the contexts in the one Redis, or in a quorum of several independent ones.

Several make the lock survive the loss of a minority of them, by the algorithm of Redlock. Nothing depends on
it being safe either: a worker that holds a lock beside somebody else is refused by the fence when it commits.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import redis

from workflow_engine.errors import CacheUnavailable
from workflow_engine.redis_connection import connect_impatiently, load_script, redis_errors, script_text
from workflow_engine.settings import Settings, redis_place

log = logging.getLogger(__name__)

CLOCK_DRIFT = 0.01
CLOCK_DRIFT_MS = 2
"""Clocks of different servers run apart by 1 % of the expiry at most; 2 ms more, since Redis counts in ms."""

ATTEMPTS = 3
SPLIT_PAUSE = 0.05
"""Seconds at most between two attempts to take a lock of which nobody has got a majority."""

PATIENCE = 1 / 50
SHORTEST_PATIENCE = 0.05
"""How long one of several servers is waited for: a share of the expiry, but so many seconds at least."""

REST = 10
"""A server that has kept us waiting is left alone for so many times as long, so that it costs a tenth of
the time at most. One that refuses connections costs nothing, and is soon asked again."""

Command = tuple[str | bytes | int, ...]
Answer = TypeVar("Answer")


class LockServers(Protocol):
    """Keeps locks by key. All methods raise `CacheUnavailable` if it cannot be told who holds a lock."""

    @property
    def keeps_contexts(self) -> bool:
        """The contexts are there as well, so that one script can serve both."""

    def acquire(self, key: str, value: bytes) -> bytes:
        """Take a lock unless somebody else holds it; the value that holds it now. Safe to run again."""

    def renew(self, locks: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Renew locks given as key and value, and take those again that nobody holds.

        False for each that is known to be somebody else's.
        """

    def release(self, key: str, value: bytes) -> bool:
        """Give a lock up; True if it was held by this value until now."""

    def value_of(self, key: str) -> bytes | None:
        """The value that holds a lock, or None if nobody does."""


def connect_lock_servers(beside: redis.Redis, settings: Settings) -> LockServers:
    """The servers that the settings ask for; `beside` is the client of the Redis that has the contexts."""
    expiry_ms = round(settings.lock_expiry * 1000)
    if not settings.lock_urls:
        return OneServer(beside, expiry_ms)
    patience = min(settings.redis_timeout, max(SHORTEST_PATIENCE, settings.lock_expiry * PATIENCE))
    return Quorum([QuorumMember(url, patience) for url in settings.lock_urls], expiry_ms)


class OneServer:
    """Locks beside the contexts."""

    keeps_contexts = True

    def __init__(self, client: redis.Redis, expiry_ms: int) -> None:
        self._client = client
        self._expiry_ms = expiry_ms
        self._take = load_script(client, "take")
        self._release = load_script(client, "release")

    def acquire(self, key: str, value: bytes) -> bytes:
        with redis_errors():
            holder: bytes = self._take(keys=[key], args=[value, self._expiry_ms])
        return holder

    def renew(self, locks: Sequence[tuple[str, bytes]]) -> list[bool]:
        with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            for key, value in locks:
                self._take(keys=[key], args=[value, self._expiry_ms], client=pipeline)
            holders = pipeline.execute()
        return [holder == value for holder, (_, value) in zip(holders, locks, strict=True)]

    def release(self, key: str, value: bytes) -> bool:
        with redis_errors():
            return bool(self._release(keys=[key], args=[value]))

    def value_of(self, key: str) -> bytes | None:
        with redis_errors():
            value = self._client.get(key)
        return value if isinstance(value, bytes) else None


class Quorum:
    """Redlock: whoever holds a lock on most of several independent servers holds it.

    The algorithm is that of https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/: the
    same value is set on all servers; it counts if a majority has taken it while enough of the expiry is left,
    drift of the clocks taken off; and a claim that failed is taken back everywhere. A server that does not
    answer has no say: without a majority of answers nobody knows who holds a lock, which is not "held".
    """

    keeps_contexts = False

    def __init__(self, members: Sequence[QuorumMember], expiry_ms: int) -> None:
        self._members = members
        self._majority = len(members) // 2 + 1
        self._expiry_ms = expiry_ms
        self._take = script_text("take")
        self._release = script_text("release")

    def acquire(self, key: str, value: bytes) -> bytes:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, SPLIT_PAUSE))  # noqa: S311 - guards no secret
            started = time.monotonic()
            holders = [answer for (answer,) in self._ask(self._taking(key, value))]
            if self._has_majority(holders, value) and self._is_valid_since(started):
                return value
            self._ask(self._releasing(key, value))
            self._check_answers(holders)
            others = [holder for holder in holders if holder != value]
            if (holder := self._majority_of(others)) is not None:
                return holder
        raise CacheUnavailable(f"no claim to the lock got a majority of {len(self._members)} lock servers")

    def renew(self, locks: Sequence[tuple[str, bytes]]) -> list[bool]:
        answers = self._ask(*(self._taking(key, value) for key, value in locks))
        self._check_answers(answers)
        is_ours = []
        for index, (key, value) in enumerate(locks):
            others = [holders for holders in answers if holders[index] != value]
            is_ours.append(len(others) < self._majority)
            if not is_ours[-1]:
                self._ask(self._releasing(key, value))  # what we still have of it is in its holder's way
        return is_ours

    def release(self, key: str, value: bytes) -> bool:
        released = [answer for (answer,) in self._ask(self._releasing(key, value))]
        self._check_answers(released)
        return self._has_majority(released, 1)

    def value_of(self, key: str) -> bytes | None:
        values = [answer for (answer,) in self._ask(("GET", key))]
        self._check_answers(values)
        if (holder := self._majority_of(values)) is not None:
            return holder
        most = max((values.count(value) for value in values if value is not None), default=0)
        if most and most + len(self._members) - len(values) >= self._majority:
            raise CacheUnavailable("whether the lock is held depends on lock servers that do not answer")
        return None

    def _taking(self, key: str, value: bytes) -> Command:
        return ("EVAL", self._take, 1, key, value, self._expiry_ms)

    def _releasing(self, key: str, value: bytes) -> Command:
        return ("EVAL", self._release, 1, key, value)

    def _has_majority(self, answers: Sequence[Any], wanted: Any) -> bool:
        return answers.count(wanted) >= self._majority

    def _majority_of(self, values: Sequence[bytes | None]) -> bytes | None:
        votes = Counter(values).items()
        return next((value for value, count in votes if count >= self._majority), None)

    def _is_valid_since(self, started: float) -> bool:
        """Whether a lock taken since then lasts until it is renewed, every third of its expiry."""
        elapsed_ms = (time.monotonic() - started) * 1000
        validity_ms = self._expiry_ms - elapsed_ms - self._expiry_ms * CLOCK_DRIFT - CLOCK_DRIFT_MS
        return validity_ms > self._expiry_ms / 3

    def _check_answers(self, answers: Sequence[object]) -> None:
        """Raise `CacheUnavailable` unless a majority has answered."""
        if len(answers) < self._majority:
            troubles = "; ".join(member.trouble for member in self._members if member.trouble)
            share = f"{len(answers)} of {len(self._members)}"
            raise CacheUnavailable(f"{share} lock servers answer, {self._majority} have to: {troubles}")

    def _ask(self, *commands: Command) -> list[list[Any]]:
        """The answers of each server that gives all of them; all are asked before the first is waited for."""
        asked = [(member, member.send(commands)) for member in self._members]
        received = [member.receive(connection, len(commands)) for member, connection in asked if connection]
        return [answers for answers in received if answers is not None]


class QuorumMember:
    """One of several lock servers, waited for only shortly, since the others can do without it."""

    def __init__(self, url: str, patience: float) -> None:
        self._place = redis_place(url)
        self._patience = patience
        self._pool = connect_impatiently(url, patience).connection_pool
        self._left_alone_until = 0.0
        self.trouble = ""
        """Why it did not answer the last time; empty if it did."""

    def send(self, commands: Sequence[Command]) -> Any:
        """Send commands; gives the connection on which to receive their answers, or None if it is away."""
        if time.monotonic() < self._left_alone_until:
            return None
        return self._timed(lambda: self._sent(commands))

    def receive(self, connection: Any, count: int) -> list[Any] | None:
        """Receive the answers to what was sent, or None if they cannot be had in time."""
        answers = self._timed(lambda: [connection.read_response() for _ in range(count)])
        if answers is None:
            connection.disconnect()  # or what was not read would be taken for the answer to the next question
        elif self.trouble:
            log.info("Lock server %s answers again.", self._place)
            self.trouble = ""
        self._pool.release(connection)
        return answers

    def _sent(self, commands: Sequence[Command]) -> Any:
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
        except redis.RedisError:
            self._pool.release(connection)
            raise
        return connection

    def _timed(self, step: Callable[[], Answer]) -> Answer | None:
        """None if the step fails; the server is then left alone in proportion to the time that it took."""
        started = time.monotonic()
        try:
            return step()
        except redis.RedisError as error:
            now = time.monotonic()
            waited = min(now - started, self._patience)  # more of it was this process's own sleep
            self._left_alone_until = now + REST * waited
            if not self.trouble:
                log.warning(
                    "Lock server %s is away, and does not count until it is back: %s", self._place, error
                )
            self.trouble = f"{self._place}: {type(error).__name__}: {error}"
            return None

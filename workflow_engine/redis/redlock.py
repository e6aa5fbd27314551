"""Redlock: a lock that most of several independent servers hold survives the loss of the others.

Nothing depends on it being safe: if two workers hold the same lock, the fence refuses one of them when it
commits.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis

from workflow_engine.addresses.redis import RedisAddress
from workflow_engine.errors import CacheUnavailable
from workflow_engine.redis.client import connect_without_retries, script_text
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

CLOCK_DRIFT = 0.01
CLOCK_DRIFT_MS = 2
"""Clocks of different servers drift by at most 1 % of the expiry, and 2 ms since Redis counts in ms."""

ATTEMPTS = 3
SPLIT_PAUSE = 0.05
"""Seconds at most between two attempts to take a lock of which no claim got a majority."""

REST = 10
"""A server is left alone for this multiple of the time we waited for it, so it costs at most a tenth of the
time. A server that refuses connections costs nothing, and is soon asked again."""

Command = tuple[str | bytes | int, ...]
Answer = TypeVar("Answer")


class Quorum:
    """Redlock: a claim that holds a lock on most of several independent servers holds it.

    The algorithm is that of https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/: the
    same value is set on all servers. It counts if a majority has taken it while enough of the expiry is left,
    minus the drift of the clocks. A claim that failed is removed everywhere. A server that does not respond
    does not count: without a majority of replies the holder of a lock is unknown, which is not "held".
    """

    keeps_contexts = False

    def __init__(self, members: Sequence[QuorumMember], expiry_ms: int) -> None:
        self._members = members
        self._majority = len(members) // 2 + 1
        self._expiry_ms = expiry_ms
        self._take = script_text("acquire_lock")
        self._release = script_text("free_lock")

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
                self._ask(self._releasing(key, value))  # the rest of our claim is in its holder's way
        return is_ours

    def release(self, key: str, value: bytes) -> bool:
        released = [answer for (answer,) in self._ask(self._releasing(key, value))]
        self._check_answers(released)
        return self._has_majority(released, 1)

    def values_of(self, keys: Sequence[str]) -> list[bytes | None]:
        answers = self._ask(*(("GET", key) for key in keys))
        self._check_answers(answers)
        return [self._holder_among([values[index] for values in answers]) for index in range(len(keys))]

    def seconds_left(self, keys: Sequence[str]) -> list[float]:
        answers = self._ask(*(("PTTL", key) for key in keys))
        self._check_answers(answers)
        return [max(0, *(left[index] for left in answers)) / 1000 for index in range(len(keys))]

    def _holder_among(self, values: Sequence[bytes | None]) -> bytes | None:
        """Return the value that most servers have.

        Raises `CacheUnavailable` if servers that do not respond would decide.
        """
        if (holder := self._majority_of(values)) is not None:
            return holder
        most = max((values.count(value) for value in values if value is not None), default=0)
        if most and most + len(self._members) - len(values) >= self._majority:
            raise CacheUnavailable("whether the lock is held depends on lock servers that do not respond")
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
        """Return whether a lock taken since then lasts until its renewal, every third of its expiry."""
        elapsed_ms = (time.monotonic() - started) * 1000
        validity_ms = self._expiry_ms - elapsed_ms - self._expiry_ms * CLOCK_DRIFT - CLOCK_DRIFT_MS
        return validity_ms > self._expiry_ms / 3

    def _check_answers(self, answers: Sequence[object]) -> None:
        """Raise `CacheUnavailable` unless a majority has responded."""
        if len(answers) < self._majority:
            troubles = "; ".join(member.trouble for member in self._members if member.trouble)
            share = f"{len(answers)} of {len(self._members)}"
            raise CacheUnavailable(f"{share} lock servers respond, {self._majority} must: {troubles}")

    def _ask(self, *commands: Command) -> list[list[Any]]:
        """Return the replies of each server that sent all of them; every server is asked before any wait."""
        asked = [(member, member.send(commands)) for member in self._members]
        received = [member.receive(connection, len(commands)) for member, connection in asked if connection]
        return [answers for answers in received if answers is not None]


class QuorumMember:
    """One of several lock servers; the wait for it is short, since the others can do without it."""

    def __init__(self, address: RedisAddress, timeout: float) -> None:
        self._place = address.place
        self._timeout = timeout
        self._pool = connect_without_retries(address, timeout).connection_pool
        self._left_alone_until = 0.0
        self.trouble = ""
        """Why it did not respond the last time; empty if it did."""

    def send(self, commands: Sequence[Command]) -> Any:
        """Send commands. Return the connection for their replies, or None if the server is away."""
        if time.monotonic() < self._left_alone_until:
            return None
        return self._timed(lambda: self._sent(commands))

    def receive(self, connection: Any, count: int) -> list[Any] | None:
        """Return the replies to the commands that were sent; None if they did not come in time."""
        answers = self._timed(lambda: [connection.read_response() for _ in range(count)])
        if answers is None:
            connection.disconnect()  # or an unread reply would be taken for that of the next command
        elif self.trouble:
            log.info(
                "Lock server %s is available again.",
                self._place,
                extra=log_fields(LogEvent.LOCK_SERVER_RECOVERED, server=self._place),
            )
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
        """Run the step. Return None if it fails; the server is then left alone in proportion to the wait."""
        started = time.monotonic()
        try:
            return step()
        except redis.RedisError as error:
            now = time.monotonic()
            waited = min(now - started, self._timeout)  # anything above was this process's own sleep
            self._left_alone_until = now + REST * waited
            if not self.trouble:
                log.warning(
                    "Lock server %s is unavailable, and does not count until it responds: %s",
                    self._place,
                    error,
                    extra=log_fields(LogEvent.LOCK_SERVER_LOST, server=self._place, error=error),
                )
            self.trouble = f"{self._place}: {type(error).__name__}: {error}"
            return None

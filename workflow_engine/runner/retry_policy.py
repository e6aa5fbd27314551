"""When a failed node is retried, if at all: a node's `retry` turned into waits and a yes or no.

This module never sleeps and reads no clock. A wait is a number that the engine stores as a wait state. So a
schedule over weeks costs no more than one over milliseconds, and a test needs no clock.
"""

from __future__ import annotations

import random as random_numbers
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workflow_engine.definition.workflow import (
    ALL_ERRORS,
    LONGEST_RETRY_WAIT,
    Retry,
    RetryPolicy,
    RetryRule,
)
from workflow_engine.nodes.results import NodeError


@dataclass(frozen=True)
class NextAttempt:
    """The attempt that follows a failed one."""

    wait_ms: int
    """Milliseconds until then."""
    rule: int | None = None
    """The position of the rule that allows it, if `retry` is a list of rules."""


def next_attempt(
    retry: Retry | tuple[RetryRule, ...], error: NodeError, attempt: int, failures: Sequence[int] = ()
) -> NextAttempt | None:
    """Return the attempt that follows attempt `attempt` (from 1), which failed with this error, if any.

    Of several rules the first that names the error decides. It counts its own errors only: `failures` holds
    those before this attempt by rule, and may be shorter than the rules. When its attempts are used up the
    node has failed, and no later rule is asked.
    """
    if isinstance(retry, Retry):
        wait = next_wait_ms(retry, attempt, error.retry_after) if is_retryable(retry, error) else None
        return None if wait is None else NextAttempt(wait)
    for position, rule in enumerate(retry):
        if rule.on == ALL_ERRORS or any(_matches(name, error) for name in rule.on):
            failed_before = failures[position] if position < len(failures) else 0
            wait = next_wait_ms(rule, failed_before + 1, error.retry_after)
            return None if wait is None else NextAttempt(wait, position)
    return None


def total_attempts(retry: RetryPolicy) -> int:
    """Return how many times a node may run, the first attempt included.

    A schedule has a wait between any two attempts, so it allows one more than it has waits; a
    `maxAttempts` beside it can only lower that.
    """
    if retry.schedule is None:
        return retry.max_attempts
    scheduled = len(retry.schedule) + 1
    return min(scheduled, retry.max_attempts) if "max_attempts" in retry.model_fields_set else scheduled


def next_wait_ms(
    retry: RetryPolicy,
    attempt: int,
    retry_after: float | None = None,
    *,
    random: Callable[[], float] = random_numbers.random,
) -> int | None:
    """Return the milliseconds to wait after attempt `attempt` (from 1) failed; None if it was the last one.

    Without a schedule the n-th wait is `waitDuration · multiplier^(n-1)`, or `waitDuration` each time if
    `exponentialBackoff` is false, and never longer than `maxWaitDuration`. With `jitter` at least half of
    a wait is kept and the rest is random: "equal jitter" in Marc Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015. `random` returns numbers from 0 up to, but not including, 1.

    If the other side asked to wait for `retry_after` seconds, the wait is no shorter, up to
    `maxWaitDuration`.
    """
    if attempt >= total_attempts(retry):
        return None
    wait = retry.schedule[attempt - 1] if retry.schedule is not None else _by_formula(retry, attempt)
    wait = wait - int(wait / 2 * random()) if retry.jitter else wait
    return wait if retry_after is None else max(wait, int(min(retry_after * 1000, _ceiling(retry))))


def is_retryable(retry: Retry, error: NodeError) -> bool:
    """Return whether this error may be retried: `retryOn` matches it and `ignoreExceptions` does not.

    Both name exception classes, of which base classes count, or HTTP statuses (`503`, `5xx`). An
    empty `retryOn` matches every error; where both match, `ignoreExceptions` wins.
    """
    if any(_matches(name, error) for name in retry.ignore_exceptions):
        return False
    return not retry.retry_on or any(_matches(name, error) for name in retry.retry_on)


def _by_formula(retry: RetryPolicy, attempt: int) -> int:
    ceiling = _ceiling(retry)
    if not retry.exponential_backoff or not retry.wait_duration:
        return min(retry.wait_duration, ceiling)
    try:
        return int(min(retry.wait_duration * float(retry.multiplier) ** (attempt - 1), ceiling))
    except OverflowError:  # after hundreds of attempts, long past the ceiling
        return ceiling


def _ceiling(retry: RetryPolicy) -> int:
    return LONGEST_RETRY_WAIT if retry.max_wait_duration is None else retry.max_wait_duration


def _matches(name: str, error: NodeError) -> bool:
    if name[0].isdigit():
        return re.fullmatch(name.replace("x", r"\d"), str(error.status)) is not None
    # A class may be named in full (`httpx.ConnectError`) or by its last part (`ConnectError`).
    return any(known == name or known.endswith(f".{name}") for known in (error.type, *error.classes))

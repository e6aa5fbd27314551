"""When a failed node is tried again, if at all: a node's `retry` turned into waits and a yes or no.

Nothing here sleeps or asks for the time. A wait is a number that the engine stores as a wait state, so
a schedule over weeks costs no more than one over milliseconds, and a test needs no clock.
"""

from __future__ import annotations

import random as random_numbers
import re
from collections.abc import Callable

from workflow_engine.definition import LONGEST_RETRY_WAIT, Retry
from workflow_engine.node_types import NodeError


def attempts_in_all(retry: Retry) -> int:
    """How often a node is run at most, the first attempt included.

    A schedule has a wait between any two attempts, so it allows one more than it has waits; a
    `maxAttempts` that is given beside it may only lower that.
    """
    if retry.schedule is None:
        return retry.max_attempts
    scheduled = len(retry.schedule) + 1
    return min(scheduled, retry.max_attempts) if "max_attempts" in retry.model_fields_set else scheduled


def next_wait_ms(
    retry: Retry, attempt: int, *, random: Callable[[], float] = random_numbers.random
) -> int | None:
    """Milliseconds to wait after attempt `attempt` (from 1) failed; None if it was the last one.

    Without a schedule the n-th wait is `waitDuration · multiplier^(n-1)`, or `waitDuration` each time if
    `exponentialBackoff` is false, and never longer than `maxWaitDuration`. With `jitter` at least half of
    a wait is kept and the rest is random: "equal jitter" in Marc Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015. `random` gives numbers from 0 up to, but not including, 1.
    """
    if attempt >= attempts_in_all(retry):
        return None
    wait = retry.schedule[attempt - 1] if retry.schedule is not None else _by_formula(retry, attempt)
    return wait - int(wait / 2 * random()) if retry.jitter else wait


def is_retryable(retry: Retry, error: NodeError) -> bool:
    """Whether this error may be tried again: `retryOn` wants it and `ignoreExceptions` does not object.

    Both name exception classes, of which base classes count, or HTTP statuses (`503`, `5xx`). An
    empty `retryOn` wants every error; where both match, `ignoreExceptions` wins.
    """
    if any(_matches(name, error) for name in retry.ignore_exceptions):
        return False
    return not retry.retry_on or any(_matches(name, error) for name in retry.retry_on)


def _by_formula(retry: Retry, attempt: int) -> int:
    ceiling = LONGEST_RETRY_WAIT if retry.max_wait_duration is None else retry.max_wait_duration
    if not retry.exponential_backoff or not retry.wait_duration:
        return min(retry.wait_duration, ceiling)
    try:
        return int(min(retry.wait_duration * float(retry.multiplier) ** (attempt - 1), ceiling))
    except OverflowError:  # hundreds of attempts later, the ceiling was reached long ago
        return ceiling


def _matches(name: str, error: NodeError) -> bool:
    if name[0].isdigit():
        return re.fullmatch(name.replace("x", r"\d"), str(error.http_status)) is not None
    # A class may be named in full (`httpx.ConnectError`) or by the end of that (`ConnectError`).
    return any(known == name or known.endswith(f".{name}") for known in (error.type, *error.classes))

"""A policy says which errors deserve another attempt, and how long to wait for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_engine.definition.workflow import LONGEST_RETRY_WAIT, Retry, RetryRule
from workflow_engine.nodes.results import NodeError, failure, failure_of
from workflow_engine.runner.retry_policy import (
    NextAttempt,
    is_retryable,
    next_attempt,
    next_wait_ms,
    total_attempts,
)

ALMOST_ONE = 1 - 2**-53
WEEK = 7 * 24 * 3600 * 1000


def waits(retry: Retry, random: float = 0.0) -> list[int]:
    """Return every wait until no attempt is left."""
    found = []
    while (wait := next_wait_ms(retry, len(found) + 1, random=lambda: random)) is not None:
        found.append(wait)
    return found


def retry(**given: Any) -> Retry:
    return Retry.model_validate(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [1000, 2000]),
        ({"maxAttempts": 1}, []),
        ({"maxAttempts": 4, "waitDuration": 0}, [0, 0, 0]),
        ({"maxAttempts": 4, "exponentialBackoff": False, "waitDuration": 200}, [200, 200, 200]),
        ({"maxAttempts": 5, "multiplier": 3, "maxWaitDuration": 10_000}, [1000, 3000, 9000, 10_000]),
        ({"maxAttempts": 4, "multiplier": 1.5, "waitDuration": 1}, [1, 1, 2]),
        ({"waitDuration": 500, "maxWaitDuration": 100, "exponentialBackoff": False}, [100, 100]),
    ],
)
def test_waits_follow_the_formula(given: dict[str, Any], expected: list[int]) -> None:
    assert waits(retry(**given)) == expected


def test_a_schedule_gives_the_waits_themselves_up_to_weeks() -> None:
    assert waits(retry(schedule=[0, 60_000, 8 * WEEK])) == [0, 60_000, 8 * WEEK]


@pytest.mark.parametrize(("max_attempts", "expected"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_a_schedule_may_be_cut_short_but_not_prolonged(max_attempts: int, expected: int) -> None:
    cut = retry(schedule=[1, 2], maxAttempts=max_attempts)

    assert total_attempts(cut) == expected
    assert waits(cut) == [1, 2][: expected - 1]


def test_jitter_keeps_half_of_each_wait_and_draws_the_rest() -> None:
    spread = retry(maxAttempts=4, jitter=True)

    assert waits(spread, random=0.0) == [1000, 2000, 4000]
    assert waits(spread, random=0.5) == [750, 1500, 3000]
    assert waits(spread, random=ALMOST_ONE) == [501, 1001, 2001]
    assert waits(retry(schedule=[100], jitter=True), random=0.5) == [75]


@pytest.mark.parametrize(
    ("given", "retry_after", "expected"),
    [
        ({}, None, 1000),
        ({}, 0.2, 1000),
        ({}, 30, 30_000),
        ({"waitDuration": 0}, 1.5, 1500),
        ({"maxWaitDuration": 5000}, 30, 5000),
        ({"schedule": [10]}, 30, 30_000),
        ({}, 1e300, LONGEST_RETRY_WAIT),
        ({"maxAttempts": 1}, 30, None),
    ],
)
def test_a_wait_is_no_shorter_than_the_other_side_asks_up_to_its_ceiling(
    given: dict[str, Any], retry_after: float | None, expected: int | None
) -> None:
    assert next_wait_ms(retry(**given), 1, retry_after) == expected


RETRIES = st.builds(
    retry,
    maxAttempts=st.integers(1, 10**6),
    waitDuration=st.integers(0, LONGEST_RETRY_WAIT),
    exponentialBackoff=st.booleans(),
    multiplier=st.floats(1, 1e18) | st.integers(1, 2**63 - 1),
    maxWaitDuration=st.none() | st.integers(0, LONGEST_RETRY_WAIT),
    jitter=st.booleans(),
    schedule=st.none() | st.lists(st.integers(0, LONGEST_RETRY_WAIT), min_size=1, max_size=4),
)


@given(RETRIES, st.integers(1, 10**6), st.floats(0, ALMOST_ONE))
def test_a_wait_stays_within_its_bounds_and_there_are_as_many_as_attempts_less_one(
    retry: Retry, attempt: int, random: float
) -> None:
    wait = next_wait_ms(retry, attempt, random=lambda: random)
    without_jitter = next_wait_ms(retry.model_copy(update={"jitter": False}), attempt)

    assert (wait is None) == (without_jitter is None) == (attempt >= total_attempts(retry))
    if wait is not None and without_jitter is not None:
        assert without_jitter / 2 <= wait <= without_jitter <= LONGEST_RETRY_WAIT
        assert retry.jitter or wait == without_jitter
        if retry.schedule is None:
            ceiling = LONGEST_RETRY_WAIT if retry.max_wait_duration is None else retry.max_wait_duration
            assert min(retry.wait_duration, ceiling) <= without_jitter <= ceiling


@given(RETRIES.filter(lambda retry: retry.schedule is None), st.integers(1, 1000))
def test_no_wait_of_the_formula_is_shorter_than_the_one_before(retry: Retry, attempt: int) -> None:
    steady = retry.model_copy(update={"jitter": False})
    first, second = next_wait_ms(steady, attempt), next_wait_ms(steady, attempt + 1)

    assert second is None or (first is not None and first <= second)


class ShopError(Exception):
    """An error of a user's own code."""


class CardDeclined(ShopError):
    """An error below that one."""


def error_of(raised: Exception) -> NodeError:
    error = failure_of(raised).error
    assert error is not None
    return error


DECLINED = error_of(CardDeclined("no funds"))
TIMED_OUT = error_of(TimeoutError("too slow"))


def answered(status: int) -> NodeError:
    return NodeError("HTTP_ERROR", f"answered {status}", status=status)


RULES = tuple(
    RetryRule.model_validate(rule)
    for rule in (
        {"on": ["CardDeclined"], "maxAttempts": 1},
        {"on": ["429", "OSError"], "maxAttempts": 3, "waitDuration": 100},
        {"on": ["5xx"], "schedule": [7, 8]},
    )
)


@pytest.mark.parametrize(
    ("error", "failures", "expected"),
    [
        (DECLINED, (), None),
        (answered(429), (), NextAttempt(100, rule=1)),
        (answered(429), (0, 1), NextAttempt(200, rule=1)),
        (answered(429), (9, 2, 9), None),
        (TIMED_OUT, (0, 1), NextAttempt(200, rule=1)),
        (answered(503), (0, 2), NextAttempt(7, rule=2)),
        (answered(503), (0, 2, 1), NextAttempt(8, rule=2)),
        (answered(503), (0, 0, 2), None),
        (answered(404), (), None),
    ],
)
def test_the_first_rule_that_names_an_error_decides_and_counts_its_own_errors_only(
    error: NodeError, failures: tuple[int, ...], expected: NextAttempt | None
) -> None:
    assert next_attempt(RULES, error, 10, failures) == expected


def test_a_rule_for_all_errors_takes_what_the_others_do_not_name() -> None:
    rules = (*RULES, RetryRule(on="all", wait_duration=5))

    assert next_attempt(rules, DECLINED, 1) is None
    assert next_attempt(rules, answered(404), 1) == NextAttempt(5, rule=3)


@pytest.mark.parametrize(
    ("error", "name", "matches"),
    [
        (DECLINED, "CardDeclined", True),
        (DECLINED, f"{__name__}.CardDeclined", True),
        (DECLINED, "ShopError", True),
        (DECLINED, "Exception", True),
        (DECLINED, "builtins.Exception", True),
        (DECLINED, "Declined", False),
        (DECLINED, "shop.CardDeclined", False),
        (DECLINED, "CardDeclined.Sub", False),
        (TIMED_OUT, "OSError", True),
        (TIMED_OUT, "ConnectionError", False),
        (TIMED_OUT, "5xx", False),
        (answered(503), "503", True),
        (answered(503), "5xx", True),
        (answered(503), "500", False),
        (answered(503), "4xx", False),
        (answered(429), "4xx", True),
        (answered(503), "HTTP_ERROR", True),
    ],
)
def test_an_error_is_matched_by_its_class_its_bases_or_its_status(
    error: NodeError, name: str, matches: bool
) -> None:
    assert is_retryable(retry(retryOn=[name]), error) is matches
    assert is_retryable(retry(ignoreExceptions=[name]), error) is not matches


def test_without_a_list_of_errors_all_of_them_are_retried() -> None:
    assert is_retryable(retry(), DECLINED)
    assert is_retryable(retry(), answered(404))


def test_an_ignored_error_is_not_retried_even_if_retry_on_names_it() -> None:
    both = retry(retryOn=["ShopError", "5xx"], ignoreExceptions=["CardDeclined", 501])

    assert not is_retryable(both, DECLINED)
    assert is_retryable(both, error_of(ShopError("busy")))
    assert not is_retryable(both, answered(501))
    assert is_retryable(both, answered(502))


def test_a_node_that_returns_failure_is_matched_by_the_type_it_gave() -> None:
    error = failure("OUT_OF_STOCK", "none left").error

    assert error is not None
    assert is_retryable(retry(retryOn=["OUT_OF_STOCK"]), error)
    assert not is_retryable(retry(retryOn=["Exception"]), error)

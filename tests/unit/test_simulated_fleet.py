"""Whatever happens between two steps of the executor, both promises hold: a property of simulated fleets.

Nothing is lost: every execution ends COMPLETED with the result of an undisturbed run. And a node's result is
committed once. That the search would see a broken promise is shown by taking away what keeps it, one by one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulation.fleet import (
    KINDS,
    SHAPES,
    TO_CONTEXTS,
    TO_LOCKS,
    TO_MESSAGES,
    Move,
    Variant,
    moves_of,
    problems,
    undisturbed,
)

from workflow_engine.context_cache import ExecutionContextCache
from workflow_engine.executor import WorkflowExecutor
from workflow_engine.redis_connection import script_text

HOPS = ("spread", "inline")

property_test = settings(
    max_examples=max(200, settings().max_examples), suppress_health_check=[HealthCheck.too_slow]
)

moves = st.lists(st.sampled_from(moves_of(KINDS)), max_size=60)


BROKERS = {"broker in Redis": Variant(), "broker elsewhere": Variant(queue_is_in_redis=False)}


@pytest.mark.parametrize("hops", HOPS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("broker", BROKERS.values(), ids=BROKERS)
@property_test
@given(moves)
def test_whatever_happens_nothing_is_lost_and_no_result_is_committed_twice(
    broker: Variant, shape: str, hops: str, moves: list[Move]
) -> None:
    assert problems(shape, hops, moves, broker) == []


# -- what the promises rest on --------------------------------------------------------------------------

MOST_RUNS = 2_000


def without(script: str, *checks: tuple[str, str]) -> Variant:
    """The engine with a check of a script of its Redis replaced by what is left without it."""
    for check, _ in checks:
        assert check in script_text(script), f"{script} has changed: say anew what its check is"
    return Variant(edits=dict(checks))


class HearsNoKnock(ExecutionContextCache):
    """Who has dropped a message at somebody's lock is not told of when that is given up."""

    def take_knock(self, execution_id: str) -> bool:
        super().take_knock(execution_id)
        return False


class NeverPublishesAfterARefusal(WorkflowExecutor):
    """A hop calls this when its result was refused; also after a pause or an interruption, never here."""

    def resume_execution(self, execution_id: str) -> bool:
        return False


BROKEN = {
    "the fence of a commit": (
        Variant(checks_fence=False),
        (*TO_MESSAGES, *TO_LOCKS),
        "was committed 2 times",
    ),
    "the seq on entering": (
        without("enter", ("not whole or seq < wanted", "not whole")),
        TO_CONTEXTS,
        "stands still although nothing was lost",
    ),
    "the seq on leaving": (
        without("leave", ("whole and seq == ARGV[2]", "whole")),
        TO_CONTEXTS,
        "the execution is FAILED",
    ),
    "the seq while a node runs": (
        without("read", ("fixed[1] ~= ARGV[1] or ", "")),
        TO_CONTEXTS,
        "the result is",
    ),
    "whether a context is whole": (
        without("enter", ("redis.call('HLEN', KEYS[1]) - (mark and 1 or 0) == size", "true")),
        TO_CONTEXTS,
        "the execution is FAILED",
    ),
    "the knock at a lock": (
        Variant(cache=HearsNoKnock),
        (*TO_MESSAGES, *TO_CONTEXTS),
        "stands still although nothing was lost",
    ),
    "the publish after a refusal": (
        Variant(executor=NeverPublishesAfterARefusal),
        (*TO_MESSAGES, *TO_LOCKS, "cache goes back"),
        "stands still although nothing was lost",
    ),
}


@pytest.mark.parametrize("hops", HOPS)
@pytest.mark.parametrize(("variant", "kinds", "promise"), BROKEN.values(), ids=BROKEN)
def test_without_it_a_promise_is_broken(
    variant: Variant, kinds: tuple[str, ...], promise: str, hops: str
) -> None:
    moves = moves_of(kinds)

    found = (problems(shape, hops, chosen, variant) for shape, chosen in runs(moves, MOST_RUNS))

    assert any(promise in problem for broken in found for problem in broken)


@pytest.mark.parametrize("hops", HOPS)
def test_no_promise_rests_on_the_lock(hops: str) -> None:
    lockless = without("enter", ("if holder ~= ARGV[1] then", "if false then"))

    for shape, chosen in runs(moves_of(KINDS), 300):
        assert problems(shape, hops, chosen, lockless) == []


def runs(moves: list[Move], count: int) -> Iterable[tuple[str, list[Move]]]:
    """The same runs every time: of all shapes in turn, each with moves of its own."""
    shapes = list(SHAPES)
    for number in range(count):
        dice = random.Random(number)
        yield shapes[number % len(shapes)], dice.choices(moves, k=dice.randint(10, 60))


@pytest.mark.parametrize("hops", HOPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_undisturbed_run_comes_to_its_end(shape: str, hops: str) -> None:
    assert undisturbed(shape, hops)["outputs"]

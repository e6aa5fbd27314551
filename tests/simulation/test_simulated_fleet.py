"""A fleet that is disturbed between any two steps of the executor keeps both promises.

Nothing is lost: every execution ends COMPLETED with the result of an undisturbed run. And a node's result is
committed once. Removing the safeguards, one at a time, shows that the search detects a broken promise.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulation.postgres_in_memory import CASCADE, CHECKS, ITERATION, ONE_TRANSACTION, REPEATED_END
from simulation.shapes import MODES, RUNS
from simulation.simulated_fleet import (
    KINDS,
    LOOKS,
    SHAPES,
    TO_CONTEXTS,
    TO_DATABASE,
    TO_LOCKS,
    TO_MESSAGES,
    TO_SERVERS,
    Move,
    Variant,
    moves_of,
    problems,
    undisturbed,
)
from workflow_engine.engine import inline
from workflow_engine.engine.executor import WorkflowExecutor
from workflow_engine.engine.hop import Committed, Hop
from workflow_engine.engine.inline import Slice
from workflow_engine.engine.steps.departure import Departure
from workflow_engine.execution.messages import LookAhead
from workflow_engine.execution.states import NodeStatus
from workflow_engine.redis.client import script_text
from workflow_engine.redis.results import LeaveResult
from workflow_engine.runner.node_run import Outcome

HOPS = tuple(MODES)

property_test = settings(
    max_examples=max(200, settings().max_examples), suppress_health_check=[HealthCheck.too_slow]
)

moves = st.lists(st.sampled_from(moves_of(KINDS)), max_size=60)


brokers = st.booleans().map(lambda is_in_redis: Variant(queue_is_in_redis=is_in_redis))
"""The broker is in the Redis of the contexts, or elsewhere."""


@pytest.mark.parametrize(("shape", "hops"), RUNS)
@property_test
@given(moves, brokers)
def test_under_any_disturbance_nothing_is_lost_and_no_result_is_committed_twice(
    shape: str, hops: str, moves: list[Move], broker: Variant
) -> None:
    assert problems(shape, hops, moves, broker) == []


READ_WHAT_RAN_BEFORE = {"join_any"}
"""Shapes in which a branch reads what the one before it has done, which is then not certain any more."""


@pytest.mark.parametrize(("shape", "hops"), [run for run in RUNS if run[0] not in READ_WHAT_RAN_BEFORE])
@settings(property_test, max_examples=max(50, settings().max_examples))
@given(st.lists(st.sampled_from(moves_of((*KINDS, *TO_DATABASE))), max_size=60))
def test_where_postgres_has_lost_commits_the_execution_comes_to_the_same_end(
    shape: str, hops: str, moves: list[Move]
) -> None:
    assert problems(shape, hops, moves) == []


# -- the safeguards behind the promises -----------------------------------------------------------------

MOST_RUNS = 8_000


def without(script: str, *checks: tuple[str, str]) -> Variant:
    """Return the engine with a check of one of its Redis scripts removed."""
    for check, _ in checks:
        assert check in script_text(script), f"{script} has changed: update its check in this test"
    return Variant(edits=dict(checks))


class LeavesRefusalsAlone(Departure):
    """Leaves a node whose result was refused, and publishes nothing."""

    def enqueue(self, done: Committed, left: LeaveResult) -> None:
        if done.result.accepted:
            super().enqueue(done, left)


class NeverPublishesAfterARefusal(WorkflowExecutor):
    """A hop that publishes nothing after its result was refused."""

    def __init__(self, *parts: Any, **others: Any) -> None:
        super().__init__(*parts, **others)
        self._departure.__class__ = LeavesRefusalsAlone


class PutsOffEverything(WorkflowExecutor):
    """A hop that commits a result which may come out otherwise only after the next node has run."""

    def _attempt(
        self, hop: Hop, run: Callable[[Hop], Outcome], slice_: Slice, look_ahead: LookAhead
    ) -> Committed:
        with patch.object(inline, "_may_be_put_off", _succeeded):
            return super()._attempt(hop, run, slice_, look_ahead)


def _succeeded(hop: Hop, outcome: Outcome) -> bool:
    return outcome.status is NodeStatus.COMPLETED and hop.woken is None


class OverlooksOtherNodes(WorkflowExecutor):
    """A hop that leaves a pure result uncommitted although another node could change it."""

    def _attempt(
        self, hop: Hop, run: Callable[[Hop], Outcome], slice_: Slice, look_ahead: LookAhead
    ) -> Committed:
        with patch.object(inline, "_may_differ", lambda _hop: False):
            return super()._attempt(hop, run, slice_, look_ahead)


BROKEN_FOR_PURE_NODES = {
    "that a node is pure whose commit is put off": (
        PutsOffEverything,
        "effects",
        "an effect of a rests on draw",
    ),
    "that no other node can change a pure result": (OverlooksOtherNodes, "raced", "rests on check=True"),
}


@pytest.mark.parametrize(
    ("executor", "shape", "promise"), BROKEN_FOR_PURE_NODES.values(), ids=BROKEN_FOR_PURE_NODES
)
def test_without_it_an_effect_rests_on_a_result_that_came_out_otherwise(
    executor: type[WorkflowExecutor], shape: str, promise: str
) -> None:
    moves = moves_of(("die", "recover", "wake"))

    found = (
        problems(shape, "inline", chosen, Variant(executor=executor)) for _, chosen in runs(moves, MOST_RUNS)
    )

    assert any(promise in problem for broken in found for problem in broken)


TWO_RUN_THE_SAME_NODE = (
    Move("message doubled"),
    Move("go", worker=0, number=2),
    Move("lock expires"),
    Move("go", worker=1, number=1),
)


class Removed(NamedTuple):
    """The engine without a safeguard, and where to search for the promise that is broken without it."""

    variant: Variant
    kinds: tuple[str, ...]
    """The disturbances that the safeguard is for."""
    promise: str
    begin: tuple[Move, ...] = ()
    """The moves that bring an execution to where the safeguard is needed."""
    inline: str | None = None
    """The shape in which slices need the safeguard, if in most others they do without."""


BROKEN = {
    "the fence of a commit": Removed(
        Variant(checks=CHECKS - {"fence"}),
        (*TO_MESSAGES, *TO_LOCKS),
        "was committed 2 times",
    ),
    "the mark of a node that must not be repeated": Removed(
        Variant(checks=CHECKS - {"mark"}),
        (*TO_MESSAGES, *TO_LOCKS, "die"),
        "the node that must not be repeated ran 2 times",
    ),
    "the seq on entering": Removed(
        without("enter", ("not whole or seq < wanted", "not whole")),
        TO_CONTEXTS,
        "has stalled although nothing was lost",
    ),
    "the seq on leaving": Removed(
        without("leave", ("whole and seq == ARGV[2]", "whole")),
        TO_CONTEXTS,
        "the execution is FAILED",
        inline="wide",
    ),
    "the seq while a node runs": Removed(
        without("read_outputs", ("seq ~= ARGV[1]", "false")),
        ("cache goes back",),
        "the result is",
        inline="join_two",
    ),
    "whether a context is whole": Removed(
        without("enter", ("redis.call('HLEN', KEYS[1]) - (mark and 1 or 0) == size", "true")),
        ("cache loses a field",),
        "the execution is FAILED",
    ),
    "the contention flag of a lock": Removed(
        without("leave", ("redis.call('DEL', KEYS[2])", "0")),
        ("message doubled", "cache loses a field", "wake"),
        "has stalled although nothing was lost",
    ),
    "the publish after a refusal": Removed(
        Variant(executor=NeverPublishesAfterARefusal),
        ("renew",),
        "has stalled although nothing was lost",
        TWO_RUN_THE_SAME_NODE,
    ),
}


BROKEN_FOR_SIBLINGS = {
    "that no sibling has committed this node": Removed(
        Variant(checks=CHECKS - {"own node"}),
        (*TO_MESSAGES, *TO_LOCKS),
        "was committed 2 times",
    ),
    "that the journal continues the one that was read": Removed(
        Variant(checks=CHECKS - {"chain", "fence"}),
        TO_DATABASE,
        "cannot be replayed",
    ),
    "the gap of a sibling that has not left": Removed(
        without("leave_places", ("gaps[missed] = sibling", "")),
        (),
        "the execution is FAILED",
    ),
    "the seq on leaving": Removed(
        without("leave_places", ("seq >= tonumber(ARGV[1])", "true")),
        TO_CONTEXTS,
        "the execution is FAILED",
    ),
    "whether a context is whole": Removed(
        without("enter_places", ("redis.call('HLEN', KEYS[1]) == tonumber(fixed[7])", "true")),
        TO_CONTEXTS,
        "the execution is FAILED",
    ),
}
"""Where nodes of one execution run at the same time."""


@pytest.mark.parametrize("hops", ["spread", "inline"])
@pytest.mark.parametrize("removed", BROKEN.values(), ids=BROKEN)
def test_without_it_a_promise_is_broken(removed: Removed, hops: str) -> None:
    check_that_it_is_broken(removed, hops)


@pytest.mark.parametrize("removed", BROKEN_FOR_SIBLINGS.values(), ids=BROKEN_FOR_SIBLINGS)
def test_without_it_a_promise_is_broken_where_siblings_run(removed: Removed) -> None:
    check_that_it_is_broken(removed, "parallel")


def check_that_it_is_broken(removed: Removed, hops: str) -> None:
    shapes = (removed.inline,) if hops == "inline" and removed.inline is not None else SHAPES

    found = (
        problems(shape, hops, [*removed.begin, *chosen], removed.variant)
        for shape, chosen in runs(moves_of(removed.kinds), MOST_RUNS, shapes)
    )

    assert any(removed.promise in problem for broken in found for problem in broken)


def lacking(check: str) -> Variant:
    """Return the engine without one of the safeguards of children."""
    return Variant(checks=CHECKS - {check})


WITHOUT_CHILDREN = {
    ONE_TRANSACTION: ("children", ("die", *TO_SERVERS), "the execution was lost: it is WAITING"),
    REPEATED_END: ("children", TO_SERVERS, "is"),
    CASCADE: ("overtaken_children", LOOKS, "runs on although its parent has ended"),
    ITERATION: ("repeated", KINDS, "child"),
}


@pytest.mark.parametrize("check", WITHOUT_CHILDREN)
def test_without_it_a_promise_about_children_is_broken(check: str) -> None:
    shape, kinds, promise = WITHOUT_CHILDREN[check]
    moves = moves_of(kinds)

    found = (problems(shape, "spread", chosen, lacking(check)) for _, chosen in runs(moves, MOST_RUNS))

    assert any(promise in problem for broken in found for problem in broken)


@pytest.mark.parametrize("hops", HOPS)
def test_no_promise_rests_on_the_lock(hops: str) -> None:
    checks = {"enter": "if holder ~= ARGV[1] then", "enter_places": "if holder ~= claim then"}
    without_each = [without(script, (check, "if false then")) for script, check in checks.items()]
    lockless = Variant(edits={check: edit for each in without_each for check, edit in each.edits.items()})

    # Once commits are lost, branches may be committed in another order, which the lock would prevent.
    kinds = [kind for kind in KINDS if kind not in TO_DATABASE]

    for shape, chosen in runs(moves_of(kinds), 300):
        assert problems(shape, hops, chosen, lockless) == []


def runs(moves: list[Move], count: int, shapes: Collection[str] = SHAPES) -> Iterable[tuple[str, list[Move]]]:
    """Yield the same runs every time: of all shapes in turn, each with moves of its own."""
    for number, shape in zip(range(count), itertools.cycle(shapes), strict=False):
        dice = random.Random(number)
        yield shape, dice.choices(moves, k=dice.randint(10, 60))


@pytest.mark.parametrize(("shape", "hops"), RUNS)
def test_an_undisturbed_run_comes_to_its_end(shape: str, hops: str) -> None:
    assert undisturbed(shape, hops)["outputs"]


@pytest.mark.parametrize("shape", ["line", "skip", "retry", "retry_by_rules", "waiting", "wide", "pure"])
def test_siblings_lead_to_the_result_of_one_node_after_the_other(shape: str) -> None:
    assert undisturbed(shape, "parallel") == undisturbed(shape, "spread")

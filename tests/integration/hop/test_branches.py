"""Branches, joins and merges of a real execution go their way wherever a context has to be rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine


@pytest.fixture(params=["cached", "rebuilt before every hop"])
def outcome(
    request: pytest.FixtureRequest, client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers
) -> Callable[..., tuple[Any, list[str]]]:
    """Return a function that runs a workflow to its end and returns its result and its path."""

    def run(flow: WorkflowBuilder, data: Any = None) -> tuple[Any, list[str]]:
        client.deploy(flow.build())
        execution = client.start(flow.id, data).id
        while broker.queue:
            if request.param != "cached":
                engine.cache.remove_from_cache(execution)
            workers.hop()
        finished = client.get(execution)
        assert finished.status is ExecutionStatus.COMPLETED
        return finished.result, [row.node_id for row in client.journal(execution)]

    return run


def fork_and_join(strategy: Any = None, join: Any = None) -> WorkflowBuilder:
    """Return a workflow of two branches, the left one of two nodes, and a merge that joins both."""
    flow = WorkflowBuilder("fork")
    joined = flow.merge("joined", strategy=strategy, join=join)
    start = flow.trigger("start")
    start >> flow.function("left", "from the left") >> flow.function("leftTwo", "{{ left }}, again") >> joined
    start >> flow.function("right", "from the right") >> joined
    return flow


@pytest.mark.parametrize(
    ("strategy", "result"),
    [
        ("all", {"leftTwo": "from the left, again", "right": "from the right"}),
        (None, {"leftTwo": "from the left, again", "right": "from the right"}),
        ("first", "from the left, again"),
        ("last", "from the right"),
    ],
)
def test_a_merge_of_all_branches_returns_by_its_strategy(
    outcome: Callable[..., Any], strategy: str | None, result: Any
) -> None:
    assert outcome(fork_and_join(strategy)) == (result, ["start", "left", "leftTwo", "right", "joined"])


def test_a_merge_of_any_branch_goes_on_with_the_first_and_leaves_the_others(
    outcome: Callable[..., Any],
) -> None:
    flow = WorkflowBuilder("any")
    joined = flow.merge("joined", join="any")
    flow.trigger("start") >> [flow.function("left", "L"), flow.function("right", "R")] >> joined
    joined >> flow.function("after", "{{ joined }}")

    assert outcome(flow) == ("L", ["start", "left", "joined", "after"])


@pytest.mark.parametrize(("amount", "path"), [(500, ["approve"]), (5, [])], ids=["taken", "not taken"])
def test_a_join_behind_a_condition_waits_for_no_branch_that_cannot_arrive(
    outcome: Callable[..., Any], amount: int, path: list[str]
) -> None:
    flow = WorkflowBuilder("behind")
    large = flow.condition("large", expression="{{ start.amount > 100 }}")
    joined = flow.merge("joined")
    flow.trigger("start") >> large
    large["true"] >> flow.function("approve", "yes") >> joined
    large["false"] >> joined

    result, walked = outcome(flow, {"amount": amount})

    assert result == ({"approve": "yes"} if path else {"large": False})
    assert walked == ["start", "large", *path, "joined"]


def parcels(*, default: bool) -> WorkflowBuilder:
    flow = WorkflowBuilder("parcels")
    country = flow.switch(
        "country", field="{{ start.country }}", cases={"DE": "domestic", "FR": "europe", "IT": "europe"}
    )
    flow.trigger("start") >> country
    country["domestic"] >> flow.function("truck", "by truck")
    country["europe"] >> flow.function("train", "by train")
    if default:
        country["default"] >> flow.function("ship", "by ship")
    return flow


@pytest.mark.parametrize(
    ("country", "result"),
    [("DE", {"truck": "by truck"}), ("IT", {"train": "by train"}), ("JP", {"ship": "by ship"})],
)
def test_a_switch_takes_the_first_case_that_matches_and_default_else(
    outcome: Callable[..., Any], country: str, result: Any
) -> None:
    assert outcome(parcels(default=True), {"country": country})[0] == result


def test_a_switch_without_a_match_and_without_default_ends_its_branch(outcome: Callable[..., Any]) -> None:
    assert outcome(parcels(default=False), {"country": "JP"}) == ({}, ["start", "country"])

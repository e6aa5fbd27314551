"""logic/merge gives the outputs of the branches that arrived."""

from __future__ import annotations

from typing import Any

import pytest

from support.node_runs import problems, run
from workflow_engine.nodes.logic.merge import NODE_TYPE
from workflow_engine.nodes.results import success

OUTPUTS = {"charge": {"receipt": 1}, "pack": None, "ship": {"error": {"type": "E"}}, "never": 7}
ARRIVED = ("ship", "charge", "pack")


@pytest.mark.parametrize(
    ("config", "output"),
    [
        ({}, {"charge": {"receipt": 1}, "pack": None, "ship": {"error": {"type": "E"}}}),
        ({"strategy": "all"}, {"charge": {"receipt": 1}, "pack": None, "ship": {"error": {"type": "E"}}}),
        ({"join": "all", "strategy": "first"}, {"error": {"type": "E"}}),
        ({"strategy": "last"}, None),
        ({"join": "any"}, {"error": {"type": "E"}}),
        ({"join": "any", "strategy": "all"}, {"error": {"type": "E"}}),
        ({"join": "any", "strategy": "last"}, {"error": {"type": "E"}}),
        ({"join": 2}, {"charge": {"receipt": 1}, "ship": {"error": {"type": "E"}}}),
        ({"join": 2, "strategy": "last"}, {"receipt": 1}),
        ({"join": 9, "strategy": "last", "require": 3}, None),
    ],
    ids=str,
)
def test_the_output_is_that_of_the_branches_that_arrived(config: dict[str, Any], output: Any) -> None:
    assert run(NODE_TYPE, config, OUTPUTS, ARRIVED) == success(output)


def test_all_outputs_stand_in_the_order_of_their_arrival() -> None:
    assert list(run(NODE_TYPE, {}, OUTPUTS, ARRIVED).output) == list(ARRIVED)


def test_a_merge_without_arrivals_is_an_error_of_the_engine_not_an_empty_output() -> None:
    with pytest.raises(AssertionError, match="merge 'n' was run although nothing has arrived"):
        run(NODE_TYPE, {}, OUTPUTS)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"join": "first"}, "join"),
        ({"join": 1}, "join"),
        ({"join": True}, "join"),
        ({"join": 2.5}, "join"),
        ({"join": "3"}, "join"),
        ({"join": None}, "join"),
        ({"join": "{{ 3 }}"}, "join"),
        ({"require": "any"}, "require"),
        ({"require": 0}, "require"),
        ({"require": True}, "require"),
        ({"strategy": "{{ a }}"}, "strategy"),
    ],
    ids=str,
)
def test_join_require_and_strategy_are_of_the_words_known_or_numbers(
    config: dict[str, Any], path: str
) -> None:
    (problem,) = problems(NODE_TYPE, config)

    assert problem.path == path
    assert "must be 'all'" in problem.message


@pytest.mark.parametrize(
    "config",
    [{"join": "any", "require": 2}, {"join": 2, "require": 3}, {"join": 2, "require": "all"}],
    ids=str,
)
def test_a_merge_cannot_require_more_than_it_waits_for(config: dict[str, Any]) -> None:
    (problem,) = problems(NODE_TYPE, config)

    assert problem.message.startswith(f"`join: {config['join']}` goes on before ")


@pytest.mark.parametrize(
    "config",
    [{"join": "any", "require": 1}, {"join": 3, "require": 3}, {"require": "all"}, {"require": None}],
)
def test_a_merge_may_require_what_it_waits_for(config: dict[str, Any]) -> None:
    assert problems(NODE_TYPE, config) == []

"""logic/merge: what it answers for the branches that arrived."""

from __future__ import annotations

from typing import Any

import pytest
from node_runs import problems, run

from workflow_engine.node_types import success
from workflow_engine.nodes.merge import NODE_TYPE

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
    ("config", "path"), [({"join": "first"}, "join"), ({"strategy": "{{ a }}"}, "strategy")], ids=str
)
def test_join_and_strategy_are_of_the_words_known(config: dict[str, Any], path: str) -> None:
    (problem,) = problems(NODE_TYPE, config)

    assert problem.path == path
    assert "must be 'all'" in problem.message

"""What the engine looks up about a definition."""

from __future__ import annotations

import pytest
from graphs import graph, sketch, workflows
from hypothesis import given

from workflow_engine.definition import Node, Workflow
from workflow_engine.graph import Graph


def test_edges_keep_the_order_of_the_definition() -> None:
    found = graph("start -> b", "start -> a", "b -> join", "a -> join")

    assert [edge.target for edge in found.outgoing["start"]] == ["b", "a"]
    assert [edge.source for edge in found.incoming["join"]] == ["b", "a"]
    assert list(found.nodes) == ["start", "b", "a", "join"]


def test_a_node_without_edges_is_known_all_the_same() -> None:
    found = Graph.of(Workflow(id="lonely", nodes=(Node(id="start", type="trigger", sub_type="manual"),)))

    assert found.outgoing["start"] == ()
    assert found.incoming["start"] == ()
    assert found.ends == ("start",)


@given(workflows())
def test_every_outgoing_edge_knows_its_position_at_its_target(workflow: Workflow) -> None:
    found = Graph.of(workflow)

    for node_id, edges in found.outgoing.items():
        for edge, position in zip(edges, found.positions[node_id], strict=True):
            assert found.incoming[edge.target][position] is edge


def test_triggers_come_in_the_order_of_the_definition() -> None:
    assert graph("late -> a", "early -> a", triggers=("late", "early")).triggers == ("late", "early")


def test_an_end_may_have_an_error_edge_and_no_other() -> None:
    found = graph("start -> a", "a -error-> mourn", "start -> b", "b -> c", "b -error-> mourn")

    assert found.ends == ("a", "mourn", "c")
    assert [node_id for node_id in found.nodes if found.is_end(node_id)] == ["a", "mourn", "c"]


def test_a_node_handles_errors_if_an_edge_leaves_it_from_error() -> None:
    found = graph("start -> a", "a -error-> b", "a -> c")

    assert found.handles_errors("a")
    assert not found.handles_errors("c")


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        (("logic", "merge"), {"join": "any"}, True),
        (("logic", "merge"), {"join": "all"}, False),
        (("logic", "merge"), {}, False),
        (("action", "function"), {"join": "any"}, False),
    ],
)
def test_only_a_merge_goes_on_with_any_arrival(kind: tuple, config: dict, expected: bool) -> None:
    node = Node(id="join", type=kind[0], sub_type=kind[1], config=config)

    assert Graph.of(Workflow(id="one", nodes=(node,))).joins_any("join") is expected


def test_downstream_is_all_that_can_be_reached_from_a_node_and_not_the_node() -> None:
    found = graph("start -> a", "a -> b", "a -error-> c", "b -> join", "c -> join", "start -> other")

    assert found.downstream("a") == {"b", "c", "join"}
    assert found.downstream("join") == frozenset()


def test_a_chain_of_two_thousand_nodes_has_a_downstream() -> None:
    chain = sketch(*[f"n{number} -> n{number + 1}" for number in range(2_000)], triggers=("n0",))

    assert len(Graph.of(chain).downstream("n0")) == 2_000

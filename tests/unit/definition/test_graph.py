"""A graph gives the order of edges and triggers, the ways out of a node, and all nodes behind it."""

from __future__ import annotations

import pytest
from hypothesis import given

from support.graphs import graph, sketch, workflows
from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import Edge, Node, Workflow


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
        for edge, (target, position, handle) in zip(edges, found.ways[node_id], strict=True):
            assert (target, handle) == (edge.target, edge.handle)
            assert found.incoming[target][position] is edge


def test_triggers_come_in_the_order_of_the_definition() -> None:
    assert graph("late -> a", "early -> a", triggers=("late", "early")).triggers == ("late", "early")


def test_an_end_may_have_an_error_edge_and_no_other() -> None:
    found = graph("start -> a", "a -error-> mourn", "start -> b", "b -> c", "b -error-> mourn")

    assert found.ends == ("a", "mourn", "c")
    assert [node_id for node_id in found.nodes if found.is_end(node_id)] == ["a", "mourn", "c"]


def test_a_node_that_fails_on_purpose_is_no_end_with_an_output() -> None:
    fail = Node(id="no", type="logic", sub_type="fail")
    workflow = sketch("start -> a", "start -> b")
    more = workflow.model_copy(
        update={"nodes": (*workflow.nodes, fail), "edges": (*workflow.edges, Edge(source="b", target="no"))}
    )

    assert Graph.of(more).ends == ("a",)


def test_a_node_handles_errors_if_an_edge_leaves_it_from_error() -> None:
    found = graph("start -> a", "a -error-> b", "a -> c")

    assert found.handles_errors("a")
    assert not found.handles_errors("c")


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        (("logic", "merge"), {"join": "any"}, 1),
        (("logic", "merge"), {"join": 3}, 3),
        (("logic", "merge"), {"join": "all"}, None),
        (("logic", "merge"), {}, None),
        (("action", "function"), {"join": "any"}, None),
    ],
)
def test_only_a_merge_goes_on_with_some_arrivals(kind: tuple, config: dict, expected: int | None) -> None:
    node = Node(id="join", type=kind[0], sub_type=kind[1], config=config)
    found = Graph.of(Workflow(id="one", nodes=(node,)))

    assert found.enough_arrivals("join") == expected
    assert found.joins_any("join") is (expected is not None)


def test_the_branches_of_a_join_are_its_sources_without_their_error_edges() -> None:
    found = graph(
        "start -> a", "start -> ask", "a -> join", "a -error-> join", "ask -true-> join", "ask -false-> join",
        "start -> b", "b -error-> join", "b -> other",
    )  # fmt: skip

    assert found.branches("join") == ("a", "ask")


def test_downstream_is_all_that_can_be_reached_from_a_node_and_not_the_node() -> None:
    found = graph("start -> a", "a -> b", "a -error-> c", "b -> join", "c -> join", "start -> other")

    assert found.downstream("a") == {"b", "c", "join"}
    assert found.downstream("join") == frozenset()


def test_a_chain_of_two_thousand_nodes_has_a_downstream() -> None:
    chain = sketch(*[f"n{number} -> n{number + 1}" for number in range(2_000)], triggers=("n0",))

    assert len(Graph.of(chain).downstream("n0")) == 2_000

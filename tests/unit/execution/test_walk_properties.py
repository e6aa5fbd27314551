"""For every graph and every order of events a walk does what its rules say.

`History` states the rules of the walk again, naively: it keeps everything, and derives everything from the
edges decided so far. The walk, which keeps only its frontier, must agree with it.

A run tries a few graphs for each property; `HYPOTHESIS_PROFILE=thorough pytest --timeout=0` many.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.graphs import HANDLES, workflows
from support.histories import (
    History,
    Rolls,
    begin,
    execute,
    follow,
    property_test,
    rolls,
    run_nodes,
)
from workflow_engine.definition.workflow import Workflow, WorkflowSettings
from workflow_engine.execution.states import NodeStatus
from workflow_engine.execution.walk import JournalEntry, Walk, node_statuses

# --- the properties ----------------------------------------------------------------------------------------


@property_test
@given(workflows(), rolls)
def test_walking_and_replaying_give_the_same_walk_after_every_move(workflow: Workflow, rolls: Rolls) -> None:
    graph, trigger, walk, journal = begin(workflow)
    assert Walk.replay(graph, trigger, journal).to_json() == walk.to_json()

    for event in execute(graph, walk, journal, rolls, may_fail=True):
        assert Walk.replay(graph, trigger, event.journal).to_json() == walk.to_json()


@property_test
@given(workflows(), rolls)
def test_a_walk_that_is_stored_as_json_after_every_move_goes_the_same_way(
    workflow: Workflow, rolls: Rolls
) -> None:
    graph, _, walk, journal = begin(workflow)
    stored = walk.to_json()

    for event in execute(graph, walk, journal, rolls, may_fail=True):
        loaded = Walk.from_json(stored)
        assert loaded.apply(graph, event.entry) == event.step
        assert loaded == walk
        stored = loaded.to_json()
        assert stored == walk.to_json()


@property_test
@given(workflows(), rolls)
def test_a_copy_of_a_walk_goes_the_same_way_and_leaves_the_walk_where_it_is(
    workflow: Workflow, rolls: Rolls
) -> None:
    graph, _, walk, journal = begin(workflow)
    before, stored = walk.copy(), walk.to_json()

    for event in execute(graph, walk, journal, rolls, may_fail=True):
        after = before.copy()
        assert after.apply(graph, event.entry) == event.step
        assert (before.to_json(), after) == (stored, walk)
        before, stored = after, after.to_json()


@property_test
@given(workflows(), rolls)
def test_the_walk_agrees_with_the_rules_after_every_move(workflow: Workflow, rolls: Rolls) -> None:
    graph, trigger, walk, journal = begin(workflow)
    history = History(workflow, trigger)
    history.begin()
    assert walk.due == history.line

    for event in execute(graph, walk, journal, rolls):
        follow(history, graph, event)


@property_test
@given(workflows(), rolls)
def test_every_walk_ends_with_each_node_run_once_or_skipped_or_ended(
    workflow: Workflow, rolls: Rolls
) -> None:
    graph, trigger, walk, journal = begin(workflow)

    for event in execute(graph, walk, journal, rolls):
        journal = event.journal

    ran = run_nodes(journal)
    statuses = node_statuses(graph, trigger, journal)
    assert walk.to_json() == b"{}"
    assert len(ran) == len(set(ran))
    assert statuses.keys() == graph.nodes.keys()
    assert {node_id for node_id, status in statuses.items() if status.is_final} == set(ran)
    assert set(statuses.values()) <= {
        NodeStatus.COMPLETED,
        NodeStatus.FAILED,
        NodeStatus.SKIPPED,
        NodeStatus.CANCELLED,
    }


@property_test
@given(workflows(), rolls)
def test_no_node_is_reported_twice_as_run_skipped_or_ended(workflow: Workflow, rolls: Rolls) -> None:
    graph, _, walk, journal = begin(workflow)
    reported: list[str] = []

    for event in execute(graph, walk, journal, rolls):
        reported += [*event.step.skipped, *event.step.ended]
        reported += [event.entry.node_id] if event.entry.status.is_final else []
        assert set(event.step.cancelled) <= set(event.step.ended)

    assert len(reported) == len(set(reported))


@property_test
@given(workflows(), rolls, st.integers(0, 12))
def test_an_unhandled_failure_ends_the_walk_at_once_and_cancels_what_was_due_or_waiting(
    workflow: Workflow, rolls: Rolls, moves: int
) -> None:
    graph, trigger, walk, journal = begin(workflow)
    for event in execute(graph, walk, journal, rolls[:moves]):
        journal = event.journal
        if len(journal) > moves:
            break
    if walk.is_finished:
        return
    failed = (*walk.due, *walk.waiting)[-1]
    others = {*walk.due, *walk.waiting} - {failed}
    failure = JournalEntry(
        journal[-1].seq + 1, failed, walk.visit(failed), walk.attempt(failed), NodeStatus.FAILED
    )

    step = walk.end(failed)

    assert set(step.cancelled) == others
    assert walk.to_json() == b"{}"
    assert Walk.replay(graph, trigger, (*journal, failure)) == walk
    statuses = node_statuses(graph, trigger, (*journal, failure))
    assert statuses[failed] is NodeStatus.FAILED
    assert {statuses[node_id] for node_id in others} <= {NodeStatus.CANCELLED}


@property_test
@given(workflows(), rolls, st.integers(0, 12), rolls)
def test_a_rerun_from_any_node_gives_it_and_all_behind_it_a_new_visit(
    workflow: Workflow, rolls: Rolls, pick: int, more_rolls: Rolls
) -> None:
    graph, trigger, walk, journal = begin(workflow)
    for event in execute(graph, walk, journal, rolls, may_fail=True):
        journal = event.journal
    candidates = run_nodes(journal[1:])
    if not candidates:
        return
    rerun = candidates[pick % len(candidates)]
    superseded = {rerun, *graph.downstream(rerun), *(entry.node_id for entry in journal if ends(entry))}
    visits = {entry.node_id: 2 for entry in journal if entry.node_id in superseded}
    journal = tuple(entry for entry in journal if entry.node_id not in superseded)

    walk = Walk.replay(graph, trigger, journal, visits)

    assert rerun in walk.due
    assert walk.visit(rerun) == 2
    for event in execute(graph, walk, journal, more_rolls):
        assert event.entry.visit == visits.get(event.entry.node_id, 1)
        assert Walk.replay(graph, trigger, event.journal, visits).to_json() == walk.to_json()
    assert walk.to_json() == b"{}"


def ends(entry: JournalEntry) -> bool:
    return entry.status is NodeStatus.FAILED and not entry.handles


@property_test
@given(workflows(), rolls)
def test_a_failed_execution_goes_on_where_it_failed_once_its_last_row_is_superseded(
    workflow: Workflow, rolls: Rolls
) -> None:
    graph, trigger, walk, journal = begin(workflow)
    before = walk.to_json()
    for event in execute(graph, walk, journal, rolls, may_fail=True):
        journal = event.journal
        if not walk.is_finished:
            before = walk.to_json()
    if not ends(journal[-1]):
        return

    walk = Walk.replay(graph, trigger, journal[:-1])

    assert walk.to_json() == before
    assert journal[-1].node_id in (*walk.due, *walk.waiting)
    assert walk.visit(journal[-1].node_id) == journal[-1].visit


# --- several nodes at a time -------------------------------------------------------------------------------


def at_the_same_time(workflow: Workflow, nodes: int) -> Workflow:
    return workflow.model_copy(update={"settings": WorkflowSettings(concurrency=nodes)})


places = st.integers(2, 4)


@property_test
@given(workflows(), places, rolls)
def test_in_whatever_order_siblings_commit_replaying_gives_the_same_walk(
    workflow: Workflow, places: int, rolls: Rolls
) -> None:
    graph, trigger, walk, journal = begin(at_the_same_time(workflow, places))

    for event in execute(graph, walk, journal, rolls, may_fail=True):
        assert Walk.replay(graph, trigger, event.journal).to_json() == walk.to_json()


@property_test
@given(workflows(), places, rolls)
def test_a_node_in_hand_stays_there_until_it_moves_or_is_ended(
    workflow: Workflow, places: int, rolls: Rolls
) -> None:
    graph, _, walk, journal = begin(at_the_same_time(workflow, places))
    before = walk.in_hand(graph)

    for event in execute(graph, walk, journal, rolls):
        in_hand = walk.in_hand(graph)
        assert len(in_hand) == min(places, len(walk.due))
        assert {*before} - {event.entry.node_id, *event.step.ended} <= {*in_hand}
        before = in_hand


@property_test
@given(workflows(), places, rolls)
def test_siblings_run_the_same_nodes_as_one_after_the_other(
    workflow: Workflow, places: int, rolls: Rolls
) -> None:
    # A merge that goes on before all have arrived depends on their order.
    nodes = tuple(node.model_copy(update={"config": {}}) for node in workflow.nodes)
    workflow = workflow.model_copy(update={"nodes": nodes})
    # The fate of a node is its own, so that it does not depend on when it runs.
    fates = {node.id: 7 * number + len(rolls) for number, node in enumerate(workflow.nodes)}

    def run(walked: Workflow, picks: Rolls) -> dict[str, str]:
        graph, _, walk, _ = begin(walked)
        left_by: dict[str, str] = {}
        while not walk.is_finished:
            candidates = walk.in_hand(graph)
            pick, _ = picks[len(left_by)] if len(left_by) < len(picks) else (0, 0)
            node_id = candidates[pick % len(candidates)]
            ways = HANDLES[graph.nodes[node_id].kind]
            left_by[node_id] = ways[fates[node_id] % len(ways)]
            walk.advance(graph, node_id, (left_by[node_id],))
        return left_by

    assert run(at_the_same_time(workflow, places), rolls) == run(workflow, [])

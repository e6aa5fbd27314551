"""After any retry or rerun, the rows that are not superseded lead to a walk that can go on."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.graphs import graph, workflows
from workflow_engine.definition.graph import Graph
from workflow_engine.definition.workflow import ERROR, ORDINARY
from workflow_engine.execution.states import NodeStatus
from workflow_engine.execution.superseding import (
    differences,
    ending_failure,
    rows_of_a_rerun,
    rows_of_a_retry,
    visits_after,
)
from workflow_engine.execution.walk import JournalEntry, Walk

WAYS = ["", "true", "false", "small", "large", "default", ERROR]


def history(drawn: Graph, seed: int) -> list[JournalEntry]:
    """Draw the journal of a random execution, up to any point or to its end."""
    chance = random.Random(seed)
    walk = Walk.start(drawn, drawn.triggers[0])
    journal = [JournalEntry(1, drawn.triggers[0], 1, 1, NodeStatus.COMPLETED, (ORDINARY,))]
    moves = chance.choice([3, 8, 100])
    while not walk.is_finished and len(journal) <= moves:
        node_id = chance.choice([*walk.due, *walk.waiting])
        status = chance.choices(
            [NodeStatus.COMPLETED, NodeStatus.WAITING, NodeStatus.RETRYING, NodeStatus.FAILED], [12, 2, 2, 1]
        )[0]
        ways = [edge.handle for edge in drawn.outgoing[node_id] if edge.handle in WAYS] or [ORDINARY]
        handles = (chance.choice(ways),) if status is NodeStatus.COMPLETED else ()
        entry = JournalEntry(
            len(journal) + 1, node_id, 1, walk.attempt(node_id), status, handles, waits=chance.random() < 0.5
        )
        walk.apply(drawn, entry)
        journal.append(entry)
    return journal


def left(journal: list[JournalEntry], superseded: list[JournalEntry]) -> list[JournalEntry]:
    return [row for row in journal if row not in superseded]


property_test = settings(suppress_health_check=[HealthCheck.too_slow])


@property_test
@given(workflows(), st.integers(0, 10_000))
def test_a_rerun_makes_its_node_due_unless_a_merge_has_gone_on_without_it(workflow, seed: int) -> None:
    drawn = Graph.of(workflow)
    journal = history(drawn, seed)
    finals = {row.node_id for row in journal[1:] if row.status.is_final}

    for node_id in {row.node_id for row in journal[1:]}:
        superseded = rows_of_a_rerun(drawn, journal, node_id)
        visits = visits_after({}, superseded)
        walk = Walk.replay(drawn, drawn.triggers[0], left(journal, superseded), visits)

        assert node_id in walk.due or node_id not in finals
        assert all(walk.visit(due) == (2 if due in visits else 1) for due in walk.due)
        assert not {row.node_id for row in left(journal, superseded)[1:]} & drawn.downstream(node_id)


@property_test
@given(workflows(), st.integers(0, 10_000))
def test_a_retry_makes_the_failed_node_due_in_the_same_visit(workflow, seed: int) -> None:
    drawn = Graph.of(workflow)
    journal = history(drawn, seed)
    failure = ending_failure(journal)

    superseded = rows_of_a_retry(drawn, journal)
    walk = Walk.replay(drawn, drawn.triggers[0], left(journal, superseded))

    assert failure is None or failure.node_id in walk.due
    assert failure is None or (walk.visit(failure.node_id), walk.attempt(failure.node_id)) == (1, 1)
    assert failure is not None or not superseded


def test_a_failure_that_is_handled_is_not_what_ended_an_execution() -> None:
    started = JournalEntry(1, "start", 1, 1, NodeStatus.COMPLETED, (ORDINARY,))
    handled = JournalEntry(2, "a", 1, 1, NodeStatus.FAILED, (ERROR,))

    assert ending_failure([started, handled]) is None


def test_the_next_visit_is_above_every_superseded_one() -> None:
    rows = [JournalEntry(seq, "a", visit, 1, NodeStatus.COMPLETED) for seq, visit in ((2, 1), (5, 2))]

    assert visits_after({"b": 3}, rows) == {"a": 3, "b": 3}


def test_a_version_fits_if_it_differs_only_where_the_execution_has_not_been() -> None:
    journal = [
        JournalEntry(1, "start", 1, 1, NodeStatus.COMPLETED, (ORDINARY,)),
        JournalEntry(2, "check", 1, 1, NodeStatus.COMPLETED, ("true",)),
    ]
    before = graph("start -> check", "check -true-> a", "check -false-> b")

    other_way = graph("start -> check", "check -true-> a", "check -false-> c", "a -> d")
    same_way = graph("start -> check", "check -true-> b", "check -false-> a")

    assert not list(differences(journal, before, other_way))
    assert [problem.path for problem in differences(journal, before, same_way)] == ["check"]

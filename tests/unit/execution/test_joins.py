"""A merge lacks branches that it requires exactly if they have not arrived, and says why of each."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from support.graphs import workflows
from support.histories import History, Rolls, begin, execute, follow, property_test, rolls
from workflow_engine.definition.workflow import ERROR, Workflow
from workflow_engine.engine.preconditions.joins import incomplete_join
from workflow_engine.execution.records import JournalRow, Snapshot
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.execution.walk import JournalEntry


@property_test
@given(workflows(), rolls, st.integers(1, 4))
def test_a_join_is_complete_exactly_if_as_many_branches_as_required_came_without_an_error(
    workflow: Workflow, rolls: Rolls, required: int
) -> None:
    graph, trigger, walk, journal = begin(workflow)
    history = History(workflow, trigger)
    history.begin()

    for event in execute(graph, walk, journal, rolls):
        follow(history, graph, event)
        for due in history.due:
            error = incomplete_join(graph, walk, due, required, partial(snapshot, trigger, event.journal))
            came = {edge.source for edge in history.taken(due) if edge.handle != ERROR}
            assert (error is None) == (len(came) >= required)
            if error is not None:
                others = {edge.source for edge in history.edges(target=due) if edge.handle != ERROR} - came
                assert set(error.details["arrived"]) == came
                assert error.details["missing"].keys() == others
                for source, why in error.details["missing"].items():
                    assert _is_true_of(history, event.journal, source, why)


def snapshot(trigger: str, journal: tuple[JournalEntry, ...]) -> Snapshot:
    """Return what Postgres would hold of an execution with this journal."""
    error = b'{"error": {"type": "E", "message": "m"}}'
    rows = (
        JournalRow(entry, error if entry.status is NodeStatus.FAILED else b"1", None) for entry in journal
    )
    now = datetime(2026, 1, 1, tzinfo=UTC)
    status = ExecutionStatus.RUNNING
    return Snapshot(
        "e", "w", 1, "t", trigger, status, True, "f", journal[-1].seq, 1, None, {}, now, {}, {}, tuple(rows)
    )


def _is_true_of(history: History, journal: tuple[JournalEntry, ...], source: str, why: str) -> bool:
    """Return whether a branch has not arrived for this reason."""
    if source in history.skipped:
        return why.startswith("was not reached")
    if source in history.ended:
        return why == "was ended by a merge that went on without it"
    if source not in history.ran:
        return why == "has not arrived yet"
    last = next(entry for entry in reversed(journal) if entry.node_id == source)
    if last.status is NodeStatus.FAILED:
        return why == "failed with E: m"
    return why == (f"left by {last.handles[0]!r}" if last.handles else "ended its branch")

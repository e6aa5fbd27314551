"""An execution is drawn like its graph, with the state of every node, and fits the terminal."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given

from support.graphs import graph, sketch, workflows
from workflow_engine import Execution, ExecutionStatus, NodeExecution, NodeStatus, Workflow
from workflow_engine.cli.drawing.execution_drawing import draw
from workflow_engine.definition.graph import Graph
from workflow_engine.execution.records import JournalRow, Snapshot
from workflow_engine.execution.states import SupersededFor, WaitStatus, WaitType
from workflow_engine.execution.walk import JournalEntry
from workflow_engine.postgres.executions.queries import NodeWait
from workflow_engine.presentation.execution_view import ExecutionView, Run, view_execution
from workflow_engine.presentation.graph_layout import place
from workflow_engine.presentation.phrases import age, compact_json, duration, sanitise
from workflow_engine.redis.lock import Holder

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

SHOP = sketch(
    "start -> check",
    "check -true-> charge",
    "check -false-> backorder",
    "charge -> receipt",
    "charge -error-> refund",
    "receipt -> done",
    "refund -> done",
    "backorder -> done",
    "done -> mail",
)


def lines_of(drawn: Graph, trigger: str = "start") -> list[str]:
    return [
        each.lead
        + " ".join((*each.branch, each.node_id))
        + (f" <- {','.join(each.sources)}" if each.sources else "")
        for each in place(drawn, trigger)
    ]


# -- where nodes stand -------------------------------------------------------------------------------------


def test_a_chain_stays_on_one_level() -> None:
    assert lines_of(graph("start -> a", "a -> b", "b -> c")) == ["start", "a", "b", "c"]


def test_branches_are_indented_and_their_join_is_not() -> None:
    assert lines_of(Graph.of(SHOP)) == [
        "start",
        "check",
        "├─ true charge",
        "│  └─ error refund",
        "│  receipt",
        "└─ false backorder",
        "done <- receipt,refund,backorder",
        "mail",
    ]


def test_an_edge_past_a_branch_leads_to_the_join() -> None:
    assert lines_of(graph("start -> c", "c -true-> a", "a -> m", "c -false-> m")) == [
        "start",
        "c",
        "└─ true a",
        "m <- a,c",
    ]


def test_ways_that_are_all_taken_are_drawn_as_branches_without_a_name() -> None:
    assert lines_of(graph("start -> a", "start -> b", "a -> m", "b -> m")) == [
        "start",
        "├─ a",
        "└─ b",
        "m <- a,b",
    ]


def test_the_trigger_that_was_used_comes_first() -> None:
    drawn = graph("one -> m", "two -> m", triggers=("one", "two"))

    assert lines_of(drawn, "two") == ["two", "one", "m <- one,two"]


def test_a_very_long_chain_of_conditions_is_drawn() -> None:
    ways = [
        f"c{i} -{name}-> {target}"
        for i in range(1500)
        for name, target in (("true", f"a{i}"), ("false", f"c{i + 1}"))
    ]

    assert len(lines_of(graph("start -> c0", *ways))) == 1500 * 2 + 2


@given(workflows())
def test_every_node_is_drawn_once_and_after_what_leads_to_it(workflow: Workflow) -> None:
    drawn = Graph.of(workflow)

    order = [each.node_id for each in place(drawn, drawn.triggers[-1])]

    assert sorted(order) == sorted(drawn.nodes)
    assert all(
        order.index(edge.source) < order.index(edge.target)
        for edges in drawn.incoming.values()
        for edge in edges
    )


# -- what is known -----------------------------------------------------------------------------------------


def row(
    seq: int, node_id: str, status: NodeStatus = NodeStatus.COMPLETED, *handles: str, **more: Any
) -> NodeExecution:
    given: dict[str, Any] = {
        "visit": 1,
        "attempt": 1,
        "superseded_by": None,
        "input_data": None,
        "error": None,
        "error_details": None,
        "worker": "host:7",
        "duration_ms": 12,
        **more,
    }
    return NodeExecution(
        seq=seq,
        node_id=node_id,
        label=None,
        type="action",
        sub_type="function",
        status=status,
        handles=handles or (() if status is NodeStatus.FAILED else ("",)),
        variables=None,
        output_data=None,
        started_at=NOON,
        completed_at=NOON,
        **given,
    )


def seen(
    status: ExecutionStatus,
    *rows: NodeExecution,
    workflow: Workflow = SHOP,
    holder: Holder | None = None,
    **more: Any,
) -> ExecutionView:
    execution = Execution(
        id="0199aaaa-0000-7000-8000-000000000001",
        workflow_id="shop",
        version=3,
        trigger_id="t",
        trigger_node_id="start",
        status=status,
        seq=len(rows),
        nodes_executed=len(rows) - 1,
        error=None,
        error_details=None,
        idempotency_key=None,
        created_at=NOON,
        started_at=NOON,
        completed_at=NOON if status.is_finished else None,
        duration_ms=1240 if status.is_finished else None,
    )
    execution = dataclasses.replace(execution, **more)
    entries = tuple(
        JournalRow(
            JournalEntry(each.seq, each.node_id, each.visit, each.attempt, each.status, each.handles),
            None,
            None,
        )
        for each in rows
        if each.superseded_by is None
    )
    snapshot = Snapshot(
        execution_id=execution.id,
        workflow_id="shop",
        version=3,
        trigger_id="t",
        trigger_node_id="start",
        status=status,
        has_begun=True,
        fence="f",
        seq=len(rows),
        format=1,
        priority=None,
        crashes={},
        read_at=datetime.now(UTC),
        metadata={},
        visits={},
        journal=entries,
    )
    return view_execution(execution, workflow, snapshot, rows, [Run(holder)] if holder else ())


def statuses(view: ExecutionView) -> dict[str, str | None]:
    return {node.id: node.status for node in view.nodes}


def test_nodes_that_no_taken_way_leads_to_are_skipped() -> None:
    view = seen(
        ExecutionStatus.RUNNING,
        row(1, "start"),
        row(2, "check", NodeStatus.COMPLETED, "true"),
        row(3, "charge"),
    )

    assert statuses(view) == {
        "start": "COMPLETED",
        "check": "COMPLETED",
        "charge": "COMPLETED",
        "refund": "SKIPPED",
        "receipt": None,
        "backorder": "SKIPPED",
        "done": None,
        "mail": None,
    }
    assert [node.id for node in view.nodes if node.is_due] == ["receipt"]


def test_who_holds_the_lock_runs_the_node_that_is_due() -> None:
    holder = Holder(token="t", instance="worker-1", process=42, task_id="x", since=NOON.isoformat())

    view = seen(ExecutionStatus.PENDING, row(1, "start"), holder=holder)

    running = next(node for node in view.nodes if node.status is NodeStatus.RUNNING)
    assert (running.id, running.worker, running.started_at) == ("check", "worker-1:42", NOON)


def test_what_an_ended_execution_still_had_to_do_is_cancelled() -> None:
    view = seen(ExecutionStatus.CANCELLED, row(1, "start"), row(2, "check", NodeStatus.COMPLETED, "true"))

    assert statuses(view)["charge"] == "CANCELLED"
    assert not any(node.is_due for node in view.nodes)


def test_after_a_rerun_the_new_visit_is_shown() -> None:
    view = seen(
        ExecutionStatus.RUNNING,
        row(1, "start"),
        row(2, "check", NodeStatus.COMPLETED, "true", superseded_by=3, superseded_for=SupersededFor.RERUN),
        row(4, "check", NodeStatus.COMPLETED, "false", visit=2),
    )

    check = next(node for node in view.nodes if node.id == "check")
    assert (check.visit, check.handles) == (2, ("false",))
    assert statuses(view)["charge"] == "SKIPPED"


# -- how it reads ------------------------------------------------------------------------------------------


def drawn(view: ExecutionView, width: int = 100) -> str:
    return "\n".join(line.plain for line in draw(view, None, width))


def test_an_error_stands_under_its_node_within_the_guides() -> None:
    failed = row(
        3,
        "charge",
        NodeStatus.FAILED,
        error="card refused\nask the bank",
        error_details={"type": "CardError"},
    )

    drawing = drawn(
        seen(
            ExecutionStatus.FAILED,
            row(1, "start"),
            row(2, "check", NodeStatus.COMPLETED, "true"),
            failed,
            error="card refused\nask the bank",
            error_details={"nodeId": "charge"},
        )
    )

    assert "error      charge: card refused" in drawing
    assert "│    CardError: card refused\n│    ask the bank\n│  └─ error · refund" in drawing


def test_what_the_author_of_a_failed_node_needs_stands_at_the_end() -> None:
    failed = row(
        3,
        "charge",
        NodeStatus.FAILED,
        attempt=2,
        input_data={"arguments": {"card": "***"}},
        error="refused",
        error_details={
            "type": "CardError",
            "status": 402,
            "details": {"code": 7},
            "traceback": "Traceback …:\n  \x1b[31mred\nCardError: refused\n",
        },
    )

    drawing = drawn(
        seen(
            ExecutionStatus.FAILED,
            row(1, "start"),
            row(2, "check", NodeStatus.COMPLETED, "true"),
            failed,
            error="refused",
        )
    )

    assert drawing.endswith(
        "\n\ncharge CardError 402, attempt 2\n"
        'input      {"arguments": {"card": "***"}}\n'
        'details    {"code": 7}\n'
        "Traceback …:\n  \ufffd[31mred\nCardError: refused"
    )


@pytest.mark.parametrize(
    ("wait", "text"),
    [
        (
            NodeWait(WaitType.DELAY, WaitStatus.WAITING, NOON, None, None, (), ()),
            "until 2026-01-01 12:00:00 UTC",
        ),
        (
            NodeWait(WaitType.RETRY, WaitStatus.WAITING, NOON, None, None, (), ()),
            "next attempt 2026-01-01 12:00:00 UTC",
        ),
        (
            NodeWait(WaitType.EVENTS, WaitStatus.WAITING, None, NOON, "7", ("paid", "sent"), ("sent",)),
            "for paid with '7' until 2026-01-01 12:00:00 UTC, received sent",
        ),
        (
            NodeWait(WaitType.EVENTS, WaitStatus.RESUMING, None, None, "7", ("paid",), ("paid",)),
            "for paid with '7' (over)",
        ),
    ],
)
def test_what_a_node_waits_for_stands_under_it_while_it_waits(wait: NodeWait, text: str) -> None:
    waits = row(2, "check", NodeStatus.WAITING, wait=wait)
    went_on = row(3, "check", NodeStatus.COMPLETED, "true")

    assert f"  {text}" in drawn(seen(ExecutionStatus.WAITING, row(1, "start"), waits))
    assert f"  {text}" not in drawn(seen(ExecutionStatus.RUNNING, row(1, "start"), waits, went_on))


def test_a_join_names_the_nodes_that_it_was_reached_from() -> None:
    drawing = drawn(
        seen(
            ExecutionStatus.COMPLETED,
            row(1, "start"),
            row(2, "check", NodeStatus.COMPLETED, "false"),
            row(3, "backorder"),
            row(4, "done"),
            row(5, "mail"),
            result={"sent": True},
        )
    )

    assert "✔ done ← backorder " in drawing
    assert 'result     {"sent": true}' in drawing
    assert "took 1.24 s, 4 nodes run" in drawing


@pytest.mark.parametrize("width", [40, 60, 100, 1000])
def test_no_line_of_a_node_is_wider_than_the_terminal_if_its_columns_fit(width: int) -> None:
    label = "a label that is much too long for what is left of the line" * 3
    workflow = SHOP.model_copy(
        update={"nodes": tuple(node.model_copy(update={"label": label}) for node in SHOP.nodes)}
    )

    lines = drawn(seen(ExecutionStatus.RUNNING, row(1, "start"), workflow=workflow), width).splitlines()

    nodes = lines[lines.index("") + 2 :]
    assert len(nodes) == len(SHOP.nodes)
    assert max(map(len, nodes)) <= max(width, 24 + 40)


def test_control_sequences_in_errors_do_not_reach_the_terminal() -> None:
    failed = row(2, "check", NodeStatus.FAILED, error="\x1b]0;owned\x07\x1b[2J")

    drawing = drawn(seen(ExecutionStatus.FAILED, row(1, "start"), failed, error="\x1b[2J"))

    assert "\x1b" not in drawing
    assert "\x07" not in drawing


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (None, ""),
        (0, "0 ms"),
        (999, "999 ms"),
        (1240, "1.24 s"),
        (59_999, "1 min"),
        (185_000, "3 min 5 s"),
        (3_600_000, "1 h"),
        (187_200_000, "2 d 4 h"),
    ],
)
def test_durations_are_written_in_the_unit_that_fits(milliseconds: int | None, expected: str) -> None:
    assert duration(milliseconds) == expected


def test_the_age_of_what_is_yet_to_come_is_nought() -> None:
    assert age(NOON + timedelta(seconds=5), now=NOON) == "0 s"
    assert age(NOON, now=NOON + timedelta(hours=5, minutes=59)) == "5 h"


def test_long_values_are_cut_and_say_so() -> None:
    assert compact_json({"a": 1}) == '{"a": 1}'
    assert compact_json("x" * 5000).endswith("(5,002 characters; --json has them all)")


def test_printable_keeps_what_people_write() -> None:
    assert sanitise("Größe ✔ 日本\nnext") == "Größe ✔ 日本\nnext"

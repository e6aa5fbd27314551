"""One execution: its graph, what happened when, its context at any step, and the values of one node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import tornado.web

from workflow_engine.client import happened_at
from workflow_engine.control.explain import Explanation
from workflow_engine.definition.graph import Graph
from workflow_engine.errors import CacheUnavailable
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.flower.actions import ACTIONS, actions_on, actions_on_node
from workflow_engine.flower.desk import Answers
from workflow_engine.flower.drawing.timeline import Timeline, draw_timeline
from workflow_engine.flower.page import Page
from workflow_engine.nodes.results import TRACEBACK
from workflow_engine.postgres.executions.moves import ExecutionEvent
from workflow_engine.postgres.executions.queries import Execution, NodeExecution, NodeLog
from workflow_engine.postgres.limits import SlotStanding
from workflow_engine.postgres.lookups.steps import ContextAt, RowValues
from workflow_engine.presentation.execution_view import (
    ExecutionView,
    NodeView,
    Run,
    view_as_of,
    view_execution,
)
from workflow_engine.presentation.graph_drawing import GraphDrawing, draw_graph
from workflow_engine.presentation.phrases import sanitise

MOST_ROWS = 300
"""Lines of the history that are listed."""


@dataclass(frozen=True)
class ExecutionReport:
    """Everything that the page shows, as it was read."""

    execution: Execution
    view: ExecutionView
    drawing: GraphDrawing
    timeline: Timeline | None
    history: Sequence[tuple[datetime, NodeExecution | ExecutionEvent]]
    """Journal rows and events with their times, the oldest first; of a long history the last part."""
    selected: NodeView | None
    rows: Sequence[NodeExecution]
    """The selected node's."""
    row: NodeExecution | None
    """The one whose values are shown."""
    values: RowValues | None
    log: str
    """What the attempt of that row has logged, if that was kept."""
    context: ContextAt | None
    explanation: Explanation | None
    """Why it does not move, if it has not ended."""
    seq: int | None
    """The step that the page is set back to; None: the present."""
    last_seq: int
    slots: Sequence[SlotStanding]
    """The slots of limits that it and its nodes hold or wait for."""


class ExecutionPage(Page):
    """The page of an execution; node, row and step are in its address."""

    @tornado.web.authenticated
    async def get(self, execution_id: str) -> None:
        seq, node_id, row_seq = self.number("seq"), self.text("node") or None, self.number("row")
        standing, runs = await self.ask(
            lambda answers: (answers.steps.standing(execution_id), _runs(answers, execution_id))
        )
        if self.is_unchanged(standing, runs, seq, node_id, row_seq):
            return
        report = await self.ask(lambda answers: _report(answers, execution_id, runs, seq, node_id, row_seq))
        node = report.selected if seq is None else None
        self.show(
            "engine_execution.html",
            report=report,
            execution=report.execution,
            actions=ACTIONS,
            operations=actions_on(report.execution),
            node_operations=actions_on_node(report.execution, node) if node is not None else [],
            traceback_key=TRACEBACK,
            node_statuses=NodeStatus,
            done=self.text("done") if self.text("done") in ACTIONS else "",
        )


class ValuePage(Page):
    """The values of one journal row as JSON, of any size."""

    @tornado.web.authenticated
    async def get(self, execution_id: str, seq: str) -> None:
        values = await self.ask(
            lambda answers: answers.steps.values(execution_id, int(seq), largest=2**31 - 1)
        )
        if values is None:
            raise tornado.web.HTTPError(404, "The journal has no such row")
        content = {"input": values.input.value, "output": values.output.value, "variables": values.variables}
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Content-Disposition", f'attachment; filename="{UUID(execution_id)}-{int(seq)}.json"')
        self.write(json.dumps(content, ensure_ascii=False, indent=1))


def _runs(answers: Answers, execution_id: str) -> list[Run]:
    """Return what is running now; nothing while Redis is away."""
    with suppress(CacheUnavailable):
        engine = answers.engine
        return [
            Run(holder, engine.running_nodes.progress(execution_id, holder))
            for holder in engine.locks.holders(execution_id)
        ]
    return []


def _report(
    answers: Answers,
    execution_id: str,
    runs: Sequence[Run],
    seq: int | None,
    node_id: str | None,
    row_seq: int | None,
) -> ExecutionReport:
    engine = answers.engine
    execution = answers.client.get(execution_id)
    workflow = engine.workflows.get(execution.workflow_id, execution.version).workflow
    journal = engine.queries.journal(execution_id, with_values=False)
    children = engine.queries.child_counts(execution_id)
    last_seq = journal[-1].seq if journal else 1
    if seq is None:
        snapshot = engine.state.load_snapshot(execution.id, with_outputs=False)
        view = view_execution(execution, workflow, snapshot, journal, runs, children)
        shown: Sequence[NodeExecution] = journal
    else:
        seq = max(1, min(seq, last_seq))
        view = view_as_of(execution, workflow, journal, seq, children)
        shown = [row for row in journal if row.seq <= seq]
    running = [node for node in view.nodes if node.status is NodeStatus.RUNNING] if seq is None else []
    selected = _selected(view, node_id, running)
    rows = [row for row in shown if selected is not None and row.node_id == selected.id]
    row = next((each for each in rows if each.seq == row_seq), rows[-1] if rows else None)
    return ExecutionReport(
        execution=execution,
        view=view,
        drawing=draw_graph(Graph.of(workflow), view.nodes, view.places),
        timeline=draw_timeline(shown, running, datetime.now(UTC)),
        history=_history(shown, answers.client.control.audit(execution.id)),
        selected=selected,
        rows=rows,
        row=row,
        values=answers.steps.values(execution.id, row.seq) if row is not None else None,
        log=_log(engine.queries.logs(execution.id, seq=row.seq)) if row is not None else "",
        context=answers.steps.context_at(execution.id, seq if seq is not None else last_seq),
        explanation=None
        if execution.is_finished or seq is not None
        else answers.client.explain(execution.id),
        seq=seq,
        last_seq=last_seq,
        slots=() if execution.is_finished else engine.limits.standing(execution.id),
    )


def _log(logs: Sequence[NodeLog]) -> str:
    parts = []
    for log in logs:
        if log.dropped:
            parts.append(f"… {log.dropped:,} lines before these were not kept")
        for line in log.lines:
            parts.append(f"{line.time} {line.level} {line.logger}: {line.message}")
            parts += [line.exception] if line.exception else []
    return sanitise("\n".join(parts))


def _history(
    journal: Sequence[NodeExecution], events: Sequence[ExecutionEvent]
) -> list[tuple[datetime, NodeExecution | ExecutionEvent]]:
    both: list[NodeExecution | ExecutionEvent] = [*journal, *events]
    entries = [(happened_at(entry), entry) for entry in both]
    return sorted(entries, key=lambda entry: (entry[0], entry[1].seq or 0))[-MOST_ROWS:]


def _selected(view: ExecutionView, node_id: str | None, running: Sequence[NodeView]) -> NodeView | None:
    """Return the node that is asked for, or else the one that a reader most likely looks for."""
    by_id = {node.id: node for node in view.nodes}
    if node_id in by_id:
        return by_id[node_id]
    if view.execution.status is ExecutionStatus.FAILED:
        failed = by_id.get((view.execution.error_details or {}).get("nodeId", ""))
        if failed is not None:
            return failed
    if running:
        return running[0]
    wanted = (NodeStatus.FAILED, NodeStatus.RETRYING, NodeStatus.WAITING)
    for status in wanted:
        if (found := next((node for node in view.nodes if node.status is status), None)) is not None:
            return found
    done = [node for node in view.nodes if node.completed_at is not None]
    return max(done, key=lambda node: node.completed_at or datetime.min.replace(tzinfo=UTC), default=None)

"""Draws an execution on a terminal: a header, a line for each node, indented by branch, and its failures.

It is made of text and not of rich's tables, because an error or a long label takes the terminal's whole width
under its node. It reads the same without colours and in a file: every colour repeats what a word says.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from workflow_engine.cli.styles import STATUS_STYLES
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.nodes.results import TRACEBACK
from workflow_engine.postgres.executions.queries import Execution
from workflow_engine.presentation.execution_view import ExecutionView, NodeView
from workflow_engine.presentation.graph_layout import PlacedNode
from workflow_engine.presentation.phrases import (
    age,
    compact_json,
    describe_wait,
    duration,
    instant,
    quantity,
    sanitise,
)

MARKS = {
    NodeStatus.COMPLETED: "✔",
    NodeStatus.FAILED: "✘",
    NodeStatus.RUNNING: "▶",
    NodeStatus.WAITING: "◷",
    NodeStatus.RETRYING: "↻",
    NodeStatus.SKIPPED: "○",
    NodeStatus.CANCELLED: "⊘",
    None: "·",
}
HEADINGS = ("NODE", "STATUS", "TOOK", "ATTEMPT", "WORKER")
GAP = "  "
LONGEST_ERROR = 6
"""Lines of one error that are drawn."""


def draw(view: ExecutionView, variables: Mapping[str, Any] | None, width: int) -> list[Text]:
    """Return the lines of the drawing, `width` columns wide, with the context's variables if given."""
    lines = [header(view.execution)]
    if variables is not None:
        lines.append(_variables(variables))
    return [*lines, Text(), *_node_lines(view, width), *_failures(view)]


def header(execution: Execution) -> Text:
    """Return the lines about the execution as a whole."""
    status = execution.status
    head = Text.assemble(
        (execution.workflow_id, "bold"),
        f" version {execution.version}  ",
        (status, STATUS_STYLES[status]),
        f"\n{execution.id}",
        f"\nstarted {instant(execution.created_at)} ({age(execution.created_at)} ago)",
    )
    if execution.is_finished:
        head.append(f", took {duration(execution.duration_ms)}" if execution.duration_ms is not None else "")
    head.append(f", {quantity(execution.nodes_executed, 'node')} run")
    if execution.parent_id is not None:
        place = f"{execution.parent_node_id}[{execution.parent_index}]"
        root = f", root {execution.root_id}" if execution.root_id != execution.parent_id else ""
        head.append(f"\nparent     {execution.parent_id}, as {place}{root}")
    if execution.idempotency_key:
        head.append(f"\nkey        {sanitise(execution.idempotency_key)}")
    if execution.metadata:
        head.append(f"\nmetadata   {compact_json(dict(execution.metadata))}")
    if execution.tags:
        head.append(f"\ntags       {sanitise(', '.join(execution.tags))}")
    if execution.breakpoints and not execution.is_finished:
        head.append(f"\nbreakpoint before {sanitise(', '.join(execution.breakpoints))}")
    if execution.error:
        where = (execution.error_details or {}).get("nodeId")
        first = sanitise(execution.error).split("\n", 1)[0]
        head.append(f"\nerror      {f'{where}: ' if where else ''}{first}", "red")
    if status is ExecutionStatus.COMPLETED:
        head.append(f"\nresult     {compact_json(execution.result)}")
    return head


def _variables(variables: Mapping[str, Any]) -> Text:
    lines = [f"{sanitise(name)} = {compact_json(value)}" for name, value in variables.items()]
    return Text(
        "\n".join(f"{'variables' if not i else '':10} {line}" for i, line in enumerate(lines or ["none"]))
    )


def _node_lines(view: ExecutionView, width: int) -> Iterator[Text]:
    rows = [
        (_title(node, where), _columns(node)) for node, where in zip(view.nodes, view.places, strict=True)
    ]
    widths = [
        max(cell_len(heading), *(cell_len(columns[i]) for _, columns in rows))
        for i, heading in enumerate(HEADINGS[1:])
    ]
    used = sum(widths) + len(GAP) * len(widths)
    room = max(cell_len(HEADINGS[0]), min(max(title.cell_len for title, _ in rows), width - used))
    room = max(room, 24)  # a narrower terminal wraps lines, which is better than losing the names
    yield _line(Text(HEADINGS[0]), HEADINGS[1:], room, widths, "dim")
    for node, where, (title, columns) in zip(view.nodes, view.places, rows, strict=True):
        yield _line(
            title, columns, room, widths, "dim" if _is_faint(node) else STATUS_STYLES.get(columns[0], "")
        )
        yield from _progress_line(node, where)
        yield from _wait_line(node, where)
        yield from _children_line(node, where)
        yield from _error_lines(node, where, width)


def _line(title: Text, columns: Sequence[str], room: int, widths: Sequence[int], style: str) -> Text:
    line = title.copy()
    line.truncate(room, overflow="ellipsis", pad=True)
    for i, (column, wide) in enumerate(zip(columns, widths, strict=True)):
        line.append(GAP)
        line.append(column.ljust(wide), style if i == 0 else "")
    if style == "dim":
        line.stylize("dim")
    line.rstrip()
    return line


def _title(node: NodeView, where: PlacedNode) -> Text:
    title = Text.assemble((where.lead, "dim"))
    for name in where.branch:
        title.append(f"{name} ", "magenta")
    title.append(f"{MARKS[node.status]} ", STATUS_STYLES.get(node.status or "", "dim"))
    title.append(node.id, "" if _is_faint(node) else "bold")
    if where.sources:
        title.append(f" ← {', '.join(node.sources)}", "dim")
    if node.label:
        title.append(f"  {sanitise(node.label)}", "dim")
    return title


def _columns(node: NodeView) -> tuple[str, str, str, str]:
    took = duration(node.duration_ms)
    if node.status is NodeStatus.RUNNING and node.started_at is not None:
        took = duration(max(0.0, (datetime.now(UTC) - node.started_at).total_seconds() * 1000))
    attempt = str(node.attempt) if node.attempt is not None else ""
    if node.visit is not None and node.visit > 1:
        attempt += f" (visit {node.visit})"
    status = node.status.value if node.status else "due" if node.is_due else ""
    return status, took, attempt, sanitise(node.worker or "")


def _progress_line(node: NodeView, where: PlacedNode) -> Iterator[Text]:
    if node.progress is None:
        return
    parts = [f"{node.progress.fraction:.0%}"] if node.progress.fraction is not None else []
    parts += [sanitise(node.progress.message)] if node.progress.message else []
    when = age(datetime.fromisoformat(node.progress.at))
    yield Text.assemble((f"{where.follow}  ", "dim"), " · ".join(parts), (f"  {when} ago", "dim"))


def _wait_line(node: NodeView, where: PlacedNode) -> Iterator[Text]:
    if node.wait is not None and node.status in (NodeStatus.WAITING, NodeStatus.RETRYING):
        yield Text.assemble((f"{where.follow}  ", "dim"), describe_wait(node.wait))


def _children_line(node: NodeView, where: PlacedNode) -> Iterator[Text]:
    """Yield `✔ 812 · ▶ 8 · ✘ 3 of 1,000`: children that have completed, that run, and that have failed."""
    if (children := node.children) is None:
        return
    ended = {ExecutionStatus.COMPLETED: "✔", ExecutionStatus.FAILED: "✘", ExecutionStatus.CANCELLED: "⊘"}
    marks = dict.fromkeys(("✔", "▶", "✘", "⊘"), 0)
    for status, count in children.counts.items():
        marks[ended.get(ExecutionStatus(status), "▶")] += count
    parts = [f"{mark} {count:,}" for mark, count in marks.items() if count]
    text = f"{' · '.join(parts) or 'none'} of {children.total:,}"
    yield Text.assemble((f"{where.follow}  ", "dim"), text)


def _error_lines(node: NodeView, where: PlacedNode, width: int) -> Iterator[Text]:
    if not node.error:
        return
    kind = (node.error_details or {}).get("type")
    lines = sanitise(f"{f'{kind}: ' if kind else ''}{node.error}").split("\n")
    if len(lines) > LONGEST_ERROR:
        lines[LONGEST_ERROR - 1 :] = [f"… {quantity(len(lines) - LONGEST_ERROR + 1, 'more line')}"]
    guide = f"{where.follow}  "
    for line in lines:
        for part in textwrap.wrap(line, max(20, width - len(guide))) or [""]:
            yield Text.assemble((guide, "dim"), (part, "red"))


def _failures(view: ExecutionView) -> Iterator[Text]:
    """Yield what the author of a failed node needs: its input, and where it failed."""
    for node in view.nodes:
        parts = node.error_details or {}
        trace, details = parts.get(TRACEBACK), parts.get("details")
        if not node.error or not (trace or details or node.input_data is not None):
            continue
        attempt = f", attempt {node.attempt}" if node.attempt is not None and node.attempt > 1 else ""
        yield Text()
        kind = sanitise(" ".join(str(parts[name]) for name in ("type", "status") if name in parts))
        yield Text.assemble((node.id, "bold"), f" {kind or 'failed'}{attempt}")
        if node.input_data is not None:
            yield Text(f"input      {compact_json(node.input_data)}")
        if details:
            yield Text(f"details    {compact_json(details)}")
        if isinstance(trace, str):
            yield Text(sanitise(trace).rstrip("\n"), "red")


def _is_faint(node: NodeView) -> bool:
    return node.status in (NodeStatus.SKIPPED, NodeStatus.CANCELLED, None) and not node.is_due

"""Draws an execution on a terminal: a header, then one line a node, indented by branch.

Made of text and not of a table of rich's, because an error or a long label takes the whole width of the
terminal under its node. Without colours and in a file it reads the same: what a colour says, a word says.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from workflow_engine.cli.execution_view import ExecutionView, NodeView
from workflow_engine.cli.graph_layout import PlacedNode
from workflow_engine.cli.phrases import (
    STATUS_STYLES,
    age,
    awaited,
    compact_json,
    counted,
    duration,
    instant,
    printable,
)
from workflow_engine.execution_queries import Execution
from workflow_engine.states import ExecutionStatus, NodeStatus

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
    """The whole drawing in so many columns; `variables` are those of the context, if they were asked for."""
    lines = [header(view.execution)]
    if variables is not None:
        lines.append(_variables(variables))
    return [*lines, Text(), *_node_lines(view, width)]


def header(execution: Execution) -> Text:
    """What an execution is and what has become of it."""
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
    head.append(f", {counted(execution.nodes_executed, 'node')} run")
    if execution.idempotency_key:
        head.append(f"\nkey        {printable(execution.idempotency_key)}")
    if execution.error:
        where = (execution.error_details or {}).get("nodeId")
        first = printable(execution.error).split("\n", 1)[0]
        head.append(f"\nerror      {f'{where}: ' if where else ''}{first}", "red")
    if status is ExecutionStatus.COMPLETED:
        head.append(f"\nresult     {compact_json(execution.result)}")
    return head


def _variables(variables: Mapping[str, Any]) -> Text:
    lines = [f"{printable(name)} = {compact_json(value)}" for name, value in variables.items()]
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
    room = max(room, 24)  # a narrower terminal wraps lines, which is better than to lose the names
    yield _line(Text(HEADINGS[0]), HEADINGS[1:], room, widths, "dim")
    for node, where, (title, columns) in zip(view.nodes, view.places, rows, strict=True):
        yield _line(
            title, columns, room, widths, "dim" if _is_faint(node) else STATUS_STYLES.get(columns[0], "")
        )
        yield from _progress_line(node, where)
        yield from _wait_line(node, where)
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
        title.append(f"  {printable(node.label)}", "dim")
    return title


def _columns(node: NodeView) -> tuple[str, str, str, str]:
    took = duration(node.duration_ms)
    if node.status is NodeStatus.RUNNING and node.started_at is not None:
        took = duration(max(0.0, (datetime.now(UTC) - node.started_at).total_seconds() * 1000))
    attempt = str(node.attempt) if node.attempt is not None else ""
    if node.visit is not None and node.visit > 1:
        attempt += f" (visit {node.visit})"
    status = node.status.value if node.status else "due" if node.is_due else ""
    return status, took, attempt, printable(node.worker or "")


def _progress_line(node: NodeView, where: PlacedNode) -> Iterator[Text]:
    if node.progress is None:
        return
    parts = [f"{node.progress.fraction:.0%}"] if node.progress.fraction is not None else []
    parts += [printable(node.progress.message)] if node.progress.message else []
    when = age(datetime.fromisoformat(node.progress.at))
    yield Text.assemble((f"{where.follow}  ", "dim"), " · ".join(parts), (f"  {when} ago", "dim"))


def _wait_line(node: NodeView, where: PlacedNode) -> Iterator[Text]:
    if node.wait is not None and node.status in (NodeStatus.WAITING, NodeStatus.RETRYING):
        yield Text.assemble((f"{where.follow}  ", "dim"), awaited(node.wait))


def _error_lines(node: NodeView, where: PlacedNode, width: int) -> Iterator[Text]:
    if not node.error:
        return
    kind = (node.error_details or {}).get("type")
    lines = printable(f"{f'{kind}: ' if kind else ''}{node.error}").split("\n")
    if len(lines) > LONGEST_ERROR:
        lines[LONGEST_ERROR - 1 :] = [f"… {counted(len(lines) - LONGEST_ERROR + 1, 'more line')}"]
    guide = f"{where.follow}  "
    for line in lines:
        for part in textwrap.wrap(line, max(20, width - len(guide))) or [""]:
            yield Text.assemble((guide, "dim"), (part, "red"))


def _is_faint(node: NodeView) -> bool:
    return node.status in (NodeStatus.SKIPPED, NodeStatus.CANCELLED, None) and not node.is_due

"""The attempts and waits of an execution as bars on one line for each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from workflow_engine.client import happened_at
from workflow_engine.execution.states import NodeStatus
from workflow_engine.postgres.executions.queries import NodeExecution
from workflow_engine.presentation.execution_view import NodeView
from workflow_engine.presentation.phrases import duration, instant

WIDTH = 1_000
"""Units across; the page stretches them."""

NARROWEST = 4
MOST_NODES = 100


@dataclass(frozen=True)
class Bar:
    """An attempt, or a wait."""

    x: float
    width: float
    kind: str
    """A status of a node, or `wait`."""
    text: str
    seq: int | None


@dataclass
class TimelineRow:
    """All that one node did."""

    node_id: str
    bars: list[Bar] = field(default_factory=list)


@dataclass(frozen=True)
class Timeline:
    """The rows, and the times at their two ends."""

    rows: Sequence[TimelineRow]
    start: datetime
    end: datetime
    ticks: Sequence[str]
    """What the quarters of the line stand for, from the start."""
    nodes_left_out: int


def draw_timeline(
    journal: Sequence[NodeExecution], running: Sequence[NodeView], now: datetime
) -> Timeline | None:
    """Return the timeline of journal rows and of nodes that run now; None if nothing has happened."""
    if not journal:
        return None
    later = _next_rows(journal)
    start = journal[0].started_at
    end = max([*map(happened_at, journal), *([now] if running or _is_open(journal) else [])])
    length = max((end - start).total_seconds(), 0.001)

    def bar(begins: datetime, ends: datetime, kind: str, text: str, seq: int | None) -> Bar:
        x = max(0.0, (begins - start).total_seconds()) / length * WIDTH
        wide = max(NARROWEST, (ends - begins).total_seconds() / length * WIDTH)
        return Bar(
            round(min(x, WIDTH - NARROWEST), 1), round(min(wide, WIDTH - x + NARROWEST), 1), kind, text, seq
        )

    rows: dict[str, TimelineRow] = {}
    for row in journal:
        line = rows.setdefault(row.node_id, TimelineRow(row.node_id))
        ended = happened_at(row)
        began = ended - timedelta(milliseconds=row.duration_ms or 0)
        if row.wait is not None or row.status is NodeStatus.RETRYING:
            follower = later.get(row.seq)
            until = (
                happened_at(follower) - timedelta(milliseconds=follower.duration_ms or 0) if follower else end
            )
            text = (
                f"#{row.seq} waits from {instant(ended)}: {duration((until - ended).total_seconds() * 1000)}"
            )
            line.bars.append(bar(ended, until, "wait", text, row.seq))
        attempt = f", attempt {row.attempt}" if row.attempt > 1 else ""
        text = f"#{row.seq} {row.status}{attempt}, {instant(began)}, {duration(row.duration_ms or 0)}"
        line.bars.append(bar(began, ended, row.status.value, text, row.seq))
    for node in running:
        if node.started_at is not None:
            line = rows.setdefault(node.id, TimelineRow(node.id))
            text = f"RUNNING since {instant(node.started_at)}"
            line.bars.append(bar(node.started_at, now, "RUNNING", text, None))
    ticks = [duration(length * 1000 * quarter / 4) for quarter in range(5)]
    shown = list(rows.values())[:MOST_NODES]
    return Timeline(shown, start, end, ticks, len(rows) - len(shown))


def _next_rows(journal: Sequence[NodeExecution]) -> Mapping[int, NodeExecution]:
    """Return, for the `seq` of each row, the next row of the same node."""
    following: dict[int, NodeExecution] = {}
    latest: dict[str, NodeExecution] = {}
    for row in journal:
        if (before := latest.get(row.node_id)) is not None:
            following[before.seq] = row
        latest[row.node_id] = row
    return following


def _is_open(journal: Sequence[NodeExecution]) -> bool:
    latest = {row.node_id: row for row in journal}
    return any(
        row.status in (NodeStatus.WAITING, NodeStatus.RETRYING) and row.superseded_by is None
        for row in latest.values()
    )

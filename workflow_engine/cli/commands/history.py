"""`events`: the history of an execution: what its nodes did, and what was done to it from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.styles import STATUS_STYLES
from workflow_engine.client import WorkflowClient, happened_at
from workflow_engine.postgres.executions.moves import ExecutionEvent
from workflow_engine.postgres.executions.queries import NodeExecution
from workflow_engine.presentation.phrases import (
    compact_json,
    describe_wait,
    duration,
    instant,
    sanitise,
)

Entry = NodeExecution | ExecutionEvent


@command("events")
@click.argument("execution")
def events(invocation: Invocation, execution: str) -> None:
    """Show what happened to an execution, and who did it.

    Lists the journal of its nodes with attempts and waits, the events it received and the moves of
    operators, in the order of time.
    """
    history = WorkflowClient(engine=invocation.engine()).history(execution)
    invocation.output({"history": [_as_value(entry) for entry in history]}, _table(history))


def _as_value(entry: Entry) -> dict[str, Any]:
    kind = "event" if isinstance(entry, ExecutionEvent) else "node"
    return {"kind": kind, "at": happened_at(entry), **as_object(entry)}


def _table(history: Sequence[Entry]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("TIME", "SEQ", "WHAT", "WHO"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "SEQ" else "left")
    table.add_column("DETAILS", overflow="fold")
    for entry in history:
        seq = "" if entry.seq is None else str(entry.seq)
        if isinstance(entry, ExecutionEvent):
            what, who, details = Text(entry.type, "bold magenta"), entry.actor, _of_event(entry)
        else:
            what, who, details = _what(entry), entry.worker, _of_node(entry)
        table.add_row(instant(happened_at(entry)), seq, what, sanitise(who or ""), " · ".join(details))
    return table


def _what(row: NodeExecution) -> Text:
    what = Text.assemble(sanitise(row.node_id), " ", (row.status.value, STATUS_STYLES.get(row.status, "")))
    if row.superseded_by is not None:
        what.stylize("dim strike")
    return what


def _of_event(event: ExecutionEvent) -> Iterator[str]:
    if event.name:
        yield sanitise(event.name)
    if event.reason:
        yield sanitise(event.reason)
    if event.payload is not None:
        yield compact_json(event.payload, 120)


def _of_node(row: NodeExecution) -> Iterator[str]:
    if row.visit > 1:
        yield f"visit {row.visit}"
    if row.attempt > 1:
        yield f"attempt {row.attempt}"
    if row.error:
        kind = (row.error_details or {}).get("type")
        yield sanitise(f"{kind}: {row.error}" if kind else row.error)
    if row.retry_in_ms is not None:
        rule = "" if row.retry_rule is None else f" by retry[{row.retry_rule}]"
        when = f"after {duration(row.retry_in_ms)}" if row.retry_in_ms else "at once"
        yield f"next attempt {when}{rule}"
    elif row.wait is not None:
        yield describe_wait(row.wait)
    if row.superseded_by is not None:
        yield f"superseded by {row.superseded_by}"

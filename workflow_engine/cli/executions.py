"""`start`, `list` and `show`: executions from their beginning to what became of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.execution_drawing import draw, header
from workflow_engine.cli.execution_view import ExecutionView, view_execution
from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.phrases import STATUS_STYLES, age, duration
from workflow_engine.client import WorkflowClient
from workflow_engine.engine import Engine
from workflow_engine.errors import CacheUnavailable
from workflow_engine.execution_queries import Execution
from workflow_engine.lock import Holder
from workflow_engine.running_nodes import Progress
from workflow_engine.states import ExecutionStatus

WIDE_ENOUGH = 96
"""Columns from which on a list shows all; ids must not be cut, so what `show` tells as well makes room."""


class JsonValue(click.ParamType[Any]):
    """A JSON value; with `from_file`, `@name` reads it from a file and `@-` from standard input."""

    name = "json"

    def __init__(self, *, from_file: bool = False) -> None:
        self._from_file = from_file

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            text = _read(value[1:]) if self._from_file and value.startswith("@") else value
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{value[1:]} cannot be read: {error}", param, ctx)
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            self.fail(
                f"{value} is no JSON ({error}); text needs double quotes inside single ones", param, ctx
            )


class Variable(JsonValue):
    """`name=JSON`."""

    name = "variable"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        name, separator, text = value.partition("=")
        if not name or not separator:
            self.fail(f"{value} has no name and value; write name=JSON", param, ctx)
        return name, super().convert(text, param, ctx)


@command("start")
@click.argument("workflow")
@click.option("--data", type=JsonValue(from_file=True), metavar="JSON|@FILE", help="Data of the trigger.")
@click.option("--trigger", metavar="NODE", help="The trigger node to start at, if there are several.")
@click.option(
    "--variable", "variables", type=Variable(), multiple=True, metavar="NAME=JSON", help="May be repeated."
)
@click.option(
    "--key", metavar="KEY", help="Idempotency key: a second start with it gives the first execution."
)
@click.option("--priority", type=click.IntRange(0, 9), help="0 is served first.")
@click.option("--version", type=click.IntRange(min=1), help="Version of the workflow.  [default: current]")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait for the end; status 1 if it failed or is not over by then.",
)
def start(
    invocation: Invocation,
    workflow: str,
    data: Any,
    trigger: str | None,
    variables: Sequence[tuple[str, Any]],
    key: str | None,
    priority: int | None,
    version: int | None,
    wait: float | None,
) -> ExitStatus:
    """Start an execution of a deployed workflow.

    \b
    workflow-engine start order-fulfilment --data '{"orderId": 42}' --wait 30
    workflow-engine start order-fulfilment --data @order.json --variable 'currency="CHF"'
    """
    client = WorkflowClient(engine=invocation.engine())
    started = client.start(
        workflow,
        data,
        trigger=trigger,
        variables=dict(variables),
        idempotency_key=key,
        priority=priority,
        version=version,
    )
    told = as_object(started)
    news = f"{'Started' if started.is_new else 'This key had already started'} execution {started.id}"
    if wait is None:
        invocation.answer(told, news, f"workflow-engine show {started.id}")
        return ExitStatus.YES
    if not invocation.as_json:
        invocation.answer(None, news)
    execution = client.wait(started.id, wait)
    invocation.answer({**told, "execution": as_object(execution)}, header(execution))
    return ExitStatus.YES if execution.status is ExecutionStatus.COMPLETED else ExitStatus.NO


@command("list")
@click.option("--workflow", metavar="WORKFLOW", help="Only of this workflow.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.value for status in ExecutionStatus], case_sensitive=False),
    metavar="STATUS",
    help=f"Only in this status; may be repeated. One of {', '.join(ExecutionStatus)}.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many."
)
@click.option("--before", metavar="EXECUTION", help="Only those older than this one: the next page.")
def list_executions(
    invocation: Invocation, workflow: str | None, statuses: Sequence[str], limit: int, before: str | None
) -> None:
    """List executions, the newest first."""
    client = WorkflowClient(engine=invocation.engine())
    wanted = [ExecutionStatus(status) for status in statuses]
    found = client.list(workflow, wanted, limit=limit, before=before)
    counts = client.count(workflow)
    value = {"executions": [_listed(each) for each in found], "counts": counts}
    if not found:
        invocation.answer(
            value, "No executions." if not counts else f"None of these. In all: {_summary(counts)}"
        )
        return
    more = f"; older ones: --before {found[-1].id}" if len(found) == limit else ""
    invocation.answer(
        value,
        _table(found, invocation.console.width),
        "",
        f"{len(found)} shown{more}. In all: {_summary(counts)}",
    )


@command("show")
@click.argument("execution")
@click.option(
    "--context", "with_context", is_flag=True, help="Show its variables too; as JSON, all of its context."
)
def show(invocation: Invocation, execution: str, with_context: bool) -> None:
    """Draw an execution: its graph and what each node did.

    Nodes stand in the order of the walk, branches indented under the node that chose them; what joins
    several branches names the nodes it was reached from.
    """
    engine = invocation.engine()
    client = WorkflowClient(engine=engine)
    found = client.get(execution)
    holder, progress = _what_runs(engine, found.id)
    context = client.context(execution).to_dict() if with_context else None
    view = view_execution(
        found,
        client.workflow(found.workflow_id, found.version).workflow,
        engine.state.load_snapshot(found.id),
        client.journal(found.id),
        holder,
        progress,
    )
    variables = context["variables"] if context else None
    invocation.answer(_shown(view, context), *draw(view, variables, invocation.console.width))


def _what_runs(engine: Engine, execution_id: str) -> tuple[Holder | None, Progress | None]:
    """Who runs a node of an execution now, and how far that is; not worth failing for."""
    try:
        held = engine.locks.held_by(execution_id)
        if held is None:
            return None, None
        return held[1], engine.running_nodes.progress(execution_id, held[1].token)
    except CacheUnavailable:
        return None, None


def _read(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")


def _listed(execution: Execution) -> dict[str, Any]:
    told = as_object(execution)
    del told["result"]  # not looked up for a list, and null would be taken for an answer
    return told


def _shown(view: ExecutionView, context: Mapping[str, Any] | None) -> dict[str, Any]:
    told = {"execution": as_object(view.execution), "nodes": [as_object(node) for node in view.nodes]}
    return told if context is None else {**told, "context": context}


def _summary(counts: Mapping[ExecutionStatus, int]) -> str:
    return ", ".join(f"{counts[status]:,} {status}" for status in ExecutionStatus if status in counts)


def _table(executions: Sequence[Execution], width: int) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("EXECUTION", no_wrap=True)
    table.add_column("WORKFLOW", overflow="fold")
    table.add_column("VER", justify="right", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    table.add_column("AGE", justify="right", no_wrap=True)
    is_wide = width >= WIDE_ENOUGH
    if is_wide:
        table.add_column("NODES", justify="right", no_wrap=True)
        table.add_column("TOOK", justify="right", no_wrap=True)
    for each in executions:
        further = (str(each.nodes_executed), duration(each.duration_ms)) if is_wide else ()
        status = Text(each.status, STATUS_STYLES[each.status])
        table.add_row(each.id, each.workflow_id, str(each.version), status, age(each.created_at), *further)
    return table

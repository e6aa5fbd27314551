"""`start`, `list` and `show`: executions, from their start to their end."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.drawing.execution_drawing import draw, header
from workflow_engine.cli.drawing.node_logs import draw_logs
from workflow_engine.cli.filters import filter_of, with_filters
from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.json_options import JsonValue, Variable
from workflow_engine.cli.many_starts import read_starts, refused_lines
from workflow_engine.cli.missing_code import MissingCode
from workflow_engine.cli.styles import STATUS_STYLES
from workflow_engine.client import WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.starts.given import NO_DATA
from workflow_engine.errors import CacheUnavailable, StartsRefused
from workflow_engine.execution.states import ACTIVE, ExecutionStatus, NodeStatus
from workflow_engine.postgres.executions.filters import ExecutionFilter
from workflow_engine.postgres.executions.queries import Execution, NodeLog
from workflow_engine.postgres.lookups.statistics import COUNTED, Statistics, counted
from workflow_engine.presentation.execution_view import ExecutionView, Run, view_execution
from workflow_engine.presentation.phrases import age, describe_slot, duration

WIDE_ENOUGH = 96
"""Columns from which a list has all its columns; ids are never cut, so others are left to `show`."""


@command("start")
@click.argument("workflow")
@click.option(
    "--data",
    type=JsonValue(from_file=True),
    default=NO_DATA,
    metavar="JSON|@FILE",
    help="Data of the trigger.  [default: {}]",
)
@click.option("--trigger", metavar="NODE", help="The trigger node to start from, if there are several.")
@click.option(
    "--variable",
    "variables",
    type=Variable(),
    multiple=True,
    metavar="NAME=JSON",
    help="A variable of the execution; may be repeated.",
)
@click.option(
    "--key", metavar="KEY", help="Idempotency key: a second start with it returns the first execution."
)
@click.option("--priority", type=click.IntRange(0, 9), help="Priority of its nodes; 0 is served first.")
@click.option("--version", type=click.IntRange(min=1), help="Version of the workflow.  [default: current]")
@click.option(
    "--metadata",
    type=Variable(or_text=True),
    multiple=True,
    metavar="NAME=JSON",
    help="A note by which `list --where` finds it; a value that is not JSON is text. May be repeated.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag for `list --tag`; may be repeated.")
@click.option(
    "--many",
    metavar="FILE|-",
    help="Start an execution for each line, a JSON object: data, key, variables, trigger, priority, queue, "
    "metadata, tags. All or, if one is refused, none.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait for its end; exit status 1 if it failed or has not ended by then.",
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
    metadata: Sequence[tuple[str, Any]],
    tags: Sequence[str],
    many: str | None,
    wait: float | None,
) -> ExitStatus:
    """Start an execution of a deployed workflow, or many.

    \b
    workflow-engine start order-fulfilment --data '{"orderId": 42}' --wait 30
    workflow-engine start order-fulfilment --data @order.json --variable 'currency="CHF"'
    workflow-engine start order-fulfilment --metadata order=42 --tag vip
    workflow-engine start order-fulfilment --many orders.jsonl
    """
    if many is not None:
        of_one = (trigger, variables, key, metadata, tags, wait)
        if data is not NO_DATA or priority is not None or any(of_one):
            raise click.UsageError("--many takes all but --version from its lines; leave other options out")
        return _start_many(invocation, workflow, many, version)
    for what, given in (("variable", variables), ("key of the metadata", metadata)):
        names = [name for name, _ in given]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise click.UsageError(f"the {what} {repeated!r:.60} is given twice; remove one of the two")
    client = WorkflowClient(engine=invocation.engine())
    missing_code = MissingCode(
        client.workflow(workflow, version).workflow, invocation.settings, invocation.app
    )
    started = client.start(
        workflow,
        data,
        trigger=trigger,
        variables=dict(variables),
        idempotency_key=key,
        priority=priority,
        version=version,
        metadata=dict(metadata),
        tags=tags,
    )
    value = as_object(started)
    news = f"{'Started' if started.is_new else 'This key had already started'} execution {started.id}"
    if wait is None:
        invocation.output(value, news, f"workflow-engine show {started.id}")
        missing_code.warn()
        return ExitStatus.YES
    if not invocation.as_json:
        invocation.output(None, news)
    missing_code.warn()
    execution = client.wait(started.id, wait)
    invocation.output({**value, "execution": as_object(execution)}, header(execution))
    return ExitStatus.YES if execution.status is ExecutionStatus.COMPLETED else ExitStatus.NO


def _start_many(invocation: Invocation, workflow: str, path: str, version: int | None) -> ExitStatus:
    starts = read_starts(path)
    client = WorkflowClient(engine=invocation.engine())
    definition = client.workflow(workflow, version).workflow
    try:
        started = client.start_many(workflow, starts, version=version)
    except StartsRefused as refused:
        raise refused_lines(refused) from refused
    new = sum(each.is_new for each in started)
    before = f"; {len(started) - new:,} keys had already started theirs" if new < len(started) else ""
    invocation.output([as_object(each) for each in started], f"Started {new:,} executions{before}")
    MissingCode(definition, invocation.settings, invocation.app).warn()
    return ExitStatus.YES


@command("list")
@with_filters
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="List this many at most."
)
@click.option("--before", metavar="EXECUTION", help="Only executions older than this one: the next page.")
@click.option("--children", is_flag=True, help="Executions too that others have started.")
@click.option("--children-of", metavar="EXECUTION", help="The children of this execution, in their order.")
@click.option("--after", metavar="EXECUTION", help="With --children-of: only those that follow this one.")
def list_executions(
    invocation: Invocation,
    limit: int,
    before: str | None,
    children: bool,
    children_of: str | None,
    after: str | None,
    **filters: Any,
) -> None:
    """List executions, the newest first.

    Children of executions are left out; --children lists them too, and --children-of lists those of one, in
    the order of their starts. Counts do not include them, and stop at 10,000 of a status.

    \b
    workflow-engine list --where metadata.order=42 --tag vip
    workflow-engine list --status FAILED --since 3h --text 'card declined'
    workflow-engine list --children --status FAILED
    """
    engine = invocation.engine()
    client, wanted = WorkflowClient(engine=engine), filter_of(**filters)
    workflow = wanted.workflow_id
    if children_of is not None:
        others = dataclasses.replace(wanted, statuses=())
        if others != ExecutionFilter() or before is not None or children:
            raise click.UsageError("--children-of goes with --status, --limit and --after only")
        statuses = [ExecutionStatus(status) for status in wanted.statuses]
        _list_children(invocation, client, children_of, statuses, limit, after)
        return
    if after is not None:
        raise click.UsageError(
            "--after goes with --children-of; of other executions, --before is the next page"
        )
    found = engine.queries.list(wanted, children=children, limit=limit, before=before)
    counts = Statistics(engine.database).executions(workflow, archived=wanted.archived)
    value = {
        "executions": [_list_value(each) for each in found],
        "counts": {status: min(number, COUNTED) for status, number in counts.items()},
        "countsCutOff": [status for status, number in counts.items() if number > COUNTED],
    }
    if not found:
        invocation.output(
            value, "No executions." if not counts else f"No such executions. In all: {_summary(counts)}"
        )
        return
    more = f"; older ones: --before {found[-1].id}" if len(found) == limit else ""
    invocation.output(
        value,
        _table(found, invocation.console.width),
        "",
        f"{len(found)} shown{more}. In all: {_summary(counts)}",
    )


def _list_children(
    invocation: Invocation,
    client: WorkflowClient,
    execution: str,
    statuses: Sequence[ExecutionStatus],
    limit: int,
    after: str | None,
) -> None:
    found = client.children(execution, statuses=statuses, limit=limit, after=after)
    counts: Counter[ExecutionStatus] = Counter()
    for each in invocation.engine().queries.child_counts(execution).values():
        counts.update(each)
    value = {"executions": [_list_value(each) for each in found], "counts": counts}
    more = f"; further ones: --after {found[-1].id}" if len(found) == limit else ""
    in_all = f"In all: {_summary(counts, '{:,}'.format)}" if counts else "It has no children."
    if not found:
        invocation.output(value, in_all)
        return
    invocation.output(
        value, _table(found, invocation.console.width), "", f"{len(found)} shown{more}. {in_all}"
    )


@command("show")
@click.argument("execution")
@click.option(
    "--context", "with_context", is_flag=True, help="Show its variables too; with --json, its whole context."
)
@click.option("--logs", "with_logs", is_flag=True, help="Show what its nodes logged, where that is kept.")
def show(invocation: Invocation, execution: str, with_context: bool, with_logs: bool) -> None:
    """Draw an execution: its graph and what each node did.

    Nodes appear in the order of the walk, branches indented under the node that chose them. A node that joins
    several branches names the nodes that it was reached from.
    """
    engine = invocation.engine()
    client = WorkflowClient(engine=engine)
    found = client.get(execution)
    context = client.context(execution).to_dict() if with_context else None
    view = view_execution(
        found,
        engine.workflows.get(found.workflow_id, found.version).workflow,
        engine.state.load_snapshot(found.id),
        client.journal(found.id),
        _runs(engine, found.id),
        engine.queries.child_counts(found.id),
    )
    variables = context["variables"] if context else None
    # A node that runs or waits shows why; one that is due does not.
    is_unclear = found.status in ACTIVE and not any(node.status is NodeStatus.RUNNING for node in view.nodes)
    hint = ("", f"Why does it not move? workflow-engine explain {found.id}") if is_unclear else ()
    slots = [] if found.is_finished else client.control.limits.standing(found.id)
    limits = ("", *(f"Limit {describe_slot(slot)}" for slot in slots)) if slots else ()
    logs = client.logs(found.id) if with_logs else None
    drawn = draw(view, variables, invocation.console.width)
    kept = () if logs is None else draw_logs(logs)
    value = _view_value(view, context, logs) | {"slots": [as_object(slot) for slot in slots]}
    invocation.output(value, *drawn, *kept, *limits, *hint)


def _runs(engine: Engine, execution_id: str) -> list[Run]:
    """Return what is running now; nothing while Redis is away."""
    try:
        return [
            Run(holder, engine.running_nodes.progress(execution_id, holder))
            for holder in engine.locks.holders(execution_id)
        ]
    except CacheUnavailable:
        return []


def _list_value(execution: Execution) -> dict[str, Any]:
    value = as_object(execution)
    del value["result"]  # not looked up for a list, and null would be taken for a result
    return value


def _view_value(
    view: ExecutionView, context: Mapping[str, Any] | None, logs: Sequence[NodeLog] | None
) -> dict[str, Any]:
    value: dict[str, Any] = {
        "execution": as_object(view.execution),
        "nodes": [as_object(node) for node in view.nodes],
    }
    if context is not None:
        value["context"] = context
    if logs is not None:
        value["logs"] = [as_object(each) for each in logs]
    return value


def _summary(counts: Mapping[ExecutionStatus, int], shown: Callable[[int], str] = counted) -> str:
    return ", ".join(f"{shown(counts[status])} {status}" for status in ExecutionStatus if status in counts)


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

"""`pause`, `resume`, `cancel`, `retry`, `rerun` and what is done to single nodes, in one execution or many.

Executions are named by id, or selected by options; the user then confirms their number before any is moved.
Each execution is moved by itself: one that is refused, because it has just ended, does not stop the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from workflow_engine.cli.command_group import ExitStatus, with_advice
from workflow_engine.cli.filters import FILTERS, Age, filter_of
from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.json_options import JsonValue, Variable
from workflow_engine.cli.os_user import os_user
from workflow_engine.client import WorkflowClient
from workflow_engine.control.moving import Move
from workflow_engine.errors import BackingServiceUnavailable, WorkflowEngineError
from workflow_engine.execution.states import EVENT_TYPES, LEGAL_FROM, ExecutionStatus, Operation
from workflow_engine.postgres.executions.filters import ExecutionFilter
from workflow_engine.presentation.phrases import quantity, sanitise

REFUSING = frozenset({Operation.CANCEL, Operation.RETRY, Operation.RERUN})
"""The operations after which no result of a running node counts."""

SELECTION = [
    click.argument("executions", metavar="[EXECUTION]...", nargs=-1),
    *FILTERS,
    click.option(
        "--older-than", type=Age(), metavar="AGE", help="Only executions older than this, such as 3h."
    ),
    click.option(
        "--dry-run", is_flag=True, help="Say what would happen to how many, in groups; change nothing."
    ),
    click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
    click.option("--reason", metavar="TEXT", help="Why, for the history of the execution."),
    click.option(
        "--actor", metavar="NAME", help="Who, for the history.  [default: the user who is logged in]"
    ),
]
CHILDREN = click.option("--children", is_flag=True, help="Their children too, on all levels.")
VERSION = click.option(
    "--version",
    type=click.IntRange(min=1),
    help="Continue with this version of the workflow.  [default: its own]",
)


def with_selection(function: Callable[..., int]) -> Callable[..., int]:
    """Add the argument and options that select executions, and that say who moves them and why."""
    for parameter in reversed(SELECTION):
        function = parameter(function)
    return function


@command("pause")
@with_selection
@CHILDREN
@click.option("--before", metavar="NODE", help="Not now, but whenever this node becomes due: a breakpoint.")
def pause(
    invocation: Invocation,
    reason: str | None,
    actor: str | None,
    children: bool,
    before: str | None,
    **chosen: Any,
) -> ExitStatus:
    """Pause executions: start no further node until they are resumed.

    A node that is running may finish. Timers that end and events that arrive are kept. No further child
    starts, and those that run go on.

    \b
    workflow-engine pause 0199c8a0-… --reason 'moving the shop'
    workflow-engine pause --workflow order-fulfilment
    workflow-engine pause 0199c8a0-… --before charge
    """
    if before is not None:
        if children:
            raise click.UsageError("--before is for the executions named, without their --children")
        return _operate(invocation, Operation.PAUSE_BEFORE, {"node": before}, reason, actor, **chosen)
    return _operate(invocation, Operation.PAUSE, {"children": children}, reason, actor, **chosen)


@command("resume")
@with_selection
@CHILDREN
def resume(
    invocation: Invocation, reason: str | None, actor: str | None, children: bool, **chosen: Any
) -> ExitStatus:
    """Resume paused executions.

    Nodes that came due while they were paused are due now.
    """
    return _operate(invocation, Operation.RESUME, {"children": children}, reason, actor, **chosen)


@command("cancel")
@with_selection
def cancel(invocation: Invocation, reason: str | None, actor: str | None, **chosen: Any) -> ExitStatus:
    """End executions at once. A running node is interrupted, and its result is refused.

    \b
    workflow-engine cancel 0199c8a0-… --reason 'ordered twice'
    workflow-engine cancel --workflow order-fulfilment --status WAITING --older-than 30d
    """
    return _operate(invocation, Operation.CANCEL, {}, reason, actor, **chosen)


@command("retry")
@with_selection
@VERSION
def retry(
    invocation: Invocation, reason: str | None, actor: str | None, version: int | None, **chosen: Any
) -> ExitStatus:
    """Resume failed executions from the failed node.

    The node keeps its idempotency key; its failure stays in the journal, superseded.

    \b
    workflow-engine retry 0199c8a0-…
    workflow-engine retry --workflow order-fulfilment --older-than 10min --version 4
    """
    return _operate(invocation, Operation.RETRY, {"version": version}, reason, actor, **chosen)


@command("rerun")
@with_selection
@click.option("--from", "from_node", required=True, metavar="NODE", help="The first node to run again.")
@VERSION
def rerun(
    invocation: Invocation,
    reason: str | None,
    actor: str | None,
    from_node: str,
    version: int | None,
    **chosen: Any,
) -> ExitStatus:
    """Run a node and everything after it again.

    These nodes get new idempotency keys; what they did before stays in the journal, superseded. From the
    trigger, everything runs again with the data that the execution was started with.

    \b
    workflow-engine rerun 0199c8a0-… --from charge
    """
    return _operate(
        invocation, Operation.RERUN, {"from_node": from_node, "version": version}, reason, actor, **chosen
    )


NODE = click.option("--node", required=True, metavar="NODE", help="The node.")
OUTPUT = click.option(
    "--output", type=JsonValue(from_file=True), metavar="JSON|@FILE", help="Its output.  [default: null]"
)
HANDLE = click.option("--handle", metavar="HANDLE", help="The way out to take, if the node has several.")


@command("skip")
@with_selection
@NODE
@OUTPUT
@HANDLE
def skip(
    invocation: Invocation,
    reason: str | None,
    actor: str | None,
    node: str,
    output: Any,
    handle: str | None,
    **chosen: Any,
) -> ExitStatus:
    """Give a node an output in place of a run, and go on behind it.

    The node is due, waits, or has failed and ended its execution, which is then reopened. If it runs, it is
    interrupted and its result refused.

    \b
    workflow-engine skip 0199c8a0-… --node charge --output '{"receipt": "paid in cash"}'
    workflow-engine skip --workflow order-fulfilment --status FAILED --node notify
    """
    return _operate(
        invocation,
        Operation.SKIP,
        {"node": node, "output": output, "handle": handle},
        reason,
        actor,
        **chosen,
    )


@command("complete")
@with_selection
@NODE
@OUTPUT
@HANDLE
def complete(
    invocation: Invocation,
    reason: str | None,
    actor: str | None,
    node: str,
    output: Any,
    handle: str | None,
    **chosen: Any,
) -> ExitStatus:
    """End the wait of a node by hand, with this output.

    Children that it waits for are cancelled.

    \b
    workflow-engine complete 0199c8a0-… --node paid --output '{"paid": {"amount": 42}}'
    """
    return _operate(
        invocation,
        Operation.COMPLETE,
        {"node": node, "output": output, "handle": handle},
        reason,
        actor,
        **chosen,
    )


@command("set-output")
@with_selection
@NODE
@click.option(
    "--output",
    type=JsonValue(from_file=True),
    required=True,
    metavar="JSON|@FILE",
    help="Its output from now on.",
)
def set_output(
    invocation: Invocation, reason: str | None, actor: str | None, node: str, output: Any, **chosen: Any
) -> ExitStatus:
    """Replace the output of a completed node, before a resume, retry or rerun.

    The way that the node took stays. The history keeps the output that it had.
    """
    return _operate(
        invocation, Operation.SET_OUTPUT, {"node": node, "output": output}, reason, actor, **chosen
    )


@command("set-variable")
@with_selection
@click.option(
    "--set",
    "variable",
    type=Variable(or_text=True),
    required=True,
    metavar="NAME=JSON",
    help="The variable and its value; one that is not JSON is text.",
)
def set_variable(
    invocation: Invocation,
    reason: str | None,
    actor: str | None,
    variable: tuple[str, Any],
    **chosen: Any,
) -> ExitStatus:
    """Give a variable a value, before a resume, retry or rerun.

    It has this value wherever the execution goes on, until a node sets it again.
    """
    return _operate(
        invocation,
        Operation.SET_VARIABLE,
        {"name": variable[0], "value": variable[1]},
        reason,
        actor,
        **chosen,
    )


def _operate(
    invocation: Invocation,
    operation: Operation,
    arguments: Mapping[str, Any],
    reason: str | None,
    actor: str | None,
    *,
    executions: Sequence[str],
    yes: bool,
    dry_run: bool,
    **filters: Any,
) -> ExitStatus:
    """Move the selected executions, and print what came of each; with `dry_run`, what would."""
    client = WorkflowClient(engine=invocation.engine())
    operate = getattr(client.control, operation.name.lower())
    move = functools.partial(operate, **arguments, reason=reason, actor=actor or os_user())
    wanted = filter_of(**filters)
    if dry_run:
        _rehearse(invocation, client, operation, arguments, executions, wanted)
        return ExitStatus.YES
    if len(executions) == 1 and wanted.is_empty:
        _report(invocation, operation, [move(executions[0])], [])
        return ExitStatus.YES
    if not executions:
        executions = _select(client, operation, wanted)
        _confirm(invocation, operation, len(executions), yes)
    elif not wanted.is_empty:
        raise click.UsageError("name executions, or select them by options, but not both")
    moved: list[Move] = []
    refused: list[tuple[str, WorkflowEngineError]] = []
    with invocation.busy(f"{operation.value} {quantity(len(executions), 'execution')}"):
        for execution in executions:
            try:
                moved.append(move(execution))
            except BackingServiceUnavailable:
                raise  # the others could not be moved either; to move an execution twice is harmless
            except WorkflowEngineError as refusal:
                refused.append((execution, refusal))
    _report(invocation, operation, moved, refused)
    return ExitStatus.NO if refused else ExitStatus.YES


def _rehearse(
    invocation: Invocation,
    client: WorkflowClient,
    operation: Operation,
    arguments: Mapping[str, Any],
    executions: Sequence[str],
    wanted: ExecutionFilter,
) -> None:
    if executions and not wanted.is_empty:
        raise click.UsageError("name executions, or select them by options, but not both")
    if not executions:
        executions = _select(client, operation, wanted)
    with invocation.busy(f"rehearse {operation.value} of {quantity(len(executions), 'execution')}"):
        groups = client.control.dry_run(operation, executions, **arguments)
    lines = []
    for group in groups:
        where = f"{group.workflow_id} version {group.version}, {group.status}"
        what = f"REFUSED: {group.effect}" if group.is_refused else group.effect
        lines.append(f"{group.count:>7,}  {where}: {sanitise(what)}")
        lines.append(
            f"         {' '.join(group.examples)}{' …' if group.count > len(group.examples) else ''}"
        )
    number = sum(group.count for group in groups if not group.is_refused)
    lines.append(f"{operation.value} would move {quantity(number, 'execution')}; nothing was changed.")
    invocation.output({"dryRun": [as_object(group) for group in groups]}, *lines)


def _select(
    client: WorkflowClient,
    operation: Operation,
    wanted: ExecutionFilter,
) -> Sequence[str]:
    if wanted.is_empty:
        raise click.UsageError(
            "name executions, or select them by --workflow, --status, --older-than or another filter"
        )
    if impossible := [status for status in wanted.statuses if status not in LEGAL_FROM[operation]]:
        possible = ", ".join(status for status in ExecutionStatus if status in LEGAL_FROM[operation])
        raise click.UsageError(
            f"cannot {operation.value} an execution that is {impossible[0]}, only one that is {possible}"
        )
    return client.control.candidates(operation, wanted)


def _confirm(invocation: Invocation, operation: Operation, number: int, yes: bool) -> None:
    if yes or number == 0:
        return
    if invocation.as_json:
        raise click.UsageError(
            f"{quantity(number, 'execution')} would be moved; confirm with --yes, since --json asks nothing"
        )
    click.confirm(f"{operation.value.capitalize()} {quantity(number, 'execution')}?", abort=True, err=True)


def _report(
    invocation: Invocation,
    operation: Operation,
    moved: Sequence[Move],
    refused: Sequence[tuple[str, WorkflowEngineError]],
) -> None:
    value = {
        "moved": [_as_move(move) for move in moved],
        "refused": [
            {"executionId": id, "type": type(refusal).__name__, "message": with_advice(refusal)}
            for id, refusal in refused
        ],
    }
    lines = [
        f"{EVENT_TYPES[operation]} {move.execution_id}: was {move.status_before}, is {move.status}"
        + _running_nodes(move)
        for move in moved
    ]
    lines += [f"REFUSED {id}: {sanitise(with_advice(refusal))}" for id, refusal in refused]
    total = len(moved) + len(refused)
    if total != 1:
        lines.append(f"{len(moved):,} of {quantity(total, 'execution')} moved.")
    invocation.output(value, *lines)


def _as_move(move: Move) -> dict[str, Any]:
    return {**as_object(move), "holders": [as_object(holder) for holder in move.holders]}


def _running_nodes(move: Move) -> str:
    if not move.holders:
        return ""
    texts = []
    for holder in move.holders:
        is_interrupted = holder in move.interrupted
        state = "was interrupted" if is_interrupted else "is running"
        is_refused = is_interrupted or move.operation in REFUSING
        outcome = "will be refused" if is_refused else "will count"
        texts.append(f"; a node {state} on {holder.instance}:{holder.process}, its result {outcome}")
    return "".join(texts)

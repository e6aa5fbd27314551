"""`pause`, `resume`, `cancel`, `retry` and `rerun`: steering executions, one or a whole list.

Executions are named by id, or all those that options describe; for the latter, the number is told and
confirmed before anything is moved. Each execution is moved by itself: one that is refused, because it has
ended meanwhile, stops none of the others.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from workflow_engine.cli.command_group import ExitStatus, told
from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.phrases import counted, printable
from workflow_engine.client import WorkflowClient
from workflow_engine.errors import BackingServiceUnavailable, WorkflowEngineError
from workflow_engine.operators import EVENT_TYPES, LEGAL_FROM, Move, Operation
from workflow_engine.states import ExecutionStatus

SECONDS_OF_UNIT = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}


class Age(click.ParamType[float]):
    """A time span such as `3h`, in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h|d)", value)
        if found is None:
            self.fail(f"{value} is no time span; write a number and s, min, h or d, such as 3h", param, ctx)
        return float(found[1]) * SECONDS_OF_UNIT[found[2]]


def os_user() -> str | None:
    """The name of whoever is logged in; None where the system knows no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


CHOOSING = [
    click.argument("executions", metavar="[EXECUTION]...", nargs=-1),
    click.option("--workflow", metavar="WORKFLOW", help="All executions of this workflow."),
    click.option(
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice([status.value for status in ExecutionStatus], case_sensitive=False),
        metavar="STATUS",
        help="All executions in this status; may be repeated.",
    ),
    click.option(
        "--older-than", type=Age(), metavar="AGE", help="All executions started before, such as 3h."
    ),
    click.option("--yes", is_flag=True, help="Ask nothing."),
    click.option("--reason", metavar="TEXT", help="Why; stands in the history of the execution."),
    click.option("--actor", metavar="NAME", help="Who.  [default: the user who is logged in]"),
]
VERSION = click.option(
    "--version",
    type=click.IntRange(min=1),
    help="Go on with this version of the workflow.  [default: its own]",
)


def choosing(function: Callable[..., int]) -> Callable[..., int]:
    """The argument and options that say which executions are meant, and who asks for what."""
    for parameter in reversed(CHOOSING):
        function = parameter(function)
    return function


@command("pause")
@choosing
def pause(invocation: Invocation, reason: str | None, actor: str | None, **chosen: Any) -> ExitStatus:
    """Start no further node of executions until they are resumed.

    A node that is running may end; timers and events that come meanwhile are kept.

    \b
    workflow-engine pause 0199c8a0-… --reason 'the shop is being moved'
    workflow-engine pause --workflow order-fulfilment
    """
    client = WorkflowClient(engine=invocation.engine())
    return _operate(
        invocation,
        client,
        Operation.PAUSE,
        lambda id: client.pause(id, reason=reason, actor=actor or os_user()),
        **chosen,
    )


@command("resume")
@choosing
def resume(invocation: Invocation, reason: str | None, actor: str | None, **chosen: Any) -> ExitStatus:
    """Let paused executions go on.

    What came due while they were paused is due now.
    """
    client = WorkflowClient(engine=invocation.engine())
    return _operate(
        invocation,
        client,
        Operation.RESUME,
        lambda id: client.resume(id, reason=reason, actor=actor or os_user()),
        **chosen,
    )


@command("cancel")
@choosing
def cancel(invocation: Invocation, reason: str | None, actor: str | None, **chosen: Any) -> ExitStatus:
    """End executions at once. A node that is running is interrupted, and its result refused.

    \b
    workflow-engine cancel 0199c8a0-… --reason 'ordered twice'
    workflow-engine cancel --workflow order-fulfilment --status WAITING --older-than 30d
    """
    client = WorkflowClient(engine=invocation.engine())
    return _operate(
        invocation,
        client,
        Operation.CANCEL,
        lambda id: client.cancel(id, reason=reason, actor=actor or os_user()),
        **chosen,
    )


@command("retry")
@choosing
@VERSION
def retry(
    invocation: Invocation, reason: str | None, actor: str | None, version: int | None, **chosen: Any
) -> ExitStatus:
    """Let failed executions go on from the failed node.

    The node keeps its idempotency key; its failure stays in the journal, superseded.

    \b
    workflow-engine retry 0199c8a0-…
    workflow-engine retry --workflow order-fulfilment --older-than 10min --version 4
    """
    client = WorkflowClient(engine=invocation.engine())
    return _operate(
        invocation,
        client,
        Operation.RETRY,
        lambda id: client.retry(id, version=version, reason=reason, actor=actor or os_user()),
        **chosen,
    )


@command("rerun")
@choosing
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
    """Run a node and all that follows it again.

    These nodes get new idempotency keys; what they did before stays in the journal, superseded. From the
    trigger, everything runs again with the data of the start.

    \b
    workflow-engine rerun 0199c8a0-… --from charge
    """
    client = WorkflowClient(engine=invocation.engine())
    return _operate(
        invocation,
        client,
        Operation.RERUN,
        lambda id: client.rerun(id, from_node, version=version, reason=reason, actor=actor or os_user()),
        **chosen,
    )


def _operate(
    invocation: Invocation,
    client: WorkflowClient,
    operation: Operation,
    move: Callable[[str], Move],
    *,
    executions: Sequence[str],
    workflow: str | None,
    statuses: Sequence[str],
    older_than: float | None,
    yes: bool,
) -> ExitStatus:
    """Move all executions that are meant, and answer what came of each."""
    if len(executions) == 1 and not (workflow or statuses or older_than is not None):
        _tell(invocation, operation, [move(executions[0])], [])
        return ExitStatus.YES
    if not executions:
        executions = _chosen(client, operation, workflow, statuses, older_than)
        _confirm(invocation, operation, len(executions), yes)
    elif workflow or statuses or older_than is not None:
        raise click.UsageError("name executions, or describe them by options, but not both")
    moved: list[Move] = []
    refused: list[tuple[str, WorkflowEngineError]] = []
    with invocation.patience(f"{operation.value} {counted(len(executions), 'execution')}"):
        for execution in executions:
            try:
                moved.append(move(execution))
            except BackingServiceUnavailable:
                raise  # nor could the others be moved; what was moved may be asked for again
            except WorkflowEngineError as refusal:
                refused.append((execution, refusal))
    _tell(invocation, operation, moved, refused)
    return ExitStatus.NO if refused else ExitStatus.YES


def _chosen(
    client: WorkflowClient,
    operation: Operation,
    workflow: str | None,
    statuses: Sequence[str],
    older_than: float | None,
) -> Sequence[str]:
    if not (workflow or statuses or older_than is not None):
        raise click.UsageError("name executions, or describe them by --workflow, --status or --older-than")
    wanted = [ExecutionStatus(status) for status in statuses]
    if impossible := [status for status in wanted if status not in LEGAL_FROM[operation]]:
        possible = ", ".join(status for status in ExecutionStatus if status in LEGAL_FROM[operation])
        raise click.UsageError(
            f"{operation.value} is not possible from {impossible[0]}, only from {possible}"
        )
    return client.candidates(operation, workflow_id=workflow, statuses=wanted, older_than=older_than)


def _confirm(invocation: Invocation, operation: Operation, number: int, yes: bool) -> None:
    if yes or number == 0:
        return
    if invocation.as_json:
        raise click.UsageError(f"{counted(number, 'execution')} would be moved; say --yes with --json")
    click.confirm(f"{operation.value.capitalize()} {counted(number, 'execution')}?", abort=True, err=True)


def _tell(
    invocation: Invocation,
    operation: Operation,
    moved: Sequence[Move],
    refused: Sequence[tuple[str, WorkflowEngineError]],
) -> None:
    value = {
        "moved": [_as_move(move) for move in moved],
        "refused": [
            {"executionId": id, "type": type(refusal).__name__, "message": told(refusal)}
            for id, refusal in refused
        ],
    }
    lines = [
        f"{EVENT_TYPES[operation]} {move.execution_id}: was {move.status_before}, is {move.status}"
        + _of_its_node(move)
        for move in moved
    ]
    lines += [f"REFUSED {id}: {printable(told(refusal))}" for id, refusal in refused]
    total = len(moved) + len(refused)
    if total != 1:
        lines.append(f"{len(moved):,} of {counted(total, 'execution')} moved.")
    invocation.answer(value, *lines)


def _as_move(move: Move) -> dict[str, Any]:
    holder = as_object(move.holder) if move.holder else None
    return {**as_object(move), "holder": holder}


def _of_its_node(move: Move) -> str:
    holder = move.holder
    if holder is None:
        return ""
    outcome = "will count" if move.operation in (Operation.PAUSE, Operation.RESUME) else "will be refused"
    told = " and was told to stop" if move.is_interrupted else ""
    return f"; a node is running on {holder.instance}:{holder.process}{told}, its result {outcome}"

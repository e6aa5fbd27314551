"""`activate`, `deactivate`, `archive`, `triggers`, `schedules`: what workflows and triggers may start."""

from __future__ import annotations

from collections.abc import Callable

import click
from rich.table import Table

from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.os_user import os_user
from workflow_engine.client import WorkflowClient
from workflow_engine.execution.states import TriggerState, WorkflowState
from workflow_engine.postgres.workflows.deployments import WorkflowMove
from workflow_engine.postgres.workflows.triggers import DeployedTrigger, TriggerMove
from workflow_engine.presentation.phrases import instant, sanitise

NOTE = [
    click.option("--reason", metavar="TEXT", help="Why, for the history of the workflow."),
    click.option(
        "--actor", metavar="NAME", help="Who, for the history.  [default: the user who is logged in]"
    ),
]


def with_note(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say who does it and why."""
    for option in reversed(NOTE):
        function = option(function)
    return function


@command("schedules")
def schedules(invocation: Invocation) -> None:
    """List schedules and when each is next due.

    CATCH UP says which times are started late if no worker ran when they were due: none (skip), the last one
    (latest) or all.
    """
    scheduled = WorkflowClient(engine=invocation.engine()).schedules()
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("WORKFLOW", "TRIGGER", "CRON", "ZONE", "CATCH UP", "STATE"):
        table.add_column(name, overflow="fold")
    table.add_column("NEXT DUE", no_wrap=True)
    for each in scheduled:
        is_open = each.workflow_state is WorkflowState.ACTIVE
        state = each.state.value if is_open else f"workflow {each.workflow_state}"
        is_stopped = each.state is TriggerState.PAUSED or not is_open
        when = instant(each.next_due) if each.next_due else "" if is_stopped else "ended"
        times = each.cron or f"once, {each.at}"
        row = (each.workflow_id, each.node_id, times, each.timezone, each.catch_up, state, when)
        table.add_row(*row)
    nothing = "No deployed workflow has a schedule; add a trigger of subType scheduler."
    invocation.output({"schedules": [as_object(each) for each in scheduled]}, table if scheduled else nothing)


@command("activate")
@click.argument("workflow")
@with_note
def activate(invocation: Invocation, workflow: str, reason: str | None, actor: str | None) -> None:
    """Let a deactivated or archived workflow start executions again.

    Its schedules are due next in the future: what they would have started since is not made up.
    """
    control = WorkflowClient(engine=invocation.engine()).control.workflows
    _report(invocation, control.activate(workflow, reason=reason, actor=actor or os_user()))


@command("deactivate")
@click.argument("workflow")
@with_note
def deactivate(invocation: Invocation, workflow: str, reason: str | None, actor: str | None) -> None:
    """Let no trigger of a workflow start anything; what runs goes on to its end.

    As a child of another workflow it still starts: a parent that runs can go on.
    """
    control = WorkflowClient(engine=invocation.engine()).control.workflows
    _report(invocation, control.deactivate(workflow, reason=reason, actor=actor or os_user()))


@command("archive")
@click.argument("workflow")
@with_note
def archive(invocation: Invocation, workflow: str, reason: str | None, actor: str | None) -> None:
    """Deactivate a workflow, and hide it and its finished executions from lists.

    `workflows --archived` and `list --archived` show them, and so does `list --workflow`.
    """
    control = WorkflowClient(engine=invocation.engine()).control.workflows
    _report(invocation, control.archive(workflow, reason=reason, actor=actor or os_user()))


@click.group("triggers")
def triggers() -> None:
    """List triggers with their states; pause and resume single ones."""


@command("list")
@click.argument("workflow", required=False)
def list_triggers(invocation: Invocation, workflow: str | None) -> None:
    """List the triggers of a workflow, or of all that are not archived.

    ERROR means that the last start was refused; the next one that succeeds makes the trigger ACTIVE.
    """
    client = WorkflowClient(engine=invocation.engine())
    if workflow is not None:
        client.workflow(workflow)
    found = client.triggers(workflow)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("WORKFLOW", "TRIGGER", "TYPE", "STATE", "NEXT DUE", "WHY"):
        table.add_column(name, overflow="fold")
    for each in found:
        due = instant(each.next_due) if each.next_due else ""
        row = (each.workflow_id, each.node_id, each.sub_type, each.state.value, due, _why(each))
        table.add_row(*row)
    nothing = "No workflow is deployed; `workflow-engine deploy FILE` deploys one."
    invocation.output({"triggers": [as_object(each) for each in found]}, table if found else nothing)


@command("pause")
@click.argument("workflow")
@click.argument("trigger")
@with_note
def pause_trigger(
    invocation: Invocation, workflow: str, trigger: str, reason: str | None, actor: str | None
) -> None:
    """Let one trigger start nothing; the others of its workflow go on."""
    control = WorkflowClient(engine=invocation.engine()).control.workflows
    _report(invocation, control.pause_trigger(workflow, trigger, reason=reason, actor=actor or os_user()))


@command("resume")
@click.argument("workflow")
@click.argument("trigger")
@with_note
def resume_trigger(
    invocation: Invocation, workflow: str, trigger: str, reason: str | None, actor: str | None
) -> None:
    """Let a paused trigger start executions again.

    A schedule is due next in the future: what it would have started since is not made up.
    """
    control = WorkflowClient(engine=invocation.engine()).control.workflows
    _report(invocation, control.resume_trigger(workflow, trigger, reason=reason, actor=actor or os_user()))


triggers.add_command(list_triggers)
triggers.add_command(pause_trigger)
triggers.add_command(resume_trigger)


@click.group("breakpoints")
def breakpoints() -> None:
    """Pause executions before a node: of a whole workflow, or `pause --before` for single ones."""


@command("set")
@click.argument("workflow")
@click.argument("node")
@with_note
def set_breakpoint(
    invocation: Invocation, workflow: str, node: str, reason: str | None, actor: str | None
) -> None:
    """Pause each execution of a workflow when this node becomes due; `resume` lets it go on.

    It holds for executions that run and for those that start.
    """
    control = WorkflowClient(engine=invocation.engine()).control.workflows
    found = control.pause_before(workflow, node, reason=reason, actor=actor or os_user())
    value = {"workflowId": workflow, "breakpoints": list(found)}
    invocation.output(value, f"{workflow} is paused before {', '.join(found)}")


@command("clear")
@click.argument("workflow", required=False)
@click.option("--execution", metavar="EXECUTION", help="Those of this execution only.")
@with_note
def clear_breakpoints(
    invocation: Invocation,
    workflow: str | None,
    execution: str | None,
    reason: str | None,
    actor: str | None,
) -> None:
    """Remove all breakpoints of a workflow and its executions, or of one execution.

    What is paused stays paused until `resume`.
    """
    if (workflow is None) == (execution is None):
        raise click.UsageError("name a workflow or an --execution")
    control = WorkflowClient(engine=invocation.engine()).control
    if execution is not None:
        control.clear_breakpoints(execution, reason=reason, actor=actor or os_user())
    elif workflow is not None:
        control.workflows.clear_breakpoints(workflow, reason=reason, actor=actor or os_user())
    value = {"workflowId": workflow, "executionId": execution}
    invocation.output(value, f"{workflow or execution} has no breakpoints")


breakpoints.add_command(set_breakpoint)
breakpoints.add_command(clear_breakpoints)


def _report(invocation: Invocation, move: WorkflowMove | TriggerMove) -> None:
    what = f"trigger {move.node_id} of " if isinstance(move, TriggerMove) else ""
    before = "was so already" if move.state_before == move.state else f"was {move.state_before}"
    invocation.output(as_object(move), f"{move.state} {what}{move.workflow_id}: {before}")


def _why(trigger: DeployedTrigger) -> str:
    if trigger.workflow_state != "ACTIVE":
        return f"its workflow is {trigger.workflow_state}"
    if trigger.state == "ACTIVE":
        return ""
    who = f"{trigger.state_by}: " if trigger.state_by else ""
    return sanitise(f"{who}{trigger.state_reason or ''}")

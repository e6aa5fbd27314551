"""`schedules`: the scheduled triggers of the deployed workflows, and when each is next due."""

from __future__ import annotations

from rich.table import Table

from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.client import WorkflowClient
from workflow_engine.execution.states import TriggerState, WorkflowState
from workflow_engine.presentation.phrases import instant


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
        row = (each.workflow_id, each.node_id, each.cron, each.timezone, each.catch_up, state, when)
        table.add_row(*row)
    nothing = "No deployed workflow has a schedule; add a trigger of subType scheduler."
    invocation.output({"schedules": [as_object(each) for each in scheduled]}, table if scheduled else nothing)

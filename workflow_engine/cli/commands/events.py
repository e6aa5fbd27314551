"""`send-event`: an event for the executions that wait for it."""

from __future__ import annotations

from typing import Any

import click

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, command
from workflow_engine.cli.json_options import JsonValue
from workflow_engine.client import WorkflowClient
from workflow_engine.postgres.events import SentEvent
from workflow_engine.presentation.phrases import quantity


@command("send-event")
@click.argument("name")
@click.option("--correlation-id", metavar="ID", help="Send to the waits with this correlation id.")
@click.option("--execution", metavar="EXECUTION", help="Send to the waits of this execution instead.")
@click.option("--payload", type=JsonValue(from_file=True), metavar="JSON|@FILE", help="Data of the event.")
@click.option("--event-id", metavar="ID", help="An event that is sent twice with one id counts once.")
@click.option("--actor", metavar="NAME", help="Who sends it, for the history.")
def send_event(
    invocation: Invocation,
    name: str,
    correlation_id: str | None,
    execution: str | None,
    payload: Any,
    event_id: str | None,
    actor: str | None,
) -> ExitStatus:
    """Send an event to the nodes that wait for it.

    An event that no node waits for yet is kept for WORKFLOW_ENGINE_EVENT_RETENTION seconds. The exit status
    is 1 if the execution has ended.

    \b
    workflow-engine send-event paid --correlation-id order-7 --payload '{"amount": 42}'
    workflow-engine send-event approved --execution 01a2…
    """
    if (correlation_id is None) == (execution is None):
        raise click.UsageError("give either --correlation-id or --execution")
    sent = WorkflowClient(engine=invocation.engine()).send_event(
        correlation_id, name, payload, execution_id=execution, event_id=event_id, actor=actor
    )
    invocation.output({"accepted": sent.accepted, "executions": sent.executions}, _news(sent))
    return ExitStatus.NO if sent.accepted == "finished" else ExitStatus.YES


def _news(sent: SentEvent) -> str:
    match sent.accepted:
        case "delivered":
            woken = len({each.execution_id for each in sent.woken})
            return f"Delivered to {quantity(len(sent.executions), 'execution')}; {woken} can go on with it."
        case "kept":
            return "Kept: no node waits for it yet."
        case "duplicate":
            return "Ignored: an event with this id or name was received before."
        case "finished":
            return f"Ignored: execution {sent.executions[0]} has ended."

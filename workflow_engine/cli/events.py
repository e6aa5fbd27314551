"""`send-event`: what people and scripts tell a waiting execution."""

from __future__ import annotations

from typing import Any

import click

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.executions import JsonValue
from workflow_engine.cli.invocation import Invocation, command
from workflow_engine.cli.phrases import counted
from workflow_engine.client import WorkflowClient
from workflow_engine.events import SentEvent


@command("send-event")
@click.argument("name")
@click.option("--correlation-id", metavar="ID", help="To whatever waits with this correlation id.")
@click.option("--execution", metavar="EXECUTION", help="To the waits of one execution, in place of an id.")
@click.option("--payload", type=JsonValue(from_file=True), metavar="JSON|@FILE", help="What it says.")
@click.option("--event-id", metavar="ID", help="Sent again with the same id, it counts once.")
@click.option("--actor", metavar="WHO", help="Who sends it, for the history.")
def send_event(
    invocation: Invocation,
    name: str,
    correlation_id: str | None,
    execution: str | None,
    payload: Any,
    event_id: str | None,
    actor: str | None,
) -> ExitStatus:
    """Send an event to whatever waits for it.

    What nothing waits for yet is kept for WORKFLOW_ENGINE_EVENT_RETENTION. Exit status 1: the execution is
    over.

    \b
    workflow-engine send-event paid --correlation-id order-7 --payload '{"amount": 42}'
    workflow-engine send-event approved --execution 01a2…
    """
    if (correlation_id is None) == (execution is None):
        raise click.UsageError("say where it goes: either --correlation-id or --execution")
    sent = WorkflowClient(engine=invocation.engine()).send_event(
        correlation_id, name, payload, execution_id=execution, event_id=event_id, actor=actor
    )
    invocation.answer({"accepted": sent.accepted, "executions": sent.executions}, _news(sent))
    return ExitStatus.NO if sent.accepted == "finished" else ExitStatus.YES


def _news(sent: SentEvent) -> str:
    match sent.accepted:
        case "delivered":
            woken = len({each.execution_id for each in sent.woken})
            return f"Delivered to {counted(len(sent.executions), 'execution')}; {woken} can go on with it."
        case "kept":
            return "Kept: nothing waits for it yet."
        case "duplicate":
            return "Ignored: it was received before, by its id or by its name."
        case "finished":
            return f"Ignored: execution {sent.executions[0]} is over."

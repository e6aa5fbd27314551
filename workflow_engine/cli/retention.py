"""`purge`: what has ended long ago is removed."""

from __future__ import annotations

import click

from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.operators import Age
from workflow_engine.cli.phrases import counted
from workflow_engine.client import WorkflowClient


@command("purge")
@click.option(
    "--older-than",
    type=Age(),
    required=True,
    metavar="AGE",
    help="Only what ended longer ago than this: 180d, 12h.",
)
@click.option("--dry-run", is_flag=True, help="Only say how much would be removed.")
def purge(invocation: Invocation, older_than: float, dry_run: bool) -> None:
    """Remove executions that ended long ago.

    Their journals, waits, events and idempotency keys go with them; and events that nothing has waited for
    in WORKFLOW_ENGINE_EVENT_RETENTION. Everything is removed in batches, beside running workers; a purge
    that was interrupted goes on when it is repeated.

    \b
    workflow-engine purge --older-than 180d --dry-run
    """
    client = WorkflowClient(engine=invocation.engine())
    with invocation.patience("Counting" if dry_run else "Removing"):
        purged = client.purge(older_than, dry_run=dry_run)
    amount = f"{counted(purged.executions, 'execution')} and {counted(purged.events, 'event')}"
    done = f"{amount} would be removed." if dry_run else f"Removed {amount}."
    invocation.answer({**as_object(purged), "dryRun": dry_run}, done)

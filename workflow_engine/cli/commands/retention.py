"""`purge`: removes executions that ended long ago."""

from __future__ import annotations

import click

from workflow_engine.cli.filters import Age
from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.client import WorkflowClient
from workflow_engine.presentation.phrases import quantity


@command("purge")
@click.option(
    "--older-than",
    type=Age(),
    required=True,
    metavar="AGE",
    help="Only executions that ended longer ago than this: 180d, 12h.",
)
@click.option("--dry-run", is_flag=True, help="Only count what would be removed.")
def purge(invocation: Invocation, older_than: float, dry_run: bool) -> None:
    """Remove executions that ended long ago.

    Their journals, waits, events and idempotency keys go with them. So do events that no node has waited for
    within WORKFLOW_ENGINE_EVENT_RETENTION seconds. A purge removes in batches while workers run; one that was
    interrupted continues when it is repeated.

    \b
    workflow-engine purge --older-than 180d --dry-run
    """
    client = WorkflowClient(engine=invocation.engine())
    with invocation.busy("Counting" if dry_run else "Removing"):
        purged = client.purge(older_than, dry_run=dry_run)
    amount = f"{quantity(purged.executions, 'execution')} and {quantity(purged.events, 'event')}"
    done = f"{amount} would be removed." if dry_run else f"Removed {amount}."
    invocation.output({**as_object(purged), "dryRun": dry_run}, done)

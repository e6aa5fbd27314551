"""`db upgrade` and `db status`: the engine's tables and their migrations."""

from __future__ import annotations

import click

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, command


@click.group("db")
def db() -> None:
    """Create or upgrade the engine's tables."""


@command("upgrade")
def upgrade(invocation: Invocation) -> None:
    """Apply the migrations that the tables lack.

    Safe to repeat, and to run on several machines at once: they wait for each other.
    """
    from workflow_engine.postgres import migrations

    url, schema = invocation.settings.database_url, invocation.settings.database_schema
    before = migrations.current_revision(url, schema)
    migrations.upgrade(url, schema)
    after = migrations.current_revision(url, schema)
    if before == after:
        done = f"The tables are already at revision {after}."
    elif before:
        done = f"Upgraded the tables from revision {before} to {after}."
    else:
        done = f"Created the tables, at revision {after}."
    invocation.output({"before": before, "current": after, "schema": schema}, done)


@command("status")
def status(invocation: Invocation) -> ExitStatus:
    """Check that the tables are at the revision that this release needs."""
    from workflow_engine.postgres import migrations

    schema = invocation.settings.database_schema
    current = migrations.current_revision(invocation.settings.database_url, schema)
    newest = migrations.newest_revision()
    is_current = current == newest
    if is_current:
        state = f"The tables are at revision {current}, which this release needs."
    elif not migrations.is_known(current):
        state = (
            f"The tables are at revision {current}, from a newer release; this one needs {newest}. "
            "Update the package here."
        )
    else:
        have = f"The tables are at revision {current}" if current else "There are no tables"
        state = f"{have}, this release needs {newest}; run `workflow-engine db upgrade`."
    value = {"current": current, "newest": newest, "isCurrent": is_current, "schema": schema}
    invocation.output(value, state)
    return ExitStatus.YES if is_current else ExitStatus.NO


db.add_command(upgrade)
db.add_command(status)

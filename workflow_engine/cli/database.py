"""`db upgrade` and `db status`: the engine's tables and the migrations that form them."""

from __future__ import annotations

import click

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, command


@click.group("db")
def db() -> None:
    """Create the engine's tables or bring them up to date."""


@command("upgrade")
def upgrade(invocation: Invocation) -> None:
    """Apply the migrations that the tables lack.

    Safe to repeat and to run from several machines at once: they wait for each other.
    """
    from workflow_engine import migrations

    url, schema = invocation.settings.database_url, invocation.settings.database_schema
    before = migrations.current_revision(url, schema)
    migrations.upgrade(url, schema)
    after = migrations.current_revision(url, schema)
    done = f"The tables are at revision {after}"
    if before != after:
        done += f" now; they were at {before}." if before else "; they are new."
    else:
        done += ", as they were."
    invocation.answer({"before": before, "current": after, "schema": schema}, done)


@command("status")
def status(invocation: Invocation) -> ExitStatus:
    """Say whether the tables have the form that this release needs."""
    from workflow_engine import migrations

    schema = invocation.settings.database_schema
    current = migrations.current_revision(invocation.settings.database_url, schema)
    newest = migrations.newest_revision()
    is_current = current == newest
    if is_current:
        told = f"The tables are at revision {current}, which this release needs."
    else:
        have = f"The tables are at revision {current}" if current else "There are no tables"
        told = f"{have}, this release needs {newest}; run `workflow-engine db upgrade`."
    invocation.answer({"current": current, "newest": newest, "isCurrent": is_current, "schema": schema}, told)
    return ExitStatus.YES if is_current else ExitStatus.NO


db.add_command(upgrade)
db.add_command(status)

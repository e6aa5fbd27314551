"""The command line `workflow-engine`: which commands there are, and what their exit statuses mean.

Nothing but this table is read at start-up. The module of a command, and with it SQLAlchemy, Celery and all
node types, is imported when that command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import click

from workflow_engine.cli.command_group import CommandGroup, ListedCommand

COMMANDS = {
    "Definitions": {
        "validate": ListedCommand(
            "definitions", "validate", "Say everything that is wrong with definitions."
        ),
        "deploy": ListedCommand(
            "definitions", "deploy", "Make definitions the current versions of their workflows."
        ),
        "workflows": ListedCommand("definitions", "workflows", "List the deployed workflows."),
        "schedules": ListedCommand("schedules", "schedules", "List schedules and when each is due."),
        "schema": ListedCommand("definitions", "schema", "Print the JSON Schema of definitions."),
    },
    "Executions": {
        "start": ListedCommand("executions", "start", "Start an execution of a deployed workflow."),
        "list": ListedCommand("executions", "list_executions", "List executions, the newest first."),
        "send-event": ListedCommand("events", "send_event", "Send an event to whatever waits for it."),
        "show": ListedCommand("executions", "show", "Draw an execution: its graph and what each node did."),
    },
    "Steering": {
        "pause": ListedCommand(
            "operators", "pause", "Start no further node of executions until they are resumed."
        ),
        "resume": ListedCommand("operators", "resume", "Let paused executions go on."),
        "cancel": ListedCommand("operators", "cancel", "End executions at once."),
        "retry": ListedCommand("operators", "retry", "Let failed executions go on from the failed node."),
        "rerun": ListedCommand("operators", "rerun", "Run a node and all that follows it again."),
        "events": ListedCommand("history", "events", "Tell what happened to an execution, and who did it."),
    },
    "Operation": {
        "db": ListedCommand("database", "db", "Create the engine's tables or bring them up to date."),
        "purge": ListedCommand("retention", "purge", "Remove executions that ended long ago."),
        "health": ListedCommand(
            "health",
            "health",
            "Tell a supervisor whether the worker here is alive and the servers are ready.",
        ),
        "doctor": ListedCommand("doctor", "doctor", "Check servers, workers and settings; say what to do."),
        "demo": ListedCommand("demo", "demo", "Run an example on real workers and watch it."),
    },
}


@click.group(
    cls=CommandGroup,
    listed=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="workflow-engine", prog_name="workflow-engine")
def main() -> None:
    """Durable workflows on a Celery fleet.

    Servers are named by WORKFLOW_ENGINE_DATABASE_URL (Postgres) and WORKFLOW_ENGINE_REDIS_URL; further
    settings are environment variables that start with WORKFLOW_ENGINE_ too. Every command takes --json,
    which puts one JSON document on standard output and nothing else, errors included.

    \b
    Exit status:
      0  done, or the answer is yes
      1  the answer is no: invalid, not found, failed, a problem was found
      2  the command line or a setting is wrong
      3  a server cannot be reached
    """

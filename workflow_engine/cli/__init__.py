"""The command line `workflow-engine`: its commands, and what their exit statuses mean.

Nothing but this table is read at start-up. The module of a command, and with it SQLAlchemy, Celery and all
node types, is imported when that command runs, so `--help` prints at once.

- `commands/`: the commands
- `command_group`: imports a command when it is called, and prints every error
- `invocation`: the options that all commands share
- `filters`, `json_options`: options that select executions, and those with JSON
- `os_user`: who does it, for the history
- `drawing/`, `styles`: executions as text, and its colours
- `many_starts`: a file with a start in each line
- `missing_code`: the warning that no worker has a workflow's code
- `extras`: commands that need a package which may not be installed
- `streams`: terminals of any character set
"""

from __future__ import annotations

import click

from workflow_engine import DISTRIBUTION
from workflow_engine.cli.command_group import APP_VARIABLE, CommandGroup, ListedCommand

COMMANDS = {
    "Definitions": {
        "validate": ListedCommand("definitions", "validate", "Report every problem in workflow definitions."),
        "deploy": ListedCommand(
            "definitions", "deploy", "Deploy definitions as the current versions of their workflows."
        ),
        "canvas": ListedCommand(
            "definitions", "canvas", "Print the workflow that a canvas of Celery becomes, as YAML."
        ),
        "workflows": ListedCommand("definitions", "workflows", "List the deployed workflows."),
        "schedules": ListedCommand(
            "workflow_control", "schedules", "List schedules and when each is next due."
        ),
        "activate": ListedCommand(
            "workflow_control", "activate", "Let a deactivated or archived workflow start executions again."
        ),
        "deactivate": ListedCommand(
            "workflow_control",
            "deactivate",
            "Let no trigger of a workflow start anything; what runs goes on to its end.",
        ),
        "archive": ListedCommand(
            "workflow_control",
            "archive",
            "Deactivate a workflow, and hide it and its finished executions from lists.",
        ),
        "triggers": ListedCommand(
            "workflow_control", "triggers", "List triggers with their states; pause and resume single ones."
        ),
        "schema": ListedCommand("definitions", "schema", "Print the JSON Schema of definitions."),
    },
    "Executions": {
        "start": ListedCommand("executions", "start", "Start an execution of a deployed workflow, or many."),
        "list": ListedCommand("executions", "list_executions", "List executions, the newest first."),
        "send-event": ListedCommand("events", "send_event", "Send an event to the nodes that wait for it."),
        "show": ListedCommand("executions", "show", "Draw an execution: its graph and what each node did."),
        "explain": ListedCommand(
            "explain", "explain", "Explain why an execution does not move, and which command helps."
        ),
    },
    "Control": {
        "pause": ListedCommand(
            "control", "pause", "Pause executions: start no further node until they are resumed."
        ),
        "resume": ListedCommand("control", "resume", "Resume paused executions."),
        "cancel": ListedCommand("control", "cancel", "End executions at once."),
        "retry": ListedCommand("control", "retry", "Resume failed executions from the failed node."),
        "rerun": ListedCommand("control", "rerun", "Run a node and everything after it again."),
        "breakpoints": ListedCommand(
            "workflow_control",
            "breakpoints",
            "Pause executions before a node: of a whole workflow, or `pause --before` for single ones.",
        ),
        "skip": ListedCommand(
            "control", "skip", "Give a node an output in place of a run, and go on behind it."
        ),
        "complete": ListedCommand("control", "complete", "End the wait of a node by hand, with this output."),
        "set-output": ListedCommand(
            "control",
            "set_output",
            "Replace the output of a completed node, before a resume, retry or rerun.",
        ),
        "set-variable": ListedCommand(
            "control", "set_variable", "Give a variable a value, before a resume, retry or rerun."
        ),
        "limits": ListedCommand("limits", "limits", "List limits and who waits for them; set their numbers."),
        "events": ListedCommand("history", "events", "Show what happened to an execution, and who did it."),
    },
    "Operation": {
        "db": ListedCommand("database", "db", "Create or upgrade the engine's tables."),
        "purge": ListedCommand("retention", "purge", "Remove executions that ended long ago."),
        "health": ListedCommand(
            "health",
            "health",
            "Check, for a supervisor, that the local worker is alive and the servers are ready.",
        ),
        "metrics": ListedCommand(
            "metrics", "metrics", "Print or serve the state of the installation for Prometheus."
        ),
        "doctor": ListedCommand(
            "doctor", "doctor", "Check servers, workers and settings, with advice for each problem."
        ),
        "ui": ListedCommand(
            "sessions", "ui", "Start Flower with the pages of executions, workflows, statistics and queues."
        ),
        "dev": ListedCommand("sessions", "dev", "Run your own nodes while you write them."),
        "demo": ListedCommand("sessions", "demo", "Run an example on real workers and watch it."),
    },
}


@click.group(
    cls=CommandGroup,
    listed=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-A",
    "--app",
    "app_name",
    envvar=APP_VARIABLE,
    metavar="APP",
    help="Use the broker, settings and node types of this Celery app, named as for `celery -A`.",
)
@click.version_option(package_name=DISTRIBUTION, prog_name="workflow-engine")
def main(app_name: str | None) -> None:
    """Durable workflows on a Celery fleet.

    WORKFLOW_ENGINE_DATABASE_URL (Postgres) and WORKFLOW_ENGINE_REDIS_URL name the servers. All other settings
    are environment variables that begin with WORKFLOW_ENGINE_ as well. With -A, or WORKFLOW_ENGINE_APP, the
    broker is that of your own Celery app, whose settings are read first. With --json, every command prints
    one JSON document to standard output and nothing else, errors included.

    \b
    Exit status:
      0  success, or the answer is yes
      1  the answer is no: invalid, not found, failed, or a problem was found
      2  the command line or a setting is wrong
      3  a server cannot be reached
    """

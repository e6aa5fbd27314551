"""`manage.py workflow …`: the engine's command line, with the settings and the Celery app of the project.

`deploy` and `validate` without files take the definitions that are found in the installed apps.
"""

from __future__ import annotations

import sys
from argparse import REMAINDER
from collections.abc import Sequence
from typing import Any

import click
from django.core.management.base import BaseCommand, CommandError, CommandParser

from workflow_engine.cli import main
from workflow_engine.cli.command_group import Refusal
from workflow_engine.cli.commands import definitions
from workflow_engine.cli.invocation import Invocation
from workflow_engine.django.configuration import app_name
from workflow_engine.django.discovery import find_definitions
from workflow_engine.errors import WorkflowEngineError

OF_PROJECT = {"deploy": definitions.deploy_read, "validate": definitions.validate_read}
"""What is done with all definitions of the project if a command is given no files."""


class Command(BaseCommand):
    """Passes its arguments on to `workflow-engine`."""

    help = "Deploy workflows, start and watch executions, operate on them: `manage.py workflow --help`."
    requires_system_checks: Sequence[str] = []

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command as `manage.py` was called, and exit with its status."""
        of_django = CommandParser(add_help=False, allow_abbrev=False)
        of_django.add_argument("--settings")
        of_django.add_argument("--pythonpath")
        _, arguments = of_django.parse_known_args(argv[2:])  # Django has read them already
        sys.exit(_run(arguments, prog=f"{argv[0]} {argv[1]}"))

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("arguments", nargs=REMAINDER)

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Run a command as `call_command` does. Raises `CommandError` with its exit status."""
        given = [str(each) for each in (*arguments, *options.get("arguments", ()))]
        if status := _run(given, prog="manage.py workflow"):
            raise CommandError(f"workflow {' '.join(given)} failed", returncode=status)


def _run(arguments: list[str], prog: str) -> int:
    try:
        app = app_name()
        name, *options = arguments or ["--help"]
        if name in OF_PROJECT and set(options) <= {"--json"}:
            return _of_project(name, app, as_json="--json" in options)
    except WorkflowEngineError as error:
        return _refused(Refusal(error, as_json="--json" in arguments))
    try:
        main(args=[*(("-A", app) if app else ()), *arguments], prog_name=prog)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _of_project(name: str, app: str | None, *, as_json: bool) -> int:
    try:
        invocation = Invocation(as_json, (), app)
        return OF_PROJECT[name](invocation, find_definitions(invocation.node_types()))
    except (click.ClickException, WorkflowEngineError) as error:
        return _refused(Refusal(error, as_json=as_json))


def _refused(refusal: Refusal) -> int:
    refusal.show()
    return int(refusal.exit_code)

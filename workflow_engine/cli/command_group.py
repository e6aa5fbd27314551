"""The group of all commands: imports a command when it is called, and prints every error.

An error that the engine raises on purpose is printed as one line that says what to do. Any other error is a
bug of the engine, or of a module that it imports, and keeps its traceback.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import click

from workflow_engine.cli.streams import use_any_terminal
from workflow_engine.errors import (
    BackingServiceUnavailable,
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseUnavailable,
    DefinitionInvalid,
    DefinitionUnreadable,
    EmbeddedServerFailed,
    TriggerDataInvalid,
    WorkflowEngineError,
)

APP_VARIABLE = "WORKFLOW_ENGINE_APP"
"""The environment variable that names the Celery app if no option does."""


class ExitStatus(IntEnum):
    """The exit statuses of all commands."""

    YES = 0
    NO = 1
    USAGE = 2
    UNREACHABLE = 3


@dataclass(frozen=True)
class ListedCommand:
    """A command that is not imported yet: where it is, and its line in the list of commands."""

    module: str
    """Inside `workflow_engine.cli.commands`."""
    attribute: str
    summary: str

    def load(self) -> click.Command:
        """Import the command's module and return the command."""
        command: click.Command = getattr(
            importlib.import_module(f"workflow_engine.cli.commands.{self.module}"), self.attribute
        )
        return command


class CommandGroup(click.Group):
    """The commands by section and name, each imported when it is called."""

    def __init__(
        self, *args: Any, listed: Mapping[str, Mapping[str, ListedCommand]], **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self._sections = listed
        self._listed = {name: command for section in listed.values() for name, command in section.items()}

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Any:
        use_any_terminal()
        return super().main(args, *rest, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._listed)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        listed = self._listed.get(cmd_name)
        return listed.load() if listed else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, command.summary) for name, command in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        # A usage error may come before the command has read its options.
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except WorkflowEngineError as error:
            raise Refusal(error, as_json=as_json) from error
        except click.ClickException as error:
            if as_json and not isinstance(error, Refusal):
                raise Refusal(error, as_json=True, exit_status=error.exit_code) from error
            raise


class Refusal(click.ClickException):
    """An error as the user sees it: a line on standard error, or JSON on standard output."""

    def __init__(
        self,
        error: WorkflowEngineError | click.ClickException,
        *,
        as_json: bool,
        exit_status: int | None = None,
    ) -> None:
        super().__init__(
            error.format_message() if isinstance(error, click.ClickException) else with_advice(error)
        )
        status = exit_status_of(error) if exit_status is None else exit_status
        self.exit_code = status  # type: ignore[misc]  # click reads it from the instance
        self._error = error
        self._as_json = as_json

    def show(self, file: Any = None) -> None:
        if not self._as_json:
            click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
            click.echo(self.message, err=True)
            return
        content: dict[str, Any] = {"type": type(self._error).__name__, "message": self.message}
        if isinstance(self._error, DefinitionInvalid | DefinitionUnreadable | TriggerDataInvalid):
            content["problems"] = [
                {"path": problem.path, "message": problem.message} for problem in self._error.problems
            ]
        if (execution_id := getattr(self._error, "execution_id", None)) is not None:
            content["executionId"] = execution_id
        click.echo(json.dumps({"error": {**content, "exitStatus": self.exit_code}}, indent=2))


ADVICE: dict[type[WorkflowEngineError], str] = {
    DatabaseUnavailable: "is it running, and is WORKFLOW_ENGINE_DATABASE_URL right? "
    "`workflow-engine doctor` says more",
    CacheUnavailable: "is it running, and is WORKFLOW_ENGINE_REDIS_URL right? "
    "`workflow-engine doctor` says more",
    BrokerUnavailable: "is it running, and is WORKFLOW_ENGINE_BROKER_URL right? "
    "`workflow-engine doctor` says more",
}
"""What a person at a terminal can do about errors whose messages are written for any caller."""


def with_advice(error: WorkflowEngineError) -> str:
    """Return the error's message, followed by the advice that `ADVICE` has for it."""
    advice = next((text for kind, text in ADVICE.items() if isinstance(error, kind)), None)
    return f"{error}; {advice}" if advice else str(error)


def exit_status_of(error: Exception) -> ExitStatus:
    """Return UNREACHABLE for a server that cannot be reached or started, else NO."""
    is_out_of_reach = isinstance(error, BackingServiceUnavailable | EmbeddedServerFailed)
    return ExitStatus.UNREACHABLE if is_out_of_reach else ExitStatus.NO

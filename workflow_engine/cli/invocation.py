"""One call of a command: what all commands share, from the settings to the form of the output.

A command's function takes an `Invocation` and its own options. It prints its result once, as a value for
programs and as drawings for people. rich, the settings and the engine are imported when they are needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from workflow_engine.cli.command_group import APP_VARIABLE, ExitStatus
from workflow_engine.errors import AppUnusable, ModuleFailed, SettingsInvalid
from workflow_engine.nodes.module_imports import search_current_directory
from workflow_engine.telemetry.json_log import format_unconfigured_logging

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from workflow_engine.engine.assembly import Engine
    from workflow_engine.nodes.registry import NodeRegistry
    from workflow_engine.settings import Settings

WIDTH_OF_A_FILE = 1000
"""Columns of output that is not a terminal: nothing is cut off, and a table is as wide as its content."""


@dataclass(frozen=True)
class Invocation:
    """How a command was called, and what it may use."""

    as_json: bool
    imports: tuple[str, ...]
    """Modules named by --import, in addition to those of the settings."""
    app_name: str | None = None
    """The Celery app named by -A or WORKFLOW_ENGINE_APP."""

    @functools.cached_property
    def app(self) -> Any:
        """The team's Celery app; None if none is named. Raises a usage error for one that is unusable."""
        if not self.app_name:
            return None
        from workflow_engine.broker.celery_app import load_app

        with importing(), _usage_error_if_unusable():
            app = load_app(self.app_name)
            if "django.conf" in sys.modules:
                from workflow_engine.django.configuration import set_up_django

                set_up_django()
            return app

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings, including --import. Raises a usage error for a setting that is wrong."""
        from workflow_engine.settings import get_settings

        _ = self.app  # first, as the settings of Django may put the engine's into the environment
        try:
            settings = get_settings()
        except SettingsInvalid as refusal:
            raise click.UsageError(str(refusal)) from refusal
        if settings.log_format == "json":
            format_unconfigured_logging()
        imports = dict.fromkeys((*settings.imports, *self.imports))
        return settings.model_copy(update={"imports": tuple(imports)})

    def node_types(self) -> NodeRegistry:
        """Return all node types, including those of the app and of imported modules.

        Raises a usage error for a missing module.
        """
        from workflow_engine.nodes.loading import load_node_types

        self.load_tasks()
        with importing():
            try:
                return load_node_types(self.settings.imports)
            except ModuleFailed as failure:
                raise _import_error(failure) from failure.error

    def load_tasks(self) -> None:
        """Import the app's tasks: their modules may register nodes, and importing them sets up Django."""
        if self.app is None:
            return
        from workflow_engine.broker.celery_app import load_tasks

        with importing(), _usage_error_if_unusable():
            load_tasks(self.app)

    def engine(self, *, with_node_types: bool = False) -> Engine:
        """Return an engine. Without node types, so that commands that only read need no node's code."""
        from workflow_engine.engine.assembly import Engine

        if with_node_types:
            self.node_types()
            return Engine.assemble(self.settings, app=self.app)
        return Engine.assemble(self.settings.model_copy(update={"imports": ()}), app=self.app)

    @functools.cached_property
    def console(self) -> Console:
        """The console for people; without colours if they are not wanted or not supported."""
        from rich.console import Console

        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_FILE
        return Console(width=width, markup=False, highlight=False, emoji=False)

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show a spinner on a terminal while the block runs, and remove it afterwards."""
        from rich.console import Console

        watched = Console(stderr=True)
        if self.as_json or not watched.is_terminal:
            yield
            return
        spinner = "dots" if watched.encoding.startswith("utf") else "line"
        with watched.status(f"{what} …", spinner=spinner):
            yield

    def output(self, value: Any, *drawings: RenderableType) -> None:
        """Print the result: `value` as JSON with --json, else the drawings."""
        if self.as_json:
            click.echo(json.dumps(value, indent=2, default=_as_json))
            return
        for drawing in drawings:
            self.console.print(drawing, soft_wrap=isinstance(drawing, str))


SHARED_OPTIONS = [
    click.Option(
        ["-A", "--app", "app_name"],
        metavar="APP",
        help="Use the broker, settings and node types of this Celery app, named as for `celery -A`.",
    ),
    click.Option(
        ["--import", "imports"],
        multiple=True,
        metavar="MODULE",
        help="Import this module, also from the current directory, for its node types; may be repeated.",
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document and nothing else."),
]


def command(name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a function a command that takes --app, --json and --import, with an `Invocation` first.

    The function returns the exit status; None stands for 0.
    """

    def register(function: Callable[..., int | None]) -> click.Command:
        @click.pass_context
        @functools.wraps(function)
        def call(
            context: click.Context,
            /,
            *,
            as_json: bool,
            imports: tuple[str, ...],
            app_name: str | None,
            **options: Any,
        ) -> None:
            invocation = Invocation(as_json, imports, app_name or context.find_root().params.get("app_name"))
            context.exit(function(invocation, **options) or ExitStatus.YES)

        made = click.command(name)(call)
        made.params += SHARED_OPTIONS  # after its own, which matter more to readers of its help
        return made

    return register


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Find modules in the current directory; print what they print to standard error, not into the result."""
    search_current_directory()
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _usage_error_if_unusable() -> Iterator[None]:
    try:
        yield
    except AppUnusable as error:
        raise click.UsageError(f"{error}; check -A and {APP_VARIABLE}") from error


def _import_error(failure: ModuleFailed) -> BaseException:
    """Return a usage error for a missing module; for any other, what it raised, with its traceback."""
    error, module = failure.error, failure.module
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if not missing or not f"{module}.".startswith(f"{missing}."):
        return error
    return click.UsageError(
        f"no module {missing!r} in {os.getcwd()} or among the installed packages; "
        "check --import and WORKFLOW_ENGINE_IMPORTS"
    )


def as_object(record: Any) -> dict[str, Any]:
    """Return the JSON object of a dataclass: its fields in camelCase, their values unchanged."""
    names = (field.name for field in dataclasses.fields(record) if not field.name.startswith("_"))
    return {_camel_case(name): getattr(record, name) for name in names}


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if dataclasses.is_dataclass(value):
        return as_object(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")

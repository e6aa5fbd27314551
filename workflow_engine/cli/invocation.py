"""One call of a command: what all commands share, from the settings to the form of the answer.

A command's function is given an `Invocation`, its own options, and answers once, with a value for machines
and a drawing for people. rich, the settings and the engine are imported when they are needed.
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

from workflow_engine.cli.command_group import ExitStatus

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from workflow_engine.engine import Engine
    from workflow_engine.node_types import NodeRegistry
    from workflow_engine.settings import Settings

WIDTH_OF_A_FILE = 1000
"""Columns when the output is no terminal: nothing is cut off, and tables grow no wider than their content."""


@dataclass(frozen=True)
class Invocation:
    """How a command was called, and what it can use."""

    as_json: bool
    imports: tuple[str, ...]
    """Modules named by --import, beside those of the settings."""

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings, those of --import included. Raises a usage error for a setting that is wrong."""
        from pydantic import ValidationError

        from workflow_engine.settings import ENVIRONMENT_PREFIX, get_settings

        try:
            settings = get_settings()
        except ValidationError as refusal:
            wrong = (
                f"{ENVIRONMENT_PREFIX}{'_'.join(map(str, error['loc'])).upper()}: {error['msg']}"
                for error in refusal.errors()
            )
            raise click.UsageError("; ".join(wrong)) from refusal
        imports = dict.fromkeys((*settings.imports, *self.imports))
        return settings.model_copy(update={"imports": tuple(imports)})

    def node_types(self) -> NodeRegistry:
        """All node types, the imported ones included. Raises a usage error for a missing module."""
        from workflow_engine.nodes import load_node_types

        with importing(), _missing_module_told(self.settings.imports):
            return load_node_types(self.settings.imports)

    def engine(self, *, with_node_types: bool = False) -> Engine:
        """The engine of this process. Most commands only read, and must work where no node's code is."""
        from workflow_engine.engine import Engine

        if with_node_types:
            self.node_types()
            return Engine.assemble(self.settings)
        return Engine.assemble(self.settings.model_copy(update={"imports": ()}))

    @functools.cached_property
    def console(self) -> Console:
        """Where people read; colours are left out where they are not wanted or not seen."""
        from rich.console import Console

        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # an old terminal must not end a command
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_FILE
        return Console(width=width, markup=False, highlight=False, emoji=False)

    @contextlib.contextmanager
    def patience(self, what: str) -> Iterator[None]:
        """Tell somebody who watches a terminal that something takes a while; nothing of it stays."""
        from rich.console import Console

        watched = Console(stderr=True)
        if self.as_json or not watched.is_terminal:
            yield
            return
        with watched.status(f"{what} …"):
            yield

    def answer(self, value: Any, *drawings: RenderableType) -> None:
        """Print the answer: `value` as JSON if that was asked for, else the drawings."""
        if self.as_json:
            click.echo(json.dumps(value, indent=2, default=_as_json))
            return
        for drawing in drawings:
            self.console.print(drawing, soft_wrap=isinstance(drawing, str))


SHARED_OPTIONS = [
    click.Option(
        ["--import", "imports"],
        multiple=True,
        metavar="MODULE",
        help="Import this module, found from here, for its node types; may be repeated.",
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="Answer with one JSON document and nothing else."),
]


def command(name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command that takes --json and --import; its function gets an `Invocation` before its own options.

    The function may return the exit status, which is 0 otherwise.
    """

    def register(function: Callable[..., int | None]) -> click.Command:
        @click.pass_context
        @functools.wraps(function)
        def call(
            context: click.Context, /, *, as_json: bool, imports: tuple[str, ...], **options: Any
        ) -> None:
            context.exit(function(Invocation(as_json, imports), **options) or ExitStatus.YES)

        made = click.command(name)(call)
        made.params += SHARED_OPTIONS  # after its own, which matter more to a reader of its help
        return made

    return register


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Modules are found from the current directory, as Celery does; what they print is not our answer."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _missing_module_told(imports: tuple[str, ...]) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not any(module == missing or module.startswith(f"{missing}.") for module in imports):
            raise  # a module that is there, and imports one that is not
        raise click.UsageError(
            f"there is no module {missing!r} in {os.getcwd()} nor among the installed packages; "
            "check --import and WORKFLOW_ENGINE_IMPORTS"
        ) from error


def as_object(record: Any) -> dict[str, Any]:
    """A dataclass as the object that stands for it in JSON: its fields in camelCase, values as they are."""
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

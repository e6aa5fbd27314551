"""`validate`, `deploy`, `workflows` and `schema`: definitions, before and after they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import click

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.phrases import age, counted, instant, printable
from workflow_engine.definition import Workflow
from workflow_engine.errors import DefinitionInvalid, DefinitionUnreadable, Problem
from workflow_engine.node_types import NodeRegistry

files_argument = click.argument(
    "files", nargs=-1, required=True, type=click.File("rb", lazy=False), metavar="FILE…"
)


@dataclass(frozen=True)
class ReadFile:
    """What a file turned out to be: a workflow, or all the problems it has."""

    name: str
    workflow: Workflow | None
    problems: tuple[Problem, ...]


@command("validate")
@files_argument
def validate(invocation: Invocation, files: Sequence[BinaryIO]) -> ExitStatus:
    """Say everything that is wrong with definitions.

    FILE is YAML or JSON, - is standard input. Each problem comes with the path to it and what to do. A
    function that a node calls is only checked if its module is imported.
    """
    registry = invocation.node_types()
    read = [_read(file, registry) for file in files]
    invocation.answer(_told(read), *(line for each in read for line in _lines(each)))
    return ExitStatus.NO if any(each.problems for each in read) else ExitStatus.YES


@command("deploy")
@files_argument
def deploy(invocation: Invocation, files: Sequence[BinaryIO]) -> ExitStatus:
    """Make definitions the current versions of their workflows.

    FILE is YAML or JSON, - is standard input. If one of them has a problem none is deployed. Content that
    was deployed before makes no new version; executions keep the version they were started with.
    """
    registry = invocation.node_types()
    read = [_read(file, registry) for file in files]
    if any(each.problems for each in read):
        lines = [line for each in read if each.problems for line in _lines(each)]
        invocation.answer(_told(read), *lines, "Nothing was deployed.")
        return ExitStatus.NO
    deployments = invocation.engine().deployments
    done = [deployments.deploy(each.workflow) for each in read if each.workflow is not None]
    lines = []
    for each in done:
        news = "already current" if each.was_current else "new" if each.is_new else "current again"
        lines.append(f"{each.workflow_id} version {each.version}: {news}")
    invocation.answer({"deployed": [as_object(each) for each in done]}, *lines)
    return ExitStatus.YES


@command("workflows")
def workflows(invocation: Invocation) -> None:
    """List the deployed workflows."""
    from rich.table import Table

    deployed = invocation.engine().deployments.workflows()
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("WORKFLOW", overflow="fold")
    table.add_column("VERSION", justify="right")
    table.add_column("DEPLOYED", no_wrap=True)
    table.add_column("NAME")
    for each in deployed:
        when = f"{instant(each.deployed_at)}, {age(each.deployed_at)} ago"
        table.add_row(each.id, str(each.current_version), when, printable(each.name or ""))
    nothing = "No workflow is deployed; `workflow-engine deploy FILE` deploys one."
    invocation.answer({"workflows": [as_object(each) for each in deployed]}, table if deployed else nothing)


@command("schema")
def schema(invocation: Invocation) -> None:
    """Print the JSON Schema of definitions.

    Editors check and complete definitions with it while one writes. With or without --json it is the same.
    """
    from workflow_engine.definition_schema import schema_text

    click.echo(schema_text(invocation.node_types()), nl=False)


def _read(file: BinaryIO, registry: NodeRegistry) -> ReadFile:
    from workflow_engine.validation import validate_text

    name = str(getattr(file, "name", "-"))
    name = "standard input" if name in ("-", "<stdin>") else name
    try:
        return ReadFile(name, validate_text(file.read().decode("utf-8-sig"), registry, name=name), ())
    except UnicodeDecodeError:
        return ReadFile(name, None, (Problem("", f"{name} is not Unicode text; save it as UTF-8"),))
    except DefinitionInvalid as refusal:
        return ReadFile(name, None, refusal.problems)
    except DefinitionUnreadable as refusal:
        return ReadFile(name, None, refusal.problems or (Problem("", str(refusal)),))


def _lines(read: ReadFile) -> Iterator[str]:
    name = printable(read.name)
    if read.workflow is not None:
        size = f"{counted(len(read.workflow.nodes), 'node')}, {counted(len(read.workflow.edges), 'edge')}"
        yield f"{name}: valid ({read.workflow.id}, {size})"
        return
    yield f"{name}: {counted(len(read.problems), 'problem')}"
    yield from (f"  {printable(str(problem))}" for problem in read.problems)


def _told(read: Sequence[ReadFile]) -> dict[str, object]:
    return {
        "valid": not any(each.problems for each in read),
        "files": [
            {
                "file": each.name,
                "workflowId": each.workflow.id if each.workflow else None,
                "problems": [as_object(problem) for problem in each.problems],
            }
            for each in read
        ],
    }

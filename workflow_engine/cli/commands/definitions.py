"""`validate`, `deploy`, `canvas`, `workflows` and `schema`: definitions, before and after deployment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, BinaryIO

import click

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, as_object, command, importing
from workflow_engine.definition.workflow import Workflow
from workflow_engine.errors import DefinitionInvalid, DefinitionUnreadable, ModuleFailed, Problem
from workflow_engine.execution.states import WorkflowState
from workflow_engine.nodes.registry import NodeRegistry
from workflow_engine.presentation.phrases import age, instant, quantity, sanitise

files_argument = click.argument(
    "files", nargs=-1, required=True, type=click.File("rb", lazy=False), metavar="FILE…"
)


MANY_BRANCHES = 1_000
"""Branches of one node above which a loop serves better."""


@dataclass(frozen=True)
class ReadFile:
    """The content of one file: a workflow, or all its problems."""

    name: str
    workflow: Workflow | None
    problems: tuple[Problem, ...]


@command("validate")
@files_argument
def validate(invocation: Invocation, files: Sequence[BinaryIO]) -> ExitStatus:
    """Report every problem in workflow definitions.

    FILE is YAML or JSON; - is standard input. Each problem comes with its path and what to do about it. The
    function that a node calls is checked only if its module is imported.
    """
    registry = invocation.node_types()
    return validate_read(invocation, [_read(file, registry) for file in files])


def validate_read(invocation: Invocation, read: Sequence[ReadFile]) -> ExitStatus:
    """Report the problems of definitions."""
    invocation.output(_report(read), *(line for each in read for line in _lines(each)))
    return ExitStatus.NO if any(each.problems for each in read) else ExitStatus.YES


@command("deploy")
@files_argument
def deploy(invocation: Invocation, files: Sequence[BinaryIO]) -> ExitStatus:
    """Deploy definitions as the current versions of their workflows.

    FILE is YAML or JSON; - is standard input. If one of them has a problem, none is deployed. Content that
    was deployed before makes no new version. Executions keep the version that they were started with.
    """
    registry = invocation.node_types()
    return deploy_read(invocation, [_read(file, registry) for file in files])


def deploy_read(invocation: Invocation, read: Sequence[ReadFile]) -> ExitStatus:
    """Deploy definitions, or none if one of them has a problem."""
    if any(each.problems for each in read):
        lines = [line for each in read if each.problems for line in _lines(each)]
        invocation.output(_report(read), *lines, "Nothing was deployed.")
        return ExitStatus.NO
    deployments = invocation.engine().deployments
    done = [deployments.deploy(each.workflow) for each in read if each.workflow is not None]
    lines = []
    for each in done:
        news = "already current" if each.was_current else "new" if each.is_new else "current again"
        closed = "" if each.state is WorkflowState.ACTIVE else f"; it is {each.state} and starts nothing"
        lines.append(f"{each.workflow_id} version {each.version}: {news}{closed}")
    invocation.output({"deployed": [as_object(each) for each in done]}, *lines)
    return ExitStatus.YES


@command("canvas")
@click.argument("signature", metavar="MODULE:SIGNATURE")
@click.option("--name", help="The id of the workflow; by default one made of the canvas's shape.")
def canvas(invocation: Invocation, signature: str, name: str | None) -> ExitStatus:
    """Print the workflow that a canvas of Celery becomes, as YAML.

    SIGNATURE is a signature, chain, group or chord in the module, or a function without arguments that
    returns one. The workflow is its shape; with --json, `data` holds the arguments. Nothing is deployed.
    """
    import yaml

    from workflow_engine.canvas.durable import durable

    invocation.load_tasks()
    found = _find(signature)
    try:
        durable_one = durable(found, name)
    except DefinitionInvalid as refusal:
        click.echo(str(refusal), err=True)
        return ExitStatus.NO
    content = durable_one.workflow.to_dict()
    if invocation.as_json:
        invocation.output({"workflow": content, "data": dict(durable_one.data)})
    else:
        click.echo(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), nl=False)
    return ExitStatus.YES


@command("workflows")
@click.option("--archived", is_flag=True, help="Those that are archived too.")
def workflows(invocation: Invocation, archived: bool) -> None:
    """List the deployed workflows.

    Of one that is DEACTIVATED or ARCHIVED no trigger starts anything.
    """
    from rich.table import Table

    deployed = invocation.engine().deployments.workflows(archived=archived)
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("WORKFLOW", overflow="fold")
    table.add_column("VERSION", justify="right")
    table.add_column("STATE", no_wrap=True)
    table.add_column("DEPLOYED", no_wrap=True)
    table.add_column("NAME")
    for each in deployed:
        when = f"{instant(each.deployed_at)}, {age(each.deployed_at)} ago"
        table.add_row(each.id, str(each.current_version), each.state, when, sanitise(each.name or ""))
    nothing = "No workflow is deployed; `workflow-engine deploy FILE` deploys one."
    invocation.output({"workflows": [as_object(each) for each in deployed]}, table if deployed else nothing)


@command("schema")
def schema(invocation: Invocation) -> None:
    """Print the JSON Schema of definitions.

    Editors use it to check and complete definitions. The output is the same with and without --json.
    """
    from workflow_engine.validation.json_schema import schema_text

    click.echo(schema_text(invocation.node_types()), nl=False)


def _read(file: BinaryIO, registry: NodeRegistry) -> ReadFile:
    name = str(getattr(file, "name", "-"))
    return read_definition("standard input" if name in ("-", "<stdin>") else name, file.read(), registry)


def read_definition(name: str, text: bytes, registry: NodeRegistry) -> ReadFile:
    """Return the workflow in the content of a file, or its problems."""
    from workflow_engine.validation import validate_text

    try:
        return ReadFile(name, validate_text(text.decode("utf-8-sig"), registry, name=name), ())
    except UnicodeDecodeError:
        return ReadFile(name, None, (Problem("", f"{name} is not Unicode text; save it as UTF-8"),))
    except DefinitionInvalid as refusal:
        return ReadFile(name, None, refusal.problems)
    except DefinitionUnreadable as refusal:
        return ReadFile(name, None, refusal.problems or (Problem("", str(refusal)),))


def _lines(read: ReadFile) -> Iterator[str]:
    name = sanitise(read.name)
    if read.workflow is not None:
        size = f"{quantity(len(read.workflow.nodes), 'node')}, {quantity(len(read.workflow.edges), 'edge')}"
        yield f"{name}: valid ({read.workflow.id}, {size})"
        if (note := _note(read.workflow)) is not None:
            yield f"  note: {sanitise(note)}"
        return
    yield f"{name}: {quantity(len(read.problems), 'problem')}"
    yield from (f"  {sanitise(str(problem))}" for problem in read.problems)


def _note(workflow: Workflow) -> str | None:
    """Return what the author may want to know about a valid workflow."""
    from workflow_engine.validation.concurrency_checks import widest_fan_out

    node_id, branches = widest_fan_out(workflow)
    if len(branches) > MANY_BRANCHES:
        return (
            f"{len(branches):,} branches leave {node_id}, and each hop carries the ids of those that are "
            "due; a logic/loop over a list does not"
        )
    if len(branches) > 1 and workflow.settings.model_fields_set.isdisjoint(("concurrency", "hops")):
        return (
            f"the {len(branches)} branches after {node_id} run one after the other; with "
            "settings.concurrency: 2 or more they run at the same time"
        )
    return None


def _report(read: Sequence[ReadFile]) -> dict[str, object]:
    return {
        "valid": not any(each.problems for each in read),
        "files": [
            {
                "file": each.name,
                "workflowId": each.workflow.id if each.workflow else None,
                "problems": [as_object(problem) for problem in each.problems],
                "note": _note(each.workflow) if each.workflow else None,
            }
            for each in read
        ],
    }


def _find(name: str) -> Mapping[str, Any]:
    """Return the signature of this name. Raises a usage error."""
    from workflow_engine.nodes.module_imports import import_named, search_current_directory

    module, _, attribute = name.partition(":")
    if not attribute:
        raise click.UsageError(
            f"{name!r} names no signature; write MODULE:SIGNATURE, as in shop.flows:checkout"
        )
    search_current_directory()
    try:
        with importing():
            found: Any = reduce(getattr, attribute.split("."), import_named(module))
    except ModuleFailed as failure:
        raise click.UsageError(f"cannot import {failure.module!r}: {failure.reason}") from failure
    except AttributeError:
        raise click.UsageError(f"module {module!r} has no {attribute!r}") from None
    if callable(found) and not isinstance(found, Mapping):
        found = found()
    if not isinstance(found, Mapping):
        raise click.UsageError(f"{name} is {type(found).__name__}, not a signature of Celery")
    return found

"""`explain`: why an execution does not move, or what stands still in the whole installation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.client import WorkflowClient
from workflow_engine.control.explain.explainer import EXAMINED
from workflow_engine.control.explain.explanation import Code, Explanation, Group, Overview
from workflow_engine.presentation.phrases import compact_json, instant, quantity, sanitise

STYLES: dict[Code, str] = {
    Code.RUNNING: "cyan",
    Code.QUEUED: "blue",
    Code.WAITING_TIME: "yellow",
    Code.WAITING_EVENTS: "yellow",
    Code.WAITING_CHILDREN: "yellow",
    Code.RETRYING: "yellow",
    Code.JOIN: "yellow",
    Code.LIMITED: "yellow",
    Code.PAUSED: "magenta",
    Code.FINISHED: "green",
}
"""The styles of codes; any other is a reason to act."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")
"""A time of the evidence."""

LONGEST_TEXT, LONGEST_LIST = 400, 20
"""Characters and entries that are shown; --json has all of them."""


@command("explain")
@click.argument("execution", required=False)
@click.option(
    "--all", "explains_all", is_flag=True, help="Group the executions that have not ended by what holds them."
)
@click.option(
    "--limit",
    type=click.IntRange(1, EXAMINED),
    default=EXAMINED,
    show_default=True,
    help="With --all: examine this many of the oldest.",
)
def explain(invocation: Invocation, execution: str | None, explains_all: bool, limit: int) -> None:
    """Explain why an execution does not move, and which command helps.

    It changes nothing and needs no worker to reply. A server that could not be asked is named.

    \b
    workflow-engine explain 0199c8a0-…
    workflow-engine explain --all
    """
    if explains_all == (execution is not None):
        raise click.UsageError("name an execution, or give --all")
    client = WorkflowClient(engine=invocation.engine())
    if execution is not None:
        explanation = client.explain(execution)
        invocation.output(as_object(explanation), *_drawn(explanation))
        return
    overview = client.explain_all(limit)
    invocation.output(as_object(overview), *_drawn_overview(overview))


def _drawn(explanation: Explanation) -> Iterator[Text]:
    code = explanation.code
    yield Text.assemble((code.value, STYLES.get(code, "bold red")), f"  {sanitise(explanation.sentence)}")
    lines = [(name, value) for name, value in explanation.evidence.items() if value not in (None, [], {})]
    if lines:
        yield Text()
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        yield Text.assemble((f"  {name.ljust(width)}  ", "dim"), _shown(value))
    yield from _help(explanation)
    yield from _unasked(explanation.unasked)


def _help(explanation: Explanation) -> Iterator[Text]:
    advice = sanitise(explanation.advice)
    if explanation.command is None:
        yield from [Text(), Text(f"Nothing has to be done: {advice}.")] if advice else []
        return
    yield Text()
    yield Text.assemble(("  ", ""), (sanitise(explanation.command), "bold"))
    if advice:
        yield Text(f"  {advice}", "dim")


def _unasked(unasked: Any) -> Iterator[Text]:
    for each in unasked:
        yield Text(f"Not asked: {sanitise(each)}", "yellow")


def _shown(value: Any) -> str:
    """Return a value on one line: text and times as they are, lists and objects without brackets."""
    if isinstance(value, str) and TIME.fullmatch(value):
        return instant(datetime.fromisoformat(value))
    if isinstance(value, str) and len(value) <= LONGEST_TEXT:
        return sanitise(value).replace("\n", " ")
    if isinstance(value, list) and len(value) <= LONGEST_LIST:
        return ("; " if any(isinstance(each, dict) for each in value) else ", ").join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items() if each is not None)
    return compact_json(value)


def _drawn_overview(overview: Overview) -> Iterator[Text]:
    if not overview.groups:
        yield Text("No execution is open.")
    for group in overview.groups:
        yield from _drawn_group(group)
    if overview.groups:
        more = "" if overview.is_complete else ", the oldest ones; there are more"
        yield Text(f"{quantity(overview.examined, 'open execution')}{more}.")
    yield from _unasked(overview.unasked)


def _drawn_group(group: Group) -> Iterator[Text]:
    yield Text.assemble(
        (group.code.value, STYLES.get(group.code, "bold red")), f"  {group.count:,}  {group.sentence}"
    )
    for subject, count in group.subjects.items():
        yield Text.assemble((f"  {count:>6,}  ", "dim"), _shown(subject))
    yield Text.assemble(("  oldest  ", "dim"), ", ".join(group.oldest))
    if group.example is not None and group.example.command is not None:
        yield Text.assemble(("  helps   ", "dim"), sanitise(group.example.command))
    yield Text()

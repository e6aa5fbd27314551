"""`limits`: the keys of limits with their numbers and lines, and the numbers that operators set."""

from __future__ import annotations

import click
from rich.table import Table

from workflow_engine.cli.command_group import ExitStatus
from workflow_engine.cli.invocation import Invocation, as_object, command
from workflow_engine.cli.os_user import os_user
from workflow_engine.client import WorkflowClient
from workflow_engine.definition.workflow import rate_of
from workflow_engine.errors import InvalidValue
from workflow_engine.postgres.limits import LimitUse
from workflow_engine.presentation.phrases import age, sanitise
from workflow_engine.presentation.phrases import rate as rate_text


@click.group("limits")
def limits() -> None:
    """List limits and who waits for them; set their numbers.

    Numbers that are set take the place of those in definitions, for all versions, at once and until they are
    reset.

    \b
    workflow-engine limits list
    workflow-engine limits set tenant:acme --concurrency 20
    workflow-engine limits set tenant:acme --rate 10/min --reason "their API is slow today"
    workflow-engine limits reset tenant:acme
    """


@command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, metavar="N")
def list_limits(invocation: Invocation, limit: int) -> None:
    """List the keys in use or set, those with the longest lines first."""
    uses = WorkflowClient(engine=invocation.engine()).control.limits.list(limit=limit)
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("KEY", overflow="fold")
    for name in ("CONCURRENCY", "RATE", "HELD", "WAITING", "SINCE"):
        table.add_column(name, no_wrap=True)
    table.add_column("SET BY", overflow="fold")
    for use in uses:
        table.add_row(
            sanitise(use.key),
            "" if use.concurrency is None else f"{use.concurrency:,}",
            rate_text(use.rate, use.rate_seconds),
            f"{use.held:,}",
            f"{use.waiting:,}",
            age(use.oldest) if use.oldest else "",
            _set_by(use),
        )
    nothing = "No execution holds or awaits a slot of a limit, and no number is set."
    invocation.output({"limits": [as_object(use) for use in uses]}, table if uses else nothing)


@command("set")
@click.argument("key")
@click.option("--concurrency", type=click.IntRange(min=0), metavar="N", help="How many at a time; 0: none.")
@click.option("--rate", metavar="RATE", help="How many may begin within a time, such as 100/min.")
@click.option("--reason", metavar="TEXT", help="Why, for those who list the limits.")
@click.option("--actor", metavar="NAME", help="Who.  [default: the user who is logged in]")
def set_limit(
    invocation: Invocation,
    key: str,
    concurrency: int | None,
    rate: str | None,
    reason: str | None,
    actor: str | None,
) -> None:
    """Set the numbers of KEY in place of those of definitions.

    Owners of slots keep them: after a lower number none is granted until enough have ended.
    """
    if concurrency is None and rate is None:
        raise click.UsageError("Nothing to set: give --concurrency, --rate or both.")
    try:
        if rate is not None:
            rate_of(rate)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rate") from None
    control = WorkflowClient(engine=invocation.engine()).control.limits
    try:
        control.set(key, concurrency=concurrency, rate=rate, reason=reason, actor=actor or os_user())
    except InvalidValue as error:
        raise click.BadParameter(str(error), param_hint="KEY") from None
    use = control.get(key)
    assert use is not None  # it is set
    numbers = " and ".join(
        text
        for text in (
            f"{use.concurrency:,} at a time" if use.concurrency is not None else "",
            f"{rate_text(use.rate, use.rate_seconds)}" if use.rate is not None else "",
        )
        if text
    )
    invocation.output(
        as_object(use), f"{sanitise(key)}: {numbers}; {use.held:,} held, {use.waiting:,} waiting."
    )


@command("reset")
@click.argument("key")
def reset_limit(invocation: Invocation, key: str) -> ExitStatus:
    """Return to the numbers that definitions give for KEY."""
    try:
        was_set = WorkflowClient(engine=invocation.engine()).control.limits.reset(key)
    except InvalidValue as error:
        raise click.BadParameter(str(error), param_hint="KEY") from None
    said = "is as definitions say again" if was_set else "was not set; nothing has changed"
    invocation.output({"key": key, "wasSet": was_set}, f"{sanitise(key)} {said}.")
    return ExitStatus.YES if was_set else ExitStatus.NO


for each in (list_limits, set_limit, reset_limit):
    limits.add_command(each)


def _set_by(use: LimitUse) -> str:
    if not use.is_set:
        return ""
    reason = f": {use.reason}" if use.reason else ""
    return sanitise(f"{use.actor or 'unknown'}{reason}")

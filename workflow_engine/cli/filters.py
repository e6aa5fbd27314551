"""The options that select executions, the same for lists and for what is done to many."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from workflow_engine.errors import InvalidValue
from workflow_engine.execution.states import ExecutionStatus
from workflow_engine.postgres.executions.filters import ExecutionFilter, condition_of

SECONDS_OF_UNIT = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}


class Age(click.ParamType):  # type: ignore[type-arg]  # generic since Click 8.4
    """A time span such as `3h`, in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h|d)", value)
        if found is None:
            self.fail(
                f"{value} is not a time span; write a number and s, min, h or d, such as 3h", param, ctx
            )
        return float(found[1]) * SECONDS_OF_UNIT[found[2]]


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic since Click 8.4
    """A time in ISO 8601, in UTC if it names no zone, or how long ago it was."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if re.fullmatch(r"\d+(?:\.\d+)? ?[a-z]+", value):
            return datetime.now(UTC) - timedelta(seconds=Age().convert(value, param, ctx))
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value} is no time; write 2026-01-31T12:00Z, or 3h for three hours ago", param, ctx)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


FILTERS = [
    click.option("--workflow", metavar="WORKFLOW", help="Only executions of this workflow."),
    click.option(
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice([status.value for status in ExecutionStatus], case_sensitive=False),
        metavar="STATUS",
        help=f"Only executions in this status; may be repeated. One of {', '.join(ExecutionStatus)}.",
    ),
    click.option(
        "--where",
        multiple=True,
        metavar="PATH=JSON",
        help="Only executions whose metadata have this value, as in metadata.order=7; may be repeated.",
    ),
    click.option(
        "--tag", "tags", multiple=True, metavar="TAG", help="Only executions with this tag; may be repeated."
    ),
    click.option(
        "--since",
        type=Moment(),
        metavar="TIME",
        help="Only executions started since then; or 3h, a time ago.",
    ),
    click.option("--until", type=Moment(), metavar="TIME", help="Only executions started before; or 3h."),
    click.option("--archived", is_flag=True, help="Finished executions of archived workflows too."),
    click.option(
        "--text",
        metavar="TEXT",
        help="Only executions with this in the error, key, tags, or at the id's start.",
    ),
]


def with_filters(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the options of `ExecutionFilter`."""
    for option in reversed(FILTERS):
        function = option(function)
    return function


def filter_of(
    *,
    workflow: str | None,
    statuses: Sequence[str],
    where: Sequence[str],
    tags: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    text: str | None,
    archived: bool,
    older_than: float | None = None,
) -> ExecutionFilter:
    """Return the filter that the options describe. Raises a usage error for what cannot be filtered by."""
    try:
        conditions = [condition_of(each) for each in where]
        repeated = len(dict(conditions)) < len(conditions)
        if repeated:
            raise InvalidValue("where", "a path is given twice; remove one of the two")
        return ExecutionFilter(
            workflow, statuses, dict(conditions), tags, since, until, older_than, text, archived
        )
    except InvalidValue as refusal:
        raise click.UsageError(f"--{str(refusal).replace(':', '', 1)}") from refusal

"""`start --many`: a file with a start in each line, as JSON."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from workflow_engine.cli.json_options import read_json
from workflow_engine.cli.streams import standard_input
from workflow_engine.engine.starts.given import Start
from workflow_engine.errors import StartsRefused

FIELDS = {
    "data": "data",
    "trigger": "trigger",
    "variables": "variables",
    "key": "idempotency_key",
    "priority": "priority",
    "queue": "queue",
    "metadata": "metadata",
    "tags": "tags",
}
"""The keys of a line, by the options of `start`, and what they are called in Python."""

NAMED = 20
"""Refused lines that are printed."""


def read_starts(path: str) -> list[Start]:
    """Read a start from each line of a file, or of standard input for `-`.

    Raises `click.UsageError` that names the first line which is none; nothing is started then.
    """
    try:
        text = standard_input() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read {path}: {error}") from error
    return list(_starts(text))


def refused_lines(refused: StartsRefused) -> click.ClickException:
    """Return the error that names each refused line by its number."""
    named = list(refused.refusals.items())[:NAMED]
    lines = "".join(f"\n  line {index + 1}: {error}" for index, error in named)
    if (more := len(refused.refusals) - len(named)) > 0:
        lines += f"\n  and {more:,} more"
    what = f"{len(refused.started):,} were started before" if refused.started else "nothing was started"
    return click.ClickException(f"{len(refused.refusals):,} lines are refused, {what}:{lines}")


def _starts(text: str) -> Iterator[Start]:
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        try:
            given = read_json(line)
        except ValueError as error:
            raise click.UsageError(f"line {number} is not JSON: {error}") from error
        if not isinstance(given, dict):
            raise click.UsageError(f'line {number} is no object; write {{"data": {line:.60}}}')
        for name in given:
            if name not in FIELDS:
                raise click.UsageError(f"line {number} has an unknown key {name!r:.60}; {_known(name)}")
        yield _start(given, number)


def _start(given: dict[str, Any], number: int) -> Start:
    for name, kind, what in (
        ("trigger", str, "a text"),
        ("key", str, "a text"),
        ("queue", str, "a text"),
        ("priority", int, "a number from 0 to 9"),
        ("variables", dict, "an object"),
        ("metadata", dict, "an object"),
        ("tags", list, "a list of texts"),
    ):
        if name in given and (not isinstance(given[name], kind) or isinstance(given[name], bool)):
            raise click.UsageError(f"line {number}: {name} is {what}, not {given[name]!r:.60}")
    return Start(**{FIELDS[name]: value for name, value in given.items()})


def _known(name: str) -> str:
    close = difflib.get_close_matches(name, FIELDS, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(FIELDS)}"

"""Options whose values are JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from workflow_engine.cli.streams import standard_input


class JsonValue(click.ParamType):  # type: ignore[type-arg]  # generic since Click 8.4
    """A JSON value; with `from_file`, `@name` reads it from a file and `@-` from standard input."""

    name = "json"

    def __init__(self, *, from_file: bool = False) -> None:
        self._from_file = from_file

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # a default
        try:
            text = _read(value[1:]) if self._from_file and value.startswith("@") else value
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"cannot read {value[1:]}: {error}", param, ctx)
        try:
            return read_json(text)
        except _RepeatedKeyError as repeated:
            self.fail(str(repeated), param, ctx)
        except ValueError as error:
            self.fail(
                f"{value:.200} is not JSON ({error}); text needs double quotes inside single ones", param, ctx
            )


class _RepeatedKeyError(ValueError):
    """An object has a key twice, and it is unknown which of the values is meant."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r:.60} occurs twice; remove one of the two")


def read_json(text: str) -> Any:
    """Return the value of a JSON text. Raises `ValueError`, also for an object that has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_object_of)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _RepeatedKeyError(key)
        content[key] = value
    return content


class Variable(JsonValue):
    """`name=JSON`; with `or_text`, a value that is not JSON is a text."""

    name = "variable"

    def __init__(self, *, or_text: bool = False) -> None:
        super().__init__()
        self._or_text = or_text

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        name, separator, text = value.partition("=")
        if not name or not separator:
            self.fail(f"{value} has no name and value; write name=JSON", param, ctx)
        try:
            return name, super().convert(text, param, ctx)
        except click.BadParameter:
            if self._or_text:
                return name, text
            raise


def _read(name: str) -> str:
    return standard_input() if name == "-" else Path(name).read_text(encoding="utf-8-sig")

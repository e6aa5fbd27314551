"""Reads the text of a definition, YAML or JSON, into plain JSON values.

YAML is read with JSON's types only: a date, `NO`, `12:30`, `0x1F` or `1_000` stays the text it looks like.
A value that silently changes its type between file and workflow surfaces only in production. For the same
reason a repeated key is a problem here, while most readers silently drop a value.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from yaml import events

from workflow_engine.errors import DefinitionUnreadable, Problem
from workflow_engine.json_values import MAX_DEPTH
from workflow_engine.paths import Segment, in_definition

MAX_BYTES = 1024 * 1024
"""Largest text of a definition, in UTF-8 and with its aliases written out."""


@dataclass(frozen=True)
class DefinitionText:
    """The content of a text; a repeated key keeps its last value, and is a problem."""

    content: Any
    repeated_keys: tuple[Problem, ...]


def read_definition(text: str, *, name: str = "") -> Any:
    """Return the JSON value that the text of a definition stands for.

    `name` is the file's name, for messages; if it ends in .json only JSON is accepted. Raises
    `DefinitionUnreadable` for text that is neither YAML nor JSON, is larger than `MAX_BYTES`, or
    repeats keys (then with every one).
    """
    read = parse_definition(text, name=name)
    if read.repeated_keys:
        lines = "".join(f"\n  {problem}" for problem in read.repeated_keys)
        message = f"{name or _UNNAMED} repeats keys:{lines}"
        raise DefinitionUnreadable(message, problems=read.repeated_keys)
    return read.content


def parse_definition(text: str, *, name: str = "") -> DefinitionText:
    """Do as `read_definition`, but return repeated keys, to be reported with all other problems."""
    title = name or _UNNAMED
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise DefinitionUnreadable(f"{title} is empty; a definition has id, nodes and edges")
    try:
        if (size := len(text.encode())) > MAX_BYTES:
            raise DefinitionUnreadable(f"{title} has {size:,} bytes, more than the {MAX_BYTES:,} allowed")
        return _read_json(text) if _is_json(text, name) else _read_yaml(text)
    except _UnreadableError as error:
        message = f"{title}, line {error.line}, column {error.column}: {error.message}"
        raise DefinitionUnreadable(message, line=error.line, column=error.column) from None
    except UnicodeEncodeError:
        raise DefinitionUnreadable(f"{title} is not Unicode text; save it as UTF-8") from None
    except RecursionError:
        raise DefinitionUnreadable(f"{title} is nested too deeply; flatten it") from None


_UNNAMED = "the definition"


class _UnreadableError(Exception):
    """A mistake at a line and column, which count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        self.message = message
        self.line = line
        self.column = column


def _is_json(text: str, name: str) -> bool:
    """Return whether the text is meant as JSON, so that its mistakes are reported as mistakes in JSON."""
    if name.endswith((".json", ".yaml", ".yml")):
        return name.endswith(".json")
    return re.match(r'\s*\{\s*["}]', text) is not None


# -- JSON ----------------------------------------------------------------------------------------------

_JSON_HINTS = {
    "Expecting property name": 'a key in double quotes must follow; no "," stands after the last entry',
    "Illegal trailing comma": 'no "," stands after the last entry; remove it',
    "Expecting ',' delimiter": 'put "," between two entries, and close every bracket',
    "Expecting ':' delimiter": 'put ":" between a key and its value',
    "Expecting value": "a value must follow; text stands in double quotes",
    "Invalid control character": "a line break or tab inside text is written \\n or \\t",
    "Invalid \\escape": "a backslash in text is written \\\\",
    "Unterminated string": "close the text with a double quote",
    "Extra data": "remove what follows the end of the definition",
}


def _read_json(text: str) -> DefinitionText:
    repeated: list[str] = []

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            counted = Counter(key for key, _ in pairs)
            repeated.extend(key for key, count in counted.items() if count > 1)
        return content

    try:
        content = json.loads(text, parse_int=_integer, object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        hint = next((f"; {hint}" for start, hint in _JSON_HINTS.items() if error.msg.startswith(start)), "")
        raise _UnreadableError(f"not valid JSON: {error.msg}{hint}", error.lineno, error.colno) from None
    return DefinitionText(content, _repeated_in_json(text, repeated))


def _integer(digits: str) -> int:
    """Read an integer by its first 40 digits, since Python refuses thousands.

    A number that large is refused later, where its path is known.
    """
    return int(digits[:40])


def _repeated_in_json(text: str, keys: list[str]) -> tuple[Problem, ...]:
    """Find repeated keys with the YAML reader, since Python's JSON reader reports no positions."""
    if not keys:
        return ()
    try:
        if found := _read_yaml(text).repeated_keys:
            return found
    except _UnreadableError:  # a key too long for YAML, say
        pass
    return tuple(Problem("", f"the key {key!r:.60} is repeated; remove one of the two") for key in keys)


# -- YAML ----------------------------------------------------------------------------------------------

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser in C is ten times faster, and present in all wheels of PyYAML."""

_CONSTANTS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")

_YAML_HINTS = {
    "mapping values are not allowed": "check the indentation, and put quotes around text that contains ': '",
    "cannot start any token": "indent with spaces, not tabs, and quote text that starts with a sign",
    "unexpected end of stream": "close the quotes",
    "expected ',' or": "close the bracket, and put ',' between two entries",
    "did not find expected key": "check the indentation and the quotes of this line and the one before",
    "control characters": "remove it, or write it as an escape in double quotes",
}

_TOO_DEEP_FOR_THE_PARSER = "exceeded maximum nesting depth"
"""The error of newer releases of libyaml, whose parser may be ahead of the events read so far."""

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels; flatten it"

_QUOTE_EXPRESSIONS = 'put quotes around expressions: "{{ … }}"'


def _read_yaml(text: str) -> DefinitionText:
    reader = _YamlReader()
    try:
        reader.read(yaml.parse(text, Loader=_PARSER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        raise _UnreadableError(_yaml_message(text, line, error.problem or ""), line + 1, column + 1) from None
    except yaml.reader.ReaderError as error:
        before = text.encode()[: error.position].split(b"\n")
        message = _yaml_message(text, len(before) - 1, str(error.reason))
        raise _UnreadableError(message, len(before), len(before[-1]) + 1) from None
    repeated = tuple(
        Problem(in_definition(reader.content, segments), message) for segments, message in reader.repeated
    )
    return DefinitionText(reader.content, repeated)


def _yaml_message(text: str, line: int, problem: str) -> str:
    if _TOO_DEEP_FOR_THE_PARSER in problem:
        return _TOO_DEEP
    lines = text.splitlines()[line : line + 1]
    hint = next(
        (hint for part, hint in _YAML_HINTS.items() if part in problem), "check indentation and quotes"
    )
    if any("{{" in each for each in lines):
        hint = _QUOTE_EXPRESSIONS
    return f"not valid YAML: {problem}; {hint}"


@dataclass
class _Open:
    """An object or list that is being read."""

    container: dict[str, Any] | list[Any]
    anchor: str | None
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)
    size: int = 1

    @property
    def segment(self) -> Segment:
        return len(self.container) if isinstance(self.container, list) else self.key or ""


class _YamlReader:
    """Builds values from the events of the parser, without recursion.

    An alias shares the value of its anchor, so a few lines can stand for billions of values. The reader adds
    up sizes as if aliases were written out, and refuses the text as soon as they exceed the limit.
    """

    def __init__(self) -> None:
        self.content: Any = None
        self.repeated: list[tuple[list[Segment], str]] = []
        self._documents = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}

    def read(self, parsed: Iterable[events.Event]) -> None:
        for event in parsed:
            match event:
                case events.ScalarEvent():
                    self._scalar(event)
                case events.MappingStartEvent() | events.SequenceStartEvent():
                    self._start(event)
                case events.MappingEndEvent() | events.SequenceEndEvent():
                    self._end(event)
                case events.AliasEvent():
                    self._alias(event)
                case events.DocumentStartEvent():
                    self._document(event)

    def _document(self, event: events.Event) -> None:
        self._documents += 1
        if self._documents > 1:
            _refuse(event, "a second document starts here; put each definition into a file of its own")

    def _scalar(self, event: events.ScalarEvent) -> None:
        if event.tag is not None:
            _refuse(event, f"the tag {event.tag!r} has no meaning here; remove it, and quote what is text")
        if self._expects_key:
            self._take_key(event.value, event, quoted=bool(event.style))
            return
        value = event.value if event.style else _plain(event.value)
        self._put(value, 1 + len(event.value), event, event.anchor)

    def _start(self, event: events.MappingStartEvent | events.SequenceStartEvent) -> None:
        if self._expects_key:
            _refuse(event, f"a key must be text; {_QUOTE_EXPRESSIONS}")
        if event.tag is not None:
            _refuse(event, f"the tag {event.tag!r} has no meaning here; remove it")
        if len(self._open) == MAX_DEPTH:  # at depths of thousands the parser itself takes minutes
            _refuse(event, _TOO_DEEP)
        container: dict[str, Any] | list[Any] = {} if isinstance(event, events.MappingStartEvent) else []
        self._anchors.pop(event.anchor or "", None)  # until it is closed, it cannot be referred to
        self._open.append(_Open(container, event.anchor))

    def _end(self, event: events.Event) -> None:
        closed = self._open.pop()
        self._put(closed.container, closed.size, event, closed.anchor)

    def _alias(self, event: events.AliasEvent) -> None:
        if self._expects_key:
            _refuse(event, "a key must be text, not an alias; write it out")
        if event.anchor not in self._anchors:
            _refuse(event, f"no value before this is marked &{event.anchor}; mark one, or write it out")
        value, size = self._anchors[event.anchor]
        self._put(value, size, event)

    @property
    def _expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].container, dict) and self._open[-1].key is None

    def _take_key(self, key: str, event: events.Event, quoted: bool) -> None:
        if key == "<<" and not quoted:
            _refuse(event, "merging objects with << is not supported; write the keys out")
        parent = self._open[-1]
        line, column = _position(event)
        parent.key = key
        parent.size += 1 + len(key)
        if (first := parent.lines.setdefault(key, line)) != line or key in parent.container:
            message = f"line {line}, column {column}: this key was given before, in line {first}; remove one"
            self.repeated.append(([each.segment for each in self._open], message))

    def _put(self, value: Any, size: int, event: events.Event, anchor: str | None = None) -> None:
        if anchor is not None:
            self._anchors[anchor] = value, size
        if not self._open:
            self.content = value
            return
        parent = self._open[-1]
        parent.size += size
        if parent.size > MAX_BYTES:
            _refuse(event, f"with aliases written out this is larger than {MAX_BYTES:,} bytes; use fewer")
        if isinstance(parent.container, list):
            parent.container.append(value)
        else:
            parent.container[parent.key or ""] = value
            parent.key = None


def _refuse(event: events.Event, message: str) -> NoReturn:
    raise _UnreadableError(message, *_position(event))


def _position(event: events.Event) -> tuple[int, int]:
    """Return the line and column, counted from 1."""
    assert event.start_mark is not None
    return event.start_mark.line + 1, event.start_mark.column + 1


def _plain(text: str) -> Any:
    """Return the value of a scalar without quotes: one of JSON's constants or numbers, else text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if (number := _NUMBER.fullmatch(text)) is None:
        return text
    return float(text) if number[2] or number[3] else _integer(text)

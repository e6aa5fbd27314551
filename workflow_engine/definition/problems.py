"""Problems of data that should fit a pydantic model, in plain sentences with paths.

pydantic finds the errors; its words are for programmers who know its types, and for a value of several
possible types it reports every type that did not fit. Here each place gets one sentence that says what
is allowed there, and for an unknown key the sentence suggests the name that was probably meant.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from typing_extensions import TypeAliasType

from workflow_engine.definition.workflow import UNSTORABLE
from workflow_engine.errors import InvalidValue, Problem
from workflow_engine.json_values import normalise
from workflow_engine.paths import Segment, at, below

Model = TypeVar("Model", bound=BaseModel)


def check_model(
    model: type[Model], content: Any, path: str = "", *, by_name: bool = False
) -> tuple[Model | None, list[Problem]]:
    """Read `content` as `model`; return the instance, or None and all problems.

    `path` is where the content stands in its definition. Keys are camelCase, or also the names of the
    model's attributes if `by_name` is set.
    """
    try:
        return model.model_validate(content, by_alias=True, by_name=by_name), []
    except ValidationError as refusal:
        errors = list(_without_miscounts(refusal.errors(include_url=False)))
    settled = _settle(_Located.of(error, content) for error in errors)
    return None, [problem for group in settled for problem in _problem(group, model, path)]


def _without_miscounts(errors: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Yield the errors, apart from lists that are too short only because some of their entries are wrong."""
    places = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}
    for error in errors:
        if error["type"] != "too_short" or error["loc"] not in places:
            yield error


def unstorable(value: Any, path: str) -> list[Problem]:
    """Return a problem for every part of `value` that cannot be stored as JSON, each with its own path."""
    return _unstorable(value, path, ancestors=())


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that `word` was probably meant to be, if one is near enough."""
    by_letters = {_letters(name): name for name in known}
    found = difflib.get_close_matches(_letters(word[:100]), by_letters, n=1, cutoff=0.7)
    return by_letters[found[0]] if found else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the question that follows an unknown name, or "" if no known name is near it."""
    meant = nearest(word, known)
    return f"; did you mean {meant!r}?" if meant is not None else ""


def listed(names: Iterable[str]) -> str:
    """Return the names as prose enumerates them: 'a', 'b' or 'c'."""
    quoted = [repr(name) for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else "".join(quoted)


def short_repr(value: Any) -> str:
    """Return a value as a message quotes it: short ones verbatim, others by their kind."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}…"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return _short_number(value)
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a value of type {type(value).__name__}"


def _short_number(number: float) -> str:
    return "a number of many digits" if abs(number) >= 1e40 else str(number)  # str() refuses some of these


def _letters(name: str) -> str:
    """Return what all spellings of a name have in common: subType, sub_type and SUBTYPE."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) or name


# -- errors and where they are -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Located:
    """One error of pydantic, its location split into keys of the content and the types tried on it."""

    error: ErrorDetails
    segments: tuple[Segment, ...]
    tried: tuple[tuple[int, str], ...]
    """Types of a union, each with the number of segments that lead to the value it was tried on."""

    @classmethod
    def of(cls, error: ErrorDetails, content: Any) -> _Located:
        """Follow the location through the content; a step that the content lacks is the name of a type."""
        segments: list[Segment] = []
        tried: list[tuple[int, str]] = []
        last = len(error["loc"]) - 1
        for position, step in enumerate(error["loc"]):
            if _has(content, step):
                segments.append(str(step) if isinstance(content, Mapping) else step)
                content = content[step]
            elif position == last and error["type"] == "missing":
                segments.append(step)
            else:
                tried.append((len(segments), str(step)))
        return cls(error, tuple(segments), tuple(tried))


def _has(content: Any, step: Segment) -> bool:
    if isinstance(content, Mapping):
        return step in content
    return isinstance(content, list | tuple) and isinstance(step, int) and step < len(content)


def _settle(errors: Iterable[_Located], level: int = 0) -> Iterator[list[_Located]]:
    """Yield groups of errors that make one problem each: of a union's types, only the nearest is reported."""
    unions: dict[tuple[Segment, ...], dict[str, list[_Located]]] = {}
    for error in errors:
        if len(error.tried) <= level:
            yield [error]
        else:
            length, tried = error.tried[level]
            unions.setdefault(error.segments[:length], {}).setdefault(tried, []).append(error)
    for place, by_type in unions.items():
        yield from _settle_union(place, by_type, level)


def _settle_union(
    place: tuple[Segment, ...], by_type: Mapping[str, list[_Located]], level: int
) -> Iterator[list[_Located]]:
    """Keep the errors of the type that was meant: wrong further inside, or only in a bound."""
    inside = [errors for errors in by_type.values() if errors[0].segments != place]
    if inside:
        nearest_type = min(inside, key=lambda errors: (_strange_keys(errors, place), len(errors)))
        yield from _settle(nearest_type, level + 1)
        return
    outside = [errors[0] for errors in by_type.values()]
    bounds = [error for error in outside if error.error["type"] not in _EXPECTED]
    yield bounds[:1] or outside


def _strange_keys(errors: Iterable[_Located], place: tuple[Segment, ...]) -> int:
    """Count the keys of the object at this place that are missing or unknown to its type."""
    strange = {"missing", "extra_forbidden"}
    return sum(error.error["type"] in strange and error.segments[:-1] == place for error in errors)


# -- sentences -----------------------------------------------------------------------------------------

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
"""The expected value, by the error that a wrong type gives."""

_SENTENCES = {
    "missing": "is required; add it",
    "literal_error": "must be {expected}, not {given}",
    "enum": "must be {expected}, not {given}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters; shorten it",
    "string_unicode": "is not valid Unicode text; write it again",
    "too_short": "must have at least {min_length} entries, not {actual_length}",
    "too_long": "must have at most {max_length} entries, not {actual_length}",
    "greater_than": "must be greater than {gt:.15g}, not {given}",
    "greater_than_equal": "must be at least {ge:.15g}, not {given}",
    "less_than": "must be less than {lt:.15g}, not {given}",
    "less_than_equal": "must be at most {le:.15g}, not {given}",
    "multiple_of": "must be a multiple of {multiple_of:.15g}, not {given}",
    "finite_number": "must be a finite number, not {given}",
    "invalid_key": "a key must be text; put quotes around it",
    "recursion_loop": "contains itself; write plain data",
    "int_parsing_size": "must be a whole number of 64 bits; write it as text",
}


def _problem(errors: Sequence[_Located], model: type[BaseModel], path: str) -> list[Problem]:
    first = errors[0]
    where = at(path, *first.segments)
    if first.error["type"] == UNSTORABLE:
        return unstorable(first.error["input"], where)
    return [Problem(where, _sentence(errors, model))]


def _sentence(errors: Sequence[_Located], model: type[BaseModel]) -> str:
    first = errors[0]
    kind = first.error["type"]
    if kind in _EXPECTED:
        return _wrong_type([each.error for each in errors])
    if kind == "extra_forbidden":
        return _unknown_key(str(first.segments[-1]), _models_at(model, first.segments[:-1]))
    if kind in {"value_error", "assertion_error"}:
        return str(first.error["ctx"]["error"]) or "is not allowed here"
    if kind == "string_pattern_mismatch":
        allowed = _what_is_allowed(_models_at(model, first.segments[:-1]), first.segments[-1:])
        return f"{short_repr(first.error['input'])} is not allowed here{allowed}"
    return _wrong_value(first.error)


def _wrong_type(errors: Sequence[ErrorDetails]) -> str:
    expected = " or ".join(dict.fromkeys(_EXPECTED[error["type"]] for error in errors))
    value = errors[0]["input"]
    in_quotes = isinstance(value, bool | int | float) and expected.startswith("text")
    advice = f'; write it in quotes, "{short_repr(value)}"' if in_quotes else ""
    return f"must be {expected}, not {short_repr(value)}{advice}"


def _wrong_value(error: ErrorDetails) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind.endswith("too_short") and context["min_length"] == 1:
        return "must not be empty"
    if kind in {"too_short", "too_long"} and isinstance(value, str):
        kind = f"string_{kind}"
    if kind not in _SENTENCES:
        return error["msg"].replace("Input should be", "must be")
    sentence = _SENTENCES[kind].format(**context, given=short_repr(value))
    if kind in {"literal_error", "enum"} and isinstance(value, str):
        sentence += suggestion(value, re.findall(r"'([^']*)'", context["expected"]))
    return sentence


def _unknown_key(key: str, models: Iterable[type[BaseModel]]) -> str:
    known = sorted({name for model in models for name in _fields(model)})
    if key in known:
        return "cannot be combined with the other keys here; remove it or them"
    if (meant := nearest(key, known)) is not None:
        return f"unknown key; did you mean {meant!r}?"
    return f"unknown key; {'known here: ' + ', '.join(known) if known else 'remove it'}"


def _what_is_allowed(models: Iterable[type[BaseModel]], key: Sequence[Segment]) -> str:
    fields = [_fields(model).get(str(*key)) for model in models]
    described = [field.description for field in fields if field is not None and field.description]
    return f": {described[0]}" if described else ""


# -- models ----------------------------------------------------------------------------------------------


def _models_at(model: type[BaseModel], segments: Iterable[Segment]) -> list[type[BaseModel]]:
    """Return the models that may describe the value at these keys; several where a field has a choice."""
    models = [model]
    for segment in segments:
        if isinstance(segment, str):
            fields = [_fields(each)[segment] for each in models if segment in _fields(each)]
            models = [found for field in fields for found in _models_in(field.annotation)]
    return models


@functools.cache
def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, TypeAliasType):
        return _models_in(annotation.__value__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


# -- data that is not JSON ---------------------------------------------------------------------------------


def _unstorable(value: Any, path: str, ancestors: tuple[int, ...]) -> list[Problem]:
    """Return the problems of each part, where `normalise` names only the first bad place."""
    if id(value) in ancestors:
        return []  # it contains itself, which is reported for the whole
    try:
        normalise(value)
    except InvalidValue as refusal:
        inside = list(_unstorable_parts(value, path, (*ancestors, id(value))))
        return inside or [
            Problem(below(path, refusal.path.removeprefix("$").removeprefix(".")), refusal.message)
        ]
    return []


def _unstorable_parts(value: Any, path: str, ancestors: tuple[int, ...]) -> Iterator[Problem]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            try:
                normalise({key: None})
            except InvalidValue as refusal:
                yield Problem(at(path, str(key)), refusal.message)
            else:
                yield from _unstorable(part, at(path, key), ancestors)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _unstorable(part, at(path, index), ancestors)

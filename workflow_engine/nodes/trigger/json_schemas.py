"""JSON Schemas (2020-12) that are safe to run: nothing is fetched, and neither schema nor data may take long.

JSON Schema lets a schema refer to others by URL; here nothing is ever fetched, since an author of workflows
could otherwise make the engine's machines request any address. And a schema may ask for work that grows much
faster than the data: patterns with nested repetition, `uniqueItems` of unlike items, branches of branches.
Therefore patterns are matched in linear time, by pydantic's engine in Rust. Keywords of `jsonschema` that
compare all items with each other are replaced, and the rest has a limit of processor time.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import referencing.exceptions
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import best_match
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from workflow_engine.errors import Problem
from workflow_engine.json_values import encode
from workflow_engine.paths import at

DIALECT = "https://json-schema.org/draft/2020-12/schema"

LONGEST_CHECK = 2.0
"""Seconds of processor time that a check of data may take, at every start."""

LONGEST_SCHEMA_CHECK = 10.0
"""Seconds of processor time that a check of a schema may take, when it is deployed."""

MOST_PROBLEMS = 100
"""Problems that are reported for one value."""


def check_schema(schema: Any) -> list[Problem]:
    """Return the problems of a JSON Schema, with paths inside the schema; empty if it has none.

    References other than to the schema itself (`#/$defs/…`, `#anchor`) are problems, and so are patterns that
    cannot be matched in linear time.
    """
    found = _problems_with(Draft202012Validator.META_SCHEMA, schema, "", _problem, LONGEST_SCHEMA_CHECK)
    if found := [*found, *_unusable_patterns(schema)]:
        return sorted(found, key=lambda problem: problem.path)  # the order of keywords is not fixed
    return list(_unusable(schema))


def check_data(schema: Any, data: Any, path: str) -> list[Problem]:
    """Return the problems that a schema finds in this data, each with its path; `check_schema` accepts it.

    `format` is an annotation, as the standard has it: it is not checked.
    """

    def problem_of(error: ValidationError, path: str) -> Problem:
        return _problem(_innermost(error), path)

    return _problems_with(schema, data, path, problem_of, LONGEST_CHECK)


def _problems_with(
    schema: Any, data: Any, path: str, problem_of: Callable[[ValidationError, str], Problem], seconds: float
) -> list[Problem]:
    validator = LinearValidator(schema, registry=EMPTY_REGISTRY)
    found: list[Problem] = []
    try:
        with _limited(schema, seconds):
            for error in validator.iter_errors(data):
                found.append(problem_of(error, path))
                if len(found) == MOST_PROBLEMS:
                    break
    except RecursionError:
        return [Problem(path, "the trigger's schema refers to itself without end; correct its $ref")]
    except _TooLongError:
        message = f"checking it against its schema takes more than {seconds:g} s; simplify the schema"
        return [*found, Problem(path, message)]
    return found


def _innermost(error: ValidationError) -> ValidationError:
    """Return the most helpful part of the error of an `anyOf` or `oneOf` that nothing matches."""
    return best_match([error]) or error


def _problem(error: ValidationError, path: str) -> Problem:
    message = (
        error.message if len(error.message) <= 300 else f"{error.message[:150]} … {error.message[-150:]}"
    )
    return Problem(at(path, *error.absolute_path), message)


# -- what else a schema may not be -------------------------------------------------------------------------


def _unusable_patterns(schema: Any) -> Iterator[Problem]:
    for path, key, value in _texts(schema):
        if key == "pattern" and (problem := _problem_with_pattern(value)):
            yield Problem(path, problem)


def _unusable(schema: Any) -> Iterator[Problem]:
    resolver = _resolver_of(schema)
    for path, key, value in _texts(schema):
        if key in ("$ref", "$dynamicRef"):
            if not value.startswith("#"):
                yield Problem(path, f"{value!r} is outside the schema and is not fetched; copy it into $defs")
                continue
            try:
                resolver.lookup(value)
            except referencing.exceptions.Unresolvable:
                yield Problem(path, f"{value!r} leads nowhere in this schema")
        elif key == "$schema" and value.rstrip("#") != DIALECT:
            yield Problem(
                path, f"only JSON Schema 2020-12 is supported; leave $schema out or make it {DIALECT!r}"
            )
        elif key == "$id" and path != at("", "$id"):
            yield Problem(
                path, "schemas with an $id of their own inside a schema are not supported; use $defs"
            )


def _texts(schema: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield every key whose value is text, with its path, and the keys of `patternProperties` as patterns.

    A `$ref` in an example is found as well: refusing it does less harm than overlooking a reference.
    """
    if isinstance(schema, dict):
        for key, value in schema.items():
            if isinstance(value, str):
                yield at(path, key), key, value
            elif key == "patternProperties" and isinstance(value, dict):
                yield from ((at(path, key, pattern), "pattern", pattern) for pattern in value)
            yield from _texts(value, at(path, key))
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from _texts(value, at(path, index))


def _resolver_of(schema: Any) -> Any:
    return EMPTY_REGISTRY.with_resource("", DRAFT202012.create_resource(schema)).resolver()


# -- patterns ------------------------------------------------------------------------------------------------


_LONE_BRACE = re.compile(r"(\\[pPux]\{[^}]*\}|\\.)|\{(?!\d+(?:,\d*)?\})", re.DOTALL)
"""A brace that begins no repetition: text in ECMAScript and Python, a mistake in Rust's engine."""


@functools.lru_cache(maxsize=256)
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that finds the pattern anywhere in a text, in linear time. Raises SchemaError."""
    try:
        return _compiled(pattern)
    except SchemaError:
        if (escaped := _LONE_BRACE.sub(lambda found: found[1] or r"\{", pattern)) == pattern:
            raise
        return _compiled(escaped)


def _compiled(pattern: str) -> Callable[[str], bool]:
    text = core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")
    return SchemaValidator(text).isinstance_python


def _matches(pattern: str, text: str) -> bool:
    return _matcher(pattern)(text)


def _problem_with_pattern(pattern: str) -> str | None:
    try:
        _matcher(pattern)
    except SchemaError as error:
        *_, reason = str(error).strip().splitlines()
        reason = reason.strip().removeprefix("error: ").removeprefix("SchemaError: ")
        return (
            f"{pattern!r:.100} cannot be matched in linear time: {reason}; write it without "
            "look-around and back references"
        )
    return None


# -- the time a check may take ---------------------------------------------------------------------------


class _TooLongError(Exception):
    """The check has used up its time."""


@dataclass
class _Check:
    """One check that is going on."""

    schema: Any
    ends_at: float
    """By this thread's processor time."""

    @functools.cached_property
    def resolver(self) -> Any:
        return _resolver_of(self.schema)

    def go_on(self) -> None:
        if time.thread_time() > self.ends_at:
            raise _TooLongError


_check: ContextVar[_Check] = ContextVar("check")


@contextmanager
def _limited(schema: Any, seconds: float) -> Iterator[None]:
    token = _check.set(_Check(schema, time.thread_time() + seconds))
    try:
        yield
    finally:
        _check.reset(token)


Keyword = Callable[[Any, Any, Any, Any], Iterable[ValidationError] | None]
"""Gets the validator, the keyword's value, the data and the schema around the keyword."""


def _within_time(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, data: Any, schema: Any) -> Iterator[ValidationError]:
        going_on = _check.get()
        going_on.go_on()
        for error in keyword(validator, value, data, schema) or ():
            going_on.go_on()
            yield error

    return check


# -- keywords that jsonschema checks with Python's patterns, or in quadratic time ----------------------------


def _pattern(validator: Any, pattern: str, data: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(data, str) and not _matches(pattern, data):
        yield ValidationError(f"{data!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, data: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(data, dict):
        for pattern, subschema in patterns.items():
            for name, item in data.items():
                if _matches(pattern, name):
                    yield from validator.descend(item, subschema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, data: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(data, dict):
        return
    declared = _matched(schema, data)
    additional = [name for name in data if name not in declared]
    if allowed is False and additional:
        yield _unexpected("Additional properties are", map(repr, additional))
    elif isinstance(allowed, dict):
        for name in additional:
            yield from validator.descend(data[name], allowed, path=name)


def _unique_items(validator: Any, wanted: bool, data: Any, schema: Any) -> Iterator[ValidationError]:
    if wanted and isinstance(data, list) and len({encode(_comparable(item)) for item in data}) < len(data):
        yield ValidationError(f"{data!r} has non-unique elements")


def _comparable(value: Any) -> Any:
    """Return the value with 1.0 as 1: they are equal in JSON Schema."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    return value


def _unevaluated_properties(
    validator: Any, allowed: Any, data: Any, schema: Any
) -> Iterator[ValidationError]:
    if isinstance(data, dict):
        evaluated = set(_evaluated(validator, data, schema, _properties_of))
        if names := [repr(name) for name in data if name not in evaluated]:
            yield _unexpected("Unevaluated properties are", names)


def _unevaluated_items(validator: Any, allowed: Any, data: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(data, list):
        evaluated = set(_evaluated(validator, data, schema, _items_of))
        if items := [repr(item) for index, item in enumerate(data) if index not in evaluated]:
            yield _unexpected("Unevaluated items are", items)


def _unexpected(what: str, names: Iterable[str]) -> ValidationError:
    listed = list(names)
    verb = "was" if len(listed) == 1 else "were"
    return ValidationError(f"{what} not allowed ({', '.join(listed)} {verb} unexpected)")


Own = Callable[[Any, Any, Any], Iterable[Any]]
"""Yields the keys or indexes of the data that a schema's own keywords cover, without its subschemas."""


def _evaluated(validator: Any, data: Any, schema: Any, own: Own) -> Iterator[Any]:
    """Yield the keys or indexes that a schema covers, and those of the schemas that apply beside it."""
    if isinstance(schema, dict):
        _check.get().go_on()
        yield from own(validator, data, schema)
        for subschema in _applying(validator, data, schema):
            yield from _evaluated(validator, data, subschema, own)


def _applying(validator: Any, data: Any, schema: Any) -> Iterator[Any]:
    def fits(subschema: Any) -> bool:
        return bool(validator.evolve(schema=subschema).is_valid(data))

    for keyword in ("$ref", "$dynamicRef"):
        if keyword in schema:
            yield _check.get().resolver.lookup(schema[keyword]).contents
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from filter(fits, schema.get(keyword, ()))
    if "if" in schema:
        if fits(schema["if"]):
            yield from (schema["if"], schema.get("then"))
        else:
            yield schema.get("else")
    if isinstance(data, dict):
        yield from (sub for name, sub in schema.get("dependentSchemas", {}).items() if name in data)


def _properties_of(validator: Any, data: Any, schema: Any) -> Iterator[str]:
    yield from _matched(schema, data)
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        if keyword in schema:
            subvalidator = validator.evolve(schema=schema[keyword])
            yield from (name for name, item in data.items() if subvalidator.is_valid(item))


def _matched(schema: Any, data: Any) -> set[str]:
    """Return the keys of the data that are in the schema's `properties` or match its `patternProperties`."""
    patterns = list(schema.get("patternProperties", ()))
    declared = schema.get("properties", ())
    return {name for name in data if name in declared or any(_matches(pattern, name) for pattern in patterns)}


def _items_of(validator: Any, data: Any, schema: Any) -> Iterator[int]:
    if "items" in schema:
        yield from range(len(data))
    yield from range(len(schema.get("prefixItems", ())))
    for keyword in ("contains", "unevaluatedItems"):
        if keyword in schema:
            subvalidator = validator.evolve(schema=schema[keyword])
            yield from (index for index, item in enumerate(data) if subvalidator.is_valid(item))


_LINEAR: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "unevaluatedProperties": _unevaluated_properties,
    "unevaluatedItems": _unevaluated_items,
}

LinearValidator: Any = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {name: _within_time(each) for name, each in {**Draft202012Validator.VALIDATORS, **_LINEAR}.items()},
)
"""The validator of 2020-12 with bounded work; only for checks under `_limited`."""

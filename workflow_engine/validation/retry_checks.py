"""Problems of a node's `retry` as a whole: keys of its other form, and rules that are never used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workflow_engine.definition.problems import short_repr
from workflow_engine.definition.workflow import ALL_ERRORS
from workflow_engine.errors import Problem
from workflow_engine.paths import at


def retry_problems(retry: Any, path: str) -> Iterator[Problem]:
    """Yield what is wrong with a `retry` beyond the shape of its parts."""
    if isinstance(retry, Mapping):
        if "on" in retry:
            message = "belongs to a list of rules; write `retryOn`, or a list: [{on: …}, {on: all}]"
            yield Problem(at(path, "on"), message)
        return
    if isinstance(retry, list | tuple):
        yield from _keys_of_one_policy(retry, path)
        yield from _unused_rules(retry, path)


def _keys_of_one_policy(rules: Sequence[Any], path: str) -> Iterator[Problem]:
    for position, rule in enumerate(rules):
        if not isinstance(rule, Mapping):
            continue
        if "retryOn" in rule:
            yield Problem(at(path, position, "retryOn"), "is `on` in a list of rules; rename it")
        if "ignoreExceptions" in rule:
            message = "has no place in a list of rules; put a rule {on: […], maxAttempts: 1} before this one"
            yield Problem(at(path, position, "ignoreExceptions"), message)


def _unused_rules(rules: Sequence[Any], path: str) -> Iterator[Problem]:
    """Yield a problem for an error that an earlier rule names, and for a rule of all errors before others."""
    named: dict[str, str] = {}
    for position, rule in enumerate(rules):
        on = rule.get("on") if isinstance(rule, Mapping) else None
        if on == ALL_ERRORS and position < len(rules) - 1:
            message = "'all' names every error: the rules behind it are never used; move it to the end"
            yield Problem(at(path, position, "on"), message)
            return
        for place, name in enumerate(on if isinstance(on, list | tuple) else ()):
            if isinstance(name, bool) or not isinstance(name, str | int):
                continue
            where = at(path, position, "on", place)
            earlier = next((named[each] for each in (str(name), f"{str(name)[:1]}xx") if each in named), None)
            if earlier is not None:
                yield Problem(where, f"{earlier} names {short_repr(name)} already; remove one of the two")
            named.setdefault(str(name), where)

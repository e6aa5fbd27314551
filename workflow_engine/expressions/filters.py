"""The filters, tests, functions and methods of expressions: the four tables at the end list all of them.

Those that Jinja2 has too are Jinja2's in name, arguments and meaning, with three differences that JSON asks
for. Nothing is lazy: where Jinja2 returns an iterator, these return a list. Values other than strings become
text as JSON. Equality is JSON's. Where Jinja2 returns an undefined value (`[] | first`), these do too. Only
`slice` is another thing than Jinja2's, which lays out columns of a page: it is `[start:stop]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from workflow_engine.expressions.dates import OutOfRangeError, date, dateadd, datediff, dateformat, now, today
from workflow_engine.expressions.regex import regex_match, regex_replace
from workflow_engine.expressions.sandbox import (
    COMPARISONS,
    Evaluation,
    RefusedError,
    Scope,
    Undefined,
    add,
    checked_number,
    is_number,
    kind,
    member,
    part_between,
    text_of,
    used,
)
from workflow_engine.expressions.text import (
    Operation,
    floating,
    from_base64,
    integer,
    integer_argument,
    number,
    on_text,
    range_of,
    replace,
    rounded,
    sha256,
    split,
    text_argument,
    title,
    to_base64,
    tojson,
    trim,
    urlencode,
    urlpart,
    uuid,
)


def apply_filter(run: Evaluation, name: str, value: Any, *arguments: Any, **options: Any) -> Any:
    """Apply the filter of this name.

    Raises RefusedError if there is none, or if it cannot be used like this.
    """
    function = FILTERS.get(name) or unknown("filter", name, FILTERS)
    if name != "default":
        _use(value, arguments, options)
    return function(run, value, *arguments, **options)


def apply_test(run: Evaluation, name: str, value: Any, *arguments: Any) -> bool:
    """Apply the test of this name.

    Raises RefusedError if there is none, or if it cannot be used like this.
    """
    function = TESTS.get(name) or unknown("test", name, TESTS)
    if name != "defined":
        _use(value, arguments, {})
    return bool(function(run, value, *arguments))


def _use(value: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    used(value)
    for argument in (*arguments, *options.values()):
        used(argument)


def unknown(what: str, name: str, known: Mapping[str, Any]) -> Any:
    """Refuse a name that is in none of the tables, and suggest the one that was probably meant."""
    elsewhere = _NAMES_ELSEWHERE.get(name)
    near = [elsewhere] if elsewhere in known else get_close_matches(name[:40], known, n=1)
    advice = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
    raise RefusedError(f"there is no {what} `{name[:40]}`; {advice}")


def check_arguments(what: str, name: str, function: Operation, count: int, options: list[str]) -> None:
    """Raise RefusedError unless the operation takes that many arguments and options of these names."""
    leading = 1 if what == "function" else 2
    signature = inspect.signature(function)
    try:
        signature.bind(*[None] * (leading + count), **dict.fromkeys(options))
    except TypeError as error:
        takes = [_as_written(parameter) for parameter in signature.parameters.values()][leading:]
        raise RefusedError(f"the {what} `{name}` takes ({', '.join(takes)}): {error}") from None


def try_constants(name: str, arguments: list[Any], options: dict[str, Any]) -> None:
    """Raise RefusedError if a filter refuses these constant arguments for every value."""
    if name not in SAMPLES:
        return
    try:
        FILTERS[name](Evaluation(Scope()), SAMPLES[name], *arguments, **options)
    except OutOfRangeError:
        pass  # another value may lead to a year that exists
    except (TypeError, ValueError) as error:
        raise RefusedError(str(error)) from None


def _as_written(parameter: inspect.Parameter) -> str:
    optional = parameter.default is not parameter.empty
    return f"{parameter.name}={parameter.default!r}" if optional else parameter.name


# -- items -----------------------------------------------------------------------------------------------


def _items_of(run: Evaluation, value: Any) -> list[Any]:
    """Return the items of a list, the keys of an object, the characters of a text."""
    if isinstance(value, list):
        run.spend(1 + len(value))
        return value
    if isinstance(value, Mapping | str):
        run.produce_items(len(value))
        return list(value)
    raise RefusedError(f"{kind(value)} has no items; a list is needed")


def _reader(run: Evaluation, attribute: Any, times: int) -> Callable[[Any], Any]:
    """Return a function that reads the part of an item that a path such as `price.net` or `0` names."""
    if type(attribute) is int:
        keys: list[Any] = [attribute]
    elif isinstance(attribute, str) and len(attribute) <= 1_000:
        keys = [int(key) if key.isdecimal() else key for key in attribute.split(".")]
    else:
        raise RefusedError("an attribute is a path such as 'price.net', of at most 1,000 characters")
    run.spend(len(keys) * times)

    def read(item: Any) -> Any:
        for key in keys:
            item = member(item, key, "item")
            if type(item) is Undefined:
                break
        return item

    return read


def _attributes(run: Evaluation, items: list[Any], attribute: Any) -> list[Any]:
    read = _reader(run, attribute, len(items))
    return [used(read(item)) for item in items]


def _sort_keys(run: Evaluation, items: list[Any], case_sensitive: Any, attribute: Any) -> list[Any]:
    keys = items if attribute is None else _attributes(run, items, attribute)
    # A sort compares each item some log(n) times; the comparisons themselves are fast.
    run.spend(len(keys) * len(keys).bit_length() // 8)
    run.weigh(keys)
    if case_sensitive:
        return keys
    return [key.lower() if isinstance(key, str) else key for key in keys]


def _in_order(choose: Callable[[], Any]) -> Any:
    try:
        return choose()
    except TypeError:
        raise RefusedError(
            "the items cannot be ordered, since they are of different kinds or are objects; "
            "convert them, for example with `map('string')`, or name an `attribute`"
        ) from None


def map_items(run: Evaluation, value: Any, /, *arguments: Any, **options: Any) -> list[Any]:
    items = _items_of(run, value)
    run.produce_items(len(items))
    if arguments:
        run.spend(len(items))
        name, *rest = arguments
        return [apply_filter(run, _name(name), item, *rest, **options) for item in items]
    if "attribute" not in options or options.keys() - {"attribute", "default"}:
        raise RefusedError("`map` takes the name of a filter, or attribute='…' and, if wanted, default=…")
    read = _reader(run, options["attribute"], len(items))
    if "default" not in options:
        return [read(item) for item in items]
    read_items = (read(item) for item in items)
    return [options["default"] if type(item) is Undefined else item for item in read_items]


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise RefusedError(f"the name of a filter or test is text, not {kind(name)}")
    return name


def _choice(wanted: bool, by_attribute: bool) -> Operation:
    """Make `select` or one of its three variants."""

    def select(run: Evaluation, value: Any, /, *arguments: Any) -> list[Any]:
        items = _items_of(run, value)
        subjects = items
        if by_attribute:
            if not arguments:
                raise RefusedError("the attribute to select by is missing")
            read = _reader(run, arguments[0], len(items))
            subjects, arguments = [read(item) for item in items], arguments[1:]
        run.produce_items(len(items))
        if not arguments:
            return [item for item, subject in zip(items, subjects, strict=True) if bool(subject) is wanted]
        run.spend(len(items))
        name, *rest = arguments
        return [
            item
            for item, subject in zip(items, subjects, strict=True)
            if apply_test(run, _name(name), subject, *rest) is wanted
        ]

    return select


def _extreme(name: str, choose: Callable[..., int]) -> Operation:
    def extreme(run: Evaluation, value: Any, /, case_sensitive: Any = False, attribute: Any = None) -> Any:
        items = _items_of(run, value)
        if not items:
            return Undefined(f"… | {name}", "there are no items")
        keys = _sort_keys(run, items, case_sensitive, attribute)
        return items[_in_order(lambda: choose(range(len(keys)), key=keys.__getitem__))]

    return extreme


def sort(
    run: Evaluation, value: Any, /, reverse: Any = False, case_sensitive: Any = False, attribute: Any = None
) -> list[Any]:
    items = _items_of(run, value)
    run.produce_items(len(items))
    keys = _sort_keys(run, items, case_sensitive, attribute)
    order = _in_order(lambda: sorted(range(len(keys)), key=keys.__getitem__, reverse=bool(reverse)))
    return [items[index] for index in order]


def unique(run: Evaluation, value: Any, /, case_sensitive: Any = False, attribute: Any = None) -> list[Any]:
    items = _items_of(run, value)
    run.produce_items(len(items))
    first_of: dict[Any, Any] = {}
    for key, item in zip(_sort_keys(run, items, case_sensitive, attribute), items, strict=True):
        # JSON's equality: 1 and 1.0 are the same, 1 and true are not.
        text = text_of(run, key) if isinstance(key, list | dict) else None
        first_of.setdefault((isinstance(key, bool), text is not None, key if text is None else text), item)
    return list(first_of.values())


def total(run: Evaluation, value: Any, /, attribute: Any = None, start: Any = 0) -> Any:
    items = _items_of(run, value)
    for item in items if attribute is None else _attributes(run, items, attribute):
        start = add(run, start, item)
    return start


def length(run: Evaluation, value: Any, /) -> int:
    if not isinstance(value, list | Mapping | str):
        raise RefusedError(f"{kind(value)} has no length")
    return len(value)


def first(run: Evaluation, value: Any, /) -> Any:
    items = value if isinstance(value, list | str) else _items_of(run, value)
    return items[0] if items else Undefined("… | first", "there are no items")


def last(run: Evaluation, value: Any, /) -> Any:
    items = value if isinstance(value, list | str) else _items_of(run, value)
    return items[-1] if items else Undefined("… | last", "there are no items")


def reverse(run: Evaluation, value: Any, /) -> Any:
    if isinstance(value, str):
        run.produce_text(len(value))
        return value[::-1]
    items = _items_of(run, value)
    run.produce_items(len(items))
    return items[::-1]


def as_list(run: Evaluation, value: Any, /) -> list[Any]:
    return list(_items_of(run, value))


def pairs(run: Evaluation, value: Any, /) -> list[Any]:
    if not isinstance(value, Mapping):
        raise RefusedError(f"`items` needs an object, not {kind(value)}")
    run.produce_items(2 * len(value))
    return [[key, item] for key, item in value.items()]


def join(run: Evaluation, value: Any, /, d: Any = "", attribute: Any = None) -> str:
    items = _items_of(run, value)
    if attribute is not None:
        items = _attributes(run, items, attribute)
    separator = text_of(run, d)
    texts = [text_of(run, item) for item in items]
    run.produce_text(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def default(run: Evaluation, value: Any, /, default_value: Any = "", boolean: Any = False) -> Any:
    if type(value) is Undefined or (boolean and not value):
        return default_value
    return value


# -- objects ---------------------------------------------------------------------------------------------


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RefusedError(f"`{name}` needs an object, not {kind(value)}")
    return value


def keys_of(run: Evaluation, value: Any, /) -> list[str]:
    run.produce_items(len(_object("keys", value)))
    return list(value)


def values_of(run: Evaluation, value: Any, /) -> list[Any]:
    run.produce_items(len(_object("values", value)))
    return list(value.values())


def get(run: Evaluation, value: Any, /, key: Any, default: Any = None) -> Any:
    """Return the part of an object or list under a key, or the default, null if none is given."""
    if not isinstance(value, Mapping | list):
        raise RefusedError(f"`get` needs an object or a list, not {kind(value)}")
    found = member(value, key, "…")
    return default if type(found) is Undefined else found


MAX_MERGED_LEVELS = 100


def merge(run: Evaluation, value: Any, /, *others: Any, deep: Any = False) -> dict[str, Any]:
    """Return an object with the keys of all of these; of a key that several have, the last one's value.

    With `deep`, objects under one key are merged in turn.
    """
    merged: Mapping[str, Any] = _object("merge", value)
    for other in others or ({},):
        merged = _merged(run, merged, _object("merge", other), MAX_MERGED_LEVELS if deep else 0)
    return dict(merged)


def _merged(
    run: Evaluation, first: Mapping[str, Any], second: Mapping[str, Any], levels: int
) -> dict[str, Any]:
    run.produce_items(len(first) + len(second))
    merged = {**first, **second}
    if levels:
        for key, below in second.items():
            if isinstance(below, Mapping) and isinstance(above := first.get(key), Mapping):
                merged[key] = _merged(run, above, below, levels - 1)
    return dict(sorted(merged.items()))  # in the order that the object has once it is stored


# -- the tables ------------------------------------------------------------------------------------------

FILTERS: dict[str, Operation] = {
    "default": default,
    "map": map_items,
    "select": _choice(wanted=True, by_attribute=False),
    "reject": _choice(wanted=False, by_attribute=False),
    "selectattr": _choice(wanted=True, by_attribute=True),
    "rejectattr": _choice(wanted=False, by_attribute=True),
    "min": _extreme("min", min),
    "max": _extreme("max", max),
    "sum": total,
    "length": length,
    "first": first,
    "last": last,
    "join": join,
    "sort": sort,
    "unique": unique,
    "reverse": reverse,
    "upper": on_text(str.upper),
    "lower": on_text(str.lower),
    "title": title,
    "trim": trim,
    "replace": replace,
    "round": rounded,
    "abs": lambda run, value, /: checked_number(abs(number(value))),
    "int": integer,
    "float": floating,
    "string": text_of,
    "list": as_list,
    "items": pairs,
    "tojson": tojson,
    "urlencode": urlencode,
    "urlpart": urlpart,
    "split": split,
    "slice": lambda run, value, /, start=0, stop=None, step=None: part_between(run, value, start, stop, step),
    "keys": keys_of,
    "values": values_of,
    "get": get,
    "merge": merge,
    "date": date,
    "dateformat": dateformat,
    "dateadd": dateadd,
    "datediff": datediff,
    "base64": to_base64,
    "base64decode": from_base64,
    "sha256": sha256,
    "regex_match": regex_match,
    "regex_replace": regex_replace,
}

TESTS: dict[str, Operation] = {
    "defined": lambda run, value, /: type(value) is not Undefined,
    "none": lambda run, value, /: value is None,
    "number": lambda run, value, /: is_number(value) and not isinstance(value, bool),
    "string": lambda run, value, /: isinstance(value, str),
    "mapping": lambda run, value, /: isinstance(value, Mapping),
    "sequence": lambda run, value, /: isinstance(value, list | Mapping | str),
    "boolean": lambda run, value, /: isinstance(value, bool),
    "even": lambda run, value, /: integer_argument("even", value) % 2 == 0,
    "odd": lambda run, value, /: integer_argument("odd", value) % 2 == 1,
    **COMPARISONS,
}

FUNCTIONS: dict[str, Operation] = {"range": range_of, "now": now, "today": today, "uuid": uuid}

UNREPEATABLE = frozenset((now, today, uuid, regex_replace))
"""Operations that the same values may give another result; `regex_replace` is bounded by processor time."""

METHODS: dict[str, Operation] = {
    "upper": FILTERS["upper"],
    "lower": FILTERS["lower"],
    "strip": trim,
    "split": split,
    "startswith": lambda run, value, prefix, /: value.startswith(text_argument("prefix", prefix)),
    "endswith": lambda run, value, suffix, /: value.endswith(text_argument("suffix", suffix)),
}
"""Methods of text, the only kind of value that has any."""

SAMPLES = {
    **dict.fromkeys(("date", "dateformat", "dateadd", "datediff"), "2000-01-01T00:00:00Z"),
    **dict.fromkeys(("regex_match", "regex_replace", "split", "slice"), ""),
    "urlpart": "part",
}
"""Filters whose constant arguments are tried on a value like this one when the expression is compiled."""

_NAMES_ELSEWHERE = {
    "strftime": "dateformat", "date_format": "dateformat", "to_datetime": "date", "combine": "merge",
    "b64encode": "base64", "b64decode": "base64decode", "count": "length", "size": "length", "d": "default",
    "regex_search": "regex_match", "regex_test": "regex_match", "match": "regex_match", "test": "regex_match",
    "to_json": "tojson", "dictsort": "items", "contains": "in",
}  # fmt: skip
"""What other template languages call an operation of the tables."""

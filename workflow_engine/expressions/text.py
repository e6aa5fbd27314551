"""What expressions do to texts and numbers, and the functions that make values: `range`, `now`, `uuid`.

Each pays for its result before it makes it, from the lengths alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import uuid4

from jinja2 import filters as jinja

from workflow_engine.expressions.sandbox import (
    Evaluation,
    RefusedError,
    checked_number,
    is_number,
    kind,
    text_of,
)

Operation = Callable[..., Any]
"""Called with the evaluation, the value it is applied to (functions have none) and the arguments."""

# -- text ------------------------------------------------------------------------------------------------


def on_text(change: Callable[[str], str]) -> Operation:
    """A filter that changes characters one by one; outside of ASCII one may become three (`ΐ`)."""

    def apply(run: Evaluation, value: Any, /) -> str:
        text = text_of(run, value)
        run.produce_text(len(text) if text.isascii() else 3 * len(text))
        return change(text)

    return apply


def title(run: Evaluation, value: Any, /) -> str:
    text = text_of(run, value)
    run.produce_text(3 * len(text))
    run.spend(len(text))  # it is taken apart into words in Python
    return jinja.do_title(text)


def trim(run: Evaluation, value: Any, /, chars: Any = None) -> str:
    text = text_of(run, value)
    run.produce_text(len(text))
    if chars is None:
        return text.strip()
    if len(text_argument("chars", chars)) > 100:
        raise RefusedError("at most 100 different characters can be trimmed")
    return text.strip(chars)


def replace(run: Evaluation, value: Any, /, old: Any, new: Any, count: Any = None) -> str:
    text, old, new = text_of(run, value), text_of(run, old), text_of(run, new)
    run.produce_text(len(text))
    occurrences = text.count(old)
    if count is not None:
        occurrences = min(occurrences, max(integer_argument("count", count), 0))
    run.produce_text(len(text) + occurrences * max(len(new) - len(old), 0))
    return text.replace(old, new, occurrences)


def split(run: Evaluation, value: str, /, sep: Any = None, maxsplit: Any = -1) -> list[str]:
    run.produce_text(len(value))
    pieces = value.split(sep, integer_argument("maxsplit", maxsplit))
    run.produce_items(len(pieces))
    return pieces


def urlencode(run: Evaluation, value: Any, /) -> str:
    """A text quoted for a path, an object or list of pairs as a query string."""
    if isinstance(value, str):
        run.produce_text(3 * len(value))
        return quote(value)
    entries = value.items() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return "&".join(_query_parameter(run, entry) for entry in entries)


def _query_parameter(run: Evaluation, entry: Any) -> str:
    if not (isinstance(entry, list | tuple) and len(entry) == 2):
        raise RefusedError("`urlencode` needs text, an object or a list of pairs")
    key, value = (text_of(run, part) for part in entry)
    run.produce_text(3 * (len(key) + len(value)))
    return f"{quote_plus(key)}={quote_plus(value)}"


def tojson(run: Evaluation, value: Any, /) -> str:
    # Plain JSON, unlike Jinja2's, which is escaped for HTML.
    if not isinstance(value, str):
        return text_of(run, value)
    run.produce_text(6 * len(value))
    return text_of(run, [value])[1:-1]


# -- numbers ---------------------------------------------------------------------------------------------


def number(value: Any) -> Any:
    if not is_number(value):
        raise RefusedError(f"a number is needed, not {kind(value)}")
    return value


def integer_argument(name: str, value: Any) -> int:
    if type(value) is not int:
        raise RefusedError(f"`{name}` is an integer, not {kind(value)}")
    return value


def text_argument(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RefusedError(f"`{name}` is text, not {kind(value)}")
    return value


def rounded(run: Evaluation, value: Any, /, precision: Any = 0, method: Any = "common") -> Any:
    if abs(integer_argument("precision", precision)) > 15:
        raise RefusedError("`round` takes a precision from -15 to 15")
    if method not in ("common", "ceil", "floor"):
        raise RefusedError("`round` takes the methods 'common', 'ceil' and 'floor'")
    return checked_number(jinja.do_round(number(value), precision, method))


def integer(run: Evaluation, value: Any, /, default: Any = 0, base: Any = 10) -> Any:
    run.weigh(value)
    result = jinja.do_int(value, default, integer_argument("base", base))
    return checked_number(result) if type(result) is int else result


def floating(run: Evaluation, value: Any, /, default: Any = 0.0) -> Any:
    run.weigh(value)
    result = jinja.do_float(value, default)
    return checked_number(result) if type(result) is float else result


# -- functions -------------------------------------------------------------------------------------------


def range_of(run: Evaluation, /, *bounds: Any) -> list[int]:
    numbers = range(*[integer_argument("range", bound) for bound in bounds])
    # Not len(): it fails beyond what a C integer holds.
    run.produce_items(max(0, -((numbers.start - numbers.stop) // numbers.step)))
    return list(numbers)


def now(run: Evaluation, /) -> str:
    return run.scope.now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def uuid(run: Evaluation, /) -> str:
    return str(uuid4())

"""What expressions do to texts and numbers, and the functions that make values: `range`, `uuid`.

Each pays for its result before building it, by the lengths alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import uuid4

from jinja2 import filters as jinja

from workflow_engine.expressions.sandbox import (
    CHARACTERS_PER_STEP,
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
    """Make a filter that changes characters one by one; outside of ASCII one may become three (`ΐ`)."""

    def apply(run: Evaluation, value: Any, /) -> str:
        text = text_of(run, value)
        run.produce_text(len(text) if text.isascii() else 3 * len(text))
        return change(text)

    return apply


def title(run: Evaluation, value: Any, /) -> str:
    text = text_of(run, value)
    run.produce_text(3 * len(text))
    run.spend(len(text))  # Jinja2 splits it into words in Python
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


def split(run: Evaluation, value: Any, /, sep: Any = None, maxsplit: Any = -1) -> list[str]:
    run.produce_text(len(text_argument("split", value)))
    if sep is not None and text_argument("sep", sep) and integer_argument("maxsplit", maxsplit) < 0:
        run.produce_items(value.count(sep) + 1)
    pieces: list[str] = value.split(sep, integer_argument("maxsplit", maxsplit))
    run.produce_items(len(pieces))
    return pieces


def urlencode(run: Evaluation, value: Any, /) -> str:
    """Quote a text for a path, or an object or list of pairs as a query string."""
    if not isinstance(value, Mapping | list):
        text = text_of(run, value)
        run.produce_text(3 * len(text))
        return quote(text)
    entries = value.items() if isinstance(value, Mapping) else value
    return "&".join(_query_parameter(run, entry) for entry in entries)


def _query_parameter(run: Evaluation, entry: Any) -> str:
    if not (isinstance(entry, list | tuple) and len(entry) == 2):
        raise RefusedError("`urlencode` needs text, an object or a list of pairs")
    key, value = (text_of(run, part) for part in entry)
    run.produce_text(3 * (len(key) + len(value)))
    return f"{quote_plus(key)}={quote_plus(value)}"


_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")


def urlpart(run: Evaluation, value: Any, /, place: Any = "path") -> str:
    """Quote a text or number for one place of a URL, so that it cannot reach beyond it.

    In a path it is one segment, neither empty nor one that leads elsewhere. In a `host` it is unchanged.
    """
    if place not in ("path", "query", "host"):
        raise RefusedError("`urlpart` takes the places 'path', 'query' and 'host'")
    if not (isinstance(value, str) or is_number(value)):
        raise RefusedError(f"a part of a URL is text or a number, not {kind(value)}")
    text = text_of(run, value)
    run.produce_text(3 * len(text))
    if place == "path" and text in ("", ".", ".."):
        raise RefusedError(f"a part of a path may not be {text!r}, which leads to another place")
    if place == "host" and _HOST.fullmatch(text) is None:
        raise RefusedError(f"{text[:40]!r} cannot be a part of a host name")
    return text if place == "host" else quote(text, safe="")


def tojson(run: Evaluation, value: Any, /) -> str:
    # Plain JSON, unlike Jinja2's, which is escaped for HTML.
    if not isinstance(value, str):
        return text_of(run, value)
    run.produce_text(6 * len(value))
    return text_of(run, [value])[1:-1]


def to_base64(run: Evaluation, value: Any, /) -> str:
    """Return the text's UTF-8 in Base64."""
    encoded = _utf8(run, value)
    run.produce_text(4 * (len(encoded) // 3 + 1))
    return base64.b64encode(encoded).decode()


def from_base64(run: Evaluation, value: Any, /) -> str:
    """Return the text whose UTF-8 this is in Base64, that of URLs too, with or without its `=`."""
    text = text_argument("base64", value)
    run.produce_text(len(text))
    padded = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True).decode()
    except ValueError:  # not Base64, or not UTF-8
        raise RefusedError("it is not the Base64 of a text in UTF-8") from None


def sha256(run: Evaluation, value: Any, /) -> str:
    """Return the SHA-256 of the text's UTF-8, in hexadecimal digits."""
    encoded = _utf8(run, value)
    run.spend(len(encoded) // CHARACTERS_PER_STEP)
    return hashlib.sha256(encoded).hexdigest()


def _utf8(run: Evaluation, value: Any) -> bytes:
    text = text_of(run, value)
    run.produce_text(len(text) if text.isascii() else 4 * len(text))
    return text.encode()


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


def uuid(run: Evaluation, /) -> str:
    return str(uuid4())

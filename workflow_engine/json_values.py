"""Which Python values may enter the engine as JSON, and their one normal form.

A value is read back now from Redis (orjson's bytes), now from Postgres (jsonb), and a node must not see
the difference. jsonb keeps an order of keys of its own, so there is one order for all: `encode` and
`decode_jsonb` sort the keys of every object by code point. jsonb writes large floats without exponent, so
that they come back as integers, and has no negative zero: the normal form has neither. A value that one of
the two cannot hold is refused here, where the error can still name the node and the path inside its output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from workflow_engine.errors import InvalidValue
from workflow_engine.paths import at

MAX_DEPTH = 100
"""Levels of nested objects and lists; orjson writes at most 254."""

SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1

_NO_FRACTION = 1e16
"""From here on orjson writes floats with an exponent and jsonb returns them as plain digits."""

_READ_AS_UNSIGNED = 2.0**64
"""orjson reads digits from 2**63 up to here as an unsigned integer, beyond it as a float."""


def normalise(value: Any, path: str = "$") -> Any:
    """Return the normal form of a JSON value: fresh, of dict, list, str, int, float, bool and None only.

    `decode(encode(…))` and `decode_jsonb` return an equal value of the same Python types, with its keys
    sorted; here keys stay as they are. Tuples become lists, subclasses of the types above (StrEnum, IntEnum,
    defaultdict, …) their plain base, floats from 1e16 the integers they are, -0.0 becomes 0.0. Idempotent.
    `path` is the name of the whole value in messages.

    Raises `InvalidValue`, with the path inside the value and what to do, for NaN and infinities, U+0000
    and lone surrogates, integers beyond signed 64 bits, keys that are not strings, nesting deeper than
    `MAX_DEPTH`, values that contain themselves and types that are not JSON.
    """
    if (unchanged := _unchanged_by_json(value, _ONLY_JSON)) is not None:
        return unchanged[1]
    try:
        return _NORMAL_FORM.get(type(value), _of_other_type)(value, 0)
    except _TooDeepError as refusal:
        where = _start_of_cycle(value, refusal.segments)
        if where is not None:
            raise InvalidValue(at(path, *where), "the value contains itself; return plain data") from None
        shown = at(path, *refusal.segments[::-1][:5]) + "…"
        raise InvalidValue(shown, f"nested deeper than {MAX_DEPTH} levels; flatten the value") from None
    except _RefusedError as refusal:
        raise InvalidValue(at(path, *refusal.segments[::-1]), refusal.message) from None


def encode(value: Any) -> bytes:
    """Return the JSON (UTF-8) of a value in normal form, with the keys of all its objects sorted."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def encode_normal(value: Any, path: str = "$") -> bytes:
    """Return what `encode` makes of the normal form of a value. Raises as `normalise` does."""
    if (unchanged := _unchanged_by_json(value, _ONLY_JSON | orjson.OPT_SORT_KEYS)) is not None:
        return unchanged[0]
    return encode(normalise(value, path))


def canonical(value: Any) -> bytes:
    """Encode a value in normal form so that equal JSON values give equal bytes.

    Neither the order of keys nor the spelling of a number, 1 or 1.0, makes a difference.
    """
    return orjson.dumps(_by_value(value), option=orjson.OPT_SORT_KEYS)


def _by_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _by_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_by_value(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def decode(encoded: bytes | bytearray | memoryview | str) -> Any:
    """Return the value that `encode` was given."""
    return orjson.loads(encoded)


def decode_jsonb(text: bytes | bytearray | memoryview | str) -> Any:
    """Return the value in the text of a jsonb column, with its keys in the order that `encode` writes."""
    return orjson.loads(encode(orjson.loads(text)))


def encode_jsonb(text: str) -> bytes:
    """Return the value in the text of a jsonb column as `encode` writes it."""
    return encode(orjson.loads(text))


def storable_text(text: str) -> str:
    """Escape U+0000 and lone surrogates in a text: for errors, which must never be refused."""
    return text.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()


EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def is_storable_time(moment: datetime) -> bool:
    """Return whether a time, which names its zone, can be read back from Postgres in any zone."""
    return EARLIEST <= moment <= LATEST


def check_size(encoded: bytes, limit_bytes: int, path: str = "$") -> None:
    """Raise `InvalidValue` if an encoded value is larger than `limit_bytes`."""
    if len(encoded) > limit_bytes:
        raise InvalidValue(
            path,
            f"{len(encoded):,} bytes of JSON are more than the {limit_bytes:,} allowed; "
            "store the data elsewhere (object storage, a table) and return a reference to it",
        )


def equal(left: Any, right: Any) -> bool:
    """Compare as JSON does: 1 equals 1.0 but neither "1" nor true; the order of keys is irrelevant."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(item, right[key]) for key, item in left.items())
    return type(left) is type(right) and bool(left == right)


# -- the fast way --------------------------------------------------------------------------------------

_ONLY_JSON = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_STRICT_INTEGER  # refuses integers beyond 53 bits, among them those beyond 64
)


def _unchanged_by_json(value: Any, option: int) -> tuple[bytes, Any] | None:
    """Return the value as JSON, with this option, and as that reads back, if it is certainly in normal form.

    Most values are plain JSON already, and orjson and C's `==` find that out in less than half the time of
    Python code that looks at every part. Doubtful values take the slow way, which decides.
    """
    try:
        encoded = orjson.dumps(value, option=option)
        read_back = orjson.loads(encoded)
        if read_back != value or _has_what_equality_misses(encoded):
            return None
    except (TypeError, ValueError, RecursionError):
        return None
    return None if _deeper_than_allowed(read_back, encoded) else (encoded, read_back)


def _has_what_equality_misses(encoded: bytes) -> bool:
    """Return whether there may be U+0000, negative zero or a float from 1e16; each may be harmless text."""
    return b"\\u0000" in encoded or b"-0.0" in encoded or b"e+" in encoded


def _deeper_than_allowed(value: Any, encoded: bytes) -> bool:
    if encoded.count(b"[") + encoded.count(b"{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
    return bool(level)


# -- normal forms by type ----------------------------------------------------------------------------
#
# Paths are built only once a value is refused: each container adds its own step while the exception
# passes through.


class _RefusedError(Exception):
    """A value is not JSON; `segments` are the keys and indexes that lead to it, innermost first."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.segments: list[str | int] = []


class _TooDeepError(_RefusedError):
    """Too many levels: very deep data, or a value that contains itself."""


def _as_it_is(value: Any, depth: int) -> Any:
    return value


def _integer(value: int, depth: int) -> int:
    if SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        return value
    raise _RefusedError(
        "an integer beyond signed 64 bits is not kept exactly by every reader; pass it as text, str(value)"
    )


def _float(value: float, depth: int) -> float | int:
    if -_NO_FRACTION < value < _NO_FRACTION:
        return value or 0.0  # -0.0 is false too
    if SMALLEST_INTEGER <= value < LARGEST_INTEGER:
        return int(value)
    if LARGEST_INTEGER <= value < _READ_AS_UNSIGNED:
        raise _RefusedError(
            "a number this large reads back as an integer beyond signed 64 bits; pass it as text"
        )
    if value - value != 0:
        raise _RefusedError(f"{value} is not JSON; use null, or leave the key out")
    return value


def _string(value: str, depth: int) -> str:
    if "\x00" in value:
        raise _RefusedError(
            "text with U+0000 cannot be stored by Postgres; remove it, value.replace('\\0', '')"
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _RefusedError(
                "text with a lone surrogate is not Unicode; decode it with errors='replace' where it is read"
            ) from None
    return value


def _object(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise _TooDeepError("")
    fresh: dict[str, Any] = {}
    key: Any = None
    try:
        for key, item in value.items():
            name = key if type(key) is str else _plain_key(key)
            if not name.isascii() or "\x00" in name:
                _string(name, depth)
            fresh[name] = _NORMAL_FORM.get(type(item), _of_other_type)(item, depth + 1)
    except _RefusedError as refusal:
        refusal.segments.append(key if isinstance(key, str) else repr(key))
        raise
    if len(fresh) != len(value):
        raise _RefusedError("two keys are the same text; give them different names")
    return fresh


def _list(value: Iterable[Any], depth: int) -> list[Any]:
    if depth >= MAX_DEPTH:
        raise _TooDeepError("")
    fresh: list[Any] = []
    try:
        for item in value:
            fresh.append(_NORMAL_FORM.get(type(item), _of_other_type)(item, depth + 1))
    except _RefusedError as refusal:
        refusal.segments.append(len(fresh))
        raise
    return fresh


_NORMAL_FORM: dict[type, Callable[[Any, int], Any]] = {
    str: _string,
    int: _integer,
    float: _float,
    bool: _as_it_is,
    type(None): _as_it_is,
    dict: _object,
    list: _list,
    tuple: _list,
}


def _of_other_type(value: Any, depth: int) -> Any:
    """Return a subclass of a JSON type as its base; refuse anything else."""
    if isinstance(value, str):
        return _string(str.__str__(value), depth)
    if isinstance(value, int):
        return _integer(int.__int__(value), depth)
    if isinstance(value, float):
        return _float(float.__float__(value), depth)
    if isinstance(value, dict):
        return _object(value, depth)
    if isinstance(value, list | tuple):
        return _list(value, depth)
    raise _RefusedError(_advice(value))


def _plain_key(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    raise _RefusedError(f"a key of type {type(key).__name__} is not JSON; keys are strings, use str(key)")


_CONVERSIONS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((date, time), "value.isoformat()"),  # datetime is a date
    (timedelta, "value.total_seconds()"),
    ((set, frozenset), "sorted(value)"),
    ((bytes, bytearray, memoryview), "value.decode() for text, base64 for anything else"),
    (Decimal, "str(value), or float(value) where rounding does no harm"),
    ((UUID, PurePath), "str(value)"),
    (Enum, "value.value"),
    (BaseModel, "value.model_dump(mode='json')"),
    (BaseException, "str(value)"),
    (Mapping, "dict(value)"),
)


def _advice(value: Any) -> str:
    name = type(value).__name__
    conversion = next((how for types, how in _CONVERSIONS if isinstance(value, types)), None)
    if conversion is None and dataclasses.is_dataclass(value) and not isinstance(value, type):
        conversion = "dataclasses.asdict(value)"
    if conversion is None and hasattr(type(value), "tolist"):  # numpy and what imitates it
        conversion = "value.tolist()"
    if conversion is None and isinstance(value, Iterable) and not isinstance(value, type):
        conversion = "list(value)"
    if conversion is None:
        conversion = "a dict, list, string, number, boolean or None"
    return f"a value of type {name} is not JSON; use {conversion}"


# -- cycles ------------------------------------------------------------------------------------------


def _start_of_cycle(value: Any, segments: list[str | int]) -> list[str | int] | None:
    """Return the way to the first container that is one of its own ancestors, or None."""
    ancestors = {id(value)}
    for count, segment in enumerate(reversed(segments), start=1):
        value = value[segment]
        if id(value) in ancestors:
            return segments[::-1][:count]
        ancestors.add(id(value))
    return None

"""What an expression works on and with: names, undefined values, operators, and the bounds of them all.

There is no Python object to break out of. Values are JSON, and every operation is a function of this module
or of `filters`. None of them looks up an attribute by a name that came from an expression. What remains is
to bound their work: an operation that walks, copies or compares a value pays for all of it in steps. So a
small value that holds one large part a million times cannot multiply work.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from workflow_engine.expressions.secrets import Secrets
from workflow_engine.json_values import LARGEST_INTEGER, SMALLEST_INTEGER, encode, equal, normalise

MAX_STEPS = 1_000_000
"""Work that one evaluation of a template may do: one step per list item or 16 characters."""

MAX_TEXT = 1_048_576
"""Characters of a text that an operation may produce."""

MAX_ITEMS = 100_000
"""Items of a list that an operation may produce."""

CHARACTERS_PER_STEP = 16
_WEIGHTLESS = frozenset({int, float, bool, type(None)})
SCALARS = _WEIGHTLESS | {str}


class RefusedError(Exception):
    """An operation is not possible; `Expression` adds the expression and raises ExpressionError."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class NoResponse:
    """Stands for `_response` while a config is evaluated, before its node has run."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the names in expressions mean while one node runs.

    `node_outputs` raises KeyError for a node that has produced no output; it loads only outputs that are
    read.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    node_outputs: Mapping[str, Any] = field(default_factory=dict)
    trigger_node_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=Secrets)
    response: Any = NoResponse
    """What the node's executor has returned."""
    now: Callable[[], datetime] = _utc_now
    iteration: Mapping[str, Any] = field(default_factory=dict)
    """`_index` and `_previous` in a loop; `_failure` once an execution has failed."""


class Evaluation:
    """One evaluation of a template: the scope it reads and the steps it may still make."""

    __slots__ = ("_steps_left", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._steps_left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise RefusedError(
                f"more than {MAX_STEPS:,} steps of work; do it in Python, in an `action/python` node"
            )

    def produce_text(self, length: int) -> None:
        """Pay for a text before building it. Raises RefusedError."""
        if length > MAX_TEXT:
            raise RefusedError(f"the text would be longer than {MAX_TEXT:,} characters")
        self.spend(1 + length // CHARACTERS_PER_STEP)

    def produce_items(self, count: int) -> None:
        """Pay for a list before building it. Raises RefusedError."""
        if count > MAX_ITEMS:
            raise RefusedError(f"the list would have more than {MAX_ITEMS:,} items")
        self.spend(1 + count)

    def weigh(self, *values: Any) -> None:
        """Pay for walking these values from end to end, each part as often as it occurs."""
        pending = [value for value in values if type(value) not in _WEIGHTLESS]
        while pending:
            value = pending.pop()
            if type(value) is str:
                self.spend(len(value) // CHARACTERS_PER_STEP)
                continue
            if isinstance(value, Mapping):
                self.spend(1 + len(value))
                pending.extend(value)
                value = value.values()
            elif not isinstance(value, list | tuple):
                used(value)
                continue
            self.spend(1 + len(value))
            pending += [part for part in value if type(part) not in _WEIGHTLESS]


# -- undefined -------------------------------------------------------------------------------------------


class Undefined:
    """The value of a path that leads nowhere: it may be read on, tested or given a default, but not used."""

    __slots__ = ("path", "reason")

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason

    def refuse(self, *_: Any) -> NoReturn:
        raise RefusedError(
            f"`{self.path}` is undefined: {self.reason}; if that is expected, add `| default(…)`"
        )

    def __bool__(self) -> bool:  # noqa: PLE0304  it never returns
        self.refuse()

    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = refuse
    __hash__ = None  # type: ignore[assignment]  # hashing is a use as well


def used(value: Any) -> Any:
    """Return the value. Raises RefusedError if it is undefined."""
    if type(value) is Undefined:
        value.refuse()
    return value


def kind(value: Any) -> str:
    """Return what messages call a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    return "an object"


# -- reading a part of a value ---------------------------------------------------------------------------


def join_path(base: str, key: Any) -> str:
    """Return the path of a part: `charge.items`, `items[0]`, `headers['X-Id']`."""
    if isinstance(key, str):
        key = key[:100]  # a key may be computed, and as long as a text may be
        if key.isidentifier():
            return f"{base}.{key}" if base else key
    return f"{base}[{key!r}]"


def member(value: Any, key: Any, base: str) -> Any:
    """Return the part of a value under a key or index; Undefined if there is none.

    `base` is the value's path.

    A key is a key, never a method or an attribute.
    """
    if isinstance(value, Mapping) and isinstance(key, str) and key in value:
        return value[key]
    path = join_path(base, key)
    if type(value) is Undefined:
        return Undefined(path, value.reason)
    used(key)
    if isinstance(value, Mapping):
        return Undefined(path, f"`{base}` has no such key{_keys_there_are(value)}")
    if isinstance(value, list | str):
        if type(key) is int:
            return (
                value[key] if -len(value) <= key < len(value) else Undefined(path, _out_of_range(base, value))
            )
        return Undefined(path, f"`{base}` is {kind(value)}, which is read by index")
    return Undefined(path, f"`{base}` is {kind(value)}, which has no parts")


def _keys_there_are(value: Mapping[str, Any]) -> str:
    shown = [str(key)[:40] for key, _ in zip(value, range(8), strict=False)]
    more = ", …" if len(value) > len(shown) else ""
    return f" (it has {', '.join(shown)}{more})" if shown else " (it is empty)"


def _out_of_range(base: str, value: list[Any] | str) -> str:
    return f"`{base}` has {len(value)} {'characters' if isinstance(value, str) else 'items'}"


def part_between(run: Evaluation, value: Any, start: Any, stop: Any, step: Any) -> Any:
    """Return a slice of a list or text."""
    if not isinstance(used(value), list | str):
        raise RefusedError(f"{kind(value)} cannot be sliced; lists and texts can")
    if any(bound is not None and type(used(bound)) is not int for bound in (start, stop, step)):
        raise RefusedError("the bounds of a slice are integers")
    selected = slice(start, stop, step)
    run.spend(1 + len(range(*selected.indices(len(value)))))
    return value[selected]


# -- values on their way out -----------------------------------------------------------------------------


def text_of(run: Evaluation, value: Any) -> str:
    """Return a value as it stands inside text: strings unchanged, anything else as JSON."""
    if type(value) is str:
        return value
    run.weigh(value)
    text = encode(value).decode()
    run.produce_text(len(text))
    return text


def json_value(run: Evaluation, value: Any) -> Any:
    """Return a fresh JSON value in normal form that shares nothing with the scope.

    Raises RefusedError if it is undefined or too large, InvalidValue if it is not JSON.
    """
    run.weigh(value)
    return normalise(dict(value) if isinstance(value, Mapping) else value, "the value")


# -- operators -------------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def checked_number(value: Any) -> Any:
    """Return the result of a calculation. Raises RefusedError if the engine cannot store it."""
    if isinstance(value, int):
        if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
            raise RefusedError("the result is an integer beyond 64 bits")
    elif not isinstance(value, float) or value - value != 0:
        raise RefusedError("the result is not a finite number")
    return value


def _arithmetic(symbol: str, calculate: Callable[[Any, Any], Any]) -> Callable[[Evaluation, Any, Any], Any]:
    def apply(run: Evaluation, left: Any, right: Any) -> Any:
        if not (is_number(used(left)) and is_number(used(right))):
            raise RefusedError(f"`{symbol}` needs two numbers, not {kind(left)} and {kind(right)}")
        return checked_number(calculate(left, right))

    return apply


def add(run: Evaluation, left: Any, right: Any) -> Any:
    """Add numbers, join texts and lists."""
    if isinstance(used(left), str) and isinstance(used(right), str):
        run.produce_text(len(left) + len(right))
        return left + right
    if isinstance(left, list) and isinstance(right, list):
        run.produce_items(len(left) + len(right))
        return left + right
    if is_number(left) and is_number(right):
        return checked_number(left + right)
    raise RefusedError(f"`+` does not join {kind(left)} and {kind(right)}; `~` joins anything as text")


def multiply(run: Evaluation, left: Any, right: Any) -> Any:
    """Multiply numbers, repeat a text or list."""
    if type(used(left)) is int and isinstance(used(right), str | list):
        left, right = right, left
    if isinstance(left, str) and type(right) is int:
        run.produce_text(len(left) * max(right, 0))
        return left * right
    if isinstance(left, list) and type(right) is int:
        run.produce_items(len(left) * max(right, 0))
        return left * right
    return _multiply_numbers(run, left, right)


_multiply_numbers = _arithmetic("*", operator.mul)


def _power(left: Any, right: Any) -> Any:
    # Refused before computing it: 9 ** 9 ** 8 would take minutes and megabytes.
    if isinstance(left, int) and abs(left) > 1 and right > 64:
        raise RefusedError("the result is a number beyond 64 bits")
    return left**right


_CONVERSION = re.compile(r"%[-+ 0#]*\d{0,3}(?:\.\d{1,2})?[sdifeEgGxX%]")
_WIDEST_CONVERSION = 1_500
"""Characters of a `%` conversion other than `%s`: up to 999 wide, and `%f` writes up to 309 digits."""


def modulo(run: Evaluation, left: Any, right: Any) -> Any:
    """Return the remainder of a division, or a text on the left with its `%s`, `%d`, `%.2f` … filled in."""
    if not isinstance(used(left), str):
        return _modulo_numbers(run, left, right)
    conversions = _CONVERSION.findall(left)
    if "%" in _CONVERSION.sub("", left):
        raise RefusedError("the `%` formats are %s %d %i %f %e %g %x and %%, up to 999 wide")
    values = tuple(
        value if is_number(used(value)) else text_of(run, value)
        for value in (right if isinstance(right, list) else [right])
    )
    lengths = sum(len(value) for value in values if isinstance(value, str))
    run.produce_text(len(left) + lengths + _WIDEST_CONVERSION * len(conversions))
    return left % values


_modulo_numbers = _arithmetic("%", operator.mod)

BinaryOperation = Callable[[Evaluation, Any, Any], Any]

ARITHMETIC: dict[str, BinaryOperation] = {
    "+": add,
    "-": _arithmetic("-", operator.sub),
    "*": multiply,
    "/": _arithmetic("/", operator.truediv),
    "//": _arithmetic("//", operator.floordiv),
    "%": modulo,
    "**": _arithmetic("**", _power),
}


# -- comparisons -----------------------------------------------------------------------------------------


def equals(run: Evaluation, left: Any, right: Any) -> bool:
    """Compare as JSON does, and as a switch: 1 equals 1.0, but neither "1" nor true."""
    run.weigh(left, right)
    return equal(left, right)


def is_in(run: Evaluation, item: Any, container: Any) -> bool:
    """Return whether a list has the item, an object the key, a text the part."""
    run.weigh(item, container)
    if isinstance(container, list):
        return any(equal(item, other) for other in container)
    if isinstance(container, Mapping | str) and isinstance(item, str):
        return item in container
    raise RefusedError(f"`in` cannot look for {kind(item)} in {kind(container)}")


def _ordering(symbol: str, compare: Callable[[Any, Any], Any]) -> BinaryOperation:
    def apply(run: Evaluation, left: Any, right: Any) -> bool:
        run.weigh(left, right)
        try:
            return bool(compare(left, right))
        except TypeError:
            raise RefusedError(
                f"`{symbol}` cannot compare {kind(left)} with {kind(right)}; convert one of them, "
                "for example with `| int` or `| string`"
            ) from None

    return apply


COMPARISONS: dict[str, BinaryOperation] = {
    "eq": equals,
    "ne": lambda run, left, right: not equals(run, left, right),
    "lt": _ordering("<", operator.lt),
    "le": _ordering("<=", operator.le),
    "gt": _ordering(">", operator.gt),
    "ge": _ordering(">=", operator.ge),
    "in": is_in,
}

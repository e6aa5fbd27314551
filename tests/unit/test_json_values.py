"""Every value that enters the engine has one normal form as JSON, or is refused with its place."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from workflow_engine.errors import InvalidValue
from workflow_engine.json_values import MAX_DEPTH, check_size, decode, encode, encode_normal, equal, normalise

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: not 2.0**63 <= value < 2.0**64),
    texts,
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """Return the value with the type of every part beside it, since 1 == 1.0 == True in Python."""
    if isinstance(value, dict):
        return dict, {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return list, [typed(item) for item in value]
    return type(value), repr(value)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def refusal(value: Any) -> str:
    with pytest.raises(InvalidValue) as caught:
        normalise(value, "output")
    return str(caught.value)


# -- the normal form ---------------------------------------------------------------------------------


@given(json_values)
def test_a_normal_form_comes_back_from_json_with_equal_types(value: Any) -> None:
    normal = normalise(value)

    assert typed(decode(encode(normal))) == typed(normal)


@given(json_values)
def test_normalising_twice_changes_nothing(value: Any) -> None:
    normal = normalise(value)

    assert typed(normalise(normal)) == typed(normal)


@given(json_values | st.tuples(json_values, st.sampled_from([-0.0, 1e300, 2**62, "\x00", math.nan])))
def test_a_value_is_encoded_as_its_normal_form_is(value: Any) -> None:
    try:
        expected = encode(normalise(value))
    except InvalidValue as refused:
        with pytest.raises(InvalidValue, match=re.escape(str(refused))):
            encode_normal(value)
    else:
        assert encode_normal(value) == expected


@given(json_values)
def test_the_form_of_a_part_does_not_depend_on_what_stands_beside_it(value: Any) -> None:
    beside_what_json_changes = normalise({"part": value, "tuple": ()})

    assert typed(beside_what_json_changes["part"]) == typed(normalise(value))


@given(json_values)
def test_a_normal_form_equals_the_value_as_json(value: Any) -> None:
    assert equal(normalise(value), value)


def test_the_normal_form_shares_no_container_with_the_value() -> None:
    value = {"items": [{"price": 1}]}

    normal = normalise(value)
    value["items"][0]["price"] = 2

    assert normal == {"items": [{"price": 1}]}


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


Point = namedtuple("Point", "x y")


class Text(str):
    pass


class Ratio(float):
    pass


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Point(1, 2), [1, 2]),
        (Colour.RED, "red"),
        (Text("täxt"), "täxt"),
        (Level.HIGH, 3),
        (Ratio(0.5), 0.5),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        ({Colour.RED: Colour.RED}, {"red": "red"}),
        (True, True),
        (1.0, 1.0),
        (9999999999999998.0, 9999999999999998.0),
        (1e16, 10**16),
        (-1e16, -(10**16)),
        (2.0**62, 2**62),
        (-(2.0**63), -(2**63)),
        (2.0**64, 2.0**64),
        (1e308, 1e308),
        (5e-324, 5e-324),
        (-0.0, 0.0),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**53 + 1, 2**53 + 1),
        ("\\u0000 -0.0 e+", "\\u0000 -0.0 e+"),
        ("\U0001f600 ü", "\U0001f600 ü"),
    ],
    ids=repr,
)
def test_a_value_gets_its_plain_form_alone_and_inside_others(value: Any, normal: Any) -> None:
    assert typed(normalise(value)) == typed(normal)
    assert typed(normalise({"a": [value]})) == typed({"a": [normal]})


def test_a_hundred_levels_are_kept_and_one_more_is_refused() -> None:
    assert normalise(nested(MAX_DEPTH)) == nested(MAX_DEPTH)

    assert refusal(nested(MAX_DEPTH + 1)) == (
        "output[0][0][0][0][0]…: nested deeper than 100 levels; flatten the value"
    )


def test_many_containers_beside_each_other_are_not_deep() -> None:
    assert normalise([[] for _ in range(500)]) == [[] for _ in range(500)]


# -- refusals ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Order:
    id: int


class Basket(BaseModel):
    total: int


class Plain(Enum):
    ONE = 1


class Unknown:
    pass


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (math.nan, "nan is not JSON; use null, or leave the key out"),
        (-math.inf, "-inf is not JSON; use null, or leave the key out"),
        ("a\x00b", "text with U+0000 cannot be stored by Postgres; remove it, value.replace('\\0', '')"),
        (
            "\ud800",
            "text with a lone surrogate is not Unicode; decode it with errors='replace' where it is read",
        ),
        (2**63, "beyond signed 64 bits is not kept exactly by every reader; pass it as text, str(value)"),
        (-(2**63) - 1, "an integer beyond signed 64 bits"),
        (1e19, "a number this large reads back as an integer beyond signed 64 bits; pass it as text"),
        ({1: "a"}, "a key of type int is not JSON; keys are strings, use str(key)"),
        (datetime(2026, 1, 1, tzinfo=UTC), "a value of type datetime is not JSON; use value.isoformat()"),
        (date(2026, 1, 1), "a value of type date is not JSON; use value.isoformat()"),
        (timedelta(1), "use value.total_seconds()"),
        ({1, 2}, "a value of type set is not JSON; use sorted(value)"),
        (b"abc", "a value of type bytes is not JSON; use value.decode() for text, base64 for anything else"),
        (Decimal("1.10"), "use str(value), or float(value) where rounding does no harm"),
        (UUID(int=1), "a value of type UUID is not JSON; use str(value)"),
        (Plain.ONE, "a value of type Plain is not JSON; use value.value"),
        (Order(1), "a value of type Order is not JSON; use dataclasses.asdict(value)"),
        (Basket(total=1), "a value of type Basket is not JSON; use value.model_dump(mode='json')"),
        (ValueError("x"), "a value of type ValueError is not JSON; use str(value)"),
        ((n for n in ()), "a value of type generator is not JSON; use list(value)"),
        (Order, "a value of type type is not JSON; use a dict, list, string, number, boolean or None"),
        (Unknown(), "a value of type Unknown is not JSON; use a dict, list, string, number, boolean or None"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_not_json_is_refused_with_its_path_and_what_to_do(value: Any, advice: str) -> None:
    inside = {"items": [0, {"price": value}]}

    assert advice in refusal(value)
    assert refusal(inside).startswith("output.items[1].price")
    assert advice in refusal(inside)


def test_a_key_is_held_to_the_rules_of_text() -> None:
    assert "output['\\x00']: text with U+0000" in refusal({"\x00": 1})
    assert "lone surrogate" in refusal({"\ud800": 1})


def test_keys_that_become_the_same_text_are_refused() -> None:
    class ByIdentity(str):
        __hash__ = object.__hash__
        __eq__ = object.__eq__  # type: ignore[assignment]

    assert refusal({"a": {ByIdentity("x"): 1, ByIdentity("x"): 2}}) == (
        "output.a: two keys are the same text; give them different names"
    )


def contains_itself_in_a_list() -> Any:
    value: list[Any] = [1]
    value.append({"again": value})
    return {"value": value}


def contains_itself_in_a_dict() -> Any:
    value: dict[str, Any] = {}
    value["me"] = value
    return value


@pytest.mark.parametrize(
    ("build", "path"),
    [(contains_itself_in_a_list, "output.value[1].again"), (contains_itself_in_a_dict, "output.me")],
)
def test_a_value_that_contains_itself_is_refused_where_it_closes_the_circle(
    build: Callable[[], Any], path: str
) -> None:
    assert refusal(build()) == f"{path}: the value contains itself; return plain data"


def test_the_same_value_at_two_places_is_no_cycle() -> None:
    shared = {"a": 1}

    assert normalise([shared, shared, ()]) == [{"a": 1}, {"a": 1}, []]


def test_a_key_that_is_no_name_is_quoted_in_the_path() -> None:
    with pytest.raises(InvalidValue) as caught:
        normalise({"in stock": [math.nan]})

    assert caught.value.path == "$['in stock'][0]"


def test_a_value_over_the_limit_is_refused_with_its_size() -> None:
    check_size(b"x" * 1024, 1024)

    with pytest.raises(InvalidValue, match=r"output: 1,025 bytes .* 1,024 allowed; store the data elsewhere"):
        check_size(b"x" * 1025, 1024, "output")


# -- equality ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, 1.0), ("a", "a"), (None, None), ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1}), ([], []), (True, True)],
    ids=repr,
)
def test_equal_as_json(left: Any, right: Any) -> None:
    assert equal(left, right)
    assert equal(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, "1"),
        (1, True),
        (0, False),
        (0, None),
        ("", None),
        ([], {}),
        ([1], [1, 2]),
        ([1], [True]),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {"b": None}),
        (2**53 + 1, 2.0**53),
    ],
    ids=repr,
)
def test_not_equal_as_json(left: Any, right: Any) -> None:
    assert not equal(left, right)
    assert not equal(right, left)

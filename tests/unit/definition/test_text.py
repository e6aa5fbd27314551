"""A definition is read from YAML and JSON as it was meant, or refused with the place of the mistake."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.definitions import ORDER_FULFILMENT
from workflow_engine.definition.text import MAX_BYTES, parse_definition, read_definition
from workflow_engine.errors import DefinitionUnreadable

LOOKS_LIKE_TEXT = "2024-01-01 12:30 NO yes on off True FALSE Null 0o17 0x1F 017 1_000 .5 1. +1 1e .inf .nan ="


@pytest.mark.parametrize("text", LOOKS_LIKE_TEXT.split())
def test_what_is_no_json_constant_or_number_stays_text(text: str) -> None:
    assert read_definition(f"value: {text}") == {"value": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("1.0", 1.0),
        ("1e3", 1000.0),
        ("-0.5E-1", -0.05),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_json_constants_and_numbers_are_read_as_such(text: str, value: object) -> None:
    read = read_definition(f"value: {text}")["value"]

    assert read == value
    assert type(read) is type(value)


def test_what_stands_in_quotes_is_text() -> None:
    assert read_definition("{a: 'true', b: \"1\", c: ''}") == {"a": "true", "b": "1", "c": ""}


def test_keys_are_text_as_they_are_written() -> None:
    assert read_definition("{404: a, true: b, null: c, 1.0: d}") == {
        "404": "a",
        "true": "b",
        "null": "c",
        "1.0": "d",
    }


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_json_is_read_as_json(value: object) -> None:
    document = {"value": value}

    assert read_definition(json.dumps(document)) == document
    assert read_definition(json.dumps(document, indent="\t", ensure_ascii=False)) == document


def test_the_same_definition_reads_the_same_in_yaml_and_json() -> None:
    content = read_definition(ORDER_FULFILMENT)

    assert read_definition(json.dumps(content), name="order.json") == content


def test_a_byte_order_mark_is_ignored() -> None:
    assert read_definition("\ufeffid: x") == {"id": "x"}


def test_an_alias_stands_for_the_value_of_its_anchor() -> None:
    text = "shared: &shared {a: [1]}\nfirst: *shared\nlist: [*shared, &name word, *name]"

    assert read_definition(text) == {
        "shared": {"a": [1]},
        "first": {"a": [1]},
        "list": [{"a": [1]}, "word", "word"],
    }


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once() -> None:
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 30)]
    text = "\n".join(["a0: &a0 [laugh, laugh]", *levels])

    started = time.perf_counter()
    with pytest.raises(DefinitionUnreadable, match="with aliases written out this is larger than"):
        read_definition(text)
    assert time.perf_counter() - started < 0.5


def test_a_long_text_that_is_repeated_by_aliases_is_refused() -> None:
    text = f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 1000)}]"

    with pytest.raises(DefinitionUnreadable, match="with aliases written out"):
        read_definition(text)


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "{a: " * 50_000, '{"a":' * 50_000, "a: " + "[" * 50_000, "- " * 50_000]
)
def test_nesting_without_end_is_refused(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(DefinitionUnreadable, match="nested"):
        read_definition(text)
    assert time.perf_counter() - started < 10  # a parser that reads on takes minutes


def test_an_integer_of_thousands_of_digits_does_not_stop_the_reading() -> None:
    digits = "9" * 10_000

    for text in (f"value: {digits}", f'{{"value": {digits}}}'):
        assert read_definition(text)["value"] > 2**64


def test_a_text_of_more_than_a_mebibyte_is_refused() -> None:
    with pytest.raises(DefinitionUnreadable, match="more than the 1,048,576 allowed"):
        read_definition("id: " + "x" * MAX_BYTES)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(DefinitionUnreadable, match="save it as UTF-8"):
        read_definition("id: \udcff")


def test_every_repeated_key_is_reported_with_its_path_and_line() -> None:
    text = "id: a\nnodes:\n  - id: work\n    config:\n      x: 1\n      x: 2\nid: b\n"

    with pytest.raises(DefinitionUnreadable, match=r"orders\.yaml repeats keys") as refusal:
        read_definition(text, name="orders.yaml")

    assert [problem.path for problem in refusal.value.problems] == ["nodes[work].config.x", "id"]
    assert "line 6, column 7" in refusal.value.problems[0].message
    assert "in line 5" in refusal.value.problems[0].message
    assert parse_definition(text).content["id"] == "b"


def test_the_same_key_in_different_objects_is_not_repeated() -> None:
    assert read_definition("[{a: 1}, {a: {a: 2}}]", name="list.yaml") == [{"a": 1}, {"a": {"a": 2}}]


def test_the_position_of_a_mistake_is_an_attribute() -> None:
    with pytest.raises(DefinitionUnreadable) as refusal:
        read_definition("id: x\nname: 'open\n")

    assert (refusal.value.line, refusal.value.column) == (3, 1)


def test_a_repeated_key_in_json_is_found_however_it_is_escaped() -> None:
    for text in ('{"id": 1, "\\u0069d": 2}', '{"\\ud83d\\ude00": 1, "😀": 2}'):
        with pytest.raises(DefinitionUnreadable, match="repeats keys"):
            read_definition(text)

"""A trigger accepts the data that its schema allows, and refuses a schema that cannot be checked."""

from __future__ import annotations

import time
import urllib.request
from typing import Any

import jsonschema
import pytest

from support.node_runs import problems, run
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.results import success
from workflow_engine.nodes.trigger import json_schemas
from workflow_engine.nodes.trigger.direct import NODE_TYPES, check_trigger_data
from workflow_engine.nodes.trigger.json_schemas import check_schema

MANUAL, API_CALL, EVENT = NODE_TYPES

ORDER = {
    "type": "object",
    "required": ["orderId", "items"],
    "properties": {
        "orderId": {"type": "integer"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "payment": {"anyOf": [{"required": ["card"]}, {"properties": {"iban": {"type": "string"}}}]},
    },
    "$defs": {"item": {"type": "object", "properties": {"price": {"type": "number", "minimum": 0}}}},
}


def refused(data: Any, schema: Any = ORDER) -> list[str]:
    return [str(problem) for problem in check_trigger_data({"schema": schema}, data)]


def wrong_with(schema: Any) -> list[str]:
    return [str(problem) for problem in check_schema(schema)]


# -- data --------------------------------------------------------------------------------------------


def test_data_that_fits_has_no_problems() -> None:
    assert refused({"orderId": 42, "items": [{"price": 1.5}], "more": None}) == []


def test_every_problem_of_the_data_is_reported_at_once_with_its_path() -> None:
    assert refused({"orderId": "42", "items": [{}, {"price": -1}, 3]}) == [
        "data.orderId: '42' is not of type 'integer'",
        "data.items[1].price: -1 is less than the minimum of 0",
        "data.items[2]: 3 is not of type 'object'",
    ]


def test_a_missing_key_is_reported_for_the_object_that_lacks_it() -> None:
    assert refused({}) == ["data: 'orderId' is a required property", "data: 'items' is a required property"]


def test_of_several_possible_shapes_the_nearest_is_reported() -> None:
    data = {"orderId": 1, "items": [], "payment": {"iban": 7}}

    assert refused(data) == ["data.payment.iban: 7 is not of type 'string'"]


def test_a_trigger_without_a_schema_takes_any_data() -> None:
    assert check_trigger_data({}, [None, "anything"]) == []
    assert check_trigger_data({"schema": None}, 1) == []


def test_a_message_about_large_data_stays_short() -> None:
    (message,) = refused(["x" * 100_000], {"maxItems": 0})

    assert len(message) < 400


def test_a_schema_without_end_is_a_problem_and_not_a_crash() -> None:
    assert refused({}, {"$ref": "#"}) == [
        "data: the trigger's schema refers to itself without end; correct its $ref"
    ]


# -- schemas -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {},
        ORDER,
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://shop.example/order"},
        {"$ref": "#order", "$defs": {"o": {"$anchor": "order", "type": "object"}}},
        {"$id": "https://shop.example/order", "$ref": "#/$defs/a", "$defs": {"a": True}},
        {"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}},
    ],
    ids=str,
)
def test_a_schema_that_stands_on_its_own_is_accepted_and_works(schema: dict[str, Any]) -> None:
    assert wrong_with(schema) == []
    assert problems(MANUAL, {"schema": schema}) == []
    assert isinstance(refused({}, schema), list)


def test_every_problem_of_a_schema_is_reported_at_once() -> None:
    schema = {"type": "objekt", "properties": {"a": {"minimum": "1"}, "b": {"pattern": "("}}}

    found = wrong_with(schema)

    assert [message.split(":")[0] for message in found] == [
        "properties.a.minimum",
        "properties.b.pattern",
        "type",
    ]


@pytest.mark.parametrize(
    "reference", ["https://shop.example/order.json", "other.json#/a", "file:///etc/passwd", "//host/x"]
)
@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_a_reference_to_another_document_is_refused_and_never_fetched(
    keyword: str, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("a schema was fetched")

    monkeypatch.setattr(urllib.request, "urlopen", fetched)

    (message,) = wrong_with({"items": {keyword: reference}})

    assert message == (
        f"items['{keyword}']: '{reference}' is outside the schema and is not fetched; copy it into $defs"
    )


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "#/$defs/b"}, "['$ref']: '#/$defs/b' leads nowhere in this schema"),
        ({"$ref": "#nowhere"}, "['$ref']: '#nowhere' leads nowhere in this schema"),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#"},
            "['$schema']: only JSON Schema 2020-12 is supported; leave $schema out or make it "
            "'https://json-schema.org/draft/2020-12/schema'",
        ),
        (
            {"$defs": {"a": {"$id": "https://shop.example/a"}}},
            "['$defs'].a['$id']: schemas with an $id of their own inside a schema are not supported; "
            "use $defs",
        ),
    ],
    ids=str,
)
def test_what_a_schema_may_not_do_is_reported_with_its_path(schema: dict[str, Any], message: str) -> None:
    assert wrong_with(schema) == [message]


# -- configs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", NODE_TYPES, ids=lambda trigger: trigger.kind)
def test_the_data_of_the_start_is_the_output_of_every_trigger(trigger: NodeType) -> None:
    config = {"schema": {"pattern": "{{"}, "description": "{{ not an expression"}

    assert run(trigger, config, {"placed": {"orderId": 42}}) == success({"orderId": 42})


@pytest.mark.parametrize("trigger", NODE_TYPES, ids=lambda trigger: trigger.kind)
def test_a_bad_schema_is_a_problem_of_the_config(trigger: NodeType) -> None:
    (problem,) = problems(trigger, {"schema": {"type": "objekt", "minimum": "a"}})

    assert problem.path == "schema"
    assert "type: 'objekt' is not valid" in problem.message
    assert "minimum: 'a' is not of type 'number'" in problem.message


def test_what_a_later_release_brings_is_refused_as_such() -> None:
    (problem,) = problems(EVENT, {"schema": {}, "name": "paid", "exchange": "shop"})

    assert problem.message == "not in this release: name, exchange; `schema` and `description` are"


@pytest.mark.parametrize("trigger", [MANUAL, API_CALL], ids=lambda trigger: trigger.kind)
def test_an_unknown_key_is_reported_with_the_name_that_was_meant(trigger: NodeType) -> None:
    (problem,) = problems(trigger, {"shcema": {}})

    assert str(problem) == "shcema: unknown key; did you mean 'schema'?"


# -- bounds ------------------------------------------------------------------------------------------


def doubling(depth: int) -> dict[str, Any]:
    """Make a small schema whose work doubles with every level."""
    levels = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(depth)}
    return {"$ref": "#/$defs/l0", "$defs": {**levels, f"l{depth}": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "data", "expected"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 100_000 + "b", "does not match"),
        ({"pattern": "^(a|a)*b?$"}, "a" * 100_000 + "c", "does not match"),
        ({"patternProperties": {"^(a+)+$": False}}, {"a" * 100_000 + "b": 1}, None),
        (
            {"patternProperties": {"^(a+)+$": True}, "additionalProperties": False},
            {"a" * 10_000 + "b": 1},
            "was unexpected",
        ),
        (
            {"patternProperties": {"^(a+)+$": True}, "unevaluatedProperties": False},
            {"a" * 10_000 + "b": 1},
            "was unexpected",
        ),
        ({"uniqueItems": True}, [*([n, str(n), {"n": n}, [n]] for n in range(5_000)), 7, 7], "non-unique"),
        ({"uniqueItems": True}, [*range(20_000), "x", None, {}], None),
        (
            {"unevaluatedItems": False, "contains": {"type": "integer"}},
            [*range(10_000), ""],
            "was unexpected",
        ),
    ],
)
def test_a_check_takes_no_longer_than_the_data_is_large(schema: Any, data: Any, expected: str | None) -> None:
    started = time.thread_time()

    assert wrong_with(schema) == []
    found = refused(data, schema)

    assert time.thread_time() - started < 1.5
    assert [expected in message for message in found if expected] == ([True] if expected else [])


def test_a_schema_that_asks_for_too_much_is_refused_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_schemas, "LONGEST_CHECK", 0.2)

    assert refused(1, doubling(40)) == [
        "data: checking it against its schema takes more than 0.2 s; simplify the schema"
    ]


def test_of_very_many_problems_the_first_hundred_are_reported() -> None:
    assert len(refused([None] * 5_000, {"items": {"type": "string"}})) == 100


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"pattern": "(?=a)b"}, "pattern"),
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, "properties.a.pattern"),
        ({"patternProperties": {"(?<!a)b": True}}, "patternProperties['(?<!a)b']"),
        ({"pattern": "(a{1000}){1000}"}, "pattern"),
    ],
)
def test_a_pattern_that_cannot_be_matched_in_linear_time_is_refused(schema: Any, path: str) -> None:
    (message,) = wrong_with(schema)

    assert message.startswith(f"{path}: ")
    assert "cannot be matched in linear time" in message


# -- the keywords that are checked in another way ------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "data", "fits"),
    [
        ({"pattern": "b+"}, "abbc", True),
        ({"pattern": r"^\d{3}$"}, "123\n", False),
        ({"pattern": "x"}, 7, True),
        ({"pattern": "^{{ a{2} }}$"}, "{{ aa }}", True),
        ({"pattern": r"^\{a{x}{1,2}$"}, "{a{x}}", True),
        ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}], True),
        ({"uniqueItems": True}, [1, 1.0], False),
        ({"uniqueItems": True}, [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ({"uniqueItems": False}, [1, 1], True),
        ({"uniqueItems": True}, "aa", True),
        ({"properties": {"a": True}, "additionalProperties": False}, {"a": 1}, True),
        ({"properties": {"a": True}, "additionalProperties": False}, {"b": 1}, False),
        ({"patternProperties": {"^x-": {"type": "string"}}}, {"x-a": 1}, False),
        ({"patternProperties": {"^x-": True}, "additionalProperties": {"type": "string"}}, {"x-a": 1}, True),
        ({"patternProperties": {"^x-": True}, "additionalProperties": {"type": "string"}}, {"a": 1}, False),
        ({"additionalProperties": False}, [1], True),
        ({"properties": {"a": True}, "unevaluatedProperties": False}, {"a": 1, "b": 2}, False),
        ({"unevaluatedProperties": {"type": "integer"}}, {"a": 1}, True),
        ({"unevaluatedProperties": {"type": "integer"}}, {"a": "x"}, False),
        (
            {"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False},
            {"a": 1},
            True,
        ),
        (
            {
                "anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, True],
                "unevaluatedProperties": False,
            },
            {"a": 2},
            False,
        ),
        (
            {
                "$ref": "#/$defs/base",
                "$defs": {"base": {"patternProperties": {"^a": True}}},
                "unevaluatedProperties": False,
            },
            {"ab": 1},
            True,
        ),
        (
            {
                "if": {"properties": {"kind": {"const": "card"}}, "required": ["kind"]},
                "then": {"properties": {"number": True}},
                "else": {"properties": {"iban": True}},
                "unevaluatedProperties": False,
            },
            {"kind": "card", "number": 1},
            True,
        ),
        (
            {
                "if": {"properties": {"kind": {"const": "card"}}, "required": ["kind"]},
                "then": {"properties": {"number": True}},
                "else": {"properties": {"iban": True}},
                "unevaluatedProperties": False,
            },
            {"iban": 1, "number": 1},
            False,
        ),
        (
            {
                "dependentSchemas": {"a": {"properties": {"a": True, "b": True}}},
                "unevaluatedProperties": False,
            },
            {"a": 1, "b": 2},
            True,
        ),
        ({"prefixItems": [True], "unevaluatedItems": False}, [1], True),
        ({"prefixItems": [True], "unevaluatedItems": False}, [1, 2], False),
        ({"prefixItems": [True], "unevaluatedItems": {"type": "integer"}}, [1, 2], True),
        ({"contains": {"type": "string"}, "unevaluatedItems": False}, ["a"], True),
        ({"allOf": [{"items": True}], "unevaluatedItems": False}, [1, 2], True),
        ({"unevaluatedItems": False}, {}, True),
    ],
    ids=str,
)
def test_keywords_mean_what_the_standard_says(schema: dict[str, Any], data: Any, fits: bool) -> None:
    assert wrong_with(schema) == []
    assert (refused(data, schema) == []) is fits
    assert jsonschema.Draft202012Validator(schema).is_valid(data) is (fits if data != "123\n" else True)

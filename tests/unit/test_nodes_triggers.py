"""The triggers: which data an execution may start with, and which schemas say so."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from node_runs import problems, run

from workflow_engine.node_types import NodeType, success
from workflow_engine.nodes.triggers import NODE_TYPES, check_schema, check_trigger_data

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


def test_every_problem_of_the_data_is_told_at_once_with_its_path() -> None:
    assert refused({"orderId": "42", "items": [{}, {"price": -1}, 3]}) == [
        "data.orderId: '42' is not of type 'integer'",
        "data.items[1].price: -1 is less than the minimum of 0",
        "data.items[2]: 3 is not of type 'object'",
    ]


def test_what_is_missing_is_told_of_the_object_that_lacks_it() -> None:
    assert refused({}) == ["data: 'orderId' is a required property", "data: 'items' is a required property"]


def test_of_several_possible_shapes_the_nearest_is_told() -> None:
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


def test_every_problem_of_a_schema_is_told_at_once() -> None:
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
        f"items['{keyword}']: '{reference}' lies outside the schema and is not fetched; copy it into $defs"
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
def test_what_a_schema_may_not_do_is_told_with_its_path(schema: dict[str, Any], message: str) -> None:
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
def test_an_unknown_key_is_told_what_it_was_meant_to_be(trigger: NodeType) -> None:
    (problem,) = problems(trigger, {"shcema": {}})

    assert str(problem) == "shcema: unknown key; did you mean 'schema'?"

"""A definition has one shape, and nothing of it is lost on its way through Python and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from support.definitions import ORDER_FULFILMENT
from workflow_engine.definition.text import read_definition
from workflow_engine.definition.workflow import Edge, Node, Retry, Workflow


def _objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.text("abc.-é", max_size=4), values, max_size=3)


NUMBERS = st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15).map(lambda number: number or 0.0)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text("ab{}é€ \n", max_size=6)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | _objects(inner), max_leaves=8)
POSITIVE = st.integers(1, 1000) | st.floats(0.5, 1000)


RETRIES = st.fixed_dictionaries(
    {},
    optional={
        "maxAttempts": st.integers(1, 9),
        "multiplier": st.integers(1, 9) | st.floats(1, 9),
        "maxWaitDuration": st.none() | st.integers(0, 9),
        "schedule": st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=3),
        "retryOn": st.lists(st.sampled_from(["ValueError", "TIMEOUT"]), max_size=2),
    },
)
RULES = st.lists(
    st.fixed_dictionaries(
        {"on": st.just("all") | st.lists(st.sampled_from(["ValueError", "TIMEOUT"]), min_size=1, max_size=2)},
        optional={"maxAttempts": st.integers(1, 9)},
    ),
    min_size=1,
    max_size=3,
)
NODES = st.fixed_dictionaries(
    {
        "id": st.from_regex(r"\A[a-z][a-z0-9-]{0,5}\Z"),
        "type": st.sampled_from(["trigger", "logic", "action"]),
        "subType": st.sampled_from(["manual", "shop.charge"]),
    },
    optional={
        "config": _objects(VALUES),
        "label": st.none() | st.text("ab é", max_size=5),
        "retry": st.none() | RETRIES | RULES,
        "timeout": st.none() | POSITIVE,
        "priority": st.none() | st.integers(0, 9),
        "onError": st.sampled_from([None, "fail", "continue"]),
    },
)
EDGES = st.fixed_dictionaries(
    {"source": st.text("ab", max_size=3), "target": st.text("ab", max_size=3)},
    optional={"sourceHandle": st.none() | st.sampled_from(["true", "error"])},
)
DEFINITIONS = st.fixed_dictionaries(
    {"id": st.just("any")},
    optional={
        "name": st.none() | st.text("ab é", max_size=5),
        "settings": st.fixed_dictionaries({}, optional={"concurrency": st.just(1), "timeout": POSITIVE}),
        "variables": _objects(VALUES),
        "nodes": st.lists(NODES, max_size=3),
        "edges": st.lists(EDGES, max_size=3),
    },
)


def _json(value: Any) -> str:
    """Return text that distinguishes 1 from 1.0 and null from nothing, and keeps the order of values."""
    return json.dumps(value, ensure_ascii=False)


@given(DEFINITIONS)
def test_python_to_json_to_python_to_json_loses_nothing(content: dict[str, Any]) -> None:
    workflow = Workflow.from_stored(content)

    read_back = Workflow.from_stored(json.loads(workflow.to_json()))

    assert workflow.to_dict() == content
    assert json.dumps(workflow.to_dict(), sort_keys=True) == json.dumps(content, sort_keys=True)
    assert read_back == workflow
    assert read_back.to_json() == workflow.to_json()
    assert read_back.content_hash() == workflow.content_hash()


def test_keys_inside_a_config_and_the_variables_keep_their_order() -> None:
    values = {"z": 1, "a": {"y": 2, "b": 3}}

    node = Node(id="work", type="action", sub_type="function", config=values)
    written = Workflow(id="ordered", variables=values, nodes=(node,)).to_dict()

    assert _json(written["variables"]) == _json(values)
    assert _json(written["nodes"][0]["config"]) == _json(values)


def test_what_was_left_out_stays_out_and_a_default_that_was_spelled_out_stays_in() -> None:
    assert Workflow(id="bare").to_dict() == {"id": "bare"}

    spelled_out = {
        "id": "full",
        "settings": {"concurrency": 1, "hops": "spread"},
        "variables": {},
        "edges": [],
    }
    assert Workflow.from_stored(spelled_out).to_dict() == spelled_out


def test_null_is_not_the_same_as_left_out() -> None:
    content = {
        "id": "work",
        "type": "action",
        "subType": "function",
        "label": None,
        "config": {"expression": None},
    }

    assert Node.model_validate(content).model_dump(by_alias=True, exclude_unset=True) == content


def test_a_workflow_does_not_change_with_the_data_it_was_made_of() -> None:
    items = [1, 2]
    variables = {"items": items}

    workflow = Workflow(id="own", variables=variables)
    items.append(3)
    variables["more"] = 4  # type: ignore[assignment]

    assert workflow.variables == {"items": [1, 2]}


def test_tuples_and_subclasses_in_python_become_the_json_they_stand_for() -> None:
    node = Node(id="work", type="action", sub_type="function", config={"expression": (1, 2.0)})

    assert node.config == {"expression": [1, 2.0]}


def test_the_hash_depends_on_the_content_and_not_on_the_order_of_keys() -> None:
    one = Workflow(id="hash", variables={"a": 1, "b": 2})

    assert one.content_hash() == Workflow(id="hash", variables={"b": 2, "a": 1}).content_hash()
    assert one.content_hash() != Workflow(id="hash", variables={"a": 1, "b": 3}).content_hash()


def test_an_unquoted_true_or_false_is_the_name_of_a_way_out() -> None:
    true, false = (
        Edge.model_validate({"source": "a", "target": "b", "sourceHandle": handle})
        for handle in (True, False)
    )

    assert (true.handle, false.handle) == ("true", "false")
    assert true == Edge(source="a", target="b", source_handle="true")


@pytest.mark.parametrize(
    "values",
    [{"timeout": "30"}, {"timeout": True}, {"priority": 1.0}, {"retry": {"maxAttempts": "3"}}, {"label": 5}],
)
def test_no_value_is_converted_into_the_type_that_is_expected(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Node.model_validate({"id": "work", "type": "action", "subType": "function", **values})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, "a\0", "\ud800", b"", {1: 2}, object()])
def test_no_workflow_holds_a_value_that_cannot_be_stored(value: Any) -> None:
    with pytest.raises(ValidationError):
        Workflow(id="unstorable", variables={"value": value})


def test_a_definition_cannot_be_changed() -> None:
    workflow = Workflow.from_stored(read_definition(ORDER_FULFILMENT))

    with pytest.raises(ValidationError):
        workflow.name = "other"  # type: ignore[misc]


def test_times_and_factors_stay_the_integers_they_were_given_as() -> None:
    retry = Retry.model_validate({"multiplier": 2, "schedule": [1000, 60000]})

    assert _json(retry.model_dump(mode="json", by_alias=True, exclude_unset=True)) == _json(
        {"multiplier": 2, "schedule": [1000, 60000]}
    )

"""Validation accepts every sound definition, and no input makes it fail."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import workflow_engine
from support.definitions import ORDER_FULFILMENT, REGISTRY, registry_with_functions, sound_definition
from workflow_engine.definition.problems import nearest
from workflow_engine.definition.text import read_definition
from workflow_engine.errors import DefinitionInvalid
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.loading import BUILT_IN
from workflow_engine.nodes.logic.merge import MergeConfig
from workflow_engine.nodes.registry import NodeRegistry, RegisteredFunction
from workflow_engine.nodes.results import success
from workflow_engine.validation import MAX_NODES, problems_of, validate, validate_text
from workflow_engine.validation.json_schema import schema_text, workflow_json_schema

ORDER: dict[str, Any] = read_definition(ORDER_FULFILMENT)


def with_node(node: dict[str, Any], *edges: dict[str, Any]) -> dict[str, Any]:
    """Return the sound definition with one node more, behind the trigger, and edges."""
    sound = sound_definition()
    sound["nodes"].append({"id": "extra", "type": "logic", "subType": "merge", **node})
    sound["edges"] += [{"source": "start", "target": "extra"}, *edges]
    return sound


def messages(content: Any, registry: NodeRegistry = REGISTRY) -> list[str]:
    return [str(problem) for problem in problems_of(content, registry)]


# -- what is accepted ----------------------------------------------------------------------------------


def test_a_sound_definition_becomes_the_workflow_it_describes() -> None:
    workflow = validate_text(ORDER_FULFILMENT, REGISTRY)

    assert workflow.id == "order-fulfilment"
    assert [node.id for node in workflow.nodes] == ["orderPlaced", "inStock", "charge", "backorder", "done"]
    assert workflow.edges[1].handle == "true"
    assert workflow.to_dict()["nodes"] == ORDER["nodes"]


def test_a_workflow_built_in_python_is_validated_like_any_other() -> None:
    workflow = validate(ORDER, REGISTRY)

    assert validate(workflow, REGISTRY) == workflow


@pytest.mark.parametrize(
    "node",
    [
        {"id": "in-stock"},
        {"onError": "continue"},
        {"onError": "fail"},
        {"retry": None, "timeout": None, "onCrash": None},
        {"retry": {}},
        {"retry": {"maxAttempts": 5, "waitDuration": 0, "exponentialBackoff": False}},
        {
            "retry": {
                "schedule": [0, 4_838_400_000],
                "jitter": True,
                "retryOn": [503, "5xx", "httpx.ReadTimeout"],
            }
        },
        {"onCrash": "retry"},
        {"onCrash": "fail", "onError": "continue"},
        {"output": {}},
        {"output": {"id": "{{ _response.id | default(none) }}", "fixed": [1]}},
        {"output": "{{ _response }}"},
        {"subType": "set", "config": {"variables": {"text": "{{ '_response' }}", "plain": "_response"}}},
        {"subType": "fail", "config": {"type": "A", "message": "b"}, "onError": "fail", "retry": None},
        {"subType": "fail", "config": {"type": "{{ a }}", "message": "{{ b }}", "details": "{{ c }}"}},
        {"retry": [{"on": ["TimeoutError", 503], "maxAttempts": 5}, {"on": ["5xx"]}, {"on": "all"}]},
        {"label": "Schön ✓", "queue": "payments.eu", "priority": 0},
        {"type": "action", "subType": "function", "config": {"expression": None}},
        {"type": "action", "subType": "shop.charge", "config": {"orderId": "{{ _trigger.orderId }}"}},
        {
            "type": "action",
            "subType": "python",
            "config": {"function": "shop.charge", "arguments": "{{ a }}"},
        },
        {"type": "action", "subType": "function", "config": {"expression": "{{ given_at_the_start }}"}},
        {"type": "action", "subType": "function", "config": {"expression": "{{ _nodeOutputs['in-stock'] }}"}},
    ],
)
def test_what_is_unusual_but_allowed_is_no_problem(node: dict[str, Any]) -> None:
    definition = with_node(node)
    definition["edges"][-1]["target"] = node.get("id", "extra")

    assert messages(definition) == []


def test_an_error_edge_may_leave_actions_and_logic() -> None:
    definition = with_node({"config": {}}, {"source": "work", "target": "extra", "sourceHandle": "error"})

    assert messages(definition) == []


def test_nodes_may_be_connected_by_each_of_several_ways_out() -> None:
    ask = {"subType": "condition", "config": {"expression": "{{ a }}"}}
    ways = (
        {"source": "extra", "target": "work", "sourceHandle": handle} for handle in (True, False, "error")
    )

    assert messages(with_node(ask, *ways)) == []


def test_templates_are_not_looked_for_where_they_have_no_meaning() -> None:
    definition = sound_definition() | {"name": "{{ name", "variables": {"text": "{% raw %} {{"}}
    definition["nodes"][0]["config"] = {"schema": {"pattern": "{{ not an expression"}}

    assert messages(definition) == []


def test_a_function_that_a_node_type_of_the_registry_stands_for_decides_its_ways_out() -> None:
    registry = registry_with_functions()
    registry.add(
        NodeType("logic", "coin", REGISTRY.get("logic/merge").executor, MergeConfig, lambda _: ("up", "down"))
    )
    definition = with_node({"subType": "coin"}, {"source": "extra", "target": "work", "sourceHandle": "up"})

    assert messages(definition, registry) == []


def test_a_function_may_not_name_a_way_out_error() -> None:
    registry = registry_with_functions()
    registry.add_function(RegisteredFunction("shop.try", success, ("ok", "error")))

    assert messages(with_node({"type": "action", "subType": "shop.try"}), registry) == [
        "nodes[extra].subType: one of its ways out is named 'error', where failures leave; "
        "rename that way out"
    ]


# -- what is refused, beyond the corpus ------------------------------------------------------------------


def test_keys_that_are_not_text_are_refused_with_their_path() -> None:
    definition: dict[Any, Any] = with_node({"config": {"join": {1: 2}}, 3: 4}) | {"variables": {5: 6}, 7: 8}

    assert [problem.path for problem in problems_of(definition, REGISTRY)] == [
        "variables['5']",
        "['7']",
        "nodes[extra].config.join['1']",
        "nodes[extra]['3']",
        "nodes[extra].config.join",
    ]


def test_values_that_only_python_has_are_refused_with_their_path() -> None:
    itself: list[Any] = []
    itself.append(itself)
    definition = sound_definition() | {
        "variables": {"nan": float("nan"), "set": {1}, "itself": itself, "fine": [1], "bytes": [b""]}
    }

    assert [problem.path for problem in problems_of(definition, REGISTRY)] == [
        "variables.nan",
        "variables.set",
        "variables.itself[0]",
        "variables.bytes[0]",
    ]


def test_the_error_names_the_workflow_and_lists_the_problems() -> None:
    with pytest.raises(DefinitionInvalid, match="workflow sound has 2 problems") as refusal:
        validate(sound_definition() | {"nmae": 1, "setings": {}}, REGISTRY)

    assert refusal.value.workflow_id == "sound"
    assert len(refusal.value.problems) == 2


def test_too_many_nodes_are_one_problem_and_are_not_checked() -> None:
    definition = sound_definition() | {"nodes": [None] * (MAX_NODES + 1)}

    assert messages(definition) == [
        "nodes: 10,001 nodes are more than the 10,000 allowed; split the workflow"
    ]


def test_a_chain_of_thousands_of_nodes_is_checked_without_recursion() -> None:
    count = 3000
    chain = [{"id": f"n{number}", "type": "logic", "subType": "merge"} for number in range(count)]
    definition = {
        "id": "chain",
        "nodes": [{"id": "start", "type": "trigger", "subType": "manual"}, *chain],
        "edges": [
            {"source": "start", "target": "n0"},
            *({"source": f"n{number}", "target": f"n{number + 1}"} for number in range(count - 1)),
        ],
    }
    assert messages(definition) == []

    definition["edges"].append({"source": f"n{count - 1}", "target": "n0"})  # type: ignore[attr-defined]
    assert messages(definition) == [
        f"edges[{count}]: closes the cycle n0 → n1 → n2 → n3 → n4 → n5 → n6 → n7 → n8 → … → "
        f"n{count - 1} → n0; remove one of its edges, an execution cannot go in circles"
    ]


def test_thousands_of_unknown_names_do_not_make_validation_slow() -> None:
    definition = sound_definition()
    definition["nodes"] += [
        {"id": f"n{number}", "type": "trigger", "subType": "manual"} for number in range(2000)
    ]
    definition["edges"] += [{"source": f"m{number}", "target": "work"} for number in range(2000)]

    assert len(problems_of(definition, REGISTRY)) == 2000


@pytest.mark.parametrize(
    ("word", "meant"),
    [("sub_type", "subType"), ("SUBTYPE", "subType"), ("subtpye", "subType"), ("x", None), ("", None)],
)
def test_the_nearest_name_is_found_across_spellings(word: str, meant: str | None) -> None:
    assert nearest(word, ["id", "type", "subType"]) == meant


# -- no input makes it raise -------------------------------------------------------------------------------

JUNK_SCALARS = st.sampled_from(
    [None, True, 0, -1, 10**30, 1.5, float("inf"), "", "x", "{{", "{{ a }}", "\0", "\ud800", b"", object()]
)
JUNK = (
    JUNK_SCALARS
    | st.sampled_from(["start", "error", "logic", "condition", "switch"])
    | st.builds(json.loads, st.sampled_from(["[]", "{}", "[[]]", "[{}]", '{"id": "start"}', '{"all": []}']))
    | st.builds(dict, st.just([(1, 2)]))
)


@given(st.data())
def test_a_definition_with_junk_anywhere_has_problems_or_is_valid(
    data: st.DataObject,
) -> None:
    definition = copy.deepcopy(ORDER)
    for _ in range(data.draw(st.integers(1, 3))):
        _put_junk(definition, data)

    problems = problems_of(definition, REGISTRY)

    assert all(problem.message and "\n" not in problem.path for problem in problems)
    if not problems:
        assert validate(definition, REGISTRY).to_dict()


def _put_junk(place: Any, data: st.DataObject) -> None:
    """Walk into the definition for a few steps, then replace, remove or add a part."""
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    action = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if action == "remove":
        del place[key]
    elif action == "add" and isinstance(place, dict):
        place[data.draw(st.sampled_from(["retry", "x", "error", "onError", "arguments"]))] = data.draw(JUNK)
    else:
        place[key] = data.draw(JUNK)


VALUES = st.recursive(
    JUNK, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JUNK_SCALARS, inner, max_size=3)
)


@given(VALUES)
def test_no_value_makes_validation_raise(value: Any) -> None:
    assert problems_of(value, REGISTRY)
    assert problems_of({"id": value, "nodes": [value], "edges": value, "settings": value}, REGISTRY)


# -- the published JSON Schema -------------------------------------------------------------------------------


def built_in_types() -> NodeRegistry:
    registry = NodeRegistry()
    for node_type in BUILT_IN:
        registry.add(node_type)
    return registry


SCHEMA = workflow_json_schema(built_in_types())
CHECKER = jsonschema.Draft202012Validator(SCHEMA)


def test_the_published_schema_is_the_one_that_is_made_now() -> None:
    published = (Path(workflow_engine.__file__).parent / "validation" / "workflow.schema.json").read_text()

    assert published == schema_text(built_in_types()), (
        "run workflow-engine schema > workflow_engine/validation/workflow.schema.json"
    )


def test_the_schema_is_valid_and_accepts_a_sound_definition() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    assert list(CHECKER.iter_errors(ORDER)) == []


def test_the_schema_accepts_functions_as_actions_and_does_not_depend_on_them() -> None:
    definition = with_node({"type": "action", "subType": "shop.charge", "config": {"orderId": 1}})

    assert list(CHECKER.iter_errors(definition)) == []
    assert workflow_json_schema(REGISTRY) == SCHEMA


@pytest.mark.parametrize(
    "broken",
    [
        {"id": "no nodes"},
        sound_definition() | {"setings": {}},
        sound_definition() | {"settings": {"hops": "sprint"}},
        sound_definition() | {"settings": {"concurrency": 65}},
        sound_definition() | {"variables": {"_x": 1}},
        sound_definition() | {"nodes": [{"id": "work", "type": "logic", "subType": "merge"}]},
        with_node({"id": "two words"}),
        with_node({"subType": "conditon"}),
        with_node({"lable": "x"}),
        with_node({"retry": {"maxAttempts": 0}}),
        with_node({"retry": {"schedule": []}}),
        with_node({"retry": []}),
        with_node({"output": 7}),
        with_node({"config": {"join": 1}}),
        with_node({"config": {"require": "any"}}),
        with_node({"subType": "fail", "config": {"type": "A"}}),
        with_node({"subType": "set", "config": {"variables": {}}}),
        with_node({"subType": "set", "config": {"variables": {"_x": 1}}}),
        with_node({"retry": [{"maxAttempts": 2}]}),
        with_node({"retry": [{"on": "every"}]}),
        with_node({"retry": {"waitDuration": 5_000_000_000}}),
        with_node({"config": {"join": "some"}}),
        with_node({"subType": "switch"}),
        with_node({"subType": "switch", "config": {"field": "{{ a }}", "cases": [{"value": 1}]}}),
        with_node({"type": "action", "subType": "python", "config": {"function": 1}}),
        with_node({}, {"source": "extra"}),
    ],
    ids=json.dumps,
)
def test_the_schema_refuses_what_an_editor_should_mark(broken: dict[str, Any]) -> None:
    assert list(CHECKER.iter_errors(broken))
    assert problems_of(broken, REGISTRY)


def test_every_property_in_the_schema_says_what_it_is_for() -> None:
    silent = [
        f"{name}.{key}"
        for name, part in {"Workflow": SCHEMA, **SCHEMA["$defs"]}.items()
        for key, described in part["properties"].items()
        if "description" not in described and "$ref" not in described
    ]

    assert silent == []

"""One node in this process: its config is evaluated, it runs, and its result becomes a storable outcome."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from workflow_engine.definition.workflow import Edge, Node, Workflow
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.execution.states import NodeStatus
from workflow_engine.nodes.loading import BUILT_IN
from workflow_engine.nodes.registry import NodeRegistry, RegisteredFunction
from workflow_engine.nodes.results import failure, success
from workflow_engine.runner.compiled import CompiledWorkflow
from workflow_engine.runner.node_run import Outcome, run_node

LIMIT = 1000

ANSWERS: dict[str, Any] = {
    "answer": {"id": 7, "body": {"lines": [1, 2, 3]}},
    "large": {"id": 7, "rest": "x" * 100_000},
    "opaque": {"id": object()},
    "refused": failure("DECLINED", "no funds"),
    "sets": success({"id": 7}, variables={"note": "kept"}),
}


def registry() -> NodeRegistry:
    known = NodeRegistry()
    for node_type in BUILT_IN:
        known.add(node_type)
    for name, answer in ANSWERS.items():
        known.add_function(RegisteredFunction(name, lambda answer=answer: answer))
    return known


def outcome_of(sub_type: str, *, type: str = "action", **options: Any) -> Outcome:
    """Run one node behind a trigger whose data is `{"tax": 2}`."""
    node = Node.model_validate({"id": "n", "type": type, "subType": sub_type, **options})
    trigger = Node(id="placed", type="trigger", sub_type="manual")
    workflow = Workflow(id="w", nodes=(trigger, node), edges=(Edge(source="placed", target="n"),))
    compiled = CompiledWorkflow.of(workflow, 1, registry())
    context = ExecutionContext(
        "e-1", "w", "t-1", "placed", "n", {"placed": {"tax": 2}}, variables={"currency": "EUR"}
    )
    return run_node(compiled.node("n"), compiled.graph, context, LIMIT)


def output_of(outcome: Outcome) -> Any:
    assert outcome.status is NodeStatus.COMPLETED, outcome.error
    return orjson.loads(outcome.output or b"")


# -- output ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "output", "expected"),
    [
        ("answer", {"id": "{{ _response.id }}", "fixed": True}, {"id": 7, "fixed": True}),
        ("answer", "{{ _response.body.lines | sum }}", 6),
        ("answer", "{{ _response }}", ANSWERS["answer"]),
        ("answer", {"sum": "{{ _response.id * placed.tax }} {{ currency }}"}, {"sum": "14 EUR"}),
        ("answer", {"none": "{{ _response.nothing.at.all | default(none) }}"}, {"none": None}),
        ("large", {"id": "{{ _response.id }}"}, {"id": 7}),
        ("sets", {}, {}),
    ],
    ids=str,
)
def test_output_takes_the_place_of_what_the_node_returns_before_its_size_is_limited(
    answer: str, output: Any, expected: Any
) -> None:
    assert output_of(outcome_of(answer, output=output)) == expected


def test_output_is_for_every_type_of_node_and_leaves_its_variables_and_way_out_alone() -> None:
    condition = outcome_of(
        "condition",
        type="logic",
        config={"expression": "{{ placed.tax > 1 }}"},
        output={"is": "{{ _response }}"},
    )
    sets = outcome_of("sets", output="{{ _response.id }}")

    assert (output_of(condition), condition.handles) == ({"is": True}, ("true",))
    assert (output_of(sets), sets.variables) == (7, {"note": "kept"})


@pytest.mark.parametrize(
    ("answer", "output", "error"),
    [
        (
            "answer",
            {"a": "{{ _response.nothing.at.all }}"},
            "output: `_response.nothing.at.all` is undefined: ",
        ),
        ("answer", "{{ 'x' * 2000 }}", "output: "),
        ("opaque", {}, "_response.id: "),
    ],
    ids=["undefined", "too large", "not JSON"],
)
def test_an_output_that_cannot_be_made_fails_the_node_and_is_not_retried(
    answer: str, output: Any, error: str
) -> None:
    outcome = outcome_of(answer, output=output, retry={"maxAttempts": 9})

    assert outcome.status is NodeStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.message.startswith(error)


def test_a_failure_has_no_output_of_the_authors() -> None:
    outcome = outcome_of("refused", output={"a": 1}, onError="continue")

    assert orjson.loads(outcome.output or b"")["error"]["type"] == "DECLINED"


# -- hostile expressions -----------------------------------------------------------------------------------

HOSTILE = {
    "a text repeated": "'a' * 1000000000",
    "a power tower": "9 ** (9 ** 8)",
    "lists repeated in lists": "[[[1] * 100000] * 100000] * 100000",
    "a way to Python": "placed.__class__.__mro__",
    "a way to Python through text": "''.format.__globals__",
    "nothing there": "missing.key",
}


def places(text: str) -> dict[str, dict[str, Any]]:
    """Return a node for each place in which a text may stand, by the name of the place."""
    fails = {"type": "logic", "sub_type": "fail"}
    return {
        "output": {"sub_type": "answer", "output": {"a": [text]}},
        "type": {**fails, "config": {"type": text, "message": "m"}},
        "message": {**fails, "config": {"type": "A", "message": text}},
        "details": {**fails, "config": {"type": "A", "message": "m", "details": {"a": text}}},
        "variable": {"type": "logic", "sub_type": "set", "config": {"variables": {"a": text}}},
    }


@pytest.mark.parametrize("expression", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("place", places(""))
def test_a_hostile_expression_fails_its_node_at_once_wherever_it_stands(place: str, expression: str) -> None:
    began = time.process_time()

    outcome = outcome_of(**places(f"{{{{ {expression} }}}}")[place])

    assert outcome.status is NodeStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.type == "ExpressionError"
    assert time.process_time() - began < 1


# -- its config --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [[1], ["{{ placed.tax }}", 1]], ids=["constant", "with expressions"])
def test_what_a_node_does_to_its_arguments_neither_the_journal_nor_the_next_run_sees(items: Any) -> None:
    def drain(items: list[int]) -> list[int]:
        drained = [*items]
        items.clear()
        return drained

    known = registry()
    known.add_function(RegisteredFunction("drain", drain))
    node = Node(id="n", type="action", sub_type="drain", config={"items": items})
    trigger = Node(id="placed", type="trigger", sub_type="manual")
    workflow = Workflow(id="w", nodes=(trigger, node), edges=(Edge(source="placed", target="n"),))
    compiled = CompiledWorkflow.of(workflow, 1, known)
    context = ExecutionContext("e-1", "w", "t-1", "placed", "n", {"placed": {"tax": 2}})

    runs = [run_node(compiled.node("n"), compiled.graph, context, LIMIT) for _ in range(2)]

    assert [output_of(run) for run in runs] == [[2, 1][-len(items) :]] * 2
    assert [orjson.loads(run.input_data or b"") for run in runs] == [{"items": [2, 1][-len(items) :]}] * 2


def test_a_constant_config_that_is_too_large_for_the_journal_is_recorded_by_its_size() -> None:
    outcome = outcome_of("function", config={"expression": "x" * 2 * LIMIT})

    assert orjson.loads(outcome.input_data or b"") == {"_omitted": "2017 bytes"}

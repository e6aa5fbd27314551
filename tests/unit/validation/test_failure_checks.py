"""`onFailure` names another workflow, and reads only what is there once an execution has failed."""

from __future__ import annotations

from typing import Any

import pytest

from workflow_engine import Workflow
from workflow_engine.nodes.loading import load_node_types
from workflow_engine.validation import problems_of, validate


def definition(on_failure: Any) -> dict[str, Any]:
    return {
        "id": "payment",
        "onFailure": on_failure,
        "variables": {"currency": "EUR"},
        "nodes": [
            {"id": "paid", "type": "trigger", "subType": "manual"},
            {"id": "sum", "type": "action", "subType": "function", "config": {"expression": "{{ 1 }}"}},
        ],
        "edges": [{"source": "paid", "target": "sum"}],
    }


@pytest.mark.parametrize(
    ("on_failure", "problem"),
    [
        ({"workflow": "payment"}, "onFailure.workflow: a workflow cannot handle its own failures"),
        ({}, "onFailure.workflow: is required"),
        ({"workflow": "alert", "dada": 1}, "onFailure.dada: "),
        ({"workflow": "alert", "data": {"x": "{{ sum }}"}}, "onFailure.data: 'sum' may not be there"),
        ({"workflow": "alert", "data": {"x": "{{ _secrets.key }}"}}, "onFailure.data: it is stored"),
        ({"workflow": "alert", "data": {"x": ["{{ 1 + }}"]}}, "onFailure.data.x[0]: "),
        ("alert", "onFailure: "),
    ],
)
def test_what_is_wrong_is_said_with_its_path(on_failure: Any, problem: str) -> None:
    problems = [str(each) for each in problems_of(definition(on_failure), load_node_types())]

    assert [each for each in problems if each.startswith(problem)], problems


def test_data_may_read_the_failure_the_trigger_and_variables() -> None:
    data = {"a": "{{ _failure.error.type }}", "b": "{{ _trigger.order }}", "c": "{{ currency }}", "d": 1}
    given = definition({"workflow": "alert", "data": data})

    workflow = validate(given, load_node_types())

    assert workflow.to_dict() == given
    assert Workflow.from_stored(given) == workflow


def test_a_node_that_reads_the_failure_of_its_execution_is_refused() -> None:
    given = definition({"workflow": "alert"})
    given["nodes"][1]["config"]["expression"] = "{{ _failure.error }}"

    (problem,) = problems_of(given, load_node_types())

    assert problem.path == "nodes[sum].config.expression"
    assert "only the `data` of `onFailure`" in problem.message


def test_a_trigger_stands_in_no_queue() -> None:
    given = definition({"workflow": "alert"})
    given["nodes"][0]["queueTimeout"] = 5

    (problem,) = problems_of(given, load_node_types())

    assert (
        str(problem) == "nodes[paid].queueTimeout: a trigger stands in no queue; put this on a node that does"
    )

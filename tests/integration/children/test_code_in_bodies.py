"""The nodes inside bodies count wherever the code, the queues and the time limits of nodes are looked at."""

from __future__ import annotations

from support.parents import body, function, line, loop, sub_workflow
from workflow_engine import WorkflowClient
from workflow_engine.definition.body import with_inner_nodes
from workflow_engine.definition.workflow import Workflow
from workflow_engine.engine.assembly import Engine
from workflow_engine.health.doctor.postgres import CODE_IN_USE


def definition() -> dict[str, object]:
    inner = function("inner", "{{ 1 }}", queue="deep", timeout=7)
    group = sub_workflow("group", {"timeout": 9_000}, body=body(inner))
    return line("outer", loop("each", {"queue": "loops"}, items=[1], body=body(group)))


def test_the_doctor_finds_the_queues_and_time_limits_of_nodes_in_bodies(
    client: WorkflowClient, engine: Engine
) -> None:
    client.deploy(definition())

    rows = engine.database.rows(CODE_IN_USE)

    assert [(row[2], row[4], row[5]) for row in rows] == [
        ("function", "deep", 7.0),
        ("loop", "loops", None),
        ("sub-workflow", None, None),
        ("manual", None, None),
    ]


def test_the_nodes_of_a_workflow_are_found_on_all_levels() -> None:
    workflow = Workflow.from_stored(definition())

    assert [node.id for node in with_inner_nodes(workflow.nodes)] == ["start", "each", "group", "inner"]

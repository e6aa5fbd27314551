"""Every node of a body reads what is around it: the first one, and those to which a worker walks inline."""

from __future__ import annotations

from typing import Any

import pytest

from support.broker import Workers
from support.parents import body, function, line, loop, sub_workflow
from workflow_engine import WorkflowClient

AROUND = "{{ [start.city, before, _trigger.city, currency] }}"
IN_A_LOOP = "{{ [start.city, before, _trigger.city, currency, _index, _previous | default([]) | length] }}"


@pytest.mark.parametrize("hops", ["spread", "inline"])
@pytest.mark.parametrize("kind", ["items", "until", "group", "loop in a loop"])
def test_what_stands_around_a_body_is_read_by_each_of_its_nodes(
    client: WorkflowClient, workers: Workers, hops: str, kind: str
) -> None:
    names = ("one", "two", "three")
    together = function("all", "{{ [one, two, three] }}")
    inner = body(
        *[function(name, AROUND if kind == "group" else IN_A_LOOP) for name in names],
        together,
        settings={"hops": hops},
    )
    nodes: dict[str, dict[str, Any]] = {
        "items": loop("around", items=[7, 8], body=inner),
        "until": loop("around", until="{{ _index == 2 }}", body=inner),
        "group": sub_workflow("around", body=inner),
        "loop in a loop": loop(
            "around",
            items=[7, 8],
            body=body(function("first", "1"), loop("inner", items=[1], body=inner), settings={"hops": hops}),
        ),
    }
    workflow = line("parent", function("before", "{{ 'b' }}"), nodes[kind], variables={"currency": "EUR"})
    client.deploy(workflow)
    execution = client.start("parent", {"city": "Kiel"}).id
    workers.drain()

    def read(*more: int) -> list[list[Any]]:
        return [["Kiel", "b", "Kiel", "EUR", *more]] * 3

    expected: dict[str, Any] = {
        "items": [read(0, 0), read(1, 0)],
        "until": {"endedBy": "until", "iterations": 2, "result": read(1, 3)},
        "group": read(),
        "loop in a loop": [[read(0, 0)], [read(0, 0)]],
    }
    assert client.get(execution).result == expected[kind]

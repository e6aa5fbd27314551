"""Any workflow leaves the same journal, whether the rows of its pure nodes are put off or not.

The mode decides only which worker runs a node, and in how many statements rows are committed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.shapes import MODES, SHAPES, TRIGGER, act, compute, logic, work
from simulation.simulated_fleet import SimulatedFleet
from workflow_engine.definition.workflow import Edge, Node, Workflow, WorkflowSettings
from workflow_engine.engine import inline

ONE_AT_A_TIME = [mode for mode in MODES if mode != "parallel"]


MAKE: dict[str, Callable[[str, str], Node]] = {
    "compute": lambda own, source: compute(own, f"{{{{ [{source} | default(0), rate] | length }}}}"),
    "path": lambda own, _: compute(own, "{{ _metadata.executionPath }}"),
    "check": lambda own, _: logic(own, "condition", expression="{{ rate % 2 == 0 }}"),
    "set": lambda own, _: logic(own, "set", variables={"rate": "{{ rate + 1 }}"}),
    "fail": lambda own, _: compute(own, "{{ no_such_name }}").model_copy(update={"on_error": "continue"}),
    "act": lambda own, _: act(own),
    "work": lambda own, _: work(own, ["rate", "_metadata.executionPath"]),
    "merge": lambda own, _: logic(own, "merge"),
}
"""Makes a node of each kind, given its own id and that of a node before it."""


numbers = itertools.count()
"""What is compiled is kept by the name of its shape."""


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """Return a workflow whose branches part and join; its settings are those of the default."""
    kinds = draw(st.lists(st.sampled_from(sorted(MAKE)), min_size=1, max_size=9))
    nodes = [Node(id=TRIGGER, type="trigger", sub_type="manual")]
    edges: list[Edge] = []
    for number, kind in enumerate(kinds):
        sources = draw(
            st.lists(st.sampled_from(nodes), min_size=1, max_size=2, unique_by=lambda node: node.id)
        )
        node = MAKE[kind](f"node{number}", sources[0].id)
        nodes.append(node)
        for source in sources:
            handle = draw(st.sampled_from(["true", "false"])) if source.sub_type == "condition" else None
            edges.append(Edge(source=source.id, target=node.id, source_handle=handle))
    return Workflow(id="simulated", variables={"rate": 1}, nodes=tuple(nodes), edges=tuple(edges))


def journal(workflow: Workflow, mode: str) -> list[Any]:
    """Return the rows that an undisturbed run leaves."""
    shaped = workflow.model_copy(update={"settings": WorkflowSettings.model_validate(MODES[mode])})
    name = f"journal {next(numbers)}"
    with patch.dict(SHAPES, {name: lambda _hops: shaped}):
        fleet = SimulatedFleet(name, mode)
        with fleet.clock.running():
            fleet.start()
            assert fleet.settle() is None
        fleet.end()
    rows = fleet.row.journal
    return [
        (row.entry, row.output if row.entry.status == "COMPLETED" else None, row.variables) for row in rows
    ]


@pytest.mark.parametrize("mode", ONE_AT_A_TIME)
@settings(max_examples=max(60, settings().max_examples // 2))
@given(workflows())
def test_a_workflow_leaves_the_journal_of_a_run_that_commits_each_row_alone(
    mode: str, workflow: Workflow
) -> None:
    with patch.object(inline, "_may_be_put_off", lambda _hop, _outcome: False):
        alone = journal(workflow, "spread")

    assert journal(workflow, mode) == alone

"""Workers of two releases of a team's code, under load, lose nothing and hold up nothing."""

from __future__ import annotations

import pytest

from support.fleet import Fleet
from workflow_engine import ExecutionStatus, WorkflowBuilder
from workflow_engine.definition.workflow import Edge, Node, Workflow

NEWER = "support.nodes.recorded,support.nodes.newer_release"
MOST_ROUNDS, LOAD, NODES, RENDERED = 6, 40, 10, 5
"""Rounds of executions of built-in nodes, without and with executions that only the newer release can run."""
KEPT_PACE = 0.9

THROUGHPUT = """
SELECT extract(epoch FROM max(completed_at) - min(created_at))::float
FROM executions WHERE id = ANY(%(load)s::uuid[])
"""


@pytest.fixture
def deployed(own_fleet: Fleet) -> Fleet:
    flow = WorkflowBuilder("plain")
    last = flow.trigger("start")
    for number in range(NODES):
        last = last >> flow.function(f"step{number}", number)
    own_fleet.client.deploy(flow.build())
    start = Node(id="start", type="trigger", sub_type="manual")
    render = Node(id="render", type="action", sub_type="python", config={"function": "shop.render"})
    edge = Edge(source="start", target="render")
    own_fleet.engine.deployments.deploy(Workflow(id="newer", nodes=(start, render), edges=(edge,)))
    return own_fleet


def seconds_for(fleet: Fleet, load: list[str]) -> float:
    """Return the seconds from the first start to the last end of these executions (database clock)."""
    for execution in load:
        fleet.completed(execution, 60)
    ((seconds,),) = fleet.engine.database.rows(THROUGHPUT, load=load)
    return float(seconds)


@pytest.mark.timeout(240)
def test_other_executions_keep_their_pace_and_every_node_runs_once_a_worker_has_its_code(
    deployed: Fleet,
) -> None:
    fleet = deployed
    old = fleet.add_worker("old")
    new = fleet.add_worker("new", WORKFLOW_ENGINE_IMPORTS=NEWER)
    old.ready()
    new.ready()
    seconds_for(fleet, [fleet.start("plain") for _ in range(LOAD)])  # the workers have to be warm

    newer: list[str] = []
    paces: list[float] = []
    for _ in range(MOST_ROUNDS):
        alone = seconds_for(fleet, [fleet.start("plain") for _ in range(LOAD)])
        newer += [fleet.start("newer") for _ in range(RENDERED)]
        beside = seconds_for(fleet, [fleet.start("plain") for _ in range(LOAD)])
        # Neighbours share the noise of the machine, and processes that are held up are slow in each round.
        paces.append(alone / beside)
        if paces[-1] >= KEPT_PACE:
            break

    # The old worker goes, one of the newer release takes its place, while executions run.
    load = [fleet.start("plain") for _ in range(LOAD)]
    newer += [fleet.start("newer") for _ in range(RENDERED)]
    assert old.terminate() == 0
    fleet.add_worker("replaced", WORKFLOW_ENGINE_IMPORTS=NEWER).ready()
    seconds_for(fleet, load)

    for execution in newer:
        assert fleet.completed(execution, 30).result == "rendered"
        assert len(fleet.runs(execution, "render")) == 1
    assert set(fleet.client.count()) == {ExecutionStatus.COMPLETED}
    assert not fleet.lines("Traceback")
    assert max(paces) >= KEPT_PACE, paces


@pytest.mark.timeout(120)
def test_a_fleet_that_lacks_the_code_of_many_executions_goes_on_with_all_others(deployed: Fleet) -> None:
    """Start forty executions of a type that no worker has, then one of ten built-in nodes."""
    fleet = deployed
    fleet.add_worker("old").ready()
    lacking = [fleet.start("newer") for _ in range(40)]

    assert seconds_for(fleet, [fleet.start("plain")]) < 20, "it took minutes while processes slept"

    assert {fleet.client.get(execution).status for execution in lacking} == {ExecutionStatus.WAITING}
    assert fleet.redis.llen(fleet.settings.queue) == 0, "no message goes round"

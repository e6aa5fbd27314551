"""In large workflows over a fleet every node is a Celery task of its own, and runs once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from support.fleet import Fleet
from support.polling import poll
from workflow_engine import Workflow, WorkflowBuilder


class Figure(Protocol):
    def __call__(self, what: str, milliseconds: int, nodes: int) -> None: ...


def test_a_thousand_nodes_one_after_another_complete_on_several_workers(fleet: Fleet, figure: Figure) -> None:
    fleet.client.deploy(chain("a-thousand-nodes", 1000))

    execution_id = fleet.start("a-thousand-nodes")
    execution = fleet.completed(execution_id, timeout=60)

    assert execution.result["count"] == 1000
    journal = fleet.journal(execution_id)
    assert [row.node_id for row in journal] == ["begin", *(f"step{n}" for n in range(1, 1001))]
    assert_every_node_was_a_task(fleet, execution_id, nodes=1000)
    processes = {int(row.worker.rpartition(":")[2]) for row in journal if row.worker}
    for worker in fleet.workers:
        assert processes & worker.pool_pids, f"no node ran in a process of {worker.name()}"
    figure("1,000 sequential nodes, outputs of 1 KB", execution.duration_ms, 1000)


def test_five_hundred_branches_join(fleet: Fleet, figure: Figure) -> None:
    flow = WorkflowBuilder("five-hundred-branches")
    begin, join = flow.trigger("begin"), flow.merge("join")
    for n in range(500):
        begin >> flow.function(f"branch{n}", f"{{{{ {n} }}}}") >> join
    join >> flow.function("all", "{{ _nodeOutputs['join'] }}")
    fleet.client.deploy(flow.build())

    execution_id = fleet.start("five-hundred-branches")
    execution = fleet.completed(execution_id, timeout=60)

    assert execution.result == {f"branch{n}": n for n in range(500)}
    assert_every_node_was_a_task(fleet, execution_id, nodes=502)
    figure("500 branches that join", execution.duration_ms, 502)


def test_two_hundred_nested_conditions_end_where_the_data_says(fleet: Fleet, figure: Figure) -> None:
    flow = WorkflowBuilder("nested-conditions")
    last: Any = flow.trigger("begin")
    out = flow.merge("out", strategy="first")
    for n in range(200):
        condition = flow.condition(f"deeper{n}", expression=f"{{{{ begin.depth > {n} }}}}")
        last >> condition
        condition["false"] >> out
        last = condition["true"]
    last >> out
    fleet.client.deploy(flow.build())

    deep, shallow = fleet.start("nested-conditions", {"depth": 200}), None
    execution = fleet.completed(deep, timeout=60)
    shallow = fleet.start("nested-conditions", {"depth": 50})

    assert execution.result is True
    assert_every_node_was_a_task(fleet, deep, nodes=201)
    assert fleet.completed(shallow).result is False
    assert_every_node_was_a_task(fleet, shallow, nodes=52)
    figure("200 nested conditions", execution.duration_ms, 201)


def test_one_producer_waits_for_many_executions_at_once(fleet: Fleet) -> None:
    fleet.client.deploy(chain("waited-for", 5))
    execution_ids = [fleet.start("waited-for") for _ in range(20)]

    with ThreadPoolExecutor(len(execution_ids)) as waiting:
        executions = list(waiting.map(fleet.completed, execution_ids))

    assert [execution.id for execution in executions] == execution_ids
    assert [execution.result["count"] for execution in executions] == [5] * 20


def chain(workflow_id: str, length: int) -> Workflow:
    flow = WorkflowBuilder(workflow_id)
    last = flow.trigger("begin")
    for n in range(1, length + 1):
        previous = f"{{{{ step{n - 1}.count }}}}" if n > 1 else 0
        last = last >> flow.python(f"step{n}", "test.grow", arguments={"previous": previous})
    return flow.build()


def assert_every_node_was_a_task(fleet: Fleet, execution_id: str, nodes: int) -> None:
    assert len(fleet.journal(execution_id)) == nodes + 1  # the trigger's row was written by `start`
    # The last task ends a moment after the execution it completes.
    poll(lambda: fleet.tasks(execution_id) >= nodes, "the last task has ended")
    assert fleet.tasks(execution_id) == nodes

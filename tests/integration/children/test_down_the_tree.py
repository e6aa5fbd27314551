"""What happens to a parent reaches its children: cancel, failure, timeout, rerun, retry, pause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.parents import body, delay, function, line, loop, sub_workflow
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ChildNotAwaited
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.postgres.executions.stalled import Front

Sql = Callable[..., Any]

SLOW = body(delay("cool", 600))


def statuses(client: WorkflowClient, execution: str) -> list[str]:
    return [child.status.value for child in client.children(execution, limit=1000)]


def waiting_parent(client: WorkflowClient, workers: Workers, children: int = 4) -> str:
    each = loop("each", items=list(range(children)), body=SLOW, concurrency=children)
    client.deploy(line("parent", each, settings={"timeout": 1000}))
    execution = client.start("parent").id
    workers.drain()
    return execution


def test_a_cancel_cancels_all_levels(client: WorkflowClient, workers: Workers, sql: Sql) -> None:
    inner = loop("inner", items=[1, 2], body=SLOW, concurrency=2)
    client.deploy(line("parent", loop("outer", items=[1, 2], body=body(inner), concurrency=2)))
    execution = client.start("parent").id
    workers.drain()

    client.control.cancel(execution, actor="ann")

    assert sql("SELECT status, count(*) FROM executions GROUP BY status") == [("CANCELLED", 7)]
    (child, _) = client.children(execution)
    (line_of_history,) = client.control.audit(child.id)
    assert (line_of_history.type, line_of_history.actor) == ("CANCELLED", "ann")
    assert execution in (line_of_history.reason or "")


def test_what_a_dead_canceller_began_is_finished_by_a_timekeeper(
    client: WorkflowClient,
    workers: Workers,
    timekeeping: Timekeeping,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execution = waiting_parent(client, workers)
    with monkeypatch.context() as patch:
        patch.setattr(client.control.descendants, "see_to", lambda executions: None)
        client.control.cancel(execution)
    assert statuses(client, execution) == ["WAITING"] * 4

    timekeeping.round()

    assert statuses(client, execution) == ["CANCELLED"] * 4


@pytest.mark.parametrize("end", ["failure beside it", "timeout", "merge with join any", "rerun"])
def test_no_child_runs_on_once_its_node_is_over(
    client: WorkflowClient,
    workers: Workers,
    timekeeping: Timekeeping,
    settle: Callable[..., None],
    sql: Sql,
    end: str,
) -> None:
    each = loop("each", items=[1, 2], body=SLOW, concurrency=2)
    beside = function("beside", "{{ 1 / 0 }}" if end == "failure beside it" else "{{ 1 }}")
    first = {"id": "first", "type": "logic", "subType": "merge", "config": {"join": "any"}}
    definition = line("parent", delay("begin", 1), each)
    definition["nodes"] += [delay("later", 5), beside, first]
    definition["edges"] += [
        {"source": "start", "target": "later"},
        {"source": "later", "target": "beside"},
        {"source": "beside", "target": "first"},
        {"source": "each", "target": "first"},
    ]
    if end == "timeout":
        definition["settings"] = {"timeout": 30}
        definition["edges"] = [edge for edge in definition["edges"] if edge["source"] != "each"]
    client.deploy(definition)
    execution = client.start("parent").id
    settle(rounds=1, seconds=2)
    workers.drain()
    assert statuses(client, execution) == ["WAITING"] * 2

    if end == "rerun":
        client.control.rerun(execution, "each")
    elif end == "timeout":
        sql("UPDATE executions SET expires_at = now() WHERE id = %s", execution)
        timekeeping.round()
        timekeeping.round()
    else:
        settle(rounds=1, seconds=10)
        workers.drain()
        timekeeping.round()

    assert statuses(client, execution)[:2] == ["CANCELLED"] * 2


def test_a_child_may_outlive_its_parent(client: WorkflowClient, workers: Workers, settle: Any) -> None:
    client.deploy(line("slow", delay("cool", 60), function("done", "{{ 'done' }}")))
    client.deploy(line("parent", sub_workflow("call", workflow="slow", onParentEnd="leave")))
    execution = client.start("parent").id
    workers.drain()

    client.control.cancel(execution)
    (child,) = client.children(execution)
    assert child.status is ExecutionStatus.WAITING
    settle()

    assert client.get(child.id).result == "done"


@pytest.fixture
def repairable(client: WorkflowClient) -> Callable[[str], None]:
    """Return a function that makes the workflow `check` fail for the numbers above a limit, or for none."""

    def deploy(limit: str) -> None:
        client.deploy(line("check", function("verdict", f"{{{{ 1 / (_trigger < {limit}) | int }}}}")))

    deploy("3")
    return deploy


def test_a_retry_runs_the_failed_children_again_and_keeps_the_others(
    client: WorkflowClient, workers: Workers, sql: Sql
) -> None:
    inner = body(function("inverse", "{{ 1 / (item - _trigger.bad) }}"), function("after", "{{ item }}"))
    client.deploy(line("parent", loop("each", items=[1, 2, 3, 4], body=inner, concurrency=4)))
    execution = client.start("parent", {"bad": 2}).id
    workers.drain()
    assert statuses(client, execution) == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
    # The data around it is what has to be mended here; in life it is a server.
    sql(
        "UPDATE node_executions SET output_data = jsonb_set(output_data, '{trigger,bad}', '9') "
        "WHERE node_id = '_body'"
    )
    before = [(child.id, child.seq) for child in client.children(execution)]

    client.control.retry(execution)
    workers.drain()

    assert client.get(execution).result == [1, 2, 3, 4]
    after = client.children(execution)
    assert [child.id for child in after] == [child_id for child_id, _ in before]
    assert [child.seq == seq for child, (_, seq) in zip(after, before, strict=True)] == [
        True,
        False,
        True,
        True,
    ]


def test_a_retry_goes_down_all_levels(client: WorkflowClient, workers: Workers, sql: Sql) -> None:
    inner = sub_workflow("deep", body=body(function("inverse", "{{ 1 / _trigger.n }}")))
    client.deploy(line("parent", sub_workflow("group", body=body(inner)), function("after", "{{ group }}")))
    execution = client.start("parent", {"n": 0}).id
    workers.drain()
    assert sql("SELECT status FROM executions") == [("FAILED",)] * 3
    sql(
        "UPDATE node_executions SET output_data = jsonb_set(output_data, '{trigger,n}', '2') "
        "WHERE node_id = '_body'"
    )

    client.control.retry(execution)
    workers.drain()

    assert client.get(execution).result == 0.5
    assert sql("SELECT count(*) FROM executions") == [(3,)]


def test_a_rerun_has_children_of_its_own(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None]
) -> None:
    execution = waiting_parent(client, workers)
    client.control.cancel(execution)
    client.control.rerun(execution, "each")
    workers.drain()
    assert statuses(client, execution) == ["CANCELLED"] * 4 + ["WAITING"] * 4

    settle(seconds=700)

    assert client.get(execution).result == [None] * 4


def test_a_retry_of_a_timed_out_parent_restarts_its_children_where_they_were(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], sql: Sql, timekeeping: Timekeeping
) -> None:
    execution = waiting_parent(client, workers)
    sql("UPDATE executions SET expires_at = now() WHERE id = %s", execution)
    timekeeping.round()
    timekeeping.round()
    assert statuses(client, execution) == ["CANCELLED"] * 4

    client.control.retry(execution)
    assert statuses(client, execution) == ["WAITING"] * 4
    settle(seconds=700)

    assert client.get(execution).result == [None] * 4
    assert len(client.children(execution)) == 4


def test_children_of_a_retried_parent_respect_its_concurrency(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], sql: Sql
) -> None:
    client.deploy(line("parent", loop("each", items=list(range(5)), body=SLOW, concurrency=2)))
    execution = client.start("parent").id
    workers.drain()
    client.control.cancel(execution)
    sql("UPDATE executions SET status = 'FAILED', error = 'as if it had timed out' WHERE id = %s", execution)

    client.control.retry(execution)
    assert statuses(client, execution) == ["WAITING"] * 2
    settle(seconds=700)

    assert client.get(execution).result == [None] * 5


def test_a_retry_fills_all_places_at_once_with_failed_children_and_those_still_to_come(
    client: WorkflowClient, workers: Workers
) -> None:
    broken = function("inverse", "{{ 1 / (item - blocked) }}")
    each = loop("each", items=list(range(1, 7)), body=body(broken), concurrency=3)
    client.deploy(line("parent", each, variables={"blocked": 1}))
    execution = client.start("parent").id
    workers.drain()
    assert statuses(client, execution) == ["FAILED", "COMPLETED", "COMPLETED"]

    client.control.retry(execution)

    assert len(workers.broker.queue) == 3
    assert statuses(client, execution) == ["RUNNING", "COMPLETED", "COMPLETED", "PENDING", "PENDING"]


@pytest.mark.parametrize("operation", ["retry", "rerun"])
def test_a_child_whose_parent_has_failed_is_refused_and_told_its_root(
    client: WorkflowClient, workers: Workers, operation: str
) -> None:
    inner = sub_workflow("deep", body=body(function("inverse", "{{ 1 / 0 }}")))
    client.deploy(line("parent", sub_workflow("group", body=body(inner))))
    root = client.start("parent").id
    workers.drain()
    (child,) = client.children(root)
    (grandchild,) = client.children(child.id)
    arguments = ("inverse",) if operation == "rerun" else ()

    with pytest.raises(ChildNotAwaited, match=f"{operation} its root, execution {root}"):
        getattr(client.control, operation)(grandchild.id, *arguments)


def test_a_failed_child_may_be_retried_while_its_parent_waits(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None], sql: Sql
) -> None:
    inner = body(delay("cool", "{{ 600 * item }}"), function("inverse", "{{ 1 / (item - _trigger.n) }}"))  # type: ignore[arg-type]
    client.deploy(line("parent", loop("each", items=[0, 1], body=inner, concurrency=2)))
    execution = client.start("parent", {"n": 0}).id
    workers.drain()
    assert statuses(client, execution) == ["FAILED", "WAITING"]
    sql(
        "UPDATE node_executions SET output_data = jsonb_set(output_data, '{trigger,n}', '-1') "
        "WHERE node_id = '_body'"
    )

    client.control.retry(client.children(execution)[0].id)
    settle(seconds=700)

    assert client.get(execution).result == [1, 1]


def test_a_paused_parent_starts_no_further_child(
    client: WorkflowClient, workers: Workers, broker: Broker, settle: Callable[..., None]
) -> None:
    client.deploy(line("parent", loop("each", items=[1, 2, 3], body=body(function("one", "{{ item }}")))))
    execution = client.start("parent").id
    workers.hop()

    client.control.pause(execution)
    settle()
    assert statuses(client, execution) == ["COMPLETED"]
    client.control.resume(execution)
    settle()

    assert client.get(execution).result == [1, 2, 3]


def test_a_parent_whose_children_ended_while_it_was_paused_goes_on(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None]
) -> None:
    execution = waiting_parent(client, workers)
    client.control.pause(execution)
    settle(seconds=700)
    assert statuses(client, execution) == ["COMPLETED"] * 4
    assert client.get(execution).status is ExecutionStatus.PAUSED

    client.control.resume(execution)
    settle()

    assert client.get(execution).result == [None] * 4


def test_a_pause_may_reach_the_children_too(
    client: WorkflowClient, workers: Workers, settle: Callable[..., None]
) -> None:
    execution = waiting_parent(client, workers)

    client.control.pause(execution, children=True)
    assert statuses(client, execution) == ["PAUSED"] * 4
    settle(seconds=700)
    assert statuses(client, execution) == ["PAUSED"] * 4
    client.control.resume(execution, children=True)
    settle(seconds=700)

    assert client.get(execution).result == [None] * 4


def test_messages_that_are_lost_are_sent_again(
    client: WorkflowClient,
    workers: Workers,
    timekeeping: Timekeeping,
    time_passes: Callable[[float], None],
    engine: Engine,
) -> None:
    client.deploy(line("parent", loop("each", items=[1, 2], body=body(function("one", "{{ item }}")))))
    execution = client.start("parent").id

    for _ in range(20):
        if workers.broker.queue:
            workers.hop()
        workers.broker.queue.clear()
        for page in engine.stalled.pages(0, 0, lambda *_: Front(None)):
            for stalled in page:
                engine.executor.resume_execution(stalled.id)
        time_passes(60)
        timekeeping.round()

    assert client.get(execution).result == [1, 2]

"""Each reason why an execution does not move has its code, and the command that it names helps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.parents import delay, function, sub_workflow
from support.parents import line as parent_line
from support.redis_keys import let_redis_remember
from support.reported_workers import ReportedWorkers
from support.rescues import rescue
from support.workflows import calling, line
from workflow_engine import (
    ExecutionContext,
    ExecutionNotFound,
    ExecutionStatus,
    Settings,
    WorkflowBuilder,
    WorkflowClient,
    node,
)
from workflow_engine.control.explain import Code
from workflow_engine.definition.workflow import Edge, Node, Workflow
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.ids import new_execution_id

Type = Callable[[str | None], None]
Sql = Callable[..., Any]
NOWHERE = "redis://127.0.0.1:1/0"


def one() -> int:
    return 1


def two() -> int:
    return 2


def is_completed(client: WorkflowClient, execution: str) -> bool:
    return client.get(execution).status is ExecutionStatus.COMPLETED


def start(client: WorkflowClient, flow: WorkflowBuilder, data: Any = None) -> str:
    client.deploy(flow.build())
    return client.start(flow.id, data or {}).id


@pytest.fixture
def grow_old(sql: Sql) -> Callable[[float], None]:
    """Return a function that lets seconds pass in which no execution moves."""

    def by(seconds: float) -> None:
        sql("UPDATE executions SET updated_at = updated_at - %s * interval '1 second'", seconds)

    return by


def test_a_running_node_is_shown_with_its_place_and_its_progress(
    client: WorkflowClient, engine: Engine, fleet: ReportedWorkers, type_command: Type
) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def slow(context: ExecutionContext) -> str:
        context.report_progress(0.4, "page 4 of 10")
        has_begun.set()
        assert may_end.wait(20)
        return "done"

    client.deploy(line(slow))
    execution = client.start("line").id
    worker = threading.Thread(target=fleet.serve)
    worker.start()
    assert has_begun.wait(20)
    engine.running_nodes.look()

    try:
        explained = client.explain(execution)
        overview = client.explain_all()
    finally:
        may_end.set()
        worker.join(20)

    assert explained.code is Code.RUNNING
    assert explained.node_id == "slow"
    assert "(40%, page 4 of 10)" in explained.sentence
    assert explained.evidence["progress"]["fraction"] == 0.4
    assert [group.code for group in overview.groups] == [Code.RUNNING]
    type_command(explained.command)
    assert is_completed(client, execution)


def test_a_queued_message_is_shown_with_those_ahead_of_it(
    client: WorkflowClient, fleet: ReportedWorkers
) -> None:
    client.deploy(line(one))
    first, second, third = [client.start("line").id for _ in range(3)]
    urgent = client.start("line", priority=0).id
    fleet.live(running=2)

    explained = [client.explain(each) for each in (urgent, first, second, third)]

    assert {each.code for each in explained} == {Code.QUEUED}
    assert [each.evidence["messagesAhead"] for each in explained] == [0, 1, 2, 3]
    assert "is served next" in explained[0].sentence
    assert "behind 1 message." in explained[1].sentence
    assert "behind 3 messages." in explained[3].sentence
    assert (explained[0].evidence["running"], explained[0].evidence["concurrency"]) == (2, 2)
    assert explained[0].command == "celery -A workflow_engine.worker worker -Q workflow"
    fleet.serve()
    assert client.explain_all().groups == []


def test_a_queue_without_workers_is_named_until_a_worker_consumes_it(
    client: WorkflowClient, fleet: ReportedWorkers
) -> None:
    client.deploy(line(one, queue="reports"))
    execution = client.start("line").id
    alone = client.explain(execution)
    fleet.live("w1@shop", ("workflow",))

    explained = client.explain(execution)
    (group,) = client.explain_all().groups
    fleet.live("w2@shop", ("reports",))
    helped = client.explain(execution)

    assert (alone.code, alone.subject) == (Code.NO_WORKER, "reports")
    assert "no worker lives" in alone.sentence
    assert explained.code is Code.NO_WORKER
    assert explained.sentence == (
        "Node one waits in queue 'reports', which no worker consumes; the workers that live are w1@shop."
    )
    assert explained.command == "celery -A workflow_engine.worker worker -Q reports"
    assert (group.code, group.count, dict(group.subjects)) == (Code.NO_WORKER, 1, {"reports": 1})
    assert helped.code is Code.QUEUED


def test_a_queue_that_workers_were_told_to_stop_consuming_is_paused(
    client: WorkflowClient, fleet: ReportedWorkers
) -> None:
    client.deploy(line(one, queue="reports"))
    execution = client.start("line").id
    fleet.live("w1@shop", ("workflow",), cancelled=("reports",))

    explained = client.explain(execution)
    fleet.live("w1@shop", ("workflow", "reports"))

    assert explained.code is Code.QUEUE_PAUSED
    assert explained.evidence["stoppedOn"] == ["w1@shop"]
    assert explained.command == ("celery -A workflow_engine.worker control -d w1@shop add_consumer reports")
    assert client.explain(execution).code is Code.QUEUED


def test_a_wait_for_a_time_says_until_when_and_ends_by_itself_or_by_hand(
    client: WorkflowClient,
    engine: Engine,
    fleet: ReportedWorkers,
    type_command: Type,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> None:
    flow = WorkflowBuilder("later")
    flow.trigger("start") >> flow.delay("cool", duration=1, unit="hours")
    ended_by_hand = start(client, flow)
    execution = client.start("later").id
    fleet.serve()
    type_command(client.explain(ended_by_hand).command)
    fleet.serve()

    explained = client.explain(execution)
    time_passes(3700)
    late = client.explain(execution)
    fleet.live()
    noticed = client.explain(execution)
    wake_due()
    woken = client.explain(execution)
    fleet.serve()

    assert is_completed(client, ended_by_hand)
    assert (explained.code, explained.node_id) == (Code.WAITING_TIME, "cool")
    assert "in 1 h" in explained.sentence or "in 59 min" in explained.sentence
    assert (late.code, noticed.code, woken.code) == (Code.NO_WORKER, Code.WAITING_TIME, Code.QUEUED)
    assert is_completed(client, execution)


def test_a_wait_for_events_names_them_and_a_similar_one_that_is_kept(
    client: WorkflowClient, fleet: ReportedWorkers, type_command: Type
) -> None:
    flow = WorkflowBuilder("orders")
    hear = flow.wait_events("hear", ["paid", "shipped"], correlation_id="order-{{ placed.id }}")
    flow.trigger("placed") >> hear
    execution = start(client, flow, {"id": 7})
    fleet.serve()
    client.send_event("order-7", "shipped")
    client.send_event("Order-7", "paid")
    client.send_event("order-8", "shipped")

    explained = client.explain(execution)
    type_command(explained.command)
    fleet.serve()

    assert explained.code is Code.WAITING_EVENTS
    assert explained.sentence.startswith(
        "Node hear waits for the event paid with the correlation id 'order-7'"
    )
    assert "the event 'paid' for 'Order-7'" in explained.sentence
    assert explained.evidence["events"] == ["paid"]
    assert explained.evidence["received"] == ["shipped"]
    assert explained.evidence["similarEvent"]["correlationId"] == "Order-7"
    assert is_completed(client, execution)


def test_a_wait_for_children_leads_to_the_child_that_is_open(
    client: WorkflowClient, fleet: ReportedWorkers, type_command: Type
) -> None:
    client.deploy(parent_line("child", function("first", "1"), delay("cool", 600)))
    client.deploy(parent_line("parent", sub_workflow("call", workflow="child")))
    execution = client.start("parent").id
    fleet.serve()
    child = client.children(execution)[0].id

    explained = client.explain(execution)

    assert (explained.code, explained.node_id) == (Code.WAITING_CHILDREN, "call")
    assert "0 of 1 have ended" in explained.sentence
    assert explained.evidence["child"] == child
    assert explained.command == f"workflow-engine explain {child}"
    type_command(explained.command)
    assert client.explain(child).code is Code.WAITING_TIME


def test_a_retry_shows_its_time_and_the_last_error_and_can_be_run_now(
    client: WorkflowClient, fleet: ReportedWorkers, type_command: Type
) -> None:
    errors = [ConnectionError("the bank is closed")]

    def charge() -> str:
        if errors:
            raise errors.pop()
        return "paid"

    client.deploy(line(charge, retry={"maxAttempts": 5, "waitDuration": 3_600_000}))
    execution = client.start("line").id
    fleet.serve()

    explained = client.explain(execution)
    (group,) = client.explain_all().groups
    type_command(explained.command)
    fleet.serve()

    assert (explained.code, explained.node_id) == (Code.RETRYING, "charge")
    assert "Attempt 1 of node charge failed" in explained.sentence
    assert "ConnectionError: the bank is closed" in explained.sentence
    assert explained.evidence["errorType"] == "ConnectionError"
    assert dict(group.subjects) == {"ConnectionError": 1}
    assert is_completed(client, execution)


def test_a_pause_shows_who_made_it_when_and_why(
    client: WorkflowClient, fleet: ReportedWorkers, type_command: Type
) -> None:
    client.deploy(line(one))
    execution = client.start("line").id
    client.control.pause(execution, actor="ada", reason="the shop moves")

    explained = client.explain(execution)
    type_command(explained.command)
    fleet.serve()

    assert explained.code is Code.PAUSED
    assert "by ada: the shop moves." in explained.sentence
    assert (explained.evidence["by"], explained.evidence["reason"]) == ("ada", "the shop moves")
    assert is_completed(client, execution)


def test_a_breakpoint_shows_the_node_that_it_stands_before(
    client: WorkflowClient, fleet: ReportedWorkers, type_command: Type
) -> None:
    client.deploy(line(one, two))
    execution = client.start("line").id
    client.control.pause_before(execution, "two", actor="ada")
    fleet.serve()

    explained = client.explain(execution)
    type_command(explained.command)
    fleet.serve()

    assert explained.code is Code.PAUSED
    assert "breakpoint before two" in explained.sentence
    assert is_completed(client, execution)


@pytest.fixture
def _registry_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    from workflow_engine.nodes.registry import registry

    monkeypatch.setattr(registry, "_types", dict(registry._types))
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))


@pytest.mark.usefixtures("_registry_is_restored")
def test_code_that_workers_lack_is_named_with_the_workers(
    client: WorkflowClient,
    engine: Engine,
    fleet: ReportedWorkers,
    sql: Sql,
    wake_due: Callable[[], list[str]],
) -> None:
    missing = Node(id="render", type="action", sub_type="python", config={"function": "shop.new"})
    trigger = Node(id="start", type="trigger", sub_type="manual")
    edge = Edge(source="start", target="render")
    engine.deployments.deploy(Workflow(id="newer", nodes=(trigger, missing), edges=(edge,)))
    execution = client.start("newer").id
    fleet.serve()
    fleet.live("old@shop")

    explained = client.explain(execution)
    node("shop.new")(one)
    fleet.live("new@shop")
    with_both = client.explain(execution)
    sql("UPDATE execution_wait_states SET claimed_until = now()")
    wake_due()
    fleet.serve()

    assert (explained.code, explained.subject) == (Code.UNKNOWN_TYPE, "shop.new")
    assert "needs 'shop.new', which old@shop does not have" in explained.sentence
    assert (with_both.evidence["without"], with_both.evidence["having"]) == (["old@shop"], ["new@shop"])
    assert explained.command == "celery -A workflow_engine.worker worker -Q workflow"
    assert is_completed(client, execution)


def test_messages_are_given_back_while_a_server_is_away(
    client: WorkflowClient, engine: Engine, fleet: ReportedWorkers, settings: Settings
) -> None:
    client.deploy(line(one))
    execution = client.start("line").id
    fleet.live(outages={"Postgres": 42.0})
    cut_off = WorkflowClient(settings.model_copy(update={"redis_url": NOWHERE}))
    without_broker = WorkflowClient(settings.model_copy(update={"broker_url": NOWHERE}))

    met_by_workers = client.explain(execution)
    fleet.live()
    without_redis = cut_off.explain(execution)
    without_messages = without_broker.explain(execution)

    assert met_by_workers.code is Code.GIVEN_BACK
    assert "Postgres is away for 42" in met_by_workers.sentence
    assert without_redis.code is Code.GIVEN_BACK
    assert "Redis" in without_redis.unasked[0]
    assert without_messages.code is Code.GIVEN_BACK
    assert "The broker is away" in without_messages.sentence
    assert without_redis.command == "workflow-engine doctor"
    assert client.explain(execution).code is Code.QUEUED


def test_without_postgres_nothing_moves_and_the_explanation_says_so(
    client: WorkflowClient, settings: Settings
) -> None:
    client.deploy(line(one))
    execution = client.start("line").id
    away = "postgresql://postgres@127.0.0.1:1/workflow_engine"
    cut_off = WorkflowClient(Settings(database_url=away, redis_url=settings.redis_url, database_timeout=1))

    explained = cut_off.explain(execution)

    assert explained.code is Code.GIVEN_BACK
    assert explained.status is None
    assert explained.unasked[0].startswith("Postgres: ")


def test_the_lock_of_a_dead_process_is_told_from_that_of_a_living_one(
    settings: Settings,
    client: WorkflowClient,
    fleet: ReportedWorkers,
    engine: Engine,
    redis_client: redis.Redis,
) -> None:
    client.deploy(line(one))
    execution = client.start("line").id
    message = fleet.take()
    assert message is not None
    claim = engine.locks.new_claim(execution, "task-1", "one")
    redis_client.set(f"lock:execution:{execution}", claim.value, px=30_000)
    alive = client.explain(execution)
    redis_client.pexpire(f"lock:execution:{execution}", 17_000)

    dead = client.explain(execution)
    redis_client.delete(f"lock:execution:{execution}")  # it expires
    fleet.live()

    assert alive.code is Code.RUNNING
    assert dead.code is Code.HELD_BY_DEAD
    assert "no longer renews its lock" in dead.sentence
    assert 0 < dead.evidence["expiresIn"] <= 17
    assert dead.evidence["process"]
    assert client.explain(execution).code in (Code.QUEUED, Code.STALLED)


def test_a_lost_message_is_brought_back_at_a_time_or_at_once_by_the_command(
    client: WorkflowClient,
    engine: Engine,
    fleet: ReportedWorkers,
    grow_old: Callable[[float], None],
    type_command: Type,
) -> None:
    client.deploy(line(one))
    lost, left = client.start("line").id, client.start("line").id
    fleet.live()
    fleet.lose_messages()
    on_its_way = client.explain(lost)
    grow_old(10)

    stalled = client.explain(lost)
    type_command(stalled.command)
    fleet.serve()
    grow_old(30)
    overdue = client.explain(left)
    let_redis_remember(engine.settings)
    rescue(engine)
    fleet.serve()

    assert on_its_way.code is Code.QUEUED
    assert stalled.code is Code.STALLED
    assert "Workers bring it back with their next look" in stalled.sentence
    assert is_completed(client, lost)
    assert "with their next look" in overdue.sentence
    assert is_completed(client, left)


def test_a_merge_that_waits_for_different_reasons_names_the_missing_nodes(
    client: WorkflowClient, fleet: ReportedWorkers, type_command: Type
) -> None:
    flow = WorkflowBuilder("orders")
    hear = flow.wait_events("hear", ["paid"], correlation_id="order-7")
    cool = flow.delay("cool", duration=1, unit="hours")
    flow.trigger("start") >> [calling(flow, one), hear, cool] >> flow.merge("ship")
    execution = start(client, flow)
    fleet.serve()

    explained = client.explain(execution)
    type_command(explained.command)
    fleet.serve()
    helped = client.explain(execution)

    assert (explained.code, explained.node_id) == (Code.JOIN, "ship")
    assert explained.evidence["arrived"] == ["one"]
    assert explained.evidence["missing"] == ["hear", "cool"]
    assert [each["code"] for each in explained.evidence["open"]] == ["WAITING_EVENTS", "WAITING_TIME"]
    assert (helped.code, helped.node_id) == (Code.WAITING_TIME, "cool")


def test_an_execution_that_has_ended_shows_how_and_what_may_follow(
    client: WorkflowClient, fleet: ReportedWorkers, type_command: Type
) -> None:
    is_broken = [True]

    def fragile() -> str:
        if is_broken:
            raise ValueError("no funds")
        return "paid"

    client.deploy(line(fragile))
    failed, cancelled = client.start("line").id, client.start("line").id
    client.control.cancel(cancelled)
    fleet.serve()

    explained = client.explain(failed)
    is_broken.clear()
    type_command(explained.command)
    fleet.serve()

    assert explained.code is Code.FINISHED
    assert explained.sentence.startswith("It has failed at node fragile")
    assert "no funds" in explained.sentence
    assert client.explain(failed).sentence.startswith("It has completed")
    assert client.explain(cancelled).subject == "CANCELLED"
    type_command(client.explain(cancelled).command)


def test_what_does_not_exist_is_not_explained(client: WorkflowClient) -> None:
    with pytest.raises(ExecutionNotFound):
        client.explain(new_execution_id())


def test_what_a_limit_holds_back_is_shown_with_its_place_and_those_who_hold_the_slots(
    client: WorkflowClient, fleet: ReportedWorkers, type_command: Type
) -> None:
    flow = WorkflowBuilder("limited", limits=[{"key": "tenant:{{ begin.tenant }}", "concurrency": 1}])
    flow.trigger("begin") >> flow.function("work", 1)
    client.deploy(flow.build())
    first, second, third = [client.start("limited", {"tenant": "a"}).id for _ in range(3)]
    fleet.live()

    explained = client.explain(third)
    groups = {group.code: group for group in client.explain_all().groups}
    assert explained.code is Code.LIMITED
    assert "limit 'tenant:a' as number 2 in line: 1 of 1 are held, by " + first in explained.sentence
    assert (explained.evidence["position"], explained.evidence["holders"]) == (2, [first])
    assert groups[Code.LIMITED].count == 2
    assert dict(groups[Code.LIMITED].subjects) == {"tenant:a": 2}

    type_command(explained.command)
    assert client.explain(second).code is Code.QUEUED


def test_a_node_that_waits_for_a_slot_is_explained(client: WorkflowClient, fleet: ReportedWorkers) -> None:
    flow = WorkflowBuilder("limited")
    flow.trigger("begin") >> flow.delay(
        "work", duration=1, unit="hours", limits=[{"key": "one", "concurrency": 1}]
    )
    client.deploy(flow.build())
    first, second = [client.start("limited").id for _ in range(2)]
    fleet.serve()

    explained = client.explain(second)

    assert (explained.code, explained.node_id) == (Code.LIMITED, "work")
    assert explained.evidence["holders"] == [first]

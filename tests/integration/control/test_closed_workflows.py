"""A workflow or trigger that an operator has closed starts nothing; what runs finishes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from support.broker import Workers
from support.command_line import run, run_json
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import (
    InvalidValue,
    StartRefused,
    TriggerDataInvalid,
    TriggerNotFound,
    TriggerPaused,
    WorkflowInactive,
    WorkflowNotFound,
)
from workflow_engine.execution.states import TriggerState, WorkflowState
from workflow_engine.maintenance.schedules import Schedules

Sql = Callable[..., list[tuple[Any, ...]]]


def shop(*, cron: str = "0 3 * * *", schema: dict[str, Any] | None = None, step: int = 1) -> Any:
    flow = WorkflowBuilder("shop")
    config: dict[str, Any] = {"cron": cron, "catchUp": "all"}
    nightly = flow.trigger("nightly", sub_type="scheduler", config=config)
    by_hand = flow.trigger("byHand", schema=schema)
    pause = flow.wait_events("paid", correlation_id="{{ 'order' }}", events=["paid"])
    nightly >> pause
    by_hand >> pause
    pause >> flow.function("ship", expression=f"{{{{ {step} }}}}")
    return flow.build()


@pytest.fixture
def control(client: WorkflowClient) -> Any:
    client.deploy(shop())
    return client.control.workflows


@pytest.fixture
def schedules(engine: Engine) -> Schedules:
    return Schedules(engine.triggers, grace=60)


@pytest.fixture
def start(client: WorkflowClient) -> Callable[..., Any]:
    def start(workflow: str, trigger: str, data: Any, key: str, queue: str, **notes: Any) -> Any:
        return client.start(workflow, data, trigger=trigger, idempotency_key=key, queue=queue, **notes)

    return start


def make_due(sql: Sql) -> None:
    sql("UPDATE triggers SET next_due = date_trunc('minute', now()) WHERE next_due IS NOT NULL")


def due_of(client: WorkflowClient, trigger: str = "nightly") -> datetime | None:
    (found,) = [each for each in client.triggers("shop") if each.node_id == trigger]
    return found.next_due


def test_a_deactivated_workflow_starts_nothing_and_what_runs_finishes(
    client: WorkflowClient, workers: Workers, control: Any, schedules: Schedules, start: Any, sql: Sql
) -> None:
    running = client.start("shop", trigger="byHand").id
    known = client.start("shop", trigger="byHand", idempotency_key="first").id
    workers.drain()

    move = control.deactivate("shop", actor="ada", reason="stocktaking")

    assert (move.state_before, move.state) == (WorkflowState.ACTIVE, WorkflowState.DEACTIVATED)
    with pytest.raises(WorkflowInactive, match=r"'shop' is DEACTIVATED \(by ada: stocktaking\) and starts"):
        client.start("shop", trigger="byHand")
    again = client.start("shop", trigger="byHand", idempotency_key="first")
    assert (again.id, again.is_new) == (known, False), "it had started before"
    assert schedules.fire_due(start) == 0
    assert due_of(client) is None
    client.send_event("order", "paid")
    workers.drain()
    assert client.get(running).status is ExecutionStatus.COMPLETED
    assert [each.id for each in client.workflows()] == ["shop"]
    assert len(client.list("shop")) == 2


def test_an_activated_workflow_starts_again_and_makes_up_for_nothing(
    client: WorkflowClient, control: Any, schedules: Schedules, start: Any, sql: Sql
) -> None:
    make_due(sql)
    control.deactivate("shop")
    control.activate("shop")

    assert schedules.fire_due(start) == 0, "even with catchUp: all"
    due = due_of(client)
    assert due is not None
    assert due > datetime.now(UTC)
    assert client.start("shop", trigger="byHand").is_new


def test_a_claimed_schedule_whose_workflow_is_closed_meanwhile_starts_nothing(
    client: WorkflowClient, control: Any, schedules: Schedules, start: Any, sql: Sql
) -> None:
    make_due(sql)

    def closes_first(*arguments: Any, **notes: Any) -> Any:
        control.deactivate("shop")
        return start(*arguments, **notes)

    schedules.fire_due(closes_first)

    assert client.list("shop") == []
    assert due_of(client) is None
    (trigger, _) = sorted(client.triggers("shop"), key=lambda each: each.node_id, reverse=True)
    assert trigger.state is TriggerState.ACTIVE, "that is no error"


def test_a_deployment_opens_nothing_that_was_closed(client: WorkflowClient, control: Any) -> None:
    control.deactivate("shop", reason="stocktaking")
    assert client.deploy(shop(cron="0 4 * * *")).state is WorkflowState.DEACTIVATED
    assert due_of(client) is None
    control.activate("shop")
    control.pause_trigger("shop", "nightly")

    client.deploy(shop(cron="0 5 * * *"))

    assert due_of(client) is None
    control.resume_trigger("shop", "nightly")
    assert due_of(client) is not None
    client.deploy(shop(cron="0 6 * * *"))
    due = due_of(client)
    assert due is not None
    assert due.hour == 6


def test_an_archived_workflow_and_what_it_finished_are_hidden_unless_asked_for(
    client: WorkflowClient, workers: Workers, control: Any
) -> None:
    finished = client.start("shop", trigger="byHand").id
    client.control.cancel(finished)
    running = client.start("shop", trigger="byHand").id
    workers.drain()

    control.archive("shop", actor="ada", reason="replaced")

    with pytest.raises(WorkflowInactive, match="ARCHIVED"):
        client.start("shop", trigger="byHand")
    assert (client.workflows(), client.schedules(), client.triggers()) == ([], [], [])
    (shown,) = client.workflows(archived=True)
    assert (shown.state, shown.state_by, shown.state_reason) == (WorkflowState.ARCHIVED, "ada", "replaced")
    assert [each.id for each in client.list()] == [running], "what runs has to be seen"
    assert [each.id for each in client.list(archived=True)] == [running, finished]
    assert [each.id for each in client.list("shop")] == [running, finished]
    assert client.count() == {ExecutionStatus.WAITING: 1}
    assert sum(client.count(archived=True).values()) == sum(client.count("shop").values()) == 2


def test_a_paused_trigger_starts_nothing_and_the_others_go_on(
    client: WorkflowClient, control: Any, schedules: Schedules, start: Any, sql: Sql
) -> None:
    make_due(sql)
    move = control.pause_trigger("shop", "nightly", actor="ada", reason="no stock")

    assert (move.state_before, move.state) == (TriggerState.ACTIVE, TriggerState.PAUSED)
    assert schedules.fire_due(start) == 0
    with pytest.raises(TriggerPaused, match=r"'nightly' of .* is PAUSED \(by ada: no stock\)"):
        client.start("shop", trigger="nightly")
    assert client.start("shop", trigger="byHand").is_new
    (schedule,) = client.schedules()
    assert (schedule.state, schedule.state_reason, schedule.next_due) == (
        TriggerState.PAUSED,
        "no stock",
        None,
    )
    control.pause_trigger("shop", "byHand")
    with pytest.raises(TriggerPaused):
        client.start("shop", trigger="byHand")
    control.resume_trigger("shop", "nightly")
    assert due_of(client) is not None


def test_a_trigger_that_cannot_work_is_in_error_with_its_reason_until_it_works_again(
    client: WorkflowClient, control: Any, schedules: Schedules, start: Any, sql: Sql
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise TriggerDataInvalid("shop", "nightly", [])

    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of paper")

    for failing, reason in ((refused, "it started nothing for "), (breaks, "RuntimeError: out of paper")):
        make_due(sql)
        schedules.fire_due(failing)
        (trigger,) = [each for each in client.triggers("shop") if each.node_id == "nightly"]
        assert trigger.state is TriggerState.ERROR
        assert reason in (trigger.state_reason or "")
        assert trigger.next_due is not None, "it is tried again"
        sql("UPDATE triggers SET claimed_until = NULL")

    make_due(sql)
    assert schedules.fire_due(start) == 1
    assert {each.state for each in client.triggers("shop")} == {TriggerState.ACTIVE}
    assert [each.type for each in control.audit("shop")] == ["TRIGGER_FAILED"], "two failures are one line"


def test_a_closed_workflow_still_runs_as_a_child_of_an_open_one(
    client: WorkflowClient, workers: Workers, control: Any
) -> None:
    parent = WorkflowBuilder("parent")
    parent.trigger("start") >> parent.sub_workflow("child", "shop", trigger="byHand")
    client.deploy(parent.build())
    control.deactivate("shop")
    control.pause_trigger("shop", "byHand")

    execution = client.start("parent").id
    workers.drain()
    client.send_event("order", "paid")
    workers.drain()

    assert client.get(execution).result == 1
    control.deactivate("parent")
    with pytest.raises(StartRefused):
        client.start("parent")


def test_each_change_is_in_the_history_once_with_who_and_why(client: WorkflowClient, control: Any) -> None:
    control.deactivate("shop", actor="ada", reason="stocktaking")
    assert control.deactivate("shop", actor="bob").state_before is WorkflowState.DEACTIVATED
    control.archive("shop")
    control.activate("shop", actor="bob")
    control.pause_trigger("shop", "nightly", actor="bob", reason="why not")
    control.resume_trigger("shop", "nightly")

    history = [(each.type, each.node_id, each.actor, each.reason) for each in control.audit("shop")]
    assert history == [
        ("DEACTIVATED", None, "ada", "stocktaking"),
        ("ARCHIVED", None, None, None),
        ("ACTIVATED", None, "bob", None),
        ("TRIGGER_PAUSED", "nightly", "bob", "why not"),
        ("TRIGGER_RESUMED", "nightly", None, None),
    ]


def test_what_does_not_exist_or_cannot_be_stored_is_refused(client: WorkflowClient, control: Any) -> None:
    for operate in (control.activate, control.deactivate, control.archive, control.audit):
        with pytest.raises(WorkflowNotFound, match="'nothing' is not deployed"):
            operate("nothing")
    with pytest.raises(TriggerNotFound, match=r"has no trigger 'paid'; it has byHand, nightly"):
        control.pause_trigger("shop", "paid")
    with pytest.raises(InvalidValue, match="reason"):
        control.deactivate("shop", reason="a\0b")
    assert control.audit("shop") == []


def test_the_command_line_closes_and_opens(
    client: WorkflowClient, control: Any, commands_use_the_servers: None
) -> None:
    assert run("triggers", "pause", "shop", "nightly", "--reason", "no stock").output == (
        "PAUSED trigger nightly of shop: was ACTIVE\n"
    )
    assert "no stock" in run("triggers", "list").output
    assert [each["state"] for each in run_json("triggers", "list", "shop")["triggers"]] == [
        "ACTIVE",
        "PAUSED",
    ]
    assert "PAUSED" in run("schedules").output
    assert run("triggers", "resume", "shop", "nightly").exit_code == 0
    assert run("deactivate", "shop", "--actor", "ada").output == "DEACTIVATED shop: was ACTIVE\n"
    assert run("deactivate", "shop").output == "DEACTIVATED shop: was so already\n"
    assert "workflow DEACTIVATED" in run("schedules").output
    refused = run("start", "shop", "--trigger", "byHand")
    assert refused.exit_code == 1
    assert "`workflow-engine activate shop` changes that" in refused.output
    assert run("archive", "shop").output == "ARCHIVED shop: was DEACTIVATED\n"
    assert run_json("workflows")["workflows"] == []
    assert [each["state"] for each in run_json("workflows", "--archived")["workflows"]] == ["ARCHIVED"]
    assert run("activate", "shop").output == "ACTIVE shop: was ARCHIVED\n"
    assert run_json("activate", "nothing", status=1)["error"]["type"] == "WorkflowNotFound"

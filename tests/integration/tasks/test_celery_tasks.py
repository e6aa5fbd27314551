"""A Celery task runs as a node, unchanged; docs/celery-tasks.md lists what that means for each feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import signals

from support import shop
from support.broker import Broker, Workers
from workflow_engine import (
    Execution,
    ExecutionContext,
    ExecutionStatus,
    NodeExecution,
    NodeStatus,
    WorkflowBuilder,
    WorkflowClient,
)
from workflow_engine.engine.assembly import Engine

TimePasses = Callable[[float], None]
WakeDue = Callable[[], list[str]]


class Project:
    """Runs tasks of the shop as nodes."""

    def __init__(self, client: WorkflowClient, workers: Workers) -> None:
        self.client = client
        self._workers = workers
        self._started = 0

    def run(self, task: Any, *args: Any, node: dict[str, Any] | None = None, **config: Any) -> Execution:
        """Start a workflow with a node for the task, serve its messages, and return the execution."""
        self._started += 1
        flow = WorkflowBuilder(f"task-{self._started}")
        flow.trigger("start") >> flow.celery_task("task", task, args=args, **config, **(node or {}))
        self.client.deploy(flow.build())
        started = self.client.start(flow.id)
        self._workers.drain()
        return self.client.get(started.id)

    def output(self, task: Any, *args: Any, **config: Any) -> Any:
        """Return the output of a node that completes."""
        execution = self.run(task, *args, **config)
        assert execution.status is ExecutionStatus.COMPLETED, execution.error
        return execution.result

    def error(self, task: Any, *args: Any, **config: Any) -> tuple[str, str]:
        """Return the type and message of the error of a node that fails."""
        execution = self.run(task, *args, **config)
        assert execution.status is ExecutionStatus.FAILED
        return self.last(execution).error_details["type"], str(self.last(execution).error)

    def last(self, execution: Execution) -> NodeExecution:
        return self.client.journal(execution.id)[-1]

    def waits_ms(self, execution: Execution) -> int | None:
        """Return the milliseconds until the next attempt."""
        return self.last(execution).retry_in_ms

    def statuses(self, execution: Execution) -> list[NodeStatus]:
        return [row.status for row in self.client.journal(execution.id) if row.node_id == "task"]


@pytest.fixture
def project(client: WorkflowClient, workers: Workers) -> Project:
    return Project(client, workers)


# -- what a task is called with, and what it returns -----------------------------------------------------


def test_a_task_is_called_by_its_name_with_evaluated_arguments(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("sum")
    start = flow.trigger("start")
    first = flow.celery_task("first", "shop.add", args=["{{ start.x }}"], kwargs={"y": 2})
    second = flow.celery_task("second", shop.add, args="{{ [first, first] }}", kwargs="{{ {} }}")
    start >> first >> second
    client.deploy(flow.build())
    execution = client.start("sum", {"x": 40})
    workers.drain()

    assert client.get(execution.id).result == 84


def test_a_shared_task_is_found_as_well(project: Project) -> None:
    assert project.output("shop.echo", 1, kwargs={"a": None}) == {"args": [1], "kwargs": {"a": None}}


def test_a_bound_task_reads_its_request(project: Project) -> None:
    execution = project.run(shop.about, "x", kwargs={"y": 1}, headers={"tenant": "north"})

    assert execution.result == {
        "id": f"{execution.id}:task:1",
        "task": "shop.about",
        "root_id": execution.id,
        "retries": 0,
        "args": ["x"],
        "kwargs": {"y": 1},
        "called_directly": False,
        "hostname": True,
        "headers": {"tenant": "north"},
        "tenant": "north",
        "node": "task",
    }


def test_arguments_that_are_no_list_or_object_fail_the_node(project: Project) -> None:
    assert project.error(shop.add, kwargs="{{ 1 }}") == (
        "WRONG_ARGUMENTS",
        "kwargs must be an object of names and values, not 1",
    )


def test_arguments_that_the_task_does_not_take_fail_the_node(project: Project) -> None:
    type_, message = project.error(shop.add, 1, 2, 3)

    assert type_ == "TypeError"
    assert "takes from 1 to 2 positional arguments but 3 were given" in message


def test_pydantic_arguments_are_models_and_a_returned_model_is_its_data(project: Project) -> None:
    order = {"id": 1, "placed": "2026-01-02T03:04:05Z"}

    assert project.output(shop.typed, order) == {"id": 2, "placed": "2026-01-03T03:04:05Z"}
    assert shop.calls == [shop.Order(id=1, placed=shop.MOMENT)]


def test_a_value_that_is_not_json_fails_with_what_to_do(project: Project) -> None:
    type_, message = project.error(shop.unwritable)
    assert type_ == "InvalidValue"
    assert message.startswith("output.stock: ")
    assert message.endswith("with `serialize: kombu` the node keeps datetimes, UUIDs and Decimals")

    type_, message = project.error(shop.unwritable, serialize="kombu")
    assert type_ == "InvalidValue"
    assert "kombu cannot write it as JSON" in message


def test_kombu_keeps_types_that_json_does_not_know_from_one_task_to_the_next(
    client: WorkflowClient, workers: Workers
) -> None:
    flow = WorkflowBuilder("rich")
    first = flow.celery_task("first", shop.rich, serialize="kombu")
    second = flow.celery_task("second", shop.types_of, args=["{{ first }}"], serialize="kombu")
    flow.trigger("start") >> first >> second
    client.deploy(flow.build())
    execution = client.start("rich")
    workers.drain()

    types = {"at": "datetime", "price": "Decimal", "key": "UUID", "raw": "bytes"}
    assert client.get(execution.id).result == types


def test_a_tuple_becomes_a_list(project: Project) -> None:
    assert project.output(shop.pair) == [1, 2]


# -- handlers and signals --------------------------------------------------------------------------------


def test_a_base_class_and_its_handlers_are_called(project: Project) -> None:
    execution = project.run(shop.charge, 0)

    assert shop.calls == [
        ("before_start", f"{execution.id}:task:1", [0], {}),
        ("call", "north"),
        ("charge", 0),
        ("on_success", "charged after 0"),
        ("after_return", "SUCCESS"),
    ]


def test_a_handler_learns_of_a_failure(project: Project) -> None:
    assert project.error(shop.declines) == ("Declined", "no money")
    assert shop.calls[-2:] == [("on_failure", "no money"), ("after_return", "FAILURE")]


def test_signals_are_sent_for_the_task(project: Project, time_passes: TimePasses, wake_due: WakeDue) -> None:
    sent: list[tuple[str, str]] = []
    names = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry")
    receivers = []
    for name in names:

        def receive(sender: Any = None, name: str = name, **_: Any) -> None:
            sent.append((name, sender.name))

        getattr(signals, name).connect(receive, weak=False)
        receivers.append((getattr(signals, name), receive))
    try:
        project.run(shop.add, 1)
        project.run(shop.declines)
        project.run(shop.charge, 1)
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)

    assert sent == [
        ("task_prerun", "shop.add"),
        ("task_success", "shop.add"),
        ("task_postrun", "shop.add"),
        ("task_prerun", "shop.declines"),
        ("task_failure", "shop.declines"),
        ("task_postrun", "shop.declines"),
        ("task_prerun", "shop.charge"),
        ("task_retry", "shop.charge"),
        ("task_postrun", "shop.charge"),
    ]


# -- failures and retries --------------------------------------------------------------------------------


def test_a_retry_by_hand_is_a_wait_of_its_countdown_in_postgres(
    project: Project, broker: Broker, time_passes: TimePasses, wake_due: WakeDue, workers: Workers
) -> None:
    execution = project.run(shop.charge, 2, 30)
    assert execution.status is ExecutionStatus.WAITING
    assert project.waits_ms(execution) == 30_000
    assert not broker.queue

    for attempt in (2, 3):
        time_passes(29)
        assert wake_due() == []
        time_passes(2)
        assert wake_due() == ["task"], attempt
        workers.drain()

    assert project.client.get(execution.id).result == "charged after 2"
    assert project.statuses(execution) == [NodeStatus.RETRYING, NodeStatus.RETRYING, NodeStatus.COMPLETED]
    assert [call for call in shop.calls if call[0] in ("charge", "on_retry")] == [
        ("charge", 0),
        ("on_retry", "declined 0"),
        ("charge", 1),
        ("on_retry", "declined 1"),
        ("charge", 2),
    ]


def test_after_max_retries_the_node_fails_with_the_original_error(project: Project) -> None:
    execution = project.run(shop.charge, 9, 0)

    assert execution.status is ExecutionStatus.FAILED
    assert project.statuses(execution) == [NodeStatus.RETRYING, NodeStatus.RETRYING, NodeStatus.FAILED]
    last = project.last(execution)
    assert (last.error_details["type"], last.error) == ("Declined", "declined 2")
    assert 'raise Declined(f"declined {self.request.retries}")' in last.error_details["traceback"]
    assert "celery/app/trace.py" not in last.error_details["traceback"]


def test_without_a_countdown_the_default_delay_of_the_task_holds(project: Project) -> None:
    assert project.waits_ms(project.run(shop.charge, 1)) == 7_000


def test_autoretry_waits_with_its_backoff_and_gives_up_on_other_errors(
    project: Project, time_passes: TimePasses, wake_due: WakeDue, workers: Workers
) -> None:
    assert project.error(shop.flaky, "refused") == ("ConnectionRefusedError", "refused")

    execution = project.run(shop.flaky, "lost")
    for wait in (4_000, 8_000):
        assert project.waits_ms(execution) == wait
        time_passes(wait / 1000)
        wake_due()
        workers.drain()

    last = project.last(execution)
    assert (last.status, last.error_details["type"]) == (NodeStatus.FAILED, "ConnectionError")


def test_a_retry_at_a_time_waits_until_then(project: Project) -> None:
    assert 3_590_000 < (project.waits_ms(project.run(shop.later)) or 0) <= 3_600_000


def test_a_retry_with_other_arguments_is_refused_by_name(project: Project) -> None:
    type_, message = project.error(shop.changing, 1)

    assert type_ == "TASK_REFUSED"
    assert message.startswith("task 'shop.changing' called self.retry with other arguments")
    assert project.output(shop.same_again, 5) == 5


def test_the_retry_of_the_node_begins_where_those_of_the_task_end(project: Project) -> None:
    retry = {"maxAttempts": 3, "waitDuration": 0}

    execution = project.run(shop.declines, node={"retry": retry})

    assert project.statuses(execution) == [NodeStatus.RETRYING, NodeStatus.RETRYING, NodeStatus.FAILED]


def test_an_operators_retry_of_a_failed_node_gives_the_task_its_retries_again(
    project: Project, workers: Workers
) -> None:
    execution = project.run(shop.charge, 9, 0)
    project.client.control.retry(execution.id)
    workers.drain()

    assert project.statuses(execution)[-3:] == [
        NodeStatus.RETRYING,
        NodeStatus.RETRYING,
        NodeStatus.FAILED,
    ]


def test_ignore_completes_the_node_with_null(project: Project) -> None:
    assert project.output(shop.ignores) is None


def test_reject_gives_the_node_back_for_another_worker(
    project: Project, time_passes: TimePasses, wake_due: WakeDue, workers: Workers
) -> None:
    execution = project.run(shop.rejects, 1)
    assert execution.status is ExecutionStatus.WAITING

    time_passes(1)
    wake_due()
    workers.drain()

    assert project.client.get(execution.id).result == "taken, retries 0"


def test_reject_without_requeue_fails_the_node(project: Project) -> None:
    assert project.error(shop.rejects, 1, False) == (
        "Reject",
        "task 'shop.rejects' rejected its message: not here",
    )


def test_replace_is_refused_by_name(project: Project) -> None:
    type_, message = project.error(shop.replaces)

    assert type_ == "TASK_REFUSED"
    assert "task 'shop.replaces' called self.replace" in message


# -- limits, progress, options ---------------------------------------------------------------------------


def test_the_soft_time_limit_is_raised_inside_the_task(project: Project) -> None:
    assert project.output(shop.slow) == "tidied up"

    type_, message = project.error(shop.too_slow)
    assert type_ == "SoftTimeLimitExceeded"
    assert "soft time limit" in message


def test_the_time_limit_is_the_timeout_of_the_node_and_never_retried_by_the_task(project: Project) -> None:
    assert project.error(shop.slow, False) == ("TIMEOUT", "the node ran for longer than its timeout of 0.6 s")


def test_the_timeout_of_the_node_takes_precedence(project: Project) -> None:
    _, message = project.error(shop.slow, False, node={"timeout": 0.3})

    assert message == "the node ran for longer than its timeout of 0.3 s"


def test_update_state_is_the_progress_of_the_node(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[float | None, str]] = []
    monkeypatch.setattr(
        ExecutionContext,
        "report_progress",
        lambda self, fraction, message: reports.append((fraction, message)),
    )

    project.run(shop.steps)

    assert reports == [(0.75, "packing"), (0.9, "SHIPPING"), (None, "nearly there")]


def test_update_state_of_an_ordinary_task_is_celerys(project: Project) -> None:
    project.run(shop.steps)
    stored: list[Any] = []

    class Backend:
        def store_result(self, *args: Any, **_: Any) -> None:
            stored.append(args)

    shop.steps.backend = Backend()
    try:
        shop.steps.update_state("t-1", "PROGRESS", {"current": 1})
    finally:
        shop.steps.backend = None

    assert stored == [("t-1", {"current": 1}, "PROGRESS")]


def test_the_queue_and_priority_are_those_of_the_tasks_route(
    client: WorkflowClient, broker: Broker, workers: Workers
) -> None:
    flow = WorkflowBuilder("routes")
    last = flow.trigger("start")
    for id_, task, options in (
        ("plain", "shop.add", {}),
        ("mail", "shop.mail.send", {}),
        ("invoice", "shop.invoice", {}),
        ("chosen", "shop.invoice", {"queue": "other", "priority": 9}),
        ("elsewhere", "shop.mail.not_here", {}),
    ):
        last = last >> flow.celery_task(id_, task, args=[1] if task != "shop.invoice" else [], **options)
    client.deploy(flow.build())
    execution = client.start("routes")

    routes = []
    while broker.queue:
        dispatch = broker.queue[0]
        routes.append((dispatch.message.node_id, dispatch.queue, dispatch.priority))
        workers.hop()

    assert routes == [
        ("plain", "workflow", 3),
        ("mail", "mail", 7),
        ("invoice", "invoices", 2),
        ("chosen", "other", 9),
        ("elsewhere", "mail", 7),
    ]
    assert client.get(execution.id).status is ExecutionStatus.WAITING


def test_the_output_is_kept_although_the_task_ignores_its_result(project: Project) -> None:
    assert project.output(shop.limited) == "kept"


def test_a_task_that_no_worker_has_yet_waits_for_one_that_does(
    project: Project, time_passes: TimePasses, wake_due: WakeDue, workers: Workers
) -> None:
    execution = project.run("shop.new")
    assert execution.status is ExecutionStatus.WAITING
    time_passes(60)
    assert wake_due() == []

    @shop.app.task(name="shop.new")
    def new() -> str:
        return "arrived"

    try:
        assert wake_due() == ["task"]
        workers.drain()
        assert project.client.get(execution.id).result == "arrived"
    finally:
        shop.app.tasks.unregister("shop.new")


def test_tasks_sent_by_a_task_name_the_execution_as_their_root(project: Project) -> None:
    sent: list[tuple[str, str]] = []

    @shop.app.task(name="shop.sends")
    def sends() -> None:
        shop.add.delay(1, 2)

    def receive(headers: dict[str, Any], **_: Any) -> None:
        sent.append((headers["root_id"], headers["parent_id"]))

    signals.before_task_publish.connect(receive, weak=False)
    try:
        execution = project.run(sends)
    finally:
        signals.before_task_publish.disconnect(receive)
        shop.app.tasks.unregister("shop.sends")

    assert sent == [(execution.id, f"{execution.id}:task:1")]


def test_tasks_run_in_inline_hops_too(client: WorkflowClient, workers: Workers, engine: Engine) -> None:
    flow = WorkflowBuilder("inline", settings={"hops": "inline"})
    last = flow.trigger("start")
    for number in range(3):
        last = last >> flow.celery_task(f"n{number}", shop.add, args=[number, 1])
    client.deploy(flow.build())
    execution = client.start("inline")

    assert workers.drain() == 1
    assert client.get(execution.id).result == 3

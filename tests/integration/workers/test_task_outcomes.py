"""The state of a Celery task says how its hop ended, for those who watch tasks."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytest
from celery.exceptions import Reject, Retry

from support.broker import Broker
from support.workflows import line
from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    NodeStatus,
    WorkflowBuilder,
    WorkflowClient,
    waiting,
)
from workflow_engine.broker.wire_format import FORMAT_HEADER
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import CacheUnavailable, DatabaseUnavailable, ExpressionError, NodeFailed, Requeue
from workflow_engine.execution.messages import HopMessage
from workflow_engine.execution.records import FORMAT
from workflow_engine.worker import tasks


@pytest.fixture
def message(client: WorkflowClient, broker: Broker) -> HopMessage:
    """Return the message for the first node of an execution."""

    def only() -> int:
        return 1

    client.deploy(line(only))
    client.start("line")
    return broker.take()


@pytest.fixture
def deliver(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[HopMessage], Any]:
    """Return a function that calls the task as a pool process does, without its pauses."""
    monkeypatch.setattr(tasks, "worker_engine", lambda app: engine)
    monkeypatch.setattr(tasks.time, "sleep", lambda seconds: None)
    return lambda message: tasks.run_node(**(message if isinstance(message, dict) else asdict(message)))


def failing(times: int, error: Exception, then: Callable[..., Any]) -> Callable[..., Any]:
    """Make a hop fail this many times before it works again."""
    failures = iter([error] * times)

    def hop(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return then(*arguments)

    return hop


def requeue_for(cause: Exception | None) -> Requeue:
    reason = Requeue("not now")
    reason.__cause__ = cause
    return reason


def test_a_short_outage_is_waited_for_with_the_message_in_hand(
    deliver: Callable[..., Any],
    message: HopMessage,
    engine: Engine,
    client: WorkflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outage = requeue_for(CacheUnavailable("Redis is away"))
    hop = failing(3, outage, engine.executor.continue_execution)
    monkeypatch.setattr(engine.executor, "continue_execution", hop)

    deliver(message)

    assert client.get(message.execution_id).result == 1


def test_a_message_that_meets_a_long_outage_is_put_back_into_the_queue(
    deliver: Callable[..., Any],
    message: HopMessage,
    engine: Engine,
    client: WorkflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "OUTAGE_TIMEOUT", 0)
    outage = requeue_for(CacheUnavailable("Redis is away"))
    hop = failing(2, outage, engine.executor.continue_execution)
    monkeypatch.setattr(engine.executor, "continue_execution", hop)

    for _ in range(2):
        with pytest.raises(Reject) as rejection:
            deliver(message)
        assert rejection.value.requeue

    # A worker that requeues it again and again records it once.
    [line] = client.control.audit(message.execution_id)
    assert (line.type, line.name, line.reason) == ("REQUEUED", "only", "not now")


def test_without_postgres_nothing_is_recorded_of_a_message_that_goes_back(
    deliver: Callable[..., Any],
    message: HopMessage,
    engine: Engine,
    client: WorkflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "OUTAGE_TIMEOUT", 0)
    outage = requeue_for(DatabaseUnavailable("Postgres is away"))
    monkeypatch.setattr(engine.executor, "continue_execution", failing(1, outage, print))

    with pytest.raises(Reject):
        deliver(message)

    assert client.control.audit(message.execution_id) == []


def test_a_mistake_of_the_engine_counts_as_a_loss_and_keeps_its_error(
    deliver: Callable[..., Any],
    message: HopMessage,
    engine: Engine,
    sql: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine.state, "update_execution", failing(2, KeyError("walk"), print))

    for _ in range(2):
        with pytest.raises(KeyError) as mistake:
            deliver(message)

    assert message.execution_id in mistake.value.__notes__[-1]
    assert sql("SELECT crashes FROM executions") == [
        ({"only": {"count": 2, "last": "with KeyError: 'walk'"}},)
    ]


def repr_of_the_first(forged: dict[str, Any]) -> str:
    return next((f"{name}={value!r:.20}" for name, value in forged.items()), "empty")


def never(seconds: float) -> None:
    assert threading.current_thread() is not threading.main_thread(), "a process of the pool rests"


@pytest.fixture
def of_newer_release(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make messages come from a release that writes them in another form."""
    tasks.run_node.push_request(**{FORMAT_HEADER: FORMAT + 1})
    yield
    tasks.run_node.pop_request()


@pytest.mark.parametrize("what", ["message", "execution", "definition", "lock"])
def test_what_only_another_worker_can_serve_is_dropped_at_once_and_found_soon(
    what: str,
    request: pytest.FixtureRequest,
    deliver: Callable[..., Any],
    message: HopMessage,
    engine: Engine,
    sql: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = asdict(message)
    if what == "message":
        request.getfixturevalue("of_newer_release")
        body["shard"] = 7
    elif what == "execution":
        sql("UPDATE executions SET format = 99")
    elif what == "definition":
        sql('UPDATE workflow_versions SET definition = \'{"shape": "new"}\'')
        engine.workflows._kept.clear()
    else:
        engine.locks.acquire_lock(message.execution_id, "the same task")
        monkeypatch.setattr(tasks.run_node.request, "id", "the same task")
    tasks._warn_once.cache_clear()
    monkeypatch.setattr(tasks.time, "sleep", never)

    deliver(body)
    deliver(body)

    assert len([line for line in caplog.messages if "left its execution to other workers" in line]) == 1
    assert sql("SELECT recoveries, recovered_at > updated_at, crashes FROM executions") == [(2, True, None)]


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"execution_id": "no id"},
        {"execution_id": "0199\nERROR: all is lost"},
        {"execution_id": ["a", "list"]},
        {"seq": "1"},
        {"seq": True},
        {"seq": 2**70},
        {"seq": -1},
        {"version": 1.0},
        {"node_id": "only\n[2026-01-01] ERROR: forged"},
        {"node_id": "n" * 100_000},
        {"workflow": None},
        {"surplus": "x" * 100_000},
    ],
    ids=repr_of_the_first,
)
def test_a_message_that_the_engine_did_not_write_is_refused_with_one_short_line(
    forged: dict[str, Any],
    deliver: Callable[..., Any],
    message: HopMessage,
    sql: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    deliver({**asdict(message), **forged} if forged else {})

    (line,) = caplog.messages
    assert line.startswith("Refused a message")
    assert "\n" not in line
    assert len(line) < 600
    assert sql("SELECT crashes, recovered_at FROM executions") == [(None, None)]


# -- how the end of a node is reported ---------------------------------------------------------------------

INLINE = {"hops": "inline"}


def no_more() -> None:
    raise ZeroDivisionError("by nothing")


def not_yet(context: ExecutionContext) -> int:
    if context.attempt == 1:
        raise ConnectionError("not yet")
    return context.attempt


def rests(context: ExecutionContext) -> Any:
    return waiting(seconds=60) if context.wake is None else 1


def good() -> int:
    return 1


def test_a_failed_node_raises_its_exception_once_everything_is_done(
    deliver: Callable[..., Any], client: WorkflowClient, broker: Broker
) -> None:
    client.deploy(line(no_more, good, on_error="continue"))
    execution = client.start("line").id

    with pytest.raises(ZeroDivisionError, match=r"^by nothing$") as raised:
        deliver(broker.take())

    assert [frame.name for frame in raised.traceback][-2:] == ["run_node", "no_more"]
    assert [row.status for row in client.journal(execution)] == [NodeStatus.COMPLETED, NodeStatus.FAILED]
    assert [message.node_id for message in broker.messages] == ["good"]


def test_an_attempt_that_is_repeated_raises_a_retry(
    deliver: Callable[..., Any], client: WorkflowClient, broker: Broker
) -> None:
    client.deploy(line(not_yet, retry={"maxAttempts": 2, "waitDuration": 1500}))
    client.start("line")

    with pytest.raises(Retry) as retry:
        deliver(broker.take())

    assert str(retry.value) == "Retry in 1.5s: ConnectionError('not yet')"
    assert isinstance(retry.value.exc, ConnectionError)
    assert broker.messages == []


def test_a_node_that_waits_and_a_message_that_is_dropped_have_results_of_their_own(
    deliver: Callable[..., Any], client: WorkflowClient, broker: Broker
) -> None:
    client.deploy(line(good, rests))
    client.start("line")
    first = broker.take()

    assert deliver(first) == "COMPLETED"
    assert deliver(first) == "DROPPED: the node is neither due nor woken"
    assert deliver(broker.take()) == "WAITING"


def test_every_result_that_is_refused_is_reported_as_refused(
    deliver: Callable[..., Any], client: WorkflowClient, broker: Broker
) -> None:
    def overtaken() -> None:
        client.control.cancel(execution)
        raise ValueError("nobody hears of it")

    client.deploy(line(overtaken))
    execution = client.start("line").id

    assert deliver(broker.take()) == "REFUSED: the execution has moved on without this result"
    assert client.get(execution).status is ExecutionStatus.CANCELLED


def test_of_several_nodes_in_one_task_a_failed_one_fails_the_task(
    deliver: Callable[..., Any], client: WorkflowClient, broker: Broker
) -> None:
    def worse() -> None:
        raise ValueError("and this")

    client.deploy(line(good, no_more, worse, rests, settings=INLINE, on_error="continue"))
    client.start("line")

    with pytest.raises(ValueError, match=r"^and this") as raised:
        deliver(broker.take())

    assert raised.value.__notes__ == [
        "in node 'worse', which was run inline after 'good'",
        "before it, node 'no_more' failed: ZeroDivisionError: by nothing",
    ]


def test_an_attempt_that_was_repeated_in_the_same_task_is_not_reported(
    deliver: Callable[..., Any], client: WorkflowClient, broker: Broker
) -> None:
    client.deploy(line(not_yet, settings=INLINE, retry={"maxAttempts": 2, "waitDuration": 0}))
    execution = client.start("line").id

    assert deliver(broker.take()) == "COMPLETED"
    assert client.get(execution).result == 2


def test_celery_gets_no_secret(
    deliver: Callable[..., Any], client: WorkflowClient, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", "s3cr3t")

    def leaks(token: str) -> None:
        try:
            raise KeyError(token)
        except KeyError:
            raise ValueError(f"401 for {token}") from None

    client.deploy(line(leaks, arguments={"token": "{{ _secrets.TOKEN }}"}))
    client.start("line")

    with pytest.raises(ValueError, match=r"^401 for \*\*\*$") as raised:
        deliver(broker.take())

    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


def test_an_expression_that_fails_is_reported_by_its_name(
    deliver: Callable[..., Any], client: WorkflowClient, broker: Broker
) -> None:
    flow = WorkflowBuilder("line")
    flow.trigger("start") >> flow.function("sum", "{{ start.order.total }}")
    client.deploy(flow.build())
    client.start("line")

    with pytest.raises(ExpressionError, match=r"start\.order\.total"):
        deliver(broker.take())


def test_the_end_of_a_restarted_child_restarts_the_next_failed_one_without_a_timekeeper(
    client: WorkflowClient, broker: Broker, deliver: Callable[[HopMessage], Any]
) -> None:
    is_broken = True

    def mended() -> str:
        if is_broken:
            raise ConnectionError
        return "done"

    def serve_all() -> None:
        while broker.queue:
            with suppress(ConnectionError, NodeFailed):
                deliver(broker.take())

    client.deploy(line(mended, id="child"))
    flow = WorkflowBuilder("parent")
    flow.trigger("begin") >> flow.loop(
        "each", items=[1, 2, 3, 4, 5], workflow="child", config={"tolerate": 3}
    )
    client.deploy(flow.build())
    execution = client.start("parent").id
    serve_all()
    assert [child.status for child in client.children(execution)] == [ExecutionStatus.FAILED] * 4

    is_broken = False
    client.control.retry(execution)
    assert len(broker.queue) == 1
    serve_all()

    assert client.get(execution).result == ["done"] * 5

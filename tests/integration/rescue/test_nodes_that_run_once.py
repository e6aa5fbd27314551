"""A node with `onCrash: fail` whose run ended without a commit fails, and does not run again."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.polling import poll
from support.workflows import calling, line
from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    NodeStatus,
    Settings,
    WorkflowBuilder,
    WorkflowClient,
    failure,
    waiting,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseUnavailable
from workflow_engine.execution.messages import HopMessage

Sql = Callable[..., list[tuple[Any, ...]]]

TEST_PROCESS = os.getpid()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lock_expiry": 0.5, "max_recoveries": 0})


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    """Return a file with a line for each time that a node has acted, in whatever process."""
    file = tmp_path / "effects"
    file.touch()
    return file


@pytest.fixture
def die_while_serving(engine: Engine) -> Callable[[HopMessage], None]:
    """Serve a message in a process that dies of it, and wait until its lock has expired."""

    def serve(message: HopMessage) -> None:
        if (child := os.fork()) == 0:
            engine.executor.continue_execution(message)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        poll(lambda: not engine.locks.is_locked(message.execution_id), "its lock expires")

    return serve


def charging(effects: Path) -> Callable[..., str]:
    def charge() -> str:
        with effects.open("a") as file:
            file.write("charged\n")
        if os.getpid() != TEST_PROCESS:
            os.kill(os.getpid(), signal.SIGKILL)
        return "charged"

    return charge


@pytest.mark.parametrize(
    "mode", [{}, {"hops": "inline"}, {"concurrency": 3}], ids=["spread", "inline", "parallel"]
)
@pytest.mark.parametrize("is_redis_lost", [False, True], ids=["known from Redis", "known from Postgres"])
def test_a_node_whose_process_was_killed_fails_and_has_acted_once(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    redis_client: redis.Redis,
    die_while_serving: Callable[[HopMessage], None],
    effects: Path,
    sql: Sql,
    is_redis_lost: bool,
    mode: dict[str, Any],
) -> None:
    client.deploy(line(charging(effects), on_crash="fail", settings=mode, retry={"maxAttempts": 5}))
    execution = client.start("line").id
    die_while_serving(broker.messages[0])
    if is_redis_lost:
        redis_client.flushdb()

    workers.drain()

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error_details is not None
    assert failed.error_details["type"] == "CRASHED"
    assert failed.error_details["details"].keys() == {"worker", "startedAt"}
    said = (
        r"the worker process that ran this node was lost on \S+:\d+, which .* at .*; onCrash: fail forbids .*"
    )
    assert re.fullmatch(said, failed.error or "")
    assert [row.status for row in client.journal(execution)][1:] == [NodeStatus.FAILED], "without a retry"
    assert effects.read_text() == "charged\n"
    assert sql("SELECT crashes FROM executions") == [(None,)]


@pytest.mark.parametrize("way", ["error", "continue"])
def test_its_crash_takes_the_error_edge_or_goes_on(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    die_while_serving: Callable[[HopMessage], None],
    effects: Path,
    way: str,
) -> None:
    flow = WorkflowBuilder("handled")
    options: dict[str, Any] = {"on_error": "continue"} if way == "continue" else {}
    charge = calling(flow, charging(effects), on_crash="fail", **options)
    asked = flow.function("ask", "ask the bank: {{ charge.error.type }}")
    flow.trigger("start") >> charge
    (charge if way == "continue" else charge.on_error) >> asked
    client.deploy(flow.build())
    execution = client.start("handled").id
    die_while_serving(broker.messages[0])

    workers.drain()

    finished = client.get(execution)
    assert finished.status is ExecutionStatus.COMPLETED
    assert client.journal(execution)[-1].output_data == "ask the bank: CRASHED"
    assert effects.read_text() == "charged\n"


def test_a_crash_between_the_mark_and_the_run_counts_as_one_of_the_node(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, effects: Path
) -> None:
    client.deploy(line(charging(effects), on_crash="fail"))
    execution = client.start("line").id
    mark_begun = engine.state.mark_begun

    def dies_after_it(*given: Any) -> Any:
        mark_begun(*given)
        os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        engine.state.mark_begun = dies_after_it  # type: ignore[method-assign]
        engine.executor.continue_execution(broker.messages[0])
        os._exit(0)
    os.waitpid(child, 0)
    poll(lambda: not engine.locks.is_locked(execution), "its lock expires")
    workers.drain()

    failed = client.get(execution)
    assert failed.error_details is not None
    assert failed.error_details["type"] == "CRASHED"
    assert effects.read_text() == ""


def test_a_lost_reply_to_the_mark_is_no_crash(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    effects: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client.deploy(line(charging(effects), on_crash="fail"))
    execution = client.start("line").id
    mark_begun, replies = engine.state.mark_begun, ["lost"]

    def loses_its_reply(*given: Any) -> Any:
        marked = mark_begun(*given)
        if replies:
            replies.pop()
            raise DatabaseUnavailable("the connection broke")
        return marked

    monkeypatch.setattr(engine.state, "mark_begun", loses_its_reply)
    engine.executor.continue_execution(broker.take())

    assert client.get(execution).result == "charged"
    assert effects.read_text() == "charged\n"


def test_attempts_after_a_failure_and_runs_after_a_wait_are_no_crashes(
    client: WorkflowClient,
    workers: Workers,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> None:
    answers = [failure("BUSY", "later"), waiting(seconds=60), failure("BUSY", "later"), "done"]

    def careful(context: ExecutionContext) -> Any:
        return answers.pop(0)

    client.deploy(line(careful, on_crash="fail", retry={"maxAttempts": 3, "waitDuration": 0}))
    execution = client.start("line").id
    workers.drain()
    time_passes(60)
    wake_due()
    workers.drain()

    assert client.get(execution).result == "done"


@pytest.mark.parametrize("operation", ["retry", "rerun"])
def test_an_operator_may_let_it_run_again(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    die_while_serving: Callable[[HopMessage], None],
    effects: Path,
    operation: str,
) -> None:
    client.deploy(line(charging(effects), on_crash="fail"))
    execution = client.start("line").id
    die_while_serving(broker.messages[0])
    workers.drain()

    if operation == "retry":
        client.control.retry(execution)
    else:
        client.control.rerun(execution, "charge")
    workers.drain()

    assert client.get(execution).result == "charged"
    assert effects.read_text() == "charged\n" * 2


def test_without_it_a_node_runs_again(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    die_while_serving: Callable[[HopMessage], None],
    effects: Path,
    new_engine: Callable[..., Engine],
) -> None:
    client.deploy(line(charging(effects), on_crash="retry"))
    execution = client.start("line").id
    die_while_serving(broker.messages[0])

    new_engine(max_recoveries=3).executor.continue_execution(broker.take())

    assert client.get(execution).result == "charged"
    assert effects.read_text() == "charged\n" * 2

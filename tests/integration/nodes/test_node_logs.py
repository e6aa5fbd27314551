"""What a node logs is kept with its attempt where that is wanted: bounded, without secrets, in its commit."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
from celery.utils.log import get_task_logger

from support.broker import Broker, Workers
from support.command_line import run
from support.workflows import line
from workflow_engine import WorkflowBuilder, WorkflowClient, node
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import ExecutionNotFound

log = logging.getLogger("shop.nodes")
of_tasks = get_task_logger("shop.tasks")

SECRET = "dxm93kfVQp2"
LIMIT = 4096


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    return new_engine(node_log_limit=LIMIT)


@pytest.fixture(autouse=True)
def _levels(caplog: pytest.LogCaptureFixture) -> None:
    """Set the level of task loggers, which a worker of another test in this process has changed."""
    caplog.set_level(logging.WARNING, logger="celery.task")


@pytest.fixture
def second_engine(new_engine: Callable[..., Engine]) -> Engine:
    return new_engine(node_log_limit=LIMIT)


def speaks(context: Any) -> int:
    log.warning("attempt %d", context.attempt)
    of_tasks.warning("as a task")
    if context.attempt == 1:
        try:
            raise ConnectionError("no route")
        except ConnectionError:
            log.exception("it failed")
        raise ValueError("try again")
    thread = threading.Thread(target=copy_context().run, args=(log.warning, "from a thread"))
    thread.start()
    thread.join()
    return 1


def is_silent() -> int:
    log.debug("below the level of the log")
    return 2


def test_each_attempt_has_its_own_lines(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(line(speaks, is_silent, retry={"maxAttempts": 2, "waitDuration": 0}))
    execution = client.start("line").id
    log.warning("not of a node")
    workers.drain()

    first, second = client.logs(execution)

    assert [(each.seq, each.node_id, each.attempt, each.status.value) for each in (first, second)] == [
        (2, "speaks", 1, "RETRYING"),
        (3, "speaks", 2, "COMPLETED"),
    ]
    assert [(each.level, each.logger, each.message) for each in first.lines] == [
        ("WARNING", "shop.nodes", "attempt 1"),
        ("WARNING", "shop.tasks", "as a task"),
        ("ERROR", "shop.nodes", "it failed"),
    ]
    assert "ConnectionError: no route" in (first.lines[-1].exception or "")
    assert [each.message for each in second.lines] == ["attempt 2", "as a task", "from a thread"]
    assert first.dropped == second.dropped == 0
    assert client.logs(execution, "is_silent") == []
    with pytest.raises(ExecutionNotFound):
        client.logs("01a20711-498e-726f-8d71-c0f15dda6a42")


def test_a_secret_is_masked_in_them_in_every_spelling(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_TOKEN", SECRET)

    @node("test.tells_all")
    def tells_all(token: str) -> None:
        log.warning("the token is %s, %r, %s", token, token.encode(), token.encode().hex())
        try:
            raise RuntimeError(f"with {token}")
        except RuntimeError:
            log.exception("it failed")

    flow = WorkflowBuilder("telling")
    flow.trigger("begin") >> flow.python(
        "tell", "test.tells_all", arguments={"token": "{{ _secrets.TOKEN }}"}
    )
    client.deploy(flow.build())
    execution = client.start("telling").id
    workers.drain()

    [logged] = client.logs(execution)

    assert SECRET not in repr(logged)
    assert SECRET.encode().hex() not in repr(logged)
    assert logged.lines[0].message.startswith("the token is ***")


def test_they_are_bounded_and_the_last_ones_are_kept(client: WorkflowClient, workers: Workers) -> None:
    def talks() -> None:
        for number in range(500):
            log.warning("line %d", number)
        log.warning("x" * 100_000)
        log.warning("\x00 \ud800 %s", Broken())

    client.deploy(line(talks))
    execution = client.start("line").id
    workers.drain()

    [logged] = client.logs(execution)

    kept = [{name: value for name, value in vars(each).items() if value} for each in logged.lines]
    assert LIMIT / 2 < len(json.dumps(kept)) <= LIMIT * 1.1
    assert logged.dropped + len(logged.lines) == 502
    assert "omitted" in logged.lines[-2].message
    assert "Broken object" in logged.lines[-1].message
    assert client.get(execution).is_finished


def test_they_are_part_of_the_commit_and_no_call_of_their_own(
    client: WorkflowClient, workers: Workers, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.deploy(line(speaks, retry={"maxAttempts": 2, "waitDuration": 0}))
    client.start("line")
    statements: list[str] = []
    execute = type(engine.database)._execute

    def counted(database: Any, statement: str, parameters: Any) -> Any:
        statements.append(statement)
        return execute(database, statement, parameters)

    workers.hop()
    monkeypatch.setattr(type(engine.database), "_execute", counted)
    workers.hop()

    assert [each for each in statements if "commit_node" in each] == statements[-1:]


def test_without_the_setting_nothing_is_kept(
    new_engine: Callable[..., Engine], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = new_engine()
    client = WorkflowClient(engine=without)
    client.deploy(line(speaks, retry={"maxAttempts": 2, "waitDuration": 0}))
    execution = client.start("line").id

    Workers(broker, without).drain()

    assert client.logs(execution) == []


def test_the_command_line_shows_them(
    commands_use_the_servers: None, client: WorkflowClient, workers: Workers
) -> None:
    def warns() -> None:
        log.warning("the bank is slow\n\x1b[31mred")

    client.deploy(line(warns))
    execution = client.start("line").id
    before = run("show", execution, "--logs").stdout
    workers.drain()

    shown = run("show", execution, "--logs").stdout
    in_json = json.loads(run("show", execution, "--logs", "--json").stdout)

    assert "No log lines are kept" in before
    assert "shop.nodes: the bank is slow" in shown
    assert "\x1b[31m" not in shown
    assert in_json["logs"][0]["lines"][0]["level"] == "WARNING"
    assert "logs" not in json.loads(run("show", execution, "--json").stdout)

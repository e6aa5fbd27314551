"""A process killed in the middle of a node leaves its mark, and whoever enters next counts it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from fleet_in_process import Broker, Workers, line

from workflow_engine import ExecutionStatus, Settings, WorkflowClient
from workflow_engine.dispatch import HopMessage
from workflow_engine.engine import Engine

DEADLY_RUNS = 2


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lock_expiry": 0.5, "max_recoveries": DEADLY_RUNS - 1})


@pytest.fixture
def killed_while_serving(engine: Engine) -> Callable[[HopMessage], None]:
    """Serves a message in a process that a node kills, and waits until the lock it held has expired."""

    def serve(message: HopMessage) -> None:
        if (child := os.fork()) == 0:
            engine.executor.continue_execution(message)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert engine.locks.is_locked(message.execution_id)
        deadline = time.monotonic() + 5
        while engine.locks.is_locked(message.execution_id):
            assert time.monotonic() < deadline, "the lock of a dead process never expires"
            time.sleep(0.02)

    return serve


TEST_PROCESS = os.getpid()


def harmless() -> None:
    pass


def deadly() -> None:
    if os.getpid() != TEST_PROCESS:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_node_that_killed_its_process_runs_again_and_the_loss_is_counted(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
    sql: Callable[..., Any],
) -> None:
    client.deploy(line(harmless, deadly))
    execution = client.start("line").id
    workers.hop()
    killed_while_serving(broker.messages[0])

    workers.drain()

    assert sql("SELECT losses, losses_seq FROM executions") == [(1, 2)]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_node_that_keeps_killing_its_process_fails(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
    redis_client: redis.Redis,
) -> None:
    client.deploy(line(harmless, deadly))
    execution = client.start("line").id
    workers.hop()
    for _ in range(DEADLY_RUNS):
        killed_while_serving(broker.messages[0])

    workers.drain()

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error_details == {"nodeId": "deadly", "type": "WORKER_LOST"}
    assert re.fullmatch(
        r"the worker process that ran this node was lost 2 times, the last on \S+:\d+, which began to run it "
        r"at \S+; look for a crash or the kernel's out-of-memory killer in the worker's log",
        failed.error or "",
    )
    assert list(redis_client.scan_iter()) == []


def test_losses_of_one_node_are_not_held_against_the_next(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
) -> None:
    def also_deadly() -> None:
        deadly()

    client.deploy(line(deadly, also_deadly))
    execution = client.start("line").id
    killed_while_serving(broker.messages[0])
    workers.hop()
    killed_while_serving(broker.messages[0])
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED

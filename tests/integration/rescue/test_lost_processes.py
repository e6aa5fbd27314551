"""A process killed in the middle of a node leaves its mark, and the next worker to enter counts it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.polling import poll
from support.redis_keys import keys_in
from support.workflows import calling, line
from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    Settings,
    Workflow,
    WorkflowBuilder,
    WorkflowClient,
    waiting,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseUnavailable, Requeue
from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.execution.records import CommitResult, NodeCommit
from workflow_engine.redis.keys import Keys

DEADLY_RUNS = 2


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lock_expiry": 0.5, "max_recoveries": DEADLY_RUNS - 1})


@pytest.fixture
def killed_while_serving(engine: Engine) -> Callable[[HopMessage], None]:
    """Serve a message in a process that a node kills, and wait until its lock has expired."""

    def serve(message: HopMessage) -> None:
        if (child := os.fork()) == 0:
            engine.executor.continue_execution(message)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert engine.locks.is_locked(message.execution_id)
        poll(lambda: not engine.locks.is_locked(message.execution_id), "its lock expires")

    return serve


TEST_PROCESS = os.getpid()


def harmless() -> None:
    pass


def deadly() -> None:
    if os.getpid() != TEST_PROCESS:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_node_that_killed_its_process_runs_again_and_the_crash_is_counted(
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

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert sql("SELECT crashes FROM executions") == [(None,)]
    [loss] = client.control.audit(execution)
    assert (loss.type, loss.name, loss.seq) == ("LOST", "deadly", 2)
    assert "which started it at" in (loss.reason or "")


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
        r"the worker process that ran this node was lost 2 times, most recently on \S+:\d+, which started it "
        r"at \S+; look for a crash or the kernel's out-of-memory killer in the worker's log",
        failed.error or "",
    )
    assert keys_in(redis_client) == []


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


def deadly_once_woken(context: ExecutionContext) -> Any:
    if context.wake is None:
        return waiting(seconds=60)
    return deadly()


@pytest.fixture
def wake(time_passes: Callable[[float], None], wake_due: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """End every wait and the lease of every wake, and return the nodes that were woken."""

    def pass_by() -> list[str]:
        time_passes(86_400)
        return wake_due()

    return pass_by


def test_a_woken_node_that_keeps_killing_its_process_fails(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
    wake: Callable[[], list[str]],
) -> None:
    client.deploy(line(deadly_once_woken))
    execution = client.start("line").id
    workers.drain()
    for _ in range(DEADLY_RUNS):
        assert wake() == ["deadly_once_woken"]
        killed_while_serving(broker.take())

    wake()
    workers.drain()

    failed = client.get(execution)
    assert (failed.status, failed.error_details) == (
        ExecutionStatus.FAILED,
        {"nodeId": "deadly_once_woken", "type": "WORKER_LOST"},
    )


def polls(context: ExecutionContext) -> Any:
    return waiting(seconds=1)


def test_what_other_branches_commit_in_between_gives_it_no_further_runs(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
    wake: Callable[[], list[str]],
) -> None:
    flow = WorkflowBuilder("two-branches")
    begin = flow.trigger("start")
    begin >> calling(flow, polls)
    begin >> calling(flow, deadly_once_woken)
    client.deploy(flow.build())
    execution = client.start("two-branches").id
    workers.drain()
    deaths = 0
    for _ in range(DEADLY_RUNS + 1):
        wake()
        for message in sorted(broker.messages, key=lambda message: message.node_id, reverse=True):
            broker.queue.popleft()
            if message.node_id == "polls":
                engine.executor.continue_execution(message)
            elif deaths < DEADLY_RUNS:
                killed_while_serving(message)
                deaths += 1
            else:
                engine.executor.continue_execution(message)

    failed = client.get(execution)
    assert failed.error_details == {"nodeId": "deadly_once_woken", "type": "WORKER_LOST"}


@pytest.mark.parametrize("hops", ["spread", "inline"])
def test_a_loss_is_kept_when_a_message_is_requeued(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
    monkeypatch: pytest.MonkeyPatch,
    hops: str,
) -> None:
    client.deploy(line(deadly, settings={"hops": hops}))
    execution = client.start("line").id
    for _ in range(DEADLY_RUNS):
        killed_while_serving(broker.messages[0])
    with monkeypatch.context() as patched:
        patched.setattr(engine.state, "update_execution", postgres_is_away)
        patched.setattr("workflow_engine.engine.steps.commits.retry_unavailable", lambda call, *_: call())
        with pytest.raises(Requeue):
            engine.executor.continue_execution(broker.messages[0])

    workers.drain()

    assert client.get(execution).error_details == {"nodeId": "deadly", "type": "WORKER_LOST"}


def postgres_is_away(*_: Any) -> Any:
    raise DatabaseUnavailable("Postgres is away")


class Abort(BaseException):
    """An error that neither a node nor the engine expects."""


@pytest.mark.parametrize("error", [KeyError("walk"), Abort("enough"), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("way", ["spread", "inline", "woken"])
def test_what_ends_a_hop_without_a_commit_is_counted_like_a_lost_process(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    wake: Callable[[], list[str]],
    error: BaseException,
    way: str,
) -> None:
    runs: list[str] = []

    def fine() -> None:
        pass

    def unlucky(context: ExecutionContext) -> Any:
        if way == "woken" and context.wake is None:
            return waiting(seconds=60)
        runs.append("unlucky")
        return None

    def commit(given: NodeCommit) -> CommitResult:
        if given.node_id == "unlucky" and given.output is not None:
            raise error
        return update(given)

    update = engine.state.update_execution
    monkeypatch.setattr(engine.state, "update_execution", commit)
    client.deploy(line(fine, unlucky, settings={"hops": "inline" if way == "inline" else "spread"}))
    execution = client.start("line").id

    for _ in range(20):
        wake()
        while broker.queue:
            with suppress(type(error)):
                engine.executor.continue_execution(broker.take())
        engine.executor.resume_execution(execution)

    failed = client.get(execution)
    assert failed.error_details == {"nodeId": "unlucky", "type": "WORKER_LOST"}
    assert f"lost {DEADLY_RUNS} times, most recently with {type(error).__name__}" in (failed.error or "")
    assert len(runs) == DEADLY_RUNS


def test_a_node_that_is_committed_begins_its_next_attempt_without_crashes(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
    sql: Callable[..., Any],
) -> None:
    def fails_or_kills(context: ExecutionContext) -> None:
        deadly()
        if context.attempt == 1:
            raise ValueError("the first attempt fails")

    client.deploy(line(fails_or_kills, retry={"maxAttempts": 2, "waitDuration": 0}))
    execution = client.start("line").id
    for _ in range(2):  # the attempts
        for _ in range(DEADLY_RUNS - 1):
            killed_while_serving(broker.messages[0])
        workers.hop()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert sql("SELECT crashes FROM executions") == [(None,)]


# -- among siblings ------------------------------------------------------------------------------------------


def branches(*functions: Callable[..., Any]) -> Workflow:
    """Return a workflow whose functions may all run at the same time."""
    flow = WorkflowBuilder("line", settings={"concurrency": len(functions)})
    start, merge = flow.trigger("start"), flow.merge("joined")
    for function in functions:
        start >> calling(flow, function) >> merge
    return flow.build()


def test_a_killed_process_costs_only_the_node_that_it_ran(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
) -> None:
    client.deploy(branches(deadly, harmless))
    execution = client.start("line").id
    killed = broker.take()
    killed_while_serving(killed)
    workers.hop()

    broker.queue.appendleft(Dispatch(killed, "workflow_engine", 0))
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert [row.node_id for row in client.journal(execution)] == ["start", "harmless", "deadly", "joined"]
    [loss] = client.control.audit(execution)
    assert (loss.type, loss.name) == ("LOST", "deadly")


def test_a_node_that_keeps_killing_its_process_fails_although_siblings_are_committed_meanwhile(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
) -> None:
    def other() -> None:
        pass

    client.deploy(branches(deadly, harmless, other))
    execution = client.start("line").id
    poison = broker.take()
    for _ in range(DEADLY_RUNS):
        killed_while_serving(poison)
        workers.hop()

    broker.queue.appendleft(Dispatch(poison, "workflow_engine", 0))
    workers.drain()

    failed = client.get(execution)
    assert failed.error_details == {"nodeId": "deadly", "type": "WORKER_LOST"}
    assert [row.node_id for row in client.journal(execution)] == ["start", "harmless", "other", "deadly"]


def test_a_node_whose_process_was_lost_is_sent_again_by_the_sibling_that_leaves_last(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    killed_while_serving: Callable[[HopMessage], None],
    redis_client: redis.Redis,
    settings: Settings,
) -> None:
    client.deploy(branches(deadly, harmless))
    execution = client.start("line").id
    killed_while_serving(broker.take())
    redis_client.zincrby(Keys.of(settings).in_hand(execution), -settings.stall_after * 1000, "deadly")

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert [entry.type for entry in client.control.audit(execution)] == ["LOST"]

"""A commit is accepted once, from the holder of the fence; operators may act while a node runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.nodes.line_of_three import WHOLE_JOURNAL, calls, first, journal, second
from support.refusals import refused_rows
from support.workflows import calling, line
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import CacheUnavailable, DatabaseUnavailable, Requeue
from workflow_engine.redis.keys import Keys

# -- commits -------------------------------------------------------------------------------------------


def test_of_two_workers_that_ran_the_same_node_the_first_commit_wins(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    redis_client: Any,
    settings: Any,
    log_lines: Callable[[], list[str]],
) -> None:
    def slow() -> str:
        calls.append("slow")
        run = len(calls)
        if run == 1:  # this worker freezes past its lock, and another one serves the message again
            redis_client.delete(Keys.of(settings).lock(execution))
            second_engine.executor.continue_execution(message)
        return f"run {run}"

    client.deploy(line(slow, second))
    execution = client.start("line").id
    message = broker.take()

    engine.executor.continue_execution(message)

    assert calls == ["slow", "slow"]
    (logged,) = log_lines()
    assert logged.startswith(f"The result of node slow of execution {execution} was refused")
    assert [published.node_id for published in broker.messages] == ["second", "second"]
    workers.drain()
    assert calls == ["slow", "slow", "second"]
    assert client.context(execution).node_outputs["slow"] == "run 2"
    assert [row.node_id for row in client.journal(execution)] == ["start", "slow", "second"]


def test_a_commit_whose_reply_was_lost_is_offered_again_and_accepted_once(
    client: WorkflowClient, engine: Engine, workers: Workers, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_execution = engine.state.update_execution
    answers = []

    def losing_the_first_answer(commit: Any) -> Any:
        answers.append(update_execution(commit))
        if len(answers) == 1:
            raise DatabaseUnavailable("the answer was lost")
        return answers[-1]

    monkeypatch.setattr(engine.state, "update_execution", losing_the_first_answer)
    workers.drain()

    assert [answer.accepted for answer in answers[:2]] == [True, True]
    assert answers[0].seq == answers[1].seq == 2
    assert journal(client, execution) == WHOLE_JOURNAL
    assert calls == ["first", "second", "third"]


@pytest.fixture
def refused_by_postgres(sql: Callable[..., Any]) -> Iterator[None]:
    """Make Postgres refuse the output of the node `first`."""
    with refused_rows(sql, """NEW.output_data IS NOT NULL AND NEW.node_id = 'first'"""):
        yield


@pytest.mark.usefixtures("refused_by_postgres")
def test_content_that_postgres_refuses_fails_the_node(client: WorkflowClient, workers: Workers) -> None:
    client.deploy(line(first, second))
    execution = client.start("line").id

    workers.drain()

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error == "data: Postgres refuses it: invalid byte sequence"
    assert calls == ["first"]


def test_postgres_away_requeues_the_message_and_frees_the_lock(
    client: WorkflowClient,
    new_engine: Callable[..., Engine],
    broker: Broker,
    workers: Workers,
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient = new_engine(commit_retry_timeout=0)
    message = broker.take()

    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("Postgres is away")

    for operation in ("load_snapshot", "update_execution"):
        with monkeypatch.context() as outage:
            outage.setattr(impatient.state, operation, away)
            with pytest.raises(Requeue, match="Postgres is away"):
                impatient.executor.continue_execution(message)
        assert not impatient.locks.is_locked(execution)

    broker.queue.clear()
    impatient.executor.continue_execution(message)
    workers.drain()
    assert journal(client, execution) == WHOLE_JOURNAL


def test_redis_away_requeues_the_message(
    new_engine: Callable[..., Engine], broker: Broker, execution: str
) -> None:
    cut_off = new_engine(redis_url="redis://127.0.0.1:1/0")

    with pytest.raises(Requeue, match="Redis is unavailable"):
        cut_off.executor.continue_execution(broker.messages[0])
    assert calls == []


def test_a_reply_of_redis_that_was_lost_on_entering_leaves_no_lock_behind(
    engine: Engine, broker: Broker, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = engine.cache.enter

    def losing_its_answer(*args: Any) -> Any:
        enter(*args)
        raise CacheUnavailable("the answer was lost")

    monkeypatch.setattr(engine.cache, "enter", losing_its_answer)
    with pytest.raises(Requeue):
        engine.executor.continue_execution(broker.messages[0])

    assert not engine.locks.is_locked(execution)


# -- operators -----------------------------------------------------------------------------------------


def test_an_execution_paused_while_a_node_runs_keeps_its_result_and_goes_no_further(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, redis_client: Any, settings: Any
) -> None:
    def pausing() -> str:
        engine.state.update_execution_status(execution, ExecutionStatus.PAUSED)
        return "done all the same"

    client.deploy(line(pausing, second))
    execution = client.start("line").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert client.context(execution).node_outputs["pausing"] == "done all the same"
    assert redis_client.exists(Keys.of(settings).context(execution)) == 0
    assert not engine.executor.resume_execution(execution)
    assert broker.messages == []

    engine.state.update_execution_status(execution, ExecutionStatus.RUNNING)
    assert engine.executor.resume_execution(execution)
    workers.drain()

    assert (client.get(execution).status, calls) == (ExecutionStatus.COMPLETED, ["second"])


def test_an_execution_paused_while_its_last_node_runs_is_completed(
    client: WorkflowClient, engine: Engine, workers: Workers
) -> None:
    def last() -> str:
        engine.state.update_execution_status(execution, ExecutionStatus.PAUSED)
        return "the end"

    client.deploy(line(last))
    execution = client.start("line").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_a_message_for_a_paused_execution_is_dropped(
    engine: Engine, broker: Broker, execution: str, log_lines: Callable[[], list[str]]
) -> None:
    engine.state.update_execution_status(execution, ExecutionStatus.PAUSED)

    engine.executor.continue_execution(broker.take())

    assert log_lines() == [
        f"Dropped the message for node first of execution {execution}: the execution is PAUSED."
    ]
    assert calls == []


def test_a_node_whose_execution_was_cancelled_is_refused(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    log_lines: Callable[[], list[str]],
) -> None:
    def cancelling() -> str:
        engine.state.update_execution_status(execution, ExecutionStatus.CANCELLED)
        return "too late"

    client.deploy(line(cancelling, second))
    execution = client.start("line").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.CANCELLED
    assert [row.node_id for row in client.journal(execution)] == ["start"]
    assert "was refused" in log_lines()[0]
    assert broker.messages == []


def test_the_priority_of_a_node_goes_before_that_of_the_execution_before_the_default(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers
) -> None:
    flow = WorkflowBuilder("priorities")
    urgent = calling(flow, first, priority=1, queue="fast")
    flow.trigger("start") >> urgent >> calling(flow, second)
    client.deploy(flow.build())
    execution = client.start("priorities", priority=7).id

    assert (broker.queue[0].priority, broker.queue[0].queue) == (1, "fast")
    workers.hop()
    assert (broker.queue[0].priority, broker.queue[0].queue) == (7, "workflow")
    broker.take()
    assert engine.executor.resume_execution(execution)
    assert broker.queue[0].priority == 0

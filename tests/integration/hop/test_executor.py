"""Messages are hints: lost, doubled, late or wrong ones do no harm. The journal says what has been done."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.nodes.line_of_three import WHOLE_JOURNAL, calls, first, journal, second, third
from support.redis_keys import keys_in
from support.workflows import line
from workflow_engine import ExecutionStatus, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.steps.admission import NOT_DUE
from workflow_engine.errors import LeftToOthers


def test_an_execution_walks_from_worker_to_worker_to_its_end(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    assert client.get(execution).status is ExecutionStatus.PENDING

    assert workers.drain() == 3

    finished = client.get(execution)
    assert (finished.status, finished.result) == (ExecutionStatus.COMPLETED, "from third")
    assert (finished.nodes_executed, finished.seq) == (3, 4)
    assert journal(client, execution) == WHOLE_JOURNAL


def test_a_message_names_the_node_and_the_journal_it_follows(broker: Broker, execution: str) -> None:
    (dispatch,) = broker.queue

    assert dataclasses.asdict(dispatch.message) == {
        "execution_id": execution,
        "workflow": "line",
        "version": 1,
        "node_id": "first",
        "seq": 1,
    }
    assert (dispatch.queue, dispatch.priority) == ("workflow", 3)


def test_messages_delivered_again_and_again_run_each_node_once(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, execution: str
) -> None:
    served = []
    while broker.queue:
        served.append(workers.hop())
        for message in served:
            engine.executor.continue_execution(message)

    assert calls == ["first", "second", "third"]
    assert journal(client, execution) == WHOLE_JOURNAL


def test_a_late_message_for_a_finished_node_is_dropped_in_one_line(
    engine: Engine, broker: Broker, workers: Workers, execution: str, log_lines: Callable[[], list[str]]
) -> None:
    late = workers.hop()
    (due,) = broker.messages
    log_lines()

    engine.executor.continue_execution(late)

    assert log_lines() == [f"Dropped the message for node first of execution {execution}: {NOT_DUE}."]
    assert broker.messages == [due]
    assert calls == ["first"]


def test_a_late_message_never_turns_away_the_message_for_the_node_that_is_due(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late, due = workers.hop(), broker.take()
    enter = engine.cache.enter

    def enter_while_the_other_worker_is_served(*args: Any) -> Any:
        entered = enter(*args)
        monkeypatch.undo()
        second_engine.executor.continue_execution(due)
        return entered

    monkeypatch.setattr(engine.cache, "enter", enter_while_the_other_worker_is_served)
    engine.executor.continue_execution(late)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert calls == ["first", "second", "third"]


def test_a_late_message_that_had_to_rebuild_the_context_publishes_what_it_may_have_turned_away(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late, due = workers.hop(), broker.take()
    engine.cache.remove_from_cache(execution)
    load_snapshot = engine.state.load_snapshot

    def load_while_the_other_worker_is_served(execution_id: str) -> Any:
        monkeypatch.undo()
        second_engine.executor.continue_execution(due)
        return load_snapshot(execution_id)

    monkeypatch.setattr(engine.state, "load_snapshot", load_while_the_other_worker_is_served)
    engine.executor.continue_execution(late)

    assert [message.node_id for message in broker.messages] == ["second"]
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert calls == ["first", "second", "third"]


def test_a_message_for_a_finished_execution_is_dropped_and_leaves_nothing_in_redis(
    engine: Engine, workers: Workers, execution: str, log_lines: Callable[[], list[str]], redis_client: Any
) -> None:
    late = workers.hop()
    workers.drain()
    log_lines()

    engine.executor.continue_execution(late)

    assert log_lines() == [
        f"Dropped the message for node first of execution {execution}: the execution is COMPLETED."
    ]
    assert keys_in(redis_client) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"execution_id": str(uuid.UUID(int=7))}, f"no execution has the id '{uuid.UUID(int=7)}'"),
        ({"execution_id": "no uuid"}, "no execution has the id 'no uuid'"),
        ({"node_id": "nobody"}, "the workflow has no such node"),
        ({"node_id": "third"}, NOT_DUE),
        ({"version": 9}, "version 9 of workflow 'line' is not deployed"),
        ({"workflow": "nothing"}, "version 1 of workflow 'nothing' is not deployed"),
        ({"version": 2}, "the execution runs version 1 of 'line'"),
        ({"workflow": "other"}, "the execution runs version 1 of 'line'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "not cached"])
def test_a_message_that_fits_nothing_is_dropped_in_one_line(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    log_lines: Callable[[], list[str]],
    change: dict[str, Any],
    reason: str,
    cached: bool,
) -> None:
    client.deploy(line(first, second, third, id="other"))
    client.deploy(line(first, second))
    workers.hop()
    message = broker.messages[0]
    if not cached:
        engine.cache.remove_from_cache(execution)
    log_lines()

    wrong = dataclasses.replace(message, **change)
    engine.executor.continue_execution(wrong)

    (logged,) = log_lines()
    assert logged.startswith(
        f"Dropped the message for node {wrong.node_id} of execution {wrong.execution_id}: {reason}"
    )
    assert calls == ["first"]
    assert not engine.locks.is_locked(execution)
    workers.drain()
    assert journal(client, execution) == WHOLE_JOURNAL


def test_a_message_is_dropped_while_another_worker_holds_the_lock(
    engine: Engine, second_engine: Engine, broker: Broker, execution: str, log_lines: Callable[[], list[str]]
) -> None:
    claim = second_engine.locks.acquire_lock(execution)
    assert claim is not None

    engine.executor.continue_execution(broker.messages[0])

    assert log_lines() == [
        f"Dropped the message for node first of execution {execution}: "
        "the execution is locked by another worker, which will resume it."
    ]
    assert calls == []
    assert second_engine.locks.release_lock(claim).was_ours


def test_a_message_delivered_again_before_the_lock_of_its_worker_is_free_is_left_to_recovery(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
) -> None:
    message = broker.take()
    left_behind = second_engine.locks.acquire_lock(execution, task_id="task-1")
    assert left_behind is not None

    with pytest.raises(LeftToOthers, match="an earlier delivery of this message"):
        engine.executor.continue_execution(message, task_id="task-1")
    second_engine.locks.release_lock(left_behind)
    engine.executor.continue_execution(message, task_id="task-1")

    assert calls == ["first"]


def test_a_start_whose_message_never_left_goes_on_when_it_is_resumed(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    log_lines: Callable[[], list[str]],
) -> None:
    client.deploy(line(first, second, third))
    broker.is_away = True
    execution = client.start("line").id
    broker.is_away = False
    assert log_lines() == [f"the broker is away; waiting to enqueue first of execution {execution}"]

    assert engine.executor.resume_execution(execution)
    workers.drain()

    assert journal(client, execution) == WHOLE_JOURNAL


def test_resuming_an_execution_that_is_moving_is_harmless(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, execution: str
) -> None:
    while engine.executor.resume_execution(execution):
        assert broker.queue[-1].priority == 0
        broker.queue.rotate(1)
        workers.hop()
    workers.drain()

    assert calls == ["first", "second", "third"]
    assert journal(client, execution) == WHOLE_JOURNAL
    assert not engine.executor.resume_execution(str(uuid.UUID(int=7)))

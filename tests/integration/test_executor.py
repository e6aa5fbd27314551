"""Messages are hints: lost, doubled, late or wrong ones do no harm. The journal says what has been done."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fleet_in_process import Broker, Workers, calling, line

from workflow_engine import ExecutionStatus, NodeStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine import Engine
from workflow_engine.errors import CacheUnavailable, DatabaseUnavailable, GivenBack, InvalidValue

calls: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    calls.clear()


def first() -> str:
    calls.append("first")
    return "from first"


def second() -> str:
    calls.append("second")
    return "from second"


def third() -> str:
    calls.append("third")
    return "from third"


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """The id of an execution of three nodes that count their calls, just started."""
    client.deploy(line(first, second, third))
    return client.start("line").id


def journal(client: WorkflowClient, execution: str) -> list[tuple[int, str, NodeStatus]]:
    return [(row.seq, row.node_id, row.status) for row in client.journal(execution)]


WHOLE_JOURNAL = [
    (1, "start", NodeStatus.COMPLETED),
    (2, "first", NodeStatus.COMPLETED),
    (3, "second", NodeStatus.COMPLETED),
    (4, "third", NodeStatus.COMPLETED),
]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the engine has logged since it was last asked."""
    caplog.set_level(logging.INFO, "workflow_engine")

    def lines() -> list[str]:
        found = [
            record.getMessage() for record in caplog.records if record.name.startswith("workflow_engine")
        ]
        caplog.clear()
        return found

    return lines


# -- messages ------------------------------------------------------------------------------------------


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
    engine: Engine, broker: Broker, workers: Workers, execution: str, said: Callable[[], list[str]]
) -> None:
    late = workers.hop()
    (due,) = broker.messages
    said()

    engine.executor.continue_execution(late)

    assert said() == [f"Dropped the message for node first of execution {execution}: the node is not due."]
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
        second_engine.executor.continue_execution(due)
        return load_snapshot(execution_id)

    monkeypatch.setattr(engine.state, "load_snapshot", load_while_the_other_worker_is_served)
    engine.executor.continue_execution(late)
    monkeypatch.undo()

    assert [message.node_id for message in broker.messages] == ["second"]
    workers.drain()
    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert calls == ["first", "second", "third"]


def test_a_message_for_a_finished_execution_is_dropped_and_leaves_nothing_in_redis(
    engine: Engine, workers: Workers, execution: str, said: Callable[[], list[str]], redis_client: Any
) -> None:
    late = workers.hop()
    workers.drain()
    said()

    engine.executor.continue_execution(late)

    assert said() == [
        f"Dropped the message for node first of execution {execution}: the execution is COMPLETED."
    ]
    assert list(redis_client.scan_iter()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"execution_id": str(uuid.UUID(int=7))}, f"no execution has the id '{uuid.UUID(int=7)}'"),
        ({"execution_id": "no uuid"}, "no execution has the id 'no uuid'"),
        ({"node_id": "nobody"}, "the workflow has no such node"),
        ({"node_id": "third"}, "the node is not due"),
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
    said: Callable[[], list[str]],
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
    said()

    wrong = dataclasses.replace(message, **change)
    engine.executor.continue_execution(wrong)

    (told,) = said()
    assert told.startswith(
        f"Dropped the message for node {wrong.node_id} of execution {wrong.execution_id}: {reason}"
    )
    assert calls == ["first"]
    assert not engine.locks.is_locked(execution)
    workers.drain()
    assert journal(client, execution) == WHOLE_JOURNAL


def test_a_message_is_dropped_while_another_worker_holds_the_lock(
    engine: Engine, second_engine: Engine, broker: Broker, execution: str, said: Callable[[], list[str]]
) -> None:
    claim = second_engine.locks.acquire_lock(execution)
    assert claim is not None

    engine.executor.continue_execution(broker.messages[0])

    assert said() == [
        f"Dropped the message for node first of execution {execution}: "
        "the execution is locked by another worker, which goes on with it."
    ]
    assert calls == []
    assert second_engine.locks.release_lock(claim)


def test_a_message_delivered_again_after_its_worker_vanished_comes_again_until_the_lock_is_free(
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

    with pytest.raises(GivenBack, match="an earlier delivery of this message"):
        engine.executor.continue_execution(message, task_id="task-1")
    second_engine.locks.release_lock(left_behind)
    engine.executor.continue_execution(message, task_id="task-1")

    assert calls == ["first"]


def test_a_start_whose_message_never_left_goes_on_when_it_is_resumed(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, said: Callable[[], list[str]]
) -> None:
    client.deploy(line(first, second, third))
    broker.is_away = True
    execution = client.start("line").id
    broker.is_away = False
    assert said() == [f"Execution {execution} stands still until it is resumed: the broker is away"]

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


# -- commits -------------------------------------------------------------------------------------------


def test_of_two_workers_that_ran_the_same_node_the_first_commit_wins(
    client: WorkflowClient,
    engine: Engine,
    second_engine: Engine,
    broker: Broker,
    workers: Workers,
    redis_client: Any,
    settings: Any,
    said: Callable[[], list[str]],
) -> None:
    def contested() -> str:
        calls.append("contested")
        if len(calls) == 1:  # this worker froze past its lock, and another one serves the message again
            redis_client.delete(settings.lock_key(execution))
            second_engine.executor.continue_execution(message)
        return f"run {len(calls)}"

    def slow() -> str:
        number = len(calls) + 1
        contested()
        return f"run {number}"

    client.deploy(line(slow, second))
    execution = client.start("line").id
    message = broker.take()

    engine.executor.continue_execution(message)

    assert calls == ["contested", "contested"]
    assert said() == [
        f"The result of node slow of execution {execution} was refused: the execution has moved on without it."
    ]
    assert [published.node_id for published in broker.messages] == ["second", "second"]
    workers.drain()
    assert calls == ["contested", "contested", "second"]
    assert client.context(execution).node_outputs["slow"] == "run 2"
    assert [row.node_id for row in client.journal(execution)] == ["start", "slow", "second"]


def test_a_commit_whose_answer_was_lost_is_offered_again_and_accepted_once(
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


def test_content_that_postgres_refuses_fails_the_node(
    client: WorkflowClient, workers: Workers, sql: Callable[..., Any]
) -> None:
    sql("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.output_data IS NOT NULL AND NEW.node_id = 'first' THEN
                RAISE EXCEPTION 'invalid byte sequence' USING ERRCODE = 'character_not_in_repertoire';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON node_executions FOR EACH ROW EXECUTE FUNCTION refuse()
    """)
    client.deploy(line(first, second))
    execution = client.start("line").id

    workers.drain()

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert failed.error == "data: Postgres refuses it: invalid byte sequence"
    assert calls == ["first"]


def test_postgres_away_gives_the_message_back_and_frees_the_lock(
    client: WorkflowClient,
    new_engine: Callable[..., Engine],
    broker: Broker,
    workers: Workers,
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient = new_engine(commit_patience=0)
    message = broker.take()

    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("Postgres is away")

    for operation in ("load_snapshot", "update_execution"):
        with monkeypatch.context() as outage:
            outage.setattr(impatient.state, operation, away)
            with pytest.raises(GivenBack, match="Postgres is away"):
                impatient.executor.continue_execution(message)
        assert not impatient.locks.is_locked(execution)

    broker.queue.clear()
    impatient.executor.continue_execution(message)
    workers.drain()
    assert journal(client, execution) == WHOLE_JOURNAL


def test_redis_away_gives_the_message_back(
    new_engine: Callable[..., Engine], broker: Broker, execution: str
) -> None:
    cut_off = new_engine(redis_url="redis://127.0.0.1:1/0")

    with pytest.raises(GivenBack, match="Redis does not do as told"):
        cut_off.executor.continue_execution(broker.messages[0])
    assert calls == []


def test_an_answer_of_redis_that_was_lost_on_entering_leaves_no_lock_behind(
    engine: Engine, broker: Broker, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = engine.cache.enter

    def losing_its_answer(*args: Any) -> Any:
        enter(*args)
        raise CacheUnavailable("the answer was lost")

    monkeypatch.setattr(engine.cache, "enter", losing_its_answer)
    with pytest.raises(GivenBack):
        engine.executor.continue_execution(broker.messages[0])

    assert not engine.locks.is_locked(execution)


def test_an_unexpected_refusal_of_the_start_stores_nothing(client: WorkflowClient, broker: Broker) -> None:
    client.deploy(line(first))

    with pytest.raises(InvalidValue):
        client.start("line", {"amount": float("nan")})

    assert client.count() == {}
    assert broker.messages == []


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
    assert redis_client.exists(settings.context_key(execution)) == 0
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
    engine: Engine, broker: Broker, execution: str, said: Callable[[], list[str]]
) -> None:
    engine.state.update_execution_status(execution, ExecutionStatus.PAUSED)

    engine.executor.continue_execution(broker.take())

    assert said() == [
        f"Dropped the message for node first of execution {execution}: the execution is PAUSED."
    ]
    assert calls == []


def test_a_node_whose_execution_was_cancelled_is_refused(
    client: WorkflowClient, engine: Engine, broker: Broker, workers: Workers, said: Callable[[], list[str]]
) -> None:
    def cancelling() -> str:
        engine.state.update_execution_status(execution, ExecutionStatus.CANCELLED)
        return "too late"

    client.deploy(line(cancelling, second))
    execution = client.start("line").id
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.CANCELLED
    assert [row.node_id for row in client.journal(execution)] == ["start"]
    assert "was refused" in said()[0]
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

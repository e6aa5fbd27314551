"""With `hops: inline` the worker that has run a node goes on with the next one, and promises the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.polling import poll
from support.redis_keys import keys_in
from support.workflows import calling, line
from workflow_engine import ExecutionContext, ExecutionStatus, WorkflowBuilder, WorkflowClient
from workflow_engine.engine import inline
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseUnavailable
from workflow_engine.redis.keys import Keys

TEST_PROCESS = os.getpid()
INLINE = {"hops": "inline"}

ran: list[str] = []
during: dict[str, Callable[[], object]] = {}
"""The actions, each while the node of its name runs."""


@pytest.fixture(autouse=True)
def _nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    ran.clear()
    during.clear()
    monkeypatch.setattr(inline, "TIME_SLICE", 60.0)  # a busy machine would let another worker go on


def _run(name: str) -> str:
    ran.append(name)
    during.get(name, lambda: None)()
    return f"from {name}"


def first() -> str:
    return _run("first")


def second() -> str:
    return _run("second")


def third() -> str:
    return _run("third")


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    """Return the id of an execution of three nodes in a row."""
    client.deploy(line(first, second, third, settings=INLINE))
    return client.start("line").id


def nodes(client: WorkflowClient, execution: str) -> list[str]:
    return [row.node_id for row in client.journal(execution)]


def test_one_message_leads_through_all_nodes_and_each_has_a_row_of_its_own(
    client: WorkflowClient, workers: Workers, execution: str, redis_client: Any
) -> None:
    assert workers.drain() == 1

    assert ran == ["first", "second", "third"]
    journal = client.journal(execution)
    assert [(row.seq, row.node_id) for row in journal] == [
        (1, "start"),
        (2, "first"),
        (3, "second"),
        (4, "third"),
    ]
    assert client.get(execution).result == "from third"
    assert keys_in(redis_client) == []


def test_after_its_slice_of_time_a_worker_lets_another_go_on(
    client: WorkflowClient, broker: Broker, workers: Workers, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "TIME_SLICE", 0)

    workers.hop()

    assert [message.node_id for message in broker.messages] == ["second"]
    assert workers.drain() == 2
    assert client.get(execution).status is ExecutionStatus.COMPLETED


@pytest.mark.parametrize("option", [{"timeout": 60}, {"queue": "slow"}, {"priority": 6}], ids=str)
def test_a_node_with_a_timeout_queue_or_priority_of_its_own_has_a_message_of_its_own(
    client: WorkflowClient, workers: Workers, option: dict[str, Any]
) -> None:
    flow = WorkflowBuilder("line", settings=INLINE)
    last = flow.trigger("start") >> calling(flow, first)
    last >> calling(flow, second, **option) >> calling(flow, third)
    client.deploy(flow.build())
    execution = client.start("line").id

    served = []
    while workers.broker.queue:
        served.append(workers.hop().node_id)

    # Behind a time limit the worker may walk on; behind another queue it is not the one to.
    assert served == ["first", "second"] + (["third"] if "timeout" not in option else [])
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_nodes_see_what_those_before_them_have_left(client: WorkflowClient, workers: Workers) -> None:
    def gathers(context: ExecutionContext, given: dict[str, Any]) -> dict[str, Any]:
        given["changed"] = True  # its own copy
        looked = context.node_outputs["makes"]
        return {"looked": looked, "path": context.metadata["executionPath"], "trigger": context.trigger_data}

    def makes() -> dict[str, Any]:
        return {"number": 1}

    flow = WorkflowBuilder("line", settings=INLINE)
    made = flow.trigger("start") >> calling(flow, makes)
    gathered = made >> calling(flow, gathers, arguments={"given": "{{ makes }}"})
    gathered >> flow.function("end", "{{ [makes, gathers.path, _trigger.id] }}")
    client.deploy(flow.build())
    execution = client.start("line", {"id": 7}).id

    assert workers.drain() == 1

    outputs = client.context(execution).node_outputs
    assert outputs["gathers"] == {
        "looked": {"number": 1},
        "path": ["start", "makes"],
        "trigger": {"id": 7},
    }
    assert client.get(execution).result == [{"number": 1}, ["start", "makes"], 7]


def test_a_pause_stops_the_walk_behind_the_running_node(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    during["second"] = lambda: client.control.pause(execution)

    workers.drain()
    assert (ran, client.get(execution).status) == (["first", "second"], ExecutionStatus.PAUSED)

    client.control.resume(execution)
    workers.drain()
    assert ran == ["first", "second", "third"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED


def test_the_result_of_a_node_whose_execution_was_cancelled_as_it_ran_is_refused(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    during["second"] = lambda: client.control.cancel(execution)

    workers.drain()

    assert ran == ["first", "second"]
    assert nodes(client, execution) == ["start", "first"]
    assert client.get(execution).status is ExecutionStatus.CANCELLED


def test_a_worker_that_has_lost_the_lock_begins_no_further_node(
    client: WorkflowClient, engine: Engine, workers: Workers, execution: str, redis_client: Any, settings: Any
) -> None:
    def lose_the_lock() -> None:
        redis_client.set(Keys.of(settings).lock(execution), b"somebody else", px=200)
        engine.locks.renew()

    during["second"] = lose_the_lock

    workers.hop()

    assert ran == ["first", "second"]
    assert nodes(client, execution) == ["start", "first", "second"]


def test_what_keeps_a_worker_from_the_next_node_costs_no_result_before_it(
    client: WorkflowClient,
    new_engine: Callable[..., Engine],
    broker: Broker,
    workers: Workers,
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient = new_engine(commit_retry_timeout=0)
    update_execution = impatient.state.update_execution

    def away_after_the_first(commit: Any) -> Any:
        if commit.node_id == "first":
            return update_execution(commit)
        raise DatabaseUnavailable("Postgres is away")

    monkeypatch.setattr(impatient.state, "update_execution", away_after_the_first)
    impatient.executor.continue_execution(broker.take())

    assert not impatient.locks.is_locked(execution)
    assert [message.node_id for message in broker.messages] == ["second"]
    workers.drain()
    assert ran == ["first", "second", "second", "third"]
    assert nodes(client, execution) == ["start", "first", "second", "third"]


def test_a_process_that_dies_on_its_walk_costs_the_node_it_ran_and_no_other(
    client: WorkflowClient,
    new_engine: Callable[..., Engine],
    broker: Broker,
    execution: str,
    sql: Callable[..., Any],
) -> None:
    worker = new_engine(lock_expiry=0.5)
    during["second"] = die_unless_in_the_test
    message = broker.take()
    if os.fork() == 0:
        worker.executor.continue_execution(message)
        os._exit(0)
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    wait_until_unlocked(worker, execution)

    # A second delivery of the message that began the walk must not lead into its first node again.
    worker.executor.continue_execution(message)
    worker.executor.resume_execution(execution)

    assert sql("SELECT crashes->'second'->'count' FROM executions") == [(1,)]
    Workers(broker, worker).drain()
    assert ran == ["second", "third"]
    assert nodes(client, execution) == ["start", "first", "second", "third"]


def test_a_node_that_keeps_killing_its_process_on_a_walk_fails(
    client: WorkflowClient, new_engine: Callable[..., Engine], broker: Broker, execution: str
) -> None:
    worker = new_engine(lock_expiry=0.5, max_recoveries=1)
    during["second"] = die_unless_in_the_test

    for _ in range(2):
        message = broker.take()
        if os.fork() == 0:
            worker.executor.continue_execution(message)
            os._exit(0)
        os.wait()
        wait_until_unlocked(worker, execution)
        worker.executor.resume_execution(execution)
    Workers(broker, worker).drain()

    assert client.get(execution).status is ExecutionStatus.FAILED
    assert [row.error_details for row in client.journal(execution)][-1] == {"type": "WORKER_LOST"}
    assert ran == []


def die_unless_in_the_test() -> None:
    if os.getpid() != TEST_PROCESS:
        os.kill(os.getpid(), signal.SIGKILL)


def wait_until_unlocked(engine: Engine, execution: str) -> None:
    poll(lambda: not engine.locks.is_locked(execution), "the lock of a dead process expires")

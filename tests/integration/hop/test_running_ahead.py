"""On an inline walk a brief pure node runs while the commit before it is awaited, and nothing else does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.polling import poll
from support.pool_process import held_up
from workflow_engine import ExecutionContext, ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient, node
from workflow_engine.engine import inline, overlap
from workflow_engine.engine.assembly import Engine
from workflow_engine.runner.interruption import NodeInterrupted

TEST_PROCESS = os.getpid()

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"

ran: list[str] = []
during: dict[str, Callable[[], object]] = {}
"""The actions, each while the node of its name runs for the first time."""


@node("test.has_an_effect")
def has_an_effect(context: ExecutionContext) -> str:
    return _run(context.current_node_id)


@node("test.only_computes", pure=True)
def only_computes(context: ExecutionContext) -> str:
    return _run(context.current_node_id)


@node("test.returns_what_postgres_refuses")
def returns_what_postgres_refuses(context: ExecutionContext) -> str:
    _run(context.current_node_id)
    return "bad"


def _run(node_id: str) -> str:
    ran.append(node_id)
    during.pop(node_id, lambda: None)()
    return f"from {node_id}"


@pytest.fixture(autouse=True)
def _nothing_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran.clear()
    during.clear()
    # A busy machine would let another worker go on, commit earlier, or take the nodes for long.
    monkeypatch.setattr(inline, "TIME_SLICE", 60.0)
    monkeypatch.setattr(inline, "LONGEST_UNCOMMITTED", 60.0)
    monkeypatch.setattr(overlap, "BRIEF", 1_000.0)


def deploy(client: WorkflowClient, function: str = "test.has_an_effect", **options: Any) -> None:
    """Deploy three nodes, of which the second is pure; the first calls the function."""
    flow = WorkflowBuilder("line", settings={"hops": "inline"})
    start = flow.trigger("start")
    first = start >> flow.python("acts", function, **options)
    first >> flow.python("computes", "test.only_computes") >> flow.python("follows", "test.has_an_effect")
    client.deploy(flow.build())


@pytest.fixture
def execution(client: WorkflowClient, workers: Workers) -> str:
    """Return the id of an execution whose nodes are known to be brief, just started."""
    deploy(client)
    make_known(client, workers, "line")
    return client.start("line").id


def make_known(client: WorkflowClient, workers: Workers, workflow: str) -> None:
    """Let each worker run the nodes of a workflow once."""
    for _ in range(2):
        client.start(workflow)
        workers.drain()
    ran.clear()


def rows_of(client: WorkflowClient, execution: str) -> list[str]:
    return [row.node_id for row in client.journal(execution)]


def is_completed(client: WorkflowClient, execution: str) -> bool:
    whole = ["start", "acts", "computes", "follows"]
    return client.get(execution).status is ExecutionStatus.COMPLETED and rows_of(client, execution) == whole


def test_a_brief_pure_node_runs_while_the_commit_before_it_is_awaited(
    client: WorkflowClient, workers: Workers, settings: Settings, execution: str
) -> None:
    seen: list[list[str]] = []

    def lets_it_go() -> None:
        seen.append(rows_of(client, execution))
        let_go()

    with held_up(settings, execution) as let_go:
        during["computes"] = lets_it_go
        workers.drain()

    assert seen == [["start"]]
    assert ran == ["acts", "computes", "follows"]
    assert is_completed(client, execution)


def test_a_node_that_is_not_pure_runs_after_the_commit_before_the_one_that_ran_ahead(
    client: WorkflowClient, workers: Workers, settings: Settings, execution: str
) -> None:
    seen: list[list[str]] = []
    during["follows"] = lambda: seen.append(rows_of(client, execution))
    with held_up(settings, execution) as let_go:
        letting_go = threading.Timer(0.2, let_go)
        during["computes"] = letting_go.start
        workers.drain()

    assert ran == ["acts", "computes", "follows"]
    assert seen == [["start", "acts"]]
    assert is_completed(client, execution)


def test_a_pure_node_of_unknown_duration_runs_after_the_commit_before_it(
    client: WorkflowClient, workers: Workers
) -> None:
    deploy(client)
    execution = client.start("line").id
    seen: list[list[str]] = []
    during["computes"] = lambda: seen.append(rows_of(client, execution))

    workers.drain()

    assert seen == [["start", "acts"]]


def test_a_pure_node_that_takes_long_runs_after_the_commit_before_it(
    client: WorkflowClient, workers: Workers, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "BRIEF", 0.0)
    seen: list[list[str]] = []
    during["computes"] = lambda: seen.append(rows_of(client, execution))

    workers.drain()

    assert seen == [["start", "acts"]]


@contextmanager
def overtaken(
    client: WorkflowClient, settings: Settings, execution: str, move: Callable[[str], object]
) -> Iterator[None]:
    """Let an operator's move come before a commit whose result is awaited while the pure node runs."""

    def are_waiting(number: int) -> bool:
        return len(client._engine.database.rows(WAITING)) == number

    def lets_both_go() -> None:
        poll(lambda: are_waiting(2), "the commit waits behind the move")
        let_go()

    with held_up(settings, execution) as let_go:
        moving = threading.Thread(target=move, args=(execution,))
        moving.start()
        poll(lambda: are_waiting(1), "the move waits")
        during["computes"] = lets_both_go
        yield
    moving.join()


def test_what_has_run_ahead_of_a_commit_that_is_refused_is_dropped(
    client: WorkflowClient, workers: Workers, settings: Settings, execution: str
) -> None:
    with overtaken(client, settings, execution, client.control.cancel):
        workers.drain()

    assert ran == ["acts", "computes"]
    assert rows_of(client, execution) == ["start"]
    assert client.get(execution).status is ExecutionStatus.CANCELLED


def test_what_has_run_ahead_of_a_commit_that_meets_a_pause_is_dropped_and_runs_again(
    client: WorkflowClient, workers: Workers, settings: Settings, execution: str
) -> None:
    with overtaken(client, settings, execution, client.control.pause):
        workers.drain()

    assert ran == ["acts", "computes"]
    assert rows_of(client, execution) == ["start", "acts"]
    assert client.get(execution).status is ExecutionStatus.PAUSED

    client.control.resume(execution)
    workers.drain()
    assert ran == ["acts", "computes", "computes", "follows"]
    assert is_completed(client, execution)


def test_no_node_runs_ahead_to_a_breakpoint(client: WorkflowClient, workers: Workers, execution: str) -> None:
    client.control.pause_before(execution, "computes")

    workers.drain()

    assert ran == ["acts"]
    assert client.get(execution).status is ExecutionStatus.PAUSED


def test_a_wake_that_a_commit_reports_is_followed_before_the_node_that_has_run_ahead(
    client: WorkflowClient, workers: Workers, settings: Settings
) -> None:
    flow = WorkflowBuilder("woken", settings={"hops": "inline"})
    start = flow.trigger("start")
    start >> flow.wait_events("waits", ["approved"]) >> flow.python("woken", "test.has_an_effect")
    acts = start >> flow.python("acts", "test.has_an_effect")
    acts >> flow.python("computes", "test.only_computes") >> flow.python("follows", "test.has_an_effect")
    client.deploy(flow.build())

    def run(meanwhile: Callable[[str], object]) -> str:
        started = client.start("woken").id
        during["acts"] = lambda: meanwhile(started)
        workers.hop()
        return started

    def send(execution: str) -> None:
        client.send_event(name="approved", execution_id=execution)

    for _ in range(2):
        send(run(lambda _execution: None))
        workers.drain()
    ran.clear()
    execution = run(send)

    assert ran == ["acts", "computes"]
    assert rows_of(client, execution)[-1] == "acts", "the slice has ended"
    workers.drain()
    assert sorted(ran) == ["acts", "computes", "computes", "follows", "woken"]
    assert client.get(execution).status is ExecutionStatus.COMPLETED
    rows = rows_of(client, execution)
    assert sorted(rows) == ["acts", "computes", "follows", "start", "waits", "waits", "woken"]


def test_a_pure_node_that_fails_ahead_of_a_commit_fails_behind_it(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    def fails() -> None:
        raise ValueError("no such rate")

    during["computes"] = fails
    workers.drain()

    assert ran == ["acts", "computes"], "it is not run again"
    assert [row.status.value for row in client.journal(execution)] == ["COMPLETED", "COMPLETED", "FAILED"]
    result = client.get(execution)
    assert (result.status, result.error) == (ExecutionStatus.FAILED, "no such rate")


@pytest.mark.usefixtures("refuses_bad_outputs")
def test_what_has_run_ahead_of_a_commit_that_comes_to_a_failure_is_dropped_and_runs_again(
    client: WorkflowClient, workers: Workers
) -> None:
    deploy(client, "test.returns_what_postgres_refuses", on_error="continue")
    make_known(client, workers, "line")
    execution = client.start("line").id

    workers.drain()

    assert ran == ["acts", "computes", "computes", "follows"]
    statuses = [(row.node_id, row.status.value) for row in client.journal(execution)[1:]]
    assert statuses == [("acts", "FAILED"), ("computes", "COMPLETED"), ("follows", "COMPLETED")]


def test_a_pure_node_that_is_interrupted_ahead_of_a_commit_runs_again_behind_it(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    def is_interrupted() -> None:
        raise NodeInterrupted

    during["computes"] = is_interrupted
    workers.drain()

    assert ran == ["acts", "computes", "computes", "follows"]
    assert is_completed(client, execution)


def test_a_process_that_ends_while_a_node_runs_ahead_has_made_the_commit_before_it(
    client: WorkflowClient, workers: Workers, execution: str
) -> None:
    def ends() -> None:
        raise SystemExit(signal.SIGTERM - 256)  # as a process of Celery's pool does on a signal

    during["computes"] = ends
    with pytest.raises(SystemExit):
        workers.drain()
    assert rows_of(client, execution) == ["start", "acts"]

    workers.broker.queue.clear()
    client._engine.executor.resume_execution(execution)
    workers.drain()
    assert is_completed(client, execution)
    assert ran == ["acts", "computes", "computes", "follows"]


def test_a_commit_that_a_node_has_run_ahead_of_is_offered_again_if_its_connection_is_lost(
    client: WorkflowClient, workers: Workers, settings: Settings, execution: str
) -> None:
    def loses_the_connection() -> None:
        rows = client._engine.database.rows
        waiting = poll(lambda: rows(WAITING), "the commit waits")
        rows("SELECT pg_terminate_backend(%(pid)s)", pid=waiting[0][0])
        let_go()

    with held_up(settings, execution) as let_go:
        during["computes"] = loses_the_connection
        workers.drain()

    assert ran == ["acts", "computes", "follows"]
    assert is_completed(client, execution)


def test_a_pure_node_that_keeps_killing_its_process_ahead_of_a_commit_is_the_one_that_fails(
    client: WorkflowClient, new_engine: Callable[..., Engine], broker: Broker
) -> None:
    deploy(client)
    worker = new_engine(lock_expiry=0.5, max_recoveries=1)
    client.start("line")
    Workers(broker, worker).drain()
    ran.clear()
    execution = client.start("line").id

    for _ in range(2):
        during["computes"] = die_unless_in_the_test
        crash(worker, broker, client, execution)
    during.clear()
    Workers(broker, worker).drain()

    assert ran == [], "each process ran its nodes for itself"
    *others, last = client.journal(execution)
    assert [(row.node_id, row.status.value) for row in others] == [
        ("start", "COMPLETED"),
        ("acts", "COMPLETED"),
    ]
    assert (last.node_id, last.error_details) == ("computes", {"type": "WORKER_LOST"})


def die_unless_in_the_test() -> None:
    if os.getpid() != TEST_PROCESS:
        os.kill(os.getpid(), signal.SIGKILL)


def crash(worker: Engine, broker: Broker, client: WorkflowClient, execution: str) -> None:
    """Serve the next message in a process that dies, and resume its execution."""
    message = broker.take()
    if os.fork() == 0:
        worker.executor.continue_execution(message)
        os._exit(0)
    os.wait()
    poll(lambda: rows_of(client, execution)[1:] == ["acts"], "the commit that was sent is made")
    poll(lambda: not worker.locks.is_locked(execution), "the lock of a dead process expires")
    worker.executor.resume_execution(execution)


def test_a_process_that_is_quiet_gives_back_the_connection_for_such_commits(
    client: WorkflowClient,
    new_engine: Callable[..., Engine],
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overlap, "QUIET", 0.1)
    deploy(client)
    worker = new_engine()
    seen: list[int] = []

    def connections() -> int:
        ((count,),) = client._engine.database.rows(CONNECTIONS)
        return int(count)

    for _ in range(2):
        client.start("line")
        during["computes"] = lambda: seen.append(connections())
        Workers(broker, worker).drain()

    poll(lambda: connections() < seen[-1], "it is closed")

"""Siblings that end at the same moment in one process are committed and left together, each as if alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import orjson
import psycopg2
import pytest

from support.broker import Broker, Workers
from support.polling import poll
from support.statements import Sent, recorded_statements
from workflow_engine import (
    ExecutionStatus,
    Settings,
    Workflow,
    WorkflowBuilder,
    WorkflowClient,
    node,
    success,
)
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import CacheUnavailable, DatabaseUnavailable

BRANCHES = 6
PLACES = 4


@node("test.ends_beside_others")
def branch() -> Any:
    return success("done", variables={"last": "set"})


def fan_out() -> Workflow:
    flow = WorkflowBuilder("fan", settings={"concurrency": PLACES})
    start, merge = flow.trigger("start"), flow.merge("joined")
    for number in range(BRANCHES):
        start >> flow.python(f"b{number}", "test.ends_beside_others") >> merge
    return flow.build()


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    """Return a worker of several threads."""
    return new_engine(database_pool_size=PLACES)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    return recorded_statements(monkeypatch)


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    client.deploy(fan_out())
    return client.start("fan").id


@pytest.fixture
def holding(settings: Settings, execution: str) -> Iterator[Any]:
    """Return a connection that holds the row of the execution, so that commits wait."""
    with closing(psycopg2.connect(settings.database_url.replace("+psycopg2", ""))) as connection:
        connection.cursor().execute("SELECT FROM executions WHERE id = %s FOR UPDATE", [execution])
        yield connection


EndTogether = Callable[..., list["Future[Any]"]]


@pytest.fixture
def end_together(engine: Engine, broker: Broker, execution: str, holding: Any) -> Iterator[EndTogether]:
    """Return a function that runs as many branches in threads, and lets them commit when all have ended."""
    with ThreadPoolExecutor(PLACES + 1) as threads:

        def run(number: int, meanwhile: Callable[[], object] = lambda: None) -> list[Future[Any]]:
            served = [
                threads.submit(engine.executor.continue_execution, broker.take()) for _ in range(number)
            ]
            waiting = engine.executor.joint_ends.waiting
            poll(lambda: waiting(execution) == number - 1, "one is on its way, the others wait for it")
            meanwhile()
            holding.commit()
            for each in served:
                each.exception(60)
            return served

        yield run


@pytest.fixture
def calls(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each call that leaves nodes adds their number."""
    numbers: list[int] = []
    leave = engine.cache.add_jointly

    def counted(parts: Sequence[Any], *given: Any, **named: Any) -> Any:
        numbers.append(len(parts))
        return leave(parts, *given, **named)

    monkeypatch.setattr(engine.cache, "add_jointly", counted)
    return numbers


def assert_all_were_committed_once(client: WorkflowClient, execution: str) -> None:
    found = client.get(execution)
    assert found.status is ExecutionStatus.COMPLETED
    assert found.result == {f"b{number}": "done" for number in range(BRANCHES)}
    rows = client.journal(execution)
    assert [row.seq for row in rows] == list(range(1, BRANCHES + 3))
    assert sorted(row.node_id for row in rows) == sorted(
        ["start", "joined", *(f"b{number}" for number in range(BRANCHES))]
    )
    assert client.context(execution).variables == {"last": "set"}


def test_one_statement_commits_them_and_one_call_leaves_them(
    client: WorkflowClient,
    execution: str,
    end_together: EndTogether,
    workers: Workers,
    statements: list[Sent],
    calls: list[int],
) -> None:
    end_together(PLACES)

    commits = [each.parameters["commit"] for each in statements if "commit" in each.parameters]
    documents = [orjson.loads(each) for each in commits]
    assert [len(each.get("before", ())) + 1 for each in documents] == [1, PLACES - 1]
    assert calls == [1, PLACES - 1]
    workers.drain()
    assert_all_were_committed_once(client, execution)


def test_the_nodes_that_their_places_go_to_are_sent_once(
    client: WorkflowClient, execution: str, broker: Broker, end_together: EndTogether, workers: Workers
) -> None:
    end_together(PLACES)

    assert sorted(each.message.node_id for each in broker.queue) == ["b4", "b5"]
    workers.drain()
    assert_all_were_committed_once(client, execution)


def test_all_places_and_marks_are_given_back(
    execution: str, engine: Engine, end_together: EndTogether
) -> None:
    end_together(PLACES)

    assert not engine.locks.is_locked(execution)
    assert all(engine.cache.abandoned_run(execution, f"b{number}") is None for number in range(PLACES))
    assert engine.cache.in_hand_since(execution).keys() == {"b4", "b5"}
    assert engine.cache.read_whole(execution, PLACES + 1) is not None


def test_a_commit_of_another_process_in_between_has_each_of_them_commit_by_itself(
    client: WorkflowClient,
    execution: str,
    second_engine: Engine,
    broker: Broker,
    end_together: EndTogether,
    workers: Workers,
    sql: Callable[..., Any],
    calls: list[int],
) -> None:
    elsewhere = ThreadPoolExecutor(1)

    def commit_elsewhere() -> None:
        elsewhere.submit(second_engine.executor.continue_execution, broker.take())
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        poll(lambda: sql(waiting)[0][0] >= 2, "its commit stands in line behind the first one")

    end_together(PLACES - 1, meanwhile=commit_elsewhere)
    elsewhere.shutdown()

    assert set(calls) == {1}
    workers.drain()
    assert_all_were_committed_once(client, execution)


def test_a_joint_commit_whose_reply_is_lost_is_found_when_it_is_repeated(
    client: WorkflowClient,
    execution: str,
    engine: Engine,
    end_together: EndTogether,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[int],
) -> None:
    update = engine.state.update_execution
    lost: list[Any] = []

    def losing(commit: Any) -> Any:
        result = update(commit)
        if commit.before and not lost:
            lost.append(result)
            raise DatabaseUnavailable("the reply is lost")
        return result

    monkeypatch.setattr(engine.state, "update_execution", losing)
    end_together(PLACES)

    assert len(lost) == 1
    assert calls == [1, PLACES - 1]
    workers.drain()
    assert_all_were_committed_once(client, execution)


def test_while_redis_is_away_the_call_that_leaves_them_is_repeated(
    client: WorkflowClient,
    execution: str,
    engine: Engine,
    end_together: EndTogether,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave = engine.cache.add_jointly
    failed: list[Any] = []

    def failing(parts: Sequence[Any], *given: Any, **named: Any) -> Any:
        result = leave(parts, *given, **named)
        if len(parts) > 1 and not failed:
            failed.append(result)
            raise CacheUnavailable("the reply is lost")
        return result

    monkeypatch.setattr(engine.cache, "add_jointly", failing)
    end_together(PLACES)

    assert len(failed) == 1
    assert not engine.locks.is_locked(execution)
    workers.drain()
    assert_all_were_committed_once(client, execution)


def test_after_an_error_on_leaving_them_together_each_leaves_by_itself(
    client: WorkflowClient,
    execution: str,
    engine: Engine,
    end_together: EndTogether,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave = engine.cache.add_jointly

    def failing(parts: Sequence[Any], *given: Any, **named: Any) -> Any:
        if len(parts) > 1:
            raise RuntimeError("a defect")
        return leave(parts, *given, **named)

    monkeypatch.setattr(engine.cache, "add_jointly", failing)
    served = end_together(PLACES)

    assert [each.exception() for each in served] == [None] * PLACES
    assert not engine.locks.is_locked(execution)
    workers.drain()
    assert_all_were_committed_once(client, execution)


def test_a_pause_meanwhile_holds_the_execution_with_all_their_results(
    client: WorkflowClient, execution: str, end_together: EndTogether, holding: Any, workers: Workers
) -> None:
    def pause() -> None:
        holding.cursor().execute("UPDATE executions SET status = 'PAUSED' WHERE id = %s", [execution])

    end_together(PLACES, meanwhile=pause)

    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert len(client.journal(execution)) == PLACES + 1
    client.control.resume(execution)
    workers.drain()
    assert_all_were_committed_once(client, execution)


def test_results_are_refused_together_once_the_execution_is_cancelled(
    client: WorkflowClient, execution: str, end_together: EndTogether, holding: Any, engine: Engine
) -> None:
    def cancel() -> None:
        holding.cursor().execute(
            "UPDATE executions SET status = 'CANCELLED', fence = gen_random_uuid(), completed_at = now()"
            " WHERE id = %s",
            [execution],
        )

    end_together(PLACES, meanwhile=cancel)

    assert [row.node_id for row in client.journal(execution)] == ["start"]
    assert not engine.locks.is_locked(execution)

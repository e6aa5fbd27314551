"""Siblings that end at the same moment in one process are committed by one statement, each as if alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from support.broker import Broker
from support.polling import poll
from support.refusals import refused_rows
from support.statements import Sent, recorded_statements
from support.workflows import calling
from workflow_engine import ExecutionStatus, Settings, Workflow, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine


def a() -> str:
    return "a"


def b() -> str:
    return "b"


def c() -> str:
    return "c"


def d() -> str:
    return "d"


def fan_out() -> Workflow:
    flow = WorkflowBuilder("fan", settings={"concurrency": 4})
    start, merge = flow.trigger("start"), flow.merge("joined")
    for branch in (a, b, c, d):
        start >> calling(flow, branch, onError="continue") >> merge
    return flow.build()


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    """Return a worker of several threads."""
    return new_engine(database_pool_size=4)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    return recorded_statements(monkeypatch)


@pytest.fixture
def end_together(
    client: WorkflowClient, engine: Engine, broker: Broker, settings: Settings
) -> Callable[[], str]:
    """Return a function that runs four branches in four threads, and lets them commit when all have ended."""

    def run() -> str:
        client.deploy(fan_out())
        execution = client.start("fan").id
        url = settings.database_url.replace("+psycopg2", "")
        with closing(psycopg2.connect(url)) as holding, ThreadPoolExecutor(4) as threads:
            holding.cursor().execute("SELECT FROM executions WHERE id = %s FOR UPDATE", [execution])
            served = [threads.submit(engine.executor.continue_execution, broker.take()) for _ in range(4)]
            waiting = engine.executor.joint_ends.waiting
            poll(lambda: waiting(execution) == 3, "one is on its way, three wait for it")
            holding.rollback()
            for each in served:
                each.result(60)
        engine.executor.continue_execution(broker.take())
        return execution

    return run


def test_they_share_a_statement_and_each_has_its_own_row(
    client: WorkflowClient, end_together: Callable[[], str], statements: list[Sent]
) -> None:
    execution = end_together()

    assert client.get(execution).result == {"a": "a", "b": "b", "c": "c", "d": "d"}
    commits = [each for each in statements if "commit_node" in each.statement]
    assert len(commits) == 3, "the first, the other three, and the merge"
    rows = client.journal(execution)
    assert [row.seq for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {row.node_id for row in rows[1:5]} == {"a", "b", "c", "d"}
    assert {row.status for row in rows} == {"COMPLETED"}


@pytest.fixture
def refused_by_postgres(sql: Callable[..., Any]) -> Iterator[None]:
    """Make Postgres refuse the output of the node `b`."""
    with refused_rows(sql, """NEW.output_data = '"b"' AND NEW.node_id = 'b'"""):
        yield


@pytest.mark.usefixtures("refused_by_postgres")
def test_content_that_postgres_refuses_fails_its_own_node_and_no_sibling(
    client: WorkflowClient, end_together: Callable[[], str]
) -> None:
    execution = end_together()

    found = client.get(execution)
    assert found.status is ExecutionStatus.COMPLETED
    assert {name: found.result[name] for name in ("a", "c", "d")} == {"a": "a", "c": "c", "d": "d"}
    assert found.result["b"]["error"]["message"] == "data: Postgres refuses it: invalid byte sequence"
